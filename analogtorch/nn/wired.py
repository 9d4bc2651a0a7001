"""The weights of a training step as they act behind the resistance of the tile's wires."""

import dataclasses
import functools

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


def wired(
    weight: Tensor, known: dict[str, Tensor], section: Section, chip: Chip, fraction: float
) -> tuple[Tensor, dict[str, Tensor], InputDrop | None]:
    """Return the weights behind the wires of ``chip``, operands for ``mvm``, and its input drop.

    Where the drop depends on the inputs, the weights are those before the wires.

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
    """
    scale, sums = known.get("scale"), None
    flat, wires = weight.flatten(1), _scaled(chip.wires, fraction)
    in_kernel = wires.model != "standard" and takes(flat, wires, chip.cell)
    if scale is None and not in_kernel:
        scale = block_scales(weight, section.bounds, section.columns)
    blocks, load, drop = _blocks(section), unit_load(wires, chip.cell), None
    if wires.model == "standard":
        assert scale is not None
        full = over_rows(scale, section.bounds)
        left = full * full_inputs(relative(flat, full), blocks, load)
        drop = InputDrop("standard", parabola(flat, blocks), load=load)
    elif in_kernel:
        scale = None if scale is None else scale.expand(-1, len(flat))
        bounds, shared = section.bounds, section.columns
        left, scale, sums = column_drop(flat, scale, bounds, shared, wires, chip.cell, chip.array)
    else:
        assert scale is not None
        full = over_rows(scale, section.bounds)
        r = relative(flat, full)
        plus, minus = r.clamp_min(0), (-r).clamp_min(0)
        if chip.cell.device.g_min:  # the conductance of an empty cell
            empty = chip.cell.negatives(chip.cell.targets(r.new_zeros(())))
            plus, minus = plus + empty, minus + empty
        physics = wires, chip.cell, chip.array
        plus, minus = behind_wires(plus, minus, blocks, *physics, TRAINING_TERMS)
        left = full * (plus - minus)
    known = {**known, "scale": scale}
    if chip.periphery.column_calibration:
        sums = _magnitudes(flat.detach(), left.detach(), section) if sums is None else sums
        column = ratio(*sums)
        known["gain"] = column * known["gain"] if "gain" in known else column
    if wires.model == "pulses":
        drop = InputDrop("pulses", flat - left)
    if drop is None:
        return left.view(section.shape).to(weight.dtype), known, None
    lost = drop.lost.view(section.shape).to(weight.dtype)
    return weight, known, drop._replace(lost=lost)


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
