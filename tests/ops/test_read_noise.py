"""Read noise of every MVM against a draw per device; fixed seeds, bounds in standard errors."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from analogtorch.devices import DifferentialPair, Polynomial, pcm_like, rram_cmo
from analogtorch.devices.fluctuation import Fluctuations
from analogtorch.ops import Operands, Plan, fold, in_steps, mvm, native, normal, seed_tensor
from analogtorch.ops.native import build, loading
from analogtorch.ops.partial_sums import part
from analogtorch.ops.physics import block_scales, over_rows, rounded_square
from analogtorch.ops.variances import read_variances

KEYS = torch.stack([fold(seed_tensor(3), i) for i in range(4)])
SIGMAS = 4.5
DRAWS = 4000

GEOMETRIES: dict[str, tuple[tuple[int, ...], tuple[int, ...], Plan]] = {
    "linear": ((7,), (5, 7), Plan(bounds=(0, 7))),
    "blocks": ((11,), (3, 11), Plan(bounds=(0, 4, 8, 11))),
    "conv2d_groups": (
        (4, 4, 5),
        (6, 2, 3, 2),
        Plan(bounds=(0, 6, 12), stride=(1, 2), padding=(1, 0), dilation=(1, 1), groups=2),
    ),
    "conv1d_cut": (
        (2, 9),
        (3, 2, 4),
        Plan(bounds=(0, 2, 4, 6, 8), stride=(1,), padding=(0,), dilation=(2,)),
    ),
}


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _case(name: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Plan]:
    size, weight, plan = GEOMETRIES[name]
    x, w = _random(*size, dtype=dtype), _random(*weight, seed=1, dtype=dtype)
    return x, w, (0.01 * _random(1, *weight, seed=2).square()).bfloat16(), plan


def _scale(plan: Plan, w: Tensor) -> Tensor:
    return 0.5 + torch.arange(plan.blocks * len(w), dtype=w.dtype).view(plan.blocks, -1) / 9


def _by_device(x: Tensor, v: Tensor, scale: Tensor, plan: Plan) -> Tensor:
    """Noise of ``DRAWS`` MVMs of one input: each weight of each block fluctuates by itself."""
    found, generator = [], torch.Generator().manual_seed(5)
    index = [slice(None)] + [None] * (v.dim() - 2)
    for _ in range(DRAWS):
        z = torch.randn(v.shape[1:], dtype=v.dtype, generator=generator)
        dw, total = v[0].sqrt() * z, 0.0
        for block in range(plan.blocks):
            span = plan.span(block, dw.shape[1:])
            sums = part(x[None], dw * scale[block][tuple(index)], span, plan)
            total = total + sums
        found.append(total)
    return torch.cat(found)


def _distributions() -> Iterator[Any]:
    """Each geometry in the reference and in the kernels; that of ``conv2d_groups`` is slow."""
    for name in GEOMETRIES:
        for kind, dtype in (("reference", torch.float64), ("kernels", torch.float32)):
            slow = name == "conv2d_groups" and kind == "reference"
            marks = [pytest.mark.slow] if slow else []
            yield pytest.param(name, dtype, id=f"{name}-{kind}", marks=marks)


@pytest.mark.parametrize(("name", "dtype"), list(_distributions()))
def test_it_has_the_distribution_of_a_draw_per_device(name: str, dtype: torch.dtype) -> None:
    x, w, v, plan = _case(name, dtype)
    scale = _scale(plan, w)
    batch = x.expand(DRAWS, *x.shape).contiguous()
    given = {"scale": scale, "output_keys": KEYS, "read_variances": v}
    noisy = dataclasses.replace(plan, read_noise=1.0)
    one = torch.ones(1, dtype=dtype)
    found = mvm(batch, one, w, noisy, **given) - mvm(batch, one, w, plan, scale=scale)
    expected = _by_device(x.double(), v.double(), scale.double(), plan)
    # in the double precision of the definition: the exact variance of a sum of independent normals
    ratio = found.double().var(0) / expected.var(0)
    # the variance of each is known to sqrt(2 / draws)
    assert (ratio - 1).abs().max() < SIGMAS * math.sqrt(4 / DRAWS)
    mean = found.double().mean(0) / found.double().std(0)
    assert mean.abs().max() < SIGMAS / math.sqrt(DRAWS)
    z = ((found - found.mean(0)) / found.std(0)).double()
    # positions of one sample share no noise, so that all count; a normal's kurtosis is 3
    assert abs(z.pow(4).mean().item() - 3) < SIGMAS * math.sqrt(96 / z.numel())
    flat = z.flatten(1)
    others = torch.corrcoef(flat.T) - torch.eye(flat.shape[1])
    assert others.abs().max() < (SIGMAS + 1) / math.sqrt(DRAWS)


@pytest.mark.parametrize("phases", [1, 2, 4])
def test_the_variance_by_the_definition(phases: int) -> None:
    """One block with a range of its own; output noise and read noise are one normal."""
    x, w = _random(6, 10), _random(4, 10, seed=1)
    v = (0.01 * _random(2 if phases == 4 else 1, 4, 10, seed=2).square()).bfloat16()
    scale, r = _scale(Plan(bounds=(0, 10)), w), torch.tensor([3.0], dtype=torch.float64)
    plan = Plan(bounds=(0, 10), read_noise=0.5, output_noise=0.02, phases=phases)
    y = mvm(x, r, w, plan, scale=scale, output_keys=KEYS, read_variances=v)
    inputs = [x] if phases == 1 else [x.clamp_min(0), (-x).clamp_min(0)]
    signs = [1.0] if phases == 1 else [1.0, -1.0]
    expected, number = x @ w.T, 0
    for sign, seen in zip(signs, inputs, strict=True):
        for polarity, variance in zip((1.0, -1.0), v, strict=False):
            key = KEYS[0] if phases == 1 else fold(KEYS[0], number)
            z = normal(key, torch.arange(6), torch.zeros(6, dtype=torch.int64), 4)
            sums = rounded_square(seen) @ variance.double().T
            std = ((0.02 * 3.0 * scale[0]) ** 2 + 0.25 * scale[0] ** 2 * sums).sqrt()
            expected, number = expected + sign * polarity * std * z, number + 1
    assert torch.allclose(y, expected, atol=1e-6)


def test_it_is_drawn_before_the_adc_from_inputs_after_the_dac() -> None:
    x, w, v, plan = _case("blocks")
    batch = torch.stack([x, 9 * x])
    options = {"input_bits": 3, "output_bits": 4, "adc_range": 2.0, "read_noise": 1.0}
    plan = dataclasses.replace(plan, **options)
    given = {"scale": _scale(plan, w), "output_keys": KEYS, "read_variances": v}
    y = mvm(batch, torch.ones(1).double(), w, plan, **given)
    xq, one, expected = in_steps(batch, torch.tensor(1.0), 3), torch.tensor(2.0), 0.0
    for b, (i, j) in enumerate(zip(plan.bounds, plan.bounds[1:], strict=False)):
        z = normal(KEYS[b], torch.arange(2), torch.zeros(2, dtype=torch.int64), 3)
        std = given["scale"][b] * (rounded_square(xq[:, i:j]) @ v[0, :, i:j].double().T).sqrt()
        sums = xq[:, i:j] @ w[:, i:j].T + std * z
        expected = expected + in_steps(sums, one * given["scale"][b], 7)
    assert torch.allclose(y, expected, atol=1e-5)


def test_gradients_are_those_without_it() -> None:
    gradients = []
    for noise in (0.0, 1.0):
        x, w, v, plan = _case("blocks")
        x, w = x.expand(3, -1).clone().requires_grad_(), w.requires_grad_()
        plan = dataclasses.replace(plan, read_noise=noise, input_bits=8)
        v.requires_grad_()
        y = mvm(x, torch.ones(1).double(), w, plan, output_keys=KEYS, read_variances=v)
        y.sum().backward()
        gradients.append((x.grad, w.grad))
        assert v.grad is None
    assert all(map(torch.equal, *gradients))


def test_zero_variance_is_no_noise_and_unused_variances_change_nothing() -> None:
    x, w, v, plan = _case("blocks", torch.float32)
    exact = mvm(x, torch.ones(1), w, plan)
    noisy = dataclasses.replace(plan, read_noise=1.0)
    assert torch.equal(
        mvm(x, torch.ones(1), w, noisy, output_keys=KEYS, read_variances=0 * v), exact
    )
    assert torch.equal(mvm(x, torch.ones(1), w, plan, read_variances=v), exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_the_same_noise(dtype: torch.dtype) -> None:
    x, w, v, plan = _case("blocks", torch.float32)
    plan = dataclasses.replace(plan, read_noise=1.0)
    x, w = x.to(dtype), w.to(dtype)
    y = mvm(x, torch.ones(1), w, plan, output_keys=KEYS, read_variances=v)
    assert y.dtype == dtype
    wide = mvm(x.float(), torch.ones(1), w.float(), plan, output_keys=KEYS, read_variances=v)
    assert torch.allclose(y.float(), wide, atol=0.03)


def test_bad_operands_are_refused() -> None:
    x, w, v, plan = _case("blocks", torch.float32)
    plan, one = dataclasses.replace(plan, read_noise=1.0), torch.ones(1)
    with pytest.raises(ValueError, match="read_noise > 0 needs read_variances"):
        mvm(x, one, w, plan, output_keys=KEYS)
    with pytest.raises(ValueError, match="read_noise > 0 needs output_keys"):
        mvm(x, one, w, plan, read_variances=v)
    for wrong in (v[0], v.double(), v[:, :2], v.expand(2, -1, -1)):
        with pytest.raises(ValueError, match=r"read_variances must be torch.bfloat16 \(1, 3, 11\)"):
            mvm(x, one, w, plan, output_keys=KEYS, read_variances=wrong)
    for noise in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="read_noise must be a number >= 0"):
            dataclasses.replace(plan, read_noise=noise)


@pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")
def test_the_kernels_take_it() -> None:
    x, w, v, plan = _case("blocks", torch.float32)
    plan = dataclasses.replace(plan, read_noise=1.0)
    run = Operands(x, torch.ones(1), w, output_keys=KEYS, read_variances=v)
    assert native.takes(run, plan)
    torch.library.opcheck(torch.ops.analogtorch.mvm.default, (*run, plan.ints, plan.floats, False))


CURVE = Polynomial(coefficients=(0.01, 0.03, -0.02))


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("columns", [(), (0, 2, 3)])
def test_variances_by_a_table_are_those_of_the_cells(
    name: str, columns: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, w, _, plan = _case(name, torch.float32)
    columns = (*columns[:-1], len(w)) if columns else ()
    w.view(-1)[::3] = 0.0
    for cell in (
        DifferentialPair(device=pcm_like()),
        DifferentialPair(device=pcm_like(), devices_per_polarity=2, split="sequential"),
        DifferentialPair(device=rram_cmo()),
    ):
        found = Fluctuations.of(cell, CURVE)
        r = w / over_rows(block_scales(w, plan.bounds, columns), plan.bounds).view(w.shape)
        expected = found.variances(cell.targets(r)).sum(0, keepdim=True)
        fast = read_variances(w, plan.bounds, columns, found.table)
        assert fast.dtype == torch.bfloat16
        assert torch.allclose(fast.float(), expected, rtol=2**-8 + 1e-4)
        with monkeypatch.context() as patch:
            patch.setattr(loading, "available", lambda: False)
            slow = read_variances(w, plan.bounds, columns, found.table)
        double = read_variances(w.double(), plan.bounds, columns, found.table)
        for other in (slow, double):  # to the last bit of those that lie between two
            assert torch.allclose(fast.float(), other.float(), rtol=2**-7)
            assert (fast != other).float().mean() < 0.02
        half = read_variances(w.bfloat16(), plan.bounds, columns, found.table)
        assert half.dtype == torch.bfloat16


@pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")
@pytest.mark.parametrize("capability", ["DEFAULT", "AVX2", "AVX512"])
def test_the_table_in_every_instruction_set(
    capability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = ["DEFAULT", "AVX2", "AVX512"]
    here = torch.backends.cpu.get_cpu_capability()
    if levels.index(capability) > (levels.index(here) if here in levels else 0):
        pytest.skip(f"no {capability} here")
    library = loading._loaded(build.library(capability))
    monkeypatch.setattr(loading, "_library", lambda: library)
    w = _random(9, 37, dtype=torch.float32)
    w[0, 3], w[1] = math.nan, 0.0
    fast = read_variances(w, (0, 16, 37), (), (0.5, 0.0, 0.25, 1.0))
    monkeypatch.setattr(loading, "available", lambda: False)
    slow = read_variances(w, (0, 16, 37), (), (0.5, 0.0, 0.25, 1.0))
    assert torch.allclose(fast[0, 1:].float(), slow[0, 1:].float(), rtol=2**-7)
    assert fast.isfinite().all()
    assert (fast[0, 1] == 0.125).all()
    torch.library.opcheck(
        torch.ops.analogtorch.read_variances.default, (w[2:], (0, 37), (), (0.5, 0.25))
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_variances_have_one_layout_whatever_computes_them(dtype: torch.dtype) -> None:
    """As a compiled graph plans them."""
    for w in (torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last), torch.randn(5, 4).T):
        rows = w[0].numel()
        torch.library.opcheck(
            torch.ops.analogtorch.read_variances.default,
            (w.to(dtype), [0, rows], [0, len(w)], [0.0, 0.1, 0.2]),
        )
