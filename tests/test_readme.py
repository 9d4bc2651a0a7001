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


def test_second_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = torch.nn.Sequential()
    model.add_module("body", torch.nn.Linear(8, 8))
    model.add_module("head", torch.nn.Linear(8, 2))
    names = {"at": at, "model": model, "batches": [torch.randn(16, 8)], "torch": torch, "example": torch.randn(1, 8)}
    names["metric"] = lambda chip: chip(names["example"]).norm().item()
    exec(compile(_blocks("python")[1], "README.md", "exec"), names)
    assert names["aged"](torch.randn(3, 8)).shape == (3, 2)
    assert [name for name, _ in at.analog_layers(model)] == ["body"]


def test_third_program() -> None:
    torch.manual_seed(0)
    model = at.convert(torch.nn.Sequential(torch.nn.Linear(8, 4)), at.chips.hermes64())
    names = {"at": at, "model": model, "other": model, "x": torch.randn(40, 8)}
    exec(compile(_blocks("python")[2], "README.md", "exec"), names)
    assert torch.equal(names["y"], names["z"])
    assert torch.allclose(names["part"], names["y"][32:], atol=1e-5)


def test_the_map_of_resnet18(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    from analogtorch.__main__ import main

    (line,) = re.findall(r"analogtorch (map .*)", README.read_text())
    command = line.replace("resnet18.html", str(tmp_path / "resnet18.html")).split()
    assert main(command) == 0
    assert _blocks("text")[1] in capsys.readouterr().out
    assert (tmp_path / "resnet18.html").stat().st_size > 10_000


def test_the_program_that_converts_anything() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential()
    model.add_module("conv", torch.nn.Conv2d(3, 8, 3))
    model.add_module("norm", torch.nn.BatchNorm2d(8))
    model.add_module("deep", torch.nn.Conv2d(8, 70, 5))
    model.add_module("relu", torch.nn.ReLU())
    model.add_module("last", torch.nn.BatchNorm2d(70))
    model.add_module("pool", torch.nn.AdaptiveAvgPool2d(1))
    model.add_module("flat", torch.nn.Flatten())
    model.add_module("head", torch.nn.Linear(70, 20))
    x = torch.randn(8, 3, 12, 12)
    model(x)  # in training mode: its norms have statistics, as those of a trained model
    names = {"at": at, "model": model, "batches": [x], "chip": at.chips.hermes64(), "x": x}
    exec(compile(_blocks("python")[3], "README.md", "exec"), names)
    assert [type(m).__name__ for m in (model.norm, model.last, model.head)] == [
        "Identity",
        "BatchNorm2d",
        "AnalogLinear",
    ]
    assert names["aged"](x).shape == (8, 20)


def test_fourth_program() -> None:
    model = at.convert(torch.nn.Sequential(torch.nn.Linear(300, 4)), at.chips.hermes64())
    names = {"at": at, "model": model, "mapping": at.map_to_chip(model, at.chips.hermes64(), torch.zeros(1, 300))}
    exec(compile(_blocks("python")[4], "README.md", "exec"), names)
    assert names["elsewhere"] != names["mapping"] or (0, 3) not in names["mapping"].tile_utilisation
    assert names["closer"].at("1 day")(torch.zeros(1, 300)).shape == (1, 4)


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
