"""Hand-written mappings for tests of cost, without tracing or mapping a model."""

from types import SimpleNamespace

from analogtorch.chips import Chip
from analogtorch.graph.types import Matrix, Operation
from analogtorch.mapping.types import Block, Placement


def matrix(name: str, rows: int, cols: int, *, groups: int = 1, kernel: int = 1) -> Matrix:
    return Matrix(
        name=name, rows=rows, cols=cols, groups=groups, kernel=kernel, weights=rows * cols
    )


def mvm(
    name: str, cols: int, *inputs: str, vectors: int = 1, steps: int = 1, of: str | None = None
) -> Operation:
    return Operation(
        name=name,
        kind="mvm",
        matrix=of or name,
        vectors=vectors,
        elements=vectors * cols,
        operations=0,
        inputs=inputs,
        steps=steps,
    )


def digital(name: str, kind: str, operations: int, *inputs: str) -> Operation:
    return Operation(
        name=name,
        kind=kind,
        matrix=None,
        vectors=0,
        elements=operations,
        operations=operations,
        inputs=inputs,
    )


def put(
    tile: int,
    name: str,
    rows: int,
    cols: int,
    *,
    row: int = 0,
    col: int = 0,
    copy: int = 0,
    chip: int = 0,
):
    block = Block(matrix=name, row=row, col=col, rows=rows, cols=cols, copy=copy)
    return Placement(block=block, chip=chip, tile=tile, row=0, col=0)


def mapping(chip: Chip, operations, matrices, placements) -> SimpleNamespace:
    return SimpleNamespace(
        chip=chip, operations=operations, matrices=matrices, placements=placements
    )


def full(chip: Chip, tiles: int) -> SimpleNamespace:
    """One vector through one matrix that fills so many tiles side by side."""
    cols = tiles * chip.array.columns
    blocks = [
        put(t, "w", chip.array.rows, chip.array.columns, col=t * chip.array.columns)
        for t in range(tiles)
    ]
    return mapping(chip, [mvm("w", cols)], [matrix("w", chip.array.rows, cols)], blocks)


def keyword_net(chip: Chip) -> SimpleNamespace:
    """The fully connected keyword spotter 1024-512-512-12 on four tiles of 512x512."""
    operations = [
        mvm("a", 512),
        digital("relu", "relu", 512, "a"),
        mvm("b", 512, "relu"),
        digital("relu2", "relu", 512, "b"),
        mvm("c", 12, "relu2"),
    ]
    blocks = [
        put(0, "a", 512, 512),
        put(1, "a", 512, 512, row=512),
        put(2, "b", 512, 512),
        put(3, "c", 512, 12),
    ]
    return mapping(
        chip,
        operations,
        [matrix("a", 1024, 512), matrix("b", 512, 512), matrix("c", 512, 12)],
        blocks,
    )
