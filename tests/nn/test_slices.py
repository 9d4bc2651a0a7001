"""Layers whose weights lie in slices and whose inputs are applied in pulses."""

import copy

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from tests.nn.layers import Case, cases

CASES = pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
SLICES = {
    "magnitude": {"weight_bits": 6, "bits_per_slice": 2, "bits_per_pulse": 2},
    "complement": {"weight_bits": 5, "signs": "complement", "bits_per_pulse": 1},
    "weights": {"weight_bits": 8, "bits_per_slice": 1},
    "inputs": {"bits_per_pulse": 3},
}
EACH = pytest.mark.parametrize("slices", SLICES.values(), ids=SLICES)


def chip(slices: dict | None = None, **parts) -> at.Chip:
    """Return an ideal chip of small tiles, with a DAC of 6 bits."""
    tiles = {"rows": 20, "columns": 33, **parts.pop("array", {})}
    return at.chips.ideal().replace(array=tiles, dac={"bits": 6}, slices=slices or {}, **parts)


def _rounded(layer: nn.Module, on: at.Chip) -> nn.Module:
    """Return the digital layer with its weights in the steps of their tile or column."""
    bits = on.slices.weight_bits
    found = copy.deepcopy(layer)
    if bits is None:
        return found
    analog = at.convert(nn.Sequential(copy.deepcopy(layer)), on)[0]
    each, steps = on.slices.slicing.columns, 2 ** (bits - 1) - 1
    matrix = analog.as_matrix(layer.weight.detach().clone())
    flat = matrix.flatten(1)
    (section,) = analog.sections
    for a, b in zip(section.bounds[:-1], section.bounds[1:], strict=True):
        for block in section.col_blocks:
            part = flat[block.start // each : block.stop // each, a:b]
            scale = part.abs().max()
            if on.periphery.weight_scale == "column":
                scale = part.abs().amax(1, keepdim=True)
            part.copy_(torch.round(part / scale * steps) / steps * scale)
    with torch.no_grad():  # the way back from the matrix is that of its gradient
        place = layer.weight.detach().clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(analog.as_matrix(place), place, flat.view_as(matrix))
        found.weight.copy_(gradient)
    return found


@EACH
@CASES
def test_evaluation_is_the_product_of_rounded_weights_and_inputs(case: Case, slices: dict) -> None:
    layer, x = case.layer.double(), case.x.double()
    for scale in ("block", "column"):
        on = chip(slices, periphery={"weight_scale": scale})
        sliced = at.convert(nn.Sequential(copy.deepcopy(layer)), on).eval()
        plain = at.convert(nn.Sequential(_rounded(layer, on)), chip()).eval()
        for r in (None, 0.8):
            for model in (sliced, plain):
                if r is not None:
                    model[0].set_input_range(r)
            torch.testing.assert_close(sliced(x), plain(x))


@EACH
def test_every_kind_of_layer_runs_trains_and_is_programmed(slices: dict) -> None:
    torch.manual_seed(0)
    nets: list[tuple[nn.Module, tuple[Tensor, ...]]] = [
        (nn.LSTM(12, 10, 2), (torch.randn(4, 3, 12),)),
        (nn.GRUCell(12, 10), (torch.randn(4, 12),)),
        (nn.MultiheadAttention(8, 2), (torch.randn(5, 3, 8),) * 3),
        (nn.Embedding(40, 6), (torch.randint(0, 40, (5, 3)),)),
    ]
    cell = at.devices.DifferentialPair(device=at.devices.pcm_like())
    for net, inputs in nets:
        on = chip(slices, cell=cell, adc={"bits": 10, "noise": 0.01}, training=at.TrainingNoise())
        model = at.convert(copy.deepcopy(net), on, embeddings=True)
        y = model.eval()(*inputs)
        y = y[0] if isinstance(y, tuple) else y
        exact = net.eval()(*inputs)
        exact = exact[0] if isinstance(exact, tuple) else exact
        assert (y - exact).norm() < 0.3 * exact.norm()
        torch.manual_seed(1)
        noisy = model.train()(*inputs)
        noisy = noisy[0] if isinstance(noisy, tuple) else noisy
        assert not torch.equal(noisy, y)
        noisy.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        assert (
            model.get_parameter(
                "weight"
                if hasattr(net, "num_embeddings")
                else next(name for name, p in model.named_parameters() if p.dim() > 1)
            )
            .grad.abs()
            .sum()
            > 0
        )
        view = at.program(model.eval(), seed=1).at("1 day")
        found = view(*inputs)
        found = found[0] if isinstance(found, tuple) else found
        assert (found - exact).norm() < 0.5 * exact.norm()


@EACH
def test_gradients_are_straight_through(slices: dict) -> None:
    """Those of a digital layer with the weights that the cells hold and the inputs of the DAC."""
    torch.manual_seed(0)
    layer, x = nn.Linear(37, 11).double(), torch.randn(5, 37).double().requires_grad_()
    on = chip(slices, adc={"bits": 12, "range": 20.0})
    model = at.convert(nn.Sequential(copy.deepcopy(layer)), on).eval()
    model[0].set_input_range(1.2)
    g = torch.randn(5, 11).double()
    (model(x) * g).sum().backward()
    held = _rounded(layer, on)
    steps = 31 / 1.2
    quantised = torch.round(x.detach().clamp(-1.2, 1.2) * steps) / steps
    inside = (x.abs() <= 1.2).to(x.dtype)
    torch.testing.assert_close(x.grad, g @ held.weight * inside)
    torch.testing.assert_close(model[0].weight.grad, g.T @ quantised)
    torch.testing.assert_close(model[0].bias.grad, g.sum(0))
    clipped = (g @ held.weight) * (1 - inside) * x.sign()
    torch.testing.assert_close(model[0].input_range.grad, clipped.sum().view(1))


def test_training_noise_is_that_of_each_cell() -> None:
    """Variances of the columns add up by the squares of what they count for."""
    noise = at.TrainingNoise(weight="gaussian", scale=0.1)
    on = chip({"weight_bits": 4}, training=noise, array={"rows": 64, "columns": 1000})
    torch.manual_seed(0)
    layer = nn.Linear(50, 200, bias=False).double()
    model = at.convert(nn.Sequential(copy.deepcopy(layer)), on)
    model[0].set_input_range(1.0)
    exact, eye = model.eval()(torch.eye(50).double()), torch.eye(50).double()
    found = torch.stack([model.train()(eye) - exact for _ in range(4)])
    powers = torch.tensor([1.0, 2.0, 4.0]) / 7
    expected = 0.1 * layer.weight.abs().max().item() * powers.square().sum().sqrt().item()
    # 40,000 draws: the standard error of the deviation is 0.35 %
    assert found.std().item() == pytest.approx(expected, rel=0.02)
    assert found.mean().abs().item() < 4 * expected / 200
    # drawn once for all pulses of a forward, anew in the next
    assert torch.corrcoef(found.flatten(1))[0, 1].abs() < 0.04


def test_noise_does_not_depend_on_how_the_batch_is_split() -> None:
    cell = at.devices.DifferentialPair(device=at.devices.pcm_like())
    on = chip(SLICES["magnitude"], cell=cell, adc={"bits": 8, "noise": 0.05})
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5))
    x = torch.randn(6, 4, 8)
    model = at.convert(net, on)
    at.calibrate(model, [x])
    physical = at.program(model, seed=1)
    whole = physical.at("1 day")(x)
    parts = physical.at("1 day")
    torch.testing.assert_close(torch.cat([parts(x[:2]), parts(x[2:])]), whole)
    model.train()
    with at.noise(seed=3):
        together = model(x)
    halves = []
    for first in (0, 3):
        with at.noise(seed=3, first_sample=first):
            halves.append(model(x[first : first + 3]))
    torch.testing.assert_close(torch.cat(halves), together)


