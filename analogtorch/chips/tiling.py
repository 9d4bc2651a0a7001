"""The blocks that a layer's weights are cut into to fit tiles, and the inputs that each block has.

A weight of shape ``(out, channels / groups, *kernel)`` is, on the chip, a matrix with one column
per output, or several if the chip slices weights, and one row per input channel and kernel tap. Row
blocks are as full as the tile allows and end at whole kernels where a kernel fits, so that a
convolution can be computed block by block without unfolding its input.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from analogtorch.chips import Chip
from analogtorch.chips.slices import Slicing

RowBlock = tuple[slice, ...]
"""Index into the weight's dimensions after the first: channels, then kernel taps."""


def row_block(start: int, stop: int, shape: tuple[int, ...]) -> RowBlock:
    """Return the rows ``start`` to ``stop`` as an index into ``shape`` = (channels, *kernel).

    Raises:
        ValueError: they neither hold whole kernels nor lie within one.
    """
    inner = math.prod(shape[1:])
    if start % inner == 0 and stop % inner == 0:
        return (slice(start // inner, stop // inner), *(slice(0, size) for size in shape[1:]))
    i = start // inner
    if stop > (i + 1) * inner:
        raise ValueError(
            f"rows {start} to {stop} of {shape} are no block: it must hold whole kernels, or lie "
            "in one"
        )
    return (slice(i, i + 1), *row_block(start - i * inner, stop - i * inner, shape[1:]))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the matrix of a product lies on tiles, and its position in its layer.

    The matrix has a column per output and a row per input channel and kernel tap, flattened in the
    weight's order. Where weights are sliced, the columns of one weight lie side by side, from the
    least significant on, and "output" means each of them.
    """

    bounds: tuple[int, ...]
    """Rows at which the row blocks begin and, last, where they end: blocks + 1 numbers. The ADCs
    convert the partial sums of each row block; their outputs are summed digitally."""
    columns: tuple[int, ...] = ()
    """Bounds of the outputs that share one weight scale, as ``bounds``; empty: every output has its
    own."""
    groups: int = 1
    """Number of groups of the product; 1 if its matrix is dense."""
    first_output: int = 0
    """Position of output 0 in the layer: positions key the noise."""
    total_outputs: int = 0
    """Number of outputs of the layer; 0: those of this matrix."""
    first_row: int = 0
    """Position of row 0 among all inputs and kernel taps of the layer."""
    slicing: Slicing = field(default_factory=Slicing)
    """The digits into which weights and inputs are cut."""

    @property
    def blocks(self) -> int:
        """Number of row blocks."""
        return len(self.bounds) - 1

    def span(self, block: int, shape: Sequence[int]) -> RowBlock:
        """Return row block ``block`` as an index into the rows' ``shape`` = (channels, *kernel)."""
        return row_block(self.bounds[block], self.bounds[block + 1], tuple(shape))


@dataclass(frozen=True, kw_only=True)
class Section(Layout):
    """A part of a layer that is one matrix product.

    It is the whole layer, or some groups of a block-diagonal convolution.
    """

    channels: slice
    """Input channels of the layer that the section has."""
    dense_groups: int
    """Number of groups of the layer that the dense matrix holds on its diagonal; 1 if its weight is
    a slice of the layer's."""
    shape: tuple[int, ...]
    """Shape of its weight: ``(outputs, channels / groups, *kernel)``."""
    col_blocks: tuple[slice, ...]
    """Blocks along the outputs, relative to the section."""

    @property  # a cached one has a lock, which torch.compile cannot trace
    def adcs(self) -> slice:
        """Columns that hold the section, counted over the layer: ``outputs`` unless sliced."""
        return slice(self.first_output, self.first_output + self.shape[0])

    @property
    def outputs(self) -> slice:
        """Outputs of the layer that the section computes."""
        each = self.slicing.columns
        return slice(self.adcs.start // each, self.adcs.stop // each)

    def adcs_of(self, outputs: slice | None) -> slice | None:
        """Return the columns of a run of outputs, relative to the section; None: of all."""
        if outputs is None:
            return None
        each = self.slicing.columns
        return slice(each * outputs.start, each * outputs.stop)

    @property
    def layout(self) -> dict[str, Any]:
        """Fields of the section as a ``Layout``."""
        return {field.name: getattr(self, field.name) for field in fields(Layout)}

    @property
    def tile_blocks(self) -> int:
        """Number of blocks on tiles: row blocks by column blocks."""
        return self.blocks * len(self.col_blocks)

    @functools.cached_property
    def row_blocks(self) -> tuple[RowBlock, ...]:
        """The blocks along the rows, as indices."""
        return tuple(self.span(block, self.shape[1:]) for block in range(self.blocks))

    @property
    def cuts_kernel(self) -> bool:
        """Whether a row block holds only a part of a kernel."""
        whole = tuple(slice(0, size) for size in self.shape[2:])
        return any(block[1:] != whole for block in self.row_blocks)

    @property
    def cells(self) -> int:
        """Number of unit cells that the section takes."""
        return math.prod(self.shape)

    def weight(self, weight: Tensor) -> Tensor:
        """Return the section's weight, cut from the layer's ``(out, channels / groups, *kernel)``.

        The result is differentiable. It is not sliced: see ``analogtorch.ops.slices.cells``.
        """
        # a slice adds a node to the graph of autograd
        part = weight if self.outputs == slice(0, weight.shape[0]) else weight[self.outputs]
        if self.dense_groups == 1:
            return part
        n = self.dense_groups
        part = part.reshape(n, -1, 1, *part.shape[1:])
        eye = torch.eye(n, dtype=part.dtype, device=part.device).view(
            n, 1, n, *[1] * (part.dim() - 3)
        )
        return (part * eye).reshape(-1, *self.shape[1:])

    @property
    def rows(self) -> int:
        """Number of rows of the section's matrix that each output has."""
        return math.prod(self.shape[1:])

    def block_sums(self, values: Tensor) -> Tensor:
        """Return ``values`` (outputs,) summed over each block's outputs, for each of them.

        The shape is (outputs,).
        """
        return torch.cat([values[c].sum().expand(c.stop - c.start) for c in self.col_blocks])

    def positions(self, device: torch.device, *, common: bool = False) -> tuple[Tensor, Tensor]:
        """Return the position of each output and of its first input row, (outputs,) int64.

        Positions are counted in the layer. They do not depend on tiles, blocks or on how groups are
        mapped: they key the noise. If ``common`` is True, all outputs of a column block have the
        position of its first: they share what is drawn there.
        """
        outputs = torch.arange(self.adcs.start, self.adcs.stop, device=device)
        group = (outputs - self.adcs.start) // (self.shape[0] // self.groups)
        if common:
            firsts = (outputs[c.start].expand(c.stop - c.start) for c in self.col_blocks)
            outputs = torch.cat([*firsts])
        return outputs, self.first_row + group * self.rows


def sections(shape: tuple[int, ...], groups: int, chip: Chip) -> tuple[Section, ...]:
    """Return the sections of a layer with a weight of ``shape``.

    ``shape`` is (out, channels / groups, *kernel).

    Raises:
        TypeError: the chip has no hash, by which layers of one shape are laid out once.
    """
    try:
        hash(chip)
    except TypeError as error:
        raise TypeError(
            f"chip {chip.name!r} has a part without a hash ({error}): make devices and curves of "
            "your own @dataclass(frozen=True), with tuples in place of lists"
        ) from error
    return _sections(shape, groups, chip)


@functools.lru_cache(maxsize=4096)
def _sections(shape: tuple[int, ...], groups: int, chip: Chip) -> tuple[Section, ...]:
    block_diagonal = chip.array.grouped == "block_diagonal"
    together = _groups_together(shape, groups, chip) if block_diagonal else 1
    if together == 1 and (groups == 1 or chip.array.grouped == "sequential"):
        return (_section(shape, groups, slice(0, groups), dense=False, chip=chip),)
    firsts = range(0, groups, together)
    parts = [slice(first, min(first + together, groups)) for first in firsts]
    return tuple(_section(shape, groups, part, dense=True, chip=chip) for part in parts)


def _groups_together(shape: tuple[int, ...], groups: int, chip: Chip) -> int:
    """Return how many groups fit the diagonal of one tile; 1 if not even one does."""
    each = chip.slices.slicing.columns
    rows, outputs = math.prod(shape[1:]), each * shape[0] // groups
    return max(1, min(groups, chip.array.rows // rows, chip.array.columns // outputs))


def _section(
    shape: tuple[int, ...], groups: int, part: slice, *, dense: bool, chip: Chip
) -> Section:
    """Return the groups ``part`` of a layer as a section.

    ``dense`` puts them on the diagonal of a matrix without groups.
    """
    out, channels, *kernel = shape
    slicing = chip.slices.slicing
    each = slicing.columns
    n, per_group = part.stop - part.start, each * out // groups
    outputs = n * per_group
    rows = (n * channels if dense else channels, *kernel)
    blocks = tuple(_split(outputs, chip.array.columns // each * each))
    ends = [block.stop for block in blocks]
    if chip.periphery.weight_scale == "column":
        ends = [*range(each, outputs + 1, each)] if each > 1 else []
    return Section(
        bounds=(0, *_row_ends(rows, chip.array.rows)),
        columns=(0, *ends) if ends else (),
        groups=1 if dense else n,
        first_output=part.start * per_group,
        total_outputs=each * out,
        first_row=part.start * channels * math.prod(kernel),
        channels=slice(part.start * channels, part.stop * channels),
        dense_groups=n if dense else 1,
        shape=(outputs, *rows),
        col_blocks=blocks,
        slicing=slicing,
    )


def _split(size: int, limit: int) -> list[slice]:
    return [slice(start, min(start + limit, size)) for start in range(0, size, limit)]


def _row_ends(shape: tuple[int, ...], limit: int) -> list[int]:
    """Return where blocks of at most ``limit`` rows of ``shape`` end.

    They are cut along the first dimension if that is enough.
    """
    inner = math.prod(shape[1:])
    if inner <= limit:
        return [part.stop * inner for part in _split(shape[0], limit // inner)]
    return [i * inner + end for i in range(shape[0]) for end in _row_ends(shape[1:], limit)]
