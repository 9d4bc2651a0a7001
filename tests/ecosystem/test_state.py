"""Weights travel: between digital and analog models, through files, copies, and the meta device."""

import contextlib
import copy
import io
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accelerate
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)

import analogtorch as at
from analogtorch.nn.kinds import kinds
from tests.ecosystem.models import ENTRIES, TORCHS_OWN, Entry

pytestmark = TORCHS_OWN

LOST = "carries no DAC ranges"


def _lost(entry: Entry, message: str) -> Any:
    return (
        pytest.warns(UserWarning, match=message) if entry.takes_range else contextlib.nullcontext()
    )


def _ranges(model: nn.Module) -> list[float]:
    return [layer.input_range.item() for _, layer in at.analog_layers(model)]


def _same(a: nn.Module, b: nn.Module, entry: Entry) -> bool:
    """Weights, ranges, outputs in evaluation and, under the same noise, in training."""
    x, states = entry.inputs(), (a.state_dict(), b.state_dict())
    assert list(states[0]) == list(states[1])
    with at.noise(1):
        trained = a.train()(*x)
    with at.noise(1):
        again = b.train()(*x)
    return (
        all(map(torch.equal, states[0].values(), states[1].values()))
        and _ranges(a) == _ranges(b)
        and torch.equal(trained, again)
        and torch.equal(a.eval()(*x), b.eval()(*x))
    )


def test_every_kind_has_a_model() -> None:
    assert {entry.kind for entry in ENTRIES} >= set(kinds()), (
        "add a line to ENTRIES in tests/ecosystem/models.py"
    )
    for entry in ENTRIES:
        assert type(entry.converted().layer) is entry.kind


def test_keys_are_the_digital_models_both_ways(entry: Entry) -> None:
    digital, analog = entry.digital(), entry.analog()
    assert list(analog.state_dict()) == list(digital.state_dict())
    # a digital checkpoint is no loss of ranges: nothing is said of the same weights
    analog.load_state_dict(digital.state_dict(), strict=True)
    with torch.no_grad():
        for parameter in digital.parameters():
            parameter.mul_(0.5)
    entry.converted().load_state_dict(digital.state_dict(), strict=True)
    takes = any(layer.takes_range and layer.ranged for _, layer in at.analog_layers(analog))
    found = pytest.warns(UserWarning, match="of digital .*the layers keep those that they have")
    with found if takes else contextlib.nullcontext():
        analog.load_state_dict(digital.state_dict(), strict=True)
    assert all(
        torch.equal(t, analog.state_dict()[name]) for name, t in digital.state_dict().items()
    )
    fresh = entry.digital()
    fresh.load_state_dict(analog.state_dict(), strict=True)
    assert torch.equal(fresh.eval()(*entry.inputs()), digital.eval()(*entry.inputs()))


def test_torch_save_keeps_the_ranges(entry: Entry, tmp_path: Path) -> None:
    model = entry.analog()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    fresh = entry.converted()
    fresh.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    assert _same(fresh, model, entry)


def test_safetensors_loses_the_ranges_and_says_so(entry: Entry, tmp_path: Path) -> None:
    model, file = entry.analog(), tmp_path / "model.safetensors"
    safetensors.torch.save_model(model, str(file))
    fresh = entry.converted()
    with _lost(entry, LOST):
        assert safetensors.torch.load_model(fresh, str(file), strict=True) == (set(), [])
    entry.calibrated(fresh)
    assert _same(fresh, model, entry)
    with _lost(entry, "the layers keep those that they have"):
        safetensors.torch.load_model(fresh, str(file))
    assert _same(fresh, model, entry)
    plain = entry.digital()
    assert safetensors.torch.load_model(plain, str(file), strict=True) == (set(), [])


