"""The analog product: definition, gradients, converters, noise, operator contracts, bad input.

The reference runs in double precision; test_native.py and test_gpu.py compare the kernels with it.
"""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from analogtorch.chips import ADC_ERRORS
from analogtorch.devices import Spread
from analogtorch.ops import Plan, fold, mvm, normal, seed_tensor
from analogtorch.ops.physics import block_scales
from analogtorch.ops.reference import noisy_weight, part
from tests.ops.errors import adc_errors

# torch's own, from inside opcheck
pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)

KEY = fold(seed_tensor(3), 11)
KEYS = torch.stack([KEY + i for i in range(9)])
ONE = torch.ones(1, dtype=torch.float64)


def _double(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).requires_grad_()


def _plan(bounds: tuple[int, ...], *geometry: tuple[int, ...], groups: int = 1, **options) -> Plan:
    stride, padding, dilation = geometry or ((), (), ())
    return Plan(
        bounds=bounds, stride=stride, padding=padding, dilation=dilation, groups=groups, **options
    )


GEOMETRIES = [
    ("linear", (3, 7), (4, 7), _plan((0, 3, 7))),
    ("linear_3d", (2, 3, 7), (4, 7), _plan((0, 5, 7))),
    ("linear_vector", (7,), (4, 7), _plan((0, 3, 7))),
    ("conv1d", (2, 4, 9), (6, 2, 3), _plan((0, 3, 6), (2,), (1,), (2,), groups=2)),
    ("conv1d_cut", (2, 2, 9), (3, 2, 4), _plan((0, 2, 4, 6, 8), (1,), (0,), (2,))),
    ("conv2d", (2, 3, 5, 6), (4, 3, 3, 2), _plan((0, 12, 18), (1, 2), (1, 0), (1, 1))),
    (
        "conv3d",
        (2, 2, 4, 3, 4),
        (3, 2, 2, 2, 2),
        _plan((0, 8, 16), (1, 1, 2), (1, 0, 1), (1, 1, 1)),
    ),
]
_each_geometry = pytest.mark.parametrize(
    ("name", "x", "w", "plan"), GEOMETRIES, ids=[g[0] for g in GEOMETRIES]
)


def _digital(x: Tensor, w: Tensor, plan: Plan) -> Tensor:
    if not plan.dims:
        return F.linear(x, w)
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[plan.dims]
    return convolve(x, w, None, plan.stride, plan.padding, plan.dilation, plan.groups)


@_each_geometry
def test_blocks_add_up_and_gradients_are_exact_without_converters(name, x, w, plan) -> None:
    x, w = _double(*x), _double(*w, seed=1)
    expected = _digital(x, w, plan)
    assert torch.allclose(mvm(x, ONE, w, plan), expected)
    spans = [plan.span(b, w.shape[1:]) for b in range(plan.blocks)]
    assert torch.allclose(sum(part(x, w, span, plan) for span in spans), expected)
    bias = _double(w.shape[0], seed=2)
    assert torch.autograd.gradcheck(
        lambda *tensors: mvm(tensors[0], ONE, tensors[1], plan, bias=tensors[2]), (x, w, bias)
    )


@_each_geometry
def test_gradients_are_those_of_the_noisy_function(name, x, w, plan) -> None:
    x, w = _double(*x), _double(*w, seed=1)
    scale = block_scales(w, plan.bounds)
    # a spread that does not depend on the weight: the gradient does not pass through the size of
    # the noise
    plan = dataclasses.replace(plan, weight_noise=0.3)

    def run(x: Tensor, w: Tensor) -> Tensor:
        return mvm(x, ONE, w, plan, scale=scale, key=KEY)

    assert not torch.allclose(run(x, w), _digital(x, w, plan))
    assert torch.autograd.gradcheck(run, (x, w))


