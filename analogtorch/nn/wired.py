"""The weights of a training step as they act behind the resistance of the tile's wires."""

import dataclasses
import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from analogtorch.chips import Chip, Wires
from analogtorch.chips.tiling import Section
from analogtorch.ops import block_scales, over_rows
from analogtorch.ops.column_drop import column_drop, takes
from analogtorch.ops.drift import magnitude_sums, ratio
from analogtorch.ops.input_drop import InputDrop, full_inputs, parabola, unit_load
from analogtorch.ops.ir_drop import TRAINING_TERMS, Block, behind_wires
from analogtorch.ops.physics import relative


class Wired(NamedTuple):
    """The weights of a section behind wires; before them, where the drop depends on the inputs."""

    weight: Tensor
    known: dict[str, Tensor]
    """Operands for ``mvm`` by name: ``scale``, and ``gain`` if there is one."""
    negatives: Tensor | None
    """Their part in the negative polarity, in the shape of the weights; None: each weight has one
    polarity, or nothing asks for it."""
    drop: InputDrop | None
    """The drop that depends on the inputs."""


def wired(
    weight: Tensor,
    known: dict[str, Tensor],
    section: Section,
    chip: Chip,
    fraction: float,
    apart: bool,
) -> Wired:
    """Return the weights behind the wires of ``chip``.

    Blocks are assumed to lie at row 0 of a tile, and a weight in the cells of its sign alone, with
    the other cells empty. Gradients flow through the drop. A chip that calibrates its columns
    corrects the mean drop of each, here by the magnitudes of its weights. Noise that a kernel draws
    is added behind the wires, which do not reduce it.

    Args:
        weight: the weight of the section, of its shape, with the noise that is drawn in plain
            torch.
        known: ``scale`` and ``gain`` of those weights, if known.
        section: the section, for the positions of its blocks.
        chip: the chip, for its wires and its cells.
        fraction: share of the resistances, in [0, 1].
        apart: whether the part in the negative polarity is asked for.
    """
    scale, sums = known.get("scale"), None
    flat, wires = weight.flatten(1), _scaled(chip.wires, fraction)
    in_kernel = wires.model != "standard" and takes(flat, wires, chip.cell)
    if scale is None and not in_kernel:
        scale = block_scales(weight, section.bounds, section.columns)
    blocks, load, drop = _blocks(section), unit_load(wires, chip.cell), None
    minus_before: Tensor | None = None  # by the negative polarity, before the wires
    minus_lost: Tensor | None = None  # of that
    if in_kernel:
        scale = None if scale is None else scale.expand(-1, len(flat))
        bounds, shared = section.bounds, section.columns
        left, scale, sums = column_drop(flat, scale, bounds, shared, wires, chip.cell, chip.array)
    else:
        assert scale is not None
        full = over_rows(scale, section.bounds)
        # a scale of 0 would be a factor of the gradient, and a block of zeros stay one
        unit = full.masked_fill(full == 0, 1.0)
        r = relative(flat, unit)
        plus, minus = _polarities(r, chip)
        minus_before = full * minus if apart else None
        if wires.model == "standard":
            left = unit * full_inputs(r, blocks, load)
            minus_lost = None if minus_before is None else parabola(minus_before, blocks)
            drop = InputDrop("standard", parabola(flat, blocks), minus_lost, load)
        else:
            physics = wires, chip.cell, chip.array
            plus, minus = behind_wires(plus, minus, blocks, *physics, TRAINING_TERMS)
            left = unit * (plus - minus)
            left = torch.where(full == 0, left - left.detach(), left)  # empty cells add nothing
            minus_lost = None if minus_before is None else minus_before - full * minus
    known = {**known, "scale": scale}
    if chip.periphery.column_calibration:
        sums = _magnitudes(flat.detach(), left.detach(), section) if sums is None else sums
        column = ratio(*sums)
        known["gain"] = column * known["gain"] if "gain" in known else column
    if wires.model == "pulses":
        drop = InputDrop("pulses", flat - left, minus_lost)
    if drop is None and minus_before is not None and minus_lost is not None:
        minus_before = minus_before - minus_lost

    def shaped(t: Tensor | None) -> Any:
        return None if t is None else t.view(section.shape).to(weight.dtype)

    if drop is None:
        return Wired(shaped(left), known, shaped(minus_before), None)
    drop = drop._replace(lost=shaped(drop.lost), negatives=shaped(drop.negatives))
    return Wired(weight, known, shaped(minus_before), drop)


def _polarities(r: Tensor, chip: Chip) -> tuple[Tensor, Tensor]:
    """Return both polarities, >= 0, of weights in units of the largest: one of them is empty."""
    # where a weight is 0 one of them has its gradient: clamps would give it to both, and lose it
    plus, minus = torch.where(r >= 0, r, 0.0), torch.where(r < 0, -r, 0.0)
    if not chip.cell.device.g_min:
        return plus, minus
    empty = chip.cell.negatives(chip.cell.targets(r.new_zeros(())))  # which conducts all the same
    return plus + empty, minus + empty


def _blocks(section: Section) -> list[Block]:
    return [
        Block(outputs, slice(a, b))
        for a, b in zip(section.bounds[:-1], section.bounds[1:], strict=True)
        for outputs in section.col_blocks
    ]


def _magnitudes(ideal: Tensor, behind: Tensor, section: Section) -> Tensor:
    """Return ``column_drop.Behind.sums``, whose ratio corrects the mean drop of each column."""
    parts = zip(section.bounds[:-1], section.bounds[1:], strict=True)
    sums = [torch.stack(magnitude_sums(ideal[:, a:b], behind[:, a:b])) for a, b in parts]
    return torch.stack(sums, 1)


@functools.lru_cache(maxsize=64)
def _scaled(wires: Wires, fraction: float) -> Wires:
    return dataclasses.replace(
        wires,
        row_resistance=fraction * wires.row_resistance,
        column_resistance=fraction * wires.column_resistance,
    )
