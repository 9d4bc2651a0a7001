"""The benchmark of hardware-aware training: what its folder keeps, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
from torch import nn

import analogtorch as at
from analogtorch.evaluate import Sweep
from analogtorch.speech import kws
from analogtorch.speech.config import KWSConfig, SweepConfig
from analogtorch.speech.task import Task
from benchmarks import ir_drop
from benchmarks.hwa import __main__ as hwa
from benchmarks.hwa import seeds
from benchmarks.record.cases.speech import write_tones

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, classes, input_shape):
        layers = nn.AvgPool2d(7), nn.Flatten(), nn.Linear(35, 8), nn.ReLU(), nn.Linear(8, classes)
        super().__init__(*layers)
"""
SMALL = [
    "--model.name=net.py:Net", "--features.name=logmel", "--digital.epochs=1", "--hwa.epochs=1",
    "--digital.batch_size=12", "--hwa.batch_size=12", "--sweep.times=['0 s']", "--seeds=1",
    "--chips=1", "--jobs=1", "--out=out",
]  # fmt: skip


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a tone for each class, and the network, into the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "data/gsc_v2_test12").mkdir(parents=True)
    write_tones(tmp_path / "data/gsc_v2_test12", {"train": 3, "val": 1, "test": 2})
    return tmp_path


def bench(*more: str, main: Callable[[list[str]], None] = hwa.main) -> None:
    main([f"--data={Path.cwd() / 'data'}", *SMALL, *more])


@pytest.mark.parametrize(
    ("main", "more"),
    [
        pytest.param(hwa.main, [], id="recipes"),
        pytest.param(hwa.main, ["--table=noise"], id="noise", marks=pytest.mark.slow),
        pytest.param(ir_drop.main, [], id="ir_drop", marks=pytest.mark.slow),
    ],
)
def test_finished_seeds_are_not_those_of_other_recordings_or_code(
    main: Callable[[list[str]], None], more: list[str], data: Path, monkeypatch
) -> None:
    monkeypatch.setattr(hwa.noise, "RECIPES", {"0%": {"chip.training.output": False}})
    monkeypatch.setattr(hwa, "_write_noise", lambda *_: None)
    monkeypatch.setattr(ir_drop, "SWEEP", SweepConfig(num_chips=1, times=("0 s",)))
    bench(*more, main=main)
    before = {file: file.read_bytes() for file in (data / "out").rglob("*") if file.is_file()}
    shutil.copytree(data / "data", data / "others")
    clip = data / "others/gsc_v2_test12/yes-val-0.wav"
    samples, rate = soundfile.read(clip, dtype="int16")
    soundfile.write(clip, samples // 2, rate)
    with pytest.raises(SystemExit, match=r"was begun with other recordings \(data\.folder\.root"):
        bench(*more, f"--data={data / 'others'}", main=main)
    (data / "net.py").write_text(NET.replace("ReLU", "Tanh"))
    with pytest.raises(SystemExit, match=r"begun with another version of net\.py:Net: give that"):
        bench(*more, main=main)
    assert {file: file.read_bytes() for file in before} == before
    (data / "net.py").write_text(NET)
    bench(*more, main=main)
    journal = json.loads((data / "out/seed-0/journal.json").read_text())
    assert journal["finished"]
    assert len(journal["classes"]) == 12


def test_a_network_with_auxiliary_outputs_is_refused_before_it_is_trained(data: Path) -> None:
    (data / "net.py").write_text(
        NET
        + """
    def forward(self, x):
        logits = super().forward(x)
        return (logits, logits) if self.training else logits
"""
    )
    with pytest.raises(SystemExit, match=r"net\.py:Net, in training, gives tuple .* it must give"):
        bench()


@pytest.mark.slow
def test_recipes_that_train_nothing_else_measure_the_one_net(data: Path, monkeypatch) -> None:
    decided = []

    def recalibrated(config: KWSConfig, task: Task, network: nn.Module, *_: Any) -> nn.Module:
        decided.append((config.chip.correct, config.hwa.clip_sigma))
        return network

    monkeypatch.setattr(kws, "recalibrated", recalibrated)
    bench("--report.ablation={as programmed: {chip.correct: false}, loose: {hwa.clip_sigma: null}}")
    assert decided == [(True, 2.5), (True, None)]
    (data / "out/seed-0/hwa.json").unlink()  # of a run that was killed
    before = (data / "out/seed-0/hwa.pt").read_bytes()
    bench(
        "--report.ablation={as programmed: {chip.correct: false}, loose: {hwa.clip_sigma: null}, "
        "closer: {chip.writing: gradient_descent}}"
    )
    assert decided[2:] == [(True, 2.5)]
    assert (data / "out/seed-0/hwa.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--seed=7", "--seed has no effect here: --seeds is the number of training seeds"),
        ("--overwrite", "--overwrite has no effect here: a run goes on with the folder --out"),
        ("--resume", "--resume has no effect here: a run goes on with the folder --out"),
        ("--progress=true", "--progress has no effect here: a line is printed for each seed"),
        ("--see=7", "unrecognized arguments: --see=7"),
        ("--over", "unrecognized arguments: --over"),
    ],
)
def test_options_without_effect_are_refused(option: str, message: str, data: Path) -> None:
    for main in (hwa.main, ir_drop.main):
        with pytest.raises(SystemExit, match=message):
            bench(option, main=main)
    assert not (data / "out").exists()


