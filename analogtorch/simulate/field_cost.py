"""What a read of the drift compensation costs, and the MVMs of the batches of a recovery."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from analogtorch.calibration.passes import run
from analogtorch.chips.tiling import Section
from analogtorch.chips.unit_cells import unit_cells
from analogtorch.conversion import analog_layers
from analogtorch.conversion.restored import evaluating
from analogtorch.conversion.unread import quiet
from analogtorch.cost_model.recalibration import ReadCost, Reads, read_cost
from analogtorch.cost_model.use import use_of
from analogtorch.graph.types import Matrix
from analogtorch.mapping.types import Block
from analogtorch.nn import AnalogLayer, Tap, tapped
from analogtorch.ops import Plan
from analogtorch.ops.operands import Operands
from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.readout import compensation_mvms
from analogtorch.simulate.recovery import Recovery
from analogtorch.simulate.tiles import TilePart, mapped_cells

if TYPE_CHECKING:
    from analogtorch.mapping import ChipMapping


def recalibration_cost(
    layers: Mapping[str, AnalogLayer],
    parts: Mapping[str, list[list[TilePart]]],
    compensation: Compensation,
    more: Iterable[Reads] = (),
) -> ReadCost:
    """Return the cost of a read of all layers; see ``ProgrammedChip.recalibration_cost``.

    ``parts`` are those of all unit cells; ``more`` are MVMs that come on top.
    """
    reads = (
        read for name, layer in layers.items() for read in _reads(layer, parts[name], compensation)
    )
    return read_cost((*reads, *more))


def of_all_cells(
    model: nn.Module, parts: Mapping[str, list[list[TilePart]]], mapping: "ChipMapping | None"
) -> dict[str, list[list[TilePart]]]:
    """Return the tile parts of each unit cell of the weights, per layer and section.

    ``parts`` has those of the first. Further ones that no mapping has lie on tiles of their own,
    with numbers beyond those of the chip.
    """
    layers = dict(analog_layers(model))
    if mapping is None:
        placed = {name: [of_layer] for name, of_layer in parts.items()}
        chips = list({id(layer.chip): layer.chip for layer in layers.values()}.values())
    else:
        placed, chips = mapped_cells(model, mapping), [mapping.chip]
    for name, cells in placed.items():
        chip = layers[name].chip
        cells += [
            [
                [replace(part, tile=part.tile + i * chip.array.tiles) for part in of_section]
                for of_section in parts[name]
            ]
            for i in range(len(cells), unit_cells(chip, chips))
        ]
    return {
        name: [list(chain(*of_section)) for of_section in zip(*cells, strict=True)]
        for name, cells in placed.items()
    }


@torch.no_grad()
def batch_reads(
    view: nn.Module, recovery: Recovery, parts: Mapping[str, list[list[TilePart]]]
) -> Iterator[Reads]:
    """Yield the MVMs of a recovery of a programmed chip, by block, counted in one run of its model.

    Those of embeddings, which read single rows, are left out.

    Raises:
        ValueError: the batches do not run.
    """
    layers = dict(analog_layers(view))
    counts = {name: defaultdict[tuple[int, int], float](float) for name in layers}

    def counting(count: dict[tuple[int, int], float]) -> Callable[..., None]:
        def look(inputs: Operands, plan: Plan, outputs: slice, y: Tensor) -> None:
            vectors = y.numel() // (outputs.stop - outputs.start)
            runs = recovery.runs(noisy=plan.noisy_sums)
            count[outputs.start, outputs.stop] += vectors * runs

        return look

    taps = {layer: Tap(product=counting(counts[name])) for name, layer in layers.items()}
    with evaluating(view), tapped(taps), quiet():
        run("recalibration_cost", view, recovery.batches, recovery.forward, False)
    for name, layer in layers.items():
        for outputs, vectors in counts[name].items():
            yield from _of_outputs(layer, parts[name], outputs, math.ceil(vectors))


def _of_outputs(
    layer: AnalogLayer, parts: list[list[TilePart]], outputs: tuple[int, int], vectors: int
) -> Iterator[Reads]:
    """Yield the MVMs of each block of a layer that has some of these outputs."""
    array, matrix = layer.chip.array, _matrix(layer)
    for section, of_section in zip(layer.sections, parts, strict=True):
        start, stop = (section.slicing.columns * each - section.adcs.start for each in outputs)
        for part in of_section:
            columns = slice(max(start, part.outputs.start), min(stop, part.outputs.stop))
            if columns.start < columns.stop:
                block = _block(section, part, columns)
                use = use_of(block, matrix, layer.chip)
                yield Reads(
                    layer.chip,
                    (part.chip, part.tile),
                    vectors * layer.chip.mvms * use.mvms,
                    rows=block.rows / array.rows,
                    columns=use.cols / array.columns,
                    cells=use.cells / (array.rows * array.columns),
                )


def _reads(
    layer: AnalogLayer, parts: list[list[TilePart]], compensation: Compensation
) -> Iterator[Reads]:
    """Yield the MVMs that read each block of a layer, all of its columns at once."""
    array, matrix = layer.chip.array, _matrix(layer)
    for section, of_section in zip(layer.sections, parts, strict=True):
        for part in of_section:
            block = _block(section, part, part.outputs)
            mvms, driven = compensation_mvms(layer.chip, compensation, block.rows)
            use = use_of(block, matrix, layer.chip)
            cells = use.mvms * use.cells * driven / block.rows
            yield Reads(
                layer.chip,
                (part.chip, part.tile),
                mvms,
                rows=driven / array.rows,
                columns=block.cols / array.columns,
                cells=cells / (array.rows * array.columns),
                signed=compensation == "least_squares",  # single rows get a positive input
            )


def _matrix(layer: AnalogLayer) -> Matrix:
    """Return the matrix of a layer, as a mapping has it."""
    return Matrix.of(layer.layer_name, layer.matrix_shape, getattr(layer, "groups", 1))


def _block(section: Section, part: TilePart, columns: slice) -> Block:
    """Return columns of a section, which lie in one row block of it, as a block of the matrix."""
    first, end = section.bounds[part.block : part.block + 2]
    return Block(
        matrix="",
        row=section.first_row + first,
        col=section.adcs.start + columns.start,
        rows=end - first,
        cols=columns.stop - columns.start,
    )
