"""What to change of a model on a chip so that it loses less: an estimate from the losses of its
layers.

The estimate is additive: what is left on the chip loses the sum of what its layers lose by
themselves, gains counted as 0. Where the measured loss of the whole is larger than that sum, every
layer's share is scaled up to it; where it is smaller, shares are scaled down only if all layers
stay on the chip, because a layer that leaves may have hidden what others lose. Layers whose errors
amplify or mask each other break it, so measure what you have changed.

More devices per weight: the error of ``n`` devices that share a weight and err independently has
``1 / n`` of the variance of one. ASSUMED: the loss falls with the standard deviation, ``1 /
sqrt(n)``, as the share of inputs does that a small error pushes over a decision boundary; a squared
error falls faster. Only what ``noise`` loses beyond ``readings`` is taken to fall. Converters and
the noise of the readings stay, which are most of the loss where one large weight makes all others
small; and so does all that drift adds, most of which the devices of a weight have in common.
"""

import dataclasses
import glob
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analogtorch.devices import UnitCell

if TYPE_CHECKING:
    from analogtorch.evaluate.losses import Effect, LayerLoss, Sensitivity

MULTIPLES = (2, 4)
"""Times as many devices per weight as now, which ``suggest`` tries in this order."""


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """Two ways to stay within a loss, by estimate; print it. Both name layers and matrices, as
    ``convert`` takes them.

    Apply either to the digital model (``to_digital`` gives it) beside what you told ``convert``
    before, then calibrate again. Where the model is within the budget as it is, both are empty.
    """

    effect: "Effect"
    """Under which the loss is counted."""
    budget: float
    """The loss to stay within."""
    loss: float
    """Measured, with all layers on the chip."""
    exclude: tuple[str, ...]
    """Layers to keep digital, for ``convert(exclude=...)``; the fewest that do, by their losses."""
    excluded_weights: int
    """Weights that this keeps off the chip."""
    weights: int
    """Weights on the chip now."""
    excluded_loss: float
    """Estimated, with these layers digital."""
    per_layer: dict[str, dict[str, UnitCell]]
    """Or layers whose weights get more devices, for ``convert(per_layer=...)``; empty where that is
    not enough."""
    multiple: int
    """Times as many devices per weight as now in these layers; 1: as now. A real chip spends as
    many times the unit cells; ``summary`` and ``map_to_chip`` count weights, and so do not know."""
    added_cells: int
    """Unit cells of today's kind that this takes more than now."""
    per_layer_loss: float | None
    """Estimated, with these layers on more devices; None where that is not enough."""
    why_not: str = ""
    """Why more devices are not offered."""

    def __str__(self) -> str:
        budget = f"budget {self.budget:.4g} under {self.effect!r}"
        begun = f"{budget}: all layers on the chip lose {self.loss:.4g}"
        if self.loss <= self.budget:
            return f"{begun}, which is within it"
        percent = f"{self.excluded_weights / self.weights:.1%}"
        share = f"{self.excluded_weights:,} of {self.weights:,} weights ({percent})"
        lines = [begun, f"digital: {share} off the chip, loss {self.excluded_loss:.4g} by estimate"]
        if self.excluded_weights == self.weights:
            lines.append("  all layers: nothing is left for the chip")
        else:
            lines.append(f"  convert(..., exclude={list(self.exclude)})")
        if self.per_layer:
            what = f"{self.multiple} times as many devices, {self.added_cells:,} more cells"
            lines.append(f"or {what}: loss {self.per_layer_loss:.4g} by estimate")
            lines.append(
                f"  convert(..., per_layer=suggestion.per_layer)  # {', '.join(self.per_layer)}"
            )
        else:
            lines.append(f"more devices: {self.why_not}")
        return "\n".join(
            [*lines, "The estimates add up what the layers lose by themselves: measure the result."]
        )


