"""What a mapped model is made of: operations, blocks of weights, and where on which tile a block lies."""

from dataclasses import dataclass
from typing import Literal

Scope = Literal["tile", "chip", "system"]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One step of the traced model, in the order in which it runs."""

    name: str
    """Unique; for an analog product the full name of its matrix, with ``#2``, ``#3``, ... where it is applied again."""
    kind: str
    """``mvm``, or what is computed digitally: ``activation``, ``norm``, ``attention``, ``pool``, ``add``, ..."""
    matrix: str | None
    """Name of the ``Matrix`` that an ``mvm`` applies; None otherwise."""
    vectors: int
    """Input vectors that the matrix meets in one inference (a convolution: one per output place); 0 if digital."""
    elements: int
    """Numbers that it puts out in one inference."""
    operations: int
    """Digital arithmetic operations of one inference; 0 for an ``mvm``."""
    inputs: tuple[str, ...]
    """Names of the operations whose results it takes."""
    steps: int = 1
    """Parts of it that must run one after another, as each needs the result of the one before: the time steps of a
    recurrent layer. The ``vectors`` are spread evenly over them."""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Weights that are placed together: one layer, or one gate or projection matrix of a larger module."""

    name: str
    """Full name of the weight in the model, without ``.weight``."""
    rows: int
    """Inputs: channels times kernel taps, of one group."""
    cols: int
    """Outputs, of all groups."""
    groups: int
    """Groups of a convolution: a block-diagonal matrix of ``rows * groups`` rows; 1 otherwise."""
    kernel: int
    """Kernel taps per channel: rows that a partial sum should keep together; 1 for a linear layer."""
    weights: int
    """Numbers that it holds: ``rows * cols``."""
    shape: tuple[int, ...] = ()
    """``(cols, channels / groups, *kernel)``, as ``analogtorch.tiling`` cuts it; () stands for ``(cols, rows)``."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """The part of a matrix that lies on one tile in one piece."""

    matrix: str
    row: int
    """First row of the matrix that it holds: among the rows of all groups; where the chip runs one group at a time
    (``Chip.grouped == "sequential"``), the groups share rows and it is the row within each column's own group."""
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
