"""Transfer functions of ADCs: transition levels, their INL, and the search of a SAR ADC."""

import copy
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import analogtorch as at
from analogtorch.ops import Plan, in_steps, mvm
from analogtorch.ops.converters import adc
from analogtorch.ops.transfer import (
    codes,
    interpolated,
    of_capacitors,
    of_widths,
    transitions,
)


def _normals(seed: int, *size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _searched(u: float, capacitors: list[float]) -> int:
    """Return the code that a SAR ADC finds, bit by bit, for an input in units of capacitors."""
    number = 0
    for bit in reversed(range(len(capacitors))):
        trial = number | 1 << bit
        if u >= sum(c for i, c in enumerate(capacitors) if trial >> i & 1):
            number = trial
    return number


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    std=st.floats(0, 3),
    steps=st.integers(1, 40),
    floors=st.booleans(),
)
@example(seed=556, std=2.0, steps=3, floors=False)  # a column in which no width is left
def test_widths_give_a_monotone_transfer_function_with_both_ends_in_place(
    seed: int, std: float, steps: int, floors: bool
) -> None:
    inl = of_widths(_normals(seed, 3, 2 * steps - 1), std, steps, floors)
    assert not inl[:, [0, -1]].any()
    assert (transitions(steps, floors, inl).diff() > -1e-9).all()
    u = torch.linspace(-steps - 1, steps + 1, 401, dtype=torch.float64).expand(3, -1).T
    found = codes(u, transitions(steps, floors, inl))
    assert (found.diff(dim=0) >= 0).all()
    assert (found[0] == -steps).all()
    assert (found[-1] == steps).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), std=st.floats(0, 0.8), bits=st.integers(2, 7))
def test_a_sar_adc_gives_the_codes_of_its_search(seed: int, std: float, bits: int) -> None:
    """Also where capacitors are so wrong that codes are missing."""
    z, steps = _normals(seed, 1, bits), 2 ** (bits - 1) - 1
    inl = of_capacitors(z, std)
    assert not inl[:, [0, -1]].any()
    levels = transitions(steps, False, inl)
    assert (levels.diff() > -1e-9).all()
    size = 2.0 ** torch.arange(bits, dtype=z.dtype)
    capacitors = (size + std * size.sqrt() * z[0]).clamp_min(0).tolist()
    # the last number whose level is tried, and the first one, are those at the ends of the INL
    top = 2**bits - 1
    low = _level_of(2, capacitors)
    high = _level_of(top, capacitors)
    if high - low < 1e-6:
        return
    unit = (high - low) / (2 * steps - 1)
    u = torch.linspace(-steps + 0.6, steps - 0.6, 97, dtype=torch.float64)
    found = codes(u.unsqueeze(1), levels).flatten()
    for value, code in zip(u.tolist(), found.tolist(), strict=True):
        given_input = low + (value + steps - 0.5) * unit
        near = (levels - value).abs().min() < 1e-6  # at a transition, where rounding decides
        assert near or _searched(given_input, capacitors) - 2 ** (bits - 1) == code


def _level_of(number: int, capacitors: list[float]) -> float:
    """Return the input from which on the search gives this number or more."""
    whole, low, high = sum(capacitors), -1.0, sum(capacitors) + 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _searched(middle, capacitors) >= number else (middle, high)
    return min(high, whole)


