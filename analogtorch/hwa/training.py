"""The steps of ``adapt``: noise ramp, distillation, clipping, and looks at programmed chips."""

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.hwa.adapted import Step
from analogtorch.hwa.budget import Budget
from analogtorch.hwa.clip import Tails, tails
from analogtorch.hwa.finite import REMEDY, broken_gradients
from analogtorch.hwa.on_chips import OnChips, Reading
from analogtorch.hwa.ramp import training_noise_
from analogtorch.hwa.recipe import Recipe
from analogtorch.hwa.schedule import Schedule, relative_adam
from analogtorch.hwa.twin import Losses, Twin
from analogtorch.ops import derived
from analogtorch.ops.scope import noise_in_turn
from analogtorch.values.warned import warn

_KEPT = (
    *("rates", "steps", "step"),
    *("best", "best_state", "least", "worse", "stopped"),
)
"""The fields that a resumed run goes on with, beside student, optimizer and history."""
_COUNTED, _LONG = 3, 2.0
"""Fewest steps, and seconds of them, by which the time of a step is measured."""


@dataclass
class Training:
    """The state of a training, all of which a resumed run continues from."""

    twin: Twin
    steps: int
    """Number of steps in all."""
    seed: int
    budget: Budget = field(default_factory=lambda: Budget(None))
    """The time that it may take."""
    asked: int = field(init=False)
    """Number of steps that it has if there is time for them."""
    looks: int = field(init=False)
    """How often the chips are measured, ``recipe.looks`` or fewer."""
    optimizer: torch.optim.Optimizer = field(init=False)
    rates: list[float] = field(init=False)
    """The learning rate of each group of the optimizer in the first step."""
    tails: Tails = field(init=False)
    """Where the weights of each layer are clipped, which those of the start decide."""
    step: int = 0
    """Number of steps done."""
    best: float = math.inf
    """Least mean error on chips so far."""
    best_state: dict[str, Any] | None = None
    """State of the student then; None: as it was before the first step."""
    trained: Reading | None = None
    """What the look with the least mean error has measured; None: there was no look."""
    least: float = math.inf
    """Least mean error of the looks so far in the second half of the steps."""
    worse: int = 0
    """Looks in a row without one smaller than that."""
    history: list[Step] = field(default_factory=list)
    stopped: str = ""
    """Why the training ended; empty while it goes on."""
    _warned: bool = field(default=False, init=False)
    """Whether a warning has named outputs without a gradient."""

    def __post_init__(self) -> None:
        self.asked, self.looks = self.steps, self.recipe.looks
        self.reset()

    @property
    def recipe(self) -> Recipe:
        """The ingredients."""
        return self.twin.recipe

    def reset(self) -> None:
        """Make the optimizer of the Parameters that learn now."""
        self.optimizer = relative_adam(self.twin.student, self.recipe)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.tails = tails(self.twin.student, self.recipe.clip_sigma)

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
        began, first = time.monotonic(), self.step
        try:
            while not self.stopped:
                row = self._step(batches)
                if row is None:
                    break
                self.step += 1
                self.history.append(row)
                if self._looks():
                    self._look(chips)
                    self._fit((time.monotonic() - began) / (self.step - first))
                after(self.history[-1])
        finally:
            training_noise_(student, 1.0)
            student.zero_grad()  # those too of DAC ranges that do not learn
        assert self.best_state is not None
        put_back(student, self.best_state)

    def seconds_of_step(self, batches: Iterable[Any]) -> float:
        """Return how long a step takes, s, by steps on some of the batches that are then undone.

        The first ones, which load kernels, do not count if there are ``_COUNTED`` more; there are
        no more than take ``_LONG`` seconds.
        """
        saved, taken = state_of(self.twin.student), list[float]()
        schedule = Schedule(self.recipe, self.steps, self.tails)
        for number, batch in enumerate(batches):
            began = time.monotonic()
            schedule.before(self.twin.student, number)
            losses = self.gradients(batch)
            if not self._broken(losses.total.item(), ""):
                self.optimizer.step()
                schedule.after(self.twin.student, number)
            taken.append(time.monotonic() - began)
            if len(taken) >= _COUNTED and sum(taken) > _LONG:
                break
        put_back(self.twin.student, saved)
        self.reset()
        return statistics.fmean(taken[-max(_COUNTED, len(taken) // 2) :])

    def gradients(self, batch: Any) -> Losses:
        """Compute the gradients of one step, and return its losses."""
        self.twin.student.zero_grad()
        with torch.enable_grad(), self.twin.running():
            with noise_in_turn(self.seed, step=self.step):
                losses = self.twin.loss(batch)
            if not losses.total.requires_grad:
                raise ValueError(
                    "adapt: the outputs of the model have no gradient to learn by, as where its "
                    "forward or forward= runs under torch.no_grad() or detaches them; let them "
                    "have one"
                )
            try:
                losses.total.backward()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                error.add_note(f"adapt: {_note(error)}")
                raise
        if not (losses.outputs.requires_grad or self._warned):
            warn(
                "adapt: the outputs of the model have no gradient, as where its forward or "
                "forward= detaches them, so that the training keeps those of its layers alone; "
                "let them have one"
            )
            self._warned = True
        return losses

    def _step(self, batches: Sequence[Any]) -> Step | None:
        """Take a step; None: it cannot be taken, of which a warning tells, and the training ends.

        Raises:
            Exception: what the model raises in the first step of all.
        """
        schedule, student = Schedule(self.recipe, self.steps, self.tails), self.twin.student
        fraction, share = schedule.before(student, self.step), schedule.rate(self.step)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = share * rate
        batch = batches[_index(self.seed, self.step, len(batches))]
        where = f"at step {self.step}, on {self.twin.named(batch)}"
        try:
            loss, outputs, layers, attention = map(Tensor.item, self.gradients(batch))
        except Exception as error:
            if not self.step:
                raise
            # a batch unlike the others, which must not cost what was learnt from them
            what = next(iter(str(error).splitlines()), "")
            self._end(f"{type(error).__name__} {where}: {what}", "leave that batch out")
            return None
        if broken := self._broken(loss, where):
            self._end(broken, REMEDY)
            return None
        self.optimizer.step()
        schedule.after(student, self.step)
        return Step(
            step=self.step,
            loss=loss,
            outputs=outputs,
            layers=layers,
            attention=attention,
            noise=fraction,
            learning_rate=share * self.recipe.learning_rate,
        )

    def _end(self, why: str, remedy: str) -> None:
        self.stopped = why
        warn(f"adapt: {why}, so that the training ends with the best state before; {remedy}")

    def _broken(self, loss: float, where: str) -> str:
        """Return what the loss or the gradients have that no step can take; empty if nothing."""
        if not math.isfinite(loss):
            return f"the loss was {loss} {where}"
        return broken_gradients(self.twin.student, where)

    def _looks(self) -> bool:
        """Return whether the chips are measured after the steps that are done."""
        number = self.step * self.looks
        return number // self.steps > (number - self.looks) // self.steps

    def _look(self, chips: OnChips) -> None:
        reading = chips.measure()
        error = reading.mean
        if self.trained is None or error < self.trained.mean:
            self.trained = reading
        self.history[-1] = replace(self.history[-1], error=error)
        if error < self.best:
            self.best, self.best_state = error, state_of(self.twin.student)
        # noise and clipping grow at first, and large steps hide what the model has learnt
        if self.step > self.steps / 2:
            self.worse = 0 if error < self.least else self.worse + 1
            self.least = min(self.least, error)
        patience = math.inf if self.recipe.patience is None else self.recipe.patience
        if self.step < self.steps and self.worse >= patience:
            self.stopped = f"no smaller error in {self.worse} looks, at step {self.step}"

    def _fit(self, seconds: float) -> None:
        """Leave out the last steps where a step, looks included, takes too long for all of them.

        The first few steps, by which their number was set, may have been faster.
        """
        if self.stopped:
            return
        if (fitting := self.budget.left / seconds) < self.steps - self.step:
            self.steps = self.step + max(0, math.floor(fitting))
        if self.step < self.steps:
            return
        self.stopped = f"all {self.steps} steps done"
        if self.steps < self.asked:
            done = f"{self.steps} of {self.asked} steps done"
            self.stopped = f"{done}: {self.budget.minutes:g} minutes allow no more"

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values from which ``load_state_dict`` continues."""
        return {
            "student": self.twin.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **{name: getattr(self, name) for name in _KEPT},
            "looks": self.looks,
            "trained": None if self.trained is None else asdict(self.trained),
            "history": [vars(row) for row in self.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what ``state_dict`` gave.

        The same Parameters must learn, and the student have the weights of the start.
        """
        self.reset()
        put_back(self.twin.student, state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in _KEPT:
            setattr(self, name, state[name])
        self.looks = state.get("looks", self.looks)  # a run of an earlier version has none
        trained = state.get("trained")  # a run of an earlier version has none
        self.trained = None if trained is None else Reading(**trained)
        self.history = [Step(**row) for row in state["history"]]


def _note(error: RuntimeError) -> str:
    """Return what an error of autograd means for the model, and what to do."""
    if "modified by an inplace operation" in str(error):
        return (
            "it computes in evaluation mode, in which the model changes a tensor in place that its "
            "gradients need, such as a state or cache for the next call: switch that off, for "
            "models of transformers by 'use_cache': False in each batch, or run the model without "
            "it by forward=, such as forward=lambda model, batch: model(batch, use_cache=False)"
        )
    return (
        "if the model computes gradients in its forward, as score and energy nets do, nothing "
        "learns through these: adapt the network whose gradients they are, and put it back"
    )


def state_of(model: nn.Module) -> dict[str, Any]:
    """Return a copy of the state of a model."""
    return copy.deepcopy(model.state_dict())


def put_back(model: nn.Module, state: dict[str, Any]) -> None:
    """Give a model the state that ``state_of`` kept; buffers may have taken other shapes since."""
    for name, buffer in list(model.named_buffers()):
        if name in state and state[name].shape != buffer.shape:
            owner, _, own = name.rpartition(".")
            model.get_submodule(owner)._buffers[own] = buffer.new_empty(state[name].shape)
    model.load_state_dict(state)


def _index(seed: int, step: int, count: int) -> int:
    """Return the batch of a step: each epoch takes every batch once, in an order of its own."""
    epoch, place = divmod(step, count)
    key = derived(seed, "adapt epoch", epoch)
    draws = torch.Generator().manual_seed(key)
    order = torch.randperm(count, generator=draws, device=draws.device)
    return int(order[place].item())
