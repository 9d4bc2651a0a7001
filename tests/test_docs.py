"""README and docs/: programs print what the page shows, links lead somewhere, names exist."""

import inspect
import re
import sys
import tomllib
import types
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

import analogtorch as at

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
ALL = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", *PAGES]
NUMBER = re.compile(r"\d+\.\d+")
README_LINES = 90
NOT_OUR_WORDS = ("input range", "output bound", "readings", "bitline", "wordline")
"""The glossary has other words for these."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def prose(page: Path) -> str:
    """Return the text without code, both in blocks and between backquotes."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return re.sub(r"`[^`]*`|^    .*$", "", text, flags=re.MULTILINE)


def code(page: Path) -> str:
    """Blocks, and what is between backquotes."""
    return "\n".join(
        re.findall(r"```.*?```|`[^`\n]+`|^    [^\n]*$", page.read_text(), re.DOTALL | re.MULTILINE)
    )


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def check_public_names(text: str) -> None:
    for dotted in set(re.findall(r"\bat\.(\w+(?:\.\w+)*)", text)):
        found = at
        for part in dotted.split("."):
            assert hasattr(found, part), f"at.{dotted}"
            found = getattr(found, part)


def test_first_program_of_the_readme_prints_what_it_says(capsys: pytest.CaptureFixture) -> None:
    (program,), (printed,) = (
        blocks(ROOT / "README.md", "python"),
        blocks(ROOT / "README.md", "text"),
    )
    assert len(program.strip().splitlines()) <= 12
    exec(compile(program, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert NUMBER.sub("#", shown).split() == NUMBER.sub("#", printed).split()
    # float arithmetic differs between processors: an input on a boundary may change its class
    ours, readme = (list(map(float, NUMBER.findall(text))) for text in (shown, printed))
    assert ours == pytest.approx(readme, abs=0.004)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=names)
def test_programs_of_a_page_run_as_written_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shared: dict[str, object] = {}
    for number, program in enumerate(blocks(page, "python")):
        exec(compile(program, f"{page.name}, program {number}", "exec"), shared)


def test_the_executor_for_ray_submits_what_ray_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's decorator refuses all but functions and classes; a sweep submits a method."""

    def remote(given: Any) -> Any:
        assert inspect.isfunction(given)
        done: Future[Any] = Future()

        def run(*arguments: Any) -> Any:
            done.set_result(given(*arguments))
            return types.SimpleNamespace(future=lambda: done)

        return types.SimpleNamespace(remote=run)

    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(remote=remote))
    (block,) = (b for b in blocks(ROOT / "docs" / "program.md", "python") if "class OnRay" in b)
    found: dict[str, Any] = {}
    exec(block, found)
    model = at.convert(torch.nn.Linear(4, 2), at.chips.hermes64())
    options: dict[str, Any] = {"num_chips": 2, "times": ["0 s"]}
    swept = at.sweep(model, _sum_of_weights, executor=found["OnRay"](), **options)
    assert torch.equal(swept.values, at.sweep(model, _sum_of_weights, **options).values)


def _sum_of_weights(chip: torch.nn.Module) -> float:
    return float(chip(torch.ones(1, 4)).sum())


def test_the_map_of_resnet18(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    from analogtorch.__main__ import main

    page = ROOT / "docs" / "mapping.md"
    (line,) = re.findall(r"^    analogtorch (map .*)", page.read_text(), re.MULTILINE)
    assert main(line.replace("resnet18.html", str(tmp_path / "resnet18.html")).split()) == 0
    assert blocks(page, "text")[0] in capsys.readouterr().out
    assert (tmp_path / "resnet18.html").stat().st_size > 10_000


def test_published_efficiencies_of_the_table() -> None:
    from analogtorch.chips import (
        hermes64,
        hermes_core,
        ibm_speech34,
        memcapacitor,
        neurram48,
        reram_4mb,
        sonos40,
    )
    from analogtorch.cost_model import published

    table = (ROOT / "docs" / "chips.md").read_text()
    for chip, said in (
        (hermes64(phases=4), "2.48 or"),
        (hermes64(phases=1), "or 9.76"),
        (hermes_core(), "10.5 tile"),
        (ibm_speech34(), "20.0 tile, 12.4 chip, 6.94 system"),
        (neurram48(), "15.95 at"),
        (reram_4mb(precision=1), "194.4 binary"),
        (reram_4mb(), "15.6 at 8 bits"),
        (sonos40(), "20 on"),
    ):
        assert said in table
        numbers = list(map(float, NUMBER.findall(said)))
        ours = [efficiency.tops_per_watt for efficiency in published(chip)]
        assert ours[: len(numbers)] == pytest.approx(numbers, rel=0.005)
    assert "29,600 modelled, never measured" in table
    assert published(memcapacitor())[0].tops_per_watt == 29_600


def test_the_table_of_what_chips_compute_digitally() -> None:
    table = (ROOT / "docs" / "mapping.md").read_text().partition("| chip | on the chip |")[2]
    rows = [line.split("|") for line in table.partition("\n\n")[0].splitlines()[2:]]
    found = {
        name: set(re.findall(r"`(\w+)`", row[2]))
        for row in rows
        for name in re.findall(r"`(\w+)`", row[1])
    }
    chips = {name: at.chips.get(name) for name in at.chips.names()}
    costs = {name: chip.cost for name, chip in chips.items() if chip.cost is not None}
    assert found == {name: set(c.on_chip.kinds) for name, c in costs.items() if c.on_chip.kinds}


def test_readme_is_short_and_has_what_a_reader_looks_for() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= README_LINES
    for wanted in ("pip install", "```python", "|---", "![", "docs/glossary.md"):
        assert wanted in text, wanted


def test_the_picture_is_small() -> None:
    assert (ROOT / "docs" / "accuracy_and_floorplan.png").stat().st_size < 200_000


@pytest.mark.parametrize("page", ALL, ids=names)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http:", "https:")):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("page", ALL, ids=names)
def test_names_in_code_exist(page: Path) -> None:
    text = code(page)
    check_public_names(text)
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:`|\s)make ([a-z-]+)", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
    for module in set(re.findall(r"python -m (benchmarks[\w.]*)", text)):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for file in set(
        re.findall(r"\b(?:analogtorch|benchmarks|configs|tests|requirements)/[\w./]+\w", text)
    ):
        assert (ROOT / file).exists(), file


def test_names_in_the_examples_of_docstrings_exist() -> None:
    example = re.compile(r"^ +(?:>>>|\.\.\.) .*", re.MULTILINE)
    for file in (ROOT / "analogtorch").rglob("*.py"):
        check_public_names("\n".join(example.findall(file.read_text())))


@pytest.mark.parametrize("page", ALL, ids=names)
def test_pages_keep_to_the_glossary(page: Path) -> None:
    text = prose(page).lower()
    assert not [word for word in NOT_OUR_WORDS if word in text]


def test_every_page_is_in_the_navigation() -> None:
    listed = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert f"- {page.relative_to(ROOT / 'docs')}\n" in listed, page


def test_contributing_names_the_rooms_in_their_order() -> None:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    rooms = re.findall(r"^\| `(\w+)` \| ", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert rooms == linter["contracts"][0]["layers"][::-1]


def test_contributing_finds_names_in_the_files_that_it_says() -> None:
    found = re.findall(
        r"`(\w+)`(?: in| of) `(analogtorch/[\w/]+\.py)`", (ROOT / "CONTRIBUTING.md").read_text()
    )
    assert len(found) > 5
    for name, file in found:
        assert re.search(rf"\b{name}\b", (ROOT / file).read_text()), (name, file)
