"""A floorplan as SVG, and the tiles of each matrix in words."""

from collections.abc import Collection
from html import escape

from analogtorch.mapping import ChipMapping
from analogtorch.mapping.types import Placement
from analogtorch.report.floorplan import Tile, colours, floorplan
from analogtorch.report.page.parts import Drawing

_NUMBERED = 100
"""Most tiles whose numbers are drawn; more are too small for them."""


def drawn(mapping: ChipMapping) -> Drawing:
    """Return every tile of the chips in use, with the blocks of each matrix in its colour."""
    plan, colour, array = floorplan(mapping), colours(mapping), mapping.chip.array
    lines = [
        f'<svg viewBox="-0.1 -0.1 {_r(plan.width + 0.2)} {_r(plan.height + 0.2)}" role="img" '
        f'aria-label="{escape(_alternative(mapping))}">'
    ]
    for frame in plan.frames:
        lines += [
            f'<rect class="chip" x="{_r(frame.x)}" y="{_r(frame.y)}" width="{_r(frame.width)}" '
            f'height="{_r(frame.height)}"/>',
            f'<text x="{_r(frame.x + 0.03 * frame.width)}" y="{_r(frame.y + 0.09 * frame.width)}" '
            f'font-size="{_r(0.08 * frame.width)}">chip {frame.chip}</text>',
        ]
    for style, used in (("unused", False), ("used", True)):
        squares = [
            f"M{_r(t.x)} {_r(t.y)}h1v1h-1z" for t in plan.tiles if bool(t.placements) == used
        ]
        lines.append(f'<path class="{style}" d="{"".join(squares)}"/>')
    retired = set(mapping.retired)
    crosses = [_cross(t) for t in plan.tiles if (t.chip, t.tile) in retired]
    lines += [f'<path class="retired" d="{"".join(crosses)}"/>'] if crosses else []
    for p, x, y in plan.blocks():
        lines.append(
            f'<rect class="block" x="{_r(x + p.col / array.columns)}" '
            f'y="{_r(y + p.row / array.rows)}" width="{_r(p.block.cols / array.columns)}" '
            f'height="{_r(p.block.rows / array.rows)}" fill="{colour[p.block.matrix]}">'
            f"<title>{escape(_described(p))}</title></rect>"
        )
    if len(plan.tiles) <= _NUMBERED:
        lines += [
            f'<text class="number" x="{_r(t.x + 0.06)}" y="{_r(t.y + 0.27)}" font-size="0.24">'
            f"{t.tile}</text>"
            for t in plan.tiles
        ]
    legend = [
        (colour[matrix.name], f"{matrix.name}: {where(mapping, matrix.name)}")
        for matrix in mapping.matrices
    ]
    unused = len(plan.tiles) - mapping.tiles_used
    legend += [("#e3e7ea", "cells that no block takes")]
    legend += (
        [("transparent", f"{unused:,} unused tile{'s' if unused > 1 else ''}")] if unused else []
    )
    return Drawing(
        svg="\n".join([*lines, "</svg>"]),
        caption="Each square is a tile, each coloured rectangle in it a block of a matrix: "
        f"{array.rows} rows from top to bottom, {array.columns} columns from left to right."
        + (" A cross marks a retired tile." if crosses else ""),
        legend=tuple(legend),
        legend_title="Legend of the floorplan",
    )


def where(mapping: ChipMapping, matrix: str) -> str:
    """Return the tiles of a matrix, such as ``tiles 0-3, 7``, with the chips where there are two.

    Chips whose tiles are the same are named together.
    """
    on: dict[int, set[int]] = {}
    for p in mapping.matrix_blocks(matrix):
        on.setdefault(p.chip, set()).add(p.tile)
    alike: dict[str, list[int]] = {}
    for chip in sorted(on):
        alike.setdefault(_ranges("tile", on[chip]), []).append(chip)
    if mapping.num_chips == 1:
        return next(iter(alike))
    return "; ".join(f"{_ranges('chip', chips)} {tiles}" for tiles, chips in alike.items())


def _ranges(what: str, numbers: Collection[int]) -> str:
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    plural = "s" if len(numbers) > 1 else ""
    return f"{what}{plural} {', '.join('–'.join(map(str, run)) for run in found)}"


def _cross(tile: Tile) -> str:
    return f"M{_r(tile.x)} {_r(tile.y)}l1 1m0 -1l-1 1"


def _alternative(mapping: ChipMapping) -> str:
    return (
        f"Floorplan of {mapping.num_chips} x {mapping.chip.name}; the legend names the tiles of "
        "each matrix"
    )


def _described(p: Placement) -> str:
    b = p.block
    copy = f", copy {b.copy}" if b.copy else ""
    return (
        f"{b.matrix}{copy}: rows {b.row} to {b.row + b.rows - 1}, columns {b.col} to "
        f"{b.col + b.cols - 1}; chip {p.chip} tile {p.tile}, row {p.row}, column {p.col}"
    )


def _r(number: float) -> str:
    return f"{number:.5g}"