def suggest(found: "Sensitivity", budget: float, effect: "Effect") -> Suggestion:
    """``Sensitivity.suggest``."""
    rows = {row.name: row for row in found.rows}
    total = found.total[effect].mean
    before, certain = _shares(rows, found, effect, 1.0), dict.fromkeys(rows, 0.0)
    off, left = _fewest(before, certain, total, budget) or (tuple(rows), 0.0)
    multiple, more, more_left, why_not = _more_devices(rows, found, effect, budget)
    return Suggestion(
        effect=effect,
        budget=budget,
        loss=total,
        exclude=tuple(map(glob.escape, off)),  # names may hold what a glob reads otherwise
        excluded_weights=sum(rows[name].weights for name in off),
        weights=sum(row.weights for row in rows.values()),
        excluded_loss=left,
        per_layer={
            glob.escape(name): {"cell": _larger(rows[name].cell, multiple)} for name in more
        },
        multiple=multiple,
        added_cells=(multiple - 1) * sum(rows[name].weights for name in more),
        per_layer_loss=more_left,
        why_not=why_not,
    )


def _larger(cell: UnitCell, multiple: int) -> UnitCell:
    return dataclasses.replace(cell, devices_per_polarity=multiple * cell.devices_per_polarity)


def _shares(
    rows: "dict[str, LayerLoss]", found: "Sensitivity", effect: "Effect", least: float
) -> dict[str, float]:
    """Of each layer, its part of the loss: what it loses, times the whole's loss over the sum of
    all, >= ``least``.
    """
    losses = {name: max(row.loss[effect].mean, 0.0) for name, row in rows.items()}
    total, added = found.total[effect].mean, math.fsum(losses.values())
    if added <= 0:  # together they lose what no layer does by itself: nobody knows which
        return dict.fromkeys(rows, max(total, 0.0) / len(rows))
    return {name: loss * max(least, total / added) for name, loss in losses.items()}


def _more_devices(
    rows: "dict[str, LayerLoss]", found: "Sensitivity", effect: "Effect", budget: float
) -> tuple[int, tuple[str, ...], float | None, str]:
    """How many times the devices for which layers, the loss that leaves, and why there is none."""
    total = found.total[effect].mean
    if total <= budget:
        return 1, (), total, ""
    if effect in ("bits", "readings"):
        return 1, (), None, "they do not change what converters and readings lose"
    if "readings" not in found.effects or "noise" not in found.effects:
        return 1, (), None, "measure 'readings' and 'noise' too, to tell what they would change"
    before = _shares(rows, found, effect, 0.0)
    falling = {name: share * _falling(rows[name], effect) for name, share in before.items()}
    for multiple in MULTIPLES:
        after = {
            name: share - falling[name] * (1 - multiple**-0.5) for name, share in before.items()
        }
        if chosen := _fewest(before, after, total, budget):
            return multiple, *chosen, ""
    return 1, (), None, f"up to {MULTIPLES[-1]} times as many are not enough"


def _falling(row: "LayerLoss", effect: "Effect") -> float:
    """The share, 0..1, of the loss that more devices make smaller."""
    read, noise, whole = (max(row.loss[e].mean, 0.0) for e in ("readings", "noise", effect))
    return max(min(noise, whole) - read, 0.0) / whole if whole > 0 else 0.0


def _fewest(
    before: dict[str, float], after: dict[str, float], total: float, budget: float
) -> tuple[tuple[str, ...], float] | None:
    """The fewest layers to change so that the loss is within the budget, and that loss; None if all
    are not enough.

    The best first: under a sum, no other choice of as many leaves less.
    """
    if total <= budget:
        return (), total
    chosen: list[str] = []
    for name in sorted(before, key=lambda name: after[name] - before[name]):
        chosen.append(name)
        left = math.fsum(after[n] if n in chosen else loss for n, loss in before.items())
        if left <= budget:
            return tuple(chosen), left
    return None
