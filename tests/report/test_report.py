"""JSON, Markdown, table and plot of a result, and files that are whole or absent."""

import csv
import dataclasses
import io
import json
import os
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.evaluate import Interval, Sweep
from analogtorch.files import write_atomically
from analogtorch.report import Heard, Result, markdown, table, write
from analogtorch.report.page.run import html

TIMES = ("0 s", "1 day", "1 year")


def sweep(mean: float) -> Sweep:
    values = torch.tensor(
        [[mean, mean - 0.01, mean - 0.02], [mean + 0.02, mean, mean - 0.04]], dtype=torch.float64
    )
    return Sweep(times=TIMES, values=values, seeds=(1, 2))


@pytest.fixture
def result() -> Result:
    return Result(
        digital=0.92, direct=sweep(0.85), hwa=sweep(0.91), chip="hermes64", tiles=17, seed=3,
        seconds=61.23, data={"source": "synthetic", "train": 10, "val": 2, "test": 300},
        versions={"torch": "2.14"}, notes=("This speech was synthesised.",),
    )  # fmt: skip


def test_rounding_below_zero_is_shown_as_zero(result: Result) -> None:
    direct = sweep(0.85)
    hwa = dataclasses.replace(direct, values=direct.values - 2e-16)
    level = dataclasses.replace(result, direct=direct, hwa=hwa)
    for shown in (table(level), markdown(level), str(hwa.minus(direct))):
        assert not re.search(r"-0\.0+\b", shown)


def test_metrics_that_round_to_zero_from_below_are_shown_as_zero() -> None:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    model = at.convert(nn.Linear(4, 3), at.chips.get("hermes64"))
    at.calibrate(model, [x])

    def metric(view: nn.Module) -> float:
        return -1e-17

    compared = at.compare(
        nn.Linear(4, 3), {"a": at.chips.get("ideal")}, metric, example=x[:1], times=["0 s"],
        num_chips=2, prepare=lambda view: None,
    )  # fmt: skip
    below = Interval(mean=-1e-17, low=-3e-17, high=1e-17)
    for shown in (
        str(compared),
        str(at.sensitivity(model, metric, num_chips=1)),
        str(at.budget(model, metric, num_chips=2, names=["drift"])),
        below.shown(2),
        str(Interval(mean=-0.0, low=-0.0, high=1.0)),
    ):
        assert not re.search(r"-0(\.0+)?(?![\d.])", shown), shown


def test_csv_has_every_chip_of_every_net(result: Result, tmp_path: Path) -> None:
    extra = dataclasses.replace(result, ablation={"no, clipping": result.direct})
    lines = list(csv.reader(io.StringIO(extra.to_csv(tmp_path / "accuracy.csv"))))
    metric = result.hwa.metric
    assert lines[0] == ["net", "chip", "seed", "time", "seconds", metric, "note"]
    nets = {"direct": result.direct, "hwa": result.hwa, "no, clipping": result.direct}
    of_each = [net for net, found in nets.items() for _ in found.values.flatten()]
    assert [line[0] for line in lines[1:]] == of_each
    values = [x for found in nets.values() for x in found.values.flatten().tolist()]
    assert [float(line[5]) for line in lines[1:]] == values
    same = dataclasses.replace(result, ablation={"hwa": result.direct})  # no run names one so
    assert len(same.to_csv().splitlines()) == len(lines)
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(extra.to_parquet(tmp_path / "accuracy.parquet")).to_pydict()
    assert (table["net"], table[metric]) == (of_each, values)


