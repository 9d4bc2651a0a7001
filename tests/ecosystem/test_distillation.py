"""The recipe of ``adapt`` in Lightning, and callbacks that measure on chips."""

import copy
import csv
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils import checkpoint as recomputing
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import analogtorch as at
from analogtorch.hwa import huggingface
from analogtorch.hwa import lightning as in_lightning
from analogtorch.hwa.clip import tails
from analogtorch.hwa.half_precision import HalfPrecisionAdam
from analogtorch.hwa.on_chips import Validation
from tests.ecosystem.models import CHIP

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning"),
]

X = torch.randn(48, 12, generator=torch.Generator().manual_seed(0))


def _teacher() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    return net


def _state(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def _ranges(model: nn.Module) -> list[tuple[float, ...] | None]:
    return [layer.input_ranges for _, layer in at.analog_layers(model)]


def _metric(chip: nn.Module) -> float:
    """A metric that refuses anything but a programmed chip."""
    layers = [layer for _, layer in at.analog_layers(chip)]
    assert layers
    assert all(layer.programmed is not None for layer in layers)
    return 0.25


def _lightning(
    folder: Path, stop: int = 12, resume: Path | None = None
) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    teacher = _teacher()
    student = at.calibrate(at.convert(copy.deepcopy(teacher), CHIP), [X], effort="ranges")
    validate = in_lightning.ValidateOnChips(_metric, every=5, num_chips=1)
    stopping = _StopAt(stop)
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[in_lightning.StepSeed(3), validate, stopping],
    )
    module = in_lightning.Distillation(student, teacher)
    loader = DataLoader(X, batch_size=8)  # type: ignore[arg-type]
    try:
        trainer.fit(module, loader, ckpt_path=resume, weights_only=True)
    except _StopError:
        trainer.save_checkpoint(folder / "stopped.ckpt")
    return student, teacher, {k: float(v) for k, v in trainer.callback_metrics.items()}


def test_the_module_compares_attention_maps() -> None:
    teacher = _teacher()
    recipe = at.hwa.Recipe(attention=1.0)
    module = in_lightning.Distillation(at.convert(_teacher(), CHIP), teacher, recipe)
    with pytest.raises(ValueError, match="compares attention maps, of which there are 0"):
        module.training_step(X[:8], 0)


def test_a_checkpoint_of_before_the_fit_has_no_limits_of_weights(tmp_path: Path) -> None:
    student = at.convert(_teacher(), CHIP)
    module = in_lightning.Distillation(student, _teacher())
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "start.ckpt")
    assert torch.load(tmp_path / "start.ckpt")["analogtorch_clipping"] is None


def test_what_a_loader_of_the_metric_draws_changes_no_training() -> None:
    loader = DataLoader(TensorDataset(X, torch.zeros(len(X))), batch_size=8)

    def drawing(chip: nn.Module) -> float:
        return float(len(list(loader)))

    validation = Validation(drawing, num_chips=1)
    student = at.convert(_teacher(), CHIP)
    before = torch.get_rng_state()
    assert validation(student) == {"chips/1 day": float(len(loader))}
    assert torch.equal(torch.get_rng_state(), before)


def test_chips_that_correct_themselves_are_measured_so() -> None:
    student, exact = at.convert(_teacher(), CHIP), _teacher()(X)
    recovery = at.Recovery(batches=[X])

    def error(chip: nn.Module) -> float:
        return (chip(X) - exact).norm().item()

    corrected = Validation(error, ["1 year"], num_chips=3, recovery=recovery)(student)
    swept = at.sweep(student, error, num_chips=3, times=["1 year"], recovery=recovery)
    assert corrected == {"chips/1 year": swept.mean.item()}
    assert corrected["chips/1 year"] < Validation(error, ["1 year"])(student)["chips/1 year"]


def _fitted(data: Any = X, recipe: at.hwa.Recipe | None = None, **options: Any) -> nn.Module:
    student = at.calibrate(at.convert(_teacher(), CHIP), [X], effort="ranges")
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, **options,
    )  # fmt: skip
    module = in_lightning.Distillation(student, _teacher(), recipe)
    trainer.fit(module, DataLoader(data, batch_size=16))
    return student


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_that_are_not_finite_end_a_fit_before_the_step(accumulate: int) -> None:
    student = at.calibrate(at.convert(_teacher(), CHIP), [X], effort="ranges")
    student[2].weight.register_hook(lambda g: g * torch.nan)
    before = _state(student)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, max_steps=4, accumulate_grad_batches=accumulate,
    )  # fmt: skip
    with pytest.raises(ValueError, match="Distillation: gradients .* at step 0: of '2.weight'; "):
        trainer.fit(in_lightning.Distillation(student, _teacher()), DataLoader(X, batch_size=16))
    assert all(map(torch.equal, before, _state(student)))


