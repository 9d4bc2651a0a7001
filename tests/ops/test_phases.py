"""Phases of an MVM with ADC outputs of their own, in double precision, by the reference alone."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from analogtorch.ops import Plan, fold, in_steps, mvm, native, normal, seed_tensor
from analogtorch.ops.operands import Operands
from analogtorch.ops.partial_sums import part
from analogtorch.ops.physics import block_scales

KEYS = torch.stack([fold(seed_tensor(3), i) for i in range(4)])
ONE = torch.ones(1, dtype=torch.float64)
_each_phases = pytest.mark.parametrize("phases", [2, 4])

GEOMETRIES: dict[str, tuple[tuple[int, ...], tuple[int, ...], Plan]] = {
    "linear": ((3, 7), (4, 7), Plan(bounds=(0, 3, 7))),
    "conv1d_cut": (
        (2, 2, 9),
        (3, 2, 4),
        Plan(bounds=(0, 2, 4, 6, 8), stride=(1,), padding=(0,), dilation=(2,)),
    ),
    "conv2d_groups": (
        (2, 4, 5, 6),
        (6, 2, 3, 2),
        Plan(bounds=(0, 6, 12), stride=(1, 2), padding=(1, 0), dilation=(1, 1), groups=2),
    ),
}
_each_geometry = pytest.mark.parametrize("name", GEOMETRIES)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).requires_grad_()


def _case(name: str, phases: int, **options: object) -> tuple[Tensor, Tensor, Plan]:
    x, w, plan = GEOMETRIES[name]
    return _random(*x), _random(*w, seed=1), dataclasses.replace(plan, phases=phases, **options)


def _terms(
    x: Tensor, w: Tensor, negatives: Tensor | None, phases: int
) -> list[tuple[int, Tensor, Tensor]]:
    """Sign, inputs and weights of each phase, by the definition."""
    minus = torch.where(w < 0, -w, 0.0) if negatives is None else negatives
    read = [(1, w)] if phases == 2 else [(1, w + minus), (-1, minus)]
    seen = [(1, torch.where(x > 0, x, 0.0)), (-1, torch.where(x < 0, -x, 0.0))]
    return [(a * b, u, v) for a, u in seen for b, v in read]


def _by_hand(
    x: Tensor,
    w: Tensor,
    negatives: Tensor | None,
    plan: Plan,
    convert: Callable[[Tensor, int, int], Tensor],
) -> list[Tensor]:
    """Each block's phases through ``convert(sums, block, phase)``, added up."""
    terms, single = _terms(x, w, negatives, plan.phases), dataclasses.replace(plan, phases=1)
    found = []
    for block in range(plan.blocks):
        span = plan.span(block, w.shape[1:])
        found.append(
            sum(
                s * convert(part(u, v, span, single), block, i) for i, (s, u, v) in enumerate(terms)
            )
        )
    return found


@_each_phases
@_each_geometry
def test_without_converters_the_phases_add_up_to_the_product(name: str, phases: int) -> None:
    x, w, plan = _case(name, phases)
    single = mvm(x, ONE, w, dataclasses.replace(plan, phases=1))
    assert torch.allclose(mvm(x, ONE, w, plan), single, atol=1e-12)
    if phases == 4:
        negatives = (-w).clamp_min(0).detach() + 0.3
        assert torch.allclose(mvm(x, ONE, w, plan, negatives=negatives), single, atol=1e-12)
    # along random directions; that of every number is among the long tests
    assert torch.autograd.gradcheck(lambda x, w: mvm(x, ONE, w, plan), (x, w), fast_mode=True)


@pytest.mark.slow
@_each_phases
@_each_geometry
def test_the_gradient_of_every_number(name: str, phases: int) -> None:
    x, w, plan = _case(name, phases)
    assert torch.autograd.gradcheck(lambda x, w: mvm(x, ONE, w, plan), (x, w))


@_each_phases
@_each_geometry
@pytest.mark.parametrize("both", [False, True], ids=["one_polarity", "both_polarities"])
def test_each_phase_is_clipped_and_rounded_by_itself(name: str, phases: int, both: bool) -> None:
    x, w, plan = _case(name, phases, output_steps=9, adc_range=0.8)
    negatives = (
        (-w).clamp_min(0).detach() + 0.3 * torch.rand(w.shape, dtype=w.dtype)
        if both and phases == 4
        else None
    )
    scale = block_scales(w, plan.bounds)
    gain = 0.9 + 0.2 * torch.rand(scale.shape, dtype=scale.dtype)
    bounds = (scale * 0.8).view(*scale.shape, *[1] * plan.dims)
    clipped = [torch.zeros(1, dtype=torch.bool) for _ in range(plan.blocks)]

    def convert(sums: Tensor, block: int, phase: int) -> Tensor:
        clipped[block] = clipped[block] | (sums.abs() > bounds[block])
        return in_steps(sums, bounds[block], 9)

    found = _by_hand(x.detach(), w.detach(), negatives, plan, convert)
    gains = gain.view(*gain.shape, *[1] * plan.dims)
    y = mvm(x, ONE * 1.0, w, plan, gain=gain, negatives=negatives)
    assert torch.allclose(y, sum(g * f for g, f in zip(gains, found, strict=True)), atol=1e-12)
    single = mvm(x, ONE, w, dataclasses.replace(plan, phases=1), gain=gain)
    assert (y - single).abs().max() > 0.05
    # straight-through, but for partial sums of which a phase was clipped
    assert 0 < torch.stack(clipped).double().mean() < 0.95
    g = _random(*y.shape, seed=2).detach()
    ideal = [part(x, w, plan.span(b, w.shape[1:]), plan) for b in range(plan.blocks)]
    expected = sum((p * ~c * k * g).sum() for p, c, k in zip(ideal, clipped, gains, strict=True))  # type: ignore[union-attr]
    for a, b in zip(
        torch.autograd.grad(y, (x, w), g), torch.autograd.grad(expected, (x, w)), strict=True
    ):
        assert torch.allclose(a, b)


