"""Draw a mapping with matplotlib: floorplan, utilisation and the energy of an inference."""

from typing import Any

from analogtorch.cost_model import CostReport
from analogtorch.files.figures import new_figure
from analogtorch.mapping import ChipMapping
from analogtorch.report.floorplan import (
    Floorplan,
    colours,
    cost_shown,
    energy_split,
    energy_unit,
    floorplan,
    short,
)
from analogtorch.values.shown import as_figure

_LEGEND = 40
"""Most matrices that the legend names."""


@as_figure.register
def plot(mapping: ChipMapping, *, cost: CostReport | None = None) -> Any:
    """Draw a mapping: the floorplan and the utilisation of each tile in use.

    The floorplan has a square per tile, unused ones in white, with the blocks of each matrix in
    its colour and the legend beside it.
    """
    cost = cost_shown("plot", mapping, cost)
    panels = 2 if cost is None else 3
    plan = floorplan(mapping)
    map_height = max(1.5, 6.5 * plan.height / plan.width)
    heights = [map_height, 1.8, 2.2][:panels]
    figure = new_figure(11, 1 + sum(heights))
    axes = figure.subplots(panels, 1, height_ratios=heights)
    _tiles(axes[0], mapping, plan)
    _utilisation(axes[1], mapping)
    if cost is not None:
        _energy(axes[2], cost)
    return figure


def _tiles(axes: Any, mapping: ChipMapping, plan: Floorplan) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Patch, Rectangle

    colour, chip = colours(mapping), mapping.chip
    frames = [Rectangle((t.x, t.y), 1, 1) for t in plan.tiles]
    ground = ["#eeeeee" if t.placements else "white" for t in plan.tiles]
    axes.add_collection(
        PatchCollection(frames, facecolor=ground, edgecolor="#999999", linewidth=0.5)
    )
    blocks, faces = [], []
    for p, x, y in plan.blocks():
        left, top = x + p.col / chip.array.columns, y + p.row / chip.array.rows
        blocks.append(
            Rectangle(
                (left, top), p.block.cols / chip.array.columns, p.block.rows / chip.array.rows
            )
        )
        faces.append(colour[p.block.matrix])
    axes.add_collection(PatchCollection(blocks, facecolor=faces, edgecolor="black", linewidth=0.2))
    for f in plan.frames:
        axes.add_patch(
            Rectangle((f.x, f.y), f.width, f.height, fill=False, edgecolor="#999999", linewidth=0.5)
        )
        axes.text(f.x + 0.03 * f.width, f.y + 0.09 * f.width, f"chip {f.chip}", fontsize=6)
    axes.set_xlim(-0.1, plan.width + 0.1)
    axes.set_ylim(plan.height + 0.1, -0.1)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(
        f"{mapping.model} on {mapping.num_chips} x {chip.name}: {mapping.tiles_used} tiles, "
        f"{mapping.utilisation:.1%} of their cells taken"
    )
    handles = [Patch(facecolor=c, label=name) for name, c in list(colour.items())[:_LEGEND]]
    if len(colour) > _LEGEND:
        handles.append(Patch(facecolor="none", label=f"... {len(colour) - _LEGEND} more"))
    axes.legend(
        handles=handles,
        fontsize=6,
        loc="upper left",
        bbox_to_anchor=(1, 1),
    )


def _utilisation(axes: Any, mapping: ChipMapping) -> None:
    shares = [100 * share for share in mapping.tile_utilisation.values()]
    axes.bar(range(len(shares)), shares, width=1.0 if len(shares) > 100 else 0.8, color="#4878a8")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.set_xlim(-0.6, len(shares) - 0.4)
    axes.set_ylim(0, 100)
    axes.set_xlabel("tile in use, in the order of the chips")
    axes.set_ylabel("cells taken, %")


def _energy(axes: Any, cost: CostReport) -> None:
    split = energy_split(cost)
    unit, joules = energy_unit(split)
    values = [joule / joules for joule in split.values()][::-1]
    bars = axes.barh(list(split)[::-1], values, color="#a85448")
    axes.bar_label(bars, [short(value) for value in values], fontsize=7, padding=2)
    axes.set_xlim(0, 1.12 * max(values))  # room for the longest bar's label
    axes.set_xlabel(f"energy of one inference, {unit}")
