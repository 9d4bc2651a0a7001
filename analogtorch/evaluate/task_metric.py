"""A metric of a model's outputs and targets over batches."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.calibration.batches import check_batches
from analogtorch.calibration.passes import Forward, one_pass
from analogtorch.conversion.kinds import check_module
from analogtorch.conversion.restored import evaluating
from analogtorch.evaluate.batches import batches_digest
from analogtorch.evaluate.interval import UNBOUNDED, Bounds
from analogtorch.evaluate.metric import bounds_of
from analogtorch.values import checks

Keep = Callable[[Any, Any, str], Any]
"""What is kept of a batch, given the output, the targets, and how messages name the batch."""


def by(keep: Keep) -> Callable[[], Keep]:
    """Return ``TaskMetric.begin`` for a function that all measurements share."""
    return functools.partial(_given, keep)


def _given(keep: Keep) -> Keep:
    return keep


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskMetric:
    """A metric of a model's outputs and targets over batches; see the functions that make it."""

    name: str
    """Its name in messages, tables and plots."""
    higher_is_better: bool | None
    """Whether a better model has more of it; None: it is not known, and a caller must say it."""
    batches: Any
    """Pairs of an input and its targets, read anew for each model."""
    begin: Callable[[], Keep]
    """Returns, for a measurement, what is kept of each batch; see ``by``."""
    total: Callable[[list[Any]], Any]
    """The metric as a function of what was kept of each batch."""
    bounds: Bounds = UNBOUNDED
    """Smallest and largest number that it can be, infinite if it is not known."""
    forward: Forward | None = None
    """Runs the model on an input, ``forward(model, x)``; None: the input is passed to the model, a
    mapping as keyword arguments. Of an output of transformers the logits are taken."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What else tells it from others of its name: functions, and plain values. A folder of
    measurements keeps it."""

    def __post_init__(self) -> None:
        checks.text("metrics: name", self.name, "WER")
        check_batches(f"metrics.{self.name}", self.batches)
        if isinstance(self.batches, Iterator):
            raise TypeError(
                f"metrics.{self.name}: batches must be read again for each model, which a "
                f"{type(self.batches).__name__} cannot; pass a list or a DataLoader"
            )
        checks.function(f"metrics.{self.name}: forward", self.forward, "forward(model, x)")
        bounds_of(f"metrics.{self.name}", self)

    @property
    def __name__(self) -> str:
        return self.name

    @property
    def samples(self) -> str:
        """Digest of the batches; empty if they are in no list: a loader may shuffle them."""
        if not isinstance(self.batches, list | tuple):
            return ""
        return batches_digest(self.batches, f"metrics.{self.name}: batches")

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> float:
        """Return the metric of a model, whose mode is restored.

        Raises:
            ValueError: there is no batch, an output is NaN, or outputs and targets do not fit.
            TypeError: a batch is no pair of an input and its targets.
        """
        caller = f"metrics.{self.name}"
        check_module(caller, model)
        kept, keep = [], self.begin()
        with evaluating(model):
            for number, batch in enumerate(self.batches):
                x, targets = _pair(caller, batch, number)
                where = f"{caller}: batch {number}"
                given = one_pass(caller, model, x, self.forward, number)
                found = _on_cpu(logits_of(given), where)
                kept.append(keep(found, _on_cpu(targets, where), where))
        if not kept:
            raise ValueError(f"{caller}: batches is empty; pass pairs such as [(x, targets)]")
        return float(self.total(kept))


def _pair(caller: str, batch: Any, number: int) -> tuple[Any, Any]:
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise TypeError(
            f"{caller}: batch {number} must be a pair of an input and its targets, got "
            f"{type(batch).__name__}; one batch alone is [(x, targets)]"
        )
    return batch[0], batch[1]


def logits_of(output: Any) -> Any:
    """Return the logits of an output of transformers, any other output as it is."""
    return getattr(output, "logits", output)


def _on_cpu(given: Any, where: str) -> Any:
    """Return outputs or targets on the CPU."""
    if not isinstance(given, Tensor):
        return given
    if given.isnan().any():
        raise ValueError(f"{where} has outputs or targets that are NaN; check model and targets")
    return given.cpu()
