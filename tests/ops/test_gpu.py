"""The Triton kernels in Triton's interpreter against the reference, and compiled for GPUs."""

import os
import subprocess
import sys
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="no Triton: a CPU build of torch")

_SCRIPT = """
import torch
from analogtorch.ops import fold, gpu, random_bits, seed_tensor, stream
from analogtorch.ops.generator import normal_reference

key = fold(seed_tensor(-7), stream("test", 3))
rows = torch.tensor([0, 1, 5, 2**33, -4])
first = torch.tensor([0, 17, 2**31, 4000000000, 1])
for count, block in ((1, 16), (100, 16), (100, 128)):
    normals, bits = torch.empty(5, count), torch.empty(5, count, dtype=torch.float64)
    gpu.launch(normals, key, rows, first, raw=False, block=block)
    gpu.launch(bits, key, rows, first, raw=True, block=block)
    assert torch.equal(bits.to(torch.int32), random_bits(key, rows, first, count)), "bits"
    worst = (normals - normal_reference(key, rows, first, count)).abs().max().item()
    assert worst < 1e-6, worst
print("equal")
"""

_PRODUCT = """
import torch
from torch.testing import assert_close
import analogtorch as at
from analogtorch.ops import Operands, fold, gpu
from analogtorch.ops.mask import packed, unpacked
from analogtorch.ops.generator import normal_reference
from analogtorch.ops.plan import Plan
from analogtorch.ops.converters import at_adc, in_steps, rounded
from analogtorch.ops.physics import rounded_square
from tests.ops.errors import adc_errors
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, tl

product, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl


def widened(a):
    if a.dtype.scalar != tl.bfloat16:
        return a
    return TensorHandle((a.data.astype("uint32") << 16).view("float32"), tl.float32)


# Triton 3.8 interprets a product of bfloat16 as that of the integers it keeps their bits in.
InterpreterBuilder.create_dot = lambda self, a, b, *rest: product(
    self, widened(a), widened(b), *rest
)


def nearest(self, a, kind):
    if a.dtype.scalar != tl.float32 or kind.scalar != tl.bfloat16:
        return cast(self, a, kind)
    bits = a.data.view("uint32")
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return TensorHandle(bits.astype("uint16"), tl.bfloat16)


InterpreterBuilder.cast_impl = nearest  # Triton 3.8 cuts bits off, where GPUs round

M, K, N = 5, 37, 19
torch.manual_seed(0)
X, W, G = torch.randn(M, K), 0.3 * torch.randn(N, K), torch.randn(M, N)
KEY, OUTPUT_KEYS = fold(torch.tensor(-9), 1), fold(torch.tensor(4), torch.arange(4))
SMALL, WIDE = gpu.Tile(16, 16, 16), gpu.Tile(32, 32, 64)


def over_rows(values, plan):
    sizes = torch.tensor([b - a for a, b in zip(plan.bounds, plan.bounds[1:])])
    return values.repeat_interleave(sizes, 0).T


def seen(x, r, w, plan, scale, key):
    '''What is multiplied.'''
    xq = rounded(x.float(), r.view(-1, 1), plan.input_bits) if plan.input_bits else x.float()
    if key is None:
        return xq, w.float()
    rows, size = plan.first_output + torch.arange(N), over_rows(scale, plan)
    z = normal_reference(key, rows, torch.full_like(rows, plan.first_row), K)
    sigma = plan.spread(w.float() / size.clamp_min(torch.finfo(torch.float32).tiny))
    return xq, w.float() + plan.weight_noise * size * sigma * z


def wanted(
    x, r, w, plan, scale, gain, key, output_keys, samples, bias, limits, unit_ranges, errors,
    variances,
):
    xq, wn = seen(x, r, w, plan, scale, key)
    y, masks = torch.zeros(M, N), []
    for b, (i, j) in enumerate(zip(plan.bounds, plan.bounds[1:])):
        v, full = xq[:, i:j] @ wn[:, i:j].T, r.view(-1, 1) * scale[b]
        if plan.noisy_sums:
            vectors = torch.arange(M) if samples is None else samples
            first = torch.full_like(vectors, plan.first_output)
            z = normal_reference(output_keys[b], vectors, first, N)
            std = full * plan.output_noise
            if variances is not None:
                q = rounded_square(xq[:, i:j]) @ variances[0][:, i:j].float().T
                std = torch.sqrt(std.square() + (plan.read_noise * scale[b]).square() * q)
            v = v + std * z
        bound = plan.adc_range if limits is None else limits[b]
        v, limit = at_adc(v, full, bound, errors if errors is None else errors[:, b])
        masks.append(v.abs() > limit)
        if plan.steps:
            v = in_steps(v, limit, plan.steps)
        v = v if gain is None else v * gain[b]
        if unit_ranges is not None:
            masks[-1] |= v.abs() > full * unit_ranges[b]
            v = rounded(v, full * unit_ranges[b], plan.unit_bits)
        y += v
    return (y if bias is None else y + bias.float()), torch.stack(masks)


def wanted_gradients(g, x, r, w, plan, scale, gain, key, mask):
    xq, wn = seen(x, r, w, plan, scale, key)
    gx, gw = torch.empty(M, K), torch.empty(N, K)
    for b, (i, j) in enumerate(zip(plan.bounds, plan.bounds[1:])):
        gb = g.float() if gain is None else g.float() * gain[b]
        if mask is not None:
            gb = gb * ~unpacked(mask[b], N)
        gx[:, i:j], gw[:, i:j] = gb @ wn[:, i:j], gb.T @ xq[:, i:j]
    if not plan.input_bits:
        return gx, torch.zeros(1), gw
    above, below = x.float() > r.view(-1, 1), x.float() < -r.view(-1, 1)
    assert above.any() and below.any()
    return gx * ~(above | below), (gx * above - gx * below).sum().view(1), gw


def check(
    name, dtype=torch.float32, x=X, r=(1.3,), *, gain=None, key=KEY, samples=None, bias=None,
    limits=None, unit=None, errors=None, variances=None, **plan,
):
    everything = dict(bounds=(0, 16, 37), input_bits=8, output_bits=8)
    noisy = dict(adc_range=1.5, output_noise=0.02, weight_noise=0.05)
    plan = Plan(**{**everything, **noisy, **plan})
    x, w, g, r = x.to(dtype), W.to(dtype), G.to(dtype), torch.tensor(r)
    blocks = zip(plan.bounds, plan.bounds[1:])
    scale = torch.stack([w[:, i:j].abs().amax(1) for i, j in blocks]).float()
    output_keys = OUTPUT_KEYS[: plan.blocks] if plan.noisy_sums else None
    given = (scale, gain, key, output_keys, samples, bias, limits, unit, errors, variances)
    y, mask = wanted(x, r, w, plan, *given)
    if dtype == torch.float32:
        near = dict(rtol=1e-5, atol=1e-5)
    else:  # a reading of either block may fall on the next step
        step = (r.max() * scale.max() * plan.adc_range / plan.steps).item()
        near = dict(rtol=0.01, atol=2.5 * step)
    for tile in (SMALL, WIDE):
        run = Operands(x, r, w, bias, scale, gain, key, output_keys, samples)
        bounded = run._replace(adc_ranges=limits, output_ranges=unit, adc_errors=errors)
        run, bounded = (r._replace(read_variances=variances) for r in (run, bounded))
        got, got_mask = gpu.linear(bounded, plan, True, tile=tile)
        assert got.dtype == dtype
        assert (got - y).abs().mean() < near["atol"] / 5, name
        assert_close(got.float(), y, msg=lambda m: f"{name}: y: {m}", **near)
        if plan.saturates:
            assert got_mask.any() and not unpacked(got_mask[0], N).all(), name
            if dtype == torch.float32:
                assert torch.equal(got_mask, torch.stack([packed(own) for own in mask])), name
        else:
            assert got_mask is None
        assert gpu.linear(run, plan, tile=tile)[1] is None
        gradients = gpu.linear_backward(g, run, plan, got_mask, input_tile=tile, weight_tile=tile)
        near_gradient = dict(rtol=0.02, atol=0.1)
        if dtype == torch.float32:
            near_gradient = dict(rtol=1e-5, atol=1e-5)
        gx, g_range, gw = wanted_gradients(g, x, r, w, plan, scale, gain, key, got_mask)
        assert gradients[0].dtype == gradients[2].dtype == dtype
        assert_close(gradients[0].float(), gx, msg=lambda m: f"{name}: gx: {m}", **near_gradient)
        assert_close(gradients[2].float(), gw, msg=lambda m: f"{name}: gw: {m}", **near_gradient)
        if r.numel() == 1:
            says = lambda m: f"{name}: g_range: {m}"
            assert_close(gradients[1], g_range, msg=says, **near_gradient)
        else:
            assert gradients[1] is None, name


shaped = at.chips.hermes64(device="two_sequential").cell.spread
assert shaped.pieces == 2 and shaped.step
gain = 1 + 0.1 * torch.randn(2, N)
samples = torch.tensor([7, 2**33, 0, -3, 11])
ranges = (0.5, 1.0, 1.3, 2.0, 3.0)
position = dict(first_output=3, first_row=64)
check("everything", spread=shaped, gain=gain, samples=samples, bias=torch.randn(N), **position)
check("range per vector", r=ranges, spread=shaped, samples=samples, **position)
check("no ADC", output_bits=0, gain=gain)
unit = dict(output_bits=0, output_steps=422, unit_bits=6)
check("a digital unit", unit=0.2 + 0.3 * torch.rand(2, N), gain=gain, **unit)
check("a digital unit without ranges", **unit)
check("bounds of readings", limits=0.5 + torch.rand(2, N), gain=gain)
check("errors of ADCs", errors=adc_errors(2, N), gain=gain)
check("errors without ADCs", errors=adc_errors(2, N), output_bits=0)
check("errors of ADCs, bounds", errors=adc_errors(2, N), limits=0.5 + torch.rand(2, N))
check("errors of ADCs, a digital unit", errors=adc_errors(2, N), unit=torch.rand(2, N), **unit)
variances = (0.01 * torch.randn(1, N, K).square()).bfloat16()
reads = dict(variances=variances, read_noise=0.7, samples=samples, **position)
check("read noise", gain=gain, spread=shaped, **reads)
check("read noise alone", output_noise=0.0, key=None, **reads)
check("read noise, range per vector, no DAC", r=ranges, input_bits=0, **reads)
check("read noise, bfloat16", dtype=torch.bfloat16, **reads)
check("no DAC", input_bits=0, adc_range=0.5)
check("equal blocks", bounds=(0, 16, 32, 37), input_bits=16, output_bits=5)
check("a short block first", bounds=(0, 5, 30, 37), key=None)
check("no noise, one block", bounds=(0, 37), weight_noise=0.0, output_noise=0.0)
check("bfloat16", dtype=torch.bfloat16, spread=shaped, gain=gain, bias=torch.randn(N).bfloat16())
check("bfloat16, range per vector, fine DAC", dtype=torch.bfloat16, r=ranges, input_bits=12)
check("float16", dtype=torch.float16, input_bits=10)

# The noise alone: the same number whatever the block sizes.
one = torch.ones(1)
scale = W.abs().amax(1).expand(2, N)
dips = at.devices.Spread(coefficients=(0.1, 0.7, -0.3, 0.2), step=0.05, pieces=2, dip=0.7, rate=1.5)
for spread in (shaped, dips, at.devices.Spread()):
    plan = Plan(bounds=(0, 16, 37), weight_noise=0.05, spread=spread, **position)
    run = Operands(torch.eye(K), one, W, scale=scale, key=KEY)
    small, wide = (gpu.linear(run, plan, tile=t)[0] for t in (SMALL, WIDE))
    assert torch.equal(small, wide)
    assert_close(small.T, seen(torch.eye(K), one, W, plan, scale, KEY)[1], rtol=0, atol=1e-6)
plan = Plan(bounds=(0, 16, 37), output_noise=0.05, **position)
run = Operands(torch.zeros(M, K), one, W, scale=scale, output_keys=OUTPUT_KEYS[:2], samples=samples)
small, wide = (gpu.linear(run, plan, tile=t)[0] for t in (SMALL, WIDE))
assert torch.equal(small, wide) and small.std() > 0

# A weight's gradient does not depend on how the vectors are shared out, but for the last bits.
x, g = torch.randn(70, K), torch.randn(70, N)
plan = Plan(bounds=(0, 16, 37), input_bits=8)
run = (g, Operands(x, one, W, scale=scale), plan, None, (False, False, True))
parts = [gpu.linear_backward(*run, weight_tile=SMALL, splits=n)[2] for n in (1, 3, 5, 9)]
for part in parts:
    assert_close(part, g.T @ rounded(x, one, 8), rtol=1e-5, atol=1e-5)

# Not a number stays not a number, at its own vector only; a range of zero gives zeros.
plan = Plan(bounds=(0, 16, 37), input_bits=8, output_bits=8)
spoiled = X.clone()
spoiled[1, 20] = float("nan")
y, _ = gpu.linear(Operands(spoiled, one, W, scale=scale), plan, tile=SMALL)
assert y[1].isnan().all() and not y[[0, 2, 3, 4]].isnan().any()
zeros, _ = gpu.linear(Operands(X, torch.zeros(1), W, scale=scale), plan, tile=SMALL)
assert (zeros.abs() < 1e-20).all()

# Only what is asked for; nothing to do is no error.
run = Operands(X, one, W, scale=scale)
got = gpu.linear_backward(G, run, plan, None, (False, True, False), input_tile=SMALL)
assert got[0] is None and got[2] is None and got[1].shape == (1,)
nothing = run._replace(x=X[:0])
y, _ = gpu.linear(nothing, plan)
gx, g_range, gw = gpu.linear_backward(G[:0], nothing, plan, None, weight_tile=SMALL)
assert y.shape == (0, N) and gx.shape == (0, K) and g_range.item() == 0 and not gw.any()
try:
    gpu.linear(run._replace(scale=scale[:1]), Plan(bounds=(0, 37), output_noise=0.1))
except ValueError as error:
    assert "output_keys" in str(error)
else:
    raise AssertionError("no output_keys")
print("equal")
"""


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(_SCRIPT, id="normal"),
        pytest.param(_PRODUCT, id="product", marks=pytest.mark.slow),
    ],
)
def test_interpreted_kernels_give_the_same_numbers(script: str) -> None:
    interpreted = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=interpreted, check=False
    )
    assert run.stdout.strip() == "equal", run.stderr[-2000:]


