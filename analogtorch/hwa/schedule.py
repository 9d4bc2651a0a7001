"""What each step of an adaptation has: its noise, its clipping and its learning rate."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from analogtorch.conversion.kinds import analog_layers
from analogtorch.hwa.clip import Tails, clip
from analogtorch.hwa.half_precision import HalfPrecisionAdam, is_half
from analogtorch.hwa.ramp import ramped, training_noise_
from analogtorch.hwa.recipe import Recipe
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
    tails: Tails
    """Where each layer is clipped, of ``clip.tails``."""

    @property
    def _ramp(self) -> int:
        return max(1, round(self.recipe.ramp * self.steps))

    def noise(self, step: int) -> float:
        """Return the fraction of the training noise of a step."""
        return self.recipe.noise * ramped(step, self._ramp, 0.0, STAIRS)

    def rate(self, step: int) -> float:
        """Return the factor of the learning rate of a step.

        It grows with the noise and falls to 0: the first gradients are those of rounding, of which
        Adam would make steps as large as any.
        """
        grown = min(1.0, (step + 1) / self._ramp)
        return grown * 0.5 * (1 + math.cos(math.pi * min(step, self.steps) / self.steps))

    def before(self, model: nn.Module, step: int) -> float:
        """Set the training noise of a step, and return its fraction."""
        fraction = self.noise(step)
        training_noise_(model, fraction)
        return fraction

    def after(self, model: nn.Module, step: int) -> None:
        """Clip the weights after a step of the optimizer."""
        if self.recipe.clip_sigma is not None:
            clip(model, self.tails, min(1.0, step / self._ramp))


def relative_adam(model: nn.Module, recipe: Recipe, *, fused: bool = True) -> torch.optim.Adam:
    """Return an optimizer with a group for each Parameter that learns, its step relative to it.

    Its learning rate is ``recipe.learning_rate`` times the root mean square of the Parameter. The
    DAC ranges are among them if ``recipe.learn_ranges``. It is fused on CPUs, unless ``fused`` is
    False. Parameters in half precision step in float32 (``HalfPrecisionAdam``).

    Raises:
        ValueError: no Parameter learns, or an embedding that does has sparse gradients.
    """
    for name, module in model.named_modules():
        embeds = isinstance(module, nn.Embedding | nn.EmbeddingBag)
        if embeds and module.sparse and module.weight.requires_grad:
            raise ValueError(
                f"adapt: embedding {name!r} learns and has sparse=True, whose gradients Adam does "
                f"not take; write model.{name}.sparse = False before, which computes the same, or "
                f"keep it as it is: model.{name}.requires_grad_(False)"
            )
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
    sizes = [p.detach().abs().float().square().mean().sqrt().item() or _SMALLEST for p in learning]
    rates = [recipe.learning_rate * size for size in sizes]
    groups = [{"params": [p], "lr": rate} for p, rate in zip(learning, rates, strict=True)]
    half = any(map(is_half, learning))
    kind = HalfPrecisionAdam if half else torch.optim.Adam
    # in one pass over the numbers, where torch's default on CPUs takes ten
    cpu = all(p.device.type == "cpu" and p.is_floating_point() for p in learning)
    optimizer = kind(groups, betas=(0.9, 0.99), fused=fused and cpu and not half)
    if not recipe.learn_ranges:
        leave(optimizer)
    return optimizer
