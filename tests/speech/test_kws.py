"""The whole pipeline on a handful of generated clips, through the command line."""

import dataclasses
import json
import re
import shlex
import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import analogtorch as at
from analogtorch.__main__ import main
from analogtorch.cli import finished as finished_module
from analogtorch.cli import kws as cli
from analogtorch.cli.finished import finished as finished_run
from analogtorch.cli.finished import listener
from analogtorch.cli.kws import parse
from analogtorch.files import locked, packed, parse_json, signed
from analogtorch.speech import espeak, kws, levels, training
from analogtorch.speech import task as task_module
from analogtorch.speech.ablation import check_distinct, variants
from analogtorch.speech.config import ChipConfig, KWSConfig, ModelConfig
from analogtorch.speech.earlier_run import started
from analogtorch.speech.labels import LABELS
from analogtorch.speech.logs import PHASES
from analogtorch.speech.on_chips import conditions_of, measure
from analogtorch.speech.report_config import ReportConfig
from analogtorch.speech.run_journal import JOURNAL
from analogtorch.speech.rundir import RunFolder
from analogtorch.speech.speech_commands import which_set
from benchmarks.hwa import __main__ as hwa
from benchmarks.record.cases.speech import write_tones
from tests.speech.training.conftest import Kill

SMALL = [
    "--data.source=folder", "--model.options={widths: [4, 8], stem_stride: [4, 4]}", "--workers=0",
    "--progress=false", "--digital.epochs=4", "--digital.batch_size=12",
    "--digital.learning_rate=0.01", "--hwa.epochs=2", "--hwa.batch_size=12", "--sweep.num_chips=2",
    "--sweep.times=['0 s', '1 year']",
]  # fmt: skip

CORRECTED = "--chip.correct=true"  # the default

pytestmark = pytest.mark.usefixtures("one_chip_decides")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tone for each class, with noise: 3 training clips, 1 for validation, 2 for test."""
    root = tmp_path_factory.mktemp("clips")
    write_tones(root, {"train": 3, "val": 1, "test": 2})
    return root


def run(clips: Path, out: Path, *more: str) -> int:
    """Run it with columns as programmed, which takes half the time, unless ``more`` says more."""
    given = ["--chip.correct=false", f"--data.folder.root={clips}", f"--out={out}"]
    return main(["kws", *SMALL, *given, *more])


@pytest.fixture(scope="module")
def corrected(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run whose chips correct their columns, as they do by default."""
    out = tmp_path_factory.mktemp("run")
    assert run(clips, out, CORRECTED) == 0
    return out


