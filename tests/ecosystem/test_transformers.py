"""Hugging Face: a converted model trains with its Trainer, and what it saves is the digital model's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from tests.ecosystem.models import CHIP

transformers = pytest.importorskip("transformers")


def _bert() -> Any:
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=12, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(config)


def _batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 30, (8, 12), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 3}


def _convert(model: nn.Module) -> nn.Module:
    return at.calibrate(at.convert(model, CHIP), [_batch()])


def _logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(**_batch()).logits


def _trained(model: nn.Module, folder: Path, resume: Path | None = None) -> None:
    rows = [dict(zip(_batch(), row, strict=True)) for row in zip(*_batch().values(), strict=True)]
    arguments = transformers.TrainingArguments(
        str(folder), max_steps=3, per_device_train_batch_size=4, learning_rate=1e-3, report_to="none", use_cpu=True,
        save_steps=2, disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))


def test_trained_saved_and_loaded_into_the_digital_class(tmp_path: Path) -> None:
    model = _convert(_bert())
    before = {name: t.clone() for name, t in model.state_dict().items()}
    ranges = [layer.input_range.item() for _, layer in at.analog_layers(model)]
    _trained(model, tmp_path / "run")
    moved = [layer.input_range.item() for _, layer in at.analog_layers(model)]
    assert sum(not torch.equal(t, before[name]) for name, t in model.state_dict().items()) > 30
    assert ranges != moved

    model.save_pretrained(tmp_path / "saved")
    digital, report = transformers.BertForSequenceClassification.from_pretrained(
        tmp_path / "saved", output_loading_info=True
    )
    assert not any(report.values()), report
    assert {type(m) for m in digital.modules()} == {type(m) for m in _bert().modules()}
    assert list(digital.state_dict()) == list(model.state_dict())
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in digital.state_dict().items())

    again = at.convert(digital, CHIP)
    again.load_state_dict(model.state_dict())
    assert torch.equal(_logits(again), _logits(model))


def test_a_run_is_repeated_bit_for_bit_and_resumed_with_a_warning(tmp_path: Path) -> None:
    """The Trainer seeds torch, and with it the noise. Its checkpoints are safetensors: what ranges learnt is lost."""
    whole, again, resumed = (_convert(_bert()) for _ in range(3))
    _trained(whole, tmp_path / "whole")
    _trained(again, tmp_path / "again")
    assert torch.equal(_logits(whole), _logits(again))
    with pytest.warns(UserWarning, match="carries no input ranges.*the layers keep those that they have"):
        _trained(resumed, tmp_path / "resumed", resume=tmp_path / "whole" / "checkpoint-2")
    assert torch.allclose(_logits(whole), _logits(resumed), atol=0.05)
