"""Candidates as models, made of the digital one and measured on the same simulated chips."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.chips import Chip
from analogtorch.conversion import convert
from analogtorch.conversion.detached import deep_copy
from analogtorch.conversion.example import Example
from analogtorch.conversion.int8 import quantise_digital
from analogtorch.conversion.restored import switched
from analogtorch.evaluate.hardware import Confirmation, Digital, HardwarePlan, HardwarePoint
from analogtorch.evaluate.identity import short_digest
from analogtorch.evaluate.interval import Interval, interval
from analogtorch.evaluate.journal import OtherExperiment
from analogtorch.evaluate.metric import Metric, finite, measure
from analogtorch.evaluate.plan_cost import Costs
from analogtorch.evaluate.plan_folder import PREFIX, measurement_folder
from analogtorch.evaluate.prepared import Prepared
from analogtorch.evaluate.routed import placed, route_calls
from analogtorch.evaluate.sweep import sweep
from analogtorch.evaluate.swept import Sweep
from analogtorch.evaluate.walks import Candidate, Table, neighbours
from analogtorch.ops.scope import random_kept
from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.recovery import Recovery
from analogtorch.values.progress import Progress

Change = Chip | Mapping[str, Any]
"""A chip, or what ``chip.replace`` takes, as ``convert(per_layer=...)`` has it."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """How candidates are measured; the arguments of ``plan``."""

    metric: Metric
    times: tuple[str | float, ...]
    num_chips: int
    confirm: int
    seed: int
    compensation: Compensation
    recovery: Recovery | None
    higher_is_better: bool
    digital: Digital
    example: Example
    prepare: Callable[[nn.Module], Any] | None
    folder: Path | None


class Bench:
    """Makes and measures candidates, each once."""

    def __init__(
        self,
        model: nn.Module,
        chip: Chip,
        changes: Mapping[int, Change],
        costs: Costs,
        how: Measurement,
        bar: Progress,
    ) -> None:
        self.model = Prepared.of(model)
        self.chip, self.changes, self.costs, self.how, self.bar = chip, changes, costs, how, bar
        self.measured: dict[Candidate, HardwarePoint] = {}

    def arguments(self, candidate: Candidate) -> dict[str, Any]:
        """Return the arguments with which ``convert`` makes the candidate."""
        found: dict[str, Any] = {"chip": self.chip}
        if exclude := (*self.model.left, *candidate.digital):
            found["exclude"] = exclude
        if candidate.devices:
            found["per_layer"] = {
                name: self.changes[cells] for name, cells in candidate.devices.items()
            }
        return found | ({"embeddings": True} if self.model.embeddings else {})

    def point(self, candidate: Candidate) -> HardwarePoint:
        """Return the candidate as measured."""
        if candidate not in self.measured:
            self.measured[candidate] = self._point(candidate)
            self.step()
        return self.measured[candidate]

    def step(self) -> None:
        """Show that one more is measured; there may be more than were asked for."""
        self.bar.total = max(self.bar.total, self.bar.n + 1)
        self.bar.update()

    def all_digital(self) -> float:
        """Return the metric with all layers digital."""
        model = deep_copy(self.model.digital)
        if self.how.digital == "int8":
            quantise_digital(model, example=placed(self.how.example, model))
        with torch.no_grad():
            given = measure(self.how.metric, switched(model))
        return finite("plan", self.how.metric, given, "with all layers digital")

    def confirmed(self, candidate: Candidate) -> HardwarePoint:
        """Return the candidate as measured on the further chips too."""
        point = self.measured[candidate]
        if point.confirmed is None:
            # a folder of its own: ``prepare`` may not give the same model twice
            found = self._swept(candidate, self.how.num_chips + self.how.confirm, "-confirmed")
            values = found.values[self.how.num_chips :]
            time, metric = self._worst(found, values)
            confirmed = Confirmation(values=values, time=time, metric=metric)
            self.measured[candidate] = dataclasses.replace(point, confirmed=confirmed)
            self.step()
        return self.measured[candidate]

    def _point(self, candidate: Candidate) -> HardwarePoint:
        found = self._swept(candidate, self.how.num_chips)
        time, metric = self._worst(found, found.values)
        return HardwarePoint(
            digital=candidate.digital,
            analog=tuple(name for name in self.model.analog if name not in candidate.digital),
            devices=candidate.devices,
            values=found.values,
            time=time,
            metric=metric,
            cost=self.costs.of(candidate),
            arguments=self.arguments(candidate),
        )

    def _worst(self, found: Sweep, values: Tensor) -> tuple[str, Interval]:
        """Return the time at which the metric is worst on the mean, and the metric there."""
        mean = values.mean(0)
        worst = int((mean if self.how.higher_is_better else -mean).argmin())
        return found.times[worst], interval(values[:, worst].tolist(), bounds=found.bounds)

    def _swept(self, candidate: Candidate, num_chips: int, of: str = "") -> Sweep:
        how = self.how
        kept = measurement_folder(how.folder, f"{_folder(candidate, how)}{of}")
        with kept as folder, random_kept(self.model.devices):
            model = convert(deep_copy(self.model.digital), **self.arguments(candidate))
            route_calls("plan", model, how.example)
            if how.digital == "int8":
                quantise_digital(model, example=placed(how.example, model))
            if how.prepare is not None:
                how.prepare(model)
            try:
                return sweep(
                    switched(model),
                    how.metric,
                    num_chips=num_chips,
                    times=how.times,
                    seed=how.seed,
                    compensation=how.compensation,
                    recovery=how.recovery,
                    folder=folder,
                )
            except OtherExperiment as error:
                raise ValueError(
                    f"plan: {how.folder} holds a plan with another prepare, model, chip or metric, "
                    f"or prepare gives another model each time; give another folder. {error}"
                ) from error


def search(
    walk: Sequence[Candidate],
    point: Callable[[Candidate], HardwarePoint],
    keeps: Callable[[HardwarePoint], bool],
    most: int,
) -> None:
    """Measure at most ``most`` candidates of a walk, ends and neighbours of the floor among them.

    Half are spread evenly; the others halve the steps between one that fails and one that keeps
    the floor, since the metric mostly rises along a walk.
    """
    if len(walk) <= most:
        for candidate in walk:
            point(candidate)
        return
    spread = max(most // 2, 2)
    kept = {
        i: keeps(point(walk[i]))
        for i in sorted({round(n * (len(walk) - 1) / (spread - 1)) for n in range(spread)})
    }
    while len(kept) < most:
        known = sorted(kept)
        pairs = zip(known, known[1:], strict=False)
        middles = [(a + b) // 2 for a, b in pairs if b - a > 1 and not kept[a] and kept[b]]
        if not middles:
            return
        kept[middles[0]] = keeps(point(walk[middles[0]]))


def first_that_keeps(
    bench: Bench, left: Iterable[Candidate], plan: HardwarePlan, most: int
) -> None:
    """Measure candidates that are left until one keeps the floor, or ``most`` are measured in all.

    Nothing is measured where one has kept it before.
    """
    kept = any(map(plan.keeps, bench.measured.values()))
    for candidate in left:
        if kept or len(bench.measured) >= most:
            return
        kept = plan.keeps(bench.point(candidate))


def improve(
    bench: Bench, losses: Table, plan: HardwarePlan, most: int, max_chips: int | None
) -> None:
    """Measure cheaper neighbours of the best candidate, until none keeps the floor.

    Each that does is the best from then on. It ends when ``most`` are measured in all.
    """
    while True:
        kept = [c for c, point in bench.measured.items() if plan.keeps(point)]
        if not kept:
            return
        best = min(kept, key=lambda c: plan.price(bench.costs.of(c)))
        price = plan.price(bench.costs.of(best))
        for candidate in neighbours(best, losses):
            cost = bench.costs.of(candidate)
            fits = max_chips is None or cost.chips <= max_chips
            if candidate in bench.measured or not fits or plan.price(cost) >= price:
                continue
            if len(bench.measured) >= most:
                return
            if plan.keeps(bench.point(candidate)):
                break
        else:
            return


def confirmed(bench: Bench, plan: HardwarePlan) -> bool:
    """Measure the cheapest that keeps the floor on further chips, unless it was.

    Return False if it does not keep the floor there, so that another one is the cheapest.
    """
    kept = [c for c, point in bench.measured.items() if plan.keeps(point)]
    best = min(kept, key=lambda c: plan.price(bench.costs.of(c)), default=None)
    return best is None or plan.keeps(bench.confirmed(best))


def _folder(candidate: Candidate, how: Measurement) -> str:
    """Return the name of a candidate's folder."""
    text = json.dumps([candidate.cells, how.digital])
    return f"{PREFIX}{short_digest(text)}"
