"""The losses that layers cause alone, as a table for the terminal and as bars."""

import math
from typing import Any

from analogtorch.evaluate.losses import SINGLE, Effect, Loss, Sensitivity
from analogtorch.files.figures import new_figure
from analogtorch.report.columns import aligned, called, number_form, over_chips, with_spread
from analogtorch.values.shown import as_figure, as_text

_BAR = 20
"""Number of characters of the longest bar."""
_SHOWN = 40
"""Most layers that a plot shows."""


@as_text.register
def table(found: Sensitivity) -> str:
    """Return one row per layer, the largest loss first, then the sum and all layers together."""
    last, form = found.effects[-1], number_form(_losses(found), least=4)
    longest = max((row.loss[last].mean for row in found.rows), default=0.0)

    def text(loss: Loss, effect: Effect) -> str:
        return with_spread(loss.mean, spread(found, loss, effect), form)

    rows = [
        (
            "layer",
            "weights",
            "blocks",
            *(effect_title(found, effect) for effect in found.effects),
            "",
        )
    ]
    for row in found.rows:
        share = row.loss[last].mean / longest if longest > 0 else 0.0
        losses = (text(row.loss[effect], effect) for effect in found.effects)
        facts = (row.name or "(root)", f"{row.weights:,}", str(row.blocks))
        rows.append((*facts, *losses, "#" * round(_BAR * share)))
    weights = sum(row.weights for row in found.rows)
    blocks = sum(row.blocks for row in found.rows)
    no_spread = " " * len(f" ± {0.0:{form}}")
    sums = (f"{found.sum[e]:{form}}{no_spread * has_spread(found, e)}" for e in found.effects)
    totals = (text(found.total[e], e) for e in found.effects)
    rows.append(("sum of the layers", f"{weights:,}", str(blocks), *sums, ""))
    rows.append(("all on the chip", "", "", *totals, ""))
    lines = aligned(rows, left=(0, len(rows[0]) - 1))
    rule = "-" * len(lines[0])
    chips = f", {over_chips(len(found.seeds))}"
    if set(found.effects) <= set(SINGLE):
        chips = ""
    return "\n".join(
        [
            f"{found.metric} with all layers exact: {found.reference:{form}}",
            f"its loss with one layer on the chip and the others exact{chips}",
            *("", lines[0], rule, *lines[1:-2], rule, *lines[-2:]),
            *([f"* {found.time} is {found.note}"] if found.note else []),
            *remarks(found),
        ]
    )


@as_figure.register
def plot(found: Sensitivity) -> Any:
    """Draw the losses of the 40 layers that lose most, with one bar per effect."""
    rows = found.rows[:_SHOWN]
    figure = new_figure(8, 1.6 + 0.22 * len(rows) * (1 + len(found.effects)) / 2)
    axes, height = figure.add_subplot(), 0.8 / len(found.effects)
    for number, effect in enumerate(found.effects):
        losses = [row.loss[effect] for row in rows]
        middles = [i + (number - (len(found.effects) - 1) / 2) * height for i in range(len(rows))]
        spreads = [loss.std for loss in losses] if has_spread(found, effect) else None
        means = [loss.mean for loss in losses]
        name = f"{effect_title(found, effect)}, all layers: {found.total[effect].mean:.4g}"
        axes.barh(middles, means, height, xerr=spreads, color=f"C{number}", label=name)
    axes.set_yticks(range(len(rows)), [row.name or "(root)" for row in rows])
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"loss of {called(found.metric)} with this layer alone on the chip")
    axes.set_title(
        f"{len(rows)} of {len(found.rows)} layers; {found.reference:.4g} with all of them exact"
    )
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    return figure


def effect_title(found: Sensitivity, effect: Effect) -> str:
    """Return the heading of an effect in tables."""
    titles: dict[Effect, str] = {
        "output_noise": "output noise",
        "noise": "noise (0 s)",
        "drift": f"drift ({found.time}{'*' * bool(found.note)})",
    }
    return titles.get(effect, effect)


def remarks(found: Sensitivity) -> list[str]:
    """Return what the losses on chips have in them beside what their headings say."""
    effects = " and ".join(
        effect_title(found, effect) for effect in found.effects if effect not in SINGLE
    )
    texts = [*[found.recovery] * bool(found.recovery), *found.conditions]
    return [f"in {effects}, {text}" for text in texts] if effects else []


def has_spread(found: Sensitivity, effect: Effect) -> bool:
    """Return whether an effect was measured on several chips."""
    return effect not in SINGLE and len(found.seeds) > 1


def spread(found: Sensitivity, loss: Loss, effect: Effect) -> float:
    """Return the standard deviation of a loss; NaN if it was measured once."""
    return loss.std if has_spread(found, effect) else math.nan


def _losses(found: Sensitivity) -> list[float]:
    of_each = [loss for row in found.rows for loss in row.loss.values()]
    return [loss.mean for loss in (*of_each, *found.total.values())]
