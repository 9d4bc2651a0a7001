"""The result of ``plan``: what was measured, what is on the Pareto front, and what is cheapest."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from analogtorch.chips import Chip
from analogtorch.evaluate.conditions import listed
from analogtorch.evaluate.interval import Interval
from analogtorch.evaluate.losses import Sensitivity
from analogtorch.evaluate.metric import keeps
from analogtorch.evaluate.plan_cost import PlanCost
from analogtorch.files import comma_separated
from analogtorch.files.figures import draw
from analogtorch.values.shown import Shown, as_html

Cheapest = Literal["energy", "latency", "digital_macs"]
Digital = Literal["int8", "float"]
_CONFIRMED = ("confirmed_metric", "confirmed_half_width")


@dataclass(frozen=True, kw_only=True, eq=False)
class Confirmation:
    """The metric on further chips, which had no part in the choice of what is measured on them."""

    values: Tensor
    """The metric, float64, of shape (chips, times)."""
    time: str
    """The time at which the metric is worst on the mean over these chips."""
    metric: Interval
    """The metric at that time, over these chips."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return _measured(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class HardwarePoint:
    """One choice of hardware for the layers of a model, as it was measured."""

    digital: tuple[str, ...]
    """Layers that it keeps digital, of those that were analog."""
    analog: tuple[str, ...]
    """Layers that it keeps on the chip."""
    devices: dict[str, int]
    """Layers with more devices, and their numbers of unit cells per weight."""
    values: Tensor
    """The metric, float64, of shape (chips, times)."""
    time: str
    """The time at which the metric is worst on the mean over the chips."""
    metric: Interval
    """The metric at that time, over the simulated chips."""
    cost: PlanCost
    """Time, energy, tiles and chips of one inference."""
    arguments: dict[str, Any]
    """See ``convert_arguments``."""
    confirmed: Confirmation | None = None
    """What it reaches on further chips; None: it was not measured there."""

    def convert_arguments(self) -> dict[str, Any]:
        """Return the arguments with which ``convert`` makes this model of the digital one."""
        return dict(self.arguments)

    @property
    def judged(self) -> "Confirmation | HardwarePoint":
        """What it reaches on further chips; itself, if it was not measured there."""
        return self if self.confirmed is None else self.confirmed

    @property
    def name(self) -> str:
        """The choice in words, such as ``digital: dw1, dw2``."""
        if len(self.analog) < len(self.digital):
            more = {name: f" ({count} cells)" for name, count in self.devices.items()}
            return f"on the chip: {_some([name + more.get(name, '') for name in self.analog])}"
        parts = [f"digital: {_some(self.digital)}"] if self.digital else []
        for cells in sorted(set(self.devices.values())):
            layers = [name for name, count in self.devices.items() if count == cells]
            parts.append(f"{cells} cells per weight: {_some(layers)}")
        return "; ".join(parts) or "all analog"

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the arguments, ready for JSON."""
        return {
            "name": self.name,
            "digital": list(self.digital),
            "analog": list(self.analog),
            "devices": dict(self.devices),
            **_measured(self),
            "confirmed": None if self.confirmed is None else self.confirmed.to_dict(),
            **asdict(self.cost),
        }


@dataclass(frozen=True, kw_only=True)
class HardwarePlan(Shown):
    """What ``plan`` found; print it for a table, ``plot`` draws it.

    Energies and latencies are those of one run of the example.
    """

    points: tuple[HardwarePoint, ...]
    """All that was measured, the least energy first."""
    chip: Chip
    """The chip; its ``cost`` has the source of each figure of energy and time."""
    reference: float
    """The metric of the digital model, in floats."""
    floor: float
    """Share of ``reference`` to keep."""
    digital: Digital
    """How digital layers computed."""
    digital_metric: float
    """The metric with all layers digital, computed so."""
    digital_cost: PlanCost
    """The cost of an inference with all layers digital, as int8."""
    cheapest: Cheapest
    """What ``best`` has least of."""
    times: tuple[str, ...]
    """Times after programming."""
    seeds: tuple[int, ...]
    """Seed of each chip, the same for all points: ``program(model, seed=seeds[i])``."""
    further_seeds: tuple[int, ...]
    """Seed of each further chip, on which ``best`` must keep the floor too."""
    higher_is_better: bool
    sensitivity: Sensitivity
    """The losses of the layers, from which the candidates were chosen."""
    signed: tuple[str, ...] = ()
    """Matrices whose signed inputs are charged more than one pass, where their layers are on the
    chip."""
    unmeasured: int = 0
    """Number of candidates that were not measured: ``max_plans`` had no room for them, or the floor
    was found between others."""
    recovery: str = ""
    """What the chips correct of themselves before they are measured (``Recovery.summary``);
    empty: nothing beside drift."""
    conditions: tuple[str, ...] = ()
    """What of the chips is not as by default, such as their drift compensation
    (``analogtorch.evaluate.conditions``); empty: nothing."""

    @property
    def threshold(self) -> float:
        """The metric that must be kept: ``floor`` of the reference, or the reference over it."""
        times_floor = self.reference * self.floor
        return times_floor if self.higher_is_better else self.reference / self.floor

    def reaches(self, metric: float) -> bool:
        """Return whether a value of the metric is within the floor."""
        return keeps(metric, self.threshold, self.higher_is_better)

    def keeps(self, point: HardwarePoint) -> bool:
        """Return whether a point keeps the floor, on the further chips too if it was there."""
        return self.reaches(point.metric.mean) and self.reaches(point.judged.metric.mean)

    @property
    def refuted(self) -> tuple[HardwarePoint, ...]:
        """Points that keep the floor on the chips that chose them, and not on the further ones."""
        return tuple(p for p in self.points if self.reaches(p.metric.mean) and not self.keeps(p))

    def price(self, cost: PlanCost) -> tuple[float, float]:
        """Return what ``best`` has least of, then the energy."""
        return getattr(cost, self.cheapest), cost.energy

    @property
    def front(self) -> tuple[HardwarePoint, ...]:
        """The Pareto front of metric, energy, latency and chips, the least energy first.

        No other point is as good in all of them and better in one, by means. If ``cheapest`` is
        ``digital_macs``, they count too.
        """
        return tuple(p for p in self.points if not any(self._beats(q, p) for q in self.points))

    @property
    def best(self) -> HardwarePoint | None:
        """The cheapest point that keeps the floor at every time; None: there is none.

        That of ``plan`` keeps it on the further chips too. By another ``cheapest`` it may be one
        that was not measured there: its ``confirmed`` is None.
        """
        kept = filter(self.keeps, self.points)
        return min(kept, key=lambda p: self.price(p.cost), default=None)

    @property
    def nearest(self) -> HardwarePoint:
        """The point with the best metric, that on the further chips where it was measured."""
        return max(self.points, key=lambda p: self._goodness(p.judged.metric.mean))

    def convert_arguments(self) -> dict[str, Any]:
        """Return the arguments with which ``convert`` makes ``best`` of the digital model.

        They are for ``at.to_digital(model)``: ``chip``, ``exclude`` and ``per_layer``. Then come
        ``at.quantise_digital`` with the example of the plan, if digital layers are ``int8``, and
        what ``prepare`` did. Where all layers of ``best`` have more devices, costs are those of the
        plan with ``at.map_to_chip(..., chip=plan.chip)``, also as the ``mapping`` of ``program``.

        Raises:
            FloorNotReached: no point keeps the floor.
        """
        if self.best is None:
            raise FloorNotReached(self)
        return self.best.convert_arguments()

    def _repr_html_(self) -> str:
        return as_html(self)

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the metric of all plans over their energy, with the front and the floor.

        File and errors are those of ``analogtorch.files.figures.draw``.
        """
        return draw(self, path)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but chips, ready for JSON."""
        best, front = self.best, self.front
        return {
            "reference": self.reference,
            "floor": self.floor,
            "threshold": self.threshold,
            "cheapest": self.cheapest,
            "higher_is_better": self.higher_is_better,
            "times": list(self.times),
            "seeds": list(self.seeds),
            "further_seeds": list(self.further_seeds),
            **({"recovery": self.recovery} if self.recovery else {}),
            **listed(self.conditions),
            "digital": {
                "kind": self.digital,
                "metric": self.digital_metric,
                **asdict(self.digital_cost),
            },
            "points": [
                {**p.to_dict(), "on_front": p in front, "best": p is best} for p in self.points
            ],
            "sensitivity": self.sensitivity.to_dict(),
        }

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return one line per point, separated by commas, and write it to ``path`` if given.

        Raises:
            OSError: the file cannot be written.
        """
        front, best, figures = self.front, self.best, list(asdict(self.digital_cost))
        rows: list[list[Any]] = [
            ["name", "metric", "half_width", "time", *figures, "on_front", "best", *_CONFIRMED]
        ]
        for p in self.points:
            metric = [p.metric.mean, p.metric.finite_half_width]
            costs = asdict(p.cost).values()
            further: list[Any] = ["", ""]
            if p.confirmed is not None:
                further = [p.confirmed.metric.mean, p.confirmed.metric.finite_half_width]
            rows.append([p.name, *metric, p.time, *costs, p in front, p is best, *further])
        alone = [f"all digital, {self.digital}", self.digital_metric, "", ""]
        rows.append([*alone, *asdict(self.digital_cost).values(), "", "", "", ""])
        return comma_separated(rows, path)

    def _goodness(self, metric: float) -> float:
        return metric if self.higher_is_better else -metric

    def _beats(self, one: HardwarePoint, other: HardwarePoint) -> bool:
        mine, theirs = (self._badness(p) for p in (one, other))
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))

    def _badness(self, p: HardwarePoint) -> Sequence[float]:
        goodness = self._goodness(p.metric.mean)
        return (-goodness, *self.price(p.cost), p.cost.latency, float(p.cost.chips))


