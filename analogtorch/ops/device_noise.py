"""Weights of a training step as the devices of their cells hold them, as an operator.

It computes what the methods of the cell and of its device do, in one pass over the weights: their
formulas (``ops/formula.py``) run on a few hundred cells at a time, with the normals that they
need. Torch's functions take some eighty passes.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from analogtorch.chips.tiling import Section
from analogtorch.devices import Cell, Device, DifferentialPair
from analogtorch.ops.drift import compensation
from analogtorch.ops.formula import Formula, record
from analogtorch.ops.generator import Noise, fold, stream
from analogtorch.ops.library import define
from analogtorch.ops.native import devices as native
from analogtorch.ops.noise import normal
from analogtorch.ops.physics import block_scales, over_rows, relative

_STREAMS = tuple(stream(kind) for kind in (Noise.PROGRAMMING, Noise.DRIFT, Noise.READ))
_MOMENT = stream("moment")


@dataclass(frozen=True, kw_only=True)
class DeviceNoise:
    """The noise of the devices of a cell at one or several moments, as the operator takes it."""

    integers: tuple[int, ...]
    """For each moment: pairs; whether they are filled in sequence; whether time passes before the
    read; whether columns are calibrated. Then of the formula of a device that holds the weight, and
    of an empty one: see ``Formula.flat``."""
    numbers: tuple[float, ...]
    """For each moment ``g_min``, the span up to ``g_max``, ``g_total``; then the numbers of the
    formulas."""
    counts: tuple[int, ...]
    """For each moment, the number of its integers, and of its numbers."""


def device_noise_of(
    cell: Cell, moments: tuple[float | None, ...], calibrated: bool
) -> DeviceNoise | None:
    """Return the noise of a cell's devices that are read at a moment, for ``device_noise``.

    None if the operator does not know it: the cell is no ``DifferentialPair``, or a method of the
    device uses a function that formulas do not have.

    Args:
        cell: the unit cell.
        moments: times after programming, s, of which each draw takes one; None: right after it,
            without a read.
        calibrated: whether each column has a factor that fits it after programming.
    """
    if type(cell) is not DifferentialPair:
        return None
    found = []
    for t in moments:
        try:
            at_once = _found(cell, t, calibrated)
        except TypeError:  # a device of one's own that cannot be hashed
            at_once = _found.__wrapped__(cell, t, calibrated)
        if at_once is None:
            return None
        found.append(at_once)
    return DeviceNoise(
        integers=tuple(itertools.chain(*(integers for integers, _ in found))),
        numbers=tuple(itertools.chain(*(numbers for _, numbers in found))),
        counts=tuple(itertools.chain(*((len(i), len(n)) for i, n in found))),
    )


@lru_cache(maxsize=256)
def _found(
    cell: DifferentialPair, t: float | None, calibrated: bool
) -> tuple[tuple[int, ...], tuple[float, ...]] | None:
    """Return integers and numbers of one moment."""
    device = cell.device
    full, empty = (_formula(device, t, g) for g in (None, device.g_min))
    if full is None or empty is None:
        return None
    integers = cell.devices_per_polarity, cell.split == "sequential", t is not None, calibrated
    numbers = device.g_min, device.g_max - device.g_min, cell.g_total
    parts = full.flat(), empty.flat()
    return (
        (*map(int, integers), *itertools.chain(*(part[0] for part in parts))),
        (*map(float, numbers), *itertools.chain(*(part[1] for part in parts))),
    )


def choice(key: Tensor, count: int) -> Tensor:
    """Return the number of the moment that a key draws of ``count``: () int64."""
    return fold(key, _MOMENT).remainder(count)


def _formula(device: Device, t: float | None, target: float | None) -> Formula | None:
    """Return the formula of a device that is programmed to ``target``; None: to any.

    Its arguments are the target and the normals of programming, drift and read, its results the
    conductances after programming and at ``t``.
    """

    def life(g: Tensor, *z: Tensor) -> tuple[Tensor, Tensor]:
        programmed = device.program(g, z[0])
        if t is None:
            return programmed, programmed
        drifted = device.drift(programmed, device.drift_coefficient(g, z[1]), t)
        return programmed, device.read(programmed, drifted, t, z[2])

    return record(life, (target, None, None, None))


def device_noise(
    weight: Tensor, key: Tensor, section: Section, strength: float, noise: DeviceNoise
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights of one training step, their scale, and the drift compensation.

    See ``nn.drawn.drawn``, of which this is the noise ``device`` of cells that none fails. The
    gradient of a weight is that of its value after the compensation.

    Args:
        weight: the weight of the section, float32, of its shape.
        key: key of the weight noise, () int64.
        section: the section.
        strength: multiple of each weight's deviation.
        noise: from ``device_noise_of``.
    """
    together = (*(block.start for block in section.col_blocks), section.shape[0])
    where = section.first_output, section.first_row, section.groups
    return _device_noise(
        weight,
        key,
        section.bounds,
        section.columns,
        together,
        where,
        strength,
        noise.integers,
        noise.numbers,
        noise.counts,
    )