@_each_phases
def test_the_digital_unit_rounds_the_sum_of_the_phases(phases: int) -> None:
    x, w, plan = _case("linear", phases, output_steps=9, adc_range=3.0, unit_bits=4)
    scale, ranges = block_scales(w, plan.bounds), torch.full((2, 4), 1.5, dtype=torch.float64)

    def convert(sums: Tensor, block: int, phase: int) -> Tensor:
        return in_steps(sums, scale[block] * 3.0, 9)

    found = _by_hand(x, w, None, plan, convert)
    expected = sum(in_steps(2.0 * v, scale[b] * 1.5, 7) for b, v in enumerate(found))
    gain = torch.full((2, 4), 2.0, dtype=torch.float64)
    assert torch.allclose(
        mvm(x, ONE, w, plan, gain=gain, output_ranges=ranges), expected, atol=1e-12
    )


@_each_phases
def test_each_phase_has_noise_of_its_own_keyed_by_vector(phases: int) -> None:
    x, w, plan = _case("linear", phases, output_noise=0.1)
    scale, z = torch.ones(2, 4, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)

    def convert(sums: Tensor, block: int, phase: int) -> Tensor:
        return sums + 0.1 * normal(fold(KEYS[block], phase), torch.arange(3), z, 4)

    y = mvm(x, ONE, w, plan, scale=scale, output_keys=KEYS)
    assert torch.allclose(y, sum(_by_hand(x, w, None, plan, convert)), atol=1e-12)
    last = mvm(x[2:], ONE, w, plan, scale=scale, output_keys=KEYS, samples=torch.tensor([2]))
    assert torch.equal(last, y[2:])


@pytest.mark.parametrize("ranges", ["per_block", "per_vector"])
def test_the_dac_rounds_before_the_signs_part(ranges: str) -> None:
    x, w, plan = _case("linear", 4, input_bits=5)
    r = (
        torch.tensor([0.9, 1.4]).double()
        if ranges == "per_block"
        else torch.tensor([[0.8], [1.0], [1.7]]).double()
    )
    assert torch.allclose(
        mvm(x, r, w, plan), mvm(x, r, w, dataclasses.replace(plan, phases=1)), atol=1e-12
    )


@_each_phases
def test_nan_reaches_the_output(phases: int) -> None:
    x, w, plan = _case("linear", phases, output_bits=8)
    with torch.no_grad():
        x[1, 2] = float("nan")
    assert mvm(x, ONE, w, plan).isnan().any(1).tolist() == [False, True, False]


def test_kernels_decline_phases() -> None:
    inputs = Operands(torch.ones(2, 3), torch.ones(1), torch.ones(4, 3), *[None] * 6)
    assert not native.takes(inputs, Plan(bounds=(0, 3), phases=4))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("both", [False, True])
def test_the_operator_is_well_formed(both: bool) -> None:
    plan = Plan(
        bounds=(0, 3, 7), phases=4, input_bits=8, output_bits=8, output_noise=0.1, adc_range=2.0
    )
    x, w = torch.randn(3, 7, requires_grad=True), torch.randn(4, 7, requires_grad=True)
    negatives = w.detach().abs() if both else None
    operands = (
        x,
        torch.ones(1),
        w,
        *[None] * 4,
        KEYS,
        *[None] * 3,
        negatives,
        *[None] * 6,
        plan.ints,
        plan.floats,
        True,
    )
    torch.library.opcheck(torch.ops.analogtorch.mvm.default, operands)


@pytest.mark.parametrize("phases", [0, 3, 8, -1])
def test_a_number_of_phases_that_does_not_exist_is_refused(phases: int) -> None:
    with pytest.raises(ValueError, match="phases must be 1, 2 or 4"):
        Plan(bounds=(0, 3), phases=phases)


@pytest.mark.parametrize(
    ("phases", "negatives", "message"),
    [
        (2, torch.ones(4, 7), "in a plan of 4 phases only, got one of 2"),
        (4, torch.ones(4, 6), "negatives must be as w"),
        (4, torch.ones(4, 7, dtype=torch.float64), "negatives must be as w"),
    ],
)
def test_negatives_that_do_not_fit_are_refused(
    phases: int, negatives: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        mvm(
            torch.ones(2, 7),
            torch.ones(1),
            torch.ones(4, 7),
            Plan(bounds=(0, 7), phases=phases),
            negatives=negatives,
        )
