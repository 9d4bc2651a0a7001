"""The level of the training noise: each is trained, and the validation clips choose, on chips."""

import dataclasses
import logging
from collections.abc import Callable

from torch import nn

from analogtorch.evaluate import Sweep
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.rundir import RunFolder
from analogtorch.speech.task import Task
from analogtorch.speech.validation import FILES, validated

logger = logging.getLogger("analogtorch")


def at_level(config: KWSConfig, level: float) -> KWSConfig:
    """Return the configuration that trains with one level."""
    training = dataclasses.replace(config.chip.training, scale=level)
    chip = dataclasses.replace(config.chip, training=training, levels=())
    return dataclasses.replace(config, chip=chip)


def key(level: float) -> str:
    """Return the name of the files of a level in the folder of a run."""
    return f"hwa-{level:g}"


def trained(
    config: KWSConfig, task: Task, folder: RunFolder, train: Callable[[KWSConfig, str], nn.Module]
) -> tuple[KWSConfig, nn.Module, dict[float, Sweep]]:
    """Return the net after HWA training with the level that is best on validation clips.

    With it come the configuration of that level, and the validation accuracy of each level on
    chips: the largest mean decides, of equal ones the first. A configuration without levels is
    trained as it is.

    Args:
        config: that of the run.
        task: that of the configuration.
        folder: the folder of the run; it gets the files of each level, and those of the net that is
            chosen as ``hwa``.
        train: returns the net that a configuration gives, and keeps its files under a name.
    """
    if not config.chip.levels:
        return config, train(config, "hwa"), {}
    nets: dict[float, nn.Module] = {}
    found: dict[float, Sweep] = {}
    for level in config.chip.levels:
        logger.info("training noise of level %g", level)
        nets[level] = train(at_level(config, level), key(level))
        kept = folder.files(f"chips/{key(level)}", FILES)
        found[level] = validated(config, task, nets[level], kept)
    best = max(found, key=lambda level: found[level].values.mean().item())
    logger.info("level %g is the best on validation clips", best)
    folder.save("hwa", nets[best])
    curve = (folder.path / f"training/{key(best)}.csv").read_text()
    folder.write("training/hwa.csv", curve)
    return at_level(config, best), nets[best], found