def _measured(of: Confirmation | HardwarePoint) -> dict[str, Any]:
    """Return what was measured, ready for JSON."""
    return {
        "metric": {"mean": of.metric.mean, "half_width": of.metric.finite_half_width},
        "time": of.time,
        "values": of.values.tolist(),
    }


def _some(names: Sequence[str]) -> str:
    """Return the names, or their number and three of them if there are more than five."""
    shown = [name or "(root)" for name in names]
    if len(shown) <= 5:
        return ", ".join(shown)
    return f"{len(shown)} layers ({', '.join(shown[:3])}, ...)"


class FloorNotReached(ValueError):
    """No plan keeps the metric above the floor; ``plan`` has all that was measured.

    Args:
        plan: what was measured.
    """

    def __init__(self, plan: HardwarePlan) -> None:
        self.plan = plan
        near, judged = plan.nearest, plan.nearest.judged
        share = judged.metric.mean / plan.reference
        bound = "at least" if plan.higher_is_better else "at most"
        more = " or train hardware-aware"
        if plan.unmeasured:
            more = (
                f", train hardware-aware, or allow more max_plans, as {plan.unmeasured} candidates "
                "are not measured"
            )
        refuted = ""
        if plan.refuted:
            refuted = (
                f" {len(plan.refuted)} keep it on the {len(plan.seeds)} chips by which plans are "
                f"chosen, but not on {len(plan.further_seeds)} further ones."
            )
        lost = plan.digital == "int8" and not keeps(
            plan.digital_metric, plan.threshold, plan.higher_is_better
        )
        exact = ", leave the digital part in digital='float'" if lost else ""
        super().__init__(
            f"plan: no plan keeps the floor: {plan.floor:g} of the digital {plan.reference:.4g} "
            f"asks for {bound} {plan.threshold:.4g}; the best of {len(plan.points)} plans "
            f"({near.name}) reaches {judged.metric} at {judged.time}, {share:.3f} of it, and all "
            f"digital ({plan.digital}) {plan.digital_metric:.4g}.{refuted} Lower the floor{exact}, "
            f"calibrate in prepare{more}; the error's .plan holds what was measured"
        )
