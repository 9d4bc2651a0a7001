"""IR drop that depends on the inputs: its formulas, gradients and kernel."""

import pytest
import torch
from torch.testing import assert_close

from analogtorch.ops import Operands, Plan, input_drop, mvm, native
from analogtorch.ops.input_drop import STEPS, InputDrop, drops, overlap, parabola
from analogtorch.ops.ir_drop import Block
from analogtorch.ops.pulse_overlap import pulse_overlap, takes

LINEAR = (5, 40), (6, 40), Plan(bounds=(0, 23, 40), input_bits=8, adc_range=3.0, output_bits=8)
CONVOLUTION = (
    (2, 6, 5, 4),
    (8, 3, 3, 3),
    Plan(
        bounds=(0, 18, 27),
        stride=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        groups=2,
        input_bits=6,
    ),
)
CASES = {"linear": LINEAR, "convolution": CONVOLUTION}


def _case(name, dtype=torch.float64):
    x, w, plan = CASES[name]
    torch.manual_seed(0)
    return (
        torch.randn(x).to(dtype),
        torch.tensor([1.5], dtype=dtype),
        torch.randn(w).to(dtype),
        plan,
    )


def _drop(model, w, plan):
    spans = zip(plan.bounds[:-1], plan.bounds[1:], strict=True)
    blocks = [Block(slice(0, len(w)), slice(a, b)) for a, b in spans]
    flat = parabola(w.flatten(1), blocks) if model == "standard" else 0.1 * w.flatten(1)
    return InputDrop(model, flat.view_as(w), load=0.01)


def test_the_closed_form_of_the_standard_model():
    """As Rasch et al. write it, for weights and inputs of at most 1."""
    n, load = 64, 1 / 5.714e5 * 1e3
    torch.manual_seed(0)
    w, x = 2 * torch.rand(9, n).double() - 1, 2 * torch.rand(4, n).double() - 1
    a = n * load * x.abs() @ w.abs().T
    c = a * (a * (0.05 * a - 0.2) + 0.5)
    j = torch.arange(n, dtype=torch.float64)
    expected = c * (x @ (w * (1 - (1 - j / n) ** 2)).T)
    lost = parabola(w, [Block(slice(0, 9), slice(0, n))])
    operands = Operands(x, torch.ones(1).double(), w, scale=torch.ones(1, 9).double())
    found = drops(operands, Plan(bounds=(0, n)), InputDrop("standard", lost, load=load))
    assert_close(found, expected.expand(1, 1, -1, -1))


def test_a_pulse_overlaps_with_the_others_for_the_shorter_width():
    """Uniform widths: the mean of min(u, u_k) is u - u^2 / 2, within 0.002."""
    u = torch.linspace(0, 1, 2001, dtype=torch.float64)
    assert_close(overlap(u), u - u.square() / 2, rtol=0, atol=2e-3)
    full = torch.ones(3, 50, dtype=torch.float64)
    assert_close(overlap(full), full, rtol=1e-5, atol=0)
    assert_close(overlap(2 * full), full, rtol=1e-5, atol=0)  # beyond the range
    assert torch.equal(overlap(0 * full), 0 * full)
    alone = torch.tensor([0.4, 0.0, 0.0, 0.0], dtype=torch.float64)
    assert_close(overlap(alone), alone / 4, rtol=0.25, atol=0)  # within one step of time


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("model", ["pulses", "standard"])
def test_every_output_has_the_drop_of_its_own_inputs(model, name):
    """A vector, or position, has the same drop alone as in a batch."""
    x, r, w, plan = _case(name)
    found = drops(Operands(x, r, w), plan, _drop(model, w, plan))
    one = drops(Operands(x[1:2], r, w), plan, _drop(model, w, plan))
    assert_close(found[:, :, 1:2], one)
    if plan.dims:
        small = x[:, :, 1:4, 1:4]
        there = drops(Operands(small, r, w), plan, _drop(model, w, plan))
        assert_close(found[..., 1:2, 1:2], there)


@pytest.mark.parametrize("phases", [2, 4])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("model", ["pulses", "standard"])
def test_each_phase_has_the_drop_of_what_it_drives(model, name, phases):
    x, r, w, plan = _case(name)
    apart = Plan(**{f: getattr(plan, f) for f in _FIELDS} | {"phases": phases})
    found = drops(Operands(x, r, w), apart, _drop(model, w, plan))
    alone = drops(Operands(x.clamp_min(0), r, w), plan, _drop(model, w, plan))
    if phases == 2:
        assert_close(found[0], alone[0])
    positive = w.clamp_min(0)
    scale = input_drop.block_scales(w, plan.bounds)
    operands = Operands(x.clamp_min(0), r, positive, scale=scale)
    if phases == 4:
        assert_close(found[0], drops(operands, plan, _drop(model, positive, plan))[0])