def test_json_has_exactly_the_agreed_content(result: Result, tmp_path: Path) -> None:
    paths = write(result, tmp_path / "new")
    assert sorted(p.name for p in paths) == sorted(os.listdir(tmp_path / "new"))
    assert sorted(p.name for p in paths) == [
        "accuracy.csv",
        "accuracy.png",
        "report.html",
        "report.json",
        "report.md",
    ]
    report = json.loads((tmp_path / "new/report.json").read_text())
    assert list(report) == [
        "digital",
        "direct",
        "hwa",
        "hwa minus direct",
        "iso",
        "chip",
        "tiles",
        "data",
        "seed",
        "seconds",
        "continued",
        "versions",
        "notes",
    ]
    assert report["digital"] == {"accuracy": 0.92}
    assert list(report["hwa"]) == list(TIMES)
    row = report["hwa"]["1 day"]
    assert (row["mean"], row["std"], row["worst"]) == pytest.approx((0.905, 0.00707, 0.9), abs=1e-5)
    assert (row["num_chips"], row["values"]) == (2, pytest.approx([0.9, 0.91]))
    assert report["hwa minus direct"]["1 year"]["mean"] == pytest.approx(0.06)
    assert report["iso"]["limit"] == pytest.approx(0.9108)
    assert report["iso"]["0 s"]["answer"] == "not settled"  # two chips say little
    assert (report["tiles"], report["seed"], report["seconds"]) == (17, 3, 61.2)


