"""The chips that a configuration describes, on which a network is measured."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import analogtorch as at
from analogtorch.calibration.inputs import means_corrected
from analogtorch.chips.unit_cells import enlarged
from analogtorch.evaluate import Sweep
from analogtorch.evaluate.conditions import conditions
from analogtorch.evaluate.journal import OtherExperiment
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.once import Once
from analogtorch.speech.own_chip import cells_condition
from analogtorch.speech.task import Task

logger = logging.getLogger("analogtorch")


def converted(config: KWSConfig, network: nn.Module) -> nn.Module:
    """Return a digital network converted, in place, as the configuration says.

    Raises:
        ValueError: ``chip.digital`` names no layer that could be analog, or leaves none.
    """
    chip = enlarged(config.chip.build(), config.chip.cells)
    try:
        return at.convert(network, chip, exclude=config.chip.digital)
    except ValueError as error:
        raise ValueError(f"chip.digital: {error}") if config.chip.digital else error from None


def calibrated(
    config: KWSConfig, network: nn.Module, batches: Sequence[Tensor], **options: Any
) -> nn.Module:
    """Calibrate a converted network, in place, as the configuration says.

    ``options`` are further ones of ``calibrate``.
    """
    with means_corrected(config.chip.correct):
        return at.calibrate(network, batches, effort=config.chip.calibration, **options)


def recovery(config: KWSConfig, calibration: Sequence[Tensor]) -> at.Recovery | None:
    """Return what the chips of a configuration correct of themselves when they are looked at.

    Args:
        config: that of the run.
        calibration: features of the task's clips for calibration, in batches, of which the first
            ``chip.correct_batches`` correct, in one round: a further one takes as much time again.

    Raises:
        ValueError: there are fewer batches.
    """
    if (batches := correcting(config, calibration)) is None:
        return None
    return at.Recovery(batches=batches, rounds=1)


def correcting(config: KWSConfig, calibration: Sequence[Tensor]) -> Sequence[Tensor] | None:
    """Return the batches that chips correct their columns with; None: they do not.

    Raises:
        ValueError: there are fewer.
    """
    wanted = config.chip.correct_batches
    if not config.chip.correct:
        return None
    if len(calibration) < wanted:
        raise ValueError(
            f"chip.correct_batches={wanted}, but there are {len(calibration)} batches of training "
            f"clips to calibrate with; use {len(calibration)} or fewer"
        )
    return calibration[:wanted]


def correction_notes(config: KWSConfig, task: Task) -> list[str]:
    """Return what a reader of the accuracies must know of ``recovery``; empty without it."""
    if (batches := correcting(config, task.calibration)) is None:
        return []
    return [
        "At each of the times the chips correct gain and offset of their columns digitally, from "
        f"{sum(map(len, batches))} training clips without their labels (chip.correct)."
    ]


def conditions_of(config: KWSConfig) -> dict[str, str]:
    """Return what of the chips of a configuration is not as by default, in words, by option."""
    chip = config.chip
    found = conditions(chip.method, chip.defects, chip.compensation)
    if chip.drift_aware is not None:
        found["drift_aware"] = f"targets of devices allow for drift, right after {chip.drift_aware}"
    found |= cells_condition(chip.cells)
    options = {"method": "writing"}
    return {f"chip.{options.get(name, name)}": text for name, text in found.items()}


def condition_notes(config: KWSConfig) -> list[str]:
    """Return what a reader of the accuracies must know of ``conditions_of``; empty without any."""
    return [f"On the chips, {text} ({option})." for option, text in conditions_of(config).items()]


def swept(
    config: KWSConfig,
    task: Task,
    network: nn.Module,
    metric: Callable[[nn.Module], float],
    *,
    num_chips: int,
    times: Sequence[str],
    seed: int,
    folder: Path | None,
    progress: bool = False,
) -> Sweep:
    """Return ``sweep`` of a converted, calibrated network with the chips of a configuration.

    Args:
        config: that of the run, for how its chips are written, what they compensate and correct,
            their defects, and the processes.
        task: that of the configuration.
        network: the network.
        metric: as ``sweep`` takes it, like all others.
        num_chips: number of chips.
        times: times after programming.
        seed: seed of the chips.
        folder: a folder that keeps each measurement.
        progress: if True, show a progress bar.

    Raises:
        ValueError: the folder has measurements of other numbers.
    """
    try:
        return at.sweep(
            network,
            metric,
            num_chips=num_chips,
            times=times,
            seed=seed,
            compensation=config.chip.compensation,
            method=config.chip.method,
            defects=config.chip.defects,
            recovery=recovery(config, task.calibration),
            progress=progress,
            folder=folder,
            processes=config.sweep.processes,
        )
    except OtherExperiment as error:
        raise ValueError(
            f"the measurements in {folder} are of other numbers than those of the network now, as "
            "another version of analogtorch, of torch or of the processor gives them: go on with "
            "that one, or start anew with --overwrite or in another folder"
        ) from error


def measure(
    config: KWSConfig,
    task: Task,
    network: nn.Module,
    folder: Path | None = None,
    *,
    progress: bool = False,
) -> Sweep:
    """Return the test accuracy of a converted, calibrated network on the configuration's chips.

    Args:
        config: that of the run.
        task: that of the configuration.
        network: a converted, calibrated network.
        folder: a folder that keeps each measurement, as ``sweep`` takes it.
        progress: if True, show a progress bar.
    """
    logger.info(
        "measuring on %d chips at %d times", config.sweep.num_chips, len(config.sweep.times)
    )

    batches = task.test_batches()
    once = Once([x for x, _ in batches])

    def accuracy(view: nn.Module) -> float:
        with once.on(view):
            return at.accuracy(view, batches)

    vars(accuracy)["bounds"] = (0, 1)  # of the intervals, as those of at.metrics.accuracy
    return swept(
        config,
        task,
        network,
        accuracy,
        num_chips=config.sweep.num_chips,
        times=config.sweep.times,
        seed=config.sweep.seed,
        folder=folder,
        progress=progress,
    )
