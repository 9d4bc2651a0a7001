"""The GPU kernels, in Triton: the definitions of ``ops/generator.py`` and the analog product, for
tensors on CUDA.

Triton comes with the CUDA builds of torch. Where it is missing, ``available`` is False and torch
computes the same. Positions key the noise, never the program: block sizes do not change a number of
it.
"""

import warnings
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from analogtorch.chips import ADC_ERRORS
from analogtorch.devices import Spread
from analogtorch.ops.mask import MASK, mask_shape
from analogtorch.ops.operands import Gradients, Kind, Operands, Outputs, of_kind, per_block
from analogtorch.ops.physics import block_scales, levels
from analogtorch.ops.plan import Plan

_TYPES = (torch.float16, torch.bfloat16, torch.float32)

try:
    import triton
except ImportError:  # a CPU build of torch brings no Triton
    triton = None
else:
    from analogtorch.ops.gpu.kernels import (
        KNOWN_ERRORS,
        forward_kernel,
        input_gradient_kernel,
        normal_kernel,
        weight_gradient_kernel,
    )


def available(*tensors: Tensor) -> bool:
    """Whether the kernels are there and all tensors are on a GPU; warns once in a process if they
    are not there.
    """
    if not all(t.is_cuda for t in tensors):
        return False
    if triton is None:
        _warn()
    return triton is not None


@cache
def _warn() -> None:
    warnings.warn(
        "analogtorch: the GPU kernels do not run, so analog layers run on plain torch, several "
        "times slower. " + status(),
        RuntimeWarning,
        stacklevel=3,
    )


def status() -> str:
    """One line: the Triton that compiles the kernels, or why there are none and what to do about
    it.
    """
    if triton is None:
        return (
            "GPU kernels: none, there is no Triton, which comes with the CUDA builds of torch; "
            "pip install triton"
        )
    return f"GPU kernels: Triton {triton.__version__}" + (
        "" if torch.cuda.is_available() else ", no GPU here"
    )


def normal(key: Tensor, rows: Tensor, first: Tensor, count: int) -> Tensor:
    """As ``ops.normal``: float32 (R, count), for int64 tensors on a GPU."""
    out = torch.empty(rows.shape[0], count, device=rows.device, dtype=torch.float32)
    launch(out, key, rows, first, raw=False)
    return out


def launch(
    out: Tensor, key: Tensor, rows: Tensor, first: Tensor, *, raw: bool, block: int = 1024
) -> None:
    """Fill ``out`` (R, count): normals, or, as float64, the bits they are made of."""
    n_rows, count = out.shape
    if out.numel():
        grid = (n_rows, triton.cdiv(count, block))
        with torch.cuda.device_of(out):
            normal_kernel[grid](
                out, key, rows.contiguous(), first.contiguous(), n_rows, count, raw, BLOCK=block
            )


def takes(inputs: Operands, plan: Plan) -> bool:
    """Whether the kernels compute this product: a linear layer's on a GPU, not in double precision.

    One input range per row block is not theirs, nor are several phases.
    """
    types = (
        inputs.x.dtype in _TYPES and inputs.w.dtype in _TYPES and not per_block(inputs.input_range)
    )
    return (
        not plan.dims
        and plan.phases == 1
        and (inputs.adc_errors is None or _knows_errors())
        and types
        and available(inputs.x, inputs.input_range, inputs.w)
    )


def forward(inputs: Operands, plan: Plan, learns: bool) -> Outputs:
    """As ``reference.forward``."""
    x, w = inputs.x, inputs.w
    scale = block_scales(w, plan.bounds, plan.columns) if inputs.scale is None else inputs.scale
    y, mask = linear(_flat(inputs)._replace(scale=scale), plan, learns)
    shape = (*x.shape[:-1], w.shape[0])
    mask = x.new_empty(0, dtype=MASK) if mask is None else mask
    # the kernels of the backward read the mask as they go: asking whether a reading saturated would
    # stop the GPU
    return Outputs(y.view(shape), scale, mask, mask.new_empty(plan.blocks))


