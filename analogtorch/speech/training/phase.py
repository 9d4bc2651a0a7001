"""The settings of one training phase."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from analogtorch.values import checks


@dataclass(frozen=True, kw_only=True)
class Phase:
    """The settings of one training phase: AdamW under a one-cycle learning rate.

    Raises:
        ValueError: a field is out of range.
    """

    epochs: int = 40
    """Number of passes over the training split, >= 1."""
    batch_size: int = 100
    """Number of clips in a step, >= 2; an epoch leaves out the clips that do not fill a batch."""
    learning_rate: float = 4e-3
    """Peak of the one-cycle schedule, > 0."""
    warmup: float = 0.2
    """Share of the steps before the peak, 0 to 1 (exclusive)."""
    weight_decay: float = 0.02
    """Weight decay of AdamW, >= 0, on weights; biases, normalisation and DAC ranges have none."""
    label_smoothing: float = 0.1
    """Share of the target that is spread over all classes, 0 to 1 (exclusive)."""
    mixup: float = 0.0
    """Parameter alpha of mixup's Beta distribution (arXiv:1710.09412), >= 0; 0 turns it off."""
    distill: float = 0.0
    """Weight of the divergence from the teacher in the loss, 0 to 1; the labels get the rest."""
    temperature: float = 2.0
    """Temperature of the distillation (arXiv:1503.02531), > 0."""
    ramp: float = 0.0
    """Share of the epochs in which the training noise of analog layers grows from 0, 0 to 1."""
    clip_sigma: float | None = None
    """Standard deviations to which the weights of each analog layer are clipped after each step, >
    0, as by hwa.Recipe(clip_sigma=); null does not clip."""

    def __post_init__(self) -> None:
        self._check("epochs", lambda v: checks.is_integer(v) and v >= 1, "an integer >= 1")
        needed = "an integer >= 2: batch normalisation needs two samples"
        self._check("batch_size", lambda v: checks.is_integer(v) and v >= 2, needed)
        self._check("learning_rate", lambda v: v > 0, "a number > 0")
        self._check("warmup", lambda v: 0 < v < 1, "between 0 and 1, such as 0.2")
        self._check("weight_decay", lambda v: v >= 0, "a number >= 0")
        self._check("label_smoothing", lambda v: 0 <= v < 1, "from 0 to below 1, such as 0.1")
        self._check("mixup", lambda v: v >= 0, "a number >= 0; 0 turns it off")
        self._check("distill", lambda v: 0 <= v <= 1, "from 0 (labels only) to 1 (teacher only)")
        self._check("temperature", lambda v: v > 0, "a number > 0")
        if self.distill == 0 and self.temperature != Phase.temperature:
            raise ValueError(
                f"temperature={self.temperature} has no effect without distillation; set distill, "
                "such as to 0.7, or leave temperature out"
            )
        self._check("ramp", lambda v: 0 <= v <= 1, "from 0 (all noise at once) to 1")
        self._check("clip_sigma", lambda v: v is None or v > 0, "null or a number > 0, such as 2.5")

    def _check(self, name: str, ok: Callable[[Any], bool], allowed: str) -> None:
        value = getattr(self, name)
        try:
            right = (value is None or math.isfinite(value)) and ok(value)
        except TypeError:  # no number
            right = False
        if not right:
            raise ValueError(f"{name}={value}; it must be {allowed}")
