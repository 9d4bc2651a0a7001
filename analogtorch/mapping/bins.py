"""One tile while it is filled, with its free rectangles.

The method is MaxRects (Jylanki 2010) without rotation.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from analogtorch.mapping.types import Block

Rect = tuple[int, int, int, int]
"""Row, column, number of rows, number of columns."""
Score = tuple[int, int]
"""Measure of a fit; a smaller score is a better fit."""


@dataclass
class Bin:
    """A tile with its blocks and its free rectangles.

    Every free rectangle is as large as possible, so they overlap each other.
    """

    free: list[Rect]
    placed: list[tuple[Block, int, int]] = field(default_factory=list)
    """Blocks, each with the row and column of the tile where it begins."""
    slot: tuple[int, int] | None = None
    """Chip and tile if the tile is a certain one, with retired columns; else None."""

    @classmethod
    def empty(
        cls, rows: int, cols: int, retired: Iterable[int] = (), slot: tuple[int, int] | None = None
    ) -> "Bin":
        """Return a tile without blocks, in which the columns ``retired`` must not be used."""
        bounds = [-1, *sorted(set(retired)), cols]
        free = [
            (0, a + 1, rows, b - a - 1)
            for a, b in zip(bounds[:-1], bounds[1:], strict=True)
            if b - a > 1
        ]
        return cls(free=free, slot=slot)

    @property
    def used(self) -> int:
        """Number of cells that blocks take."""
        return sum(block.rows * block.cols for block, _, _ in self.placed)

    def copy(self) -> "Bin":
        """Return a copy that can be changed independently."""
        return Bin(free=list(self.free), placed=list(self.placed), slot=self.slot)

    @property
    def blocks(self) -> list[Block]:
        """The blocks on the tile."""
        return [block for block, _, _ in self.placed]

    def best(self, rows: int, cols: int, *, area: bool) -> tuple[Score, int] | None:
        """Return the score and index of the free rectangle that fits best, or None.

        Args:
            rows: number of rows to fit.
            cols: number of columns to fit.
            area: if True, judge by the area left over instead of by the shorter side left over.
        """
        found: tuple[Score, int] | None = None
        for i, (_, _, h, w) in enumerate(self.free):
            if h < rows or w < cols:
                continue
            short, left = min(h - rows, w - cols), h * w - rows * cols
            score = (left, short) if area else (short, left)
            if found is None or score < found[0]:
                found = (score, i)
        return found

    def put(self, block: Block, index: int) -> None:
        """Place ``block`` into the corner of the free rectangle ``index``."""
        row, col, _, _ = self.free[index]
        self.placed.append((block, row, col))
        self.cut(row, col, block.rows, block.cols)

    def cut(self, row: int, col: int, rows: int, cols: int) -> None:
        """Remove a rectangle from the free ones."""
        parts: list[Rect] = []
        below, right = row + rows, col + cols
        for r, c, h, w in self.free:
            if row >= r + h or below <= r or col >= c + w or right <= c:
                parts.append((r, c, h, w))
                continue
            if row > r:
                parts.append((r, c, row - r, w))
            if below < r + h:
                parts.append((below, c, r + h - below, w))
            if col > c:
                parts.append((r, c, h, col - c))
            if right < c + w:
                parts.append((r, right, h, c + w - right))
        self.free = _largest(parts)


def left(block: Block, cols: int) -> tuple[Block, Block]:
    """Return ``block`` cut after its first ``cols`` columns."""
    return replace(block, cols=cols), replace(block, col=block.col + cols, cols=block.cols - cols)


def _largest(rects: list[Rect]) -> list[Rect]:
    """Return the rectangles that do not lie inside another."""
    unique = sorted(set(rects), key=lambda q: (-q[2] * q[3], q))
    kept: list[Rect] = []
    for r, c, h, w in unique:
        if not any(
            kr <= r and kc <= c and kr + kh >= r + h and kc + kw >= c + w for kr, kc, kh, kw in kept
        ):
            kept.append((r, c, h, w))
    return kept
