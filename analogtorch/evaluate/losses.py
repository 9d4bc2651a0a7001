"""The result of ``sensitivity``: the loss of each layer, and of all layers together."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from analogtorch.devices import Cell
from analogtorch.evaluate.conditions import listed
from analogtorch.evaluate.interval import UNBOUNDED, Bounds
from analogtorch.evaluate.metric import UNNAMED, checked_limit
from analogtorch.evaluate.suggestion import Suggestion, suggest
from analogtorch.files import comma_separated
from analogtorch.files.figures import draw
from analogtorch.values.shown import Shown

Effect = Literal["bits", "output_noise", "noise", "drift"]
EFFECTS: tuple[Effect, ...] = get_args(Effect)
"""The effects that can be measured; each includes those before it."""
SINGLE: tuple[Effect, ...] = ("bits", "output_noise")
"""Effects that do not depend on the devices of a chip; they are measured once."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss of the metric over several chips; it is negative where the metric improves."""

    mean: float
    std: float
    """Standard deviation over the chips; zero for one chip, and for ``bits`` and
    ``output_noise``."""


@dataclass(frozen=True, kw_only=True)
class LayerLoss:
    """The losses that one analog layer causes, or one matrix of a module that has several."""

    name: str
    """Full name in the model; empty if the model is the layer itself."""
    weights: int
    """Number of weights on the chip."""
    blocks: int
    """Number of blocks, each of which takes cells of one tile."""
    cell: Cell
    """The unit cell that holds one weight."""
    loss: dict[Effect, Loss]
    """Loss of the metric, by effect, when this layer alone is on the chip."""


@dataclass(frozen=True, kw_only=True)
class Sensitivity(Shown):
    """What ``sensitivity`` measured; print it for a table."""

    rows: tuple[LayerLoss, ...]
    """The layers, sorted by their loss under the last of ``effects``, largest first."""
    reference: float
    """The metric with all layers exact, which is that of the digital model."""
    total: dict[Effect, Loss]
    """Loss of the metric, by effect, with all layers on the chip."""
    effects: tuple[Effect, ...]
    """The effects that were measured, in the order of ``EFFECTS``."""
    time: str
    """Time after programming that ``drift`` was measured at."""
    seeds: tuple[int, ...]
    """Seed of each chip: ``program(model, seed=seeds[i])`` programs it again."""
    note: str = ""
    """A caveat of ``time``, such as that the devices' data end before it; empty if there is
    none."""
    recovery: str = ""
    """What the chips of ``noise`` and ``drift`` correct of themselves before they are measured
    (``Recovery.summary``); empty: nothing beside drift."""
    conditions: tuple[str, ...] = ()
    """What of the chips of ``noise`` and ``drift`` is not as by default, such as their defects
    (``analogtorch.evaluate.conditions``); empty: nothing."""
    bounds: Bounds = UNBOUNDED
    """Smallest and largest number that the metric can be, infinite if it is not known."""
    metric: str = UNNAMED
    """Name of the metric."""

    @property
    def sum(self) -> dict[Effect, float]:
        """Sum of the layers' mean losses, by effect.

        Where it is far from ``total``, the errors of the layers do not simply add.
        """
        return {
            effect: math.fsum(row.loss[effect].mean for row in self.rows) for effect in self.effects
        }

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the cells, ready for JSON."""

        def plain(loss: dict[Effect, Loss]) -> dict[str, dict[str, float]]:
            return {effect: dataclasses.asdict(value) for effect, value in loss.items()}

        facts = ("name", "weights", "blocks")
        rows = [
            {**{f: getattr(row, f) for f in facts}, "loss": plain(row.loss)} for row in self.rows
        ]
        whole: dict[str, Any] = {"metric": self.metric, "reference": self.reference}
        whole |= {"time": self.time, "seeds": list(self.seeds)}
        whole |= {"note": self.note} if self.note else {}
        whole |= {"recovery": self.recovery} if self.recovery else {}
        whole |= listed(self.conditions)
        return {
            **whole,
            "effects": list(self.effects),
            "layers": rows,
            "sum": self.sum,
            "total": plain(self.total),
        }

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return one line per layer, then all on the chip, separated by commas.

        Each effect has its mean and standard deviation over the chips. It is written to ``path``,
        too, if given.

        Raises:
            OSError: the file cannot be written.
        """

        def figures(loss: dict[Effect, Loss]) -> list[float]:
            return [x for e in self.effects for x in (loss[e].mean, loss[e].std)]

        columns = [name for effect in self.effects for name in (effect, f"{effect}_std")]
        rows: list[list[Any]] = [["name", "weights", "blocks", *columns]]
        rows += [[row.name, row.weights, row.blocks, *figures(row.loss)] for row in self.rows]
        rows.append(["all on the chip", None, None, *figures(self.total)])
        return comma_separated(rows, path)

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the losses as bars, the largest on top.

        File and errors are those of ``analogtorch.files.figures.draw``.
        """
        return draw(self, path)

    def suggest(self, budget: float, *, effect: Effect | None = None) -> Suggestion:
        """Estimate which change keeps the loss within ``budget``.

        Args:
            budget: the largest loss to accept, in the units of the metric, >= 0, and at most the
                width of ``bounds``.
            effect: the effect whose loss counts; by default the last of ``effects``, which includes
                the others.

        Returns:
            Layers to keep digital, or layers to give more devices;
            ``analogtorch.evaluate.suggestion`` describes the estimate.

        Raises:
            ValueError: the budget is no number or out of range, or the effect was not measured.
        """
        widest = self.bounds[1] - self.bounds[0]
        budget = checked_limit(
            "suggest: budget", budget, (0, widest), "finite number", "in the metric's units"
        )
        if effect is not None and effect not in self.effects:
            raise ValueError(
                f"suggest: effect {effect!r} was not measured, {self.effects} were; name it in "
                "analogtorch.sensitivity(..., effects=...)"
            )
        return suggest(self, budget, effect or self.effects[-1])