_TYPES = {
    **dict.fromkeys(
        (
            "out",
            "input_range",
            "sums",
            "scale",
            "gain",
            "adc_ranges",
            "output_ranges",
            "adc_errors",
        ),
        "*fp32",
    ),
    "read_variances": "*bf16",
    **dict.fromkeys(("rows", "first", "key", "output_keys", "samples"), "*i64"),
    **dict.fromkeys(("adc_range", "output_noise", "read_noise", "weight_noise"), "fp32"),
    "mask": "*u8",
    "bounds": "*i32",
}


def _compile(
    kernel: Any, capability: int, values: str, constants: dict[str, Any], **options: int
) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    types = {
        **dict.fromkeys(names, "i32"),
        **dict.fromkeys(("y", "gx", "gw", "g", "x", "w", "bias"), values),
        **_TYPES,
    }
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    constexprs = {(names.index(name),): value for name, value in constants.items()}
    # as Triton sees what torch allocates: otherwise loads are not as wide as they will be
    aligned = [
        i
        for i, name in enumerate(names)
        if signature[name][0] == "*" or name in ("N", "K", "block_size")
    ]
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
    source = ASTSource(kernel, signature=signature, constexprs=constexprs, attrs=attributes)
    assert (
        "cubin"
        in triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm
    )


