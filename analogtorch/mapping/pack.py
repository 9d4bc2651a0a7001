"""Packing of blocks onto as few tiles as possible.

The method is our own MaxRects: the one well-known packing library (rectpack) is an unmaintained
source package, and the packing of OR-tools, a constraint solver, is for dozens of rectangles, not
for thousands. Several orders and measures of fit are tried, and the fewest tiles are kept. Then
tiles are emptied one by one: their blocks are cut along columns to fit into the free cells of other
tiles. That costs no partial sum, but every piece is one more MVM of a tile. A tile is emptied at
the price of ``GENTLE`` further pieces, or of any number where a large net would stay above 1.03 of
the bound or where the chips have too few tiles. Nothing is random.
"""

from collections.abc import Callable, Sequence

from analogtorch.mapping.bins import Bin, left
from analogtorch.mapping.demand import Demand, exchange
from analogtorch.mapping.types import Block

_ORDERS: tuple[Callable[[Block], tuple[int, ...]], ...] = (
    lambda b: (-b.rows * b.cols, -b.rows),
    lambda b: (-max(b.rows, b.cols), -b.rows * b.cols),
    lambda b: (-b.rows, -b.cols),
    lambda b: (-b.cols, -b.rows),
)
GENTLE = 3
"""Most further pieces that emptying a tile may cost."""
_LARGE = 100
"""Number of tiles from which on a net is large."""
_OVER = 1.03
"""Tiles that a large net may take, in units of the bound."""
_VICTIMS = 8
"""Number of tiles, the emptiest first, that each round tries to empty."""


