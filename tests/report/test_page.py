"""The page of a run and of a mapping: complete, readable without eyes, closed to the network."""

import dataclasses
import json
import re

import pytest
import torch

import analogtorch as at
from analogtorch.evaluate.losses import Loss
from analogtorch.report import Result, html, markdown
from analogtorch.report.page.as_markdown import render
from analogtorch.report.page.curves import Curve, Level, curves
from analogtorch.report.page.floor import where
from analogtorch.report.page.parts import Code, Document, Section
from tests.report import made_up
from tests.report.made_up import HOSTILE
from tests.report.reading import Element, facts, read, rows


@pytest.fixture(scope="module")
def result() -> Result:
    return made_up.result()


@pytest.fixture(scope="module")
def page(result: Result) -> Element:
    return read(html(result))


@pytest.fixture(scope="module")
def report(result: Result) -> dict:
    return json.loads(json.dumps(result.to_dict()))


@pytest.fixture(scope="module", params=["run", "mapping", "bare"])
def any_page(request: pytest.FixtureRequest, result: Result) -> str:
    if request.param == "run":
        return html(result)
    if request.param == "mapping":
        return result.mapping.to_html(command=f"analogtorch map --model '{HOSTILE}'")
    bare = {"data": {"source": "folder"}, "versions": {}, "chip": "ideal", "tiles": 2, "seed": 0}
    one = at.Sweep(times=("1 h",), values=torch.tensor([[0.5]]), seeds=(1,))
    return html(Result(digital=0.5, direct=one, hwa=one, seconds=0.1, **bare))


