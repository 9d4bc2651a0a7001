"""The steps of ``adapt``: noise ramp, distillation, clipping, and looks at programmed chips."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.conversion.kinds import analog_layers
from analogtorch.hwa.adapted import Step
from analogtorch.hwa.clip import clippable, limit_of
from analogtorch.hwa.on_chips import OnChips
from analogtorch.hwa.ramp import ramped, training_noise_
from analogtorch.hwa.recipe import Recipe
from analogtorch.hwa.twin import Twin
from analogtorch.nn import AnalogLayer
from analogtorch.ops import fold, seed_tensor, stream
from analogtorch.ops.scope import noise

STAIRS = 6
"""Stairs of the noise ramp; a compiled model compiles again at each."""
_SMALLEST = 0.02
"""Root mean square that a Parameter of zeros counts as: that of weights as transformers draw them.
"""


@dataclass
class Training:
    """The state of a training, all of which a resumed run continues from."""

    twin: Twin
    steps: int
    """Number of steps in all."""
    seed: int
    optimizer: torch.optim.Optimizer = field(init=False)
    tails: dict[str, float] = field(init=False)
    """The largest weight of each layer at the start, in standard deviations."""
    step: int = 0
    """Number of steps done."""
    best: float = math.inf
    """Least mean error on chips so far."""
    best_state: dict[str, Any] | None = None
    """State of the student then; None: as it was before the first step."""
    least: float = math.inf
    """Least mean error of the looks so far, without that of the start."""
    worse: int = 0
    """Looks in a row without one smaller than that."""
    history: list[Step] = field(default_factory=list)
    stopped: str = ""
    """Why the training ended; empty while it goes on."""

    def __post_init__(self) -> None:
        self.reset()

    @property
    def recipe(self) -> Recipe:
        """The ingredients."""
        return self.twin.recipe

    def reset(self) -> None:
        """Make the optimizer of the Parameters that learn now."""
        groups = relative_groups(self.twin.student, self.recipe)
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        self.tails = tails(self.twin.student)

    def start(self, error: float) -> None:
        """Keep the student as it is, with its error on chips, as the best so far."""
        self.best, self.best_state = error, state_of(self.twin.student)

    def run(self, batches: Sequence[Any], chips: OnChips, after: Callable[[Step], None]) -> None:
        """Take all steps that are left, and leave the student in its best state.

        Args:
            batches: batches to train on.
            chips: measures the student at each look.
            after: called after each step; the step has an error if the chips were measured.
        """
        student = self.twin.student
        try:
            while not self.stopped:
                row = self._step(batches)
                if not math.isfinite(row.loss):
                    self.stopped = f"the loss was {row.loss} at step {self.step}"
                    break
                self.step += 1
                self.history.append(row)
                if self._looks():
                    self._look(chips)
                after(self.history[-1])
        finally:
            training_noise_(student, 1.0)
            self.optimizer.zero_grad(set_to_none=True)
        assert self.best_state is not None
        student.load_state_dict(self.best_state)

    def gradients(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the gradients of one step; return the loss and its two parts."""
        self.optimizer.zero_grad(set_to_none=True)
        with noise(self.seed, step=self.step):
            outputs, layers = self.twin.loss(batch)
            loss = outputs + self.recipe.layers * layers
        loss.backward()
        return loss.detach(), outputs.detach(), layers.detach()

    def _step(self, batches: Sequence[Any]) -> Step:
        recipe, student = self.recipe, self.twin.student
        ramp = max(1, round(recipe.ramp * self.steps))
        fraction = recipe.noise * ramped(self.step, ramp, 0.0, STAIRS)
        training_noise_(student, fraction)
        share = 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = share * group["whole_lr"]
        batch = batches[_index(self.seed, self.step, len(batches))]
        loss, outputs, layers = (value.item() for value in self.gradients(batch))
        if math.isfinite(loss):
            self.optimizer.step()
            if recipe.clip_sigma is not None:
                clip(student, recipe.clip_sigma, self.tails, min(1.0, self.step / ramp))
        rate = share * recipe.learning_rate
        return Step(
            step=self.step, loss=loss, outputs=outputs, layers=layers, noise=fraction,
            learning_rate=rate,
        )  # fmt: skip

    def _looks(self) -> bool:
        """Return whether the chips are measured after the steps that are done."""
        number = self.step * self.recipe.looks
        return number // self.steps > (number - self.recipe.looks) // self.steps

    def _look(self, chips: OnChips) -> None:
        error = chips.measure().mean
        self.history[-1] = replace(self.history[-1], error=error)
        if error < self.best:
            self.best, self.best_state = error, state_of(self.twin.student)
        # clipping disturbs the model at first, so that no look may be as good as the start for long
        self.worse = 0 if error < self.least else self.worse + 1
        self.least = min(self.least, error)
        if self.step >= self.steps:
            self.stopped = f"all {self.steps} steps done"
        elif self.recipe.patience is not None and self.worse >= self.recipe.patience:
            self.stopped = f"no smaller error in {self.worse} looks, at step {self.step}"

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values from which ``load_state_dict`` continues."""
        return {
            "student": self.twin.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "tails": self.tails,
            "steps": self.steps,
            "step": self.step,
            "best": self.best,
            "best_state": self.best_state,
            "least": self.least,
            "worse": self.worse,
            "history": [vars(row) for row in self.history],
            "stopped": self.stopped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what ``state_dict`` gave."""
        self.twin.student.load_state_dict(state["student"])
        self.reset()
        self.optimizer.load_state_dict(state["optimizer"])
        for name in ("tails", "steps", "step", "best", "best_state", "least", "worse", "stopped"):
            setattr(self, name, state[name])
        self.history = [Step(**row) for row in state["history"]]


def relative_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Return a parameter group for each Parameter that learns, with a step relative to its size.

    Each group has ``lr`` and, for schedules, the same as ``whole_lr``: ``recipe.learning_rate``
    times the root mean square of the Parameter. The DAC ranges are among them if
    ``recipe.learn_ranges``.

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
    return [
        {"params": [p], "lr": rate, "whole_lr": rate}
        for p, rate in zip(learning, rates, strict=True)
    ]


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
        limit = limit_of(layer, number, _by_column(layer))
        layer.weight.clamp_(-limit, limit)


def _clipped(model: nn.Module) -> list[tuple[str, AnalogLayer]]:
    learning = {id(x) for x in clippable("adapt", model) if x.weight.requires_grad}
    return [(name, layer) for name, layer in analog_layers(model) if id(layer) in learning]


def _tail(layer: AnalogLayer) -> float:
    limit = limit_of(layer, 1.0, _by_column(layer))
    return (layer.weight.abs() / limit).max().item()


def _by_column(layer: AnalogLayer) -> bool:
    return layer.chip.periphery.weight_scale == "column"


def state_of(model: nn.Module) -> dict[str, Any]:
    """Return a copy of the state of a model."""
    return copy.deepcopy(model.state_dict())


def _index(seed: int, step: int, count: int) -> int:
    """Return the batch of a step: each epoch takes every batch once, in an order of its own."""
    epoch, place = divmod(step, count)
    key = int(fold(seed_tensor(seed), stream("adapt epoch", epoch)).item())
    order = torch.randperm(count, generator=torch.Generator().manual_seed(key))
    return int(order[place].item())
