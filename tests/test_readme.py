"""The README's program prints what the README says it prints."""

import re
from pathlib import Path

import pytest
import torch

import analogtorch as at

README = Path(__file__).parents[1] / "README.md"
NUMBER = re.compile(r"\d+\.\d+")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_first_program(capsys: pytest.CaptureFixture) -> None:
    (program, *_), (printed, _) = _blocks("python"), _blocks("text")
    assert len(program.strip().splitlines()) <= 12
    exec(compile(program, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert NUMBER.sub("#", shown).split() == NUMBER.sub("#", printed).split()
    # float arithmetic differs between processors: an input on a boundary may change its class
    ours, readme = (list(map(float, NUMBER.findall(text))) for text in (shown, printed))
    assert ours == pytest.approx(readme, abs=0.004)


def test_all_programs_run_as_written_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    programs, names = _blocks("python"), {}
    assert any("optimizer.step()" in program for program in programs)
    for number, program in enumerate(programs):
        exec(compile(program, f"README.md, program {number}", "exec"), names)
    assert (tmp_path / "checkpoint").is_dir()
    assert [name for name, _ in at.analog_layers(names["model"])] == ["0", "3"]
    assert names["physical"].at("1 day")(names["x"]).shape == (2000, 10)
    assert torch.allclose(names["part"], names["first"][32:], atol=1e-5)  # the noise of those very samples
    assert type(names["folded"][1]).__name__ == "Identity"
    assert names["closer"].at("1 day")(names["example"]).shape == (1, 10)


def test_the_map_of_resnet18(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    from analogtorch.__main__ import main

    (line,) = re.findall(r"analogtorch (map .*)", README.read_text())
    command = line.replace("resnet18.html", str(tmp_path / "resnet18.html")).split()
    assert main(command) == 0
    assert _blocks("text")[1] in capsys.readouterr().out
    assert (tmp_path / "resnet18.html").stat().st_size > 10_000


def test_published_efficiencies_of_the_table() -> None:
    from analogtorch.chips import hermes64, ibm_speech34, neurram48, published

    chips = (hermes64(phases=4), hermes64(phases=1), ibm_speech34(), neurram48())
    seen = [[e.tops_per_watt for e in published(chip)] for chip in chips]
    expected = [[2.48], [9.76], [20.0, 12.4, 6.94], [15.95]]
    for ours, readme in zip(seen, expected, strict=True):
        assert ours[: len(readme)] == pytest.approx(readme, rel=0.005)


def test_everything_before_line_60() -> None:
    head = "\n".join(README.read_text().splitlines()[:60])
    assert "pip install" in head
    assert "```python" in head
    assert "|---" in head


def test_every_make_command_exists() -> None:
    makefile = README.with_name("Makefile").read_text()
    for target in re.findall(r"(?:`|   )make ([a-z-]+)", README.read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