def test_headings_are_in_order_and_ids_unique(any_page: str) -> None:
    page = read(any_page)
    levels = [int(e.tag[1]) for e in page.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    ids = [e["id"] for e in everything(page) if e["id"]]
    assert len(ids) == len(set(ids))
    links = [e["href"] for e in page.all("a")]
    assert links
    assert {link.removeprefix("#") for link in links} <= set(ids)
    for section in page.all("section"):
        assert section["aria-labelledby"] in ids


def test_a_screen_reader_finds_its_way(any_page: str) -> None:
    page = read(any_page)
    assert page.all("html")[0]["lang"] == "en"
    assert [len(page.all(tag)) for tag in ("main", "nav", "header")] == [1, 1, 1]
    assert page.all("head")[0].all("title")[0].text == page.all("h1")[0].text
    drawings = page.all("svg")
    assert drawings or "Floorplan" not in any_page
    for drawing in drawings:
        assert (drawing["role"], bool(drawing["aria-label"])) == ("img", True)
    for picture in page.all("img", "audio"):
        assert picture["alt"] or picture["aria-label"]
    for table in page.all("table"):
        assert table.all("caption")[0].text
        assert {e["scope"] for e in table.all("th")} <= {"row", "col"}
        widths = {len(row.all("th", "td")) for row in table.all("tr")}
        assert len(widths) == 1
    for box in (e for e in everything(page) if e["class"] in ("scroll", "legend")):
        assert (box["tabindex"], bool(box["aria-label"])) == ("0", True)


def test_nothing_is_requested_and_nothing_runs(any_page: str) -> None:
    page = read(any_page)
    policy = next(e for e in page.all("meta") if e["http-equiv"] == "Content-Security-Policy")
    assert "default-src 'none'" in policy["content"]
    assert "script-src" not in policy["content"]
    for element in everything(page):
        assert element.tag not in ("script", "iframe", "object", "embed", "form", "base")
        assert not [name for name in element.attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert element[name] == "" or element[name].startswith(("data:", "#"))
    assert "url(" not in any_page
    assert "@import" not in any_page
    width = next(e for e in page.all("meta") if e["name"] == "viewport")
    assert width["content"].startswith("width=device-width")


def test_names_cannot_break_out_of_the_page(page: Element, result: Result) -> None:
    assert HOSTILE in facts(page).values() or HOSTILE in page.text
    shown = " ".join(page.text.split())
    # as class, clip, layer, caveat, command, folder and training
    for text in (
        f"A note on {HOSTILE}", f"clips/{HOSTILE}.wav", f"without {HOSTILE}", f"--out '{HOSTILE}'",
        f"{HOSTILE}: tile 0",
    ):  # fmt: skip
        assert text in shown
    assert HOSTILE in rows(page, "by the digital net")
    text = markdown(result).split("```")[0]
    assert "<script" not in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) > 8
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_a_fence_cannot_be_closed_from_inside() -> None:
    code = Code(caption="c", text="```\n# heading")
    document = Document(title="t", about="a", keys=(), sections=(Section("s", (code,)),))
    assert render(document).rstrip().endswith("````text\n```\n# heading\n````")


def test_key_figures_are_those_of_the_json(page: Element, report: dict) -> None:
    keys = facts(page)
    assert keys["Digital accuracy"] == f"{100 * report['digital']['accuracy']:.2f} %"
    for time in ("1 day", "1 year"):
        assert keys[f"On chip after {time}"] == f"{100 * report['hwa'][time]['mean']:.2f} %"
        assert keys[f"Iso-accurate after {time}"].startswith(report["iso"][time]["answer"])
    cost = report["cost"]
    assert number(keys["Energy per inference"]) == near(cost["energy"]["system"])
    assert number(keys["Latency"]) == near(cost["latency"])
    listening = report["listening"]
    assert listening["joules_per_year"] == near(cost["energy"]["system"] * 4 * 365 * 86_400)
    assert number(keys["A year of listening"]) == near(listening["joules_per_year"] / 3600)
    used = report["mapping"]["tiles"]
    assert keys["Tiles"] == f"{used} of 64"
    assert cost["bottleneck"] in keys["bottleneck"]


def test_tables_are_those_of_the_json(page: Element, report: dict) -> None:
    accuracy = rows(page, "Accuracy in percent, mean")
    for time, cells in accuracy.items():
        for key, cell in zip(("direct", "hwa"), cells, strict=False):
            row = report[key][time]
            assert cell == f"{100 * row['mean']:.2f} ± {100 * row['std']:.2f}"
    for caption, key in (("by the digital net", "digital"), ("on 2 chips after 1 day", "chips")):
        counts = report["confusion"][key]
        for cells, row in zip(rows(page, caption).values(), counts, strict=True):
            shares = [100 * n / sum(row) for n in row]
            assert cells == ["" if s == 0 else "<1" if s < 0.5 else f"{s:.0f}" for s in shares]
    assert sum(map(sum, report["confusion"]["chips"])) == 2 * 60
    layers = rows(page, "with one layer on the chip")
    for row in report["sensitivity"]["layers"]:
        drift = row["loss"]["drift"]
        assert layers[row["name"]][-1] == f"{100 * drift['mean']:.2f} ± {100 * drift['std']:.2f}"
    causes = rows(page, "that each non-ideality costs alone")
    for row in report["budget"]["rows"]:
        assert causes[row["name"]][1].startswith(f"{100 * row['alone']['mean']:.2f}")
    mapping = report["mapping"]
    for row in mapping["matrices"]:
        shown = rows(page, "Matrices on the chip")[row["matrix"]]
        assert shown[0] == f"{row['rows']} x {row['cols']}"
        assert shown[1:5] == [str(row[k]) for k in ("groups", "copies", "blocks", "tiles")]
        assert shown[5:] == [f"{row['utilisation']:.0%}", f"{row['vectors']:,}"]
    digital = rows(page, "Digital operations of one inference")
    for row in mapping["digital operations"]:
        assert digital[row["name"]] == [
            row["kind"],
            f"{row['numbers']:,}",
            f"{row['operations']:,}",
        ]
    kept = rows(page, "Weights that stay digital")
    assert {n: [f"{w:,}"] for n, w in mapping["digital weights"].items()} == kept
    assert min(map(len, (mapping["matrices"], digital, kept))) > 0
    consumers = rows(page, "Where the energy")
    total = sum(v for k, v in report["cost"]["energy"].items() if k != "system")
    assert total == near(report["cost"]["energy"]["system"])
    for name, (_, share) in consumers.items():
        energy = report["cost"]["energy"][name.replace(" ", "_")]
        assert share == f"{100 * energy / total:.1f} %"
    levels = rows(page, "Accuracy on validation clips after training with each level")
    assert list(levels) == ["1", "1.5, chosen"]
    assert report["levels"]["chosen"] == 1.5
    for cells, found in zip(
        levels.values(), report["levels"]["validation accuracy"].values(), strict=True
    ):
        assert cells[0].startswith(f"{100 * next(iter(found.values()))['mean']:.2f} ±")
    ((name, cells),) = rows(page, "with the ranges that a net has learnt").items()
    found = report["ranges"][name]
    assert cells == ["92.17", "89.17", "1.00", found["kept"]]
    assert found["kept"] == "learnt"
    assert list(found["validation accuracy"]) == ["learnt", "new"]
    ((name, cells),) = rows(page, "Other trainings").items()
    assert "or the same net on chips made otherwise" in page.text
    found = report["ablation"][name]
    for time, cell in zip(found["accuracy"], cells[:3], strict=True):
        assert cell.startswith(f"{100 * found['accuracy'][time]['mean']:.2f} ±")
    for time, cell in zip(("1 day", "1 year"), cells[3:], strict=True):
        assert cell == f"{-100 * found['minus hwa'][time]['mean']:.2f}"  # of both chips


@pytest.mark.parametrize(
    ("reference", "loss", "far", "cause"),
    [
        (0.56, -0.3, 2, 2),
        (0.56, 0.1, 2, 0),  # trained worse
        (0.99, -0.001, 2, 0),  # trained better
        (0.915, -0.001, 0, 0),
        (0.9099999, -0.001, 0, 0),  # printed as 91.00
    ],
)
def test_what_losses_of_layers_and_causes_are_against_is_said(
    reference: float, loss: float, far: int, cause: int, result: Result
) -> None:
    layers, causes = result.sensitivity, result.budget
    assert layers is not None
    assert causes is not None
    total = layers.total | {layers.effects[-1]: Loss(mean=loss, std=0.0)}
    found = dataclasses.replace(
        result,
        sensitivity=dataclasses.replace(layers, reference=reference, total=total),
        budget=dataclasses.replace(
            causes, reference=reference, total=dataclasses.replace(causes.total, mean=loss)
        ),
    )
    for text in (read(html(found)).text, markdown(found)):
        said = f"against {100 * reference:.2f} %, what the net trained for the chip has with "
        assert text.count(said) == 2
        assert text.count("far from the 92.00 % of the digital net, which the key") == far
        assert text.count("key figures are against: the training took the converters") == cause


def test_markdown_has_the_figures_of_the_page(page: Element, result: Result) -> None:
    text = markdown(result, plot="accuracy.png")
    assert "](accuracy.png)" in text
    plain = text.replace("\\", "").replace("&lt;", "<")
    for cell in [c for t in page.all("table") for c in t.all("td")]:
        assert cell.text in plain
    for group in page.all("dl"):
        assert all(e.text in plain for e in group.all("dd"))


def test_the_page_says_what_was_not_measured(result: Result) -> None:
    part = dataclasses.replace(result, sensitivity=None, budget=None, heard=None, cost=None)
    page = read(html(part))
    listed = facts(page)
    assert "--report.sensitivity true" in listed["not measured"]
    assert "--report.budget true" in listed["not measured"]
    assert "Energy per inference" not in listed
    assert {"confusion", "cost", "sensitivity", "budget"}.isdisjoint(part.to_dict())
    assert "not measured" not in facts(read(html(result)))


def test_the_error_budget_says_how_its_chips_differ(result: Result) -> None:
    assert result.budget is not None
    budget = dataclasses.replace(
        result.budget, recovery="chips correct X", conditions=("1 % of the cells fail",)
    )
    page = html(dataclasses.replace(result, budget=budget))
    text = read(page).text
    assert "Before they are measured, chips correct X." in text
    assert "On the chips, 1 % of the cells fail." in text


def test_a_caveat_of_the_time_of_the_confusions_is_said_once(result: Result) -> None:
    heard = dataclasses.replace(result.heard, note="beyond the data", time="2 days")
    text = read(html(dataclasses.replace(result, heard=heard))).text
    assert "Heard on 2 chips after 2 days*, %" in text
    assert text.count("2 days is beyond the data") == 1
    swept = dataclasses.replace(result.hwa, notes=("", "beyond the data", ""))
    heard = dataclasses.replace(heard, time="1 day")
    text = read(html(dataclasses.replace(result, hwa=swept, heard=heard))).text
    assert text.count("beyond the data") == 1
    assert "Heard on 2 chips after 1 day*, %" in text


def test_a_clip_can_be_heard(page: Element) -> None:
    (audio,) = page.all("audio")
    assert audio["src"].startswith("data:audio/wav;base64,UklGR")  # RIFF
    assert "heard “" in audio["aria-label"]
    assert "right on 1; digital: right" in audio["aria-label"]


def test_clips_are_chosen_that_the_chip_spoils() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    found = made_up.Heard(
        classes=("a", "b", "c"),
        labels=labels,
        digital=torch.tensor([0, 0, 1, 1, 1, 2]),
        chips=torch.tensor([[0, 1, 1, 0, 1, 2], [1, 1, 1, 1, 1, 2]]),
        seeds=(1, 2),
        time="1 day",
    )
    # of each label one, the one that most chips mishear; then others; last what digital mishears
    assert found.chosen(9) == (1, 3, 0, 2)
    assert found.chosen(1) == (1,)
    assert found.confusion(found.digital).tolist() == [[2, 1, 0], [0, 2, 0], [0, 0, 1]]
    with pytest.raises(ValueError, match="Heard.chips must have shape"):
        made_up.Heard(
            classes=("a", "b"), labels=labels, digital=labels, chips=labels, seeds=(1,), time="0 s"
        )


def test_the_floorplan_draws_unused_tiles_with_its_legend_beside(page: Element) -> None:
    (drawing,) = [e for e in page.all("svg") if e["aria-label"].startswith("Floorplan")]
    paths = {e["class"]: e["d"] for e in drawing.all("path")}
    squares = [paths[kind].count("M") for kind in ("unused", "used")]
    assert sum(squares) == 64
    legend = next(e for e in everything(page) if e["class"] == "legend")
    assert legend.all("li")[-1].text == f"{squares[0]} unused tiles"


def test_the_legend_says_where_a_matrix_is_on_several_chips() -> None:
    small = at.chips.hermes64().replace(array={"tiles": 4})
    net = torch.nn.Sequential(torch.nn.Linear(256, 256 * 11), torch.nn.Linear(256 * 11, 3))
    mapping = at.map_to_chip(net, torch.zeros(1, 256), chip=small, num_chips=None)
    assert where(mapping, "0") == "chips 0–1 tiles 0–3; chip 2 tiles 0–2"
    assert where(mapping, "1") == "chip 2 tile 3"
    legend = next(e for e in everything(read(mapping.to_html())) if e["class"] == "legend")
    assert [e.text for e in legend.all("li")][1:] == [
        "1: chip 2 tile 3",
        "cells that no block takes",
    ]


@pytest.mark.parametrize("values", [[90.0, 70.0], [50.0, 50.0], [0.0, 100.0], [99.99, 99.98]])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("spread", [0.5, 0.0])
def test_curves_stay_inside_their_drawing(values: list[float], count: int, spread: float) -> None:
    times = [(1.0, "0 s"), (3.2e8, "10 years")][:count]
    shown = [Curve(name=n, means=values[:count], spreads=[spread, 0.0][:count]) for n in "ab"]
    levels = [Level(name="c", value=values[0]), Level(name="d", value=values[0])]
    drawn = read(curves(shown, levels, times, unit="%", alternative="x"))
    (box,) = drawn.all("svg")
    width, height = map(float, box["viewbox"].split()[2:])
    for e in drawn.all("circle", "line"):
        for name, most in (("cx", width), ("x1", width), ("cy", height), ("y1", height)):
            assert 0 <= float(e[name] or 0) <= most
    ticks = [t.text for t in drawn.all("text") if t.text.endswith(" %")]
    assert 2 <= len(ticks) <= 8
    assert len(ticks) == len(set(ticks))


def everything(page: Element) -> list[Element]:
    return [page, *(e for child in page.children for e in everything(child))]


def number(text: str) -> float:
    value, unit = re.fullmatch(r"([\d.,]+) (\S+)", text).groups()
    prefixes = {"k": 1e3, "m": 1e-3, "µ": 1e-6, "n": 1e-9, "p": 1e-12}
    scale = prefixes[unit[0]] if unit not in ("J", "s", "Wh") else 1.0
    return float(value.replace(",", "")) * scale


def near(value: float) -> object:
    return pytest.approx(value, rel=1e-3)
