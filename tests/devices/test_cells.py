"""Unit cells beside the differential pair: offset, of several significances, quantised."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import analogtorch as at
from analogtorch import devices
from analogtorch.devices import OffsetCell, QuantisedPair, SignificancePairs, SingleEndedCell
from analogtorch.devices.cell import (
    changes_within,
    conducts_twice,
    negatives,
    program,
    weights_as_written,
    written,
)
from analogtorch.devices.scaled import Scaled
from tests.crossbar import crossbar
from tests.devices.test_everywhere import SHIPPED

HERMES = devices.hermes_one_device()
CELLS = {
    "pair": lambda device: devices.DifferentialPair(device=device),
    "offset": lambda device: OffsetCell(device=device, devices_per_weight=2),
    "offset_column": lambda device: OffsetCell(
        device=device, devices_per_weight=2, reference="column"
    ),
    "offset_binary": lambda device: OffsetCell(device=device, levels=2),
    "significances": lambda device: SignificancePairs(device=device),
    "binary": lambda device: QuantisedPair(device=device, levels=2),
    "ternary": lambda device: QuantisedPair(device=device, devices_per_polarity=2),
}
SLICES = {
    "magnitude": {"weight_bits": 4},
    "complement": {"weight_bits": 4, "signs": "complement", "bits_per_pulse": 2},
    "two bits": {"weight_bits": 5, "bits_per_slice": 2, "bits_per_pulse": 1},
    "two bits complement": {"weight_bits": 5, "bits_per_slice": 2, "signs": "complement"},
}
SLICED = CELLS | {"single_ended": lambda device: SingleEndedCell(device=device)}
LAYERS = {
    "linear": (lambda: nn.Linear(12, 8), (5, 12)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, padding=1), (2, 3, 8)),
    "conv2d_groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 2, 3, 3, 3)),
    "transposed1d": (lambda: nn.ConvTranspose1d(3, 4, 3, stride=2), (2, 3, 6)),
    "lstm": (lambda: nn.LSTM(6, 5, batch_first=True), (2, 4, 6)),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), (2, 4, 8)),
}
W = torch.tensor([-1.0, -0.61, -0.25, -0.05, 0.0, 0.1, 0.3, 0.8, 1.0], dtype=torch.float64)
SETTLED = pytest.mark.filterwarnings("ignore:.*beyond the device's data")


def _shipped(cell: str) -> dict[str, devices.Device]:
    """The devices that ship, by name, without those that the cell refuses."""
    refused = {"rram_binary"} if cell == "offset_column" else set()  # no state is in the middle
    return {name: device for name, device in SHIPPED.items() if name not in refused}


def _output(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = model(x)
    return y[0] if isinstance(y, tuple) else y


def _same(g: torch.Tensor) -> torch.Tensor:
    return g


def _drawn(cell: devices.Cell, w: float, count: int = 40_000) -> torch.Tensor:
    """Weights of cells programmed to ``w``."""
    z = torch.randn(
        cell.devices, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    return cell.weights(program(cell, torch.full((count,), w, dtype=torch.float64), z, _same))


@SETTLED
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_works_with_every_device_in_every_layer(cell: str, layer: str) -> None:
    """Programmed at a time, trained with both kinds of noise, and evaluated."""
    make, shape = LAYERS[layer]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for name, device in _shipped(cell).items():
        chip = crossbar(cell=CELLS[cell](device), array={"rows": 16, "columns": 8, "tiles": 64})
        torch.manual_seed(0)
        model = at.convert(nn.Sequential(make()), chip).eval()
        view = at.program(model, seed=3).at("1 day")
        assert _output(view, x).isfinite().all(), (name, "programmed")
    for kind in ("programming", "device"):
        model = at.convert(
            nn.Sequential(make()), chip.replace(training=at.TrainingNoise(weight=kind))
        )
        _output(model.train(), x).square().mean().backward()
        found = [p.grad for p in model.parameters() if p.grad is not None]
        assert found
        assert all(grad.isfinite().all() for grad in found), kind


def _holds(cell: str, device: str, slices: str) -> bool:
    """Return whether a cell of the device can hold each digit of the slices."""
    signed, fine = "complement" not in slices, "two bits" in slices
    few = device == "rram_binary" and cell not in ("ternary", "significances")
    return {
        "single_ended": not signed,
        "offset_binary": False,  # it has no 0
        "binary": False,
        "ternary": not fine,
        "offset": device != "rram_binary",
    }.get(cell, True) and not (fine and few)


@SETTLED
@pytest.mark.parametrize("slices", SLICES)
@pytest.mark.parametrize("cell", SLICED)
def test_slices_work_in_every_cell_with_every_device_or_are_refused(cell: str, slices: str) -> None:
    """The kinds of layers take turns: each cell and each slicing meets them all."""
    kinds = list(LAYERS.values())
    for number, (name, device) in enumerate(_shipped(cell).items()):
        parts = {
            "array": {"rows": 16, "columns": 20, "tiles": 64},
            "cell": SLICED[cell](device),
            "slices": SLICES[slices],
        }
        if not _holds(cell, name, slices):
            with pytest.raises(ValueError, match="would hold|holds no negative weights"):
                crossbar(**parts)
            continue
        _works(crossbar(**parts), kinds[(number + len(slices)) % len(kinds)], name, number % 4 == 0)


@SETTLED
@pytest.mark.parametrize("cell", CELLS)
def test_weight_expansion_works_in_every_cell_with_every_device(cell: str) -> None:
    """The layers that have it take turns; every other device holds slices, where the cell can."""
    kinds = [LAYERS[name] for name in ("linear", "lstm", "encoder")]
    for number, (name, device) in enumerate(_shipped(cell).items()):
        sliced = number % 2 and _holds(cell, name, "magnitude")
        chip = crossbar(
            array={"rows": 16, "columns": 20, "tiles": 64},
            cell=CELLS[cell](device),
            expansion={"factor": 1.5},
            **{"slices": SLICES["magnitude"]} if sliced else {},
        )
        _works(chip, kinds[number % len(kinds)], name, number % 4 == 0)


def _works(chip: at.Chip, layer: Any, name: str, device_noise: bool) -> None:
    """Assert that a layer runs programmed, and trains, with finite numbers."""
    make, shape = layer
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    model = at.convert(nn.Sequential(make()), chip).eval()
    view = at.program(model, seed=3).at("1 day")
    assert _output(view, x).isfinite().all(), (name, "programmed")
    if device_noise:
        chip = chip.replace(training=at.TrainingNoise(weight="device"))
    model = at.convert(nn.Sequential(make()), chip)
    _output(model.train(), x).square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters()), name


@SETTLED
@pytest.mark.parametrize("method", [at.ProgramAndVerify(rounds=2), at.GradientDescent(rounds=2)])
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_can_be_written_in_rounds_and_have_faults(cell: str, method, tmp_path) -> None:
    defects = at.Defects(stuck_on=0.05, open_devices=0.05)
    chip = crossbar(cell=CELLS[cell](HERMES), array={"rows": 16, "columns": 8, "tiles": 64})
    torch.manual_seed(0)
    model = at.convert(nn.Sequential(nn.Linear(20, 10)), chip)
    physical = at.program(model, seed=3, method=method, defects=defects)
    x = torch.randn(4, 20)
    y = physical.at("1 month")(x)
    assert y.isfinite().all()
    at.save(physical, tmp_path)
    assert torch.equal(at.load(tmp_path, nn.Sequential(nn.Linear(20, 10))).at("1 month")(x), y)
    assert len(next(iter(physical.yield_map().values())).faults) == chip.cell.devices


@pytest.mark.parametrize("cell", CELLS)
def test_files_of_chips_hold_every_cell(cell: str, tmp_path) -> None:
    for device in _shipped(cell).values():
        chip = crossbar(cell=CELLS[cell](device))
        for name in ("chip.json", "chip.yaml"):
            at.chips.save(chip, tmp_path / name)
            assert at.chips.load(tmp_path / name) == chip
        assert "cell." in str(chip)
    quiet = chip.without("programming_noise", "drift", "read_noise")
    assert type(quiet.cell) is type(chip.cell)


@pytest.mark.parametrize("cell", ["offset", "offset_column", "significances"])
def test_targets_stand_for_their_weights(cell: str) -> None:
    for device in _shipped(cell).values():
        made = CELLS[cell](device)
        targets = made.targets(W)
        assert targets.shape == (made.devices, *W.shape)
        assert targets.min().item() >= device.g_min - 1e-9
        assert targets.max().item() <= device.g_max * (1 + 1e-9)
        torch.testing.assert_close(made.weights(targets), W)
        plus = made.weights(targets) + made.negatives(targets)
        assert plus.min() >= -1e-9
        change = torch.full_like(W, 0.01)
        moved = targets + made.changes(change, W)
        torch.testing.assert_close(made.weights(moved), W + change)
        torch.testing.assert_close(made.weights(targets + made.changes(-change, W)), W - change)


@pytest.mark.parametrize("cell", ["offset", "offset_column", "significances"])
@pytest.mark.parametrize("device", ["pcm_like", "hermes_one_device", "rram_milo", "rram_cmo"])
def test_the_deviation_is_that_of_cells_that_are_drawn(cell: str, device: str) -> None:
    made = CELLS[cell](SHIPPED[device])
    for w in (0.0, -0.08, 0.5, 1.0):
        drawn = _drawn(made, w).std().item()
        wanted = made.programming_sigma(torch.tensor([w], dtype=torch.float64)).item()
        # 40,000 cells: a standard error of 0.4 %; 0.5 % of the interpolation
        assert wanted == pytest.approx(drawn, rel=0.02), w


@pytest.mark.parametrize("cell", CELLS)
def test_read_noise_of_every_mvm_counts_devices_by_their_significance(cell: str) -> None:
    """Its variance is that of weights whose devices are disturbed one by one."""
    made, std = CELLS[cell](HERMES), devices.SquareRoot(scale=0.02)
    g = made.targets(W)
    noise = at.chips.MVMReadNoise(std=std).of(made)
    found = noise.variances(g).sum(0)
    expected = torch.zeros_like(W)
    for device in range(made.devices):
        off = torch.zeros_like(g)
        off[device] = HERMES.g_max * std(g[device] / HERMES.g_max)
        expected += (made.weights(g + off) - made.weights(g)).square()
    torch.testing.assert_close(found, expected)


# offset


def test_other_devices_of_a_pair_take_what_one_at_its_limit_cannot() -> None:
    pair = devices.DifferentialPair(device=devices.pcm_like())
    changes = torch.tensor([[3.0, -3.0, 5.0, -3.0], [0.0, 0.0, 0.0, 0.0]])
    lowest = torch.tensor([[-9.0, -1.0, -9.0, 0.0], [-9.0, -9.0, -1.0, -9.0]])
    highest = torch.tensor([[9.0, 9.0, 3.0, 9.0], [9.0, 9.0, 9.0, 2.0]])
    # inside its limits; nearly empty; nearly full, as the other is empty; empty, the other full
    expected = torch.tensor([[3.0, -1.0, 3.0, 0.0], [0.0, 2.0, -1.0, 2.0]])
    assert torch.equal(pair.within(changes, lowest, highest), expected)

    pair = pair.enlarged(2)
    changes = torch.tensor([4.0, 4.0, 0.0, 0.0]).unsqueeze(1)
    found = pair.within(changes, changes.new_tensor([[0], [0], [-1], [-3]]), changes.clamp_max(1))
    assert found.flatten().tolist() == [1.0, 1.0, -1.0, -3.0]
    found = pair.within(changes, changes - 7, changes.new_tensor([[0], [6], [1], [1]]))
    torch.testing.assert_close(found.flatten(), torch.tensor([0.0, 4.5, -1.75, -1.75]))


def test_the_last_devices_of_several_significances_take_what_the_other_cannot() -> None:
    cell = SignificancePairs(device=devices.pcm_like())
    w = torch.tensor([0.5, -0.5, 0.0])
    g = cell.targets(w)  # the devices of the last pair are empty
    g[2, 2] = g[3, 2] = 10.0
    change = torch.tensor([0.1, -0.1, 0.1])
    low, high = cell.device.g_min - g, cell.device.g_max - g
    moved = changes_within(cell, change, w, low, high)
    assert ((low <= moved) & (moved <= high)).all()
    torch.testing.assert_close(cell.weights(g + moved), cell.weights(g) + change)
    assert (moved[:2] == 0).all()
    assert moved[2, 2] == -moved[3, 2]  # nothing is at a limit


def test_an_offset_cell_by_hand() -> None:
    """A constant reference: only the device errs, and half the conductance stands for a weight."""
    cell = OffsetCell(device=HERMES)
    assert cell.devices == 1
    assert cell.g_total == cell.g_ref == HERMES.g_max / 2
    assert not cell.shared
    torch.testing.assert_close(cell.targets(W), ((1 + W) * HERMES.g_max / 2).unsqueeze(0))
    middle = HERMES.programming_sigma(torch.tensor([HERMES.g_max / 2], dtype=torch.float64)).item()
    found = cell.programming_sigma(torch.zeros(1, dtype=torch.float64)).item()
    assert found == pytest.approx(2 * middle / HERMES.g_max, rel=1e-3)


def test_drift_moves_all_weights_of_offset_cells_in_one_direction() -> None:
    chip = crossbar(cell=OffsetCell(device=HERMES)).without("programming_noise", "read_noise")
    torch.manual_seed(0)
    model = at.convert(nn.Sequential(nn.Linear(64, 32, bias=False)), chip)
    physical = at.program(model, seed=1)
    held = physical.at("1 year", compensation="none")[0].programmed
    shift = (held.weights[0] - model[0].weight) / held.scales[0][0].unsqueeze(1)
    # the device in the middle loses 1 - (1 year / 200 s) ^ -nu with nu = 0.0736 - 0.0063 - 0.0109
    lost = 1 - (31_536_000 / 200 + 1) ** -0.0564
    few = model[0].weight.abs() < 0.1 * model[0].weight.abs().max()
    assert shift[few].mean().item() == pytest.approx(-lost, abs=0.03)
    assert (shift < 0).float().mean() > 0.99


def test_an_offset_cell_is_half_the_devices_of_a_pair() -> None:
    pair, offset = (CELLS[name](HERMES) for name in ("pair", "offset_binary"))
    assert (pair.devices, offset.devices) == (2, 1)
    assert offset.enlarged(3).devices == 3
    binary = offset.targets(torch.tensor([-0.5, 0.0, 0.2]))[0]
    assert binary.tolist() == pytest.approx([0.0, HERMES.g_max, HERMES.g_max])


def _offset_column(reference: str, **parts) -> nn.Module:
    cell = OffsetCell(device=HERMES, reference=reference)
    chip = crossbar(cell=cell, array={"rows": 64, "columns": 16, "tiles": 8}, **parts)
    torch.manual_seed(0)
    return at.convert(nn.Sequential(nn.Linear(64, 32, bias=False)), chip)


def test_the_errors_of_a_reference_column_are_those_of_all_columns() -> None:
    model = _offset_column("column")
    section = at.program(model, seed=1)._placed["0"][0]
    for g in (section.g, section._read(slice(None), 86400.0)):
        reference = g[1]
        assert (reference[:16] == reference[0]).all()  # one device per row on the first tile
        assert (reference[16:] == reference[16]).all()
        assert reference[0].std() > 0
        assert not torch.equal(reference[0], reference[16])
        torch.testing.assert_close(
            section.chip.cell.weights(g), (g[0] - reference) / (HERMES.g_max / 2)
        )


def test_training_draws_a_reference_once_for_all_columns() -> None:
    noise = at.TrainingNoise(weight="device", time="programmed", output=False)
    for reference, least, most in (("column", 0.8, 1.0), ("constant", -0.4, 0.4)):
        model = _offset_column(reference, training=noise)
        model[0].chip = model[0].chip.without("adc", "dac")
        error = model.train()(torch.eye(64)).detach().T - model[0].weight.detach()
        halves = torch.stack((error[:8].mean(0), error[8:16].mean(0)))  # of the first tile
        # 64 rows; eight cells average to an eighth of the variance of the reference
        assert least < torch.corrcoef(halves)[0, 1].item() <= most


def test_a_reference_column_fails_for_all_columns_and_drifts_with_the_cells() -> None:
    defects = at.Defects(stuck_off=0.2)
    faults = at.yield_map(_offset_column("column")[0].chip, defects, seed=3)[0, 0].faults
    assert (faults[1] == faults[1, :, :1]).all()
    assert (faults[1] > 0).any()
    shifts = []
    for reference in ("constant", "column"):
        model = _offset_column(reference)
        held = at.program(model, seed=1).at("1 year", compensation="none")[0].programmed
        shifts.append((held.weights[0] - model[0].weight).mean().abs().item())
    assert shifts[1] < 0.25 * shifts[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantised(devices.BinaryDevice):
    """A device of some states, evenly from ``g_min`` to ``g_max``."""

    states: int = 2

    def state(self, g: torch.Tensor) -> torch.Tensor:
        step = (self.g_max - self.g_min) / (self.states - 1)
        return self.g_min + ((g - self.g_min) / step).round() * step


def _quantised(states: int) -> Quantised:
    return Quantised(name="q", g_min=2.0, g_max=52.0, high_std=1.0, low_std=0.5, states=states)


@pytest.mark.parametrize(
    "device",
    [
        devices.rram_binary(),
        Scaled(device=devices.rram_binary(), programming_scale=0.0),
        _quantised(4),
        _quantised(16),
    ],
    ids=lambda device: device.name,
)
def test_a_reference_column_needs_a_state_in_the_middle(device: devices.Device) -> None:
    message = "in the middle of its range, .* times the largest.* write reference='constant'"
    with pytest.raises(ValueError, match=message):
        OffsetCell(device=device, reference="column", levels=2)
    cell = OffsetCell(device=device, levels=2)
    w = weights_as_written(cell, torch.tensor([-0.4, 0.4]))
    torch.testing.assert_close(w, torch.tensor([-1.0, 1.0]))


def test_a_reference_column_takes_states_near_the_middle_and_targets_for_drift() -> None:
    for device in (_quantised(3), _quantised(256), devices.DriftAware(device=HERMES)):
        OffsetCell(device=device, reference="column")


def test_a_reference_column_is_checked_beside_tensors_without_numbers() -> None:
    for mode in (FakeTensorMode(), torch.device("meta")):
        with mode:
            cell = OffsetCell(device=HERMES, reference="column")
            assert cell.enlarged(2).devices == 3
            with pytest.raises(ValueError, match="in the middle of its range"):
                OffsetCell(device=_quantised(2), reference="column")


# significances


def test_the_last_pair_corrects_the_errors_of_the_first() -> None:
    one, two = (SignificancePairs(device=HERMES, significances=f) for f in ((4.0,), (4.0, 1.0)))
    assert (one.devices, two.devices) == (2, 4)
    assert one.g_total == two.g_total == 4 * HERMES.g_max
    pair = devices.DifferentialPair(device=HERMES)
    expected = pair.programming_sigma(W)
    torch.testing.assert_close(one.programming_sigma(W), expected, rtol=2e-3, atol=0)
    for w in (-0.7, 0.0, 0.4):
        errors = [(_drawn(cell, w) - w).square().mean().sqrt().item() for cell in (one, two)]
        # the errors of the last pair count a quarter
        assert errors[1] < 0.5 * errors[0]


def test_what_was_written_follows_from_what_became_of_it() -> None:
    """Drift depends on the target, which is the residual for the later pairs."""
    cell = SignificancePairs(device=HERMES, significances=(4.0, 2.0, 1.0))
    w = torch.linspace(-1, 1, 500, dtype=torch.float64)
    z = torch.randn(6, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    g = program(cell, w, z, _same)
    targets = written(cell, w, g)
    torch.testing.assert_close(targets[:2], cell.targets(w)[:2])
    left = w * cell.g_total - 4 * (g[0] - g[1])
    wanted = (left / 2).clamp(-HERMES.g_max, HERMES.g_max)
    torch.testing.assert_close(targets[2] - targets[3], wanted)
    torch.testing.assert_close(g, HERMES.program(targets, z))


def test_the_last_pair_corrects_a_device_that_is_stuck() -> None:
    defects = at.Defects(stuck_off=0.05)

    def error(cell: devices.Cell) -> float:
        chip = crossbar(cell=cell).without("programming_noise", "drift", "read_noise")
        torch.manual_seed(0)
        layer = nn.Linear(64, 32, bias=False)
        layer.weight.data.uniform_(-0.2, 0.2)
        layer.weight.data[:, 0] = 1.0  # all others lie within the range of the last pair
        model = at.convert(nn.Sequential(layer), chip)
        physical = at.program(model, seed=1, defects=defects)
        held = physical.at("programmed", compensation="none")[0].programmed.weights[0]
        return (held - model[0].weight)[:, 1:].norm().item()

    one, two = (SignificancePairs(device=HERMES, significances=f) for f in ((4.0,), (4.0, 1.0)))
    assert error(two) < 0.5 * error(one)


# quantised


@pytest.mark.parametrize("levels", [2, 3])
def test_quantised_weights_by_hand(levels: int) -> None:
    cell = QuantisedPair(device=HERMES, levels=levels, threshold=0.3)
    wanted = {
        2: [-1, -1, -1, -1, 1, 1, 1, 1, 1],
        3: [-1, -1, 0, 0, 0, 0, 1, 1, 1],
    }[levels]
    assert cell.quantised(W).tolist() == wanted
    assert cell.weights(cell.targets(W)).tolist() == wanted


@pytest.mark.parametrize("levels", [2, 3])
def test_the_scale_of_quantised_weights_is_found_digitally(levels: int) -> None:
    chip = at.chips.hermes64().replace(
        cell=QuantisedPair(device=HERMES, levels=levels), name="quantised"
    )
    chip = chip.without("programming_noise", "drift", "read_noise", "adc_gain")
    torch.manual_seed(0)
    model = at.convert(nn.Sequential(nn.Linear(200, 40, bias=False)), chip)
    x = torch.randn(300, 200)
    held = at.program(model, seed=1).at("programmed")[0].programmed
    w = model[0].weight.detach()
    ternary = chip.cell.quantised(w / w.abs().max())
    torch.testing.assert_close(held.weights[0], w.abs().max() * ternary)
    best = (w * ternary).sum(1) / ternary.square().sum(1) / w.abs().max()
    # fitted through the ADC with 256 random inputs
    torch.testing.assert_close(held.gains[0][0], best, rtol=0.2, atol=0.05)
    exact, found = x @ w.T, at.program(model, seed=1).at("programmed")(x)
    # uniform weights: what is left is sqrt(1 - 3/4) of binary weights, less of ternary
    assert ((found - exact).norm() / exact.norm()).item() < (0.55 if levels == 2 else 0.4)


def test_training_with_the_devices_quantises_and_passes_gradients_through() -> None:
    chip = crossbar(
        cell=QuantisedPair(device=devices.ideal_device(), levels=3),
        training=at.TrainingNoise(weight="device", time="programmed"),
        adc={"noise": 0.0},
    ).without("adc", "dac")
    torch.manual_seed(0)
    model, x = at.convert(nn.Sequential(nn.Linear(20, 6, bias=False)), chip), torch.randn(4, 20)
    w = model[0].weight
    y = model.train()(x)
    ternary = chip.cell.quantised(w.detach() / w.detach().abs().max())
    torch.testing.assert_close(y.detach(), x @ (w.detach().abs().max() * ternary).T)
    y.sum().backward()
    torch.testing.assert_close(w.grad, x.sum(0).expand(6, 20))


@pytest.mark.parametrize("time", ["programmed", "1 day"])
def test_training_scales_quantised_weights_as_the_chip_does(time: str) -> None:
    """Per column where columns are calibrated, else per block when drift is compensated."""
    w = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    for columns in (True, False):
        chip = crossbar(
            cell=QuantisedPair(device=devices.ideal_device(), levels=2),
            training=at.TrainingNoise(weight="device", time=time),
            adc={"noise": 0.0},
            periphery={"column_calibration": columns},
        ).without("adc", "dac")
        model, x = at.convert(nn.Sequential(nn.Linear(20, 6, bias=False)), chip), torch.eye(20)
        model[0].weight.data.copy_(w)
        found = model.train()(x).detach().T
        scale = w.abs().mean(1, keepdim=True) if columns else w.abs().mean()
        if time == "programmed" and not columns:
            scale = w.abs().max()
        torch.testing.assert_close(found, scale * chip.cell.quantised(w))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("weight", ["programming", "device"])
@pytest.mark.parametrize("cell", ["offset_column", "significances", "ternary"])
def test_training_noise_of_every_cell_compiles_to_the_same_numbers(cell: str, weight: str) -> None:
    torch._dynamo.reset()
    chip = crossbar(cell=CELLS[cell](HERMES), training=at.TrainingNoise(weight=weight))
    torch.manual_seed(0)
    model, x = at.convert(nn.Sequential(nn.Linear(20, 6)), chip).train(), torch.randn(4, 20)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with at.noise(1):
        found = compiled(x)
    with at.noise(1):
        assert torch.equal(model(x), found)


# refused


@pytest.mark.parametrize("low", [0.0, 5.0])
@pytest.mark.parametrize("name", SLICED)
def test_what_a_read_subtracts_of_cells_that_hold_a_weight(name: str, low: float) -> None:
    cell = SLICED[name](dataclasses.replace(HERMES, g_min=low))
    empty = cell.negatives(cell.targets(torch.ones(()))).item()
    minus = negatives(cell, W)
    if name.startswith("offset") or name == "single_ended":
        expected = torch.full_like(W, empty)  # a reference
    else:
        expected = empty + (-W).clamp_min(0)
    assert torch.allclose(minus, expected, atol=1e-6)
    assert conducts_twice(cell) == (low > 0 or name.startswith("offset"))
    if name in ("pair", "ternary"):  # noise can move a weight beyond 1
        assert negatives(cell, torch.tensor([-1.5])).item() == pytest.approx(empty + 1.5)


def test_what_a_cell_cannot_do_is_refused() -> None:
    wires = {"column_resistance": 1.0}
    for name in ("offset", "significances"):
        with pytest.raises(ValueError, match="IR drop is known for cells of one column per pol"):
            crossbar(cell=CELLS[name](HERMES), wires=wires)
    for name in ("pair", "ternary"):
        assert crossbar(cell=CELLS[name](HERMES), wires=wires).wires.column_resistance == 1.0
    with pytest.raises(ValueError, match=r"write significances=\(4.0, 1.0, 0.25\)"):
        SignificancePairs(device=HERMES).enlarged(2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: OffsetCell(device=HERMES, levels=3),
            r"OffsetCell.levels must be one of \(None, 2",
        ),
        (lambda: OffsetCell(device=HERMES, devices_per_weight=0), "devices_per_weight must be an"),
        (lambda: QuantisedPair(device=HERMES, levels=4), "QuantisedPair.levels must be one of"),
        (lambda: QuantisedPair(device=HERMES, threshold=1.0), "QuantisedPair.threshold must be"),
        (lambda: SignificancePairs(device=HERMES, significances=()), "must be descending"),
        (lambda: SignificancePairs(device=HERMES, significances=(1.0, 4.0)), "must be descending"),
        (lambda: SignificancePairs(device=HERMES, significances=(1, 1)), "must be descending"),
        (
            lambda: SignificancePairs(device=HERMES, significances=(4, 0)),
            r"\[1\] must be a positive",
        ),
        (lambda: SignificancePairs(device=HERMES, significances=(math.nan,)), "positive number"),
    ],
)
def test_bad_fields_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", [OffsetCell, QuantisedPair, SignificancePairs])
def test_a_cell_needs_a_device(kind) -> None:
    with pytest.raises(TypeError, match="device must be a device such as"):
        kind(device="pcm")
