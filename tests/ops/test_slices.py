"""Digits of weights and inputs, and the product that adds them up."""

import itertools

import pytest
import torch
from torch import Tensor

from analogtorch.chips import Slices
from analogtorch.chips.slices import Slicing
from analogtorch.ops import Plan, block_scales, fold, mvm, normal, seed_tensor, slices, stream
from analogtorch.ops.operands import Operands
from analogtorch.ops.slices import columns as sliced
from analogtorch.ops.slices import combined, digits, unfolded

WEIGHTS = [
    {"weight_bits": bits, "bits_per_slice": each, "signs": signs}
    for bits in (2, 3, 5, 8)
    for each in (1, 2, 3)
    for signs in ("magnitude", "complement")
    if each < bits
]
KEYS = fold(seed_tensor(1), torch.tensor([stream("test", i) for i in range(3)]))


def columns(w: Tensor, full: Tensor, slicing: Slicing) -> Tensor:
    """Columns of the weights of one row block; ``full`` is one number for each output."""
    return sliced(w, full.flatten(1)[:, :1].T, (0, w[0].numel()), slicing)


def _added(planes: Tensor, slicing: Slicing) -> Tensor:
    factors = planes.new_tensor(slicing.slice_factors).view(1, -1, *[1] * (planes.dim() - 1))
    return (planes.unflatten(0, (-1, slicing.columns)) * factors).sum(1)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_digits_add_up_to_the_number_and_have_its_sign(bits: int) -> None:
    codes = torch.arange(-127.0, 128.0)
    count = -(-7 // bits)
    found = digits(codes, bits, count)
    assert len(found) == count
    torch.testing.assert_close(sum(d * 2.0 ** (bits * i) for i, d in enumerate(found)), codes)
    for d in found:
        assert d.abs().max() < 2**bits
        assert ((d == 0) | (d.sign() == codes.sign())).all()
    assert all(d.isnan().all() for d in digits(torch.tensor([torch.nan]), bits, count))


@pytest.mark.parametrize("fields", WEIGHTS)
def test_columns_of_a_weight_add_up_to_it_in_its_steps(fields: dict) -> None:
    slicing = Slices(**fields).slicing
    steps = 2 ** (fields["weight_bits"] - 1) - 1
    w = torch.linspace(-1, 1, 101, dtype=torch.float64).view(-1, 1)
    full = torch.full_like(w, 3.0)
    planes = columns(3.0 * w, full, slicing)
    assert len(planes) == 101 * slicing.columns
    torch.testing.assert_close(_added(planes, slicing), 3.0 * torch.round(w * steps) / steps)
    # each column holds a digit, in units of the largest one
    each = (planes / 3.0).unflatten(0, (-1, slicing.columns))
    count = each[:, : slicing.digits] * (2 ** fields["bits_per_slice"] - 1)
    torch.testing.assert_close(count, count.round())
    assert planes.abs().max() == 3.0
    if fields["signs"] == "complement":
        assert planes.min() == 0.0


def test_8_bits_are_8_columns_of_complement_and_7_or_4_of_magnitude() -> None:
    def count(**fields) -> int:
        return Slices(weight_bits=8, **fields).slicing.columns

    assert count(signs="complement") == 8
    assert (count(), count(bits_per_slice=2), count(bits_per_slice=7)) == (7, 4, 1)
    assert Slices().slicing.columns == 1
    for given in ({"signs": "complement"}, {"bits_per_slice": 2, "bits_per_pulse": 1}):
        with pytest.raises(ValueError, match=f"{next(iter(given))}.*no effect.* give weight_bits"):
            Slices(**given)
    assert [Slices(bits_per_pulse=p).slicing.pulses(8) for p in (1, 2, 7, 8)] == [7, 4, 1, 1]
    assert Slices().slicing.pulses(8) == Slices(bits_per_pulse=1).slicing.pulses(2) == 1


def test_a_change_of_a_weight_changes_the_sum_of_its_columns_by_as_much() -> None:
    for fields in WEIGHTS:
        slicing = Slices(**fields).slicing
        w = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        full = w.detach().abs().max().expand(4, 3)
        g = torch.randn(4, 3, dtype=torch.float64)
        (_added(columns(w, full, slicing), slicing) * g).sum().backward()
        torch.testing.assert_close(w.grad, g)


def _plans(**fields) -> Plan:
    return Plan(bounds=(0, 6, 10), input_bits=6, **fields)


@pytest.mark.parametrize("pulse", [0, 1, 2, 5])
@pytest.mark.parametrize("fields", [{}, *WEIGHTS[::5]])
def test_a_product_is_that_of_rounded_weights_and_inputs(fields: dict, pulse: int) -> None:
    slicing = Slices(**fields, bits_per_pulse=pulse or None).slicing
    torch.manual_seed(0)
    x, w = torch.randn(2, 7, 10, dtype=torch.float64), torch.randn(3, 10, dtype=torch.float64)
    bias = torch.randn(3, dtype=torch.float64)
    full = w.abs().amax(1, keepdim=True).expand_as(w)
    cells = columns(w, full, slicing) if fields else w
    scale = full[:, 0].repeat_interleave(slicing.columns).expand(2, -1)
    effective = _added(cells, slicing)
    ranges = (torch.tensor([1.5]), torch.tensor([0.7, 2.0]), x.abs().amax(-1, keepdim=True))
    for r in ranges:
        r = r.double()
        found = mvm(x, r, cells, _plans(slicing=slicing), scale=scale, bias=bias)
        torch.testing.assert_close(found, mvm(x, r, effective, _plans(), bias=bias))


@pytest.mark.parametrize("dims", [1, 2])
def test_a_convolution_is_that_of_rounded_weights_and_inputs(dims: int) -> None:
    slicing = Slices(weight_bits=5, bits_per_pulse=2).slicing
    torch.manual_seed(0)
    shape = (9, 8)[:dims]
    x = torch.randn(3, 4, *shape, dtype=torch.float64)
    w = torch.randn(6, 2, *[3] * dims, dtype=torch.float64)
    full = w.abs().flatten(1).amax(1).view(-1, *[1] * (dims + 1)).expand_as(w)
    scale = full.flatten(1)[:, 0].repeat_interleave(slicing.columns).expand(2, -1)
    cells, taps = columns(w, full, slicing), 3**dims
    geometry = {
        "bounds": (0, taps, 2 * taps), "groups": 2, "stride": (1,) * dims,
        "padding": (1,) * dims, "dilation": (1,) * dims, "input_bits": 6,
    }  # fmt: skip
    for r in (torch.tensor([1.5]), torch.tensor([0.7, 2.0]), x.abs().flatten(1).amax(1)):
        r = r.double() if len(r) < 3 else r.view(-1, 1, *[1] * dims)
        found = mvm(x, r, cells, Plan(**geometry, slicing=slicing), scale=scale)
        torch.testing.assert_close(found, mvm(x, r, _added(cells, slicing), Plan(**geometry)))


@pytest.mark.parametrize("per_block", [False, True])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_gradients_are_those_of_the_plain_product_of_what_the_columns_add_up_to(
    noise: float, per_block: bool
) -> None:
    slicing = Slices(weight_bits=5, bits_per_slice=2, bits_per_pulse=2).slicing
    torch.manual_seed(0)
    x, w = torch.randn(7, 10, dtype=torch.float64), torch.randn(3, 10, dtype=torch.float64)
    r = torch.tensor([1.1, 0.9] if per_block else [1.1], dtype=torch.float64)
    gain = torch.rand(2, 3 * slicing.columns, dtype=torch.float64) + 0.5
    bias, g = torch.randn(3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    full = w.abs().max().expand_as(w)
    scale = full[:, 0].repeat_interleave(slicing.columns).expand(2, -1)
    leaves = [t.clone().requires_grad_() for t in (x, r, w, bias)]
    plan = _plans(slicing=slicing, weight_noise=noise, output_steps=1000, adc_range=100.0)
    y = mvm(
        *leaves[:2], columns(leaves[2], full, slicing), plan,
        bias=leaves[3], scale=scale, gain=gain, key=KEYS[0],
    )  # fmt: skip
    (y * g).sum().backward()
    cells = columns(w, full, slicing)
    rows = torch.arange(len(cells))
    z = normal(KEYS[0], rows, torch.zeros_like(rows), 10).double()
    held = cells + noise * full[0, 0] * z
    rows_of = torch.cat([gain[0].view(-1, 1).expand(-1, 6), gain[1].view(-1, 1).expand(-1, 4)], 1)
    effective = _added(held * rows_of, slicing).requires_grad_()
    plain = [t.clone().requires_grad_() for t in (x, r, bias)]
    (mvm(plain[0], plain[1], effective, _plans(), bias=plain[2]) * g).sum().backward()
    for ours, theirs in zip((leaves[0], leaves[1], leaves[3]), plain, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    # a column's gain scales what its share of the weight's change does
    factors = torch.tensor(slicing.slice_factors, dtype=torch.float64)
    share = (factors.square() / factors.square().sum()).view(1, -1, 1)
    shared = (rows_of.unflatten(0, (3, -1)) * share).sum(1)
    torch.testing.assert_close(leaves[2].grad, effective.grad * shared)


def test_output_noise_adds_up_by_the_squares_of_the_powers_of_two() -> None:
    slicing = Slices(weight_bits=4, bits_per_pulse=1).slicing
    plan = Plan(bounds=(0, 2), input_bits=4, output_noise=0.1, slicing=slicing)
    x, w = torch.zeros(20_000, 2), torch.zeros(5 * slicing.columns, 2)
    scale = torch.full((1, len(w)), 2.0)
    y = mvm(x, torch.tensor([3.0]), w, plan, scale=scale, output_keys=KEYS[:1])
    powers = [2.0**i / 7 for i in range(3)]
    variance = sum((a * b) ** 2 for a, b in itertools.product(powers, powers))
    expected = 3.0 * 2.0 * 0.1 * variance**0.5
    # 100,000 draws: the standard error of the deviation is 0.22 %
    assert y.std().item() == pytest.approx(expected, rel=0.01)
    assert abs(y.mean().item()) < 4 * expected / 100_000**0.5
    assert abs(torch.corrcoef(y.T)[0, 1].item()) < 4 / 20_000**0.5


def test_noise_belongs_to_the_vector_its_pulse_and_its_column() -> None:
    slicing = Slices(weight_bits=3, bits_per_pulse=2).slicing
    torch.manual_seed(0)
    x, w = torch.randn(8, 6), torch.randn(4, 6)
    cells = columns(w, w.abs().max().expand_as(w), slicing)
    for dims in (0, 1):
        x, shape = (x.view(8, 6, 1), (1,)) if dims else (x, ())
        geometry = dict.fromkeys(("stride", "dilation"), shape) | {"padding": (0,) * dims}
        plan = Plan(
            bounds=(0, 6), input_bits=6, output_noise=0.2, output_bits=6, adc_range=4.0,
            slicing=slicing, **geometry,
        )  # fmt: skip
        held = cells.view(*cells.shape, *shape)

        def run(some: slice, x=x, plan=plan, held=held) -> Tensor:
            numbers = torch.arange(8)[some]
            r = torch.tensor([2.0])
            return mvm(x[some], r, held, plan, output_keys=KEYS[:1], samples=numbers)

        whole = run(slice(0, 8))
        torch.testing.assert_close(torch.cat([run(slice(0, 3)), run(slice(3, 8))]), whole)
        one = torch.cat([run(slice(i, i + 1)) for i in range(8)])
        torch.testing.assert_close(one, whole)
        assert (run(slice(0, 1)) != whole[1:2]).any()


def test_unfolded_pulses_are_whole_steps_and_add_up_to_the_input() -> None:
    slicing = Slices(bits_per_pulse=2).slicing
    x, r = torch.randn(5, 6, dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
    plan = Plan(bounds=(0, 6), input_bits=6, slicing=slicing)
    inner, bare = unfolded(Operands(x, r, torch.eye(6, dtype=torch.float64)), plan)
    assert inner.x.shape == (5, 3, 6)
    assert bare.input_bits == 0
    count = inner.x * 3 / 2.0
    torch.testing.assert_close(count, count.round())
    steps = 31 / 2.0
    expected = torch.round(x.clamp(-2, 2) * steps) / steps
    torch.testing.assert_close(combined(inner.x, plan), expected)


def test_nan_reaches_its_vector_alone_and_empty_batches_are_empty() -> None:
    slicing = Slices(weight_bits=3, bits_per_pulse=1).slicing
    plan = Plan(bounds=(0, 6), input_bits=4, output_bits=6, slicing=slicing)
    w = torch.randn(4, 6)
    cells = columns(w, w.abs().max().expand_as(w), slicing)
    x = torch.randn(3, 6)
    x[1, 2] = torch.nan
    y = mvm(x, torch.tensor([1.0]), cells, plan)
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()
    assert mvm(x[:0], torch.tensor([1.0]), cells, plan).shape == (0, 4)


@pytest.mark.parametrize("shape", [(33, 300), (7, 7, 3, 3), (5, 1)])
@pytest.mark.parametrize("fields", [*WEIGHTS[::5], {"weight_bits": 16, "bits_per_slice": 8}])
def test_every_kernel_cuts_weights_as_torch_does(
    capability: str, shape: tuple[int, ...], fields: dict
) -> None:
    slicing, rows = Slices(**fields).slicing, torch.Size(shape[1:]).numel()
    bounds = (0, rows) if rows < 9 else (0, 9, 36, rows)
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    w[0], w[1] = 0, (w[1] * 4).round() / 8  # zeros, and weights between two steps
    w[2].view(-1)[0], w[3].view(-1)[-1] = torch.nan, torch.inf
    for factor in (1.0, 0.7):  # a scale below the largest weight clips
        scale = factor * block_scales(w, bounds, ())
        found = sliced(w, scale, bounds, slicing)
        expected = slices._by_torch(w, scale, bounds, slicing)
        plain = slices._plain_cut(w, scale, bounds, slices._numbers(slicing))
        for other in (found, plain):
            assert torch.equal(other.isnan(), expected.isnan())
            assert torch.equal(other.nan_to_num(0.0), expected.nan_to_num(0.0))


@pytest.mark.slow
def test_the_operator_of_the_slices_is_sound() -> None:
    w = torch.randn(4, 6, requires_grad=True)
    arguments = (
        w,
        w.detach().abs().amax(1).unsqueeze(0),
        [0, 6],
        slices._numbers(Slices(weight_bits=5, bits_per_slice=2).slicing),
    )
    utils = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.analogtorch.slices.default, arguments, test_utils=utils)