def backward(
    g: Tensor, inputs: Operands, outputs: Outputs, plan: Plan, needs: Sequence[bool]
) -> Gradients:
    """As ``reference.backward``."""
    flat, own, input_range = g.reshape(-1, g.shape[-1]), _flat(inputs), inputs.input_range
    mask = outputs.mask if outputs.mask.numel() else None
    wanted = (needs[0], needs[1], needs[2])
    gx, g_range, gw = linear_backward(flat, own._replace(scale=outputs.scale), plan, mask, wanted)
    if g_range is not None:
        g_range = (g_range * own.input_range.sign()).view(input_range.shape).to(input_range.dtype)
    return (
        None if gx is None else gx.view(inputs.x.shape),
        g_range,
        gw,
        flat.sum(0) if needs[3] else None,
    )


def _flat(inputs: Operands) -> Operands:
    """The same with vectors in one dimension, and the magnitude of their range or ranges."""
    x = inputs.x.reshape(-1, inputs.x.shape[-1])
    return inputs._replace(x=x, input_range=inputs.input_range.abs().flatten())


def _packed(kernel: Any, operands: Operands) -> dict[str, Tensor | None]:
    """The operands that are arguments of the kernel, by name, as it reads them."""
    names = [name for name in operands._fields if name in kernel.arg_names]
    given = {name: getattr(operands, name) for name in names}
    return {
        name: None if t is None else _wide(t) if name in _FLOAT32 else t.contiguous()
        for name, t in given.items()
    }


def _knows_errors() -> bool:
    """Whether the kernels compute all errors of ADCs that chips have."""
    return {error.kind for error in ADC_ERRORS} == set(KNOWN_ERRORS)


_FLOAT32 = {"input_range", *of_kind(Kind.ADC, Kind.ADC_ERROR)}
"""What kernels read in float32, whatever the type of the product."""


class Tile(NamedTuple):
    """How a kernel of the product is cut: vectors, outputs and rows at a time, each a power of two
    from 16.
    """

    m: int
    n: int
    k: int
    warps: int = 4
    stages: int = 3
    group: int = 8
    """Rows of tiles that share their columns in L2."""

    def arguments(self) -> dict[str, int]:
        """For the launch of a kernel."""
        names = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages", "GROUP")
        return dict(zip(names, self, strict=True))


def linear(
    operands: Operands, plan: Plan, want_mask: bool = False, *, tile: Tile | None = None
) -> tuple[Tensor, Tensor | None]:
    """The linear analog product in one kernel: nothing between input and output is stored.

    Args:
        operands: ``x`` (vectors, rows); ``input_range`` >= 0 of shape (1,) or (vectors,); ``w`` in
            float16, bfloat16 or float32, the type of the products, of which sums are float32; and
            ``scale``. The rest is optional, but for keys where the plan has noise.
        plan: of the matrix.
        want_mask: tell which partial sums the converters clip.
        tile: how to cut the work; the noise does not depend on it.

    Returns:
        The output (vectors, outputs) in ``w``'s type, and the mask, as in ``ops/mask.py``: None if
        not wanted or without an ADC.
    """
    x, w, noise = operands.x, operands.w, plan.output_noise
    (m, k), n = x.shape, w.shape[0]
    if noise > 0 and operands.output_keys is None:
        raise ValueError("output_keys must be given: the plan has output noise")
    key, spread = _weight_noise(plan, operands.key)
    operands = operands._replace(key=key)
    operands = operands if noise > 0 else operands._replace(output_keys=None)
    operands = operands if plan.unit_bits else operands._replace(output_ranges=None)
    y = torch.empty(m, n, dtype=w.dtype, device=x.device)
    mask = None
    if want_mask and plan.saturates:
        mask = torch.empty(mask_shape(y.shape, plan.blocks, 0), dtype=MASK, device=x.device)
    bounds, size = _bounds(plan.bounds, x.device)
    tile = tile or _fit(_forward_tile(m, w.dtype, key is not None), n, size)
    if y.numel():
        with torch.cuda.device_of(x):
            forward_kernel[(triton.cdiv(m, tile.m) * triton.cdiv(n, tile.n),)](
                y=y,
                mask=mask,
                bounds=bounds,
                **_packed(forward_kernel, operands),
                **{"M": m, "N": n, "K": k, "blocks": plan.blocks, "block_size": size},
                **{"first_output": plan.first_output, "first_row": plan.first_row},
                **{
                    "output_bound": plan.output_bound,
                    "output_noise": noise,
                    "weight_noise": plan.weight_noise,
                },
                SPREAD=spread,
                INPUT_STEPS=_steps(plan.input_bits),
                OUTPUT_STEPS=plan.steps,
                UNIT_STEPS=_steps(plan.unit_bits),
                PER_VECTOR=operands.input_range.numel() > 1,
                **tile.arguments(),
            )
    return y, mask


