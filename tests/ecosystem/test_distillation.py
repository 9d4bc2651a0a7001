"""The recipe of ``adapt`` in Lightning and in the Trainer of Hugging Face."""

import copy
import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
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
    trainer = huggingface.DistillationTrainer(
        student,
        teacher,
        args=TrainingArguments(
            output_dir=str(folder), max_steps=6, per_device_train_batch_size=8, save_steps=4,
            report_to=[], use_cpu=True, disable_tqdm=True, logging_steps=1,
        ),
        train_dataset=_rows(48),
        callbacks=[huggingface.ValidateOnChips(_metric, every=3, num_chips=1)],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    trainer.save_state()
    return student, teacher


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


def test_wrong_options_are_refused() -> None:
    for module in (in_lightning, huggingface):
        with pytest.raises(TypeError, match="metric must be a function"):
            module.ValidateOnChips(3)
        with pytest.raises(ValueError, match="every must be an integer"):
            module.ValidateOnChips(lambda chip: 1.0, every=0)
        with pytest.raises(ValueError, match="num_chips must be an integer"):
            module.ValidateOnChips(lambda chip: 1.0, num_chips=0)
