"""Checks of the parts of a mapping that schedule and cost use, before anything is computed."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from analogtorch.chips import Chip
from analogtorch.graph.types import Matrix, Operation
from analogtorch.mapping.types import Placement
from analogtorch.values import checks


def checked(
    mapping: Any,
) -> tuple[Chip, tuple[Operation, ...], dict[str, Matrix], dict[str, list[Placement]]]:
    """Return chip, operations, matrices and placements of a mapping after checking them.

    Raises:
        ValueError: nothing is placed, or the parts do not belong together.
        TypeError: the mapping lacks one of the four.
    """
    parts = ("chip", "operations", "matrices", "placements")
    if missing := [name for name in parts if not hasattr(mapping, name)]:
        raise TypeError(
            "mapping must be what map_to_chip gives, or have chip, operations, matrices and "
            f"placements; {checks.shown(mapping)} has no {', '.join(missing)}"
        )
    chip, operations = mapping.chip, tuple(mapping.operations)
    given = mapping.matrices.values() if isinstance(mapping.matrices, Mapping) else mapping.matrices
    matrices, placed = {m.name: m for m in given}, defaultdict(list)
    for p in mapping.placements:
        _check_inside(p, chip, matrices)
        placed[p.block.matrix].append(p)
    if not placed:
        raise ValueError(
            "the mapping has zero tiles in use: place at least one block, or there is nothing to "
            "cost"
        )
    known: dict[str, int] = {}
    for op in operations:
        if op.matrix is not None and op.matrix not in placed:
            raise ValueError(
                f"operation {op.name!r} needs matrix {op.matrix!r}, of which no block is placed"
            )
        if late := [name for name in op.inputs if name not in known]:
            raise ValueError(f"operation {op.name!r} takes {late}, which do not come before it")
        most = [known[name] for name in op.inputs]
        if op.taken and (
            len(op.taken) != len(most)
            or any(not 0 <= n <= size for n, size in zip(op.taken, most, strict=True))
        ):
            raise ValueError(
                f"operation {op.name!r} must take a number of elements of each of its "
                f"{len(op.inputs)} inputs, at most {most}, got {op.taken}; () takes all of them"
            )
        known[op.name] = op.elements
    if not any(op.matrix is not None for op in operations):
        raise ValueError(
            "the mapping has no operation of kind 'mvm': there is nothing to run on the chip. Give "
            "an example that reaches its layers, or leave it out of a sum: it takes no energy"
        )
    return chip, operations, matrices, dict(placed)


def _check_inside(p: Placement, chip: Chip, matrices: Collection[str]) -> None:
    block = p.block
    if block.matrix not in matrices:
        raise ValueError(
            f"a block of {block.matrix!r} is placed, which is no matrix; matrices: "
            f"{', '.join(matrices)}"
        )
    rows_fit = block.rows >= 1 and 0 <= p.row <= chip.array.rows - block.rows
    cols_fit = block.cols >= 1 and 0 <= p.col <= chip.array.columns - block.cols
    if not (rows_fit and cols_fit and 0 <= p.tile < chip.array.tiles and p.chip >= 0):
        raise ValueError(
            f"{p} does not lie on a tile of {chip.name}: tiles 0 to {chip.array.tiles - 1} of "
            f"{chip.array.rows}x{chip.array.columns} cells"
        )


def passes(
    chip: Chip, matrices: Mapping[str, Matrix], signed: Collection[str] | None
) -> dict[str, int]:
    """Return the MVMs that every matrix takes per input vector, for pulses, signs and balance.

    ``signed`` is ``signed_inputs`` of ``schedule``. Inputs of expanded weights have both signs.
    """
    if isinstance(signed, str):
        raise ValueError(
            f"signed_inputs must be a collection of names, such as [{signed!r}], got {signed!r}"
        )
    if signed is not None:
        signed = checks.items("signed_inputs", signed, "['head']")
    if signed is not None and (unknown := sorted(set(signed) - matrices.keys(), key=str)):
        raise ValueError(
            f"signed_inputs names {unknown}, which are no matrices; matrices: {', '.join(matrices)}"
        )
    if chip.expansion.on:
        signed = None
    return {
        name: chip.mvms * (chip.costs.signed_passes if signed is None or name in signed else 1)
        for name in matrices
    }
