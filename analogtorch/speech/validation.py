"""What the validation clips decide on chips that no measurement has."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from torch import nn

import analogtorch as at
from analogtorch.conversion.detached import deep_copy
from analogtorch.devices import seconds
from analogtorch.evaluate import Sweep
from analogtorch.evaluate.journal import files
from analogtorch.simulate.chip import beyond_data
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.on_chips import swept
from analogtorch.speech.task import Task

logger = logging.getLogger("analogtorch")

TIMES = ("1 day", "1 year")
"""Times of a choice; those beyond the data of the chip's devices are left out."""
NUM_CHIPS = 5
_SEED = 1_000_000
"""Seed of the chips of a choice; those of the measurement have other seeds."""
FILES = files(NUM_CHIPS)
"""Files that keep the measurements of one net."""
_MARGIN = 0.01
"""Accuracy that new ranges may cost: less is within what 500 clips can tell."""


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
) -> nn.Module:
    """Return a trained network with the ranges of its new weights.

    Ranges are found for the products of the weights. A network can have learnt to live with what
    its ADCs clip, and to need it: where new ranges cost it over a point of validation accuracy on
    chips, it keeps those that it has learnt. Where calibration has left each input vector its DAC
    range in all layers, it keeps that.

    Args:
        config: that of the run.
        task: that of the configuration.
        network: a converted, calibrated network after its training; it may change.
        name: its name in the run.
        keep: returns the path of a folder, by its name and those of its files, as
            ``RunFolder.files`` does; None: measurements are not kept.
    """
    layers = [layer for _, layer in at.analog_layers(network)]
    fixed = any(layer.calibrated for layer in layers)
    if not fixed and not any(layer.ranged for layer in layers):
        return network
    learnt = deep_copy(network)
    at.calibrate(network, task.calibration, effort="ranges", method="mse" if fixed else None)
    before, after = (
        validated(config, task, each, keep(folder, FILES)).values.mean().item()
        for folder, each in zip(ranges(name), (learnt, network), strict=True)
    )
    if after >= before - _MARGIN:
        return network
    logger.info(
        "the ranges that were learnt stay: with new ones, %.2f %% of the validation clips are "
        "right on chips, where it is %.2f %%",
        100 * after,
        100 * before,
    )
    return learnt


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
        at.metrics.accuracy([task.val]),
        num_chips=NUM_CHIPS,
        times=times or TIMES[:1],
        seed=_SEED,
        folder=folder,
    )
