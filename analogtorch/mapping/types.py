"""Blocks of weights, and where on which tile a block lies."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Block:
    """The part of a matrix that lies on one tile in one piece."""

    matrix: str
    row: int
    """First row of the matrix that it holds: among the rows of all groups; where the chip runs one
    group at a time (``Chip.grouped == "sequential"``), the groups share rows and it is the row
    within each column's own group."""
    col: int
    """First column of the matrix that it holds."""
    rows: int
    cols: int
    copy: int = 0
    """Copies of a matrix, for throughput, are numbered from 0."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a block lies."""

    block: Block
    chip: int
    """Chips are numbered from 0."""
    tile: int
    """Tiles of a chip are numbered from 0."""
    row: int
    """Row of the tile at which the block's first row lies."""
    col: int
    """Column of the tile at which the block's first column lies."""
