"""Monte Carlo over chips and times: how much of a metric survives programming, noise and drift."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from analogtorch.ops import fold, seed_tensor, stream
from analogtorch.program import Compensation, program, seconds

TIMES = ("0 s", "1 h", "1 day", "1 month", "1 year")
"""The times that reports show unless told otherwise: right after programming, and later."""


@dataclass(frozen=True)
class Sweep:
    """A metric on several chips at several times; print it for a table."""

    times: tuple[str, ...]
    values: Tensor
    """float64, (chips, times)."""
    seeds: tuple[int, ...]
    """Of each chip: ``program(model, seed=seeds[i])`` gives it again."""

    @property
    def mean(self) -> Tensor:
        """Mean over the chips, (times,)."""
        return self.values.mean(0)

    @property
    def std(self) -> Tensor:
        """Standard deviation over the chips, (times,); zero for one chip."""
        return self.values.std(0, correction=1 if len(self.seeds) > 1 else 0)

    def to_dict(self) -> dict[str, dict[str, float]]:
        """``{time: {"mean", "std", "chips"}}``."""
        rows = zip(self.times, self.mean.tolist(), self.std.tolist(), strict=True)
        return {time: {"mean": mean, "std": std, "chips": len(self.seeds)} for time, mean, std in rows}

    def __str__(self) -> str:
        rows = [f"{'time':<12} {'mean':>8} {'std':>8}  ({len(self.seeds)} chips)"]
        rows += [f"{t:<12} {v['mean']:>8.4f} {v['std']:>8.4f}" for t, v in self.to_dict().items()]
        return "\n".join(rows)


def sweep(
    model: nn.Module,
    metric: Callable[[nn.Module], float],
    *,
    chips: int = 10,
    times: Sequence[str | float] = TIMES,
    seed: int = 0,
    compensation: Compensation = "global",
    progress: bool = False,
) -> Sweep:
    """Program ``chips`` chips and measure them at each of the ``times``.

    Chip ``i`` is the same for every model and every call with the same ``seed``: two models, or two trainings, are
    compared on the same devices.

    Args:
        model: a converted model.
        metric: called with the model as it runs on a chip; returns a number, such as the accuracy.
        chips: how many, >= 1.
        times: as ``ProgrammedChip.at`` takes them.
        seed: of the whole experiment, a signed 64-bit integer.
        compensation: of the drift, as ``ProgrammedChip.at`` takes it.
        progress: show a progress bar.

    Raises:
        ValueError: no chips, no times, or what ``program`` and ``at`` refuse.
    """
    if chips < 1:
        raise ValueError(f"sweep: chips must be >= 1, got {chips}")
    if not times:
        raise ValueError("sweep: times is empty; leave it out for the usual five")
    labels = tuple(map(label, times))
    if len({seconds(time) for time in times}) < len(times):
        raise ValueError(f"sweep: times must differ, got {labels}")
    seeds = chip_seeds(seed, chips)
    values = torch.empty(chips, len(times), dtype=torch.float64)
    with tqdm(total=chips * len(times), desc="chips x times", unit="read", disable=not progress) as bar:
        for i, chip_seed in enumerate(seeds):
            physical = program(model, seed=chip_seed)
            for j, time in enumerate(times):
                values[i, j] = float(metric(physical.at(time, compensation=compensation)))
                bar.update()
    return Sweep(times=labels, values=values, seeds=seeds)


def chip_seeds(seed: int, chips: int) -> tuple[int, ...]:
    """Seeds of the ``chips`` chips of the experiment ``seed``: chip ``i`` is the same for every model and call."""
    return tuple(int(fold(seed_tensor(seed), stream("chip", i)).item()) for i in range(chips))


def label(time: str | float) -> str:
    """How tables call a time: text as it is, a number as seconds."""
    return time if isinstance(time, str) else f"{int(time) if time == int(time) else time} s"


@torch.no_grad()
def accuracy(model: nn.Module, batches: Iterable[tuple[Any, Tensor]]) -> float:
    """Share, 0..1, of the inputs whose largest output is at the label; in evaluation mode, which is then restored.

    Args:
        model: gives (N, classes) for an input.
        batches: pairs of input and labels (N,), read once.

    Raises:
        ValueError: there is no sample, or the shapes do not agree.
    """
    modes = {m: m.training for m in model.modules()}
    model.eval()
    right = total = 0
    try:
        for x, y in batches:
            predicted = model(x).argmax(-1)
            if predicted.shape != y.shape:
                raise ValueError(
                    f"accuracy: outputs give labels of shape {tuple(predicted.shape)}, the batch has {tuple(y.shape)}; "
                    "pass outputs (N, classes) and labels (N,)"
                )
            right += int((predicted == y).sum())
            total += len(y)
    finally:
        for module, training in modes.items():
            module.training = training
    if total == 0:
        raise ValueError("accuracy: batches holds no sample")
    return right / total