def pack(blocks: Sequence[Block], rows: int, cols: int, demand: Demand, unit: int = 1) -> list[Bin]:
    """Place all blocks on as few tiles as found.

    Blocks that would wait for each other are kept apart.

    Args:
        blocks: the blocks, none larger than a tile.
        rows: number of rows of a tile.
        cols: number of columns of a tile.
        demand: the demand of the matrices; of tiles that fit a block equally well, it gets the one
            where it waits least for others.
        unit: columns that no cut separates: those of a sliced weight.

    Returns:
        The tiles in use with their blocks.
    """
    bound = -(-sum(b.rows * b.cols for b in blocks) // (rows * cols))
    best: list[Bin] | None = None
    for order in _ORDERS:
        for area in (False, True):
            ordered = sorted(blocks, key=lambda b: (*order(b), demand.rank[b.matrix]))
            bins = _fill(ordered, rows, cols, demand, area)
            if best is None or len(bins) < len(best):
                best = bins
            if len(best) == bound:
                exchange(best, demand)
                return best
    assert best is not None
    least = max(unit, cols // 16)
    best = empty_tiles(best, demand, least=least, goal=bound, price=GENTLE, unit=unit)
    if bound >= _LARGE:
        best = empty_tiles(best, demand, least=least, goal=int(_OVER * bound), unit=unit)
    exchange(best, demand)
    return best


def _fill(blocks: Sequence[Block], rows: int, cols: int, demand: Demand, area: bool) -> list[Bin]:
    bins: list[Bin] = []
    still_open: list[Bin] = []
    smallest = _smallest_after(blocks)
    for i, block in enumerate(blocks):
        chosen = _choose(block, still_open, demand, area)
        if chosen is None:
            target, index = Bin.empty(rows, cols), 0
            bins.append(target)
            still_open.append(target)
        else:
            target, index = chosen
        target.put(block, index)
        least_rows, least_cols = smallest[i + 1]
        target.free = [q for q in target.free if q[2] >= least_rows and q[3] >= least_cols]
        if not target.free:
            still_open.remove(target)
    for target in bins:
        target.free = _all_free(target, rows, cols)
    return bins


def _choose(
    block: Block, bins: Sequence[Bin], demand: Demand, area: bool
) -> tuple[Bin, int] | None:
    found: tuple[tuple[int, int, int], Bin, int] | None = None
    for candidate in bins:
        fit = candidate.best(block.rows, block.cols, area=area)
        if (
            fit is None
            or (found is not None and fit[0] > found[0][:2])
            or demand.apart(block, candidate.blocks)
        ):
            continue
        key = (*fit[0], demand.contention(block, candidate.blocks))
        if found is None or key < found[0]:
            found = (key, candidate, fit[1])
    return None if found is None else found[1:]


def empty_tiles(
    bins: list[Bin],
    demand: Demand,
    *,
    least: int,
    goal: int,
    price: int | None = None,
    unit: int = 1,
) -> list[Bin]:
    """Empty tiles by cutting their blocks along columns into the free cells of other tiles.

    Args:
        bins: all tiles.
        demand: the demand of the matrices, which says what must not share a tile.
        least: smallest number of columns of a piece.
        goal: number of tiles at which to stop.
        price: most further pieces that emptying one tile may cost; None allows any number.
        unit: columns that no cut separates.

    Returns:
        The tiles that are left.
    """
    while len(bins) > goal:
        for victim in sorted(range(len(bins)), key=lambda i: (bins[i].used, i))[:_VICTIMS]:
            others = bins[:victim] + bins[victim + 1 :]
            moved = move(bins[victim], others, demand, least, price, unit)
            if moved is not None:
                bins = moved
                break
        else:
            return bins
    return bins


def move(
    victim: Bin,
    others: Sequence[Bin],
    demand: Demand,
    least: int,
    price: int | None = None,
    unit: int = 1,
) -> list[Bin] | None:
    """Return ``others`` with the blocks of ``victim``, cut along columns.

    The result is None if they do not fit at that price.
    """
    result, cuts, copied = list(others), 0, set[int]()
    for block, _, _ in sorted(victim.placed, key=lambda p: (-p[0].rows, -p[0].cols)):
        rest: Block | None = block
        while rest is not None:
            found = _widest(rest, result, demand, least, unit)
            if found is None:
                return None
            number, index, width = found
            piece: Block = rest
            rest = None
            if width < piece.cols:
                piece, rest = left(piece, width)
                cuts += 1
            if price is not None and cuts > price:
                return None
            if number not in copied:  # most tiles are full, and stay as they are
                result[number] = result[number].copy()
                copied.add(number)
            result[number].put(piece, index)
    return result


def _widest(
    block: Block, bins: Sequence[Bin], demand: Demand, least: int, unit: int
) -> tuple[int, int, int] | None:
    """Return tile, free rectangle and number of columns where most of ``block`` fits.

    It is the narrowest rectangle that takes all columns, or else the widest one.
    """
    best: tuple[tuple[int, int, int, int, int], int] | None = None
    for number, target in enumerate(bins):
        for index, (_, _, h, w) in enumerate(target.free):
            width = min(w, block.cols)
            if 0 < block.cols - width < least:
                width = block.cols - least
            width -= width % unit
            if h < block.rows or width < min(least, block.cols) or width < 1:
                continue
            key = (-width, w, h, number, index)
            if (best is None or key < best[0]) and not demand.apart(block, target.blocks):
                best = (key, width)
    return None if best is None else (best[0][3], best[0][4], best[1])


def _smallest_after(blocks: Sequence[Block]) -> list[tuple[int, int]]:
    """Return the smallest rows and smallest columns among the blocks from each index on."""
    result = [(1 << 62, 1 << 62)]
    for block in reversed(blocks):
        result.append((min(result[-1][0], block.rows), min(result[-1][1], block.cols)))
    return result[::-1]


def _all_free(target: Bin, rows: int, cols: int) -> list[tuple[int, int, int, int]]:
    """Return all free rectangles of a tile.

    While it was filled, those too small for the blocks that followed were dropped.
    """
    again = Bin.empty(rows, cols)
    for block, row, col in target.placed:
        again.cut(row, col, block.rows, block.cols)
    return again.free
