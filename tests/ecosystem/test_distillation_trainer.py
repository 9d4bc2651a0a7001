"""The recipe of ``adapt`` in the Trainer of Hugging Face."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    T5Config,
    T5ForConditionalGeneration,
    TrainerCallback,
    TrainingArguments,
)

import analogtorch as at
from analogtorch.hwa import huggingface
from tests.ecosystem.models import CHIP
from tests.ecosystem.test_distillation import _metric, _ranges, _state


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


def _hugging_face(
    folder: Path, dtype: torch.dtype, resume: Path | None = None
) -> tuple[nn.Module, nn.Module]:
    teacher = _bert().to(dtype)
    batch = {k: torch.stack([row[k] for row in _rows(16)]) for k in ("input_ids", "attention_mask")}
    student = at.calibrate(at.convert(copy.deepcopy(teacher), CHIP), [batch], effort="ranges")
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


def test_attention_maps_of_transformers_are_compared(tmp_path: Path) -> None:
    def loss(weight: float) -> Tensor:
        recipe = at.hwa.Recipe(attention=weight)
        trainer = _trainer(tmp_path, _student(), _bert(), recipe=recipe)
        batch = {k: torch.stack([row[k] for row in _rows(8)]) for k in _rows(1)[0]}
        with at.noise(1):
            found: Tensor = trainer.compute_loss(trainer.model, batch)
        return found

    without, one, two = map(loss, (0.0, 1e5, 2e5))  # the maps of random weights are flat
    assert one > without
    assert torch.allclose(two - without, 2 * (one - without), rtol=1e-3)


@pytest.mark.filterwarnings("ignore:this state_dict carries no DAC ranges")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hugging_face_distils_validates_and_resumes(dtype: torch.dtype, tmp_path: Path) -> None:
    before = _state(_bert().to(dtype))
    student, teacher = _hugging_face(tmp_path / "whole", dtype)
    assert all(map(torch.equal, before, _state(teacher)))
    assert all(layer.noise_fraction == 1.0 for _, layer in at.analog_layers(student))
    log = json.loads((tmp_path / "whole" / "trainer_state.json").read_text())["log_history"]
    assert [row["step"] for row in log if row.get("chips/1 day") == 0.25] == [3, 6]
    losses = [row["loss"] for row in log if "loss" in row]
    assert len(losses) == 6
    learnt = dict(student.named_parameters())
    assert not any(torch.equal(p, learnt[name]) for name, p in teacher.named_parameters())
    resumed, _ = _hugging_face(tmp_path / "resumed", dtype, tmp_path / "whole" / "checkpoint-4")
    assert all(map(torch.equal, _state(student), _state(resumed)))


def _student() -> nn.Module:
    batch = {key: torch.stack([row[key] for row in _rows(16)]) for key in _rows(1)[0]}
    return at.calibrate(at.convert(_bert(), CHIP), [batch], effort="ranges")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_that_are_not_finite_end_the_training_before_the_step(
    accumulate: int, tmp_path: Path
) -> None:
    """The Trainer would step, log a loss of 0, and go on with a model of NaN."""
    student = _student()
    student.classifier.weight.register_hook(lambda g: g * torch.nan)
    before = _state(student)
    trainer = _trainer(
        tmp_path, student, _bert(), max_steps=3, gradient_accumulation_steps=accumulate
    )
    named = r"DistillationTrainer: gradients .* at step 0: of 'classifier.weight'; .*was before"
    with pytest.raises(ValueError, match=named):
        trainer.train()
    assert all(map(torch.equal, before, _state(student)))


class _Stop(TrainerCallback):
    """Interrupts the training in the middle of the noise ramp."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 1:
            raise KeyboardInterrupt


def test_an_interrupted_training_leaves_all_the_noise(tmp_path: Path) -> None:
    """Transformers calls no callback on an exception; a loop that follows would lack the noise."""
    student = _student()
    trainer = _trainer(tmp_path, student, _bert(), [_Stop()], max_steps=20, save_strategy="no")
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.state.global_step == 1
    assert {layer.noise_fraction for _, layer in at.analog_layers(student)} == {1.0}


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


def test_clipped_weights_are_measured(tmp_path: Path) -> None:
    student, seen = _student(), list[list[Tensor]]()

    def metric(chip: nn.Module) -> float:
        seen.append(_state(student))
        return 0.5

    trainer = _trainer(
        tmp_path, student, _bert(), [huggingface.ValidateOnChips(metric, every=3, num_chips=1)],
        at.hwa.Recipe(learning_rate=0.05, ramp=0.1), max_steps=3, save_strategy="no",
    )  # fmt: skip
    trainer.train()
    assert all(map(torch.equal, seen[0], _state(student)))