def test_one_chip_has_no_spread(result: Result, tmp_path: Path) -> None:
    alone = {
        name: dataclasses.replace(s, values=s.values[:1], seeds=s.seeds[:1])
        for name, s in (("direct", result.direct), ("hwa", result.hwa))
    }
    one = dataclasses.replace(result, **alone, levels={1.0: alone["hwa"]}, ablation=alone)
    write(one, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert report["hwa"]["1 day"]["std"] is None
    for text in (table(one), html(one), (tmp_path / "report.md").read_text()):
        assert "±" not in text
        assert "nan" not in text
        assert "one chip" in text


def test_markdown_shows_notes_table_plot_and_versions(result: Result) -> None:
    text = markdown(result, plot="accuracy.png")
    assert text.index("**This speech was synthesised.**") < text.index("| accuracy")
    day, start = (next(row for row in text.splitlines() if t in row) for t in ("| 1 day", "| 0 s"))
    # mapped, hardware-aware, worst chip, loss and gain by Student's t with 1 degree of freedom
    assert day == (
        "| 1 day | 84.50 ± 0.71 | 90.50 ± 0.71 | 90.00 | 1.50 [-4.85, 7.85] | 6.00 | "
        "not settled (22.6 % yes) |"
    )
    assert start.endswith("| 6.00 | not settled (73.6 % yes) |")  # of both chips
    assert "](accuracy.png)" in text
    assert "torch 2.14" in text


def test_chips_that_agree_have_no_interval_in_any_table(result: Result) -> None:
    same = Sweep(times=TIMES, values=torch.full((3, 3), 0.7), seeds=(1, 2, 3))
    alike = dataclasses.replace(result, direct=same, hwa=same, ablation={"other": same})
    for text in (table(alike), markdown(alike), str(same), same._repr_html_()):
        assert "70.00" in text or "0.700" in text
        assert not re.search(r"\[-?\d+\.|\d to ", text), text


def test_verdicts_say_what_their_confidence_rests_on(result: Result) -> None:
    values = torch.full((5, 3), 54 / 58, dtype=torch.float64)
    same = Sweep(times=TIMES, values=values, seeds=(1, 2, 3, 4, 5))
    alike = dataclasses.replace(result, digital=54 / 58, direct=same, hwa=same)
    known = dataclasses.replace(alike, data={"source": "folder", "test": 58})
    unknown = dataclasses.replace(alike, data={"source": "folder"})
    least = "confidence by Student's t, of a spread of at least one of 58 test clips"
    for text in (table(known), markdown(known)):
        assert least in text
        assert "not settled (85.3 % yes)" in text
        assert " yes (" not in text
    for text in (table(unknown), markdown(unknown)):
        assert "confidence by Student's t" in text
        assert "test clip" not in text
        assert "not settled (all chips alike)" in text
    assert unknown.to_dict()["iso"]["1 day"] == {
        "answer": "not settled",
        "confidence": None,
        "alike": True,
    }


@pytest.mark.parametrize(
    ("config", "tried"),
    [
        (
            {},
            "a smaller hwa.learning_rate, other numbers of hwa.epochs or another "
            "chip.training.scale",
        ),
        (
            {"chip": {"correct": True, "levels": [1.0, 2.0]}},
            "a smaller hwa.learning_rate, other numbers of hwa.epochs, other chip.levels or "
            "chip.correct: false",
        ),
        (
            {"hwa": {"epochs": 1}, "chip": {"training": {"weight": "none"}}},
            "a smaller hwa.learning_rate or other numbers of hwa.epochs",
        ),
    ],
)
def test_training_that_cost_accuracy_is_said_with_what_to_try(
    result: Result, config: dict, tried: str
) -> None:
    spread = torch.tensor([[0.001], [-0.001]])
    trained = dataclasses.replace(result.direct, values=result.direct.values + spread)
    worse = dataclasses.replace(result, direct=result.hwa, hwa=trained, config=config)
    said = (
        "Hardware-aware training cost accuracy here at 3 of 3 times: against the net mapped "
        f"directly, chips lose up to 6.00 points (at 0 s). Worth a try: {tried}."
    )
    assert table(worse).splitlines()[-1] == f"Note: {said}"
    assert said in markdown(worse).replace("\\", "")
    assert said in html(worse)
    assert worse.to_dict()["notes"] == ["This speech was synthesised.", said]
    spread = torch.tensor([[0.0], [-0.1]])  # the interval of the gain has 0 in it
    unsettled = dataclasses.replace(
        result, direct=result.hwa, hwa=Sweep(times=TIMES, values=result.hwa.values + spread,
        seeds=(1, 2)),
    )  # fmt: skip
    hair = torch.tensor([[3e-5], [3.1e-5]])  # a loss that the digits do not show
    losing = dataclasses.replace(
        result, hwa=Sweep(times=TIMES, values=result.direct.values - hair, seeds=(1, 2))
    )
    for other in (result, unsettled, losing):
        assert "cost accuracy here" not in table(other)


def test_a_large_loss_by_training_that_few_chips_leave_open_is_noted(result: Result) -> None:
    def losing(*losses: float) -> tuple[str, ...]:
        values = result.hwa.values[:1] - torch.tensor([losses]).T
        seeds = tuple(range(len(losses)))
        direct = Sweep(times=TIMES, values=result.hwa.values[:1].expand_as(values), seeds=seeds)
        hwa = Sweep(times=TIMES, values=values, seeds=seeds)
        return dataclasses.replace(result, direct=direct, hwa=hwa).caveats[1:]

    (note,) = losing(0.0, 0.1)
    assert note == (
        "Whether hardware-aware training cost accuracy is not settled at 3 of 3 times: against the "
        "net mapped directly, chips lose up to 5.00 points (at 0 s) on average. More chips "
        "(sweep.num_chips) would settle it."
    )
    assert losing(0.05) == (note,)  # one chip
    assert not losing(0.0, 0.01)  # too little to ask for more chips
    (alike,) = losing(0.05, 0.05)
    assert alike == (
        "All 2 chips lose the same by hardware-aware training at 3 of 3 times: against the net "
        "mapped directly, up to 5.00 points (at 0 s). They show no spread, from which to tell what "
        "other chips lose. Worth a try: a smaller hwa.learning_rate, other numbers of hwa.epochs "
        "or another chip.training.scale."
    )
    assert not losing(-0.05, -0.05)  # a gain
    (settled,) = losing(0.05, 0.051)
    assert "cost accuracy here" in settled


def at_times(result: Result, gains: dict[str, float]) -> Result:
    """Return a result of two chips that differ, with these gains over the net mapped directly."""
    spread, seeds = torch.tensor([[0.001], [-0.001]], dtype=torch.float64), (1, 2)
    times, values = tuple(gains), torch.full((2, len(gains)), 0.9, dtype=torch.float64)
    gained = values + torch.tensor([list(gains.values())]) + spread
    return dataclasses.replace(
        result,
        direct=Sweep(times=times, values=values, seeds=seeds),
        hwa=Sweep(times=times, values=gained, seeds=seeds),
    )


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (("1 month", "0 s"), ["1 month"]),
        (("365 days", "0 s"), ["365 days"]),
        (("8760 h", "86400", "1 h"), ["86400 s", "8760 h"]),
        (("1 h", "programmed", "0 s"), ["1 h"]),
        (("programmed",), ["programmed"]),
    ],
)
def test_key_figures_are_those_of_a_day_and_a_year_or_of_the_latest_time(
    result: Result, times: tuple[str, ...], expected: list[str]
) -> None:
    given = at_times(result, dict.fromkeys(times, 0.0))
    assert given.key_times == expected
    for time in expected:
        assert f"On chip after {time}" in markdown(given)