def test_lightning_clips_gradients_under_mixed_precision() -> None:
    student = _fitted(precision="bf16-mixed", gradient_clip_val=1.0, max_epochs=1)
    assert not any(map(torch.equal, _state(student), _state(_teacher())))


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_lightning_computes_all_in_the_precision_of_the_trainer(precision: str) -> None:
    teacher = _teacher()
    student = at.calibrate(at.convert(copy.deepcopy(teacher), CHIP), [X], effort="ranges")
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, precision=precision,
    )  # fmt: skip
    before = _state(teacher)
    trainer.fit(in_lightning.Distillation(student, teacher), DataLoader(X, batch_size=8))  # type: ignore[arg-type]
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}
    assert all(map(torch.equal, _state(teacher), before))
    assert student[0].weight.dtype != torch.float32
    half = student[0].weight.dtype == torch.bfloat16
    assert isinstance(trainer.optimizers[0], HalfPrecisionAdam) == half
    assert not torch.equal(student[0].weight, teacher[0].weight.to(student[0].weight))


def test_lightning_leaves_the_ranges_as_the_recipe_asks() -> None:
    """Without a warning that they do not learn."""
    for learn in (True, False):
        student = _fitted(recipe=at.hwa.Recipe(learn_ranges=learn), max_epochs=1)
        calibrated = at.calibrate(at.convert(_teacher(), CHIP), [X], effort="ranges")
        assert (_ranges(student) == _ranges(calibrated)) is not learn


