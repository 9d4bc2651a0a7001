"""Lightning with averaged weights (EMA, SWA): their ranges, their clipping, their chips."""

import copy
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, WeightAveraging
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import analogtorch as at
from analogtorch.hwa import lightning as in_lightning
from tests.ecosystem.models import CHIP
from tests.ecosystem.test_lightning import Module, X, Y, _same, pytestmark

__all__ = ["pytestmark"]


def _made() -> Module:
    return at.calibrate(at.convert(Module(), CHIP), [X], effort="ranges")


def _fit(
    folder: Path,
    callbacks: list[L.Callback],
    *,
    model: L.LightningModule | None = None,
    resume: Path | None = None,
) -> Any:
    model = _made() if model is None else model
    saving = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, every_n_epochs=1)
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[*callbacks, saving],
    )  # fmt: skip
    trainer.fit(model, DataLoader(TensorDataset(X, Y), batch_size=8), ckpt_path=resume)
    return model


def _ranges(model: nn.Module) -> list[Any]:
    return [layer.input_ranges for _, layer in at.analog_layers(model)]


def _ema() -> WeightAveraging:
    return EMAWeightAveraging(decay=0.6)


@pytest.mark.parametrize(
    ("callback", "first"), [("KeepRanges", False), ("StepSeed", True), ("WeightClip", False)]
)
def test_checkpoints_have_the_ranges_of_the_average(
    callback: str, first: bool, tmp_path: Path
) -> None:
    """Any callback of the package sees to it, wherever it is given."""
    ours = {
        "KeepRanges": in_lightning.KeepRanges,
        "StepSeed": lambda: in_lightning.StepSeed(3),
        "WeightClip": lambda: in_lightning.WeightClip(2.5),
    }[callback]

    def callbacks() -> list[L.Callback]:
        return [_Seed(), ours(), _ema()] if first else [_ema(), ours(), _Seed()]

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="this state_dict")
        whole = _fit(tmp_path / "whole", callbacks())
        half = tmp_path / "whole" / "epoch=0.ckpt"
        assert _same(_fit(tmp_path / "whole", callbacks(), resume=half), whole)
        # a model that is not calibrated gets ranges and choices of calibration from the checkpoint
        fresh = _fit(tmp_path / "whole", callbacks(), model=_Analog(), resume=half)
        assert _same(fresh, whole)
        for name in ("epoch=1", "epoch=1-v1", "epoch=1-v2"):
            file = tmp_path / "whole" / f"{name}.ckpt"
            Module.load_from_checkpoint(file, strict=True)  # keys are those of the digital model
            assert _same(_Analog.load_from_checkpoint(file), whole)
            current = _Analog()
            current.load_state_dict(torch.load(file, weights_only=True)["current_model_state"])
            assert _ranges(current) != _ranges(whole)