@pytest.mark.parametrize("capability", [80, 90])
def test_normal_kernel_compiles_for_gpus(capability: int) -> None:
    from analogtorch.ops.gpu import kernels

    _compile(kernels.normal_kernel, capability, "*fp32", {"raw": False, "BLOCK": 1024})


@pytest.mark.parametrize(
    ("capability", "values", "plain"),
    [
        pytest.param(
            *(capability, values, plain),
            id=f"{capability}-{values}-{'plain' if plain else 'everything'}",
            marks=() if plain or (capability, values) == (90, "bf16") else pytest.mark.slow,
        )
        for capability in (80, 90)
        for values in ("bf16", "fp32")
        for plain in (False, True)
    ],
)
def test_product_kernels_compile_for_gpus(capability: int, values: str, plain: bool) -> None:
    """Sizes are those of a large product with all options, and of a small one."""
    import torch

    from analogtorch.ops.gpu import kernels, tiles

    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[values]
    size = 16 if plain else 4096
    cut = {
        kernels.forward_kernel: tiles.fit(tiles.forward_tile(size, dtype, not plain), size, size),
        kernels.input_gradient_kernel: tiles.fit(
            tiles.input_tile(size, dtype, not plain), size, size
        ),
        kernels.weight_gradient_kernel: tiles.fit(tiles.weight_tile(size, dtype), size, size),
    }
    optional = (
        "key",
        "output_keys",
        "mask",
        "gain",
        "bias",
        "samples",
        "adc_ranges",
        "output_ranges",
        "adc_errors",
        "read_variances",
        "bounds",
        "sums",
    )
    settings = {
        "SPREAD": None if plain else (0.1, 0.2, -0.3, 0.1, 0.01, 0.02, 2.0, 0.7, 0.2),
        "INPUT_STEPS": 0 if plain else 127,
        "OUTPUT_STEPS": 0 if plain else 422,
        "UNIT_STEPS": 0 if plain else 127,
        "CLIPPED": not plain,
        "PER_VECTOR": not plain,
        **(dict.fromkeys(optional) if plain else {}),
    }
    for kernel, tile in cut.items():
        arguments = tile.arguments()
        options = {name: arguments.pop(name) for name in ("num_warps", "num_stages")}
        constants = {
            name: value
            for name, value in {**settings, **arguments}.items()
            if name in kernel.arg_names
        }
        _compile(kernel, capability, f"*{values}", constants, **options)
