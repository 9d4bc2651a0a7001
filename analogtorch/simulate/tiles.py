"""The tiles of a programmed layer's weights, and the defects there."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from analogtorch.chips import ADC_ERRORS, Chip
from analogtorch.chips.array import Size
from analogtorch.chips.tiling import Section
from analogtorch.conversion import analog_layers
from analogtorch.nn import AnalogLayer
from analogtorch.ops.ir_drop import Block
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.faults import CODES
from analogtorch.simulate.tile_state import adc_errors, tile_state, varies
from analogtorch.simulate.transfer import RowGains, adc_inl, dac_gains
from analogtorch.values.warned import warn

if TYPE_CHECKING:
    from analogtorch.mapping import ChipMapping, Matrix


ROOT = "(root)"
"""What a mapping calls the matrix of a model that is one layer."""
_ANEW = (
    "map the model anew with analogtorch.map_to_chip(model, example). If the new mapping is "
    "refused, too, the model multiplies by the weight otherwise than the layer does, such as by "
    "several weights in one matrix: analogtorch.guard(model, example) says where"
)
"""What to do about a mapping that lacks a layer or cuts it in another way."""


@dataclass(frozen=True)
class TilePart:
    """A part of a row block that lies on one tile in one piece."""

    block: int
    """Row block of the section."""
    outputs: slice
    """Outputs of the section."""
    chip: int
    tile: int
    row: int
    """Row, and ``col`` column, of the tile at which it begins."""
    col: int


def consecutive(layers: Iterable[tuple[str, AnalogLayer]]) -> dict[str, list[list[TilePart]]]:
    """Return one block per tile, tile after tile, on as many chips as needed.

    Layers whose chips have arrays of other sizes are on chips of their own. The result lists the
    tile parts of each section of each layer.
    """
    layers = list(layers)
    free = _numbered(layers)
    return {
        name: [
            [
                TilePart(block, outputs, *next(free[layer.chip.array.size]), 0, 0)
                for block in range(section.blocks)
                for outputs in section.col_blocks
            ]
            for section in layer.sections
        ]
        for name, layer in layers
    }


def _numbered(layers: Iterable[tuple[str, AnalogLayer]]) -> dict[Size, Iterator[tuple[int, int]]]:
    """Return chip and tile of each tile that layers take, tile after tile, by the size of arrays.

    Chips of the first size have the numbers 0, 1, 2; then follow those of the next. Some numbers
    are left out, so that no two tiles draw the same: ``normals`` of ``faults.py`` counts the tiles,
    their rows or their columns from ``number * tiles + tile``.
    """
    needed: Counter[Size] = Counter()
    for _, layer in layers:
        needed[layer.chip.array.size] += sum(s.blocks * len(s.col_blocks) for s in layer.sections)
    chip, ends, found = 0, [0, 0, 0], {}
    for size, count in needed.items():
        rows, columns, tiles = size
        counted = (1, rows, columns)
        position = max(-(-end // each) for end, each in zip(ends, counted, strict=True))
        chip = max(chip, -(-position // tiles))
        found[size] = _tiles(chip, tiles)
        chip += -(-count // tiles)
        ends = [chip * tiles * each for each in counted]
    return found


def _tiles(chip: int, tiles: int) -> Iterator[tuple[int, int]]:
    """Yield each tile of a chip and of those after it, without end."""
    return (divmod(number, tiles) for number in itertools.count(chip * tiles))


def mapped(model: nn.Module, mapping: "ChipMapping") -> dict[str, list[list[TilePart]]]:
    """Return the tiles that ``mapping`` gives the layers of ``model``, per layer and section.

    Of copies of a layer, which ``duplicate`` of ``map_to_chip`` makes, the first counts, with a
    warning.

    Raises:
        ValueError: the mapping belongs to another chip, lacks a layer, or cuts it in another way.
    """
    found = mapped_cells(model, mapping)
    _warn_of_copies(mapping)
    return {name: cells[0] for name, cells in found.items()}


def mapped_cells(model: nn.Module, mapping: "ChipMapping") -> dict[str, list[list[list[TilePart]]]]:
    """Return what ``mapped`` does for each unit cell of a weight, per layer, cell and section.

    Raises:
        ValueError: as ``mapped`` does.
    """
    listed, cells = list(analog_layers(model)), {m.name: m.cells for m in mapping.matrices}
    found = {}
    for name, layer in listed:
        sizes = [
            (chip.array.rows, chip.array.columns, chip.array.tiles)
            for chip in (mapping.chip, layer.chip)
        ]
        if sizes[0] != sizes[1]:
            texts = [f"{tiles} tiles of {rows}x{cols}" for rows, cols, tiles in sizes]
            raise ValueError(
                f"program: the mapping is for chip {mapping.chip.name} ({texts[0]}), "
                f"layer {name!r} was converted for {layer.chip.name} ({texts[1]}); "
                "map the model onto the chip that it was converted for"
            )
        matrices = _matrices(name, layer, listed, model, mapping)
        found[name] = [
            [_section(name, matrices, section, mapping, cell) for section in layer.sections]
            for cell in range(cells[matrices[0][0]])
        ]
    return found


def _warn_of_copies(mapping: "ChipMapping") -> None:
    """Warn of what is not simulated: copies of a matrix beyond the first."""
    cells = {matrix.name: matrix.cells for matrix in mapping.matrices}
    counts = {name: copies // cells[name] for name, copies in mapping.copies.items()}
    several = ", ".join(f"{name!r} {n} times" for name, n in counts.items() if n > 1)
    if several:
        warn(
            f"program: the mapping holds {several}, and the first copy alone is simulated: errors, "
            "defects, the yield map, writes and the cost of recalibration are those of one copy; "
            "map without duplicate for a chip that has no others"
        )


def _matrices(
    name: str,
    layer: AnalogLayer,
    layers: list[tuple[str, AnalogLayer]],
    model: nn.Module,
    mapping: "ChipMapping",
) -> list[tuple[str, int]]:
    """Return the matrices that make up the layer, and the output at which each begins.

    Each layer has its own, under its name, also where two hold one Parameter. In a mapping of the
    digital model or of an earlier version it may have that of a digital module with the same
    weight, such as the embedding of a tied head. A weight that is also applied transposed has a
    second matrix.
    """
    from analogtorch.graph.parameters import named_parameters  # only for a mapping

    tied = [other.matrix_name(n) or ROOT for n, other in layers if other.weight is layer.weight]
    same = [layer.matrix_name(name) or ROOT]
    if same == tied[:1]:
        named = named_parameters(model)
        owners = (entry.layer for entry in named if entry.parameter is layer.weight)
        same += [each for each in owners if each not in tied]
    cols, *rows = layer.matrix_shape
    candidates = [m for m in mapping.matrices if m.outputs is None and m.form in (0, 1)]
    whole = [m for n in same for m in candidates if m.layer == n]
    if whole:
        fitting = (m for m in whole if (m.cols, m.rows) == (cols, math.prod(rows)))
        return [(next(fitting, whole[0]).name, 0)]
    for each in same:
        if parts := _parts(each, mapping.matrices, cols):
            return parts
    raise ValueError(
        f"program: the mapping has no matrix of layer {name!r}: it was excluded, or the "
        "mapping is of another model. Leave the layer digital with "
        f"analogtorch.convert(model, chip, exclude=[{name!r}]), or {_ANEW}"
    )


def _parts(layer: str, matrices: Iterable["Matrix"], outputs: int) -> list[tuple[str, int]]:
    """Return the parts of the layer if they cover its outputs without gap or overlap, else nothing.

    The mapping of an attention consists of such parts.
    """
    spans = sorted(
        (*m.outputs, m.name) for m in matrices if m.layer == layer and m.outputs and m.form == 0
    )
    ends = [0, *(end for _, end, _ in spans)]
    if [start for start, _, _ in spans] != ends[:-1] or ends[-1] != outputs:
        return []
    return [(name, start) for start, _, name in spans]


def _section(
    name: str,
    matrices: list[tuple[str, int]],
    section: Section,
    mapping: "ChipMapping",
    copy: int,
) -> list[TilePart]:
    starts = {section.first_row + start: block for block, start in enumerate(section.bounds[:-1])}
    first, last = section.adcs.start, section.adcs.stop
    parts, covered = [], 0
    for matrix, begin in matrices:
        for p in mapping.matrix_blocks(matrix):
            col = begin * section.slicing.columns + p.block.col
            if p.block.copy != copy or not (first <= col < last) or p.block.row not in starts:
                continue
            outputs = slice(col - first, col - first + p.block.cols)
            parts.append(TilePart(starts[p.block.row], outputs, p.chip, p.tile, p.row, p.col))
            covered += p.block.rows * p.block.cols
    if covered != section.cells:
        raise ValueError(
            f"program: the mapping does not place layer {name!r} as the model computes it "
            f"({covered:,} of {section.cells:,} cells agree); {_ANEW}"
        )
    return parts


@dataclass(frozen=True, kw_only=True)
class State:
    """The faults of a section's devices and columns, and the errors of its ADCs."""

    faults: Tensor | None
    """Faults of devices, (devices, outputs, rows) uint8, by code; None: all work."""
    levels: Tensor | None
    """Conductance of devices that are stuck on, (devices, outputs, rows), in units of ``g_max``;
    None: 1 everywhere."""
    columns: Tensor
    """Faults of columns, (row blocks, outputs) uint8, by code."""
    errors: Tensor
    """(kinds, row blocks, outputs), in the order of ``analogtorch.chips.ADC_ERRORS``; columns
    without output have no errors."""
    inl: Tensor | None = None
    """INL of the ADCs at their code transitions, in LSB, (row blocks, outputs, 2 levels), or 1 in
    place of the first two if all have the same; None: 0."""
    row_gains: RowGains | None = None
    """Gains of the DACs; None: 1."""
    defects: Defects | None = None
    """The defects that the faults were drawn from."""

    @property
    def silent(self) -> Tensor:
        """(row blocks, outputs) bool: the columns whose output is 0."""
        return (self.columns == CODES["columns"]) | (self.columns == CODES["tiles"])


