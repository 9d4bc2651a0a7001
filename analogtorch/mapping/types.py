"""Blocks of weights, and their positions on tiles."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Block:
    """The part of a matrix that lies on one tile in one piece."""

    matrix: str
    row: int
    """First row of the matrix that it holds, counted over the rows of all groups. Where the chip
    runs one group at a time (``chip.array.grouped == "sequential"``), the groups share rows, and it
    is the row within each column's group."""
    col: int
    """First column of the matrix that it holds."""
    rows: int
    cols: int
    copy: int = 0
    """Number of the copy, from 0. As many as ``Matrix.cells`` in turn hold the weights together;
    further ones share the vectors, which raises throughput."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The position of a block on a chip."""

    block: Block
    chip: int
    """Number of the chip, from 0."""
    tile: int
    """Number of the tile on its chip, from 0."""
    row: int
    """Row of the tile that holds the block's first row."""
    col: int
    """Column of the tile that holds the block's first column."""