_FIELDS = ("bounds", "stride", "padding", "dilation", "groups", "input_bits", "adc_range")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("model", ["pulses", "standard"])
@pytest.mark.parametrize(
    "fast",
    [
        pytest.param(True, id="random_directions"),
        pytest.param(False, marks=pytest.mark.slow, id="every_number"),
    ],
)
def test_gradients(fast, model, name):
    """Of inputs, range and weights, without the rounding of the DAC."""
    x, r, w, plan = _case(name)
    plan = Plan(**{f: getattr(plan, f) for f in _FIELDS} | {"input_bits": 0})
    scale = input_drop.block_scales(w, plan.bounds)
    # q(u) has corners at the steps, where no gradient is defined
    keep = (x.abs() / r).unsqueeze(-1) - torch.tensor(STEPS)
    x = torch.where(keep.abs().amin(-1) < 1e-3, x + 0.01, x)

    def found(x, r, w):
        return drops(Operands(x, r, w, scale=scale), plan, _drop(model, w, plan))

    given = [t.requires_grad_() for t in (x, r, w)]
    assert torch.autograd.gradcheck(found, given, fast_mode=fast)


@pytest.mark.parametrize("name", CASES)
def test_the_range_learns_from_inputs_that_it_clips(name):
    x, r, w, plan = _case(name)
    given = r.requires_grad_()
    drops(Operands(3 * x, given, w), plan, _drop("standard", w, plan)).sum().backward()
    assert given.grad.abs() > 0


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("gain", [False, True])
def test_the_product_subtracts_it_before_the_adc(name, gain):
    """Its gradient is that of a weight whose input is 1, where the ADC is not full."""
    x, r, w, plan = _case(name)
    d = torch.zeros(1, plan.blocks, *mvm(x, r, w, plan).shape, dtype=x.dtype)
    options = {"gain": 1 + torch.rand(plan.blocks, len(w)).double()} if gain else {}
    assert torch.equal(mvm(x, r, w, plan, drops=d, **options), mvm(x, r, w, plan, **options))
    d = (0.3 * torch.randn_like(d)).requires_grad_()
    y = mvm(x, r, w, plan, drops=d, **options)
    g = torch.randn_like(y)
    y.backward(g)
    weight = options.get("gain", torch.ones(plan.blocks, len(w)).double())
    expected = -g * weight.view(plan.blocks, *[1] * (1 - bool(plan.dims)), 1, -1, *[1] * plan.dims)
    expected = expected.view(d.shape) if not plan.dims else expected.reshape(d.shape)
    same = d.grad == expected
    assert ((d.grad == 0) | same).all()
    assert same.double().mean() > 0.5


def test_refused():
    x, r, w, plan = _case("linear")
    with pytest.raises(ValueError, match=r"drops must be \(1, 2, 5, 6\), got shape \(5, 6\)"):
        mvm(x, r, w, plan, drops=torch.zeros(5, 6))


@pytest.mark.parametrize("rows", [40, 37])
@pytest.mark.parametrize("levels", [0, 127])
@pytest.mark.parametrize("by_vector", [False, True])
def test_the_kernel_of_pulses(rows, levels, by_vector):
    """Within 1e-6 of float64, gradients within 1e-5."""
    if not native.available():
        pytest.skip("no CPU kernels")
    torch.manual_seed(0)
    x, g = torch.randn(5, rows), torch.randn(5, rows)
    r = 1 + torch.rand(5, 1) if by_vector else torch.tensor([1.3])
    assert takes(x, r, STEPS)
    plan = Plan(bounds=(0, rows), input_bits=8 if levels else 0)
    exact, limit = x.double().requires_grad_(), r.double()
    single, own = x.clone().requires_grad_(), r.clone()
    if not by_vector:
        limit.requires_grad_(), own.requires_grad_()
    xq = input_drop._behind_dac(exact, limit, plan, torch.float64)
    expected = xq.sign() * (limit * overlap(xq.abs() / limit))
    found = pulse_overlap(single, own, STEPS, levels)
    assert_close(found.double(), expected, rtol=0, atol=1e-6)
    expected.backward(g.double())
    found.backward(g)
    assert_close(single.grad.double(), exact.grad, rtol=0, atol=1e-5)
    if not by_vector:
        assert_close(own.grad.double(), limit.grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_of_products_takes_it(name):
    """As plain torch in float64, within 1e-5, but for outputs at the edge of an ADC step."""
    if not native.available():
        pytest.skip("no CPU kernels")
    x, r, w, plan = _case(name, torch.float32)
    drop = 0.2 * torch.randn(1, plan.blocks, *mvm(x, r, w, plan).shape)
    assert native.takes(Operands(x, r, w, drops=drop), plan)
    exact = mvm(x.double(), r.double(), w.double(), plan, drops=drop.double())
    found = mvm(x, r, w, plan, drops=drop).double()
    step = 1.5 * w.abs().max() * plan.adc_range / 127
    assert ((found - exact).abs() < 1e-5).double().mean() > 0.9
    assert (found - exact).abs().max() < 2.5 * step
