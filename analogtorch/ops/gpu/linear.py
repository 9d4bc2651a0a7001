"""The kernels of linear layers, launched: forward, and straight-through gradients."""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from analogtorch.chips.converters import levels
from analogtorch.devices import Spread
from analogtorch.ops.gpu.loading import triton
from analogtorch.ops.gpu.tiles import Tile, fit, forward_tile, input_tile, shares, weight_tile
from analogtorch.ops.mask import MASK, mask_shape
from analogtorch.ops.operands import Kind, Operands, of_kind, vector_numbers
from analogtorch.ops.plan import Plan

if triton is not None:
    from analogtorch.ops.gpu.kernels import (
        forward_kernel,
        input_gradient_kernel,
        weight_gradient_kernel,
    )

_FLOAT32 = {"input_range", *of_kind(Kind.ADC, Kind.ADC_ERROR)}
"""Operands that kernels read in float32, whatever the type of the product."""


def linear(
    operands: Operands, plan: Plan, want_mask: bool = False, *, tile: Tile | None = None
) -> tuple[Tensor, Tensor | None]:
    """Compute the linear analog product in one kernel, which stores no intermediate result.

    Args:
        operands: ``x`` (vectors, rows); ``input_range`` >= 0 of shape (1,) or (vectors,); ``w`` in
            float16, bfloat16 or float32, the type of the products, whose sums are float32; and
            ``scale``. The others are optional, except keys if the plan has noise.
        plan: the plan of the matrix.
        want_mask: if True, the mask of the clipped partial sums is computed.
        tile: the tile of the kernel; the noise does not depend on it.

    Returns:
        The output (vectors, outputs) in ``w``'s type, and the mask of ``ops/mask.py``: None if not
        wanted or without an ADC.
    """
    x, w = operands.x, operands.w
    m, n = x.shape[0], w.shape[0]
    if plan.noisy_sums and operands.output_keys is None:
        raise ValueError("output_keys must be given: the plan has noise of partial sums")
    key, spread = _weight_noise(plan, operands.key)
    operands = operands._replace(key=key)
    operands = operands if plan.noisy_sums else operands._replace(output_keys=None)
    operands = operands if plan.read_noise > 0 else operands._replace(read_variances=None)
    operands = operands if plan.unit_bits else operands._replace(output_ranges=None)
    if operands.samples is not None:
        operands = operands._replace(samples=vector_numbers(operands.samples, m))
    y = torch.empty(m, n, dtype=w.dtype, device=x.device)
    mask = None
    if want_mask and plan.saturates:
        mask = torch.empty(mask_shape(y.shape, plan.blocks, 0), dtype=MASK, device=x.device)
    rows = _Rows.of(plan, x.device)
    tile = tile or fit(forward_tile(m, w.dtype, key is not None), n, rows.longest)
    if y.numel():
        with torch.cuda.device_of(x):
            forward_kernel[(triton.cdiv(m, tile.m) * triton.cdiv(n, tile.n),)](
                y=y,
                mask=mask,
                **_packed(forward_kernel, operands),
                **_sizes(operands, plan, rows),
                first_output=plan.first_output,
                first_row=plan.first_row,
                adc_range=plan.adc_range,
                output_noise=plan.output_noise,
                read_noise=plan.read_noise,
                weight_noise=plan.weight_noise,
                SPREAD=spread,
                INPUT_STEPS=levels(plan.input_bits),
                OUTPUT_STEPS=plan.steps,
                UNIT_STEPS=levels(plan.unit_bits),
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
    """Return straight-through gradients of ``linear``; the weight noise is computed again.

    Args:
        g: gradient of the output, (vectors, outputs).
        operands: see ``linear``.
        plan: see ``linear``.
        mask: the mask of ``linear``: no gradient passes where the ADC clipped. None: it passes
            everywhere.
        needs: whether the gradients of ``x``, ``input_range`` and ``w`` are wanted.
        input_tile: the tile of the kernel of the first two.
        weight_tile: the tile of the kernel of the last.
        splits: parts of the vectors that are summed separately for the last.

    Returns:
        The three gradients, in the type of ``x``, in float32 and in the type of ``w``; None if not
        wanted. The gradient of a range per vector is None too.
    """
    r, steps = _wide(operands.input_range), levels(plan.input_bits)
    per_vector = r.numel() > 1
    g = g.to(operands.w.dtype).contiguous()
    mask = mask.contiguous() if mask is not None and mask.numel() else None
    gx, sums, gw = None, None, None
    learns = needs[1] and bool(steps) and not per_vector
    if needs[0] or learns:
        gx, sums = _input_gradient(g, operands, plan, mask, input_tile, (needs[0], learns))
    if needs[2]:
        gw = _weight_gradient(g, operands, plan, mask, weight_tile, splits)
    g_range = sums.sum().reshape(r.shape) if sums is not None else None
    if needs[1] and not steps and not per_vector:
        g_range = torch.zeros_like(r)
    return gx, g_range, gw


def _input_gradient(
    g: Tensor,
    operands: Operands,
    plan: Plan,
    mask: Tensor | None,
    tile: Tile | None,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradient of ``x``, and parts of that of the input range, as ``needs`` asks."""
    x, n, m = operands.x, operands.w.shape[0], operands.x.shape[0]
    key, spread = _weight_noise(plan, operands.key)
    rows = _Rows.of(plan, x.device)
    tile = tile or fit(input_tile(m, operands.w.dtype, key is not None), n, rows.longest)
    block_tiles = triton.cdiv(rows.longest, tile.k)
    programs = triton.cdiv(m, tile.m) * plan.blocks * block_tiles
    gx = torch.empty_like(x, memory_format=torch.contiguous_format) if needs[0] else None
    sums = torch.empty(programs, device=x.device, dtype=torch.float32) if needs[1] else None
    if programs:
        with torch.cuda.device_of(x):
            input_gradient_kernel[(programs,)](
                **{"gx": gx, "sums": sums, "g": g, "mask": mask},
                **_packed(input_gradient_kernel, operands._replace(key=key)),
                **_sizes(operands, plan, rows),
                block_tiles=block_tiles,
                first_output=plan.first_output,
                first_row=plan.first_row,
                weight_noise=plan.weight_noise,
                SPREAD=spread,
                CLIPPED=plan.input_bits > 0,
                PER_VECTOR=operands.input_range.numel() > 1,
                **tile.arguments(),
            )
    return gx, sums


def _weight_gradient(
    g: Tensor,
    operands: Operands,
    plan: Plan,
    mask: Tensor | None,
    tile: Tile | None,
    splits: int | None,
) -> Tensor:
    """Return the gradient of ``w``.

    A small weight has too few tiles for a GPU: several programs share the vectors, in a fixed
    order.
    """
    x, (m, k), (n, _) = operands.x, operands.x.shape, operands.w.shape
    rows = _Rows.of(plan, x.device)
    tile = tile or fit(weight_tile(n, operands.w.dtype), n, rows.longest)
    block_tiles = triton.cdiv(rows.longest, tile.k)
    programs = triton.cdiv(n, tile.n) * plan.blocks * block_tiles
    splits = splits or shares(m, programs)
    dtype = operands.w.dtype if splits == 1 else torch.float32
    parts = torch.empty(splits, n, k, device=x.device, dtype=dtype)
    if programs:
        with torch.cuda.device_of(x):
            weight_gradient_kernel[(programs, splits)](
                **{"gw": parts, "g": g, "mask": mask},
                **_packed(weight_gradient_kernel, operands),
                **_sizes(operands, plan, rows),
                block_tiles=block_tiles,
                share=triton.cdiv(triton.cdiv(m, splits), tile.m) * tile.m,
                INPUT_STEPS=levels(plan.input_bits),
                PER_VECTOR=operands.input_range.numel() > 1,
                **tile.arguments(),
            )
    return parts[0] if splits == 1 else parts.sum(0).to(operands.w.dtype)


def _packed(kernel: Any, operands: Operands) -> dict[str, Tensor | None]:
    """Return the operands that are arguments of the kernel, by name, as it reads them."""
    names = [name for name in operands._fields if name in kernel.arg_names]
    given = {name: getattr(operands, name) for name in names}
    return {
        name: None if t is None else _wide(t) if name in _FLOAT32 else t.contiguous()
        for name, t in given.items()
    }


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.float32).contiguous()


def _weight_noise(plan: Plan, key: Tensor | None) -> tuple[Tensor | None, tuple[float, ...] | None]:
    """Return the key, None without noise, and the numbers of the spread, None if it is 1."""
    if key is None or plan.weight_noise == 0:
        return None, None
    s = plan.spread
    if s == Spread():
        return key, None
    return key, (*s.coefficients, s.base, s.step, float(s.pieces), s.dip, s.rate)


class _Rows(NamedTuple):
    """The row blocks for a kernel."""

    bounds: Tensor | None
    """Bounds of the row blocks; None: all but the last are equal."""
    longest: int
    """Rows of the longest row block."""

    @classmethod
    def of(cls, plan: Plan, device: torch.device) -> "_Rows":
        """Return those of ``plan``, copied to the device once and not in every step."""
        return _rows(plan.bounds, device)


@lru_cache(maxsize=4096)
def _rows(bounds: tuple[int, ...], device: torch.device) -> _Rows:
    sizes = [b - a for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    if all(size == sizes[0] for size in sizes[:-1]) and sizes[-1] <= sizes[0]:
        return _Rows(None, sizes[0])
    with torch.inference_mode(False):
        return _Rows(torch.tensor(bounds, dtype=torch.int32, device=device), max(sizes))


def _sizes(operands: Operands, plan: Plan, rows: _Rows) -> dict[str, Any]:
    """Return the arguments that every kernel of a product has."""
    (m, k), n = operands.x.shape, operands.w.shape[0]
    numbers = {"M": m, "N": n, "K": k, "blocks": plan.blocks, "block_size": rows.longest}
    return {"bounds": rows.bounds, **numbers}
