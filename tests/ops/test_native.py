"""The CPU kernels against the reference, for every instruction set built, and without kernels."""

import dataclasses
import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

import analogtorch as at
from analogtorch.devices import Spread
from analogtorch.ops import Operands, Plan, fold, mvm, native, normal, reference, seed_tensor
from analogtorch.ops.native import loading
from tests.ops.errors import adc_errors

pytestmark = pytest.mark.skipif(
    not native.available(), reason="the CPU kernels are not built: no C compiler"
)

KEY = fold(seed_tensor(3), 11)
KEYS = torch.stack([KEY + i for i in range(9)])
SPREAD = at.chips.hermes64(device="two_sequential").cell.spread


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _both(monkeypatch: pytest.MonkeyPatch, call):  # type: ignore[no-untyped-def]
    """The result with the kernels and with plain torch."""
    fast = call()
    with monkeypatch.context() as patch:
        patch.setattr(native, "takes", lambda *_: False)
        patch.setattr(loading, "available", lambda: False)
        return fast, call()


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 255), (2, 257), (64, 1000), (300, 64)])
def test_normal(size, capability: str, monkeypatch) -> None:
    rows, count = size
    where = torch.arange(rows) * 7919, torch.arange(rows) * 3
    fast, slow = _both(monkeypatch, lambda: normal(KEY, *where, count))
    assert torch.allclose(fast, slow, atol=1e-6, rtol=0)


def _plan(bounds: tuple[int, ...], *geometry: tuple[int, ...], groups: int = 1, **options) -> Plan:
    stride, padding, dilation = geometry or ((), (), ())
    return Plan(
        bounds=bounds, stride=stride, padding=padding, dilation=dilation, groups=groups, **options
    )


