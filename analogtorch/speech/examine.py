"""What the report of a run says beyond accuracies: confusions, clips, placement, causes."""

import dataclasses
import io
import wave
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.conversion.restored import evaluating
from analogtorch.devices import seconds
from analogtorch.evaluate import Sweep
from analogtorch.evaluate.journal import files
from analogtorch.evaluate.look import Look
from analogtorch.report import Heard, Misheard
from analogtorch.simulate.chip import beyond_data
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.data import SAMPLE_RATE, Clips
from analogtorch.speech.on_chips import recovery
from analogtorch.speech.rundir import RunFolder
from analogtorch.speech.task import Task

CAUSES = ("sensitivity", "budget")
"""What is measured if the report asks for it; each has a folder that keeps its measurements."""


def kept(config: KWSConfig) -> list[str]:
    """Return the files with the measurements that ``examined`` keeps in the folder of a run."""
    count = min(config.report.num_chips, config.sweep.num_chips)
    asked = [cause for cause in CAUSES if getattr(config.report, cause)]
    return [f"chips/{cause}/{name}" for cause in asked for name in files(count, cause)]


def examined(
    config: KWSConfig,
    task: Task,
    digital: nn.Module,
    trained: nn.Module,
    hwa: Sweep,
    folder: RunFolder,
    *,
    progress: bool = False,
) -> dict[str, Any]:
    """Return fields of ``Result`` by name, measured as ``config.report`` says.

    Args:
        config: that of the run.
        task: that of the configuration.
        digital: the digital net.
        trained: the net after HWA training, converted and calibrated.
        hwa: the accuracies of that net, whose first chips are examined.
        folder: the folder of the run, which keeps the measurements of sensitivity and budget.
        progress: if True, show progress bars.
    """
    options, seeds = config.report, hwa.seeds[: config.report.num_chips]
    found: dict[str, Any] = {
        **placed(config, trained, task),
        "windows_per_second": options.windows_per_second,
        "heard": heard(config, task, digital, trained, seeds),
    }
    given: dict[str, Any] = {
        "time": options.time,
        "num_chips": len(seeds),
        "seed": config.sweep.seed,
        "compensation": config.chip.compensation,
        "method": config.chip.method,
        "defects": config.chip.defects,
        "recovery": recovery(config, task.calibration),
        "progress": progress,
    }

    def accuracy(view: nn.Module) -> float:
        return at.accuracy(view, task.test_batches())

    measures: dict[str, Callable[..., Any]] = {
        "sensitivity": at.sensitivity,
        "budget": partial(at.budget, growth=None),
    }
    for cause in CAUSES:
        if getattr(options, cause):
            place = folder.files(f"chips/{cause}", files(len(seeds), cause))
            found[cause] = measures[cause](trained, accuracy, folder=place, **given)
    return found


def placed(config: KWSConfig, network: nn.Module, task: Task) -> dict[str, Any]:
    """Return the mapping of a converted network, its cost and its number of tiles.

    For a network that cannot be mapped, it is an upper bound, and a note has the reason.
    """
    # the chip of the network has a cell that is config.chip.cells unit cells
    chip = None if config.chip.cells == 1 else config.chip.build()
    try:
        mapping = at.map_to_chip(network, task.test[0][:1], chip=chip, num_chips=None)
    except ValueError as error:
        tiles = at.summary(network).tiles * config.chip.cells
        note = (
            f"The net takes {tiles} tiles at most, one for each of its blocks, and has no "
            f"floorplan, no latency and no energy: {error}"
        )
        return {"tiles": tiles, "notes": (note,)}
    cost = None if mapping.chip.cost is None else at.cost(mapping)
    return {"mapping": mapping, "cost": cost, "tiles": mapping.tiles_used}


def heard(
    config: KWSConfig, task: Task, digital: nn.Module, trained: nn.Module, seeds: tuple[int, ...]
) -> Heard:
    """Return what the test clips are heard as, digitally and on the chips of ``seeds``."""
    time, on_chips = config.report.time, []
    look = Look(compensation=config.chip.compensation, recovery=recovery(config, task.calibration))
    notes = beyond_data(trained, seconds(time))
    for seed in seeds:
        physical = at.program(
            trained, seed=seed, method=config.chip.method, defects=config.chip.defects
        )
        physical.warned.update(notes)  # the report says them
        on_chips.append(_classes(look.at(physical)(seconds(time)), task))
    found = Heard(
        classes=task.classes,
        labels=task.test[1],
        digital=_classes(digital, task),
        chips=torch.stack(on_chips),
        seeds=seeds,
        time=time,
        note="; ".join(notes),
    )
    chosen = found.chosen(config.report.clips)
    return dataclasses.replace(
        found, misheard=tuple(_misheard(i, task.test_clips, found) for i in chosen)
    )


@torch.no_grad()
def _classes(network: nn.Module, task: Task) -> Tensor:
    """Return the index of the class that each test clip is heard as, (N,)."""
    with evaluating(network):
        return torch.cat([network(x).argmax(-1) for x, _ in task.test_batches()])


def _misheard(index: int, clips: Clips, found: Heard) -> Misheard:
    names = found.classes
    return Misheard(
        index=index,
        name=clips.names[index],
        said=names[int(found.labels[index])],
        digital=names[int(found.digital[index])],
        chips=tuple(names[c] for c in found.chips[:, index].tolist()),
        wav=_wav(clips, index),
    )


def _wav(clips: Clips, index: int) -> bytes:
    """Return a clip as a WAV file, as it was classified."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        writer.writeframes(clips.waveforms[index].numpy().astype("<i2").tobytes())
    return file.getvalue()