def state(
    section: Section, parts: list[TilePart], chip: Chip, defects: Defects | None, seed: int
) -> State:
    """Return the state of a section on these parts of tiles of the chips made from ``seed``."""
    outputs, blocks = section.shape[0], section.blocks
    ideal = torch.tensor([error.ideal for error in ADC_ERRORS], dtype=torch.float32, device="cpu")
    ideal = ideal.view(-1, 1, 1)
    errors = ideal.expand(-1, blocks, outputs).clone()
    columns = torch.zeros(blocks, outputs, dtype=torch.uint8, device="cpu")
    inl, driven = _inl(section, parts, chip, seed), _row_gains(section, parts, chip, seed)
    if defects is None or not defects.present():  # the cells of a whole tile take long to draw
        for part in parts if varies(chip) else ():
            drawn = adc_errors(chip, seed, part.chip, part.tile)
            errors[:, part.block, part.outputs] = drawn[:, _columns(part)]
        return State(
            faults=None, levels=None, columns=columns, errors=errors, inl=inl, row_gains=driven
        )
    size = (chip.cell.devices, outputs, section.rows)
    faults, levels = torch.zeros(size, dtype=torch.uint8, device="cpu"), None
    for part in parts:
        tile = tile_state(chip, defects, seed, part.chip, part.tile)
        start, stop = _rows(section, part)
        where = (slice(None), slice(part.row, part.row + stop - start), _columns(part))
        faults[:, part.outputs, start:stop] = tile.faults[where].mT
        if tile.levels is not None:
            levels = (
                torch.ones(size, dtype=torch.float32, device="cpu") if levels is None else levels
            )
            levels[:, part.outputs, start:stop] = tile.levels[where].mT
        columns[part.block, part.outputs] = tile.column_faults[_columns(part)]
        errors[:, part.block, part.outputs] = tile.errors[:, _columns(part)]
    found = State(
        faults=faults, levels=levels, columns=columns, errors=errors, inl=inl, row_gains=driven
    )
    errors = torch.where(found.silent, ideal, errors)
    return replace(found, errors=errors, defects=defects)


