"""What each step of an adaptation has: its noise, its clipping and its learning rate."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from analogtorch.conversion.kinds import analog_layers
from analogtorch.hwa.clip import clip_, clippable, deviations
from analogtorch.hwa.ramp import ramped, training_noise_
from analogtorch.hwa.recipe import Recipe
from analogtorch.nn import AnalogLayer
from analogtorch.nn.learning import leave

STAIRS = 6
"""Stairs of the noise ramp; a compiled model compiles again at each."""
_SMALLEST = 0.02
"""Root mean square that a Parameter of zeros counts as: that of weights as transformers draw them.
"""


@dataclass(frozen=True)
class Schedule:
    """The recipe over a number of steps; all depends on the number of the step alone."""

    recipe: Recipe
    steps: int
    """Number of steps in all, >= 1."""
    tails: Mapping[str, float]
    """The largest weight of each layer at the start in standard deviations, of ``tails``."""

    @property
    def _ramp(self) -> int:
        return max(1, round(self.recipe.ramp * self.steps))

    def noise(self, step: int) -> float:
        """Return the fraction of the training noise of a step."""
        return self.recipe.noise * ramped(step, self._ramp, 0.0, STAIRS)

    def rate(self, step: int) -> float:
        """Return the factor of the learning rate of a step, which falls from 1 to 0."""
        return 0.5 * (1 + math.cos(math.pi * min(step, self.steps) / self.steps))

    def before(self, model: nn.Module, step: int) -> float:
        """Set the training noise of a step, and return its fraction."""
        fraction = self.noise(step)
        training_noise_(model, fraction)
        return fraction

    def after(self, model: nn.Module, step: int) -> None:
        """Clip the weights after a step of the optimizer."""
        if self.recipe.clip_sigma is not None:
            share = min(1.0, step / self._ramp)
            clip(model, self.recipe.clip_sigma, self.tails, share)


def relative_adam(model: nn.Module, recipe: Recipe, *, fused: bool = True) -> torch.optim.Adam:
    """Return an optimizer with a group for each Parameter that learns, its step relative to it.

    Its learning rate is ``recipe.learning_rate`` times the root mean square of the Parameter. The
    DAC ranges are among them if ``recipe.learn_ranges``. It is fused on CPUs, unless ``fused`` is
    False.

    Raises:
        ValueError: no Parameter learns.
    """
    ranges = {id(layer.input_range) for _, layer in analog_layers(model)}
    learning = [
        p
        for p in model.parameters()
        if p.requires_grad and p.numel() and (recipe.learn_ranges or id(p) not in ranges)
    ]
    if not learning:
        raise ValueError(
            "adapt: no Parameter of the model requires a gradient; call "
            "model.requires_grad_(True), or add adapters that learn"
        )
    sizes = [p.detach().float().square().mean().sqrt().item() or _SMALLEST for p in learning]
    rates = [recipe.learning_rate * size for size in sizes]
    groups = [{"params": [p], "lr": rate} for p, rate in zip(learning, rates, strict=True)]
    # in one pass over the numbers, where torch's default on CPUs takes ten
    fused = fused and all(p.device.type == "cpu" and p.is_floating_point() for p in learning)
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), fused=fused)
    if not recipe.learn_ranges:
        leave(optimizer)
    return optimizer


@torch.no_grad()
def tails(model: nn.Module) -> dict[str, float]:
    """Return, by layer that learns, its largest weight in standard deviations of its unit."""
    return {name: _tail(layer) for name, layer in _clipped(model)}


@torch.no_grad()
def clip(model: nn.Module, sigma: float, tails: Mapping[str, float], share: float) -> None:
    """Clip the weights that learn, by the unit whose largest weight has full conductance.

    Args:
        model: the student.
        sigma: number of standard deviations in the end.
        tails: the number that keeps every weight, by layer, as ``tails`` gave it at the start.
        share: how far the limit has come from that number to ``sigma``, in [0, 1].
    """
    for name, layer in _clipped(model):
        number = sigma + (1 - share) * max(tails[name] - sigma, 0.0)
        clip_(layer, number * deviations(layer, _by_column(layer)))


def _clipped(model: nn.Module) -> list[tuple[str, AnalogLayer]]:
    learning = {id(x) for x in clippable("adapt", model) if x.weight.requires_grad}
    return [(name, layer) for name, layer in analog_layers(model) if id(layer) in learning]


def _tail(layer: AnalogLayer) -> float:
    matrix = layer.as_matrix(layer.weight)
    return (matrix.abs() / deviations(layer, _by_column(layer))).max().item()


def _by_column(layer: AnalogLayer) -> bool:
    return layer.chip.periphery.weight_scale == "column"
