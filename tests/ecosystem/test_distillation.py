"""The recipe of ``adapt`` in Lightning and in the Trainer of Hugging Face."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

import analogtorch as at
from analogtorch.hwa import huggingface
from analogtorch.hwa import lightning as in_lightning
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
    student = at.calibrate(at.convert(copy.deepcopy(teacher), CHIP), [X])
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


def _fitted(data: Any = X, recipe: at.hwa.Recipe | None = None, **options: Any) -> nn.Module:
    student = at.calibrate(at.convert(_teacher(), CHIP), [X])
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, **options,
    )  # fmt: skip
    module = in_lightning.Distillation(student, _teacher(), recipe)
    trainer.fit(module, DataLoader(data, batch_size=16))
    return student


def test_lightning_clips_gradients_under_mixed_precision() -> None:
    student = _fitted(precision="bf16-mixed", gradient_clip_val=1.0, max_epochs=1)
    assert not any(map(torch.equal, _state(student), _state(_teacher())))


def test_lightning_leaves_the_ranges_as_the_recipe_asks() -> None:
    """Without a warning that they do not learn."""
    for learn in (True, False):
        student = _fitted(recipe=at.hwa.Recipe(learn_ranges=learn), max_epochs=1)
        calibrated = at.calibrate(at.convert(_teacher(), CHIP), [X])
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
    for _, layer in at.analog_layers(student):
        limit = at.hwa.clip_weights_(copy.deepcopy(student), 2.5)
        name = layer.layer_name
        assert torch.allclose(layer.weight, limit.get_submodule(name).weight, rtol=0.05, atol=1e-3)
    with torch.no_grad():
        near = (student.eval()(X) - teacher(X)).square().mean() / teacher(X).square().mean()
    assert near < 0.05


def test_lightning_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole, _, _ = _lightning(tmp_path)
    stopped, _, _ = _lightning(tmp_path, stop=6)
    assert all(layer.noise_fraction == 1.0 for _, layer in at.analog_layers(stopped))
    resumed, _, _ = _lightning(tmp_path, resume=tmp_path / "stopped.ckpt")
    assert all(map(torch.equal, _state(whole), _state(resumed)))
    assert not all(map(torch.equal, _state(whole), _state(stopped)))


def _bert() -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def _rows(count: int) -> list[dict[str, Tensor]]:
    ids = torch.randint(50, (count, 6), generator=torch.Generator().manual_seed(2))
    return [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]


def _hugging_face(folder: Path, resume: Path | None = None) -> tuple[nn.Module, nn.Module]:
    teacher = _bert()
    batch = {k: torch.stack([row[k] for row in _rows(16)]) for k in ("input_ids", "attention_mask")}
    student = at.calibrate(at.convert(copy.deepcopy(teacher), CHIP), [batch])
    trainer = _trainer(
        folder, student, teacher, max_steps=6, save_steps=4,
        callbacks=[huggingface.ValidateOnChips(_metric, every=3, num_chips=1)],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    trainer.save_state()
    return student, teacher


def _trainer(
    folder: Path,
    student: nn.Module,
    teacher: nn.Module,
    callbacks: Any = None,
    recipe: at.hwa.Recipe | None = None,
    eval_dataset: Any = None,
    **options: Any,
) -> huggingface.DistillationTrainer:
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=8, report_to=[], use_cpu=True,
        disable_tqdm=True, logging_steps=1, **options,
    )  # fmt: skip
    return huggingface.DistillationTrainer(
        student, teacher, recipe, args=arguments, train_dataset=_rows(48), callbacks=callbacks,
        eval_dataset=eval_dataset,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:this state_dict carries no input ranges")
def test_hugging_face_distils_validates_and_resumes(tmp_path: Path) -> None:
    before = _state(_bert())
    student, teacher = _hugging_face(tmp_path / "whole")
    assert all(map(torch.equal, before, _state(teacher)))
    assert all(layer.noise_fraction == 1.0 for _, layer in at.analog_layers(student))
    log = json.loads((tmp_path / "whole" / "trainer_state.json").read_text())["log_history"]
    assert [row["step"] for row in log if row.get("chips/1 day") == 0.25] == [3, 6]
    losses = [row["loss"] for row in log if "loss" in row]
    assert len(losses) == 6
    learnt = dict(student.named_parameters())
    assert not any(torch.equal(p, learnt[name]) for name, p in teacher.named_parameters())
    resumed, _ = _hugging_face(tmp_path / "resumed", tmp_path / "whole" / "checkpoint-4")
    assert all(map(torch.equal, _state(student), _state(resumed)))


def _student() -> nn.Module:
    batch = {key: torch.stack([row[key] for row in _rows(16)]) for key in _rows(1)[0]}
    return at.calibrate(at.convert(_bert(), CHIP), [batch])


def _ranges(model: nn.Module) -> list[tuple[float, ...] | None]:
    return [layer.input_ranges for _, layer in at.analog_layers(model)]


@pytest.mark.parametrize("learn", [True, False])
def test_the_trainer_takes_the_optimizer_and_the_schedule_of_the_recipe(
    learn: bool, tmp_path: Path
) -> None:
    student, recipe = _student(), at.hwa.Recipe(learning_rate=0.02, learn_ranges=learn)
    before = _ranges(student)
    sizes = {id(p): p.detach().square().mean().sqrt().item() for p in student.parameters()}
    trainer = _trainer(
        tmp_path, student, _bert(), recipe=recipe, max_steps=3, save_strategy="no", weight_decay=0.1
    )
    trainer.train()
    used = trainer.optimizer.optimizer  # inside Accelerate's wrapper
    assert type(used) is torch.optim.Adam
    for group in used.param_groups:
        (p,) = group["params"]
        assert group["initial_lr"] == pytest.approx(0.02 * (sizes[id(p)] or 0.02))
        assert (group["weight_decay"], group["lr"]) == (0, 0)
    rates = [row["learning_rate"] for row in trainer.state.log_history if "loss" in row]
    assert rates == pytest.approx([rates[0], 0.75 * rates[0], 0.25 * rates[0]])
    assert (_ranges(student) != before) is learn


def test_the_trainer_takes_an_optimizer_that_is_given(tmp_path: Path) -> None:
    student = _student()
    given = torch.optim.SGD(student.parameters(), lr=0.01)
    trainer = huggingface.DistillationTrainer(
        student, _bert(), optimizers=(given, None), train_dataset=_rows(8),
        args=TrainingArguments(
            output_dir=str(tmp_path), max_steps=1, report_to=[], use_cpu=True, disable_tqdm=True
        ),
    )  # fmt: skip
    trainer.train()
    assert trainer.optimizer.optimizer is given


@pytest.mark.filterwarnings("ignore:this state_dict carries no input ranges")
def test_rows_without_labels_have_an_evaluation_loss(tmp_path: Path) -> None:
    """It has the same noise each time, so that the best step can be told."""
    watching = {"eval_strategy": "steps", "load_best_model_at_end": True}
    for number, watched in enumerate(({}, watching)):
        trainer = _trainer(
            tmp_path / str(number), _student(), _bert(), eval_dataset=_rows(4),
            max_steps=2, save_steps=1, eval_steps=1, save_only_model=True, **watched,
        )  # fmt: skip
        trainer.train()
    log = trainer.state.log_history
    losses = {row["step"]: row["eval_loss"] for row in log if "eval_loss" in row}
    assert list(losses) == [1, 2]
    best = int(trainer.state.best_model_checkpoint.split("-")[-1])
    assert losses[best] == min(losses.values())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[best], rel=1e-5)
    # the evaluations leave the training as it is
    rows = [row["loss"] for row in log if "loss" in row]
    assert rows == _losses(tmp_path / "0" / "checkpoint-2")


def test_predictions_hold_logits_and_labels(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, _student(), _bert(), max_steps=1, per_device_eval_batch_size=3)
    rows = [{**row, "labels": torch.tensor(1)} for row in _rows(5)]
    for given, labels in ((rows, (5,)), (_rows(5), None)):
        found = trainer.predict(given)
        assert found.predictions.shape == (5, 2)
        assert labels == (found.label_ids if found.label_ids is None else found.label_ids.shape)
        assert found.metrics["test_loss"] > 0


def _losses(checkpoint: Path) -> list[float]:
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    return [row["loss"] for row in state["log_history"] if "loss" in row]


def test_the_ranges_are_kept_once(tmp_path: Path) -> None:
    student = _student()
    keep = huggingface.KeepRanges()
    trainer = _trainer(tmp_path, student, _bert(), callbacks=[keep], max_steps=1)
    trainer.train()
    state = json.loads((tmp_path / "checkpoint-1" / "trainer_state.json").read_text())
    kept = state["stateful_callbacks"]["KeepRanges"]["attributes"]["ranges"]
    names = [name for name, _ in at.analog_layers(student)]
    assert [tuple(kept[name]) for name in names] == _ranges(student)


@pytest.mark.filterwarnings("ignore:this state_dict carries no input ranges")
def test_accumulated_losses_are_averaged(tmp_path: Path) -> None:
    """The first step has no noise, so that only the split of its batch differs."""
    losses = []
    for size, parts in ((16, 1), (4, 4)):
        trainer = huggingface.DistillationTrainer(
            at.convert(_bert(), CHIP), _bert(),
            args=TrainingArguments(
                output_dir=str(tmp_path / str(size)), max_steps=1, per_device_train_batch_size=size,
                gradient_accumulation_steps=parts, report_to=[], use_cpu=True, disable_tqdm=True,
                logging_steps=1, save_strategy="no",
            ),
            train_dataset=_rows(16),
        )  # fmt: skip
        trainer.train()
        losses.append(next(row["loss"] for row in trainer.state.log_history if "loss" in row))
    assert losses[1] < 1.5 * losses[0]


@pytest.mark.filterwarnings("ignore:this state_dict carries no input ranges")
def test_the_loss_of_ranks_runs_through_their_wrapper(tmp_path: Path) -> None:
    """Otherwise it averages no gradients, and each rank trains a model of its own."""
    trainer = _trainer(tmp_path, at.convert(_bert(), CHIP), _bert(), max_steps=1)
    inputs = {key: torch.stack([row[key] for row in _rows(4)]) for key in _rows(1)[0]}
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        ranked = DistributedDataParallel(trainer.twin.student, find_unused_parameters=True)
        with at.noise(1):
            plain = trainer.compute_loss(trainer.twin.student, inputs)
        seen: list[Any] = []
        ranked.register_forward_hook(lambda *given: seen.append(given))
        with at.noise(1):
            assert trainer.compute_loss(ranked, inputs) == plain
        assert len(seen) == 1
    finally:
        dist.destroy_process_group()


def test_a_process_with_several_gpus_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingArguments, "n_gpu", 2)
    monkeypatch.setattr(huggingface.Trainer, "__init__", _bare)
    with pytest.raises(ValueError, match="has 2 GPUs; start one process for each by torchrun"):
        _trainer(tmp_path, at.convert(_bert(), CHIP), _bert(), max_steps=1)


def _bare(self: Any, model: nn.Module, args: Any, **_: Any) -> None:
    """Take the arguments, and do nothing on a GPU."""
    self.model, self.args = model, args


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