@pytest.mark.parametrize("safe", [True, False])
def test_accelerate_keeps_the_ranges_outside_of_safetensors(safe: bool, tmp_path: Path) -> None:
    entry, accelerator = ENTRIES[0], accelerate.Accelerator(cpu=True)
    model, folder = accelerator.prepare(entry.analog()), tmp_path / "state"
    _, layer = next(at.analog_layers(model))
    before = layer.input_range.item()
    learnt = before * 2
    layer.set_input_range(learnt)
    accelerator.save_state(str(folder), safe_serialization=safe)
    layer.set_input_range(before)
    with _lost(entry, r"save_state\(folder, safe_serialization=False\)") if safe else _silent():
        accelerator.load_state(str(folder))
    assert layer.input_range.item() == (before if safe else learnt)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="this state_dict")
        yield


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_is_the_same_and_its_own(entry: Entry, how: str) -> None:
    model = entry.analog()
    twin = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert _same(twin, model, entry)
    assert not {p.data_ptr() for p in twin.parameters()} & {
        p.data_ptr() for p in model.parameters()
    }
    before = model.eval()(*entry.inputs())
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2)
    assert torch.equal(model(*entry.inputs()), before)
    assert not torch.equal(twin.eval()(*entry.inputs()), before)


@pytest.mark.parametrize("assign", [True, False], ids=["assign", "to_empty"])
def test_made_on_meta_and_filled(entry: Entry, assign: bool) -> None:
    model = entry.analog()
    with torch.device("meta"):
        fresh = entry.converted()
    assert all(p.is_meta for p in fresh.parameters())
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    if not assign:
        fresh.to_empty(device="cpu")
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True, assign=assign)
    assert not any(p.is_meta for p in fresh.parameters())
    assert _same(fresh, model, entry)
    fresh.train()(*entry.inputs()).square().sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in fresh.parameters())


def test_assigned_weights_of_another_type_bring_ranges_of_theirs(entry: Entry) -> None:
    model, half = entry.analog(), entry.converted().bfloat16()
    half.load_state_dict(model.state_dict(), assign=True)
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert _same(half, model, entry)


def test_a_digital_checkpoint_fills_a_model_on_meta(entry: Entry) -> None:
    with torch.device("meta"):
        fresh = entry.converted()
    fresh.load_state_dict(entry.digital().state_dict(), strict=True, assign=True)
    assert not any(p.is_meta for p in fresh.parameters())
    assert _same(entry.calibrated(fresh), entry.analog(), entry)


def test_files_read_into_the_models_own_state_bring_no_ranges(tmp_path: Path) -> None:
    # as torch.distributed.checkpoint reads them
    entry = ENTRIES[0]
    model, fresh = entry.analog(), entry.converted()
    files, own = model.state_dict(), fresh.state_dict()
    torch.save(files._metadata, tmp_path / "ranges.pt")
    with torch.no_grad():
        for name, t in own.items():
            t.copy_(files[name])
    with pytest.warns(UserWarning, match="this state_dict is the model's own"):
        fresh.load_state_dict(own)
    own = fresh.state_dict()
    own._metadata = torch.load(tmp_path / "ranges.pt", weights_only=True)
    fresh.load_state_dict(own)
    assert _same(fresh, model, entry)


def test_a_state_of_another_chip_is_said() -> None:
    def model(chip: at.Chip) -> nn.Module:
        torch.manual_seed(0)
        return at.convert(nn.Sequential(nn.Linear(8, 4)), chip)

    calibrated = at.calibrate(model(at.chips.hermes64()), [torch.randn(64, 8)])
    model(at.chips.hermes64()).load_state_dict(calibrated.state_dict())  # its own: nothing is said
    message = "saved on the chip 'hermes64', and the layers are on 'neurram48'"
    with pytest.warns(UserWarning, match=message):
        model(at.chips.neurram48()).load_state_dict(calibrated.state_dict())


def test_states_of_torch_distributed_are_those_of_the_model_inside() -> None:
    model = at.convert(nn.Sequential(nn.Linear(16, 8)), at.chips.hermes64())
    assert not any(set_model_state_dict(model, get_model_state_dict(model)))
    compiled = torch.compile(model, backend="eager")
    state = get_model_state_dict(compiled)
    with pytest.raises(RuntimeError, match=r"Missing key: 0\.input_range"):  # as docs say
        set_model_state_dict(compiled, state)
    found = set_model_state_dict(compiled, state, options=StateDictOptions(strict=False))
    assert not any(found)