@_each_geometry
def test_an_adc_rounds_and_clips_what_comes_in_over_its_gain(name, x, w, plan) -> None:
    x, w = _double(*x).detach(), _double(*w, seed=1).detach()
    plan = dataclasses.replace(plan, output_bits=6, adc_range=0.6)
    errors = adc_errors(plan.blocks, w.shape[0], std=0.0)
    gain = errors[[error.kind for error in ADC_ERRORS].index("gain")]
    gain.copy_(1 + 0.2 * torch.rand(gain.shape, generator=torch.Generator().manual_seed(3)))
    y = mvm(x, ONE, w, plan, adc_errors=errors)
    assert not torch.allclose(y, mvm(x, ONE, w, plan), atol=1e-3)
    assert torch.equal(y, mvm(x, ONE, w, plan, adc_ranges=0.6 / gain.double()))
    assert torch.equal(
        mvm(x, ONE, w, plan, adc_errors=adc_errors(plan.blocks, w.shape[0], 0.0)),
        mvm(x, ONE, w, plan),
    )


@_each_geometry
@pytest.mark.parametrize("where", ["one_bound", "own_bounds", "digital_unit"])
def test_saturated_readings_pass_no_gradient_block_by_block(name, x, w, plan, where) -> None:
    x, w = _double(*x), _double(*w, seed=1)
    plan = dataclasses.replace(plan, output_bits=8, adc_range=0.6)
    scale = torch.ones(plan.blocks, w.shape[0], dtype=torch.float64)
    bounds = (
        None if where == "one_bound" else 0.2 + 0.8 * torch.rand(scale.shape, dtype=torch.float64)
    )
    if where == "digital_unit":
        plan = dataclasses.replace(
            plan, output_bits=0, output_steps=10**7, adc_range=50.0, unit_bits=8
        )
        y = mvm(x, ONE, w, plan, scale=scale, output_ranges=bounds)
    else:
        y = mvm(x, ONE, w, plan, scale=scale, adc_ranges=bounds)
    g = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gx, gw = torch.autograd.grad(y, (x, w), g)
    parts = [part(x, w, plan.span(b, w.shape[1:]), plan) for b in range(plan.blocks)]
    dims = [1] * plan.dims
    limits = [scale[b] * 0.6 if bounds is None else bounds[b] for b in range(plan.blocks)]
    inside = [
        (p.abs() <= limit.view(-1, *dims)).double() for p, limit in zip(parts, limits, strict=True)
    ]
    assert min(float(i.mean()) for i in inside) < 0.95  # the test would prove nothing otherwise
    expected = torch.autograd.grad(
        sum((p * i * g).sum() for p, i in zip(parts, inside, strict=True)), (x, w)
    )
    assert torch.allclose(gx, expected[0])
    assert torch.allclose(gw, expected[1])


def test_the_range_learns_from_what_it_clips_on_either_sign() -> None:
    x = torch.tensor([[-3.0, -2.0, -0.3, 0.0, 0.4, 2.5]], dtype=torch.float64, requires_grad=True)
    w = torch.tensor([[1.0, 10.0, 100.0, 1000.0, 10000.0, 100000.0]], dtype=torch.float64)
    for value in (1.0, -1.0):  # training may push it through zero: its magnitude counts
        bound = torch.tensor([value], dtype=torch.float64, requires_grad=True)
        x.grad = None
        mvm(x, bound, w, Plan(bounds=(0, 6), input_bits=8)).sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == [[0, 0, 100, 1000, 10000, 0]]
        assert bound.grad is not None
        assert bound.grad.item() == value * (100000 - 11)