def linear_backward(
    g: Tensor,
    operands: Operands,
    plan: Plan,
    mask: Tensor | None,
    needs: tuple[bool, bool, bool] = (True, True, True),
    *,
    input_tile: Tile | None = None,
    weight_tile: Tile | None = None,
    splits: int | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Straight-through gradients of ``linear``; the weight noise is computed again, not stored.

    Args:
        g: (vectors, outputs), of the output.
        operands: as in ``linear``.
        plan: as in ``linear``.
        mask: what ``linear`` returned: no gradient passes where the ADC clipped. None: it passes
            everywhere.
        needs: whether those of ``x``, ``input_range`` and ``w`` are wanted.
        input_tile: how to cut the work of the first two.
        weight_tile: how to cut that of the last.
        splits: parts of the vectors that are summed apart for the last.

    Returns:
        The three gradients, in the type of ``x``, in float32 and in the type of ``w``; None where
        not wanted. That of a range per vector is None too.
    """
    x, w, r = operands.x, operands.w, _wide(operands.input_range)
    (m, k), n = x.shape, w.shape[0]
    g = g.to(w.dtype).contiguous()
    mask = mask.contiguous() if mask is not None and mask.numel() else None
    steps, per_vector = _steps(plan.input_bits), r.numel() > 1
    gx, sums, gw = None, None, None
    bounds, size = _bounds(plan.bounds, x.device)
    teaches = needs[1] and bool(steps) and not per_vector
    if needs[0] or teaches:
        key, spread = _weight_noise(plan, operands.key)
        tile = input_tile or _fit(_input_tile(m, w.dtype, key is not None), n, size)
        block_tiles = triton.cdiv(size, tile.k)
        programs = triton.cdiv(m, tile.m) * plan.blocks * block_tiles
        gx = torch.empty_like(x, memory_format=torch.contiguous_format) if needs[0] else None
        sums = torch.empty(programs, device=x.device, dtype=torch.float32) if teaches else None
        if programs:
            with torch.cuda.device_of(x):
                input_gradient_kernel[(programs,)](
                    **{"gx": gx, "sums": sums, "g": g, "mask": mask, "bounds": bounds},
                    **_packed(input_gradient_kernel, operands._replace(key=key)),
                    **{
                        "M": m,
                        "N": n,
                        "K": k,
                        "blocks": plan.blocks,
                        "block_size": size,
                        "block_tiles": block_tiles,
                    },
                    **{"first_output": plan.first_output, "first_row": plan.first_row},
                    weight_noise=plan.weight_noise,
                    SPREAD=spread,
                    CLIPPED=steps > 0,
                    PER_VECTOR=per_vector,
                    **tile.arguments(),
                )
    if needs[2]:
        tile = weight_tile or _fit(_weight_tile(n, w.dtype), n, size)
        block_tiles = triton.cdiv(size, tile.k)
        programs = triton.cdiv(n, tile.n) * plan.blocks * block_tiles
        splits = splits or _splits(m, programs)
        share = triton.cdiv(triton.cdiv(m, splits), tile.m) * tile.m
        # a small weight has too few tiles for a GPU: several programs share the vectors, in a fixed
        # order
        parts = torch.empty(
            splits, n, k, device=x.device, dtype=w.dtype if splits == 1 else torch.float32
        )
        if programs:
            with torch.cuda.device_of(x):
                weight_gradient_kernel[(programs, splits)](
                    **{"gw": parts, "g": g, "mask": mask, "bounds": bounds},
                    **_packed(weight_gradient_kernel, operands),
                    **{
                        "M": m,
                        "N": n,
                        "K": k,
                        "blocks": plan.blocks,
                        "block_size": size,
                        "block_tiles": block_tiles,
                    },
                    share=share,
                    INPUT_STEPS=steps,
                    PER_VECTOR=per_vector,
                    **tile.arguments(),
                )
        gw = parts[0] if splits == 1 else parts.sum(0).to(w.dtype)
    g_range = sums.sum().reshape(r.shape) if sums is not None else None
    if needs[1] and not steps and not per_vector:
        g_range = torch.zeros_like(r)
    return gx, g_range, gw


# Tiles by type and shape, chosen by the registers and instructions that the compiler reports; not
# measured on a GPU. No autotuning: it would make the first steps of every shape slow. The noise of
# a weight costs 60 to 70 instructions, which the vectors of a tile share: the tiles of noisy
# products are tall.


def _forward_tile(m: int, dtype: torch.dtype, noisy: bool) -> Tile:
    if dtype == torch.float32:
        return Tile(64, 64, 32) if m > 32 else Tile(16, 64, 32)
    if m <= 64:
        return Tile(16 if m <= 16 else 64, 64, 64)
    return Tile(256, 64, 32, warps=8) if noisy and m > 128 else Tile(128, 128, 64, warps=8)


def _input_tile(m: int, dtype: torch.dtype, noisy: bool) -> Tile:
    if dtype == torch.float32:
        return Tile(64, 32, 64) if m > 32 else Tile(16, 32, 64)
    if m <= 64:
        return Tile(16 if m <= 16 else 64, 64, 64)
    return Tile(256, 32, 64, warps=8) if noisy and m > 128 else Tile(128, 64, 128, warps=8)


def _weight_tile(n: int, dtype: torch.dtype) -> Tile:
    if dtype == torch.float32:
        return Tile(32, 64, 64)
    return Tile(64, 64, 64) if n <= 512 else Tile(64, 128, 128, warps=8)


def _fit(tile: Tile, outputs: int, rows: int) -> Tile:
    """No larger than the matrix needs."""
    # n: a word of the mask
    n, k = max(32, triton.next_power_of_2(outputs)), max(16, triton.next_power_of_2(rows))
    return tile._replace(n=min(tile.n, n), k=min(tile.k, k))


def _splits(m: int, programs: int) -> int:
    """So many that 256 programs run, each with 512 vectors at least."""
    return max(1, min(256 // max(programs, 1), m // 512))


def _steps(bits: int) -> int:
    return levels(bits) if bits else 0


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.float32).contiguous()


def _weight_noise(plan: Plan, key: Tensor | None) -> tuple[Tensor | None, tuple[float, ...] | None]:
    """The key, None without noise, and what a kernel must know of the spread, None where it is
    1.
    """
    if key is None or plan.weight_noise == 0:
        return None, None
    s = plan.spread
    if s == Spread():
        return key, None
    return key, (*s.coefficients, s.base, s.step, float(s.pieces), s.dip, s.rate)


@lru_cache(maxsize=4096)
def _bounds(bounds: tuple[int, ...], device: torch.device) -> tuple[Tensor | None, int]:
    """What a kernel must know of the row blocks: a tensor unless all but the last are equal, and
    the longest's rows.

    Copied to the device once, not in every step.
    """
    sizes = [b - a for a, b in zip(bounds, bounds[1:], strict=False)]
    if all(size == sizes[0] for size in sizes[:-1]) and sizes[-1] <= sizes[0]:
        return None, sizes[0]
    with torch.inference_mode(False):
        return torch.tensor(bounds, dtype=torch.int32, device=device), max(sizes)
