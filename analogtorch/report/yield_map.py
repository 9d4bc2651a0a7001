"""What works on the tiles of a chip, as a table for the terminal and as maps of the cells."""

import math
from typing import Any

from analogtorch.files.figures import new_figure
from analogtorch.report.columns import aligned
from analogtorch.simulate.faults import FAULTS, title
from analogtorch.simulate.tile_state import TileState
from analogtorch.simulate.yield_map import WeightErrors, YieldMap
from analogtorch.values.shown import as_figure, as_text

_SHOWN = 64
"""Most tiles that a plot shows."""
_COLOURS = (
    "0.92",
    *("tab:cyan", "tab:orange", "tab:blue", "tab:red", "black"),
    *("tab:olive", "tab:green", "tab:purple", "tab:pink", "tab:brown", "0.4"),
)
"""Colours of the codes of faults; the first is that of what works."""


@as_text.register
def table(found: YieldMap) -> str:
    """Return one row per tile and one for all, in percent, with the faults that occur."""
    shares = {tile: state.shares() for tile, state in found.items()}
    present = [f for f in FAULTS if any(each[f.field] for each in shares.values())]
    header = ["chip", "tile", "cells that work", *(fault.title for fault in present)]
    header += ["analog yield", "error, 1 % to 99 %"] if found.errors else []
    rows = [header]
    for tile, state in found.items():
        row = [*map(str, tile), _percent(state.share)]
        row += [_percent(shares[tile][fault.field]) for fault in present]
        rows.append(row + (_errors(found.errors[tile]) if found.errors else []))
    total = ["all", "", _percent(found.working), *(_percent(found.share(f.field)) for f in present)]
    if found.analog_yield is not None:
        total += [_percent(found.analog_yield), ""]
    rows.append(total)
    lines = aligned(rows, left=())
    rule = "-" * len(lines[0])
    notes = [
        "% of devices, cells, rows, columns or tiles, whichever fails; what fails with something "
        "larger counts there"
    ]
    if found.errors:
        within = next(iter(found.errors.values())).within
        notes.append(
            f"analog yield: % of weights within {within:.0%} of the largest weight of their target "
            "right after programming"
        )
    whole = [lines[0], rule, *lines[1:-1], rule, lines[-1], *notes]
    return "\n".join(line.rstrip() for line in whole)


@as_figure.register
def plot(found: YieldMap) -> Any:
    """Draw the cells of the first 64 tiles, each in the colour of its fault.

    A cell with several broken devices has the colour of the last of its faults in the order of
    ``analogtorch.simulate.faults.FAULTS``.
    """
    tiles = list(found.items())[:_SHOWN]
    across = math.ceil(math.sqrt(len(tiles)))
    down = math.ceil(len(tiles) / across)
    figure = new_figure(1 + 1.6 * across + 2, 1 + 1.8 * down)
    present: set[int] = {0}
    for number, (tile, state) in enumerate(tiles, 1):
        axes = figure.add_subplot(down, across, number)
        present |= _draw_tile(axes, state)
        axes.set_title(_caption(tile, state, found.errors.get(tile)), fontsize="x-small")
    _legend(figure, sorted(present))
    figure.suptitle(f"{len(tiles)} of {len(found)} tiles, {found.working:.2%} of the cells work")
    return figure


def _draw_tile(axes: Any, state: TileState) -> set[int]:
    """Draw the cells of a tile and return the codes that occur."""
    from matplotlib.colors import ListedColormap

    codes = state.faults.amax(0)
    axes.imshow(
        codes.numpy(),
        cmap=ListedColormap(_COLOURS),
        vmin=0,
        vmax=len(FAULTS),
        interpolation="nearest",
    )
    axes.set_xticks([])
    axes.set_yticks([])
    return set(codes.unique().tolist())


def _legend(figure: Any, codes: list[int]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=_COLOURS[code], label=title(code)) for code in codes]
    figure.legend(handles=handles, loc="outside right upper", fontsize="small")


def _caption(tile: tuple[int, int], state: TileState, errors: WeightErrors | None) -> str:
    text = f"chip {tile[0]}, tile {tile[1]}: {state.share:.2%}"
    return text if errors is None else f"{text}\nanalog yield {errors.analog_yield:.2%}"


def _errors(errors: WeightErrors) -> list[str]:
    return [_percent(errors.analog_yield), f"{100 * errors.low:.1f} to {100 * errors.high:.1f}"]


def _percent(share: float) -> str:
    return f"{100 * share:.3f}"