def test_a_perfect_adc_of_transitions_rounds_as_the_other_does() -> None:
    torch.manual_seed(0)
    v, bound = 3 * torch.randn(500, 4), torch.rand(4) + 1
    zero = torch.zeros(4, 2 * 31)
    rounded = adc(v, bound, 31)
    assert torch.equal(rounded, in_steps(v, bound, 31))
    assert torch.equal(adc(v, bound, 31, inl=zero), rounded)
    assert torch.equal(adc(v, bound, 31, inl=zero[:1]), rounded)
    assert torch.equal(adc(v, bound, 31, True, zero), adc(v, bound, 31, True))
    assert torch.equal(
        adc(torch.full((1, 1), math.nan), bound[:1], 31, inl=zero[:1]).isnan(),
        torch.ones(1, 1, dtype=torch.bool),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_all_codes(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    v, bound = torch.randn(500, 4), torch.full((4,), 1.937)  # no input at half a step
    expected = adc(v.to(dtype), bound, 422)
    assert torch.equal(adc(v.to(dtype), bound, 422, inl=torch.zeros(1, 844, dtype=dtype)), expected)


def test_a_counter_counts_whole_steps_of_the_magnitude() -> None:
    v = torch.tensor([[-9.0, -3.0, -2.999, -0.5, 0.0, 0.999, 1.0, 2.5, 7.0]])
    expected = torch.tensor([[-4.0, -3.0, -2.0, 0.0, 0.0, 0.0, 1.0, 2.0, 4.0]])
    assert torch.equal(adc(v, torch.tensor(4.0), 4, floors=True), expected)
    assert torch.equal(adc(v.T, torch.tensor(4.0), 4, True, torch.zeros(1, 8)), expected.T)
    # uniform inputs: half a step is lost on average, LSB^2 / 3 in the square; 1e5 draws, 0.4 %
    u = 4 * torch.rand(100_000, 1, generator=torch.Generator().manual_seed(0))
    error = adc(u, torch.tensor(4.0), 4, floors=True) - u
    assert error.mean().item() == pytest.approx(-0.5, rel=0.01)
    assert error.square().mean().item() == pytest.approx(1 / 3, rel=0.015)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("curved", [False, True])
def test_a_counter_has_reached_the_steps_that_sums_are_on(dtype: torch.dtype, curved: bool) -> None:
    """Whatever the scale of a column, k steps are k, and what is clipped is at the end."""
    generator = torch.Generator().manual_seed(0)
    for steps in (1, 7, 422):
        scale = 1e-6 + torch.rand(1000, generator=generator, dtype=dtype)
        k = torch.randint(-steps, steps + 1, (5, 1000), generator=generator)
        inl = torch.zeros(1, 2 * steps) if curved else None
        for v, expected in ((k * (scale / steps), k), (3 * k.sign() * scale, steps * k.sign())):
            found = adc(v, scale, steps, floors=True, inl=inl)
            assert torch.equal((found * (steps / scale)).round(), expected.to(dtype))


@pytest.mark.parametrize("steps", [2**15 - 1, 1_000_000])
def test_a_counter_of_many_steps_loses_half_of_one_on_average(steps: int) -> None:
    u = torch.rand(10_000, 1, generator=torch.Generator().manual_seed(0)) * (steps / 100)
    lost = u - adc(u, torch.tensor(float(steps)), steps, floors=True)
    # 1e4 uniform draws: 1 % are 3.5 standard errors; and what the arithmetic is given, 1/64
    assert lost.mean().item() == pytest.approx(0.5 - 1 / 64, abs=0.01)
    assert lost.min().item() >= -1 / 64


def test_a_counter_is_exact_where_it_has_a_step_for_every_sum() -> None:
    chip = at.chips.ideal().replace(
        array={"rows": 16},
        dac={"bits": 8},
        slices={"weight_bits": 8, "bits_per_slice": 1, "bits_per_pulse": 1},
    )
    counter = chip.replace(adc={"steps": 16, "range": 16.0, "rounding": "floor"})
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(16, 50, bias=False), torch.randn(200, 16)
    exact, counted = (at.convert(copy.deepcopy(layer), c).eval()(x) for c in (chip, counter))
    assert torch.allclose(exact, counted, rtol=0, atol=1e-5)


def test_inl_is_positive_where_codes_are_too_large() -> None:
    steps = 8
    inl = torch.zeros(1, 2 * steps)
    inl[0, 12] = 0.4  # the transition from 4 to 5, ideal at 4.5, lies at 4.1
    u = torch.tensor([[4.05], [4.15], [4.45], [5.45]])
    assert codes(u, transitions(steps, False, inl)).flatten().tolist() == [4, 5, 5, 5]


def test_the_inl_of_independent_widths_is_a_random_walk_between_its_ends() -> None:
    steps, std = 32, 0.2
    inl = of_widths(_normals(1, 20_000, 2 * steps - 1), std, steps, False)
    dnl = inl.diff()
    # each width less the mean one; 1.3 million of them: 0.06 %
    number = 2 * steps - 1
    assert dnl.std().item() == pytest.approx(std * math.sqrt(1 - 1 / number), rel=0.005)
    place = torch.arange(number + 1) / number
    expected = std * (number * place * (1 - place)).sqrt()
    # 20,000 columns: standard errors of 0.5 %
    assert torch.allclose(inl.std(0)[1:-1], expected[1:-1].double(), rtol=0.025)
    assert inl.mean(0).abs().max() < 5 * std * math.sqrt(number) / 2 / math.sqrt(20_000)


def test_the_steps_of_a_sar_adc_are_largest_where_high_bits_change() -> None:
    bits, std = 8, 0.01
    dnl = of_capacitors(_normals(2, 20_000, bits), std).diff()
    found = dnl.std(0)
    # from 0111... to 1000...: one capacitor of 2^7 units against 2^7 - 1 others
    middle = 2 ** (bits - 1) - 2  # of the transitions that begin at number 2
    assert found.argmax() == middle - 1
    assert found[middle - 1].item() == pytest.approx(std * math.sqrt(2**bits - 1), rel=0.03)
    quarter = 2 ** (bits - 2) - 3
    assert found[quarter].item() == pytest.approx(std * math.sqrt(2 ** (bits - 1) - 1), rel=0.03)
    assert found[0::2].max() < 2 * std  # where the lowest bit alone changes


def test_a_table_is_read_along_straight_lines() -> None:
    table = torch.tensor([0.0, 1.0, -1.0, 0.5, 0.0])
    at = torch.tensor([-1.0, -0.75, -0.5, -0.25, 0.0, 0.5, 0.9, 1.0])
    expected = torch.tensor([0.0, 0.5, 1.0, 0.0, -1.0, 0.5, 0.1, 0.0])
    assert torch.allclose(interpolated(table, at), expected, atol=1e-6)


@pytest.mark.parametrize("phases", [1, 2])
def test_a_product_has_the_inl_of_each_adc(phases: int) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(6, 20), torch.randn(4, 20)
    inl = of_widths(_normals(3, 8, 2 * 15 - 1), 0.4, 15, False).float().view(2, 4, 30)
    plan = Plan(bounds=(0, 12, 20), output_steps=15, adc_range=2.0, phases=phases)
    y = mvm(x, torch.ones(1), w, plan, adc_inl=inl)
    expected = torch.zeros(6, 4)
    for block, rows in enumerate((slice(0, 12), slice(12, 20))):
        bound = 2.0 * w[:, rows].abs().amax(1)
        parts = [x] if phases == 1 else [x.clamp_min(0), (-x).clamp_min(0)]
        for sign, part in zip((1, -1), parts, strict=False):
            expected += sign * adc(part[:, rows] @ w[:, rows].T, bound, 15, inl=inl[block])
    assert torch.allclose(y, expected, atol=1e-5)
    same = mvm(x, torch.ones(1), w, plan, adc_inl=inl[:1, :1])
    each = mvm(x, torch.ones(1), w, plan, adc_inl=inl[:1, :1].expand(2, 4, -1).contiguous())
    assert torch.equal(same, each)


def test_the_gradient_is_straight_through() -> None:
    """It is that of the product without ADC, where none clips, and 0 where it clips."""
    torch.manual_seed(0)
    x, w = torch.randn(6, 20, dtype=torch.float64), torch.randn(4, 20, dtype=torch.float64)
    w.requires_grad_()
    x.requires_grad_()
    inl = of_widths(_normals(3, 4, 2 * 15 - 1), 0.4, 15, True).view(1, 4, 30)
    g = torch.randn(6, 4, dtype=torch.float64)
    for bound in (1.0, 100.0):
        plan = Plan(bounds=(0, 20), output_steps=15, adc_range=bound, floors=1)
        found = torch.autograd.grad(mvm(x, torch.ones(1), w, plan, adc_inl=inl), (x, w), g)
        p = x @ w.T
        passed = g * (p.abs() <= bound * w.abs().amax(1))
        assert torch.allclose(found[0], passed @ w)
        assert torch.allclose(found[1], passed.T @ x)
        assert (passed == 0).any() == (bound == 1.0)


def test_a_wrong_shape_is_refused() -> None:
    x, w = torch.randn(2, 8), torch.randn(4, 8)
    plan = Plan(bounds=(0, 8), output_steps=15)
    for wrong in (torch.zeros(1, 4, 29), torch.zeros(1, 3, 30), torch.zeros(4, 30)):
        with pytest.raises(ValueError, match=r"adc_inl must be floating point \(1, 4, 30\)"):
            mvm(x, torch.ones(1), w, plan, adc_inl=wrong)
    with pytest.raises(ValueError, match="in a plan with an ADC"):
        mvm(x, torch.ones(1), w, Plan(bounds=(0, 8)), adc_inl=torch.zeros(1, 4, 0))
    with pytest.raises(ValueError, match="floors must be 0 or 1"):
        Plan(bounds=(0, 8), floors=2)