def test_noise_of_a_sample_does_not_depend_on_its_batch_mates_or_on_other_outputs() -> None:
    x, w, one = torch.zeros(6, 4), torch.zeros(5, 4), torch.ones(1)
    plan, full = Plan(bounds=(0, 4), output_noise=1.0), torch.ones(1, 5)
    whole = mvm(x, one, w, plan, scale=full, output_keys=KEYS)
    assert torch.equal(mvm(x[:2], one, w, plan, scale=full, output_keys=KEYS), whole[:2])
    third = torch.tensor([2])
    assert torch.equal(
        mvm(x[:1], one, w, plan, scale=full, output_keys=KEYS, samples=third), whole[2:3]
    )
    tail = dataclasses.replace(plan, first_output=3, total_outputs=5)
    assert torch.equal(mvm(x, one, w[3:], tail, scale=full[:, 3:], output_keys=KEYS), whole[:, 3:])
    assert len(whole.unique()) == 30


def test_convolution_noise_differs_by_sample_output_and_place() -> None:
    plan = _plan((0, 2), (1,), (0,), (1,), output_noise=1.0)
    y = mvm(
        torch.zeros(3, 2, 7),
        torch.ones(1),
        torch.zeros(4, 2, 1),
        plan,
        scale=torch.ones(1, 4),
        output_keys=KEYS,
    )
    assert len(y.unique()) == y.numel()


@pytest.mark.parametrize("groups", [1, 3])
def test_weight_noise_is_keyed_by_place_and_shaped_by_the_spread(groups: int) -> None:
    spread = Spread(
        coefficients=(0.1, 0.5, -0.2, 0.05), base=0.01, step=0.2, pieces=2, dip=0.7, rate=0.6
    )
    plan = _plan(
        (0, 4, 6),
        (1,),
        (0,),
        (1,),
        groups=groups,
        weight_noise=0.5,
        spread=spread,
        first_output=7,
        first_row=40,
    )
    w = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0))
    scale = block_scales(w, plan.bounds)
    noise = noisy_weight(w, scale, KEY, plan) - w
    for o in range(6):
        first = 40 + o // (6 // groups) * 6  # groups meet rows of their own
        z = normal(KEY, torch.tensor([7 + o]), torch.tensor([first]), 6)[0]
        full = torch.cat([scale[0, o].expand(4), scale[1, o].expand(2)])
        assert torch.allclose(
            noise[o].flatten(), 0.5 * full * spread(w[o].flatten() / full) * z, atol=1e-6
        )


def test_scales_by_block_of_columns() -> None:
    w = torch.tensor([[1.0, -4.0, 2.0], [3.0, 0.5, -7.0], [float("nan"), 1.0, 5.0]])
    own = block_scales(w, (0, 2, 3))
    assert own[:, :2].tolist() == [[4.0, 3.0], [2.0, 7.0]]
    assert own[0, 2].isnan()
    shared = block_scales(w, (0, 2, 3), (0, 2, 3))
    assert shared[:, :2].tolist() == [[4.0, 4.0], [7.0, 7.0]]


def _leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)


_FULL = {"weight_noise": 0.1, "output_noise": 0.1, "adc_range": 2.0}
_ONE = torch.ones(1)


def _operands(
    plan: Plan, x: Tensor, w: Tensor, learns: bool = True, inl: Tensor | None = None
) -> tuple:
    plan = dataclasses.replace(plan, read_noise=0.5)
    bias, each = (
        torch.zeros(w.shape[0], dtype=w.dtype, requires_grad=True),
        torch.ones(plan.blocks, w.shape[0]),
    )
    tensors = (
        x,
        _ONE.clone().requires_grad_(),
        w,
        bias,
        None,
        each,
        KEY,
        KEYS,
        None,
        2 * each,
        each,
        None,
        adc_errors(*each.shape),
        (0.01 * torch.rand(1, *w.shape)).bfloat16(),
        inl,
        None if inl is None else 0.2 * torch.rand(2**plan.input_bits - 1),
        None if inl is None else 0.2 * torch.rand(2, *w.shape),
        None,
    )
    return *tensors, plan.ints, plan.floats, learns


