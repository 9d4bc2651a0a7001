"""An estimate of what to change so that a model on a chip loses less, from its layers' losses.

The estimate is additive: the layers that stay on the chip lose the sum of what each loses alone,
with improvements counted as 0. Where the measured loss of the whole model is larger than that sum,
every layer's share is scaled up to it. Where it is smaller, shares are scaled down only if all
layers stay on the chip, because a layer that leaves may have hidden what others lose. Layers whose
errors amplify or mask each other break the estimate, so measure what you have changed.

More devices per weight: the error of ``n`` devices that share a weight and err independently has
``1 / n`` of the variance of one. ASSUMED: the loss falls with the standard deviation, ``1 /
sqrt(n)``, as the share of inputs does that a small error pushes over a decision boundary; a squared
error falls faster. Only the part of ``noise`` beyond ``output_noise`` is taken to fall. Two parts
stay: rounding and output noise, which are most of the loss where one large weight makes all others
small; and all that drift adds, most of which the devices of a weight have in common. Errors of ADCs
and DACs that the chip leaves uncorrected, such as offsets, stay too, but are taken to fall: they
are part of ``noise``, so that the estimate is too small where they are large.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analogtorch.devices import Cell
from analogtorch.values.shown import Shown

if TYPE_CHECKING:
    from analogtorch.evaluate.losses import Effect, LayerLoss, Sensitivity

MULTIPLES = (2, 4)
"""Multiples of today's number of devices per weight, in the order in which ``suggest`` tries
them."""


@dataclass(frozen=True, kw_only=True)
class Suggestion(Shown):
    """Two changes that keep a loss within a budget, by estimate; print it for a text.

    Either names layers and matrices as ``convert`` takes them. Apply it to the digital model
    (``to_digital`` returns it) together with the arguments that you gave ``convert`` before, then
    calibrate again. Both are empty if the model is within the budget as it is.
    """

    effect: "Effect"
    """The effect whose loss counts."""
    budget: float
    """The largest loss to accept."""
    loss: float
    """Measured loss with all layers on the chip."""
    exclude: tuple[str, ...]
    """Layers to keep digital, for ``convert(exclude=...)``: the fewest that are enough."""
    excluded_weights: int
    """Number of weights that this keeps off the chip."""
    weights: int
    """Number of weights on the chip now."""
    excluded_loss: float
    """Estimated loss with these layers digital."""
    per_layer: dict[str, dict[str, Cell]]
    """Cells with more devices, by layer, for ``convert(per_layer=...)``; empty if they are not
    enough."""
    multiple: int
    """Factor on the number of devices per weight in these layers; 1 leaves it. A real chip spends
    as many times the unit cells, and ``summary``, ``map_to_chip`` and ``cost`` count them, unless
    these are all layers: pass ``map_to_chip`` the chip then."""
    added_cells: int
    """Number of unit cells of today's kind that these layers take in addition."""
    per_layer_loss: float | None
    """Estimated loss with more devices in these layers; None if they are not enough."""
    why_not: str = ""
    """The reason why more devices are not offered; empty if they are."""

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
    """Return what ``Sensitivity.suggest`` documents."""
    rows = {row.name: row for row in found.rows}
    total = found.total[effect].mean
    before, certain = shares(rows, found, effect, 1.0), dict.fromkeys(rows, 0.0)
    off, left = _fewest(before, certain, total, budget) or (tuple(rows), 0.0)
    multiple, more, more_left, why_not = _more_devices(rows, found, effect, budget)
    return Suggestion(
        effect=effect,
        budget=budget,
        loss=total,
        exclude=off,
        excluded_weights=sum(rows[name].weights for name in off),
        weights=sum(row.weights for row in rows.values()),
        excluded_loss=left,
        per_layer={name: {"cell": rows[name].cell.enlarged(multiple)} for name in more},
        multiple=multiple,
        added_cells=(multiple - 1) * sum(rows[name].weights for name in more),
        per_layer_loss=more_left,
        why_not=why_not,
    )


def shares(
    rows: "dict[str, LayerLoss]", found: "Sensitivity", effect: "Effect", least: float
) -> dict[str, float]:
    """Return each layer's part of the loss of all layers.

    It is what the layer loses alone, times the loss of all layers over the sum of the parts, where
    the factor is at least ``least``.
    """
    losses = {name: max(row.loss[effect].mean, 0.0) for name, row in rows.items()}
    total, added = found.total[effect].mean, math.fsum(losses.values())
    if added <= 0:  # together they lose what no layer does by itself: nobody knows which
        return dict.fromkeys(rows, max(total, 0.0) / len(rows))
    return {name: loss * max(least, total / added) for name, loss in losses.items()}


def _more_devices(
    rows: "dict[str, LayerLoss]", found: "Sensitivity", effect: "Effect", budget: float
) -> tuple[int, tuple[str, ...], float | None, str]:
    """Return a multiple, the layers that need it, the loss that is left, and why there is none."""
    total = found.total[effect].mean
    if total <= budget:
        return 1, (), total, ""
    if effect in ("bits", "output_noise"):
        return 1, (), None, "they do not change what converters and output noise lose"
    if not {"output_noise", "noise"} <= set(found.effects):
        why_not = "measure 'output_noise' and 'noise' too, to know what they would change"
        return 1, (), None, why_not
    before = shares(rows, found, effect, 0.0)
    lost = {name: share * falling(rows[name], effect) for name, share in before.items()}
    for multiple in MULTIPLES:
        after = {name: share - lost[name] * (1 - multiple**-0.5) for name, share in before.items()}
        if chosen := _fewest(before, after, total, budget):
            return multiple, *chosen, ""
    return 1, (), None, f"up to {MULTIPLES[-1]} times as many are not enough"


def falling(row: "LayerLoss", effect: "Effect") -> float:
    """Return the share, 0..1, of the loss of a layer that more devices make smaller."""
    output, noise, whole = (max(row.loss[e].mean, 0.0) for e in ("output_noise", "noise", effect))
    return max(min(noise, whole) - output, 0.0) / whole if whole > 0 else 0.0


def _fewest(
    before: dict[str, float], after: dict[str, float], total: float, budget: float
) -> tuple[tuple[str, ...], float] | None:
    """Return the fewest layers to change to stay within the budget, and the loss that is left.

    The result is None if all layers are not enough. Layers are taken in the order of what their
    change saves: under a sum, no other choice of as many layers leaves less.
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