Sizes = Sequence[int]


def _compute(weight: Tensor, key: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    *where, integers, numbers, counts = others
    if len(counts) > 2:
        number = int(choice(key, len(counts) // 2).item())
        (i, n), (p, q) = (sum(counts[k : 2 * number : 2]) for k in (0, 1)), counts[2 * number :][:2]
        integers, numbers = integers[i : i + p], numbers[n : n + q]
    given: tuple[Any, ...] = (weight, key, *where, integers, numbers)
    return (native.device_noise if native.takes(weight) else _by_torch)(*given)


def _by_torch(
    weight: Tensor,
    key: Tensor,
    bounds: Sizes,
    columns: Sizes,
    together: Sizes,
    where: Sizes,
    strength: float,
    integers: Sizes,
    numbers: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:
    (pairs, sequential, drifts, calibrated), (g_min, span, g_total) = integers[:4], numbers[:3]
    full_device, rest = Formula.parse(integers[4:], numbers[3:])
    empty_device, _ = Formula.parse(*rest)
    flat = weight.detach().flatten(1)
    scale = block_scales(flat, bounds, columns)
    full = over_rows(scale, bounds)
    w = relative(flat, full).clamp(-1, 1)
    then, now = torch.zeros_like(w), torch.zeros_like(w)
    for pair in range(pairs):
        share = (w.abs() * pairs - pair).clamp(0, 1) if sequential else w.abs()
        z = [[_normals(key, s, sign * pairs + pair, where, w) for s in _STREAMS] for sign in (0, 1)]
        held = [torch.where(w < 0, minus, plus) for plus, minus in zip(*z, strict=True)]
        other = [torch.where(w < 0, plus, minus) for plus, minus in zip(*z, strict=True)]
        a = full_device(share * span + g_min, *held)
        b = empty_device(torch.full_like(w, g_min), *other)
        then, now = then + (a[0] - b[0]), now + (a[1] - b[1])
    unit = torch.where(w < 0, -1.0, 1.0) / g_total
    then, now = then * unit, now * unit

    def block_sums(sums: Tensor) -> Tensor:
        runs = [sums[c:d].sum().expand(d - c) for c, d in itertools.pairwise(together)]
        return torch.cat(runs)

    gains = torch.empty_like(scale)
    for block, (first, last) in enumerate(itertools.pairwise(bounds)):
        target, before, after = (each[:, first:last] for each in (w, then, now))
        late = after if drifts else None
        gains[block] = compensation(target, before, late, bool(calibrated), block_sums)
    found = flat * (1 - strength) + full * strength * over_rows(gains, bounds) * now
    gains = gains**strength
    return (found / over_rows(gains, bounds)).view(weight.shape), scale, gains


def _normals(key: Tensor, kind: int, device: int, where: Sizes, like: Tensor) -> Tensor:
    """Return the normals of one kind for one device of each cell, of the shape of ``like``."""
    first_output, first_row, groups = where
    outputs, rows = like.shape
    numbers = torch.arange(outputs, device=like.device)
    firsts = first_row + numbers // (outputs // groups) * rows
    return normal(fold(fold(key, kind), device), first_output + numbers, firsts, rows)


def _fake(weight: Tensor, key: Tensor, bounds: Sizes, *others: Any) -> tuple[Tensor, ...]:
    scale = weight.new_empty(len(bounds) - 1, weight.shape[0])
    like = torch.empty_like(weight, memory_format=torch.contiguous_format)
    return like, scale, torch.empty_like(scale)


def _save(ctx: Any, inputs: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
    _, scale, gain = outputs
    ctx.mark_non_differentiable(scale, gain)
    ctx.save_for_backward(gain)
    ctx.bounds = inputs[2]


def _gradient(
    ctx: Any, saved: tuple[Tensor, ...], gradient: Tensor, *others: Any
) -> tuple[Tensor | None, ...]:
    (gain,) = saved
    if len(ctx.bounds) > 2:
        gain = over_rows(gain, ctx.bounds).view(gradient.shape)
    else:
        gain = gain.view(-1, *[1] * (gradient.dim() - 1))
    return gradient / gain, *[None] * 9


_device_noise = define(
    "device_noise(Tensor weight, Tensor key, int[] bounds, int[] columns, int[] together, "
    "int[] where, float strength, int[] integers, float[] numbers, int[] counts) "
    "-> (Tensor, Tensor, Tensor)",
    _compute,
    _fake,
    save=_save,
    backward=_gradient,
)