def test_a_loss_by_training_is_said_wherever_it_is_measured(result: Result) -> None:
    one = at_times(result, {"1 day": 0.01, "1 year": 0.02, "10 years": -0.3})
    (note,) = one.caveats[1:]
    assert "here at 1 of 3 times: against" in note
    assert "chips lose 30.00 points (at 10 years). Worth" in note
    (only,) = at_times(result, {"1 day": -0.1}).caveats[1:]
    assert "cost accuracy here: against the net mapped directly, chips lose 10.00 points" in only


def test_a_net_that_further_epochs_made_better_than_its_reference_is_no_news_of_the_chip(
    result: Result,
) -> None:
    spread = torch.tensor([[0.001], [-0.001]])
    values = torch.tensor([[0.95, 0.94, 0.90]]) + spread
    hwa, direct = (Sweep(times=TIMES, values=v, seeds=(1, 2)) for v in (values, values - 0.05))
    better = dataclasses.replace(result, hwa=hwa, direct=direct, config={"hwa": {"epochs": 24}})
    (note,) = better.caveats[1:]
    assert note == (
        "On chips the net is better than its digital reference (at 0 s, 1 day): it was trained for "
        "further epochs (hwa.epochs: 24), which the reference was not. Iso-accuracy then says "
        "little of the chip. Worth a try: more digital.epochs."
    )
    alike = dataclasses.replace(
        better, hwa=dataclasses.replace(hwa, values=values.mean(0).expand(2, 3)),
        direct=dataclasses.replace(direct, values=values.mean(0).expand(2, 3) - 0.05),
    )  # fmt: skip
    assert alike.caveats[1:] == (note,)
    within = Sweep(times=TIMES, values=0.925 + 20 * spread.expand(2, 3), seeds=(1, 2))
    untrained = Sweep(times=TIMES, values=values + 0.02, seeds=(1, 2))
    for other in (
        dataclasses.replace(better, direct=untrained),  # further epochs are not why
        dataclasses.replace(better, config={}),  # no training that is known
        dataclasses.replace(better, hwa=within, direct=within),
    ):
        assert "digital reference" not in table(other)


