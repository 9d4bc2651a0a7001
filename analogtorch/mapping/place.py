"""The placement of packed tiles on the tiles of the chips, around those that must not be used."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analogtorch.chips import Chip
from analogtorch.mapping.bins import Bin
from analogtorch.mapping.demand import Demand, spread
from analogtorch.mapping.pack import empty_tiles, move, pack
from analogtorch.mapping.types import Block, Placement
from analogtorch.values import checks

_MOST_CHIPS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Retired:
    """The tiles and columns that must not be used."""

    tiles: frozenset[tuple[int, int]] = frozenset()
    """Tiles, as (chip, tile)."""
    columns: frozenset[tuple[int, int, int]] = frozenset()
    """Columns, as (chip, tile, column)."""

    @classmethod
    def of(cls, tiles: Iterable[Any], columns: Iterable[Any]) -> "Retired":
        """Return those of entries as users write them: tuples, or lists as a JSON file has them."""
        return cls(tiles=frozenset(map(_plain, tiles)), columns=frozenset(map(_plain, columns)))

    def check(self, chip: Chip, num_chips: int | None) -> None:
        """Raise an error unless the chips have these tiles and columns.

        Raises:
            ValueError: an entry is no tile or column of the chips.
        """
        limits = (num_chips, chip.array.tiles, chip.array.columns)
        for what, entries, length in (
            ("retired", self.tiles, 2),
            ("retired_columns", self.columns, 3),
        ):
            names = ("chip", "tile", "column")[:length]
            for entry in entries:
                good = (
                    isinstance(entry, tuple)
                    and len(entry) == length
                    and all(type(v) is int for v in entry)
                )
                if good and all(
                    v >= 0 and (m is None or v < m) for v, m in zip(entry, limits, strict=False)
                ):
                    continue
                allowed = ", ".join(
                    f"{n} from 0" + ("" if m is None else f" to {m - 1}")
                    for n, m in zip(names, limits, strict=False)
                )
                raise ValueError(
                    f"{what} must list tuples ({', '.join(names)}) with {allowed}; got {entry!r}"
                )


def _plain(entry: Any) -> Any:
    """Return an entry that can be in a set: of integers a tuple of Python's."""
    if isinstance(entry, tuple | list):
        return tuple(int(v) if checks.is_integer(v) else _hashable(v) for v in entry)
    return _hashable(entry)


def _hashable(value: Any) -> Any:
    return value if isinstance(value, Hashable) else checks.shown(value)


class TooLarge(Exception):
    """Raised if the blocks do not fit; ``needed`` tiles would hold them."""

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


def place(
    blocks: Sequence[Block],
    chip: Chip,
    num_chips: int | None,
    demand: Demand,
    retired: Retired,
    *,
    spread_out: bool = False,
) -> tuple[tuple[Placement, ...], int]:
    """Return the position of every block, in the order of the model, and the number of chips.

    Tiles are numbered along the model, so that layers that follow each other are near and on one
    chip. Tiles with retired columns are used last: blocks are cut along columns around them. With
    ``spread_out``, all tiles are used.

    Raises:
        TooLarge: ``num_chips`` chips have too few tiles.
    """
    unit = chip.slices.slicing.columns
    bins = pack(blocks, chip.array.rows, chip.array.columns, demand, unit)
    count = num_chips or max(1, -(-(len(bins) - chip.array.tiles) // chip.array.tiles))
    while True:
        filled = _fit(bins, chip, count, retired, demand)
        if filled is not None:
            break
        if num_chips is not None or count > _MOST_CHIPS:
            raise TooLarge(len(bins))
        count += 1
    whole = _slots(chip, count, retired)
    if spread_out:
        filled = spread(filled, len(whole) + sum(b.slot is not None for b in filled), demand)
    slots = iter(whole)
    placements = [
        Placement(block=block, chip=c, tile=t, row=row, col=col)
        for target in sorted(filled, key=lambda b: (b.slot is not None, _first(b, demand)))
        for c, t in [target.slot or next(slots)]
        for block, row, col in target.placed
    ]
    placements.sort(
        key=lambda p: (demand.rank[p.block.matrix], p.block.copy, p.block.row, p.block.col)
    )
    return tuple(placements), 1 + max(p.chip for p in placements)


def moved(
    placements: Sequence[Placement], chip: Chip, num_chips: int, retired: Retired
) -> tuple[Placement, ...] | None:
    """Return the placements with each tile that must not be used moved to an unused one, whole.

    A tile must not be used if it is retired or a block lies on a retired column. All others stay.
    The new tile is one of the same chip, where there is one. None: there are too few.
    """
    if any(p.chip >= num_chips for p in placements):
        return None
    held = {(p.chip, p.tile) for p in placements}
    broken = held & retired.tiles | {
        (p.chip, p.tile)
        for p in placements
        for chip_, tile, column in retired.columns
        if (chip_, tile) == (p.chip, p.tile) and p.col <= column < p.col + p.block.cols
    }
    free = [slot for slot in _slots(chip, num_chips, retired) if slot not in held]
    if len(free) < len(broken):
        return None
    new = {}
    for slot in sorted(broken):
        new[slot] = next((other for other in free if other[0] == slot[0]), free[0])
        free.remove(new[slot])
    where = [new.get((p.chip, p.tile), (p.chip, p.tile)) for p in placements]
    return tuple(replace(p, chip=c, tile=t) for p, (c, t) in zip(placements, where, strict=True))


def _fit(
    bins: list[Bin], chip: Chip, num_chips: int, retired: Retired, demand: Demand
) -> list[Bin] | None:
    """Return the tiles to fill, or None if the chips have too few.

    They are at most as many as there are whole tiles, and damaged tiles that help.
    """
    whole = len(_slots(chip, num_chips, retired))
    if len(bins) <= whole:
        return bins
    unit = chip.slices.slicing.columns
    bins = empty_tiles(bins, demand, least=unit, goal=whole, unit=unit)
    damaged = _damaged(chip, num_chips, retired)
    if len(bins) > whole + len(damaged):
        return None
    while len(bins) > whole:
        for victim in sorted(range(len(bins)), key=lambda i: (bins[i].used, i)):
            others = [*bins[:victim], *bins[victim + 1 :], *damaged]
            moved = move(bins[victim], others, demand, least=unit, unit=unit)
            if moved is not None:
                bins, damaged = moved[: len(bins) - 1], moved[len(bins) - 1 :]
                break
        else:
            return None
    return [*bins, *(b for b in damaged if b.placed)]


def _first(target: Bin, demand: Demand) -> int:
    return min(demand.rank[block.matrix] for block in target.blocks)


def _slots(chip: Chip, num_chips: int, retired: Retired) -> list[tuple[int, int]]:
    """Return the whole tiles, chip by chip.

    Of tiles that share their converters, one of each set comes before any second.
    """
    unusable = retired.tiles | {(c, t) for c, t, _ in retired.columns}
    tiles = sorted(range(chip.array.tiles), key=lambda t: (t % chip.array.planes, t))
    return [(c, t) for c in range(num_chips) for t in tiles if (c, t) not in unusable]


def _damaged(chip: Chip, num_chips: int, retired: Retired) -> list[Bin]:
    columns: dict[tuple[int, int], list[int]] = {}
    for c, t, column in sorted(retired.columns):
        if c < num_chips and (c, t) not in retired.tiles:
            columns.setdefault((c, t), []).append(column)
    return [
        Bin.empty(chip.array.rows, chip.array.columns, listed, slot)
        for slot, listed in columns.items()
    ]