class _Normalised(Module):
    """A module with statistics, on a chip whose digital unit has output ranges."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(self.head, nn.BatchNorm1d(2))
        at.convert(self, at.chips.hermes_core())


def test_averages_go_on_with_statistics_and_ranges_of_outputs(tmp_path: Path) -> None:
    def callbacks() -> list[L.Callback]:
        return [_ema(), _Seed(), in_lightning.KeepRanges()]

    calibrated = at.calibrate(_Normalised(), [X], effort="ranges")
    whole = _fit(tmp_path, callbacks(), model=calibrated)
    half = tmp_path / "epoch=0.ckpt"
    fresh = _fit(tmp_path, callbacks(), model=_Normalised(), resume=half)
    assert _same(fresh, whole)
    assert any(name.endswith("output_ranges") for name, _ in whole.named_buffers())
    for (name, buffer), (_, other) in zip(
        fresh.named_buffers(), whole.named_buffers(), strict=True
    ):
        assert torch.equal(buffer, other), name


class _Analog(Module):
    """A module that converts itself, and has no ranges yet."""

    def __init__(self) -> None:
        super().__init__()
        at.convert(self, CHIP)


class _Seed(L.Callback):
    """A callback of a user that seeds the steps."""

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        torch.manual_seed(trainer.global_step)


def test_checkpoints_of_a_distillation_have_the_ranges_of_the_average(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    rows = X.flatten(0, 1)

    def student() -> nn.Module:
        return at.calibrate(at.convert(copy.deepcopy(teacher), CHIP), [rows], effort="ranges")

    recipe = at.hwa.Recipe(learning_rate=0.1, ramp=0.1)
    model = in_lightning.Distillation(student(), teacher, recipe)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, callbacks=[_ema()],
    )  # fmt: skip
    trainer.fit(model, DataLoader(rows, batch_size=32))  # type: ignore[arg-type]
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    loaded = in_lightning.Distillation(student(), teacher)
    assert _ranges(loaded) != _ranges(model)
    loaded.load_state_dict(saved)
    assert _same(loaded, model)


@pytest.mark.parametrize("first", [True, False], ids=["average first", "clip first"])
def test_clipped_weights_are_averaged_in_any_order_of_callbacks(
    first: bool, tmp_path: Path
) -> None:
    clip, seen = in_lightning.WeightClip(bound=0.05), list[str]()

    class Reads(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
            seen[:] = [type(c).__name__ for c in trainer.callbacks]

    both = [_ema(), clip] if first else [clip, _ema()]
    # the average begins with the first clipped weights
    model = _fit(tmp_path, [Reads(), *both])
    for _, layer in at.analog_layers(model):
        assert layer.weight.abs().max() <= 0.05 * (1 + 1e-6)
    assert seen[:3] == ["Reads", "WeightClip", "EMAWeightAveraging"]


@pytest.mark.parametrize("first", [True, False], ids=["chips first", "average first"])
def test_chips_of_the_average_are_measured(first: bool, tmp_path: Path) -> None:
    """What ``chips/1 day`` says is of the weights that the checkpoint of that step has."""
    measured: dict[int, float] = {}

    def metric(chip: nn.Module) -> float:
        return chip(X)[:, 0].mean().item()

    class Reads(L.Callback):
        def on_train_batch_end(
            self, trainer: L.Trainer, module: L.LightningModule, *_: Any
        ) -> None:
            if trainer.global_step % 4 == 0:
                measured[trainer.global_step] = trainer.callback_metrics["chips/1 day"].item()

    def order() -> list[L.Callback]:
        validate = in_lightning.ValidateOnChips(metric, every=4, network="", num_chips=1)
        return [validate, _ema()] if first else [_ema(), validate]

    watched = ModelCheckpoint(
        tmp_path, "{step}", monitor="chips/1 day", every_n_train_steps=4, save_top_k=-1
    )
    _fit(tmp_path / "measured", [_Seed(), *order(), Reads(), watched])
    assert list(measured) == [4, 8]
    for step in measured:
        saved = torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)
        model = _made()
        model.load_state_dict(saved["state_dict"])
        found = at.sweep(model, metric, num_chips=1, times=("1 day",), seed=0)
        assert found.to_dict()["1 day"]["mean"] == pytest.approx(measured[step])
    # the training goes on as without
    plain = _fit(tmp_path / "plain", [_Seed(), in_lightning.KeepRanges(), _ema()])
    assert _same(plain, _fit(tmp_path / "again", [_Seed(), *order()]))


def test_a_test_after_the_fit_is_of_the_averaged_weights(tmp_path: Path) -> None:
    """Lightning's callback takes the weights that learn from a checkpoint, whatever it is for."""
    saving, model = ModelCheckpoint(tmp_path, "last"), _made()
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        max_epochs=1, callbacks=[_Seed(), _ema(), in_lightning.KeepRanges(), saving],
    )  # fmt: skip
    trainer.fit(model, DataLoader(TensorDataset(X, Y), batch_size=16))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    tested = list[torch.Tensor]()
    model.test_step = lambda *_: tested.append(model.conv.weight.detach().clone())  # type: ignore[method-assign]
    trainer.test(
        model, DataLoader(TensorDataset(X, Y), batch_size=32), tmp_path / "last.ckpt",
        verbose=False, weights_only=True,
    )  # fmt: skip
    assert torch.equal(tested[0], saved["state_dict"]["conv.weight"])
    assert not torch.equal(tested[0], saved["current_model_state"]["conv.weight"])


def test_a_metric_that_fails_leaves_the_weights_that_learn(tmp_path: Path) -> None:
    before: list[torch.Tensor] = []
    model = _made()

    def metric(chip: nn.Module) -> float:
        raise RuntimeError("no metric")

    class Reads(L.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            before[:] = [p.detach().clone() for p in model.parameters()]

    validate = in_lightning.ValidateOnChips(metric, every=2, network="", num_chips=1)
    with pytest.raises(RuntimeError, match="no metric"):
        _fit(tmp_path, [Reads(), _ema(), validate], model=model)
    assert all(map(torch.equal, before, model.parameters()))