@pytest.mark.parametrize("weight", ["programming", "device", "gaussian"])
def test_every_training_noise_runs_with_gradients(weight: str) -> None:
    noise = at.TrainingNoise(
        weight=weight, scale=0.05 if weight == "gaussian" else None, drop_connect=0.1
    )
    cell = at.devices.DifferentialPair(device=at.devices.pcm_like())
    on = chip(
        SLICES["magnitude"], cell=cell, training=noise, wires={"column_resistance": 1.0},
        adc={"bits": 8, "noise": 0.02}, mvm_read_noise={"std": at.devices.SquareRoot(scale=0.02)},
    )  # fmt: skip
    torch.manual_seed(0)
    model = at.convert(nn.Sequential(nn.Linear(37, 11), nn.Tanh(), nn.Linear(11, 3)), on)
    x = torch.randn(6, 37)
    model.train()(x).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert model[0].weight.grad.abs().sum() > 0


def test_half_precision_adds_in_single_precision() -> None:
    on = chip(SLICES["weights"], adc={"bits": 12, "range": 20.0})
    torch.manual_seed(0)
    model = at.convert(nn.Sequential(nn.Linear(37, 11)), on).eval()
    x = torch.randn(5, 37)
    exact = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x)
    assert found.dtype == torch.bfloat16
    assert (found.float() - exact).norm() < 0.01 * exact.norm()


def test_one_range_where_row_blocks_cut_a_kernel() -> None:
    on = chip({"bits_per_pulse": 2}, array={"rows": 10, "columns": 33})
    model = at.convert(nn.Sequential(nn.Conv1d(2, 3, 15)), on)
    with pytest.raises(ValueError, match="must be one number, because its row blocks cut a kernel"):
        model[0].set_input_range([1.0, 1.0, 1.0, 1.0])
    at.calibrate(model, [torch.randn(8, 2, 30)], method="absmax", per="tile")
    assert len(model[0].input_ranges) == 1