def test_tiles_are_counted_as_the_report_of_a_run_counts_them(
    data: Path, monkeypatch, capsys
) -> None:
    bench()
    assert "chip hermes64, 1 tiles, " in capsys.readouterr().out
    for name in ("control", "hwa"):  # as earlier versions kept it: of two layers, two blocks
        file = data / f"out/seed-0/{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"tiles": 2}))
    monkeypatch.setattr(seeds, "measure", None)
    bench()
    assert "chip hermes64, 1 tiles, " in capsys.readouterr().out
    (result,) = json.loads((data / "out/hwa.json").read_text())["results"]
    assert "tiles" not in result["recipes"]["configured"]

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("it branches on its input")

    monkeypatch.setattr(at, "map_to_chip", refuse)
    bench()
    printed = capsys.readouterr().out
    assert "chip hermes64, 2 tiles, " in printed
    assert "takes 2 tiles at most, one for each of its blocks, and has no floorplan" in printed


@pytest.mark.slow
def test_times_are_chosen_of_what_is_kept_and_what_lacks_is_measured(
    data: Path, monkeypatch
) -> None:
    measured, measure = [], seeds.measure

    def counted(config: KWSConfig, *given: Any) -> Sweep:
        measured.append(config.sweep.times)
        return measure(config, *given)

    def kept() -> dict[str, Any]:
        files = data / "out/seed-0/control.json", data / "out/seed-0/hwa.json"
        return {file.name: json.loads(file.read_text()) for file in files}

    monkeypatch.setattr(seeds, "measure", counted)
    bench("--sweep.times=['1 day', '0 s']")
    before = kept()
    bench("--seeds=2")
    results = json.loads((data / "out/hwa.json").read_text())["results"]
    for each in results:
        assert list(each["on_chip"]) == list(each["recipes"]["configured"]["on_chip"]) == ["0 s"]
    assert measured == [("1 day", "0 s")] * 2 + [("0 s",)] * 2  # of two seeds
    assert kept() == before
    monkeypatch.setattr(seeds, "validated", None)
    bench("--sweep.times=['1 year']")
    bench("--sweep.times=['0 s', '1 day', '1 year']")
    assert measured[4:] == [("1 year",)] * 2
    results = json.loads((data / "out/hwa.json").read_text())["results"]
    assert list(results[0]["on_chip"]) == ["0 s", "1 day", "1 year"]
    after = kept()
    for name, found in after.items():
        assert found["seconds"] > before[name]["seconds"]  # with those of the training
        assert found["on_chip"].pop("1 year")["num_chips"] == 1
        assert found | {"seconds": 0} == before[name] | {"seconds": 0}