class _Endless(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        yield from X


@pytest.mark.parametrize("data", [X, _Endless()])
def test_lightning_needs_the_number_of_steps(data: Any) -> None:
    with pytest.raises(ValueError, match=r"does not know the number of its steps.*give max_steps"):
        _fitted(data, max_epochs=-1 if data is X else 1, max_time={"seconds": 1})


class _StopError(Exception):
    pass


class _StopAt(L.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_epoch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step and self.step < 12:
            raise _StopError


def test_lightning_distils_clips_and_validates_on_chips(tmp_path: Path) -> None:
    before = _state(_teacher())
    student, teacher, logged = _lightning(tmp_path)
    assert all(map(torch.equal, before, _state(teacher)))
    assert logged["chips/1 day"] == 0.25
    assert {"loss", "outputs", "layers"} <= logged.keys()
    assert all(layer.noise_fraction == 1.0 for _, layer in at.analog_layers(student))
    limits = tails(at.convert(_teacher(), CHIP), 2.5)
    for name, layer in at.analog_layers(student):
        _, end, _ = limits[name]
        assert layer.weight.abs().max() < 1.05 * end * layer.weight.std()
    with torch.no_grad():
        near = (student.eval()(X) - teacher(X)).square().mean() / teacher(X).square().mean()
    assert near < 0.05


class _Checkpointed(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return recomputing.checkpoint(super().forward, x, use_reentrant=False)


def test_lightning_distils_checkpointed_nets_to_the_same_bits() -> None:
    found = []
    for kind in (nn.Sequential, _Checkpointed):
        teacher = kind(*_teacher()).eval()
        student = at.convert(copy.deepcopy(teacher), CHIP)
        trainer = L.Trainer(
            max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
            callbacks=[in_lightning.StepSeed(3)],
        )  # fmt: skip
        module = in_lightning.Distillation(student, teacher)
        trainer.fit(module, DataLoader(X, batch_size=8))  # type: ignore[arg-type]
        found.append(_state(student))
    assert all(map(torch.equal, *found))


def test_lightning_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole, _, _ = _lightning(tmp_path)
    stopped, _, _ = _lightning(tmp_path, stop=6)
    assert all(layer.noise_fraction == 1.0 for _, layer in at.analog_layers(stopped))
    resumed, _, _ = _lightning(tmp_path, resume=tmp_path / "stopped.ckpt")
    assert all(map(torch.equal, _state(whole), _state(resumed)))
    assert not all(map(torch.equal, _state(whole), _state(stopped)))


class _Own(L.LightningModule):
    """A user's module, with a converted network of another name."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.net = at.convert(_teacher(), CHIP) if own else _teacher()
        self.train()

    def training_step(self, batch: Tensor) -> Tensor:
        loss: Tensor = self.net(batch).square().mean()
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def _fit(module: L.LightningModule, network: str) -> dict[str, Any]:
    validate = in_lightning.ValidateOnChips(_metric, every=2, num_chips=1, network=network)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, callbacks=[validate],
    )  # fmt: skip
    trainer.fit(module, DataLoader(X, batch_size=8))  # type: ignore[arg-type]
    return trainer.callback_metrics


@pytest.mark.parametrize("network", ["net", ""])
def test_a_module_of_the_user_is_validated_on_chips(network: str) -> None:
    assert _fit(_Own(True), network)["chips/1 day"] == 0.25


def _rows(logger: CSVLogger) -> list[tuple[int, float]]:
    """Return the steps of the measurements in a file of a logger, with their values."""
    with open(logger.experiment.metrics_file_path) as file:
        return [
            (int(row["step"]), float(row["chips/1 day"]))
            for row in csv.DictReader(file)
            if row.get("chips/1 day")
        ]


def _logged(folder: Path, accumulate: int, **options: Any) -> list[list[tuple[int, float]]]:
    """Return the rows of each logger, of a fit whose Trainer logs its own every 50 steps.

    Each value is the number of steps before it, which are in the file as soon as they are measured.
    """
    loggers = [CSVLogger(folder, name=name, version=options["max_epochs"]) for name in "ab"]

    def counted(chip: nn.Module) -> float:
        written = loggers[0].experiment.metrics_file_path
        return len(_rows(loggers[0])) if Path(written).exists() else 0

    validate = in_lightning.ValidateOnChips(counted, every=4, num_chips=1, network="net")
    trainer = L.Trainer(
        accelerator="cpu", logger=loggers, enable_progress_bar=False, enable_model_summary=False,
        accumulate_grad_batches=accumulate, callbacks=[validate], enable_checkpointing=False,
        max_epochs=options["max_epochs"],
    )  # fmt: skip
    loader = DataLoader(X, batch_size=8 // accumulate)  # type: ignore[arg-type]
    trainer.fit(_Own(True), loader, ckpt_path=options.get("ckpt_path"), weights_only=True)
    trainer.save_checkpoint(folder / "last.ckpt")
    assert float(trainer.callback_metrics["chips/1 day"]) == _rows(loggers[0])[-1][1]
    assert float(trainer.logged_metrics["chips/1 day"]) == _rows(loggers[0])[-1][1]
    return [_rows(logger) for logger in loggers]


@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_measurement_is_logged_at_its_own_step(accumulate: int, tmp_path: Path) -> None:
    """Whatever ``log_every_n_steps`` of the Trainer is, and in a fit that goes on."""
    rows = [(3, 0.0), (7, 1.0), (11, 2.0)]
    assert _logged(tmp_path, accumulate, max_epochs=2) == [rows, rows]
    resumed = _logged(tmp_path, accumulate, max_epochs=4, ckpt_path=tmp_path / "last.ckpt")
    rows = [(15, 0.0), (19, 1.0), (23, 2.0)]
    assert resumed == [rows, rows]


class _Two(_Own):
    """A module with two optimizers, each of which counts a step in every batch."""

    def __init__(self) -> None:
        super().__init__(True)
        self.automatic_optimization = False

    def training_step(self, batch: Tensor) -> Tensor:
        loss = super().training_step(batch)
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
        return loss

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net[i].parameters(), lr=0.01) for i in (0, 2)]


@pytest.mark.parametrize(
    ("every", "steps"), [(3, [4, 6, 10, 12]), (5, [6, 10]), (2, [2, 4, 6, 8, 10, 12])]
)
def test_steps_of_several_optimizers_are_measured_when_they_are_due(
    every: int, steps: list[int], tmp_path: Path
) -> None:
    """Also in a fit that goes on, which measures nothing twice."""
    found: list[int] = []
    for epochs, checkpoint in ((1, None), (2, tmp_path / "last.ckpt")):

        def counted(chip: nn.Module) -> float:
            found.append(trainer.global_step)  # noqa: B023  called in this turn
            return 1.0

        validate = in_lightning.ValidateOnChips(counted, every=every, num_chips=1, network="net")
        trainer = L.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, max_epochs=epochs, callbacks=[validate],
        )  # fmt: skip
        loader = DataLoader(X[:24], batch_size=8)  # type: ignore[arg-type]
        trainer.fit(_Two(), loader, ckpt_path=checkpoint, weights_only=True)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert found == steps


@pytest.mark.parametrize("clip_last", [True, False])
def test_clipped_weights_are_measured_in_any_order_of_callbacks(clip_last: bool) -> None:
    module, found, places = _Own(True), list[float](), list[str]()

    def largest(chip: nn.Module) -> float:
        found.append(module.net[0].weight.abs().max().item())
        return 1.0

    class Reads(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
            places[:] = [type(c).__name__ for c in trainer.callbacks]
            assert "chips/1 day" in trainer.callback_metrics

    validate = in_lightning.ValidateOnChips(largest, every=1, num_chips=1, network="net")
    clips = [in_lightning.WeightClip(bound=0.01), in_lightning.Clip(module.net, 2.0)]
    callbacks = [validate, *clips] if clip_last else [*clips, validate]
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, max_epochs=1, callbacks=[*callbacks, Reads()],
    )  # fmt: skip
    trainer.fit(module, DataLoader(X, batch_size=8))  # type: ignore[arg-type]
    assert found == [pytest.approx(0.01)] * 6
    assert places == ["WeightClip", "Clip", "ValidateOnChips", "Reads"]


@pytest.mark.parametrize("every", [2, 4])
def test_a_checkpoint_of_other_weights_than_were_measured_is_named(
    every: int, tmp_path: Path
) -> None:
    """Of three steps in an epoch, ``every=2`` does not measure the last in the first and third."""
    watched = [
        ModelCheckpoint(tmp_path, monitor="chips/1 day"),
        ModelCheckpoint(tmp_path / "steps", monitor="chips/1 day", every_n_train_steps=every),
    ]
    validate = in_lightning.ValidateOnChips(_metric, every=every, num_chips=1, network="net")
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        max_epochs=3, callbacks=[validate, *watched],
    )  # fmt: skip
    steps = 3 if every == 2 else 4
    loader = DataLoader(X[: 8 * steps], batch_size=8)  # type: ignore[arg-type]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        trainer.fit(_Own(True), loader)
    warned = [str(w.message) for w in found if "ValidateOnChips" in str(w.message)]
    assert len(warned) == (every == 2)
    assert all("watches 'chips/1 day' at step 3, where it is that of step 2" in w for w in warned)


def test_several_measurements_keep_their_order() -> None:
    own, order = _Own(True), list[int]()

    def measured(number: int) -> L.Callback:
        def metric(chip: nn.Module) -> float:
            order.append(number)
            return 1.0

        options: dict[str, Any] = {"every": 1, "num_chips": 1, "network": "net"}
        return in_lightning.ValidateOnChips(metric, name=f"chips {number}", **options)

    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, max_steps=2,
        callbacks=[measured(0), measured(1), in_lightning.WeightClip(bound=0.01), measured(2)],
    )  # fmt: skip
    trainer.fit(own, DataLoader(X, batch_size=8))  # type: ignore[arg-type]
    assert order == [0, 1, 2] * 2


def _measuring(*callbacks: L.Callback) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, max_steps=3, callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(_Own(True), DataLoader(X, batch_size=8))  # type: ignore[arg-type]
    return trainer


def test_measurements_of_one_name_are_refused() -> None:
    options: dict[str, Any] = {"every": 1, "num_chips": 1, "network": "net"}
    one, other = (in_lightning.ValidateOnChips(_metric, **options) for _ in range(2))
    with pytest.raises(ValueError, match="two of them log 'chips/1 day'.* name='chips/accuracy'"):
        _measuring(one, other)
    named = in_lightning.ValidateOnChips(lambda chip: 2.0, name="two", **options)
    found = _measuring(one, named).callback_metrics
    assert found["two/1 day"] == 2.0
    assert found["chips/1 day"] != 2.0


def test_a_number_that_is_not_finite_ends_no_training() -> None:
    values = iter([1.0, math.nan, 3.0])
    validate = in_lightning.ValidateOnChips(
        lambda chip: next(values), every=1, num_chips=1, network="net"
    )
    with pytest.warns(UserWarning, match="at step 2, .* the metric is nan on chip 0 .* as NaN"):
        trainer = _measuring(validate)
    assert trainer.global_step == 3
    assert trainer.callback_metrics["chips/1 day"] == 3.0


def test_an_error_of_a_measurement_says_where_it_comes_from() -> None:
    def broken(chip: nn.Module) -> float:
        raise KeyError("no")

    validate = in_lightning.ValidateOnChips(broken, every=2, num_chips=1, network="net")
    with pytest.raises(KeyError) as raised:
        _measuring(validate)
    assert "ValidateOnChips measured at step 2" in raised.value.__notes__


def test_a_network_that_is_not_there_is_refused_before_the_fit() -> None:
    with pytest.raises(ValueError, match=r"of the _Own, such as \['', 'net'\], got 'student'"):
        _fit(_Own(True), "student")
    with pytest.raises(ValueError, match=r"such as \[\], got 'net'"):
        _fit(_Own(False), "net")


def test_a_student_that_is_not_converted_is_refused_before_the_fit() -> None:
    with pytest.raises(ValueError, match="Distillation: the model has no analog layer; call"):
        in_lightning.Distillation(_teacher(), _teacher())


def test_wrong_options_are_refused() -> None:
    for module in (in_lightning, huggingface):
        with pytest.raises(TypeError, match="metric must be a function"):
            module.ValidateOnChips(3)
        with pytest.raises(ValueError, match="every must be an integer"):
            module.ValidateOnChips(lambda chip: 1.0, every=0)
        with pytest.raises(ValueError, match="num_chips must be an integer"):
            module.ValidateOnChips(lambda chip: 1.0, num_chips=0)
        with pytest.raises(TypeError, match="recovery must be a Recovery such as"):
            module.ValidateOnChips(lambda chip: 1.0, recovery=[X])
