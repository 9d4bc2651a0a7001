"""The mapping of matrices that are chosen, if they fit on the chips."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from analogtorch.chips import Chip
from analogtorch.graph.types import Matrix, Operation
from analogtorch.mapping.demand import Demand
from analogtorch.mapping.mapping import ChipMapping
from analogtorch.mapping.place import Retired, TooLarge, place
from analogtorch.mapping.split import all_blocks, cells


def fitted(
    *,
    model: str,
    chip: Chip,
    num_chips: int | None,
    matrices: tuple[Matrix, ...],
    operations: tuple[Operation, ...],
    copies: Mapping[str, int],
    digital_weights: tuple[tuple[str, int], ...],
    retired: Iterable[tuple[int, int]],
    retired_columns: Iterable[tuple[int, int, int]],
    spread: bool,
    example: tuple[str, ...] = (),
) -> ChipMapping:
    """Return the mapping of traced matrices.

    Arguments are the fields of ``ChipMapping``; ``copies`` are by name of the matrix.

    Raises:
        ValueError: they do not fit, or a matrix on a chip that senses light takes the results of
            an operation.
    """
    if chip.light.on:
        _check_light(chip, operations)
    out = Retired.of(retired, retired_columns)
    blocks = all_blocks(matrices, chip, copies)
    demand = Demand.of((m.name for m in matrices), operations, {m.name: m.cells for m in matrices})
    try:
        placements, used = place(blocks, chip, num_chips, demand, out, spread_out=spread)
    except TooLarge as error:
        raise ValueError(
            _too_large(error.needed, chip, num_chips or 1, matrices, copies, out)
        ) from None
    if alone := frozenset(m.name for m in matrices if copies.get(m.name, 1) > m.cells):
        # where tiles are short they share them
        with contextlib.suppress(TooLarge):
            demand = replace(demand, alone=alone)
            placements, used = place(blocks, chip, used, demand, out, spread_out=spread)
    return ChipMapping(
        model=model,
        chip=chip,
        num_chips=used,
        matrices=matrices,
        operations=operations,
        placements=placements,
        digital_weights=digital_weights,
        retired=tuple(sorted(out.tiles)),
        retired_columns=tuple(sorted(out.columns)),
        example=example,
    )


def _check_light(chip: Chip, operations: Sequence[Operation]) -> None:
    given = {op.name for op in operations if op.kind == "input"}
    for op in operations:
        if op.matrix is not None and (computed := [n for n in op.inputs if n not in given]):
            raise ValueError(
                f"map_to_chip: chip {chip.name!r} senses light, which only the first layer of a "
                f"model gets, but {op.matrix!r} takes the results of {computed[0]!r}. Put the "
                "first layer on the sensor and the rest on another chip, at.convert(model, "
                "at.chips.hermes64(), sensor=...) and at.mapping.map_by_chip(model, example); or "
                "leave the rest digital with exclude"
            )


def _too_large(
    needed: int,
    chip: Chip,
    num_chips: int,
    matrices: tuple[Matrix, ...],
    copies: Mapping[str, int],
    out: Retired,
) -> str:
    area = chip.array.rows * chip.array.columns
    size = {m.name: cells(m, chip) * copies.get(m.name, 1) for m in matrices}
    largest = sorted(matrices, key=lambda m: -size[m.name])
    usable, excluded, spare = num_chips * chip.array.tiles - len(out.tiles), list[str](), needed
    for matrix in largest:
        if spare <= usable:
            break
        excluded.append(matrix.name)
        spare -= max(1, size[matrix.name] // area)
    named = ", ".join(
        f"{m.name!r} ({m.weights:,} weights, {size[m.name] / area:.1f} tiles)" for m in largest[:3]
    )
    lost = f" without the {len(out.tiles)} retired ones" if out.tiles else ""
    lost += f", {len(out.columns)} columns retired" if out.columns else ""
    few = (
        f"exclude={excluded}"
        if len(excluded) <= 5
        else f"exclude={[*excluded[:5], '...']} ({len(excluded)} layers)"
    )
    # with none, or all of them, there would be nothing to gain, or nothing left to place
    leave = f"leave the largest digital with {few}, " if 0 < len(excluded) < len(matrices) else ""
    damaged = {(chip_, tile) for chip_, tile, _ in out.columns} - out.tiles
    enough = -(-(needed + len(out.tiles) + len(damaged)) // chip.array.tiles)
    shared = any(copies.get(m.name, 1) > m.cells for m in matrices)
    fewer = "ask for fewer copies in duplicate, " if shared else ""
    if large := [m.name for m in largest if m.cells > 1]:
        fewer += f"give {large[0]!r} fewer devices in convert(per_layer=...), "
    return (
        f"map_to_chip: {sum(m.weights for m in matrices):,} weights in {sum(size.values()):,} "
        f"cells need {needed} tiles of {chip.array.rows}x{chip.array.columns}; {num_chips} x "
        f"{chip.name} "
        f"{'has' if num_chips == 1 else 'have'} {usable}{lost}. Largest: {named}. Nothing was "
        f"placed. Give num_chips={enough} (or num_chips=None for as many as needed), {leave}"
        f"{fewer}or give the layers fewer columns"
    )
