"""How far a model is from its digital twin on programmed chips, on batches held back."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.conversion.restored import evaluating
from analogtorch.conversion.unread import quiet
from analogtorch.devices import seconds
from analogtorch.evaluate.look import Look
from analogtorch.evaluate.metric import Metric, NotFiniteError, check_metric, finite, measure
from analogtorch.evaluate.sweep import sweep
from analogtorch.evaluate.times import checked_times
from analogtorch.hwa.twin import Twin, check_shapes
from analogtorch.simulate.chip import beyond_data, program
from analogtorch.simulate.recovery import Recovery
from analogtorch.values import checks
from analogtorch.values.warned import warn


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """What was measured on chips; each is of shape (chips, times), in float64."""

    error: Tensor
    """Root of the mean over output vectors of what the recipe compares by (``Twin.compare``)."""
    agreement: Tensor
    """Share of the output vectors whose largest number is where the teacher's is, of images and the
    like at each of their positions; of outputs of one number, of those within a tenth of their
    standard deviation over all batches."""
    metric: Tensor | None = None
    """The user's metric, if one was given; NaN or infinite where it was."""

    @property
    def mean(self) -> float:
        """The mean error over chips and times, by which states are chosen."""
        return self.error.mean().item()

    def to_dict(self) -> dict[str, Any]:
        """Return what was measured, ready for JSON; a metric that is not finite is None."""
        return {
            name: [[v if math.isfinite(v) else None for v in row] for row in value.tolist()]
            for name, value in vars(self).items()
            if value is not None
        }


@dataclass(frozen=True)
class Validation:
    """What a ``ValidateOnChips`` measures, with its arguments of the same names."""

    metric: Metric
    times: Sequence[str | float] = ("1 day",)
    num_chips: int = 3
    seed: int = 0
    recovery: Recovery | None = None
    name: str = "chips"

    def __post_init__(self) -> None:
        checks.text("ValidateOnChips: name", self.name, "chips/accuracy")
        check_metric("ValidateOnChips", self.metric)
        Look(recovery=self.recovery).check("ValidateOnChips")
        checks.count("ValidateOnChips: num_chips", self.num_chips)
        checked_times("ValidateOnChips", self.times)

    @property
    def names(self) -> list[str]:
        """What the means over the chips are called, such as ``chips/1 day``, by time."""
        times = checked_times("ValidateOnChips", self.times).values()
        return [f"{self.name}/{time}" for time in times]

    def refuse_alike(self, others: Iterable[str]) -> None:
        """Raise ValueError if another callback logs under one of the names."""
        if alike := sorted(set(self.names) & set(others)):
            raise ValueError(
                f"ValidateOnChips: two of them log {alike[0]!r}, of which the last would count; "
                "give one a name of its own, such as name='chips/accuracy'"
            )

    def __call__(self, model: nn.Module, step: int = 0) -> dict[str, float]:
        """Return the mean over the chips at each time by name; NaN: the metric was not finite.

        Args:
            model: the model.
            step: the step of the training, for messages.
        """
        try:
            with torch.no_grad():
                found = sweep(
                    model,
                    self.metric,
                    num_chips=self.num_chips,
                    times=self.times,
                    seed=self.seed,
                    recovery=self.recovery,
                )
        except NotFiniteError as error:  # the training is not lost for a number
            warn(f"ValidateOnChips: at step {step}, {error}; it is logged as NaN")
            return dict.fromkeys(self.names, math.nan)
        except Exception as error:
            error.add_note(f"ValidateOnChips measured at step {step}")
            raise
        return dict(zip(self.names, found.mean.tolist(), strict=True))


class OnChips:
    """Measures a student on the same chips, at the same times, again and again.

    Args:
        twin: the student and its teacher.
        held: batches that the student does not train on.
        seeds: seed of each chip.
        times: times after programming, as ``ProgrammedChip.at`` takes them.
        metric: a function of the model on a chip that returns a number, or None.
        recovery: how the chips correct themselves at each time; None: they do not.
    """

    def __init__(
        self,
        twin: Twin,
        held: Iterable[Any],
        seeds: Sequence[int],
        times: Sequence[str | float],
        metric: Metric | None = None,
        recovery: Recovery | None = None,
    ) -> None:
        self.twin, self.held, self.seeds, self.times = twin, list(held), seeds, times
        self.metric, self.recovery, self._warned = metric, recovery, False
        self.exact = [twin.exact(batch) for batch in self.held]

    @torch.no_grad()
    def measure(self, recovery: Recovery | None = None) -> Reading:
        """Measure the student; a ``recovery`` stands for that of the chips."""
        with quiet():  # of what a trial clips: a worse one is not kept
            rows = [self._on_chip(seed, recovery or self.recovery) for seed in self.seeds]
        error, agreement, metric = torch.tensor(rows, dtype=torch.float64, device="cpu").unbind(-1)
        return Reading(
            error=error, agreement=agreement, metric=None if self.metric is None else metric
        )

    def _on_chip(self, seed: int, recovery: Recovery | None) -> list[tuple[float, float, float]]:
        """Return error, agreement and metric of one chip at each time."""
        physical, found = program(self.twin.student, seed=seed), []
        for time in self.times:
            # the report says it
            physical.warned.update(beyond_data(self.twin.student, seconds(time)))
            view = physical.at(time)
            if recovery is not None:
                recovery.correct(view)
            where = f"on the chip of seed {seed} at {time}"
            metric = 0.0 if self.metric is None else self._number(self.metric, view, where)
            found.append((*self._compare(view), metric))
        return found

    def _number(self, metric: Metric, view: nn.Module, where: str) -> float:
        """Return what a metric gives, with one warning if it is no finite number."""
        given = measure(metric, view)
        try:
            return finite("adapt", metric, given, where)
        except ValueError as error:  # the training is not lost for a number that decides nothing
            if not self._warned:
                warn(f"{error}; it is recorded as it is")
                self._warned = True
            return float(given)

    def _compare(self, view: nn.Module) -> tuple[float, float]:
        errors, same, sizes = list[Tensor](), 0, list[tuple[int, int]]()
        with evaluating(view):
            for batch, exact in zip(self.held, self.exact, strict=True):
                outputs = self.twin.outputs(view, batch)
                check_shapes(outputs, exact)
                for which, (y, t) in enumerate(zip(outputs, exact, strict=True)):
                    errors.append(self.twin.compare(y, t, which))
                    among = [each[which] for each in self.exact if which < len(each)]
                    moved = self.twin.comparison.moved(y, t, which, among)
                    same += int((~moved).sum())
                    sizes.append((which, moved.shape[0]))
        shares = torch.stack(errors).new_tensor(_shares(sizes))
        # rounding may leave a divergence of almost nothing below 0
        error = (shares * torch.stack(errors)).mean().clamp_min(0).sqrt().item()
        return error, same / sum(size for _, size in sizes)


def _shares(sizes: Sequence[tuple[int, int]]) -> list[float]:
    """Return the weight of each error in their mean: 1 where batches are of one size.

    Each output counts alike, and each of its vectors.

    Args:
        sizes: the number of the output and that of its vectors, for each error.
    """
    total, batches = Counter[int](), Counter[int]()
    for which, size in sizes:
        total[which] += size
        batches[which] += 1
    return [size * batches[which] / max(1, total[which]) for which, size in sizes]