@pytest.fixture(scope="module")
def finished(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    assert run(clips, out) == 0
    return out


def accuracies(out: Path) -> dict:
    report = json.loads((out / "report.json").read_text())
    return {key: report[key] for key in ("digital", "direct", "hwa")}


def test_report(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
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
        "confusion",
        "mapping",
        "cost",
        "listening",
        "ranges",
        "training",
        "config",
        "command",
    ]
    assert report["chip"] == "hermes64"
    assert report["continued"] is False
    counts = {"train": 36, "val": 12, "test": 24}
    assert report["data"] == {"source": "folder", "classes": list(LABELS), **counts}
    assert list(report["hwa"]) == ["0 s", "1 year"]
    assert report["hwa"]["1 year"]["num_chips"] == 2
    named = {"analogtorch", "Python", "torch", "torchaudio", "lightning", "numpy"}
    assert set(report["versions"]) == named
    assert "synthes" not in (finished / "report.md").read_text()


def test_the_report_examines_the_chips_of_the_sweep(clips: Path, finished: Path, tmp_path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    options = ["--report.time=1 year", "--report.sensitivity=true", "--report.budget=true"]
    assert run(clips, tmp_path, "--resume", *options, "--report.clips=1") == 0
    assert accuracies(tmp_path) == accuracies(finished)
    report = json.loads((tmp_path / "report.json").read_text())
    found, measured = report["confusion"], report["hwa"]["1 year"]
    assert len(found["seeds"]) == 2
    right = sum(row[i] for i, row in enumerate(found["chips"]))
    assert right / (2 * 24) == pytest.approx(measured["mean"])
    right = sum(row[i] for i, row in enumerate(found["digital"]))
    assert right / 24 == pytest.approx(report["digital"]["accuracy"])
    for cause in ("sensitivity", "budget"):
        assert report[cause]["seeds"] == found["seeds"]
        assert report[cause]["time"] == "1 year"
    lost = report["budget"]["total"]["mean"]
    assert report["budget"]["reference"] - lost == pytest.approx(measured["mean"])
    page = (tmp_path / "report.html").read_text()
    assert page.count("<audio ") == len(found["misheard"]) <= 1
    command = f"analogtorch kws --config {tmp_path}/config.json --out {tmp_path}/again"
    assert report["command"] == command
    listed = json.loads((tmp_path / JOURNAL).read_text())["files"]
    assert {f"chips/{cause}/chip-00001.json" for cause in ("sensitivity", "budget")} <= set(listed)


@pytest.mark.slow
def test_the_sensitivity_of_a_killed_run_goes_on(
    clips: Path, finished: Path, tmp_path: Path, monkeypatch
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    accuracy, calls, last = at.accuracy, [], [20]

    def counted(*args) -> float:
        calls.append(1)
        if len(calls) == last[0]:
            raise KeyboardInterrupt
        return accuracy(*args)

    monkeypatch.setattr(at, "accuracy", counted)
    assert run(clips, tmp_path, "--resume", "--report.sensitivity=true") == 130
    listed = json.loads((tmp_path / JOURNAL).read_text())["files"]
    assert "chips/sensitivity/chip-00001.json" in listed
    last[0] = 0
    assert run(clips, tmp_path, "--resume", "--report.sensitivity=true") == 0
    whole = json.loads((tmp_path / "report.json").read_text())["sensitivity"]
    counts = 1 + len(whole["layers"]) * (2 + 2 * 2) + (2 + 2 * 2)
    assert len(calls) == counts + 1 + 1  # the kill; the digital net
    calls.clear()
    (tmp_path / "chips/sensitivity").rename(tmp_path / "measured")
    assert run(clips, tmp_path, "--resume", "--report.sensitivity=true") == 0
    assert len(calls) == counts + 1
    assert json.loads((tmp_path / "report.json").read_text())["sensitivity"] == whole
    (tmp_path / "chips/sensitivity/sensitivity.json").unlink()
    (tmp_path / "chips/sensitivity/mine.txt").write_text("mine")
    calls.clear()
    assert run(clips, tmp_path, "--resume", "--report.sensitivity=true") == 2
    assert not calls


@pytest.mark.slow
def test_other_trainings_are_measured_on_the_same_chips(
    clips: Path, finished: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(kws, "check_distinct", lambda _: None)  # one repeats the run's training
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    ablation = "{same: {hwa.epochs: 2}, no noise: {chip.training.scale: 0, hwa.epochs: 1}}"
    assert run(clips, tmp_path, "--resume", f"--report.ablation={ablation}") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    found = report["ablation"]
    assert list(found) == ["same", "no noise"]
    assert found["same"]["accuracy"] == report["hwa"]
    assert list(report["ranges"]) == ["hardware-aware", "ablation: same", "ablation: no noise"]
    assert report["ranges"]["ablation: same"] == report["ranges"]["hardware-aware"]
    assert found["same"]["minus hwa"]["1 year"]["values"] == [0.0, 0.0]
    html = (tmp_path / "report.html").read_text()
    assert "no noise" in html
    assert report["continued"]
    assert "s since it was continued" in html
    listed = json.loads((tmp_path / JOURNAL).read_text())["files"]
    looks = 2 * len(levels.FILES)  # with learnt ranges and with new ones
    # of each net its checkpoint, curve, weights and new ranges, and a sweep of two chips
    assert len([name for name in listed if "ablation-" in name]) == 2 * (4 + 3 + looks)
    same, other = (
        torch.load(tmp_path / f"{v.key}.pt", weights_only=True)
        for v in variants(parse([f"--config={tmp_path / 'config.json'}"]).config)
    )
    trained = torch.load(tmp_path / "hwa.pt", weights_only=True)
    assert all(torch.equal(same[key], trained[key]) for key in trained)
    assert any(not torch.equal(other[key], trained[key]) for key in trained)


@pytest.mark.slow
def test_validation_clips_choose_the_level_of_the_training_noise(
    clips: Path, tmp_path: Path, monkeypatch
) -> None:
    measured, scores = levels.validated, iter([0.5, 0.75])

    def validated(*args: object, **options: object) -> at.Sweep:
        found = measured(*args, **options)
        return dataclasses.replace(found, values=torch.full_like(found.values, next(scores)))

    monkeypatch.setattr(levels, "validated", validated)
    given = ["--chip.levels=[0, 4]", "--digital.epochs=1", "--hwa.epochs=1", "--report.clips=0"]
    assert run(clips, tmp_path, *given) == 0
    found = json.loads((tmp_path / "report.json").read_text())["levels"]
    assert found["chosen"] == 4
    ranges = json.loads((tmp_path / "report.json").read_text())["ranges"]
    assert list(ranges) == ["level 0", "level 4"]
    assert list(found["validation accuracy"]) == ["0", "4"]
    assert list(found["validation accuracy"]["4"]) == ["1 day", "1 year"]
    names = ("hwa", "hwa-0", "hwa-4")
    nets = {n: torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in names}
    same = [n for n in names if all(torch.equal(nets[n][k], v) for k, v in nets["hwa"].items())]
    assert same == ["hwa", "hwa-4"]
    curve = (tmp_path / "training/hwa.csv").read_text()
    assert curve == (tmp_path / "training/hwa-4.csv").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": (1.0,)}, "give two or more that differ"),
        ({"levels": (1.0, 1)}, "give two or more that differ"),
        ({"levels": (1.0, -1.0)}, "chip.levels"),
        ({"levels": ("low", "high")}, "chip.levels must be a number"),
        (
            {"levels": (1.0, 2.0), "training": at.TrainingNoise(weight="none")},
            "leave out chip.levels",
        ),
        ({"drift_aware": "0 s"}, "must be after programming"),
        ({"drift_aware": "later"}, "later"),
    ],
)
def test_levels_that_cannot_be_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChipConfig(**options)


def test_levels_of_gaussian_noise_name_the_scale_that_they_replace() -> None:
    given = ["--chip.training.weight=gaussian", "--chip.levels=[0.02, 0.05]"]
    with pytest.raises(ValueError, match=r"training\.scale=0\.05, also where levels replace it"):
        parse(given)
    config = parse([*given, "--chip.training.scale=0.05"]).config
    assert levels.at_level(config, 0.02).chip.training.scale == 0.02


@pytest.mark.parametrize(
    ("ablation", "message"),
    [
        ("{a: {digital.epochs: 2}}", "a: digital.epochs is changed; change options that begin"),
        ("{a: {}}", "a: nothing is changed"),
        ("{a: {hwa.epoch: 2}}", "hwa.epoch=2: no such option, did you mean 'epochs'?; options are"),
        ("{a: {hwa.distil.x: 2}}", "hwa.distil.x=2: no such option, did you mean 'distill'?"),
        ("{a: {chip.training.scale.x: 2}}", "chip.training.scale.x=2: no such option; options"),
        (
            "{a: {chip.training.weight: device, chip.training.scale: -1}}",
            "a: chip.training.weight='device', chip.training.scale=-1: TrainingNoise.scale must be",
        ),
        ("{a: {hwa.epochs: 0}}", "epochs=0; it must be an integer >= 1"),
        ("{a: {chip.training.scale: lots}}", "chip.training.scale='lots': "),
        ("{a: {hwa.epochs: lots}}", "hwa.epochs='lots': must be of type int"),
        ("{a: {hwa.epochs: 2.5}}", "hwa.epochs=2.5: must be of type int"),
        ("{a: {hwa.epochs: true}}", "hwa.epochs=True: must be of type int"),
        ("{a: {hwa.distill: null}}", "a: hwa.distill=None: distill=None; it must be from 0"),
        ("{a: {hwa.epochs: null}}", "a: hwa.epochs=None: epochs=None; it must be an integer >= 1"),
        ("{a: {hwa.batch_size: 10000}}", "report.ablation: a: batch_size=10000 is more than the"),
        ("{hwa: {hwa.epochs: 3}}", "report.ablation: 'hwa' is a net of the run itself; choose"),
        ("{no: {hwa.epochs: 2}}", "the name False is no text, as YAML reads yes, no, on and off"),
        ("{no: {hwa.epochs: 2}}", "quote it, as in '{\"no\": {hwa.distill: 0}}'"),
        ("{a: {hwa.epochs: 2}}", "a: {'hwa.epochs': 2} gives the same settings as the run; change"),
        ("{a: {hwa.epochs: 3}, b: {hwa.epochs: 3}}", "b: {'hwa.epochs': 3} gives the same settings "
         "as 'a'; change others, or leave it out"),
        ("{a: {chip.correct: false, chip.correct_batches: 2}}",
         "chip.correct_batches=2 has no effect with chip.correct=false; use chip.correct=true"),
        ("{1: {hwa.epochs: 2}}", "quote it, as in '{\"1\": {hwa.distill: 0}}'"),
    ],
)  # fmt: skip
def test_wrong_ablations_are_refused_before_any_training(
    ablation: str, message: str, clips: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(kws, "train_digital", None)
    if "no such option" in message:
        monkeypatch.setattr("analogtorch.speech.folder.Folder.load", None)
    assert run(clips, tmp_path, f"--report.ablation={ablation}") == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_refused_run_leaves_no_folder(clips: Path, tmp_path: Path, capsys) -> None:
    assert run(clips, tmp_path / "runs" / "mine", "--chip.digital=[nothing]") == 2
    assert "chip.digital: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    assert run(clips, tmp_path / "mine", "--chip.digital=[nothing]") == 2
    assert (tmp_path / "mine").is_dir()


def test_a_net_that_cannot_be_mapped_is_reported_without_a_floorplan(
    clips: Path, finished: Path, tmp_path: Path, monkeypatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("it branches on its input")

    monkeypatch.setattr(at, "map_to_chip", refuse)
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    assert run(clips, tmp_path, "--resume") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert {"mapping", "cost", "listening"}.isdisjoint(report)
    (note,) = (note for note in report["notes"] if "no energy: it branches" in note)
    assert note.startswith(f"The net takes {report['tiles']} tiles at most, one for each of its")
    assert "no energy: it branches on its input" in (tmp_path / "report.html").read_text()


def test_everything_is_in_the_one_folder(corrected: Path) -> None:
    files = sorted(str(p.relative_to(corrected)) for p in corrected.rglob("*") if p.is_file())
    assert files == [
        "accuracy.csv", "accuracy.png", "checkpoints/digital.ckpt", "checkpoints/direct.pt",
        "checkpoints/hwa-new-ranges.pt", "checkpoints/hwa.ckpt",
        "chips/direct/chip-00000.json", "chips/direct/chip-00001.json", "chips/direct/sweep.json",
        *(f"chips/hwa-learnt-ranges/{name}" for name in sorted(levels.FILES)),
        *(f"chips/hwa-new-ranges/{name}" for name in sorted(levels.FILES)),
        "chips/hwa/chip-00000.json", "chips/hwa/chip-00001.json", "chips/hwa/sweep.json",
        "config.json", "correcting.pt", "digital.pt", "hwa.pt", "journal.json", "report.html",
        "report.json",
        "report.md", "training/digital.csv", "training/hwa.csv",
    ]  # fmt: skip


def test_the_report_has_the_curves_of_the_trainings(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    config = json.loads((finished / "config.json").read_text())
    assert list(report["training"]) == ["digital", "hwa"]
    for phase, rows in report["training"].items():
        assert [row["epoch"] for row in rows] == list(range(1, config[phase]["epochs"] + 1))
        assert all(row["loss"] > 0 for row in rows)
        last = rows[-1]["validation accuracy"]
        assert f"{phase}: mean loss of the batches" in (finished / "report.html").read_text()
        assert f"{100 * last:.1f} %" in (finished / "report.md").read_text()


def test_tensorboard_is_asked_for_before_training(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    import lightning.pytorch.loggers as installed

    def absent(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("tensorboard")

    monkeypatch.setattr(installed, "TensorBoardLogger", absent)
    monkeypatch.setattr(kws, "train_digital", None)
    assert run(clips, tmp_path / "out", f"--tensorboard={tmp_path}/logs") == 2
    assert "run: pip install tensorboard" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_loggers_of_lightning_get_the_trainings(
    clips: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lightning.pytorch.loggers as installed

    monkeypatch.setattr(installed, "TensorBoardLogger", installed.CSVLogger)
    assert run(clips, tmp_path / "out", f"--tensorboard={tmp_path}/logs") == 0
    assert accuracies(tmp_path / "out") == accuracies(finished)
    for phase in PHASES:
        assert "loss" in (tmp_path / "logs" / phase / "metrics.csv").read_text()


def test_same_seed_same_accuracies_whatever_the_workers(
    clips: Path, finished: Path, tmp_path: Path, capsys
) -> None:
    assert run(clips, tmp_path, "--workers=1") == 0
    assert accuracies(tmp_path) == accuracies(finished)
    printed = capsys.readouterr().out
    assert "accuracy, %, at" in printed
    assert str(tmp_path) in printed


def test_weights_load_into_fresh_networks(finished: Path) -> None:
    config = KWSConfig(model=ModelConfig(options={"widths": (4, 8), "stem_stride": (4, 4)}))
    digital, hwa = config.model.build(), at.convert(config.model.build(), config.chip.build())
    digital.load_state_dict(torch.load(finished / "digital.pt", weights_only=True))
    hwa.load_state_dict(torch.load(finished / "hwa.pt", weights_only=True))
    assert all(layer.calibrated for _, layer in at.analog_layers(hwa))


@pytest.mark.parametrize("network", ["hwa", pytest.param("digital", marks=pytest.mark.slow)])
def test_error_budget_of_a_run(network: str, corrected: Path, tmp_path: Path, capsys) -> None:
    files = [f"--json={tmp_path / 'b.json'}", f"--plot={tmp_path / 'b.png'}"]
    options = ["--num-chips=2", "--time=1 year", f"--network={network}"]
    assert main(["budget", str(corrected), *options, *files]) == 0
    printed = capsys.readouterr().out
    assert "all together" in printed
    assert "before they are measured, chips correct gain and offset of their columns" in printed
    found = json.loads((tmp_path / "b.json").read_text())
    assert "correct" in found["recovery"]
    row = json.loads((corrected / "report.json").read_text())
    row = row["hwa" if network == "hwa" else "direct"]["1 year"]
    assert found["reference"] - found["total"]["mean"] == pytest.approx(row["mean"])
    assert (tmp_path / "b.png").stat().st_size > 1000


@pytest.mark.filterwarnings("ignore:calibrate. the fixed range")  # of neurram48
@pytest.mark.parametrize("network", ["hwa", "digital"])
def test_a_run_on_several_chips(network: str, corrected: Path, tmp_path: Path, capsys) -> None:
    options = ["--num-chips=2", "--times", "0 s", "1 year", f"--network={network}"]
    options += ["--chips", "hermes64", "neurram48", f"--json={tmp_path / 'c.json'}"]
    for folder in (corrected, corrected / "chips", corrected / "new"):
        assert main(["compare", str(corrected), "--folder", str(folder)]) == 2
        assert "is in the folder of a run" in capsys.readouterr().err
    assert main(["compare", str(corrected), *options]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert any(line.startswith("* neurram48, accuracy at 1 year: beyond") for line in lines)
    assert any(line.startswith("at each time the chips correct gain and") for line in lines)
    assert "neurram48: calibrated for it, as it is not the chip of the run" in printed.err
    assert "hermes64: calibrated" not in printed.err
    found = json.loads((tmp_path / "c.json").read_text())["chips"]
    row = json.loads((corrected / "report.json").read_text())
    row = row["hwa" if network == "hwa" else "direct"]["1 year"]
    assert found["hermes64"]["sweep"]["1 year"]["values"] == row["values"]
    digital = json.loads((corrected / "report.json").read_text())["digital"]["accuracy"]
    assert json.loads((tmp_path / "c.json").read_text())["digital"] == pytest.approx(digital)
    for measured in (
        row,
        *found["hermes64"]["sweep"].values(),
        *found["neurram48"]["sweep"].values(),
    ):
        low, high = measured["interval"]
        assert 0 <= low <= measured["mean"] <= high <= 1  # two chips, whose interval is wide


def test_compare_does_without_the_digital_net_but_not_with_another(
    finished: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    out, found = tmp_path / "out", tmp_path / "c.json"
    shutil.copytree(finished, out)
    digital = out / "digital.pt"
    digital.unlink()
    given = ["compare", str(out), "--num-chips=1", "--times", "0 s", "--chips", "hermes64"]
    assert main([*given, f"--json={found}"]) == 0
    said = f"compare: {digital} is missing: the digital accuracy is that of the network's own"
    assert said in capsys.readouterr().err
    assert 0 <= json.loads(found.read_text())["digital"] <= 1
    digital.write_bytes(packed(torch.nn.LSTM(3, 2).state_dict()))
    monkeypatch.setattr("analogtorch.speech.folder.Folder.load", stop)
    assert main(given) == 2
    error = capsys.readouterr().err
    assert f"compare: {digital} is not what the run wrote: it is damaged, or of another" in error
    assert f"analogtorch kws --config {out}/config.json --out {out} --resume" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{empty}"], "holds no run of analogtorch kws"),
        (["{begun}"], "the run has not finished; continue it with"),
        (["{finished}", "--num-chips=0"], "--num-chips must be"),
        (["{finished}", "--time=soon"], "soon"),
        (["{finished}", "--growth=-1"], "--growth must be"),
        (["{finished}", "--plot=x.txt"], "must end in .png"),
        (["{finished}", "--network=cnn"], "invalid choice: 'cnn'"),
        ([], "arguments are required: run; see analogtorch budget --help"),
    ],
)
def test_budget_refuses(
    arguments, message, finished: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/config.json").write_bytes((finished / "config.json").read_bytes())
    folders = {"empty": tmp_path, "begun": tmp_path / "begun", "finished": finished}
    monkeypatch.setattr(
        "analogtorch.speech.folder.Folder.load", stop
    )  # found before clips are read
    assert main(["budget", *(a.format_map(folders) for a in arguments)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "option", "message"),
    [
        ("compare", "--times=soon", "soon"),
        ("compare", "--num-chips=0", "--num-chips must be"),
        ("compare", "--processes=0", "--processes must be"),
        ("listen", "--seed=99999999999999999999", "--seed must lie in"),
    ],
)
def test_wrong_values_are_found_before_clips_are_read(
    command: str, option: str, message: str, finished: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("analogtorch.speech.folder.Folder.load", stop)
    monkeypatch.setattr("analogtorch.cli.listen.read_recording", stop)
    audio = ["a.wav"] if command == "listen" else []
    assert main([command, str(finished), *audio, option]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [("sweep.seed", 5), ("chip.correct", False), ("chip.writing", "gradient_descent"), ("seed", 7)],
)
@pytest.mark.parametrize("command", ["budget", "compare", "listen"])
def test_a_configuration_edited_since_is_that_of_another_run(
    command: str, option: str, value: object, corrected: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(corrected, out)
    config = json.loads((out / "config.json").read_text())
    *group, name = option.split(".")
    of_group = config[group[0]] if group else config
    was, of_group[name] = of_group[name], value
    (out / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("analogtorch.speech.folder.Folder.load", stop)
    soundfile.write(tmp_path / "long.wav", np.zeros(32000), 16000)
    audio = [str(tmp_path / "long.wav")] if command == "listen" else []
    assert main([command, str(out), *audio]) == 2
    error = capsys.readouterr().err
    assert f"{out}/config.json is not that of the run: {option} was {was!r} and is" in error
    assert f"--config {out}/config.json --out" in error
    config["sweep"]["num_chips"], of_group[name] = 7, was  # these may change, and the data
    (out / "config.json").write_text(json.dumps(config))
    assert main([command, str(out), *audio]) == (0 if audio else 2)
    assert ("stop here" in capsys.readouterr().err) is not bool(audio)


@pytest.mark.parametrize("command", ["budget", "listen"])
def test_damaged_descriptions_of_a_run_say_what_to_do(
    command: str, finished: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    soundfile.write(tmp_path / "long.wav", np.zeros(32000), 16000)
    given = [command, str(out), *[str(tmp_path / "long.wav")] * (command == "listen")]
    whole = {name: (out / name).read_bytes() for name in ("config.json", JOURNAL)}
    monkeypatch.setattr("analogtorch.speech.folder.Folder.load", stop)
    anew = f"; copy it back, or write into it the object that is called config in {out / JOURNAL}"
    for damaged, message in (
        (whole["config.json"][:-200], "config.json is not YAML that can be loaded safely"),
        (b"[]", "config.json holds no options"),
        (None, "config.json is missing"),
    ):
        if damaged is None:
            (out / "config.json").unlink()
        else:
            (out / "config.json").write_bytes(damaged)
        assert main(given) == 2
        error = capsys.readouterr().err
        assert f"{command}: {out}/{message}" in error
        assert error.endswith(f"{anew}\n")
    (out / "config.json").write_bytes(b"# of a user's\n" + whole["config.json"])
    assert main(given) == (0 if command == "listen" else 2)  # a comment is none
    assert ("stop here" in capsys.readouterr().err) is (command == "budget")
    written = json.dumps(json.loads(whole[JOURNAL])["config"], indent=2) + "\n"  # as it says
    assert written.encode() == whole["config.json"]
    (out / "config.json").write_text(written)
    (out / JOURNAL).write_bytes(whole[JOURNAL][:-200])
    only_copy = "nothing else tells what the run was made with: copy it back\n"
    assert main(given) == 2
    error = capsys.readouterr().err
    assert f"{command}: {out / JOURNAL}: is not JSON" in error
    assert error.endswith(only_copy)
    (out / "config.json").unlink()
    assert main(given) == 2
    error = capsys.readouterr().err
    assert f"{command}: {out}/config.json is missing, and {out / JOURNAL}: is not JSON" in error
    assert error.endswith(only_copy)


@pytest.mark.parametrize(
    ("command", "option", "name"),
    [
        ("listen", "--json", "report.json"),
        ("listen", "--csv", "config.json"),
        ("budget", "--plot", "accuracy.png"),
        ("compare", "--csv", "chips/hwa/chip-00001.json"),
        ("compare", "--json", "journal.json"),
    ],
)
def test_results_are_not_written_over_files_of_a_run(
    command: str, option: str, name: str, finished: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(finished.parent)
    monkeypatch.setattr("analogtorch.cli.listen.read_recording", stop)
    monkeypatch.setattr("analogtorch.speech.folder.Folder.load", stop)
    before = listing(finished)
    audio = ["a.wav"] if command == "listen" else []
    file = Path(finished.name) / name
    assert main([command, str(finished), *audio, option, str(file)]) == 2
    error = capsys.readouterr().err
    assert f"{option}: {file} is a file of the run in {finished}: name another file" in error
    other = file.with_stem("mine")  # beside them it may lie
    assert main([command, str(finished), *audio, option, str(other)]) == 2
    assert "stop here" in capsys.readouterr().err
    assert listing(finished) == before


@pytest.mark.parametrize("earlier", [False, True], ids=["as it is", "of an earlier version"])
@pytest.mark.parametrize(
    ("name", "held", "message"),
    [
        ("hwa", "of a digital net", "has no ranges, which a net that was trained for the chip has"),
        ("hwa", "of another net", "does not fit the network of the run, conv"),
        ("digital", "of another net", "does not fit the network of the run, conv"),
        ("correcting", "of another net", "holds no clips for the front end of the run, logmel"),
    ],
)
def test_weights_and_clips_of_another_network_are_named(
    name: str, held: str, message: str, earlier: bool, corrected: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    shutil.copytree(corrected, out)
    soundfile.write(tmp_path / "long.wav", np.zeros(32000), 16000)
    commands = [["listen", str(out), str(tmp_path / "long.wav")]]
    if name != "correcting":
        network = f"--network={name}"
        commands = [[*commands[0], network], ["budget", str(out), network]]
    if earlier:
        journal = parse_json((out / JOURNAL).read_bytes())
        del journal["digests"], journal["checksum"]
        (out / JOURNAL).write_text(json.dumps(signed(journal)))
        assert main(commands[0]) == 0
    else:
        message = "is not what the run wrote: it is damaged, or of another run or network"
    if held == "of a digital net":
        shutil.copy(out / "digital.pt", out / "hwa.pt")
    else:
        clips, weights = torch.zeros(64, 1, 9, 10), torch.nn.LSTM(3, 2).state_dict()
        other = clips if name == "correcting" else weights
        (out / f"{name}.pt").write_bytes(packed(other))
    for command in commands:
        capsys.readouterr()
        assert main(command) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"{out}/{name}.pt {message}" in error
        assert f"analogtorch kws --config {out}/config.json --out {out} --resume" in error


@pytest.mark.parametrize(
    ("phase", "step"), [pytest.param("digital", 7, marks=pytest.mark.slow), ("hwa", 4)]
)
def test_a_killed_run_resumes_to_the_same_weights(
    phase: str, step: int, clips: Path, finished: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    fit, whole = (
        training.fit,
        [torch.load(finished / f"{n}.pt", weights_only=True) for n in ("digital", "hwa")],
    )

    def killed(*args, checkpoint: Path, **options):
        callbacks = (Kill(step),) if checkpoint.stem == phase else ()
        return fit(*args, checkpoint=checkpoint, callbacks=callbacks, **options)

    monkeypatch.setattr(training, "fit", killed)
    assert run(clips, tmp_path) == 130
    assert "--resume" in capsys.readouterr().err
    monkeypatch.undo()
    assert run(clips, tmp_path, "--resume") == 0
    for before, name in zip(whole, ("digital", "hwa"), strict=True):
        after = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert all(torch.equal(before[key], after[key]) for key in before)
    assert accuracies(tmp_path) == accuracies(finished)


@pytest.mark.parametrize("cell", [pytest.param(1, marks=pytest.mark.slow), 6])
def test_a_run_killed_within_a_sweep_measures_no_finished_cell_again(
    cell: int, clips: Path, finished: Path, tmp_path: Path, monkeypatch
) -> None:
    accuracy, calls = at.accuracy, []

    def counted(*args) -> float:
        calls.append(1)
        if len(calls) == cell + 1:
            raise KeyboardInterrupt
        return accuracy(*args)

    monkeypatch.setattr(at, "accuracy", counted)
    assert run(clips, tmp_path) == 130
    assert run(clips, tmp_path, "--resume", "--sweep.processes=1") == 0
    assert len(calls) == 2 * 2 * 2 + 1 + 1  # two nets, chips and times; the kill; the digital net
    assert accuracies(tmp_path) == accuracies(finished)


def test_resuming_with_another_configuration_is_refused(
    clips: Path, finished: Path, capsys
) -> None:
    before = (finished / "report.json").read_bytes()
    assert run(clips, finished, "--resume", "--seed=4", "--hwa.epochs=3") == 2
    error = capsys.readouterr().err
    assert "hwa.epochs was 2 and is 3; seed was 0 and is 4" in error
    assert error.count("\n") == 1
    assert (finished / "report.json").read_bytes() == before


class Stop(ValueError):
    pass


def stop(*_: object, **__: object) -> None:
    raise Stop("stop here")


def listing(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_hidden_files_are_no_run(clips: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / ".DS_Store").write_text("of a file manager")

    def stop(*_: object, **__: object) -> None:
        raise ValueError("training begins")

    monkeypatch.setattr(kws, "train_digital", stop)
    assert run(clips, tmp_path) == 2
    assert "training begins" in capsys.readouterr().err
    assert (tmp_path / ".DS_Store").exists()


@pytest.mark.parametrize("more", [[], ["--resume"], ["--overwrite"]])
def test_a_folder_with_files_of_others_is_refused_and_left_alone(
    more: list[str], clips: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("checkpoints/hwa.ckpt", "report.json", "hwa.pt", "mine.txt"):
        (tmp_path / name).write_text("mine")
    before = listing(tmp_path)
    assert run(clips, tmp_path, *more) == 2
    assert "holds files, such as checkpoints, but no run; give a new" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["kws", *SMALL, "--data.folder.root=/nowhere", "--out=.", *more]) == 2
    assert main(["kws", *SMALL, f"--data.folder.root={clips}", "--out", "", *more]) == 2
    assert "--out '' names no folder; name one" in capsys.readouterr().err
    for out, message in (("${NOT_SET_HERE}/x", "NOT_SET_HERE is not set"), ("~nobody_/x", "home")):
        assert main(["kws", *SMALL, f"--data.folder.root={clips}", "--out", out, *more]) == 2
        assert message in capsys.readouterr().err
    assert main(["kws", *SMALL, f"--data.folder.root={clips}", "--out=mine.txt", *more]) == 2
    assert "mine.txt is a file; name a folder" in capsys.readouterr().err
    assert listing(tmp_path) == before


def test_a_finished_run_is_kept_unless_it_is_to_be_overwritten(
    clips: Path, finished: Path, tmp_path, capsys
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    before = listing(out)
    assert run(clips, out) == 2
    assert (
        "holds a finished run: continue it with --resume, replace it with --overwrite"
        in capsys.readouterr().err
    )
    assert run(clips, out, "--resume", "--overwrite") == 2
    assert "give one of them" in capsys.readouterr().err
    assert run(clips, out, "--overwrite", "--data.folder.manifest=other.csv") == 2
    assert run(clips, out, "--overwrite", "--sweep.times=['-3 s']") == 2
    assert listing(out) == before


def test_overwriting_removes_what_the_journal_lists_and_nothing_else(
    clips: Path, finished: Path, tmp_path: Path, monkeypatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    for name in ("mine.pt", "checkpoints/mine.ckpt", ".mine.part"):
        (out / name).write_text("mine")
    (out / "checkpoints/.hwa.ckpt.x1.part").write_text("what a killed process was writing")
    monkeypatch.setattr(kws, "train_digital", stop)
    assert run(clips, out, "--overwrite") == 2
    assert sorted(listing(out)) == [
        ".mine.part", "checkpoints/mine.ckpt", "config.json", "journal.json", "mine.pt",
    ]  # fmt: skip
    journal = json.loads((out / "journal.json").read_text())
    assert (journal["files"], journal["finished"]) == (["config.json"], False)


def test_what_a_process_leaves_that_was_killed_as_it_began_is_no_file_of_others(
    clips: Path, tmp_path, capsys, monkeypatch
) -> None:
    (tmp_path / ".journal.json.x1.part").write_text("{")
    monkeypatch.setattr(kws, "train_digital", stop)
    assert run(clips, tmp_path, "--resume") == 2
    assert "holds files" not in capsys.readouterr().err
    assert sorted(listing(tmp_path)) == ["config.json", "journal.json"]


def test_processes_of_torchrun_are_no_run(clips: Path, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(clips, tmp_path / "out") == 2
    assert "torchrun has started 2 processes, and a run is one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(kws, "train_digital", stop)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert run(clips, tmp_path / "out") == 2
    assert "stop here" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "")  # of another program
    assert run(clips, tmp_path / "out", "--resume") == 2
    assert "stop here" in capsys.readouterr().err
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert run(clips, tmp_path / "out", "--resume") == 2
    assert "stop here" in capsys.readouterr().err


def test_commands_that_messages_give_take_folders_that_begin_with_a_hyphen() -> None:
    command = started("kws", Path("-mine"), Path("-mine/again"), allow_code=False)
    given = shlex.split(command)[2:]
    parsed = parse([option for option in given if option != "./-mine/config.json"][1:])
    assert given[1] == "./-mine/config.json"
    assert parsed.out == Path("-mine/again")


@pytest.mark.slow
def test_a_run_goes_on_with_the_ranges_that_it_has_found(
    clips: Path, finished: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    """Another processor or version would find others in their last digits."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    calibrate = at.calibrate

    def elsewhere(model, *args, **options):
        found = calibrate(model, *args, **options)
        for _, layer in at.analog_layers(found):
            if layer.calibrated:
                layer.input_range.data.mul_(1 + 1e-6)
        return found

    monkeypatch.setattr(at, "calibrate", elsewhere)
    assert run(clips, tmp_path, "--resume", "--report.clips=1") == 0
    assert accuracies(tmp_path) == accuracies(finished)
    kept = tmp_path / "checkpoints/direct.pt"
    capsys.readouterr()
    kept.write_bytes(kept.read_bytes()[:-9])
    assert run(clips, tmp_path, "--resume") == 2
    assert f"{kept} is damaged, or of another network" in capsys.readouterr().err
    other = torch.load(tmp_path / "checkpoints/hwa-new-ranges.pt", weights_only=True)
    kept.write_bytes(packed(other))
    assert run(clips, tmp_path, "--resume") == 2  # of the same shapes and other weights
    assert f"{kept} is damaged, or of another network" in capsys.readouterr().err
    kept.unlink()  # as earlier versions left it out
    before = {name: data for name, data in listing(tmp_path).items() if name.startswith("chips/")}
    assert run(clips, tmp_path, "--resume") == 2
    assert "chips/direct are of other numbers than those of the network now" in (
        capsys.readouterr().err
    )
    after = {name: data for name, data in listing(tmp_path).items() if name.startswith("chips/")}
    assert after == before


def test_times_that_are_the_same_are_named(tmp_path: Path, capsys) -> None:
    assert run(tmp_path, tmp_path / "out", "--sweep.times=['1 day', '24 h']") == 2
    assert "but '1 day' and '24 h' are the same" in capsys.readouterr().err


def test_errors_on_clips_name_options_of_the_command(tmp_path: Path, capsys) -> None:
    for name, rate, options in (
        ("low", 8_000, "--data.folder.resample true"),
        ("high", 16_000, "--data.folder.fit pad_or_trim"),
    ):
        root = tmp_path / name
        for path in ("train/low", "train/high", "val/low", "val/high", "test/low", "test/high"):
            (root / path).mkdir(parents=True)
            soundfile.write(root / path / "a.wav", np.ones(12_000, np.int16), rate)
        assert run(root, tmp_path / "out") == 2
        assert options in capsys.readouterr().err
    assert run(root, tmp_path / "out", "--data.folder.labels=[low, mid]") == 2
    assert "--data.folder.labels '[low, high]'" in capsys.readouterr().err


def test_a_file_in_the_way_is_found_before_anything_is_trained(
    clips: Path, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(kws, "train_digital", stop)
    assert run(clips, tmp_path) == 2
    (tmp_path / "hwa.pt").write_text("mine")
    capsys.readouterr()
    for more in "--resume", "--overwrite":
        assert run(clips, tmp_path, more) == 2
        assert "hwa.pt is in the way, and no run wrote it" in capsys.readouterr().err
    assert (tmp_path / "hwa.pt").read_text() == "mine"


def test_files_of_others_among_the_measurements_are_found_before_anything_is_trained(
    clips: Path, finished: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "chips/direct/.DS_Store").write_text("of a file manager")
    (out / "chips/hwa/mine.txt").write_text("mine")
    before = listing(out)
    monkeypatch.setattr(kws, "train_digital", stop)
    assert run(clips, out, "--overwrite") == 2
    assert "chips/hwa/mine.txt is in the way, and no run wrote it" in capsys.readouterr().err
    assert listing(out) == before
    assert run(clips, out, "--resume") == 2  # its sweeps have begun
    assert "stop here" in capsys.readouterr().err
    (out / "chips/hwa/mine.txt").unlink()
    assert run(clips, out, "--overwrite") == 2
    assert "stop here" in capsys.readouterr().err


def test_lost_heads_of_measurements_are_found_before_anything_is_trained(
    clips: Path, finished: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "chips/hwa/sweep.json").unlink()
    before = listing(out)
    monkeypatch.setattr(kws, "train_digital", stop)
    assert run(clips, out, "--resume") == 2
    error = capsys.readouterr().err
    assert f"{out}/chips/hwa holds chip-00000.json and no sweep.json" in error
    assert f"remove {out}/chips/hwa to measure again" in error
    assert listing(out) == before
    shutil.rmtree(out / "chips/hwa")  # as it says
    assert run(clips, out, "--resume") == 2
    assert "stop here" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["chip-00001.json", "sweep.json"])
def test_damaged_measurements_are_found_before_anything_is_trained(
    name: str, clips: Path, finished: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    file = out / "chips/hwa" / name
    file.write_bytes(file.read_bytes()[:-40])
    before = listing(out)
    monkeypatch.setattr(kws, "train_digital", stop)
    assert run(clips, out, "--resume") == 2
    error = capsys.readouterr().err
    assert f"{file} is damaged" in error
    assert "to measure" in error
    assert listing(out) == before
    assert run(clips, out, "--overwrite") == 2  # it goes with the others
    assert "stop here" in capsys.readouterr().err


def test_files_beside_the_measurements_are_none(
    clips: Path, finished: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    for name in "chip-compared.json", "chip-00099.json":  # the run has 2 chips
        (out / "chips/hwa" / name).write_text("{}")
    monkeypatch.setattr(kws, "train_digital", stop)
    assert run(clips, out, "--resume") == 2
    assert "stop here" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["digital", "hwa"])
def test_a_flipped_bit_in_a_checkpoint_is_no_other_training(
    name: str, clips: Path, finished: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    file = out / f"checkpoints/{name}.ckpt"
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 8
    file.write_bytes(data)
    assert run(clips, out, "--resume") == 2
    assert f"{file} is no checkpoint, or damaged" in capsys.readouterr().err


def test_two_runs_in_one_folder_are_refused(
    clips: Path, finished: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    with locked(tmp_path), RunFolder.open(out, KWSConfig()):
        for more in [], ["--resume"], ["--overwrite"]:
            assert run(clips, out, *more) == 2
            assert f"another run is at work in {out}" in capsys.readouterr().err


def test_a_damaged_journal_is_named(clips: Path, finished: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    text = (out / "journal.json").read_text()
    outside = json.loads(text)
    del outside["checksum"]
    outside["files"] = ["../mine.txt"]
    (tmp_path / "mine.txt").write_text("mine")
    for damaged, message in (
        (text.replace('"finished": true', '"finished": false'), "'checksum' does not belong"),
        (text[: len(text) // 2], "is not JSON"),
        ("{}", "its format is not"),
        (json.dumps(outside), "which is not inside the folder"),
    ):
        (out / "journal.json").write_text(damaged)
        for more in [], ["--resume"], ["--overwrite"]:
            before = listing(tmp_path)
            assert run(clips, out, *more) == 2
            error = capsys.readouterr().err
            assert f"{out / 'journal.json'}: " in error
            assert message in error
            assert listing(tmp_path) == before


def test_settings_without_influence_may_change_on_resume(
    clips: Path, finished: Path, tmp_path: Path, monkeypatch
) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "clips"
    shutil.copytree(finished, out)
    shutil.copytree(clips, elsewhere)
    journal = json.loads((out / "journal.json").read_text())
    del journal["checksum"]
    # as earlier versions called it
    journal["config"]["sweep"]["chips"] = journal["config"]["sweep"].pop("num_chips")
    others = {"hidden": [512, 512], "patch": 1}
    journal["config"]["model"] |= journal["config"]["model"].pop("options") | others
    del journal["config"]["features"], journal["code"]
    (out / "journal.json").write_text(json.dumps(journal))
    more = [
        "--resume",
        "--workers=1",
        "--sweep.num_chips=3",
        "--sweep.times=['0 s', '1 day', '1 year']",
    ]
    more += ["--data.synthetic.cache=null", "--data.folder.fit=pad_or_trim"]
    assert run(elsewhere, out, *more) == 0
    report, before = accuracies(out), accuracies(finished)
    assert report["digital"] == before["digital"]
    assert list(report["hwa"]) == ["0 s", "1 day", "1 year"]
    assert report["hwa"]["1 day"]["num_chips"] == 3
    later = (out / "chips/hwa/chip-00002.json").read_bytes()
    accuracy, calls = at.accuracy, []
    monkeypatch.setattr(at, "accuracy", lambda *given: calls.append(1) or accuracy(*given))
    assert run(elsewhere, out, "--resume") == 0  # fewer chips and times, as it was begun with
    assert len(calls) == 1  # the digital net
    assert accuracies(out) == before
    assert (out / "chips/hwa/chip-00002.json").read_bytes() == later


def test_other_recordings_are_refused_on_resume(
    clips: Path, finished: Path, tmp_path: Path, capsys
) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "clips"
    shutil.copytree(finished, out)
    shutil.copytree(clips, elsewhere)
    samples, rate = soundfile.read(elsewhere / "yes-val-0.wav", dtype="int16")
    samples[100] += 1
    soundfile.write(elsewhere / "yes-val-0.wav", samples, rate)
    before = listing(out)
    assert run(elsewhere, out, "--resume") == 2
    error = capsys.readouterr().err
    assert f"was begun with other recordings (data.folder.root was {str(clips)!r} and is " in error
    assert listing(out) == before


@pytest.mark.parametrize("earlier", [False, True], ids=["as it is", "of an earlier version"])
def test_other_classes_are_refused_on_resume(
    earlier: bool, clips: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    few, out = tmp_path / "clips", tmp_path / "out"
    shutil.copytree(clips, few)
    rows = (few / "manifest.csv").read_text().splitlines(keepends=True)
    (few / "manifest.csv").write_text("".join(row for row in rows if "_unknown_" not in row))
    stated = [label for label in LABELS if label != "_unknown_"]
    given = "--data.folder.labels={}".format
    monkeypatch.setattr(kws, "train_digital", stop)
    assert run(few, out, given(json.dumps(stated))) == 2
    if earlier:
        journal = parse_json((out / JOURNAL).read_bytes())
        del journal["classes"], journal["checksum"]
        (out / JOURNAL).write_text(json.dumps(signed(journal)))
    before = listing(out)
    capsys.readouterr()
    assert run(few, out, "--resume", given(json.dumps([*stated, "_unknown_"]))) == 2
    error = capsys.readouterr().err
    assert "data.folder.labels was ['_silence_'" in error
    assert " and is ['_silence_'" in error
    assert listing(out) == before
    assert run(few, out, "--resume", given(json.dumps(stated))) == 2
    assert "stop here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--hwa.batch_size=37", "batch_size=37 is more than the 36 training samples"),
        ("--sweep.seed=99999999999999999999", "sweep.seed must lie in -2^63 .. 2^63 - 1"),
        ("--seed=99999999999999999999", "use 0 to 2**63 - 1"),
        ("--augment.noise=/nowhere", "/nowhere: no such folder"),
        ("--devices=0", "devices must be an integer >= 1, got 0"),
        ("--devices=5", "digital.batch_size=12 cannot be shared by 5 devices"),
    ],
)
def test_all_options_are_checked_before_anything_is_trained(
    option: str, message: str, clips: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(kws, "train_phase", stop)
    assert run(clips, tmp_path / "out", option) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list((tmp_path / "out").glob("*"))


def test_an_ablation_may_leave_out_the_noise_whose_levels_the_run_compares() -> None:
    report = ReportConfig(ablation={"exact": {"chip.training.weight": "none"}})
    config = KWSConfig(chip=ChipConfig(levels=(1.0, 2.0)), report=report)
    (exact,) = variants(config)
    assert exact.config.chip.training.weight == "none"
    assert exact.config.chip.levels == ()


def test_an_ablation_may_have_one_of_the_levels_of_the_run() -> None:
    """Which of them the run has is found in training: it may be that of the ablation or another."""
    ablation = {"low": {"chip.training.scale": 1.0}, "high": {"chip.training.scale": 2.0}}
    chip = ChipConfig(levels=(1.0, 2.0))
    check_distinct(KWSConfig(chip=chip, report=ReportConfig(ablation=ablation)))
    same = {"same": {"hwa.distill": KWSConfig().hwa.distill}}
    with pytest.raises(ValueError, match=r"same: .* gives the same settings as the run"):
        check_distinct(KWSConfig(chip=chip, report=ReportConfig(ablation=same)))


def test_an_ablation_without_correction_needs_no_number_of_batches() -> None:
    ablation = {"as programmed": {"chip.correct": False}}
    chip = ChipConfig(correct_batches=4)
    config = KWSConfig(chip=chip, report=ReportConfig(ablation=ablation))
    check_distinct(config)
    (other,) = variants(config)
    assert (other.config.chip.correct, other.config.chip.correct_batches) == (False, 1)
    assert not other.trained


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["correct=false", "correct_batches=4"], "chip.correct_batches=4 has no effect with"),
        (["defects.on_level=0.2"], "on_level=0.2 has no effect with chip.defects.stuck_on=0; give"),
        (["defects.stuck_on=0.1", "defects.off_level=0"], "off_level=0.0 has no effect with chip"),
        (["defects.on_drifts=true"], "on_drifts=True has no effect with chip.defects.stuck_on=0"),
        (["defects.short_level=2"], "short_level=2.0 has no effect with chip.defects.short_devic"),
    ],
)
def test_settings_of_the_chip_without_effect_are_refused(
    options: list[str], message: str, clips: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("analogtorch.speech.folder.Folder.load", stop)
    assert run(clips, tmp_path, *(f"--chip.{option}" for option in options)) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    used = ["defects.stuck_on=0.1", "defects.on_level=0.2", "defects.on_drifts=true"]
    assert run(clips, tmp_path, *(f"--chip.{option}" for option in used)) == 2
    assert "stop here" in capsys.readouterr().err


@pytest.mark.parametrize("first", ["weight", "scale"])
def test_the_changes_of_an_ablation_are_made_together(first: str) -> None:
    noise = {"chip.training.weight": "gaussian", "chip.training.scale": 0.05}
    changes = noise if first == "weight" else dict(reversed(noise.items()))
    (gaussian,) = variants(
        KWSConfig(report=ReportConfig(ablation={"g": changes | {"hwa.epochs": 2}}))
    )
    assert gaussian.config.chip.training == at.TrainingNoise(weight="gaussian", scale=0.05)
    assert gaussian.config.hwa.epochs == 2


def test_a_source_checkout_knows_its_version(monkeypatch) -> None:
    def version(name: str) -> str:
        if name == "analogtorch":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(kws, "version", version)
    assert kws.versions()["analogtorch"] == at.__version__


def test_threads_are_restored(clips: Path, tmp_path: Path, monkeypatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(
        kws, "prepare", lambda *a, **k: (_ for _ in ()).throw(ValueError("stop here"))
    )
    assert run(clips, tmp_path, "--threads=3") == 2
    assert torch.get_num_threads() == before


def test_synthetic_speech_is_marked_in_the_report() -> None:
    assert "nothing about accuracy on people" in espeak.NOTE


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("-test-", "-tset-"), "there is no '_silence_-tset-0.wav'"),
        (("yes-val-0.wav,yes,", "yes-val-0.wav,yse,"), "the class 'yse' ("),
        ((",val-speaker,val", ",train-speaker,train"), "the split 'val' is empty"),
    ],
)
def test_bad_data_is_one_line_of_error_before_anything_is_trained(
    edit: tuple[str, str], message: str, clips: Path, tmp_path: Path, capsys
) -> None:
    manifest = tmp_path / "other.csv"
    manifest.write_text((clips / "manifest.csv").read_text().replace(*edit))
    assert run(clips, tmp_path / "out", f"--data.folder.manifest={manifest}") == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list((tmp_path / "out").glob("checkpoints/*"))


@pytest.mark.slow
def test_benchmark_of_hwa_training_keeps_finished_seeds(
    clips: Path, tmp_path: Path, capsys
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "gsc_v2_test12").symlink_to(clips)
    small = [option for option in SMALL if not option.startswith(("--data", "--workers", "--prog"))]
    given = [f"--data={data}", f"--out={tmp_path / 'out'}", "--chips=2", "--jobs=1", *small]
    given.append("--chip.correct=false")
    hwa.main([*given, "--seeds=1"])
    hwa.main([*given, "--seeds=2", "--recipes", "no clipping"])
    first, second = capsys.readouterr().out.split("Reports in", 1)
    lines = [line for line in (first + second).splitlines() if line.startswith("seed ")]
    assert len(lines) == 3
    assert "± inf" not in first  # one seed has no interval
    assert lines[1].startswith(lines[0])  # time included: it was read, not trained again
    report = json.loads((tmp_path / "out/hwa.json").read_text())
    loss = report["differences"]["loss of no clipping at 1 year"]
    expected = [
        100 * (r["control"] - r["recipes"]["no clipping"]["on_chip"]["1 year"]["mean"])
        for r in report["results"]
    ]
    assert loss["seeds"] == pytest.approx(expected)
    page = (tmp_path / "out/hwa.md").read_text()
    assert "<= 1.5" in page
    (row,) = (line for line in page.splitlines() if line.startswith("| no clipping |"))
    assert f"| {sum(expected) / 2:.2f} (" in row


@pytest.mark.filterwarnings("ignore:calibrate. inputs have a mean:UserWarning")
def test_speech_commands_as_a_source(tmp_path: Path) -> None:
    root = tmp_path / "SpeechCommands/speech_commands_v0.02"
    random = np.random.default_rng(0)

    def write(path: Path, seconds: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(
            path, (1000 * random.standard_normal(16_000 * seconds)).astype(np.int16), 16_000
        )

    chosen: dict[str, list[str]] = {split: [] for split in ("train", "val", "test")}
    for number in range(1000):
        split = which_set(f"{number:08x}")
        if len(chosen[split]) < (2 if split == "train" else 1):
            chosen[split].append(f"{number:08x}")
    for speaker in [s for speakers in chosen.values() for s in speakers]:
        for word in (*LABELS[2:], "bed"):
            write(root / word / f"{speaker}_nohash_0.wav", 1)
    write(root / "_background_noise_/noise.wav", 20)
    small = [option for option in SMALL if not option.startswith("--data")]
    given = [
        "--chip.correct=false",
        "--data.source=speech_commands",
        f"--data.speech_commands.root={tmp_path}",
        f"--out={tmp_path / 'out'}",
    ]
    assert main(["kws", *small, *given]) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    counts = {"train": 24, "val": 12, "test": 12}
    assert report["data"] == {"source": "speech_commands", "classes": list(LABELS), **counts}


@pytest.mark.slow
def test_real_speech(data_root: Path, tmp_path: Path) -> None:
    """One seed has a standard error of 0.8 points on 1,118 clips.

    That of the mean over 3 chips is about 1 point.
    """
    config = Path(__file__).parents[2] / "configs" / "kws" / "real.yaml"
    given = [
        f"--data.folder.root={data_root / 'gsc_v2_test12'}",
        f"--out={tmp_path}",
        "--sweep.num_chips=3",
    ]
    assert main(["kws", f"--config={config}", *given]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["digital"]["accuracy"] > 0.88
    assert report["hwa"]["1 day"]["mean"] > report["digital"]["accuracy"] - 0.03
    assert report["hwa"]["1 year"]["mean"] > report["direct"]["1 year"]["mean"]


def test_the_noise_of_the_devices_can_be_asked_for(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "chip: {training: {weight: device, time: 3600, drop_connect: 0.01}}\n"
    )
    for given, time in (
        ([], 3600.0),
        (["--chip.training.time=1 year", "--chip.training.per_sample=true"], "1 year"),
        (['--chip.training.time=["0 s", "1 month"]'], ("0 s", "1 month")),
    ):
        training = (
            cli.parse([f"--config={tmp_path / 'run.yaml'}", *given]).config.chip.build().training
        )
        expected = at.TrainingNoise(
            weight="device", time=time, drop_connect=0.01, per_sample=time == "1 year", scale=None
        )
        assert dataclasses.replace(training, scale=None) == expected


def test_defects_of_the_chips_can_be_asked_for(tmp_path: Path, clips: Path, monkeypatch) -> None:
    (tmp_path / "run.yaml").write_text("chip: {defects: {stuck_on: 0.002, on_level: 0.5}}\n")
    given = [f"--config={tmp_path / 'run.yaml'}", "--chip.defects.open_rows=0.01"]
    given.append("--chip.correct=false")
    config = cli.parse(given).config
    expected = at.Defects(stuck_on=0.002, on_level=0.5, open_rows=0.01)
    assert config.chip.defects == expected
    seen = []
    monkeypatch.setattr(at, "sweep", lambda *_, **options: seen.append(options["defects"]))
    measure(config, SimpleNamespace(test_batches=list, calibration=()), None)
    assert seen == [expected]
    assert conditions_of(config) == {"chip.defects": expected.summary}


@pytest.mark.slow
def test_figures_of_chips_with_defects_say_so(clips: Path, tmp_path: Path, capsys) -> None:
    out, saved = tmp_path / "out", tmp_path / "found.json"
    options = ["--chip.defects.open_rows=0.02", "--chip.drift_aware=1 day", "--sweep.num_chips=1"]
    options += ["--chip.compensation=column", "--sweep.times=['1 day']", "--report.num_chips=1"]
    assert run(clips, out, *options, "--hwa.epochs=1", "--report.sensitivity=true") == 0
    printed = capsys.readouterr().out
    broken = "broken are 2 % of the rows (open)"
    said = [
        f"On the chips, {broken} (chip.defects).",
        "On the chips, drift is compensated by one factor per column, of the mean magnitude of its "
        "cells (chip.compensation).",
        "On the chips, targets of devices allow for drift, right after 1 day (chip.drift_aware).",
    ]
    report = (out / "report.md").read_text()
    for note in said:
        assert f"Note: {note}" in printed
        assert f"> **{note.replace('_', chr(92) + '_')}**" in report
    assert f"In noise (0 s) and drift (1 day), {broken}." in report
    given = [str(out), f"--json={saved}"]
    of_budget = [broken, *(note[14 : note.index(" (chip")] for note in said[1:])]
    assert main(["budget", *given, "--num-chips=1"]) == 0
    assert json.loads(saved.read_text())["conditions"] == of_budget
    assert main(["listen", *given, "--mix=10"]) == 0
    assert json.loads(saved.read_text())["stream"]["conditions"] == of_budget
    options = ["--num-chips=1", "--chips", "ideal", "--times", "1 day"]
    assert main(["compare", *given, *options]) == 0
    assert json.loads(saved.read_text())["conditions"] == of_budget[:2]


@pytest.mark.slow
def test_layers_can_stay_digital(clips: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    given = ["--digital.epochs=1", "--hwa.epochs=1", "--report.clips=0", "--chip.training.scale=2"]
    assert run(clips, tmp_path / "wrong", "--chip.digital=[heads]", *given) == 2
    message = "chip.digital: convert: pattern 'heads' matches none of the .* that can be analog"
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "wrong" / JOURNAL).exists()
    out = tmp_path / "run"
    assert run(clips, out, "--chip.digital=[head, stem*]", *given) == 0
    _, _, net = finished_run("budget", out, "hwa", allow_code=False)
    assert not {"head", "stem.0"} & dict(at.analog_layers(net)).keys()
    assert dict(at.analog_layers(net))
    capsys.readouterr()
    compared = ["compare", str(out), "--chips", "hermes64", "--times", "1 year", "--num-chips", "1"]
    monkeypatch.delattr(at, "calibrate")  # another training noise makes no other chip
    assert main([*compared, f"--json={tmp_path / 'c.json'}"]) == 0
    assert "converted 2 layers" in capsys.readouterr().err
    found = json.loads((tmp_path / "c.json").read_text())["chips"]["hermes64"]["sweep"]
    measured = json.loads((out / "report.json").read_text())["hwa"]
    assert found["1 year"]["values"] == measured["1 year"]["values"][:1]


def test_cells_that_cannot_share_a_weight_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"chip.cells must be .*0"):
        ChipConfig(cells=0)
    pairs = at.devices.SignificancePairs(device=at.devices.hermes_one_device())
    at.chips.save(at.chips.hermes64().replace(cell=pairs), file := tmp_path / "pairs.json")
    assert ChipConfig(name=str(file)).cells == 1
    with pytest.raises(ValueError, match=r"chip.cells=2 on hermes64: .*write significances="):
        ChipConfig(name=str(file), cells=2)


@pytest.mark.slow
def test_several_unit_cells_may_hold_each_weight(clips: Path, tmp_path: Path, monkeypatch) -> None:
    out, given = tmp_path / "run", ["--digital.epochs=1", "--hwa.epochs=1", "--report.clips=0"]
    assert run(clips, out, "--chip.cells=2", *given) == 0
    report = json.loads((out / "report.json").read_text())
    assert "On the chips, 2 unit cells hold each weight (chip.cells)." in report["notes"]
    _, task, net = finished_run("budget", out, "hwa", allow_code=False)
    chip = at.chips.hermes64()
    assert {layer.chip.cell.devices for _, layer in at.analog_layers(net)} == {4}
    mapping = at.map_to_chip(net, task.test[0][:1], chip=chip)
    assert {matrix.cells for matrix in mapping.matrices} == {2}
    assert report["tiles"] == mapping.tiles_used
    assert report["cost"]["energy"]["system"] == at.cost(mapping).energy.system
    monkeypatch.delattr(at, "calibrate")  # it is the chip of the run
    compared = ["compare", str(out), "--chips", "hermes64", "--times", "1 year", "--num-chips", "1"]
    assert main([*compared, f"--json={tmp_path / 'c.json'}"]) == 0
    found = json.loads((tmp_path / "c.json").read_text())["chips"]["hermes64"]["sweep"]
    assert found["1 year"]["values"] == report["hwa"]["1 year"]["values"][:1]


@pytest.mark.slow
def test_other_layers_may_stay_digital_beside_the_run(
    clips: Path, finished: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    given = "--report.ablation={{head digital: {{hwa.epochs: 1, chip.digital: [{}]}}}}".format
    with monkeypatch.context() as patch:
        patch.setattr(kws, "train_digital", None)
        assert run(clips, out, "--resume", given("haed")) == 2
    message = capsys.readouterr().err
    assert "report.ablation: head digital: chip.digital: " in message
    assert "haed" in message
    assert run(clips, out, "--resume", given("head")) == 0
    report = json.loads((out / "report.json").read_text())
    assert "head digital" in report["ablation"]
    err = capsys.readouterr().err
    assert "converted 4 layers" in err
    assert "for the report: head digital\nconverted 3 layers" in err


@pytest.mark.slow
def test_the_chip_may_be_in_a_file_whose_content_is_part_of_the_run(
    clips: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    mine, out = tmp_path / "mine.yaml", tmp_path / "out"
    at.chips.save(at.chips.hermes64(phases=1), mine)
    monkeypatch.setattr(kws, "train_digital", stop)
    assert run(clips, out, CORRECTED, f"--chip.name={mine}") == 2
    assert "stop here" in capsys.readouterr().err
    earlier = cli.parse([f"--config={out / 'config.json'}"]).config
    assert earlier.chip.build() == at.chips.hermes64(phases=1).replace(
        training=earlier.chip.training
    )
    at.chips.save(at.chips.hermes64(phases=4), mine)
    assert cli.parse([f"--config={out / 'config.json'}"]).config == earlier
    assert run(clips, out, CORRECTED, f"--chip.name={mine}", "--resume") == 2
    assert "has another configuration: chip.options." in capsys.readouterr().err
    stated = json.loads((out / "config.json").read_text())
    del stated["chip"]["correct"]  # as before there were corrections
    (out / "config.json").write_text(json.dumps(stated))
    assert (
        cli.parse([f"--config={out / 'config.json'}"]).config.chip.build() == earlier.chip.build()
    )
    again = cli.parse([f"--config={out / 'config.json'}", f"--chip.name={mine}"]).config.chip
    assert again.build() == at.chips.hermes64().replace(training=again.training)
    preset = cli.parse([f"--config={out / 'config.json'}", "--chip.name=neurram48"]).config.chip
    assert preset.build() == at.chips.neurram48().replace(training=preset.training)
    for given, options in (
        (["--chip={name: hermes64}"], {}),
        (["--chip", "{name: hermes64, options: {phases: 1}}"], {"phases": 1}),
        (["--chip.name=hermes64", "--chip.options.phases=1"], {"phases": 1}),
        (["--chip.options.phases=1", "--chip={name: hermes64}"], {"phases": 1}),
    ):
        preset = cli.parse([f"--config={out / 'config.json'}", *given]).config.chip
        assert (preset.name, preset.options) == ("hermes64", options)
    kept = cli.parse([f"--config={out / 'config.json'}", "--chip={correct: true}"]).config
    assert kept == earlier
    with pytest.raises(ValueError, match=r"and hermes64 is a preset: give its own options beside"):
        ChipConfig(name="hermes64", options=earlier.chip.options)
    assert run(clips, out, "--chip.name=nowhere.yaml") == 2
    assert "nowhere.yaml" in capsys.readouterr().err
    assert run(clips, out, f"--chip.name={mine}", "--chip.options={phases: 1}") == 2
    assert "are all that is in it: leave them out" in capsys.readouterr().err


@pytest.mark.slow
def test_chips_can_be_written_closer(
    clips: Path, corrected: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes, correction = [], at.GradientDescent.correction

    def counted(*args: Any, **kwargs: Any) -> Any:
        writes.append(args[0])
        return correction(*args, **kwargs)

    monkeypatch.setattr(at.GradientDescent, "correction", counted)
    shutil.copytree(corrected, tmp_path, dirs_exist_ok=True)
    before = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    ablation = (
        "{once: {chip.correct: false}, "
        "closer: {chip.correct: false, chip.writing: gradient_descent}}"
    )
    assert run(clips, tmp_path, CORRECTED, "--resume", f"--report.ablation={ablation}") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["ablation"])[-2:] == ["once", "closer"]
    assert set(writes) == {at.GradientDescent()}
    # the net of the run is measured, no other is trained
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == before
    *_, other = variants(cli.parse([f"--config={tmp_path / 'config.json'}"]).config)
    assert other.config.chip.method == at.GradientDescent()
    assert run(clips, tmp_path, CORRECTED, "--resume", "--chip.writing=gradient_descent") == 2
    assert "chip.writing was 'once' and is 'gradient_descent'" in capsys.readouterr().err


def test_chips_can_correct_their_columns(
    clips: Path, corrected: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    shutil.copytree(corrected, out)
    options = ["--report.time=1 year", "--report.budget=true", "--report.clips=0"]
    # the net of a run is measured otherwise without another training
    options += ["--report.ablation={as it is: {chip.correct: false}}"]
    assert run(clips, out, CORRECTED, "--resume", *options) == 0
    report = json.loads((out / "report.json").read_text())
    _, task, net = finished_run("budget", out, "hwa", allow_code=False)
    chips = [at.program(net, seed=seed).at("1 year") for seed in report["confusion"]["seeds"]]
    batches = task.test_batches()
    first = task.calibration[:1]
    by_hand = [at.accuracy(at.correct_columns(v, first, rounds=1), batches) for v in chips]
    (said,) = (note for note in report["notes"] if "correct gain and offset" in note)
    assert f"from {len(task.calibration[0])} training clips" in said
    # sweep, confusions and budget look at the same chips, and so do the commands that go on
    expected = pytest.approx(sum(by_hand) / 2)
    assert report["hwa"]["1 year"]["mean"] == expected
    right = sum(row[i] for i, row in enumerate(report["confusion"]["chips"]))
    assert right / (2 * 24) == expected
    assert report["budget"]["reference"] - report["budget"]["total"]["mean"] == expected
    swept = at.sweep(net, at.metrics.accuracy(batches), num_chips=2, times=["1 year"])
    assert report["ablation"]["as it is"]["accuracy"]["1 year"]["mean"] == swept.mean.item()
    compared = tmp_path / "compared.json"
    given = ["compare", str(out), "--chips", "hermes64", "--num-chips=2", "--times", "1 year"]
    assert main([*given, f"--json={compared}"]) == 0
    (of_it,) = json.loads(compared.read_text())["chips"].values()
    assert of_it["sweep"]["1 year"]["mean"] == expected
    soundfile.write(tmp_path / "long.wav", np.zeros(32000), 16000)
    assert main(["listen", str(out), str(tmp_path / "long.wav")]) == 0
    assert run(clips, out, "--resume", "--chip.correct=false") == 2
    assert "chip.correct was True and is False" in capsys.readouterr().err


@pytest.mark.slow
def test_columns_learn_from_several_batches(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    given = [
        CORRECTED,
        "--digital.epochs=1",
        "--hwa.epochs=1",
        "--report.clips=0",
        "--sweep.times=[1 year]",
    ]
    given += ["--chip.correct_batches=2", "--report.ablation={none: {chip.correct: false}}"]
    assert run(clips, tmp_path / "few", *given) == 2
    message = "chip.correct_batches=2, but there are 1 batches of training clips"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "few" / JOURNAL).exists()
    for module in (task_module, finished_module):
        monkeypatch.setattr(module, "AT_ONCE", 12)
    assert run(clips, tmp_path / "run", *given) == 0
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert any("from 24 training clips" in note for note in report["notes"])
    _, task, net = finished_run("budget", tmp_path / "run", "hwa", allow_code=False)
    found = []
    for batches in (task.calibration[:2], [torch.cat(task.calibration[:2])]):
        recovery = at.Recovery(batches=batches, rounds=1)
        views = [recovery.correct(at.program(net, seed=s).at("1 year")) for s in range(2)]
        found.append([v(task.test[0]).detach() for v in views])
    assert not torch.equal(found[0][0], found[1][0])  # of one batch nothing is learnt
    right = [(y.argmax(1) == task.test[1]).double().mean().item() for y in found[0]]
    assert report["hwa"]["1 year"]["values"] == pytest.approx(right)
    *_, corrections = listener("listen", tmp_path / "run", allow_code=False)
    assert corrections is not None
    assert all(map(torch.equal, corrections.batches, task.calibration[:2]))
    assert len(corrections.batches) == 2


def test_runs_that_do_not_state_defects_can_be_resumed(
    clips: Path, corrected: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "earlier"
    shutil.copytree(corrected, out)
    with RunFolder.open(out, cli.parse([f"--config={out / 'config.json'}"]).config, resume=True):
        pass
    journal = parse_json((out / JOURNAL).read_bytes())
    for name in ("defects", "writing", "digital", "drift_aware", "correct_batches", "cells"):
        del journal["config"]["chip"][name]
    for phase in PHASES:
        del journal["config"][phase]["ramp"]
    journal.pop("checksum", None)
    (out / JOURNAL).write_text(json.dumps(signed(journal)))
    assert run(clips, out, CORRECTED, "--resume", "--chip.defects.stuck_on=0.1") == 2
    assert "chip.defects.stuck_on was 0.0 and is 0.1" in capsys.readouterr().err
    assert run(clips, out, CORRECTED, "--resume") == 0
    del journal["config"]["chip"]["correct"]
    (out / JOURNAL).write_text(json.dumps(signed(journal)))
    assert run(clips, out, CORRECTED, "--resume") == 2
    assert "chip.correct was False and is True" in capsys.readouterr().err
    for file, expected in ((out / "config.json", False), (tmp_path / "mine.json", True)):
        file.write_text(json.dumps(journal["config"]))
        assert cli.parse([f"--config={file}"]).config.chip.correct is expected


def test_runs_with_values_that_have_no_effect_any_more_go_on(
    clips: Path, finished: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    out = tmp_path / "earlier"
    shutil.copytree(finished, out)
    journal = parse_json((out / JOURNAL).read_bytes())
    training = {
        "weight": "programming", "scale": 2.5, "output": True, "time": "1 day",
        "drop_connect": 0.0, "per_sample": False,
    }  # fmt: skip  # as the version of 5f47aff recorded it
    journal["config"]["chip"]["training"] = training
    journal["config"]["chip"]["correct"], journal["config"]["chip"]["correct_batches"] = False, 4
    journal["config"]["chip"]["defects"]["on_level"] = 0.5
    del journal["checksum"]
    (out / JOURNAL).write_text(json.dumps(signed(journal)))
    (out / "config.json").write_text(json.dumps(journal["config"]))
    monkeypatch.setattr(kws, "train_digital", stop)
    resume = ["kws", f"--config={out / 'config.json'}", f"--out={out}", "--resume"]
    assert main(resume) == 2
    assert "stop here" in capsys.readouterr().err
    assert main([*resume, "--chip.training.scale=1.5"]) == 2
    assert "chip.training.scale was 2.5 and is 1.5. Resume" in capsys.readouterr().err
    monkeypatch.setattr("analogtorch.speech.folder.Folder.load", stop)
    for command in ["budget"], ["compare"], ["listen", "--mix=2"]:
        assert main([command[0], str(out), *command[1:]]) == 2
        assert "stop here" in capsys.readouterr().err


def test_runs_that_do_not_state_their_calibration_found_ranges_alone(
    clips: Path, finished: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "earlier"
    shutil.copytree(finished, out)
    journal = parse_json((out / JOURNAL).read_bytes())
    del journal["config"]["chip"]["calibration"]
    journal.pop("checksum", None)
    (out / JOURNAL).write_text(json.dumps(signed(journal)))
    (out / "config.json").write_text(json.dumps(journal["config"]))
    assert run(clips, out, "--resume") == 2
    assert "chip.calibration was 'ranges' and is 'default'" in capsys.readouterr().err
    earlier = cli.parse([f"--config={out / 'config.json'}"]).config
    assert earlier.chip.calibration == "ranges"
    assert cli.parse(["--chip.name=hermes64"]).config.chip.calibration == "default"
    with RunFolder.open(out, earlier, resume=True):
        pass


def test_the_configuration_decides_what_calibrate_chooses() -> None:
    torch.manual_seed(0)
    net = torch.nn.Linear(24, 3)
    net.weight.data[0] *= 0.01  # which one scale for all columns loses
    task = SimpleNamespace(calibration=tuple(torch.randn(4, 50, 24)))
    scales = {}
    for effort in ("ranges", "default"):
        chip = dataclasses.replace(KWSConfig().chip, calibration=effort)
        model = kws.to_chip(dataclasses.replace(KWSConfig(), chip=chip), task, net)
        scales[effort] = model.chip.periphery.weight_scale
    assert scales == {"ranges": "block", "default": "column"}


@pytest.mark.filterwarnings("ignore:calibrate. inputs have a mean:UserWarning")
def test_a_run_that_searches_for_its_calibration_rehearses_it(
    clips: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(kws, "train_digital", stop)
    many, search = tmp_path / "clips", "--chip.calibration=search"
    many.mkdir()
    write_tones(many, {"train": 11, "val": 1, "test": 1})
    net = "--model={name: fully_connected, options: {hidden: [8]}}"
    assert run(many, tmp_path / "out", net, search) == 2
    printed = capsys.readouterr()
    assert "stop here" in printed.err
    assert "less error" not in printed.out  # of a net that has learnt nothing
    assert run(clips, tmp_path / "few", net, search) == 2
    error = capsys.readouterr().err
    assert "chip.calibration=search needs 3 batches of training clips, which are 129" in error
    assert "got 36; add clips, or use chip.calibration=default" in error
    assert not (tmp_path / "few").exists()