def _inl(section: Section, parts: list[TilePart], chip: Chip, seed: int) -> Tensor | None:
    """Return ``State.inl``."""
    found: Tensor | None = None
    for part in parts if chip.adc.curved else ():
        drawn = adc_inl(chip, seed, part.chip, part.tile)
        assert drawn is not None
        if len(drawn) == 1:
            return drawn.unsqueeze(0)
        if found is None:
            found = drawn.new_zeros(section.blocks, section.shape[0], drawn.shape[1])
        found[part.block, part.outputs] = drawn[_columns(part)]
    return found


def _row_gains(section: Section, parts: list[TilePart], chip: Chip, seed: int) -> RowGains | None:
    """Return ``State.row_gains``."""
    if chip.dac.gain_std == 0:
        return None
    found = []
    for part in parts:
        start, stop = _rows(section, part)
        gains = dac_gains(chip, seed, part.chip, part.tile)
        gains = gains[part.row : part.row + stop - start]
        found.append((part.outputs, slice(start, stop), gains))
    return RowGains(tuple(found))


def blocks(section: Section, parts: list[TilePart]) -> list[Block]:
    """Return the parts of a section with their positions on their tiles."""
    return [Block(s.outputs, slice(*_rows(section, s)), s.row, s.col) for s in parts]


def _columns(part: TilePart) -> slice:
    """Return the columns of the tile that the part takes."""
    return slice(part.col, part.col + part.outputs.stop - part.outputs.start)


def _rows(section: Section, part: TilePart) -> tuple[int, int]:
    return section.bounds[part.block], section.bounds[part.block + 1]
