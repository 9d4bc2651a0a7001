"""The folder of ``adapt`` takes one run for another as little as it can, and goes on with it."""

import dataclasses
import functools
import json
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import analogtorch as at
from analogtorch.evaluate.described import name_of
from analogtorch.evaluate.journal import refuse_others
from analogtorch.files import locked, packed, unpacked, write_atomically
from analogtorch.hwa import run_folder
from analogtorch.hwa.comparison import Comparison
from analogtorch.hwa.run_folder import RunFolder
from analogtorch.hwa.training import Training
from analogtorch.hwa.twin import Twin
from tests.crossbar import crossbar

BATCHES = list(torch.randn(4, 8, 6, generator=torch.Generator().manual_seed(0)).unbind())


def _given() -> nn.Module:
    torch.manual_seed(0)
    return at.calibrate(at.convert(nn.Sequential(nn.Linear(6, 4)), crossbar()), BATCHES)


class _Called:
    def __call__(self, model: nn.Module) -> float:
        return 1.0

    def at(self, model: nn.Module) -> float:
        return 1.0


def _half(model: nn.Module, x: Tensor, factor: float = 0.5) -> Any:
    return factor * model(x)


def test_a_run_of_another_forward_or_metric_is_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": 1, "num_chips": 1, "folder": tmp_path}
    options["recipe"] = at.hwa.Recipe(looks=1)
    given = _given()
    at.hwa.adapt(given, BATCHES, forward=_half, **options)
    again = at.hwa.adapt(given, BATCHES, forward=_half, **options)
    with pytest.raises(ValueError, match="another run, which differs in forward"):
        at.hwa.adapt(given, BATCHES, **options)
    with pytest.raises(ValueError, match="another run, which differs in forward settings"):
        at.hwa.adapt(given, BATCHES, forward=functools.partial(_half, factor=0.1), **options)
    with pytest.raises(ValueError, match="another run, which differs in metric"):
        at.hwa.adapt(given, BATCHES, forward=_half, metric=lambda chip: 1.0, **options)
    # an earlier version kept nothing of functions
    path = tmp_path / "adapt.json"
    head = json.loads(path.read_text())
    assert (head.pop("forward"), head.pop("metric")) == (f"{__name__}._half", None)
    assert (head.pop("forward settings"), head.pop("forward code")) == (None, None)
    path.write_text(json.dumps(head))
    gone_on = at.hwa.adapt(given, BATCHES, forward=_half, **options)
    for p, q in zip(again.model.parameters(), gone_on.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_functions_in_the_options_of_calibrate_are_kept_by_name(tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": 1, "num_chips": 1, "folder": tmp_path}
    options["recipe"] = at.hwa.Recipe(looks=1)
    given, found = _given(), list[Any]()
    calibration = {"effort": "ranges", "report": found.append, "forward": _half}
    first = at.hwa.adapt(given, BATCHES, calibration=calibration, forward=_half, **options)
    assert len(found) == 1
    again = at.hwa.adapt(given, BATCHES, calibration=calibration, forward=_half, **options)
    assert again.to_dict()["stages"] == first.to_dict()["stages"]
    other = calibration | {"forward": lambda model, x: _half(model, x)}
    with pytest.raises(ValueError, match="another run, which differs in calibration"):
        at.hwa.adapt(given, BATCHES, calibration=other, forward=_half, **options)
    kept = json.loads((tmp_path / "adapt.json").read_text())["calibration"]
    assert kept["forward"] == f"{__name__}._half"


def test_a_metric_on_other_samples_is_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": 1, "num_chips": 1, "recipe": at.hwa.Recipe(looks=1)}
    given, labels = _given(), torch.arange(8) % 4
    first, other = (at.metrics.accuracy([(BATCHES[n], labels)]) for n in (0, 1))
    at.hwa.adapt(given, BATCHES, metric=first, folder=tmp_path, **options)
    loader = at.metrics.accuracy(DataLoader(TensorDataset(BATCHES[0], labels), batch_size=8))
    for metric, which in ((other, "samples"), (loader, "held samples, samples")):
        with pytest.raises(ValueError, match=f"another run, which differs in {which};"):
            at.hwa.adapt(given, BATCHES, metric=metric, folder=tmp_path, **options)
    # a version in between left them out of heads of loaders
    path = tmp_path / "adapt.json"
    head = json.loads(path.read_text())
    lacking = ("samples", "held samples")
    path.write_text(json.dumps({k: v for k, v in head.items() if k not in lacking}))
    with pytest.raises(ValueError, match="another run, which differs in samples"):
        at.hwa.adapt(given, BATCHES, metric=first, folder=tmp_path, **options)
    at.hwa.adapt(given, BATCHES, metric=loader, folder=tmp_path, **options)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for name in ("file", "file/adapt"):
        with pytest.raises(OSError, match=rf"adapt: could not make the folder .*{name}: "):
            at.hwa.adapt(_given(), BATCHES, steps=1, folder=tmp_path / name)
    with pytest.raises(ValueError, match=r"adapt: .* holds file and no adapt.json; give a new"):
        at.hwa.adapt(_given(), BATCHES, steps=1, folder=tmp_path)


def test_hidden_files_keep_no_run_from_beginning(tmp_path: Path) -> None:
    """A killed process leaves some, and file managers others."""
    for name in (".DS_Store", ".adapt.json.x1.part", ".state.pt.x1.part"):
        (tmp_path / name).write_text("")
    at.hwa.adapt(_given(), BATCHES, steps=1, num_chips=1, folder=tmp_path)
    assert (tmp_path / "state.pt").exists()
    assert [path.name for path in tmp_path.glob(".*")] == [".DS_Store"]  # what is of no run stays


def _state(steps: int, *, finished: bool = False) -> dict[str, Any]:
    return {"finished": finished, "training": {"history": [{}] * steps}}


def test_of_two_runs_in_one_folder_the_furthest_is_kept(tmp_path: Path) -> None:
    slow, fast = (RunFolder(tmp_path, {"seed": 0}) for _ in range(2))
    assert slow.read() is None
    slow.write(_state(1), [])
    fast.write(_state(2), [])
    slow.write(_state(1), [])
    assert slow.read() == _state(2)
    fast.write(_state(3, finished=True), [])
    for late in (slow, RunFolder(tmp_path, {"seed": 0})):
        late.write(_state(4), [])
        assert late.read() == _state(3, finished=True)
    slow.write(_state(4, finished=True), [])
    assert fast.read() == _state(4, finished=True)


def test_a_folder_that_begins_waits_for_another(tmp_path: Path, monkeypatch) -> None:
    def held(caller: str, folder: Path, head: str) -> None:
        with pytest.raises(BlockingIOError), locked(folder, wait=False):
            pass
        refuse_others(caller, folder, head)

    monkeypatch.setattr(run_folder, "refuse_others", held)
    RunFolder(tmp_path, {"seed": 0})
    assert (tmp_path / "adapt.json").exists()


@dataclasses.dataclass
class _Batch:
    x: Tensor
    target: Tensor


@pytest.mark.parametrize(
    ("kept", "numbers"),
    [
        ({"compared": "error", "ways": [[False, -1, False]]}, 1),
        ({"compared": "error", "ways": [[False, -1, True]]}, 1),
        ({"compared": "error", "ways": [[False, -1]]}, 1),  # of an earlier version
        ({"compared": "divergence", "ways": [[True, -1]]}, 0),
        ({"compared": "divergence"}, 0),  # of an earlier version, as the next
        ({"compared": "error"}, 1),
    ],
)
def test_a_run_goes_on_with_the_error_that_it_began_with(
    kept: dict[str, Any], numbers: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    given = at.convert(nn.Sequential(nn.Linear(6, 6)), crossbar())
    batches = [_Batch(x, torch.zeros(8)) for x in BATCHES]
    options: dict[str, Any] = {"steps": 1, "num_chips": 1, "folder": tmp_path}
    options |= {"forward": lambda model, batch: model[0](batch.x), "calibration": None}
    first = at.hwa.adapt(given, batches, **options)
    state = unpacked(tmp_path / "state.pt")
    assert (first.compared, state.pop("compared")) == ("error", "error")
    assert state.pop("ways") == [[False, -1, False]]
    write_atomically(tmp_path / "state.pt", packed(state | kept))
    assert at.hwa.adapt(given, batches, **options).compared == kept["compared"]
    comparison = Comparison(at.hwa.Recipe())
    comparison.go_on(kept["compared"], kept.get("ways"))
    y = torch.randn(8, 6)
    shifted = comparison.loss(y + 5, y).item()
    assert shifted > 1 if numbers else shifted == pytest.approx(0, abs=1e-5)
    write_atomically(tmp_path / "state.pt", packed(state))
    with pytest.raises(ValueError, match="an earlier version began.*give another folder"):
        at.hwa.adapt(given, batches, **options)


def test_what_can_be_called_has_a_name() -> None:
    x = torch.ones(2)
    auc = at.metrics.auc([(x, x)])
    for function, name in (
        (None, None),
        (_Called().at, f"{__name__}._Called.at"),
        (types.SimpleNamespace(__name__="wer"), "types.SimpleNamespace wer"),
        (_Called(), f"{__name__}._Called"),
        (len, "builtins.len"),
        (auc, "analogtorch.evaluate.task_metric.TaskMetric AUC"),
    ):
        assert name_of(function) == name


def test_a_state_of_an_earlier_version_goes_on() -> None:
    """It was saved without ``trained``, the error of the best state on training batches."""
    training = Training(Twin(_given(), nn.Sequential(nn.Linear(6, 4))), steps=2, seed=0)
    training.start(0.5)
    state = training.state_dict()
    del state["trained"]
    training.load_state_dict(state)
    assert (training.trained, training.best) == (None, 0.5)


def test_a_loader_that_shuffles_goes_on_with_a_seeded_generator(tmp_path: Path) -> None:
    def loader(seed: int) -> Any:
        order = torch.Generator().manual_seed(seed)
        clips = torch.cat(BATCHES)
        return DataLoader(clips, 8, shuffle=True, generator=order)  # type: ignore[arg-type]

    options: dict[str, Any] = {"steps": 1, "num_chips": 1, "folder": tmp_path}
    first = at.hwa.adapt(_given(), loader(0), **options)
    again = at.hwa.adapt(_given(), loader(0), **options)
    assert again.to_dict() | {"seconds": 0} == first.to_dict() | {"seconds": 0}
    same = loader(0)
    at.hwa.adapt(_given(), same, **options)
    for moved_on in (loader(1), same):
        with pytest.raises(ValueError, match="before each call: make the loader anew"):
            at.hwa.adapt(_given(), moved_on, **options)
    same.generator.manual_seed(0)
    at.hwa.adapt(_given(), same, **options)


def test_a_damaged_folder_is_refused_with_a_remedy_and_its_log_is_written_anew(
    tmp_path: Path,
) -> None:
    def run(metric: Any = lambda chip: 1.0) -> at.hwa.Adapted:
        return at.hwa.adapt(_given(), BATCHES, steps=2, num_chips=1, folder=tmp_path, metric=metric)

    first, log = run(), (tmp_path / "log.csv").read_bytes()
    with pytest.raises(ValueError, match="another run, which differs in metric code; give"):
        run(lambda chip: 2.0)
    for damaged in (None, b"", log[: len(log) // 2], b"\xff" + log):
        if damaged is None:
            (tmp_path / "log.csv").unlink()
        else:
            (tmp_path / "log.csv").write_bytes(damaged)
        assert run().steps == first.steps
        assert (tmp_path / "log.csv").read_bytes() == log
    for name in ("adapt.json", "state.pt"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=f"give another folder, or remove {tmp_path} to begin"):
            run()
        (tmp_path / name).write_bytes(whole)
    assert run().steps == first.steps


def test_what_earlier_versions_did_not_have_is_kept_where_it_counts(tmp_path: Path) -> None:
    for corrected in (False, True):
        folder = tmp_path / str(corrected)
        noise = at.TrainingNoise(weight="device", corrected=corrected)
        recipe = at.hwa.Recipe(looks=1, training=noise)
        options: dict[str, Any] = {"steps": 1, "num_chips": 1, "folder": folder}
        at.hwa.adapt(_given(), BATCHES, recipe=recipe, **options)
        head = json.loads((folder / "adapt.json").read_text())
        assert head["recipe"]["training"].get("corrected") is (corrected or None)
        other = at.hwa.Recipe(
            looks=1, training=at.TrainingNoise(weight="device", corrected=not corrected)
        )
        with pytest.raises(ValueError, match="another run, which differs in recipe"):
            at.hwa.adapt(_given(), BATCHES, recipe=other, **options)
