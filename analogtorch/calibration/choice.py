"""The report of ``calibrate``: what was chosen for each layer, and the gain."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from analogtorch.values.shown import Shown

Effort = Literal["ranges", "default", "search"]
Verdict = Literal["ranges", "default", "search", "uncalibrated"]


@dataclass(frozen=True, kw_only=True)
class LayerChoice:
    """The setting of one layer."""

    name: str
    """Full name in the model; empty if the model is the layer itself."""
    share: float | None
    """Share, 0..1, of the sum of the errors that single layers on the chip cause, the others being
    exact; None: not measured."""
    dac: str
    """Way in which its DAC range was found; ``vector`` where each vector sets it."""
    input_range: str
    """The DAC range, as ``summary`` writes it."""
    weight_scale: str
    """Unit that has one weight scale: ``block`` or ``column``."""
    target_time: float | None
    """Time after programming, s, for which the targets of its devices are right
    (``Chip.drift_aware``); None: at once."""
    adc: str
    """Where its ADC range is from: ``chip``, or the method that found it."""
    gain: float
    """Share of the error of all layers that this layer's own choice saved; 0: as most layers."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One setting of all layers that was tried, or the choices of single layers together."""

    what: str
    error: float
    """Error on the batches for choosing."""


@dataclass(frozen=True, kw_only=True)
class CalibrationReport(Shown):
    """What ``calibrate`` tried, chose and gained; print it for a table.

    An error is the mean squared error of the outputs of the model on noisy chips in units of the
    variance of their exact values, of all numbers of an output or, where they are quantities of
    several units, of each: 0 is the digital model, 1 a model that always returns its mean output.
    """

    effort: Effort
    """As ``calibrate`` took it."""
    layers: tuple[LayerChoice, ...]
    """The layers, in the order of the model."""
    steps: tuple[Step, ...]
    """What was tried, in that order."""
    errors: dict[Verdict, float]
    """Error on the batches to judge on: of the model as this effort would leave it, and
    uncalibrated; of a search also as ``effort="default"`` would leave it. Empty where ``effort``
    looks at no noisy chips, or where there are no outputs to compare."""
    kept: Verdict
    """The setting that the model has now: that of this effort, unless another erred less."""
    batches: tuple[int, int, int]
    """Number of batches that the ranges were found on, chosen on, and judged on. Those of a search
    have nothing in common, though the default beside it uses all; the other efforts choose and
    judge on the same ones, which with fewer than four batches are those that ranges are found
    on."""
    notes: tuple[str, ...] = ()
    """What the hardware does not offer, what costs digital operations, and deviations from it."""

    @property
    def gain(self) -> float:
        """Share of the error of the uncalibrated model that the kept setting saves."""
        before = self.errors.get("uncalibrated", 0.0)
        return 1 - self.errors[self.kept] / before if before > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {**dataclasses.asdict(self), "gain": self.gain}