@pytest.mark.filterwarnings("ignore:this state_dict carries no DAC ranges")
def test_the_best_model_on_chips_is_kept(tmp_path: Path) -> None:
    student, numbers = _student(), iter([0.2, 0.7, 0.4])
    validate = huggingface.ValidateOnChips(lambda chip: next(numbers), every=2, num_chips=1)
    trainer = _trainer(
        tmp_path, student, _bert(), [validate], max_steps=6, save_steps=2, eval_steps=2,
        eval_strategy="steps", eval_dataset=_rows(8), load_best_model_at_end=True,
        metric_for_best_model="chips/1 day", greater_is_better=True,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.best_metric == pytest.approx(0.7)
    assert trainer.state.best_global_step == 4
    assert [row["chips/1 day"] for row in trainer.state.log_history if "chips/1 day" in row] == (
        pytest.approx([0.2, 0.7, 0.4])
    )
    # the model is that of step 4 now, on which this Trainer measures nothing
    assert "eval_chips/1 day" not in trainer.evaluate()


@pytest.mark.filterwarnings("ignore:this state_dict carries no DAC ranges")
def test_measurements_of_one_name_are_refused(tmp_path: Path) -> None:
    def run(*names: str) -> list[dict[str, float]]:
        callbacks = [
            huggingface.ValidateOnChips(_metric, every=1, num_chips=1, name=name) for name in names
        ]
        trainer = _trainer(tmp_path, _student(), _bert(), callbacks, max_steps=1)
        trainer.train()
        return trainer.state.log_history

    with pytest.raises(ValueError, match="two of them log 'chips/1 day'"):
        run("chips", "chips")
    logged = run("chips", "two")
    assert [row["two/1 day"] for row in logged if "two/1 day" in row]


@pytest.mark.filterwarnings("ignore:this state_dict carries no DAC ranges")
def test_a_run_stops_early_by_the_numbers_of_chips(tmp_path: Path) -> None:
    validate = huggingface.ValidateOnChips(lambda chip: 0.5, every=1, num_chips=1)
    trainer = _trainer(
        tmp_path, _student(), _bert(), [validate, EarlyStoppingCallback(1)], max_steps=6,
        save_steps=1, eval_steps=1, eval_strategy="steps", eval_dataset=_rows(8),
        load_best_model_at_end=True, metric_for_best_model="chips/1 day", greater_is_better=True,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 2


def test_an_evaluation_between_two_measurements_has_none(tmp_path: Path) -> None:
    validate = huggingface.ValidateOnChips(lambda chip: 0.5, every=3, num_chips=1)
    trainer = _trainer(
        tmp_path, _student(), _bert(), [validate], max_steps=4, eval_steps=2,
        eval_strategy="steps", eval_dataset=_rows(8), save_strategy="no",
        metric_for_best_model="chips/1 day",
    )  # fmt: skip
    with pytest.raises(KeyError, match="eval_chips/1 day"):
        trainer.train()


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


@pytest.mark.filterwarnings("ignore:this state_dict carries no DAC ranges")
def test_rows_without_labels_have_an_evaluation_loss(tmp_path: Path) -> None:
    """The noise is the same each time, so that the losses of steps can be compared."""
    options = {"max_steps": 2, "save_steps": 1, "save_only_model": True}
    watched = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    alone = _trainer(tmp_path, _student(), _bert(), max_steps=2, save_strategy="no")
    alone.train()
    trainer = _trainer(tmp_path, _student(), _bert(), eval_dataset=_rows(4), **options, **watched)
    trainer.train()
    log = trainer.state.log_history
    losses = {row["step"]: row["eval_loss"] for row in log if "eval_loss" in row}
    assert list(losses) == [1, 2]
    best = int(trainer.state.best_model_checkpoint.split("-")[-1])
    assert losses[best] == min(losses.values())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[best], rel=1e-5)
    assert _losses(trainer) == _losses(alone)  # the evaluations leave the training as it is


def _losses(trainer: huggingface.DistillationTrainer) -> list[float]:
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def test_predictions_hold_logits_and_labels(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, _student(), _bert(), max_steps=1, per_device_eval_batch_size=3)
    rows = [{**row, "labels": torch.tensor(1)} for row in _rows(5)]
    for given, labels in ((rows, (5,)), (_rows(5), None)):
        found = trainer.predict(given)
        assert found.predictions.shape == (5, 2)
        assert labels == (found.label_ids if found.label_ids is None else found.label_ids.shape)
        assert found.metrics["test_loss"] > 0


def test_checkpointing_of_transformers_has_no_effect_and_is_warned_of(tmp_path: Path) -> None:
    student = at.convert(_bert(), CHIP)
    with pytest.warns(UserWarning, match="activation_checkpointing=True .* has no effect"):
        _trainer(tmp_path, student, _bert(), activation_checkpointing=True)


class _Recomputing(nn.Module):
    """A net that checkpoints activations in its own forward, in either mode."""

    def __init__(self, checkpointed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 16)
        )
        self.head, self.checkpointed = nn.Linear(16, 5), checkpointed

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = input_ids / 50
        y = checkpoint(self.block, x, use_reentrant=False) if self.checkpointed else self.block(x)
        return {"logits": self.head(y)}


