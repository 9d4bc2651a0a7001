"""Hugging Face: a converted model trains with its Trainer and saves as the digital model does."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import transformers
from torch import Tensor, nn

import analogtorch as at
from analogtorch.hwa.huggingface import KeepRanges, load_ranges
from tests.ecosystem.models import CHIP


def _bert(layers: int = 2) -> Any:
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=12, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(config)


def _gpt2() -> Any:
    """Return a net with layers of its kind, and a head with the weight of the embedding."""
    config = transformers.GPT2Config(vocab_size=30, n_positions=12, n_embd=16, n_layer=2, n_head=2)
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config)


def _batch(model: nn.Module) -> dict[str, Tensor]:
    ids = torch.randint(0, 30, (8, 12), generator=torch.Generator().manual_seed(1))
    labels = ids if isinstance(model, transformers.GPT2LMHeadModel) else ids[:, 0] % 3
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def _convert(model: nn.Module) -> nn.Module:
    return at.calibrate(at.convert(model, CHIP), [_batch(model)], effort="ranges")


def _logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(**_batch(model)).logits


def _trained(
    model: nn.Module,
    folder: Path,
    resume: Path | None = None,
    callbacks: Any = None,
    optimizers: Any = (None, None),
    **options: Any,
) -> transformers.Trainer:
    batch = _batch(model)
    rows = [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]
    arguments = transformers.TrainingArguments(
        str(folder), max_steps=3, per_device_train_batch_size=4, learning_rate=1e-3,
        report_to="none", use_cpu=True, save_steps=2, disable_tqdm=True, logging_strategy="no",
        **options,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=rows, eval_dataset=rows, callbacks=callbacks,
        optimizers=optimizers,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer


@pytest.mark.parametrize("make", [_bert, _gpt2])
def test_trained_saved_and_loaded_into_the_digital_class(make: Any, tmp_path: Path) -> None:
    model = _convert(make())
    before = {name: t.clone() for name, t in model.state_dict().items()}
    ranges = [layer.input_range.item() for _, layer in at.analog_layers(model)]
    assert len(ranges) == {_bert: 14, _gpt2: 9}[make]
    _trained(model, tmp_path / "run")
    assert not any(
        torch.equal(t, before[name])
        for name, t in model.state_dict().items()
        if name.endswith("weight")
    )
    assert ranges != [layer.input_range.item() for _, layer in at.analog_layers(model)]

    model.save_pretrained(tmp_path / "saved")
    digital, report = type(make()).from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(report.values()), report
    assert [type(m) for m in digital.modules()] == [type(m) for m in make().modules()]
    assert list(digital.state_dict()) == list(model.state_dict())
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in digital.state_dict().items())

    again = at.convert(digital, CHIP)
    again.load_state_dict(model.state_dict())
    assert torch.equal(_logits(again), _logits(model))


@pytest.mark.slow
def test_a_run_is_repeated_bit_for_bit_and_resumed_with_a_warning(tmp_path: Path) -> None:
    """The Trainer seeds torch, and with it the noise.

    Its checkpoints are safetensors, so what ranges have learnt is lost.
    """
    whole, again, resumed = (_convert(_bert()) for _ in range(3))
    _trained(whole, tmp_path / "whole")
    _trained(again, tmp_path / "again")
    assert torch.equal(_logits(whole), _logits(again))
    with pytest.warns(
        UserWarning, match="carries no DAC ranges.*the layers keep those that they have"
    ):
        _trained(resumed, tmp_path / "resumed", resume=tmp_path / "whole" / "checkpoint-2")
    assert torch.allclose(_logits(whole), _logits(resumed), atol=0.05)


def _ranges(model: nn.Module) -> list[tuple[float, ...] | None]:
    return [layer.input_ranges for _, layer in at.analog_layers(model)]


@pytest.mark.filterwarnings("ignore:this state_dict carries no DAC ranges")
@pytest.mark.parametrize("restore", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_run_that_keeps_its_ranges_is_resumed_bit_for_bit(restore: bool, tmp_path: Path) -> None:
    whole, resumed, tiled = _convert(_bert()), _convert(_bert()), _convert(_bert())
    _trained(whole, tmp_path / "whole", callbacks=[KeepRanges()])
    # other ranges, which the checkpoint's replace
    at.calibrate(resumed, [_batch(resumed)], method="absmax")
    options = {"restore_callback_states_from_checkpoint": restore}
    _trained(
        resumed,
        tmp_path / "resumed",
        tmp_path / "whole" / "checkpoint-2",
        [KeepRanges()],
        **options,
    )
    assert _ranges(resumed) == _ranges(whole)
    assert torch.equal(_logits(whole), _logits(resumed))
    assert load_ranges(tiled, tmp_path / "resumed" / "checkpoint-3") is tiled
    assert _ranges(tiled) == _ranges(whole)


@pytest.mark.filterwarnings("ignore:this state_dict carries no DAC ranges")
@pytest.mark.parametrize("method", ["mse", None])
def test_adc_bounds_are_kept_too(method: Any, tmp_path: Path) -> None:
    model, fresh = _convert(_bert()), _convert(_bert())
    at.calibrate(model, [_batch(model)], method=method, adc="mse", adc_per="column")
    _trained(model, tmp_path, callbacks=[KeepRanges()])
    load_ranges(fresh, tmp_path / "checkpoint-3")
    for (_, layer), (_, other) in zip(
        at.analog_layers(model), at.analog_layers(fresh), strict=True
    ):
        assert torch.equal(layer.adc_ranges, other.adc_ranges)


@pytest.mark.filterwarnings("ignore:this state_dict carries no DAC ranges")
def test_what_calibration_chose_for_the_chips_is_kept_too(tmp_path: Path) -> None:
    chosen = at.chips.hermes64(weight_scale="column").drift_aware("1 week")
    models = [at.convert(_bert(), chip) for chip in (chosen, at.chips.hermes64())]
    model, fresh = (at.calibrate(m, [_batch(m)], effort="ranges") for m in models)
    _trained(model, tmp_path, callbacks=[KeepRanges()])
    load_ranges(fresh, tmp_path / "checkpoint-3")
    for _, layer in at.analog_layers(fresh):
        assert layer.chip.cell == chosen.cell
        assert layer.chip.periphery == chosen.periphery


@pytest.mark.filterwarnings("ignore:this state_dict carries no DAC ranges")
def test_the_best_model_gets_the_ranges_that_it_had(tmp_path: Path) -> None:
    model = _convert(_bert())
    seen = {}

    class Look(transformers.TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seen[state.global_step] = _ranges(model)

    # the loss falls, so that by its largest value the first checkpoint is the best
    options = {
        "load_best_model_at_end": True,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "greater_is_better": True,
    }
    _trained(model, tmp_path, None, [KeepRanges(), Look()], metric_for_best_model="loss", **options)
    assert seen[2] != seen[3]
    assert _ranges(model) == seen[2]


def test_the_state_that_is_saved_after_the_training_has_the_ranges_of_its_end(
    tmp_path: Path,
) -> None:
    model, fresh = _convert(_bert(1)), _convert(_bert(1))
    trainer = _trained(model, tmp_path, callbacks=[KeepRanges()], save_strategy="no")
    trainer.save_state()
    assert _ranges(load_ranges(fresh, tmp_path)) == _ranges(model)


def _net(chip: at.Chip, **ranges: Any) -> nn.Module:
    torch.manual_seed(0)
    net = at.convert(nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4)), chip)
    return at.calibrate(net, [torch.randn(8, 20)], effort="ranges", **ranges) if ranges else net


def _kept(model: nn.Module, folder: Path) -> Path:
    """Write the state of a training of ``model``, as the Trainer does, and return the folder."""
    state = transformers.TrainerState()
    KeepRanges().on_train_begin(None, state, None, model=model)
    state.save_to_json(str(folder / "trainer_state.json"))
    return folder


def test_a_layer_without_a_range_in_the_checkpoint_has_none_again(tmp_path: Path) -> None:
    chip = at.chips.hermes64()
    model, fresh = _net(chip, method=None), _net(chip, method="absmax")
    model[2].set_input_range(3.0)
    assert None not in _ranges(fresh)
    load_ranges(fresh, _kept(model, tmp_path))
    assert _ranges(fresh) == [None, (3.0,)]
    assert [layer.input_range.requires_grad for _, layer in at.analog_layers(fresh)] == [0, 1]
    for (_, layer), (_, other) in zip(
        at.analog_layers(model), at.analog_layers(fresh), strict=True
    ):
        assert torch.equal(layer.output_ranges, other.output_ranges)


def test_choices_are_kept_where_no_layer_has_a_range(tmp_path: Path) -> None:
    chosen = at.chips.hermes64(weight_scale="column").drift_aware("1 week")
    fresh = _net(at.chips.hermes64(), method="absmax")
    load_ranges(fresh, _kept(_net(chosen), tmp_path))
    for _, layer in at.analog_layers(fresh):
        assert not layer.ranged
        assert layer.chip.cell == chosen.cell
        assert layer.chip.periphery == chosen.periphery


@pytest.mark.parametrize(
    "choices",
    [
        {"weight_scales": {"0": "column"}},
        {"choices": {name: {"weight_scale": "column", "target_time": None} for name in "02"}},
    ],
)
def test_states_of_earlier_versions_are_taken(choices: Any, tmp_path: Path) -> None:
    """They left out layers without a range: one that has a range now keeps it."""
    kept = {"ranges": {"0": [2.0]}, "output_bounds": {"0": 0.5}, **choices}
    callbacks = {"KeepRanges": {"args": {}, "attributes": kept}}
    state = transformers.TrainerState(stateful_callbacks=callbacks)
    state.save_to_json(str(tmp_path / "trainer_state.json"))
    fresh = _net(at.chips.hermes64(), method="absmax")
    before = fresh[2].input_ranges
    load_ranges(fresh, tmp_path)
    assert fresh[0].input_ranges == (2.0,)
    assert fresh[0].adc_ranges.unique().item() == 0.5
    assert fresh[0].chip.periphery.weight_scale == "column"
    assert fresh[2].input_ranges == before


@pytest.mark.slow
def test_a_callback_brings_no_ranges_into_the_run_of_another_model(tmp_path: Path) -> None:
    keep, options = [KeepRanges()], {"save_strategy": "no"}
    _trained(_convert(_bert(1)), tmp_path, None, keep, **options)
    model, alone = (_convert(_bert(1)) for _ in range(2))
    for net in (model, alone):
        at.calibrate(net, [_batch(net)], method="absmax")
    _trained(model, tmp_path, None, keep, **options)
    _trained(alone, tmp_path, None, [KeepRanges()], **options)
    assert _ranges(model) == _ranges(alone)


def test_weight_decay_of_ranges_is_warned_of(tmp_path: Path) -> None:
    model = _convert(_bert(1))
    keep = [KeepRanges()]
    with pytest.warns(UserWarning, match=r"decay of 0.1 shrinks the DAC ranges of 8 layers"):
        _trained(model, tmp_path, None, keep, weight_decay=0.1, save_strategy="no")
    # as the message says
    groups = at.hwa.parameter_groups(model, weight_decay=0.1)
    optimizers = (torch.optim.AdamW(groups, lr=1e-3), None)
    _trained(model, tmp_path, None, keep, optimizers, weight_decay=0.1, save_strategy="no")
    _trained(model, tmp_path, None, keep, weight_decay=0.0, save_strategy="no")


@pytest.mark.filterwarnings("ignore:this state_dict carries no DAC ranges")
def test_checkpoints_without_ranges_or_with_those_of_other_layers(tmp_path: Path) -> None:
    model = _convert(_bert())
    _trained(model, tmp_path / "without")
    _trained(
        _convert(_bert()), tmp_path / "with", tmp_path / "without" / "checkpoint-2", [KeepRanges()]
    )
    with pytest.raises(ValueError, match="holds no DAC ranges; train with"):
        load_ranges(model, tmp_path / "without" / "checkpoint-2")
    with pytest.raises(FileNotFoundError, match="no trainer_state.json"):
        load_ranges(model, tmp_path)
    other = _convert(_bert(layers=1))
    before = _ranges(other)
    with pytest.raises(
        ValueError, match="the analog layer 'bert.encoder.layer.1.*convert the same layers"
    ):
        load_ranges(other, tmp_path / "with" / "checkpoint-3")
    assert _ranges(other) == before


@pytest.mark.slow
def test_a_whole_model_becomes_onnx(tmp_path: Path) -> None:
    model = _convert(_bert(layers=1)).eval()
    x = {name: t for name, t in _batch(model).items() if name != "labels"}
    shapes = {name: {0: torch.export.Dim.DYNAMIC} for name in x}
    torch.onnx.export(
        model,
        (),
        tmp_path / "bert.onnx",
        kwargs=x,
        dynamic_shapes=shapes,
        dynamo=True,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "bert.onnx")
    (y,) = session.run(None, {name: t[:3].numpy() for name, t in x.items()})
    expected = _logits(model)[:3]
    assert torch.allclose(
        torch.tensor(y), expected, rtol=0, atol=1e-4 * expected.abs().max().item()
    )
