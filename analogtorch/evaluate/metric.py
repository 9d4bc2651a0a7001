"""What a metric is: the one form that every function of this library takes."""

import contextlib
import math
from collections.abc import Iterator
from numbers import Real
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from analogtorch.conversion.kinds import analog_layers
from analogtorch.conversion.restored import same_random
from analogtorch.conversion.unread import compiled
from analogtorch.evaluate.interval import UNBOUNDED, Bounds, check_within, checked_bounds
from analogtorch.nn.tap import hooked
from analogtorch.values import checks
from analogtorch.values.warned import warn

UNNAMED = "metric"
"""What a metric without a name is called."""


class NotFiniteError(ValueError):
    """A metric is NaN or infinite."""


class Metric(Protocol):
    """A number that tells how well a model does its task: any function of a model.

    ``sweep``, ``compare``, ``plan``, ``sensitivity``, ``budget``, ``lifetime``,
    ``recalibration_interval``, ``hwa.adapt`` and the callbacks of trainers take it. Four
    attributes are read if it has them: ``__name__`` heads tables and plots; ``higher_is_better``,
    True or False, tells its direction, which is True without it; ``bounds``, such as ``(0, 1)``,
    are the smallest and the largest number that it can be, beyond which no interval reaches;
    ``samples`` is a text that tells what it is measured on from all else, such as a digest, by
    which a folder of measurements knows it. The metrics of ``at.metrics`` have all four, if they
    are known. Each call sees the same state of the random generators of torch, from which a
    ``DataLoader`` draws at each pass, NumPy and Python, and the calls do not change it; but for an
    executor of threads, which share that state: give it metrics that draw nothing.
    """

    def __call__(self, model: nn.Module, /) -> float:
        """Return the metric of a model, a finite number."""
        ...


def check_metric(caller: str, metric: Any) -> None:
    """Raise an error unless ``metric`` can be called with a model.

    Raises:
        TypeError: it is a module, or cannot be called.
    """
    if isinstance(metric, nn.Module) or not callable(metric):
        remedy = ""
        if hasattr(metric, "compute"):  # a metric of torchmetrics, which is a module too
            remedy = "; write at.metrics.measured(metric, batches) for one of torchmetrics"
        raise TypeError(
            f"{caller}: metric must be a function of a model that returns a number, such as "
            f"lambda chip: at.accuracy(chip, batches), got {checks.shown(metric)}{remedy}"
        )


def direction(caller: str, metric: Any, higher_is_better: bool | None) -> bool:
    """Return whether a higher value of the metric is better.

    Args:
        caller: the function that asks, for messages.
        metric: the metric; None if there is none.
        higher_is_better: what the user says; None: what the metric says, and True if it says
            nothing.

    Raises:
        ValueError: it is neither True, False nor None, the metric says otherwise, or it says that
            it is not known, by None.
    """
    own = getattr(metric, "higher_is_better", None)
    if own is not None:
        checks.flag(f"{caller}: higher_is_better of the metric", own)
    if higher_is_better is None:
        if own is None and hasattr(metric, "higher_is_better"):
            raise ValueError(
                f"{caller}: {title(metric) or 'this metric'} does not know whether a higher value "
                "is better; pass higher_is_better=True or False"
            )
        return True if own is None else bool(own)
    checks.flag(f"{caller}: higher_is_better", higher_is_better)
    if own is not None and own != higher_is_better:
        raise ValueError(
            f"{caller}: higher_is_better must be {own} for {title(metric) or 'this metric'}, the "
            f"metric's own direction, got {higher_is_better}; leave it out"
        )
    return higher_is_better


def bounds_of(caller: str, metric: Any) -> Bounds:
    """Return the smallest and largest number that a metric can be, infinite if it does not say.

    Raises:
        ValueError: what it says is no pair of numbers, the first below the second.
    """
    own = getattr(metric, "bounds", None)
    return UNBOUNDED if own is None else checked_bounds(f"{caller}: bounds of the metric", own)


def checked_limit(
    name: str, limit: Any, bounds: Bounds, what: str = "number", remedy: str = ""
) -> float:
    """Return a limit of a metric, which must be a number that the metric can be.

    Args:
        name: what messages call it.
        limit: the limit.
        bounds: the smallest and largest number that it can be, as ``bounds_of`` returns them.
        what: the noun that the message uses.
        remedy: what to write instead, where the metric is no share.

    Raises:
        ValueError: it is no number, or out of bounds.
    """
    least, most = (each if math.isfinite(each) else None for each in bounds)
    remedy = "0.75 is 75 %" if most == 1 else remedy
    return float(checks.number(name, limit, least=least, most=most, what=what, remedy=remedy))


def title(metric: Any) -> str:
    """Return the name of a metric in tables and plots; empty if it has none, as a lambda."""
    name = getattr(metric, "__name__", "")
    return name if isinstance(name, str) and name != "<lambda>" else ""


def heading(metric: Any) -> str:
    """Return what results call a metric: its name, or ``UNNAMED``."""
    return title(metric) or UNNAMED


def measure(metric: Metric, model: nn.Module) -> Any:
    """Return what a metric gives for a model; random generators stay as they were.

    Warns:
        UserWarning: the model is a chip at a time, and the metric ran none of its layers.
    """
    with same_random(), _running(model):
        return metric(model)


class _Called:
    """A forward hook that notes a call, also of a copy of its module; it can be pickled."""

    once = False

    def __call__(self, *_: Any) -> None:
        self.once = True

    def __deepcopy__(self, _: Any) -> "_Called":
        return self


@contextlib.contextmanager
def _running(chip: nn.Module) -> Iterator[None]:
    """Warn if a programmed chip did not run in the context, nor a layer of it, as far as it tells.

    One that ran and reaches no layer has a warning of its own.
    """
    layers = [layer for _, layer in analog_layers(chip) if layer.programmed is not None]
    hidden = compiled(chip)
    if not layers or any(layer.taps or layer in hidden for layer in layers):
        yield
        return
    called = _Called()
    before = [layer.has_run for layer in layers]
    for layer in layers:
        layer.has_run = False
    try:
        with hooked([chip], after=called):
            yield
        ran = called.once or any(layer.has_run for layer in layers)
    finally:
        for layer, had in zip(layers, before, strict=True):
            layer.has_run |= had
    if not ran:
        warn(
            "the metric ran no layer of the chip that it was given, so that what it returns says "
            "nothing of the chip. Let it run its argument, such as lambda chip: "
            "at.accuracy(chip, batches), and no model from outside"
        )


def keeps(value: float, limit: float, higher_is_better: bool) -> bool:
    """Return whether a value of a metric is on the good side of a limit, or at it."""
    return value >= limit if higher_is_better else value <= limit


def finite(caller: str, metric: Metric, given: Any, where: str) -> float:
    """Return what a metric returned as a finite number within its bounds.

    Raises:
        TypeError: it is no number. A tensor or array of one element counts as a number.
        ValueError: it is NaN, infinite or beyond the bounds.
    """
    value = given.item() if isinstance(given, Tensor) and given.numel() == 1 else given
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{caller}: the metric must return a number, got {checks.shown(given)} {where}"
        )
    try:
        number = float(value)
    except OverflowError:  # an integer or a fraction beyond the largest float
        number = math.inf
    if not math.isfinite(number):
        text = f"{caller}: the metric is {number} {where}; it must be a finite number"
        raise NotFiniteError(text)
    check_within(f"{caller}: the metric", number, bounds_of(caller, metric), where)
    return number
