"""Keyword spotting from speech to the accuracy that is left on a chip: the pipeline of ``analogtorch kws``."""

import copy
import logging
import time
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

import analogtorch as at
from analogtorch.evaluate import Sweep
from analogtorch.ops import fold, seed_tensor, stream
from analogtorch.report import Result, write
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.rundir import RunFolder
from analogtorch.speech.task import Task, prepare
from analogtorch.training import Batches, Phase, fit

logger = logging.getLogger("analogtorch")

SYNTHETIC_NOTE = (
    "This speech was synthesised. The run shows that the whole path works; it says nothing about accuracy on people."
)


def run(config: KWSConfig, out: str | Path, *, resume: bool = False, progress: bool = False) -> Result:
    """Train, map, train for the chip, measure, and write everything into one folder.

    The same configuration gives the same accuracies. The folder gets config.json (usable as ``--config``),
    checkpoints/, digital.pt and hwa.pt (state_dicts), report.json, report.md and accuracy.png.

    Args:
        config: what to run.
        out: the folder; files of these names from an earlier run are replaced.
        resume: continue a run that was stopped, with the same results as if it had not been; start where there is none.
        progress: show progress bars.

    Raises:
        ValueError: a clip or setting that cannot be used, or ``resume`` with another configuration.
        OSError: a missing file, or one that cannot be written.
        ImportError: the source needs a package that is not installed.
    """
    start = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        folder = RunFolder.open(out, config, resume=resume)
        logger.info("speech from the source %s", config.data.source)
        splits = config.data.selected.load(progress=progress)
        task = prepare(splits, config.augment, seed=config.seed)
        digital = train_digital(config, task, folder, progress=progress)
        direct = measure(config, task, to_chip(config, task, digital), progress=progress)
        trained = train_hwa(config, task, folder, digital, progress=progress)
        hwa = measure(config, task, trained, progress=progress)
        result = Result(
            digital=at.accuracy(digital, task.test_batches()),
            direct=direct,
            hwa=hwa,
            chip=config.chip.build().name,
            tiles=at.summary(trained).tiles,
            data={"source": config.data.source, **{split: len(clips) for split, clips in splits.items()}},
            seed=config.seed,
            seconds=time.perf_counter() - start,
            versions=versions(),
            notes=(SYNTHETIC_NOTE,) if config.data.source == "synthetic" else (),
        )
        write(result, folder.path)
        return result
    finally:
        torch.set_num_threads(threads)


def train_digital(config: KWSConfig, task: Task, folder: RunFolder, *, progress: bool = False) -> nn.Module:
    """The network of the configuration, trained from random weights; its weights are saved as digital.pt."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(config.seed, "initial weights"))
        network = config.model.build()
    logger.info("digital training, %d epochs", config.digital.epochs)
    train_phase(config, task, folder, network, config.digital, "digital", progress=progress)
    folder.save("digital", network)
    return network


def to_chip(config: KWSConfig, task: Task, network: nn.Module) -> nn.Module:
    """A copy of the network, converted for the configuration's chip and calibrated."""
    return at.calibrate(at.convert(copy.deepcopy(network), config.chip.build()), task.calibration)


def train_hwa(
    config: KWSConfig, task: Task, folder: RunFolder, digital: nn.Module, *, progress: bool = False
) -> nn.Module:
    """Hardware-aware training from the digital net: convert, calibrate, train, calibrate again; saved as hwa.pt."""
    network = to_chip(config, task, digital)
    logger.info("hardware-aware training, %d epochs", config.hwa.epochs)
    train_phase(config, task, folder, network, config.hwa, "hwa", teacher=digital, progress=progress)
    network = to_chip(config, task, network)
    folder.save("hwa", network)
    return network


def train_phase(
    config: KWSConfig,
    task: Task,
    folder: RunFolder,
    network: nn.Module,
    phase: Phase,
    name: str,
    *,
    teacher: nn.Module | None = None,
    progress: bool = False,
) -> nn.Module:
    """Train ``network`` in place on the task, with a checkpoint called ``name``.

    All phases with a teacher see the same clips in the same order and draw the same random numbers: they are a pair.
    """
    seed = derive(config.seed, "training" if teacher is None else "training with a teacher")
    return fit(
        network,
        Batches(task.make, len(task.train), batch_size=phase.batch_size, seed=seed, workers=config.workers),
        phase,
        seed=seed,
        checkpoint=folder.checkpoint(name),
        resume=folder.resume,
        teacher=copy.deepcopy(teacher),
        validation=task.val,
        progress=progress,
        accelerator=config.accelerator,
    )


def measure(config: KWSConfig, task: Task, network: nn.Module, *, progress: bool = False) -> Sweep:
    """Test accuracy of a converted, calibrated network on the configuration's chips."""
    logger.info("measuring on %d chips at %d times", config.sweep.chips, len(config.sweep.times))
    return at.sweep(
        network,
        lambda view: at.accuracy(view, task.test_batches()),
        chips=config.sweep.chips,
        times=config.sweep.times,
        seed=config.sweep.seed,
        compensation=config.chip.compensation,
        progress=progress,
    )


def derive(seed: int, name: str) -> int:
    """A seed for one purpose."""
    return int(fold(seed_tensor(seed), stream(name)).item())


def versions() -> dict[str, str]:
    """The installed versions of what the numbers depend on."""
    return {name: version(name) for name in ("analogtorch", "torch", "torchaudio", "lightning")}