def test_a_digital_accuracy_near_chance_or_on_few_clips_is_noted(result: Result) -> None:
    def on(clips: dict[int, int], digital: float) -> tuple[str, ...]:
        labels = torch.tensor([label for label, count in clips.items() for _ in range(count)])
        heard = Heard(
            classes=("a", "b", "c"), labels=labels, digital=labels, chips=labels[None], seeds=(1,),
            time="1 day",
        )  # fmt: skip
        return dataclasses.replace(result, heard=heard, digital=digital).caveats[1:]

    (chance,) = on({0: 4, 1: 4, 2: 4}, 1 / 3)
    assert chance == (
        "The digital accuracy, 33.33 % of 12 test clips (95 % interval over clips 9.92 to 65.11 "
        "%), is not significantly above 33.33 %, which always naming the largest class has. "
        "Accuracies on chips then say little. Worth a try: more digital.epochs, another "
        "digital.learning_rate or more clips."
    )
    (uneven,) = on({0: 900, 1: 50, 2: 50}, 0.91)  # far above a third
    assert "is not significantly above 90.00 %" in uneven
    (few,) = on({0: 4, 1: 4, 2: 4}, 11 / 12)
    assert few == (
        "There are 12 test clips: one is 8.33 points, more than iso-accuracy may lose. Intervals "
        "are over chips alone; other clips may give other accuracies."
    )
    assert not on({}, 0.0)
    assert not on({0: 500}, 1.0)  # one class alone
    assert not on({0: 50, 1: 50, 2: 50}, 0.92)
    assert not on({0: 900, 1: 50, 2: 50}, 0.93)


def test_table_is_aligned_and_ends_with_the_note(result: Result) -> None:
    lines = table(result).splitlines()
    rows = [line for line in lines if line.startswith(TIMES)]
    assert len(rows) == 3
    assert len({len(row) for row in rows}) == 1
    assert "iso-accuracy (99% of it) 91.08 %" in lines[0]
    assert lines[-1] == "Note: This speech was synthesised."


@pytest.mark.parametrize(("tiles", "shown"), [(1, "1 tile of"), (2, "2 tiles of")])
def test_one_tile_is_no_plural(result: Result, tiles: int, shown: str) -> None:
    lines = table(dataclasses.replace(result, tiles=tiles)).splitlines()
    assert lines[1].startswith(f"{shown} hermes64, mean")


def test_a_time_beyond_the_data_is_marked_everywhere(result: Result, tmp_path: Path) -> None:
    marked = dataclasses.replace(
        result.hwa, notes=("", "", "beyond the device's data (2 days, W): held at its last value")
    )
    marked = dataclasses.replace(result, hwa=marked, direct=marked)
    # a star at the beginning of a line of Markdown would be a list
    for text, star in ((table(marked), "*"), (markdown(marked), "\\*")):
        assert f"1 year{star} " in text
        assert "1 day " in text
        note = "1 year is beyond the device's data (2 days, W): held at its last value"
        assert f"{star} {note}" in text
    both = dataclasses.replace(marked.hwa, notes=("", "unknown", "unknown"))
    both = dataclasses.replace(marked, hwa=both)
    assert "* 1 day, 1 year are unknown" in table(both)
    assert marked.to_dict()["hwa"]["1 year"]["note"].startswith("beyond the device's data (2 days")
    assert "note" not in marked.to_dict()["hwa"]["1 day"]
    write(marked, tmp_path)


def test_plot_needs_no_pyplot(result: Result, tmp_path: Path) -> None:
    write(result, tmp_path)
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_atomically(tmp_path / "a.txt", "before")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        OSError, match=r"could not write .*a\.txt .*No space left.*free some space"
    ) as caught:
        write_atomically(path, "after")
    assert caught.value.errno == 28
    assert os.listdir(tmp_path) == ["a.txt"]
    assert path.read_text() == "before"


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert write_atomically(pipe, "through") == pipe
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_link_stays_and_leads_to_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    whole, link = tmp_path / "folder" / "whole.txt", tmp_path / "link.txt"
    link.symlink_to(whole)
    for text in ("first", "second"):
        assert write_atomically(link, text) == link
        assert (link.is_symlink(), whole.read_text()) == (True, text)
    assert os.listdir(whole.parent) == ["whole.txt"]


def test_files_get_ordinary_permissions(tmp_path: Path) -> None:
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    plain.write_text("x")
    assert write_atomically(ours, "x").stat().st_mode == plain.stat().st_mode
