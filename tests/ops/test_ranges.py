"""A DAC range for every row block: the product and its gradients, against torch's autograd."""

import dataclasses

import pytest
import torch
from torch import Tensor

from analogtorch.ops import Plan, fold, mvm, rounded, seed_tensor
from analogtorch.ops.operands import Operands
from analogtorch.ops.partial_sums import part
from analogtorch.ops.physics import block_scales

KEYS = torch.stack([fold(seed_tensor(3), 11) + i for i in range(4)])


def _double(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).requires_grad_()


def _plan(bounds: tuple[int, ...], *geometry: tuple[int, ...], groups: int = 1) -> Plan:
    stride, padding, dilation = geometry or ((), (), ())
    converters = {"input_bits": 6, "output_bits": 7, "adc_range": 0.8}
    return Plan(
        bounds=bounds,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        **converters,
    )


GEOMETRIES = {
    "linear": ((3, 7), (4, 7), _plan((0, 3, 7))),
    "linear_3d": ((2, 3, 7), (4, 7), _plan((0, 5, 7))),
    "linear_vector": ((7,), (4, 7), _plan((0, 3, 7))),
    "linear_as_many_vectors_as_blocks": ((2, 7), (4, 7), _plan((0, 3, 7))),
    "conv1d_groups": ((2, 4, 9), (6, 2, 3), _plan((0, 3, 6), (2,), (1,), (2,), groups=2)),
    "conv1d_cut": ((2, 2, 9), (3, 2, 4), _plan((0, 2, 4, 6, 8), (1,), (0,), (2,))),
    "conv2d": ((2, 3, 5, 6), (4, 3, 3, 2), _plan((0, 12, 18), (1, 2), (1, 0), (1, 1))),
    "conv3d": (
        (2, 2, 4, 3, 4),
        (3, 2, 2, 2, 2),
        _plan((0, 8, 16), (1, 1, 2), (1, 0, 1), (1, 1, 1)),
    ),
}


def _through(v: Tensor, bound: Tensor, bits: int) -> Tensor:
    """A converter, straight through: clipped with its gradient, rounded without."""
    clipped = torch.minimum(torch.maximum(v, -bound), bound)
    return clipped + (rounded(v, bound, bits) - clipped).detach()


def _composed(x: Tensor, r: Tensor, w: Tensor, gain: Tensor, plan: Plan) -> Tensor:
    scale, total = block_scales(w, plan.bounds), 0
    for b in range(plan.blocks):
        p = part(_through(x, r[b].abs(), plan.input_bits), w, plan.span(b, w.shape[1:]), plan)
        columns = (-1, *[1] * plan.dims)
        # saturation teaches nobody
        bound = (r[b].abs() * scale[b] * plan.adc_range).detach().view(columns)
        total = total + _through(p, bound.expand(p.shape), plan.output_bits) * gain[b].view(columns)
    return total


@pytest.mark.parametrize("name", GEOMETRIES)
def test_values_and_gradients_are_those_of_the_blocks_computed_apart(name: str) -> None:
    size, weight, plan = GEOMETRIES[name]
    x, w, gain = (
        _double(*size),
        _double(*weight, seed=1),
        _double(plan.blocks, weight[0], seed=2).detach(),
    )
    r = torch.linspace(0.15, 0.3, plan.blocks, dtype=torch.float64)
    r[-1] *= -1  # its magnitude counts
    r.requires_grad_()
    y = mvm(x, r, w, plan, gain=gain)
    expected = _composed(x, r, w, gain, plan)
    assert torch.allclose(y, expected)
    g = _double(*y.shape, seed=3).detach()
    got = torch.autograd.grad(y, (x, r, w), g)
    wanted = torch.autograd.grad(expected, (x, r, w), g)
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b)
    # the ranges do clip, in one vector not every one: the test would prove nothing otherwise
    assert got[1].all() or name == "linear_vector"


def test_the_noise_of_a_reading_is_in_units_of_its_own_blocks_range() -> None:
    size, weight, plan = GEOMETRIES["linear"]
    plan = dataclasses.replace(plan, output_bits=0, output_noise=0.5)
    x, w, scale = torch.zeros(size), torch.zeros(weight), torch.ones(2, 4)
    first = torch.tensor([[1.0], [0.0]]).expand(2, 4)

    def noise(*ranges: float, gain: Tensor | None = None) -> Tensor:
        return mvm(x, torch.tensor(ranges), w, plan, scale=scale, gain=gain, output_keys=KEYS)

    assert torch.allclose(noise(3.0, 5.0, gain=first), 3 * noise(1.0, 1.0, gain=first))
    assert torch.allclose(noise(3.0, 5.0, gain=1 - first), 5 * noise(1.0, 1.0, gain=1 - first))


@pytest.mark.parametrize("name", ["linear", "conv2d", "conv1d_cut"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types_follow_the_double(name: str, dtype: torch.dtype) -> None:
    size, weight, plan = GEOMETRIES[name]
    # a reading on a rounding boundary may be a step apart
    plan = dataclasses.replace(plan, output_bits=0)
    r = torch.linspace(0.4, 1.6, plan.blocks, dtype=dtype)
    x, w = (
        _double(*shape, seed=i).detach().to(dtype).requires_grad_()
        for i, shape in enumerate((size, weight))
    )
    y = mvm(x, r, w, plan)
    y.sum().backward()
    exact = mvm(x.double(), r.double(), w.double(), plan)
    assert (y - exact).abs().max() <= (1e-5 if dtype == torch.float32 else 0.05) * exact.abs().max()
    assert x.grad.dtype == w.grad.dtype == dtype


def test_equal_ranges_are_one_range() -> None:
    for size, weight, plan in GEOMETRIES.values():
        x, w = _double(*size), _double(*weight, seed=1)
        one = torch.tensor([0.9], dtype=torch.float64, requires_grad=True)
        each = torch.full((plan.blocks,), 0.9, dtype=torch.float64, requires_grad=True)
        a, b = mvm(x, one, w, plan), mvm(x, each, w, plan)
        assert torch.allclose(a, b)
        first, second = (
            torch.autograd.grad(y.square().sum(), (x, w, r)) for y, r in ((a, one), (b, each))
        )
        assert all(torch.allclose(s, t) for s, t in zip(first[:2], second[:2], strict=True))
        assert torch.allclose(first[2], second[2].sum())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("name", ["linear", "conv2d"])
def test_the_operator_is_well_formed(name: str) -> None:
    size, weight, plan = GEOMETRIES[name]
    x, w, bias = (
        torch.randn(*size, requires_grad=True),
        torch.randn(*weight, requires_grad=True),
        None,
    )
    r = torch.ones(plan.blocks, requires_grad=True)
    operands = (*Operands(x, r, w, bias), plan.ints, plan.floats, True)
    torch.library.opcheck(torch.ops.analogtorch.mvm.default, operands)