SHAPES = {
    "one": ((1, 1), (1, 1), _plan((0, 1))),
    "vector": ((13,), (5, 13), _plan((0, 7, 13))),
    "ragged": ((9, 70), (37, 70), _plan((0, 33, 70))),
    "sequence": ((2, 3, 40), (33, 40), _plan((0, 40), columns=(0, 20, 33))),
    "many": ((130, 96), (64, 96), _plan((0, 32, 64, 96))),
    "long": ((1030, 20), (19, 20), _plan((0, 20))),  # more vectors than one sum takes at a time
    "tall": ((3, 9), (2060, 9), _plan((0, 9))),  # and more outputs
    "conv1d": ((3, 4, 37), (10, 2, 5), _plan((0, 5, 10), (2,), (2,), (2,), groups=2)),
    "conv1d_cut": ((2, 2, 50), (3, 2, 4), _plan((0, 3, 4, 7, 8), (1,), (0,), (3,))),
    "conv2d": (
        (3, 5, 20, 34),
        (11, 5, 3, 3),
        _plan((0, 27, 45), (1, 1), (1, 1), (1, 1), columns=(0, 6, 11)),
    ),
    "conv2d_strided": ((2, 3, 12, 13), (18, 3, 3, 2), _plan((0, 12, 18), (2, 3), (1, 0), (1, 2))),
    "depthwise": ((2, 6, 9, 33), (6, 1, 3, 3), _plan((0, 9), (1, 1), (1, 1), (1, 1), groups=6)),
    "two outputs per group": (
        (3, 8, 6, 7),
        (8, 2, 5, 5),
        _plan((0, 25, 50), (1, 1), (2, 2), (1, 1), groups=4),
    ),
    "pointwise": ((2, 40, 5, 7), (10, 40, 1, 1), _plan((0, 32, 40), (1, 1), (0, 0), (1, 1))),
    "one_sample": ((1, 8, 16, 16), (4, 8, 3, 3), _plan((0, 36, 72), (1, 1), (1, 1), (1, 1))),
    "one_place": ((70, 40, 1, 1), (33, 40, 1, 1), _plan((0, 32, 40), (1, 1), (0, 0), (1, 1))),
    "four_places": (
        (11, 6, 4, 4),
        (10, 3, 3, 3),
        _plan((0, 9, 27), (2, 2), (1, 1), (1, 1), groups=2),
    ),
    "fourteen_places": ((5, 4, 16), (9, 4, 3), _plan((0, 6, 12), (1,), (0,), (1,))),
    "forty_places": ((3, 4, 40), (9, 4, 3), _plan((0, 6, 12), (1,), (1,), (1,))),
    # vectors or samples in the lanes, because they are many beside outputs or positions
    "vectors": ((62, 70), (125, 70), _plan((0, 33, 70), columns=(0, 60, 125))),
    "samples": ((30, 5, 6, 5), (9, 5, 3, 3), _plan((0, 27, 45), (1, 1), (1, 1), (1, 1))),
    "samples_strided": (
        (62, 4, 7, 9),
        (10, 2, 3, 2),
        _plan((0, 4, 6, 10, 12), (2, 2), (0, 0), (1, 2), groups=2),
    ),
    "samples_depthwise": (
        (31, 6, 40),
        (6, 1, 3),
        _plan((0, 3), (2,), (1,), (1,), groups=6),
    ),
    "conv3d": (
        (2, 3, 5, 6, 7),
        (4, 3, 2, 3, 2),
        _plan((0, 24, 36), (1, 2, 1), (1, 0, 1), (2, 1, 1)),
    ),
}
SETTINGS = {
    "eight_bits": {"input_bits": 8, "output_bits": 8, "adc_range": 12.0},
    "saturating": {"input_bits": 8, "output_bits": 6, "adc_range": 0.8},
    "digital_unit": {"input_bits": 8, "output_steps": 422, "adc_range": 3.0, "unit_bits": 6},
    "no_adc": {"input_bits": 8, "weight_noise": 0.05},
    "no_dac": {"output_bits": 8, "adc_range": 4.0},
    "everything": {
        **{
            "input_bits": 7,
            "output_bits": 9,
            "adc_range": 3.0,
            "output_noise": 0.05,
            "weight_noise": 0.5,
        },
        **{"spread": SPREAD, "first_output": 5, "total_outputs": 4000, "first_row": 17},
    },
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(
    "variant",
    ["plain", "own_bounds", "own_ranges_gain", "block_ranges", "adc_errors", "read_noise"],
)
def test_product_and_its_gradients(
    shape: str, setting: str, variant: str, capability: str, monkeypatch
) -> None:
    size, weight, plan = SHAPES[shape]
    plan = dataclasses.replace(plan, **SETTINGS[setting])
    x, w, bias = _random(*size), _random(*weight, seed=1), _random(weight[0], seed=2)
    input_range, gain, samples, bounds = torch.tensor([1.5]), None, None, None
    ranges = 0.3 + _random(plan.blocks, weight[0], seed=8).abs() if plan.unit_bits else None
    if variant != "plain":
        bounds = plan.adc_range * (0.2 + _random(plan.blocks, weight[0], seed=5).abs())
    errors = adc_errors(plan.blocks, weight[0]) if variant == "adc_errors" else None
    variances = None
    if variant == "read_noise":
        plan = dataclasses.replace(plan, read_noise=0.7)
        variances = (0.01 * _random(1, *weight, seed=7).square()).bfloat16()
    if variant == "block_ranges":
        input_range = 0.8 + _random(plan.blocks, seed=6).abs()
    if variant == "own_ranges_gain":
        vectors = size[0] if plan.dims else x.shape[:-1].numel()
        input_range = (
            x.abs().amax(tuple(range(1, x.dim())) if plan.dims else -1, keepdim=True) * 0.8
        )
        gain, samples = _random(plan.blocks, weight[0], seed=3).abs(), torch.arange(vectors) * 3 + 1
    keys = {"key": KEY, "output_keys": KEYS, "read_variances": variances}
    g = _random(*mvm(x, input_range, w, plan, **keys).shape, seed=4)

    def run() -> tuple[Tensor, ...]:
        leaves = [t.clone().requires_grad_() for t in (x, w, bias)]
        r = input_range.clone().requires_grad_(variant != "own_ranges_gain")
        noise = {**keys, "samples": samples, "gain": gain}
        noise |= {"adc_ranges": bounds, "output_ranges": ranges, "adc_errors": errors}
        y = mvm(leaves[0], r, leaves[1], plan, bias=leaves[2], **noise)
        y.backward(g)
        return (
            y.detach(),
            *(leaf.grad for leaf in leaves),
            torch.zeros(1) if r.grad is None else r.grad,
        )

    fast, slow = _both(monkeypatch, run)
    # a sum that lies on a rounding boundary to the last bit may be read one step apart, and
    # saturate or not: rarely
    differs = (fast[0] - slow[0]).abs() > 1e-4 * slow[0].abs().max()
    assert differs.float().mean() < 2e-3
    for name, a, b in zip(("x", "w", "bias", "range"), fast[1:], slow[1:], strict=True):
        error = (a - b).abs() > 1e-4 * b.abs().max() + 1e-5
        assert error.float().mean() < (0.02 if differs.any() else 1e-9), name


def test_the_range_of_the_weights_is_found_and_nan_is_not_lost(capability: str) -> None:
    w = _random(37, 70)
    w[5, 40] = float("nan")
    plan = Plan(bounds=(0, 33, 70), columns=(0, 20, 37), output_bits=8)
    inputs = Operands(_random(2, 70), torch.ones(1), w, *[None] * 6)
    found, expected = (
        native.forward(inputs, plan, False).scale,
        reference.forward(inputs, plan, False).scale,
    )
    assert torch.equal(found.nan_to_num(-1), expected.nan_to_num(-1))
    assert found[1, :20].isnan().all()
    assert not found[0].isnan().any()


@pytest.mark.parametrize(
    "shape",
    [
        *("ragged", "conv2d", "depthwise", "one_place", "four_places"),
        *("vectors", "samples", "samples_strided"),
    ],
)
@pytest.mark.parametrize("setting", ["eight_bits", "saturating", "everything", "read_noise"])
def test_batch_split_and_threads_do_not_change_a_bit(
    shape: str, setting: str, capability: str
) -> None:
    size, weight, plan = SHAPES[shape]
    noise = {"key": KEY, "output_keys": KEYS}
    if setting == "read_noise":
        plan = dataclasses.replace(plan, **SETTINGS["everything"], read_noise=0.7)
        noise["read_variances"] = (0.01 * _random(1, *weight, seed=7).square()).bfloat16()
    else:
        plan = dataclasses.replace(plan, **SETTINGS[setting])
    n = max(33, size[0])
    x, w = _random(n, *size[1:]), _random(*weight, seed=1)

    def run(first: int, last: int) -> tuple[Tensor, Tensor]:
        part, samples = x[first:last].clone().requires_grad_(), torch.arange(first, last)
        y = mvm(part, torch.tensor([1.5]), w, plan, samples=samples, **noise)
        y.square().sum().backward()
        return y.detach(), part.grad

    whole, before = run(0, n), torch.get_num_threads()
    for cuts in ([0, 1, 9, n], list(range(n + 1))):
        pieces = [run(a, b) for a, b in zip(cuts, cuts[1:], strict=False)]
        for i in range(2):
            assert torch.equal(torch.cat([piece[i] for piece in pieces]), whole[i])
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert all(torch.equal(a, b) for a, b in zip(run(0, n), whole, strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", ["ragged", "vectors", "conv2d", "samples"])
def test_the_number_of_the_first_vector_stands_for_all(
    shape: str, capability: str, monkeypatch
) -> None:
    size, weight, plan = SHAPES[shape]
    plan = dataclasses.replace(plan, output_noise=0.1)
    x, w = _random(*size), _random(*weight, seed=1)
    vectors = size[0] if plan.dims else math.prod(size[:-1])

    def run() -> tuple[Tensor, ...]:
        numbers = torch.tensor([70]), torch.arange(70, 70 + vectors)
        return tuple(mvm(x, torch.ones(1), w, plan, output_keys=KEYS, samples=n) for n in numbers)

    for first, each in _both(monkeypatch, run):
        assert torch.equal(first, each)


@pytest.mark.parametrize(
    "shape", ["one", "ragged", "many", "conv1d", "depthwise", "one_place", "forty_places"]
)
def test_the_bits_of_saturated_readings_are_zero_behind_the_last(
    shape: str, capability: str, monkeypatch
) -> None:
    size, weight, plan = SHAPES[shape]
    inputs = Operands(_random(*size), torch.ones(1), _random(*weight, seed=1), *[None] * 6)
    empty = Tensor.new_empty
    # dirty memory
    monkeypatch.setattr(
        Tensor, "new_empty", lambda *args, **options: empty(*args, **options).fill_(-1)
    )
    found = native.forward(inputs, dataclasses.replace(plan, output_bits=8, adc_range=1e9), True)
    assert found.mask.numel()
    assert not found.mask.any()


@pytest.mark.parametrize("dip", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("pieces", [1, 3])
def test_the_noise_of_weights_that_dips_where_a_piece_begins(
    dip, pieces, capability: str, monkeypatch
) -> None:
    spread = Spread(coefficients=(0.1, 0.7, -0.3, 0.2), step=0.05, pieces=pieces, dip=dip, rate=1.5)
    plan = Plan(bounds=(0, 33, 70), columns=(0, 20, 37), weight_noise=0.5, spread=spread)
    w = _random(37, 70) * _random(37, 1, seed=1).abs()
    w[:, ::7] = 0.0
    fast, slow = _both(monkeypatch, lambda: mvm(torch.eye(70), torch.ones(1), w, plan, key=KEY))
    assert torch.allclose(fast, slow, atol=1e-5)
    assert torch.equal(fast[::7], slow[::7]) == (dip == 1)  # without noise


def test_non_contiguous_operands(capability: str, monkeypatch) -> None:
    x, w = _random(20, 9).T, _random(20, 12).T
    plan = Plan(bounds=(0, 8, 20), input_bits=8, output_bits=8, adc_range=8.0)
    fast, slow = _both(monkeypatch, lambda: mvm(x, torch.ones(1), w, plan))
    assert torch.allclose(fast, slow, atol=1e-4)


def test_infinity_is_clipped_and_nan_stays_in_its_vector(capability: str) -> None:
    x, w = _random(12, 40), _random(20, 40, seed=1)
    x[3, 7], x[5, 0] = float("nan"), float("inf")
    y = mvm(x, torch.ones(1), w, Plan(bounds=(0, 40), input_bits=8, output_bits=8, adc_range=30.0))
    assert y[3].isnan().all()
    assert not y[torch.arange(12) != 3].isnan().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", ["ragged", "conv2d"])
def test_half_precision_is_computed_in_single(
    dtype: torch.dtype, shape: str, capability: str
) -> None:
    size, weight, plan = SHAPES[shape]
    plan = dataclasses.replace(plan, **SETTINGS["everything"])
    x, w, bias = (
        _random(*size).to(dtype),
        _random(*weight, seed=1).to(dtype),
        _random(weight[0], seed=2).to(dtype),
    )

    def run(kind: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [t.detach().to(kind).requires_grad_() for t in (x, w, bias)]
        r = torch.tensor([1.5], requires_grad=True)
        y = mvm(leaves[0], r, leaves[1], plan, bias=leaves[2], key=KEY, output_keys=KEYS)
        y.sum().backward()
        return y.detach(), *(leaf.grad for leaf in leaves), r.grad

    for half, single in zip(run(dtype), run(torch.float32), strict=True):
        assert torch.equal(half, single.to(half.dtype))


def test_double_precision_and_other_devices_run_on_torch() -> None:
    for x in (
        torch.zeros(1, 2, dtype=torch.float64),
        torch.zeros(1, 2, device="meta"),
        torch.zeros(0, 2),
    ):
        r = torch.ones_like(x[0, :1] if len(x) else x)
        assert not native.takes(Operands(x, r, x, *[None] * 6), Plan(bounds=(0, 2)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_default_type_changes_no_noise(dtype: torch.dtype) -> None:
    where = torch.arange(4), torch.zeros(4, dtype=torch.int64)
    expected = normal(KEY, *where, 33)
    torch.set_default_dtype(dtype)
    try:
        seen = normal(KEY, *where, 33)
    finally:
        torch.set_default_dtype(torch.float32)
    assert seen.dtype == torch.float32
    assert torch.equal(seen, expected)


def test_a_weight_gradient_of_many_vectors_is_as_exact_as_torchs(capability: str) -> None:
    x, g = _random(100_000, 20), _random(100_000, 16, seed=1)
    w = _random(16, 20, seed=2).requires_grad_()
    mvm(x, torch.ones(1), w, Plan(bounds=(0, 20))).backward(g)
    exact = g.double().T @ x.double()
    assert (w.grad - exact).norm() / exact.norm() < 3e-6


_SHORT_OF_MEMORY = """
import resource
import torch
from analogtorch.ops import Plan, mvm

torch.set_num_threads(1)
linear = torch.ones(8192, 1024), torch.ones(1, 1024), Plan(bounds=(0, 1024), input_bits=8), None
narrow = torch.ones(2**20, 8), torch.ones(9, 8), Plan(bounds=(0, 8)), torch.ones(1, 9)
places = Plan(bounds=(0, 6), stride=(1,), padding=(0,), dilation=(1,))
convolution = torch.ones(1, 2, 2**22), torch.ones(1, 2, 3), places, None


def product(x, w, plan, gain):
    return mvm(x, torch.ones(1), w.clone().requires_grad_(), plan, gain=gain)


def backward(*case):
    y = product(*case)
    g = torch.ones_like(y)
    return lambda: y.backward(g)


backward(torch.ones(1, 8), *narrow[1:])()  # torch imports what it needs
runs = (
    lambda: product(*linear),
    lambda: product(*convolution),
    backward(*narrow),
    backward(*convolution),
)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 24 * 2**20, -1))
for run in runs:
    try:
        run()
    except MemoryError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
@pytest.mark.slow
def test_products_short_of_memory_raise() -> None:
    """The limit has room for the results, but not for the kernels' scratch."""
    run = subprocess.run(
        [sys.executable, "-c", _SHORT_OF_MEMORY], capture_output=True, text=True, check=False
    )
    assert run.stdout.count("no memory for what an analog product of shape") == 4, run.stderr[
        -2000:
    ]