def test_nets_that_checkpoint_learn_the_same_bits(tmp_path: Path) -> None:
    found = []
    for checkpointed in (False, True):
        teacher = _Recomputing(checkpointed).eval()
        student = at.convert(copy.deepcopy(teacher), CHIP)
        trainer = _trainer(
            tmp_path, student, teacher, eval_dataset=_rows(8), max_steps=4, save_strategy="no",
            gradient_accumulation_steps=2, eval_strategy="steps", eval_steps=2,
        )  # fmt: skip
        trainer.train()
        trainer.evaluate()
        assert student.training is False  # as evaluation leaves it
        assert all(not layer.taps for _, layer in at.analog_layers(student))
        found.append(_state(student))
    assert all(map(torch.equal, *found))


def test_the_ranges_are_kept_once(tmp_path: Path) -> None:
    student = _student()
    keep = huggingface.KeepRanges()
    trainer = _trainer(tmp_path, student, _bert(), callbacks=[keep], max_steps=1)
    trainer.train()
    state = json.loads((tmp_path / "checkpoint-1" / "trainer_state.json").read_text())
    kept = state["stateful_callbacks"]["KeepRanges"]["attributes"]["ranges"]
    names = [name for name, _ in at.analog_layers(student)]
    assert [tuple(kept[name]) for name in names] == _ranges(student)


@pytest.mark.filterwarnings("ignore:this state_dict carries no DAC ranges")
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


@pytest.mark.filterwarnings("ignore:this state_dict carries no DAC ranges")
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


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_predictions_of_a_decoder_are_those_of_its_labels(tmp_path: Path, kind: str) -> None:
    """It makes its inputs of them, where it has no others."""
    torch.manual_seed(0)
    common: dict[str, Any] = {"vocab_size": 40, "d_model": 16, "pad_token_id": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    config: Any = BartConfig(**common, **heads, **sizes)
    if kind == "t5":
        common["decoder_start_token_id"] = 0
        config = T5Config(**common, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    model = BartForConditionalGeneration if kind == "bart" else T5ForConditionalGeneration
    teacher = model(config).eval()
    ids, labels = torch.randint(2, 40, (2, 8, 6))
    pairs = zip(ids, labels, strict=True)
    rows = [{"input_ids": a, "labels": b, "decoder_input_ids": b.roll(1)} for a, b in pairs]
    student = at.convert(copy.deepcopy(teacher), at.chips.ideal())
    trainer = _trainer(tmp_path, student, teacher, max_steps=1)

    def predicted(*left_out: str) -> Any:
        found = [{k: v for k, v in row.items() if k not in left_out} for row in rows]
        return trainer.predict(found)

    def exact(**batch: Tensor) -> Tensor:
        return teacher(input_ids=ids, **batch).logits

    for left_out, batch in (
        (("decoder_input_ids",), {"labels": labels}),
        ((), {"decoder_input_ids": torch.stack([row["decoder_input_ids"] for row in rows])}),
    ):
        found = predicted(*left_out)
        logits = found.predictions[0] if isinstance(found.predictions, tuple) else found.predictions
        torch.testing.assert_close(torch.tensor(logits), exact(**batch), rtol=1e-3, atol=1e-4)
        assert (found.label_ids == labels.numpy()).all()
        assert found.metrics["test_loss"] < 1e-6
    assert trainer.label_names == ["labels"]
