"""What the validation clips decide on chips that no measurement has."""

import functools
import logging
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from torch import nn

import analogtorch as at
from analogtorch.conversion.detached import deep_copy
from analogtorch.devices import seconds
from analogtorch.evaluate import Sweep
from analogtorch.evaluate.journal import files
from analogtorch.report import RangeChoice
from analogtorch.simulate.chip import beyond_data
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.on_chips import swept
from analogtorch.speech.rundir import Calibrate
from analogtorch.speech.task import Task

logger = logging.getLogger("analogtorch")

TIMES = ("1 day", "1 year")
"""Times of a choice; those beyond the data of the chip's devices are left out."""
NUM_CHIPS = 5
_SEED = 1_000_000
"""Seed of the chips of a choice, unless it is that of the measurement: then the next one."""
FILES = files(NUM_CHIPS)
"""Files that keep the measurements of one net."""
_MARGIN, _CLIPS = 0.01, 500
"""Accuracy that new ranges may cost: less is within what so many clips can tell."""


def margin(clips: int) -> float:
    """Return the accuracy, 0..1, that new ranges may cost on so many validation clips.

    All chips hear the same clips, so that an interval over chips does not see how far other clips
    would move the difference. Its standard error falls with the root of the number of clips, and
    the margin with it, down to a point: with 35 clips, one of which is 2.9 points, it is 3.8.
    """
    return _MARGIN * math.sqrt(max(1.0, _CLIPS / clips))


def ranges(name: str) -> tuple[str, str]:
    """Return the folders of what ``recalibrated`` measures of a trained net of a run.

    In the first one it has the ranges that it has learnt, in the second new ones.
    """
    return f"chips/{name}-learnt-ranges", f"chips/{name}-new-ranges"


def recalibrated(
    config: KWSConfig,
    task: Task,
    network: nn.Module,
    name: str,
    keep: Callable[[str, Iterable[str]], Path | None],
    choices: dict[str, RangeChoice] | None = None,
    keep_state: Callable[[str, nn.Module, Calibrate], None] | None = None,
) -> nn.Module:
    """Return a trained network with the ranges of its new weights.

    Ranges are found for the products of the weights. A network can have learnt to live with what
    its ADCs clip, and to need it: where new ranges cost it more than the ``margin`` in validation
    accuracy on chips, it keeps those that it has learnt. Where calibration has left each input
    vector its DAC range in all layers, it keeps that.

    Args:
        config: that of the run.
        task: that of the configuration.
        network: a converted, calibrated network after its training; it may change.
        name: its name in the run.
        keep: returns the path of a folder, by its name and those of its files, as
            ``RunFolder.files`` does; None: measurements are not kept.
        choices: gets what was chosen, under ``name``, if there was a choice.
        keep_state: calibrates the network and keeps its state, as ``RunFolder.keep_state`` does;
            None: it is not kept.
    """
    layers = [layer for _, layer in at.analog_layers(network)]
    fixed = any(layer.calibrated for layer in layers)
    if not fixed and not any(layer.ranged for layer in layers):
        return network
    learnt = deep_copy(network)
    method: Literal["mse"] | None = "mse" if fixed else None
    find = functools.partial(at.calibrate, batches=task.calibration, effort="ranges", method=method)
    if keep_state is None:
        find(network)
    else:
        keep_state(f"{name}-new-ranges", network, find)
    before, after = (
        validated(config, task, each, keep(folder, FILES))
        for folder, each in zip(ranges(name), (learnt, network), strict=True)
    )
    choice = RangeChoice(learnt=before, new=after, margin=margin(len(task.val[1])))
    if choices is not None:
        choices[name] = choice
    logger.info(
        "the net keeps %s ranges: %.2f %% of the validation clips are right on chips with the "
        "learnt ones, %.2f %% with new ones, which may cost %.2f points",
        choice.kept,
        100 * before.values.mean().item(),
        100 * after.values.mean().item(),
        100 * choice.margin,
    )
    return network if choice.kept == "new" else learnt


def validated(
    config: KWSConfig,
    task: Task,
    network: nn.Module,
    folder: Path | None = None,
) -> Sweep:
    """Return the validation accuracy of a net on chips that no measurement has.

    The arguments are those of ``on_chips.measure``.
    """
    times = [time for time in TIMES if not beyond_data(network, seconds(time))]
    return swept(
        config,
        task,
        network,
        at.metrics.accuracy(task.validation_batches()),
        num_chips=NUM_CHIPS,
        times=times or TIMES[:1],
        seed=_SEED + (config.sweep.seed == _SEED),
        folder=folder,
    )
