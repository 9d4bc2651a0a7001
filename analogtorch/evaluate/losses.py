"""What ``sensitivity`` found, as one value: the loss of each layer and of all together."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from analogtorch.devices import UnitCell
from analogtorch.evaluate.suggestion import Suggestion, suggest
from analogtorch.values import checks
from analogtorch.values.shown import as_text, draw

Effect = Literal["bits", "readings", "noise", "drift"]
EFFECTS: tuple[Effect, ...] = get_args(Effect)
"""What can be measured; each holds all that the ones before it do."""
SINGLE: tuple[Effect, ...] = ("bits", "readings")
"""Effects that do not depend on the devices of a chip, and are measured once."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What the metric loses, over the chips; negative where it gains."""

    mean: float
    std: float
    """Standard deviation over the chips; zero for one chip, and for ``bits`` and ``readings``."""


@dataclass(frozen=True, kw_only=True)
class LayerLoss:
    """One analog layer, or one matrix of a module that has several."""

    name: str
    """Full name in the model; empty for a model that is the layer itself."""
    weights: int
    """Weights on the chip."""
    blocks: int
    """Blocks to be placed on tiles."""
    cell: UnitCell
    """What holds a weight."""
    loss: dict[Effect, Loss]
    """What the metric loses when this layer alone is on the chip."""


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What ``sensitivity`` returns; print it for a table."""

    rows: tuple[LayerLoss, ...]
    """The layers, by their loss under the last of ``effects``, largest first."""
    reference: float
    """The metric with all layers exact: the digital model's."""
    total: dict[Effect, Loss]
    """What the metric loses with all layers on the chip."""
    effects: tuple[Effect, ...]
    """What was measured, in the order of ``EFFECTS``."""
    time: str
    """Time after programming of ``drift``."""
    seeds: tuple[int, ...]
    """Of each chip: ``program(model, seed=seeds[i])`` gives it again."""
    note: str = ""
    """What a reader must know of ``time``, such as that the devices' data end before; empty:
    nothing."""

    @property
    def sum(self) -> dict[Effect, float]:
        """The layers' mean losses added up; where it is far from ``total``, their errors do not
        simply add.
        """
        return {
            effect: math.fsum(row.loss[effect].mean for row in self.rows) for effect in self.effects
        }

    def __str__(self) -> str:
        return as_text(self)

    def to_dict(self) -> dict[str, Any]:
        """All of it but the cells, ready for JSON."""

        def told(loss: dict[Effect, Loss]) -> dict[str, dict[str, float]]:
            return {effect: dataclasses.asdict(value) for effect, value in loss.items()}

        facts = ("name", "weights", "blocks")
        rows = [
            {**{f: getattr(row, f) for f in facts}, "loss": told(row.loss)} for row in self.rows
        ]
        whole = {"reference": self.reference, "time": self.time, "seeds": list(self.seeds)}
        whole |= {"note": self.note} if self.note else {}
        return {
            **whole,
            "effects": list(self.effects),
            "layers": rows,
            "sum": self.sum,
            "total": told(self.total),
        }

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the layers' losses as bars, the largest on top; see
        ``analogtorch.report.sensitivity.plot``.
        """
        return draw(self, path)

    def suggest(self, budget: float, *, effect: Effect | None = None) -> Suggestion:
        """What to change so that the model loses at most ``budget``, by estimate (``suggestion``).

        Args:
            budget: the loss to stay within, in the units of the metric, >= 0.
            effect: under which it is counted; by default the last of ``effects``, which holds the
                others.

        Raises:
            ValueError: a negative or infinite budget, or an effect that was not measured.
        """
        budget = checks.number(
            "suggest: budget", budget, least=0, what="finite number", remedy="in the metric's units"
        )
        if effect is not None and effect not in self.effects:
            raise ValueError(
                f"suggest: effect {effect!r} was not measured, {self.effects} were; name it in "
                "analogtorch.sensitivity(..., effects=...)"
            )
        return suggest(self, budget, effect or self.effects[-1])
