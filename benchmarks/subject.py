"""A trained model with its inputs and its score: what the tables measure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

PERCENT = ("accuracy", "agreement", "WER")
"""Scores between 0 and 1 that are printed in %."""


def call(model: nn.Module, batch: Any) -> Tensor:
    """Return the output of a model that takes the batch as it is."""
    output: Tensor = model(batch)
    return output


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained model and its score."""

    name: str
    measure: str
    """Name of the score."""
    model: nn.Module
    calibration: list[Any]
    """Batches without labels, to calibrate on and to learn from. The score is of others."""
    forward: Callable[[nn.Module, Any], Tensor] = call
    batches: list[Any]
    """What the score is measured on."""
    score: Callable[[Tensor], float]
    """The score as a function of the outputs for all batches."""
    norms: bool = False
    """Whether it has batch norms."""
    lower_is_better: bool = False
    """Whether the score is an error."""
    read: Callable[[nn.Module, Any], Tensor] | None = None
    """The outputs that the score takes, for a batch; None: those of ``forward``."""
    where: Callable[[str, nn.Module], bool] | None = None
    """Which layers become analog, as ``convert`` takes it; None: all that can."""
    chip: Mapping[str, Any] = field(default_factory=dict)
    """Options of ``at.chips.hermes64``."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Fields in which ``at.hwa.Recipe`` differs from its defaults."""
    adapt: Mapping[str, Any] = field(default_factory=dict)
    """Other arguments of ``at.hwa.adapt`` than its defaults."""
    example: Any = None
    """Input of one inference, as ``map_to_chip`` takes it; None: the first of ``batches``."""

    @torch.no_grad()
    def outputs(self, model: nn.Module) -> Tensor:
        """Return the outputs for all batches, (inputs, features)."""
        read = self.read or self.forward
        return torch.cat([read(model, batch) for batch in self.batches])

    def scored(self, model: nn.Module) -> float:
        """Return the score of a model."""
        return self.score(self.outputs(model))

    def one(self) -> Any:
        """Return the input of one inference."""
        if self.example is not None:
            return self.example
        batch = self.batches[0]
        if isinstance(batch, Mapping):
            return {key: value[:1] for key, value in batch.items()}
        return batch[:1]


def factor(measure: str) -> int:
    """Return by what a score is multiplied when it is printed."""
    return 100 if measure in PERCENT else 1


def decimals(measure: str) -> int:
    """Return with how many decimals a score is printed."""
    return 1 if measure in PERCENT else 3


def agreement(exact: Tensor) -> Callable[[Tensor], float]:
    """Return the share of outputs whose largest number is where it is in the exact ones.

    Args:
        exact: outputs (inputs, classes) of the digital model.
    """
    chosen = exact.argmax(1)
    return lambda y: (y.argmax(1) == chosen).float().mean().item()