_LINEAR = Plan(bounds=(0, 3, 8), input_bits=8, output_bits=8, columns=(0, 4), **_FULL)
_CONV = _plan((0, 3, 6), (1,), (1,), (1,), input_bits=8, output_bits=8, **_FULL)
_UNIT = Plan(bounds=(0, 3, 8), input_bits=8, output_steps=422, unit_bits=8, **_FULL)
_NO_ADC = Plan(bounds=(0, 3, 8), input_bits=8)
OPERATORS = {
    "normal": ("normal", (KEY, torch.arange(4), torch.arange(4), 6)),
    "mvm": ("mvm", _operands(_LINEAR, _leaf(3, 8), _leaf(4, 8))),
    "mvm_conv": ("mvm", _operands(_CONV, _leaf(2, 2, 9), _leaf(4, 2, 3))),
    "mvm_eval": ("mvm", _operands(_LINEAR, _leaf(3, 8), _leaf(4, 8), learns=False)),
    "mvm_unit": ("mvm", _operands(_UNIT, _leaf(3, 8), _leaf(4, 8))),
    "mvm_no_adc": ("mvm", _operands(_NO_ADC, _leaf(3, 8), _leaf(4, 8))),
    "mvm_bfloat16": (
        "mvm",
        _operands(_LINEAR, _leaf(3, 8), torch.randn(4, 8, dtype=torch.bfloat16)),
    ),
    "mvm_inl": (
        "mvm",
        _operands(_LINEAR, _leaf(3, 8), _leaf(4, 8), inl=0.2 * torch.rand(2, 4, 254)),
    ),
    "mvm_backward": (
        "mvm_backward",
        (
            *(
                torch.randn(3, 4),
                torch.randn(3, 8),
                _ONE,
                torch.randn(4, 8),
                torch.ones(2, 4),
                None,
                KEY,
            ),
            *(torch.zeros(2, 3, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.uint8)),
            *(_LINEAR.ints, _LINEAR.floats, [True, True, False, True, True]),
        ),
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_well_formed(name: str) -> None:
    operator, operands = OPERATORS[name]
    torch.library.opcheck(getattr(torch.ops.analogtorch, operator).default, operands)


def test_a_second_derivative_is_refused_not_zero() -> None:
    x, w = torch.randn(3, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    y = mvm(x, _ONE, w, Plan(bounds=(0, 3, 8), input_bits=8, output_bits=8, columns=(0, 4)))
    (gx,) = torch.autograd.grad(y.sum(), x, create_graph=True)  # a constant gradient comes in
    assert gx.shape == x.shape
    with pytest.raises(RuntimeError, match="differentiable once"):
        gx.square().sum().backward()


def test_strides_of_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="stride must be 1 integers >= 1"):
        dataclasses.replace(_CONV, stride=(0,))


def test_a_plan_survives_the_way_through_an_operator() -> None:
    from analogtorch.ops.plan import plan_of

    for plan in (
        _LINEAR,
        _CONV,
        dataclasses.replace(GEOMETRIES[-1][3], spread=Spread(base=0.3, pieces=3)),
    ):
        assert plan_of(plan.ints, plan.floats) == plan


def test_a_block_that_cuts_the_kernel_refuses_padding_in_the_reference() -> None:
    plan = _plan((0, 2, 3), (1,), (1,), (1,))
    with pytest.raises(ValueError, match="padded already"):
        mvm(_double(1, 1, 5), ONE, _double(1, 1, 3), plan)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_empty_batch_gives_an_empty_output_and_zero_gradients(dtype: torch.dtype) -> None:
    for plan, x, w in (
        (_LINEAR, torch.zeros(0, 8, dtype=dtype), torch.ones(4, 8, dtype=dtype)),
        (_LINEAR, torch.zeros(2, 0, 8, dtype=dtype), torch.ones(4, 8, dtype=dtype)),
        (_CONV, torch.zeros(0, 2, 9, dtype=dtype), torch.ones(4, 2, 3, dtype=dtype)),
    ):
        w.requires_grad_()
        one = torch.ones(1, dtype=dtype)
        y = mvm(x, one, w, plan, key=KEY, output_keys=KEYS)
        assert y.numel() == 0
        assert y.shape[: x.dim() - 1] == (
            x.shape[:-1] if x is not None and plan.dims == 0 else (0, 4)
        )
        y.sum().backward()
        assert torch.equal(w.grad, torch.zeros_like(w))


BAD = {
    "integers": (TypeError, "floating point", {"x": torch.ones(2, 8, dtype=torch.int64)}),
    "rows": (ValueError, "8 rows", {"w": torch.zeros(4, 7)}),
    "groups": (ValueError, "multiple", {"plan": dataclasses.replace(_LINEAR, groups=3)}),
    "channels": (ValueError, r"\(\*, 8\)", {"x": torch.zeros(2, 9)}),
    "range": (ValueError, "1 or 2 elements", {"input_range": torch.ones(3, 1)}),
    "range per block": (ValueError, "each of the 2 row blocks", {"input_range": torch.ones(3)}),
    "learned ranges": (
        ValueError,
        "cannot learn",
        {"input_range": torch.ones(2, 1, requires_grad=True)},
    ),
    "bias": (ValueError, "bias", {"bias": torch.zeros(5)}),
    "scale": (ValueError, r"scale must be \(2, 4\)", {"scale": torch.zeros(1, 4)}),
    "gain": (ValueError, r"gain must be \(2, 4\)", {"gain": torch.zeros(4)}),
    "bounds": (ValueError, r"adc_ranges must be \(2, 4\)", {"adc_ranges": torch.ones(2, 5)}),
    "ranges": (ValueError, r"output_ranges must be \(2, 4\)", {"output_ranges": torch.ones(2, 5)}),
    "errors": (ValueError, r"adc_errors must be \(.*, 2, 4\)", {"adc_errors": torch.ones(2, 4)}),
    "key": (ValueError, "needs key", {"key": None}),
    "output keys": (ValueError, "2 row blocks", {"output_keys": KEYS[:1]}),
    "no key": (ValueError, r"key must be one number", {"key": KEYS[:0]}),
    "flat output keys": (ValueError, "2 row blocks", {"output_keys": KEYS[:2].unsqueeze(1)}),
    "samples": (ValueError, "2 elements", {"samples": torch.arange(3)}),
    "narrow samples": (
        TypeError,
        "samples must be int64",
        {"samples": torch.arange(2, dtype=torch.int32)},
    ),
    "scale elsewhere": (
        TypeError,
        "scale must be on cpu",
        {"scale": torch.ones(2, 4, device="meta")},
    ),
    "key elsewhere": (
        TypeError,
        "key must be int64 on cpu, got torch.int64 on meta",
        {"key": KEY.to("meta")},
    ),
    "bias of another type": (
        ValueError,
        "of w's type",
        {"bias": torch.zeros(4, dtype=torch.float64)},
    ),
    "columns": (
        ValueError,
        "from 0 to the 4 outputs",
        {"plan": dataclasses.replace(_LINEAR, columns=(0, 20))},
    ),
    "cut blocks": (
        ValueError,
        "are no block",
        {
            "plan": dataclasses.replace(_CONV, bounds=(0, 2, 8)),
            "x": torch.zeros(2, 2, 9),
            "w": torch.zeros(4, 2, 4),
        },
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tensors_are_refused(name: str) -> None:
    error, message, changes = BAD[name]
    given = {
        "x": torch.zeros(2, 8),
        "input_range": _ONE,
        "w": torch.zeros(4, 8),
        "key": KEY,
        "output_keys": KEYS,
    }
    given |= changes
    with pytest.raises(error, match=message):
        mvm(
            given.pop("x"),
            given.pop("input_range"),
            given.pop("w"),
            given.pop("plan", _LINEAR),
            **given,
        )


def _raw(name: str, position: int, value: object) -> None:
    operator, operands = OPERATORS[name]
    operands = [*operands]
    operands[position] = value
    getattr(torch.ops.analogtorch, operator)(*operands)


SHORT = torch.zeros(1, dtype=torch.int64)
MALFORMED = {
    "mvm x": ("mvm", 0, torch.zeros(3, 7)),
    "mvm range": ("mvm", 1, torch.ones(2, 2)),
    "mvm w": ("mvm", 2, torch.zeros(4, 9)),
    "mvm bias": ("mvm", 3, torch.zeros(3)),
    "mvm scale": ("mvm", 4, torch.ones(1, 4)),
    "mvm gain": ("mvm", 5, torch.ones(1, 4)),
    "mvm key": ("mvm", 6, SHORT[:0]),
    "mvm output_keys": ("mvm", 7, SHORT),
    "mvm samples": ("mvm", 8, torch.arange(2)),
    "mvm adc_ranges": ("mvm", 9, torch.ones(2, 3)),
    "mvm output_ranges": ("mvm", 10, torch.ones(2, 3)),
    "mvm adc_errors": ("mvm", 12, torch.ones(len(ADC_ERRORS), 2, 3)),
    "mvm adc_errors of one kind more": ("mvm", 12, torch.ones(len(ADC_ERRORS) + 1, 2, 4)),
    "mvm read_variances": ("mvm", 13, torch.ones(1, 4, 7).bfloat16()),
    "mvm adc_inl": ("mvm", 14, torch.zeros(2, 4, 253)),
    "mvm dac_inl": ("mvm", 15, torch.zeros(256)),
    "mvm curvatures": ("mvm", 16, torch.zeros(1, 4, 8)),
    "mvm drops": ("mvm", 17, torch.ones(1, 2, 3, 3)),
    "mvm ints of another": ("mvm", 18, list(_CONV.ints)),
    "mvm no ints": ("mvm", 18, []),
    "mvm negative ints": ("mvm", 18, [-1, *_LINEAR.ints[1:]]),
    "mvm more ints": ("mvm", 18, [*_LINEAR.ints, 1]),
    "mvm rows": ("mvm", 18, [3, 0, 3, 800, *_LINEAR.ints[4:]]),
    "mvm few floats": ("mvm", 19, list(_LINEAR.floats[:4])),
    "mvm nan": ("mvm", 19, [float("nan"), *_LINEAR.floats[1:]]),
    "conv x": ("mvm_conv", 0, torch.zeros(2, 2, 9, 9)),
    "conv w": ("mvm_conv", 2, torch.zeros(4, 2, 30)),
    "backward g": ("mvm_backward", 0, torch.zeros(3, 3)),
    "backward x": ("mvm_backward", 1, torch.zeros(2, 8)),
    "backward scale": ("mvm_backward", 4, torch.ones(2, 3)),
    "backward gain": ("mvm_backward", 5, torch.ones(1, 4)),
    "backward no key": ("mvm_backward", 6, None),
    "backward mask": ("mvm_backward", 7, torch.zeros(2, 3, 3, dtype=torch.uint8)),
    "backward type of mask": ("mvm_backward", 7, torch.zeros(2, 3, 4, dtype=torch.int32)),
    "backward saturated": ("mvm_backward", 8, torch.ones(1, dtype=torch.uint8)),
    "backward needs": ("mvm_backward", 11, [True, False, True]),
    "normal key": ("normal", 0, SHORT[:0]),
    "normal type": ("normal", 0, torch.tensor(1.5)),
    "normal rows": ("normal", 1, torch.arange(4, dtype=torch.int32)),
    "normal first": ("normal", 2, torch.arange(3)),
    "normal count": ("normal", 3, -1),
    "normal elsewhere": ("normal", 2, torch.arange(4, device="meta")),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_raw_operators_refuse_what_would_be_read_out_of_bounds(name: str) -> None:
    with pytest.raises((ValueError, TypeError), match=r"mvm|normal|not those of a Plan|w must be"):
        _raw(*MALFORMED[name])


@pytest.mark.parametrize("name", ["normal", "mvm", "mvm_conv", "mvm_backward"])
def test_the_default_device_is_not_where_cpu_tensors_are_computed(name: str) -> None:
    operator, operands = OPERATORS[name]
    run = getattr(torch.ops.analogtorch, operator)
    expected = run(*operands)
    with torch.device("meta"):
        found = run(*operands)
        keys = torch.ops.analogtorch.draw_keys(_ONE, [1, 2])
    assert keys.device.type == "cpu"
    pairs = [(found, expected)] if isinstance(found, Tensor) else zip(found, expected, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "changes",
    [
        {"input_bits": 1}, {"output_bits": 17}, {"adc_range": 0.0},
        {"adc_range": float("nan")}, {"output_noise": -0.1}, {"weight_noise": float("inf")},
        {"bounds": (0,)}, {"bounds": (1, 4)}, {"bounds": (0, 4, 4)}, {"columns": (0, 3, 2)},
        {"groups": 0}, {"padding": (1,)}, {"dilation": (1,)},
    ],
)  # fmt: skip
def test_bad_plans_are_refused(changes: dict) -> None:
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=name) as caught:
        dataclasses.replace(_LINEAR, **changes)
    assert repr(value) in str(caught.value)


def test_a_kernel_larger_than_its_input_is_refused() -> None:
    plan = _plan((0, 10), (1,), (0,), (1,))
    with pytest.raises((ValueError, RuntimeError), match="[Kk]ernel"):
        mvm(torch.zeros(1, 2, 3), _ONE, torch.zeros(1, 2, 5), plan)
    with pytest.raises((ValueError, RuntimeError), match="[Kk]ernel"):
        mvm(_double(1, 2, 3), ONE, _double(1, 2, 5), plan)


@pytest.mark.parametrize("bits", [0, 8])
def test_zeros_give_the_bias_and_nothing_finite_gives_nan(bits: int) -> None:
    plan = Plan(bounds=(0, 3, 8), input_bits=bits, output_bits=bits, **_FULL)
    bias = torch.tensor([1.0, -2.0, 0.0, 3.0])
    noise = {"key": KEY, "output_keys": KEYS}
    for x, w in ((torch.zeros(2, 8), torch.randn(4, 8)), (torch.randn(2, 8), torch.zeros(4, 8))):
        y = mvm(
            x, torch.zeros(1), w, dataclasses.replace(plan, output_noise=0.0), bias=bias, key=KEY
        )
        assert torch.isfinite(y).all()
        assert w.any() or torch.equal(y, bias.expand(2, 4))
    huge = torch.full((2, 8), torch.finfo(torch.float32).max)
    tiny = torch.full((4, 8), 1e-38)
    assert torch.isfinite(
        mvm(huge, torch.ones(1), tiny, dataclasses.replace(plan, input_bits=8), **noise)
    ).all()


def test_whoever_looks_for_the_operator_finds_it() -> None:
    plan = Plan(bounds=(0, 6), input_bits=8, output_bits=8, adc_range=4.0)
    x, w, limit = torch.randn(3, 6), torch.randn(5, 6), torch.tensor([2.0])

    def run() -> Tensor:
        return mvm(x, limit, w, plan)

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with torch.no_grad():
        expected = run()
        with Watch():
            assert torch.equal(run(), expected)
        assert torch.ops.analogtorch.mvm.default in seen
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            run()
        assert "analogtorch::mvm" in {event.key for event in profile.key_averages()}
        graph = make_fx(lambda x: mvm(x, limit, w, plan))(x).graph
        assert torch.ops.analogtorch.mvm.default in {node.target for node in graph.nodes}
        assert mvm(x.to("meta"), limit.to("meta"), w.to("meta"), plan).is_meta
        with pytest.raises(ValueError, match="mvm: w"):
            mvm(x, limit, w[:, :4], plan)
    assert torch.equal(run(), expected)
