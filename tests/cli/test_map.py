import random
import re
import shlex
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.__main__ import main
from analogtorch.mapping import ChipMapping
from tests.mapping.nets import Residual

RESIDUAL = "tests.mapping.nets.Residual"


def small(weights: object = "default", weights_backbone: object = "default") -> nn.Module:
    assert weights is weights_backbone is None
    return Residual()


def reads_values() -> nn.Module:
    layer = nn.Linear(3, 3)
    assert layer.weight.abs().sum().item() > 0
    return layer


class Counted(Residual):
    built = 0

    def __init__(self) -> None:
        super().__init__()
        Counted.built += 1


class Decides(nn.Module):
    """Scores that decide what else is computed, as those of a detector do."""

    def __init__(self) -> None:
        super().__init__()
        self.scores, self.extra = nn.Linear(3, 3), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.scores(x)
        return self.extra(y[torch.nonzero(y > 0)[:, 0]])


class Draws(nn.Module):
    """Draws its size as it is built, and how often it is used as it runs, by its values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, random.randint(1, 500) + int(np.random.randint(500)))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(random.randint(1, 9) if self.layer(x).sum() != 0 else 1):
            y = self.layer(x)
        return y


class Deep(nn.Sequential):
    """Eight layers that fill a tile each."""

    def __init__(self) -> None:
        super().__init__(OrderedDict((f"block[{i}]", nn.Linear(256, 256)) for i in range(8)))


def test_writes_table_page_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, data = tmp_path / "deep" / "map.html", tmp_path / "map.json"
    options = [
        "--input",
        "1,3,6,6",
        "--html",
        str(page),
        "--json",
        str(data),
        "--duplicate",
        "conv=2",
    ]
    assert main(["map", "--model", RESIDUAL, *options, "--exclude", "head", "--chip", "ideal"]) == 0
    mapping = ChipMapping.from_json(data.read_text())
    assert mapping.copies == {"conv": 2, "shared": 1}
    command = (
        f"analogtorch map --model {RESIDUAL} {shlex.join(options)} --exclude head --chip ideal"
    )
    assert page.read_text() == mapping.to_html(command=command)
    assert capsys.readouterr().out == f"{mapping}\n"


def test_weights_that_take_several_unit_cells(tmp_path: Path, capsys) -> None:
    given = ["map", "--model", RESIDUAL, "--input", "1,3,6,6", "--cells", "2"]
    assert main([*given, "--json", str(tmp_path / "m.json")]) == 0
    printed = capsys.readouterr().out
    chip = at.chips.hermes64()
    model = at.convert(Residual(), chip.replace(cell=chip.cell.enlarged(2)))
    mapping = at.map_to_chip(model, torch.zeros(1, 3, 6, 6), chip=chip)
    assert {matrix.cells for matrix in mapping.matrices} == {2}
    assert ChipMapping.from_json((tmp_path / "m.json").read_text()) == mapping
    assert str(mapping) in printed
    assert str(at.cost(mapping)) in printed
    assert main(["compare", *given[1:], "--chips", "hermes64", "neurram48"]) == 0
    printed = capsys.readouterr().out
    assert str(at.compare(Residual(), ["hermes64", "neurram48"], example=torch.zeros(1, 3, 6, 6),
                          cells=2)) in printed  # fmt: skip
    pairs = at.devices.SignificancePairs(device=at.devices.hermes_one_device())
    at.chips.save(chip.replace(cell=pairs), tmp_path / "pairs.json")
    assert main([*given, "--chip", str(tmp_path / "pairs.json")]) == 2
    assert "--cells 2 on hermes64: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["small", "reads_values"])
def test_functions_with_weights_and_models_that_read_values(name: str) -> None:
    shape = "1,3" if name == "reads_values" else "1,3,6,6"
    assert (
        main(["map", "--model", f"tests.cli.test_map.{name}", "--input", shape, "--chips", "auto"])
        == 0
    )


def test_a_model_whose_forward_reads_values_is_mapped_with_weights(
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = torch.random.get_rng_state()
    options = ["--model", "tests.cli.test_map.Decides", "--input", "2,3"]
    shown = []
    for command in (["map"], ["map"], ["compare", "--chips", "hermes64", "ideal"]):
        assert main([*command, *options]) == 0
        shown.append(capsys.readouterr().out)
    assert "Decides, 24 weights on the chip" in shown[0]
    assert shown[0] == shown[1]  # the random weights are the same
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_a_model_draws_is_the_same_in_every_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = []
    for _ in range(2):
        state, of_numpy = random.getstate(), np.random.get_state()
        options = ["--model", "tests.cli.test_map.Draws", "--input", "1,3", "--chips", "auto"]
        assert main(["map", *options]) == 0
        shown.append(capsys.readouterr().out)
        assert random.getstate() == state
        assert np.array_equal(np.random.get_state()[1], of_numpy[1])
        random.random()
        np.random.random()
    assert shown[0] == shown[1]


def test_an_example_of_the_wrong_shape_is_no_reason_to_build_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["map", "--model", "tests.cli.test_map.Counted", "--input", "1,4,6,6"]) == 2
    said = capsys.readouterr().err
    assert "give the shape of each input that the model takes, such as --input 1,3,224,224" in said
    assert "model(*example)" not in said
    assert Counted.built == 1


def test_a_model_in_the_current_folder(
    tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "from torch import nn", "from my_parts_of_a_net import SIZE", "class Net(nn.Linear):"
    net = "\n".join([*lines, "    def __init__(self): super().__init__(SIZE, 2)"])
    (tmp_path / "my_net_for_a_chip.py").write_text(net)
    (tmp_path / "my_parts_of_a_net.py").write_text("SIZE = 3")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert main(["map", "--model", "my_net_for_a_chip.Net", "--input", "1,3"]) == 0
    assert "Net, 6 weights on the chip" in capsys.readouterr().out
    assert sys.path == before


def test_a_model_of_torchvision_that_does_not_fit_writes_nothing(tmp_path, capsys) -> None:
    pytest.importorskip("torchvision")
    page = tmp_path / "map.html"
    assert main(["map", "--model", "torchvision.models.resnet18", "--html", str(page)]) == 2
    assert "need 181 tiles" in capsys.readouterr().err
    assert not page.exists()
    assert (
        main(["map", "--model", "torchvision.models.resnet18", "--html", str(page), "--chips", "3"])
        == 0
    )
    assert "181 used, at least 179 needed" in capsys.readouterr().out
    assert page.exists()


@pytest.mark.parametrize(
    ("tiles", "advice"),
    [
        (14, "Give --chips 2 (or --chips auto for as many as needed), leave the largest digital "
         "with --exclude 'block[0]', ask for fewer copies in --duplicate, or"),
        (4, "Give --chips 4 (or --chips auto for as many as needed), leave the largest digital "
         "with --exclude 'block[0]' --exclude 'block[1]' --exclude 'block[2]' --exclude 'block[3]' "
         "--exclude 'block[4]' ... (6 layers), ask for fewer copies in --duplicate, or"),
    ],
)  # fmt: skip
def test_advice_names_the_options_of_the_command(
    tiles: int, advice: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chip = at.chips.save(at.chips.hermes64().replace(array={"tiles": tiles}), tmp_path / "c.json")
    options = ["--input", "1,256", "--chip", str(chip), "--duplicate", "*=2"]
    assert main(["map", "--model", "tests.cli.test_map.Deep", *options]) == 2
    assert advice in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json", ".YAML"])
def test_a_chip_of_ones_own(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = at.chips.save(
        at.chips.ideal().replace(array={"rows": 100, "columns": 7}, name="mine"),
        tmp_path / f"a{suffix}",
    )
    assert main(["map", "--model", RESIDUAL, "--input", "1,3,6,6", "--chip", str(mine)]) == 0
    assert "mine: 1 used, each with 64 tiles of 100x7" in capsys.readouterr().out
    mine.write_text("{}")
    assert main(["map", "--model", RESIDUAL, "--input", "1,3,6,6", "--chip", str(mine)]) == 2
    assert f"{mine}: chip description has version None" in capsys.readouterr().err
    assert (
        main(
            [
                "map",
                "--model",
                RESIDUAL,
                "--input",
                "1,3,6,6",
                "--chip",
                str(tmp_path / f"b{suffix}"),
            ]
        )
        == 2
    )
    assert "No such file" in capsys.readouterr().err


def test_the_report_extra_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "jinja2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    page, data = tmp_path / "map.html", tmp_path / "map.json"
    assert (
        main(
            [
                "map",
                "--model",
                RESIDUAL,
                "--input",
                "1,3,6,6",
                "--html",
                str(page),
                "--json",
                str(data),
            ]
        )
        == 2
    )
    assert 'pip install "analogtorch[report]"' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model"),
        (["--model", "resnet18"], "dotted name"),
        (["--model", RESIDUAL], "add --input"),
        (["--model", "nothing.here.at_all"], "no module nothing"),
        (["--model", "tests.mapping.nets.Missing"], "no function or class 'Missing'"),
        (
            ["--model", "torch.zeros", "--input", "1"],
            "must build without arguments.*a function without.*my_net.py:make",
        ),
        (["--model", "my_net.py"], "a file does not build a model; name a function or class that"),
        (["--model", "net.safetensors"], "a file does not build a model.*such as my_net.py:Net"),
        (["--model", "openai/whisper-tiny.en"], "a file does not build a model"),
        (
            ["--model", RESIDUAL, "--html", "x.html", "--json", "x.html"],
            "--html and --json both name x.html",
        ),
        (["--model", "os.getcwd", "--input", "1"], "returns a str"),
        (["--model", RESIDUAL, "--input", "1,x"], "--input takes sizes"),
        (["--model", RESIDUAL, "--input", "1,3,6,6:f33"], "--input takes sizes"),
        (["--model", RESIDUAL, "--input", "1,3,6,6", "--chips", "0"], "--chips takes"),
        (
            ["--model", RESIDUAL, "--input", "1,3,6,6", "--chip", "hermes"],
            "unknown chip 'hermes'.*hermes64.*ends in .yaml, .yml, .json",
        ),
        (["--model", RESIDUAL, "--input", "1,3,6,6", "--duplicate", "conv"], "GLOB=N"),
        (
            ["--model", RESIDUAL, "--input", "1,3,6,6", "--cells", "0"],
            r"--cells must be an integer in \[1, 64\], got 0",
        ),
        (["--model", RESIDUAL, "--input", "1,3,6,6", "--duplicate", "conv=²"], "GLOB=N"),
        (["--model", RESIDUAL, "--input", "1,3,6,²"], "--input takes sizes"),
        (["--model", RESIDUAL, "--input", "1,3,6,6", "--chips", "²"], "--chips takes"),
        (
            ["--model", RESIDUAL, "--input", "1,3,6,6", "--duplicate=a=2", "--duplicate=a=3"],
            "--duplicate names 'a' twice, with 2 and 3 copies; leave one of them out",
        ),
        (["--model", RESIDUAL, "--input", "1,4,6,6"], "could not trace module 'conv'"),
        (["--model", RESIDUAL, "--surprise"], "unrecognized arguments"),
    ],
)
def test_wrong_options_are_one_line_of_error(arguments, message, capsys) -> None:
    assert main(["map", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
    assert line.startswith("analogtorch: ")


@pytest.mark.parametrize("other", ["{}/x.html", "here/x.html"])
def test_one_file_by_two_names_is_refused(
    other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").symlink_to(tmp_path)
    files = ["--html", "x.html", "--json", other.format(tmp_path)]
    assert main(["map", "--model", RESIDUAL, "--input", "1,3,6,6", *files]) == 2
    assert "--html and --json both name " in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["map", "--help"])
    assert left.value.code == 0
    assert "its code runs" in capsys.readouterr().out
