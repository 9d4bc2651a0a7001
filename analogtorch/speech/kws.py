"""Keyword spotting from speech to accuracy on a chip: the pipeline of ``analogtorch kws``."""

import functools
import itertools
import logging
import platform
import time
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.conversion.detached import deep_copy
from analogtorch.evaluate.journal import files
from analogtorch.files import digests_of, is_code, packed, unpacked
from analogtorch.ops import derived
from analogtorch.report import RangeChoice, Result, write
from analogtorch.report.write import FILES
from analogtorch.speech import espeak, examine, levels
from analogtorch.speech.ablation import check_distinct, variants
from analogtorch.speech.changed_clips import changed_note
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.data import (
    Clips,
    coverage_note,
    fingerprint,
    silence_note,
    speaker_note,
)
from analogtorch.speech.earlier_run import remedy
from analogtorch.speech.effects import check_levels
from analogtorch.speech.logs import PHASES, curves, loggers
from analogtorch.speech.named import by_command
from analogtorch.speech.on_chips import (
    calibrated,
    condition_notes,
    converted,
    correcting,
    correction_notes,
    measure,
)
from analogtorch.speech.rehearsal import batches_of, rehearse, untrained
from analogtorch.speech.run_journal import read
from analogtorch.speech.rundir import RunFolder
from analogtorch.speech.task import Task, prepare
from analogtorch.speech.training import Phase
from analogtorch.speech.validation import ranges, recalibrated

logger = logging.getLogger("analogtorch")

CORRECTING = "correcting.pt"
"""File of a run with the features of the clips that its chips correct their columns with."""
OUTPUTS = (
    CORRECTING,
    *(f"checkpoints/{phase}.ckpt" for phase in PHASES),
    *(f"training/{phase}.csv" for phase in PHASES),
    *(f"{phase}.pt" for phase in PHASES),
    "checkpoints/direct.pt",
    *FILES,
)
"""Files of a run, besides its configuration, its journal and its measurements."""
DIRECT, HWA = "chips/direct", "chips/hwa"
"""Folders that keep the measurements of the net mapped directly and after HWA training."""


def run(
    config: KWSConfig,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Result:
    """Train, map, train for the chip, measure, and write everything into one folder.

    The same configuration gives the same accuracies. The folder gets config.json (usable as
    ``--config``), checkpoints/, training/ with loss and accuracy of each epoch, digital.pt and
    hwa.pt (state_dicts), report.html, report.md, report.json, accuracy.csv, accuracy.png, chips/
    with each measurement as soon as it is made, and journal.json, which lists what the run wrote.
    Recordings and options are checked before the folder is changed.

    Args:
        config: the configuration of the run.
        out: a new or an empty folder, or that of an earlier run.
        resume: continue a run that was stopped, with the same results as without the stop; start a
            run if there is none. The recordings must be the same. Their folder may differ, and so
            may ``workers``, ``report``, and the number of chips and the times.
        overwrite: replace an earlier run: remove the files that its journal lists.
        progress: if True, show progress bars.

    Returns:
        The accuracies of the digital net and of the chips.

    Raises:
        ValueError: a clip or setting cannot be used; the folder holds other files, is used by
            another run, or holds a run and neither ``resume`` nor ``overwrite`` is given; or
            ``resume`` is given with other settings that decide the results.
        OSError: a file is missing or cannot be written.
        ImportError: the source needs a package that is not installed.
    """
    start = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        with (
            torch.device("cpu"),  # whatever torch.set_default_device says
            RunFolder.open(out, config, resume=resume, overwrite=overwrite) as folder,
        ):
            logger.info("speech from the source %s", config.data.source)
            # mistakes in these appear before clips are read
            check_distinct(config)
            if not folder.resume:
                check_levels(config.chip.defects)
            features, others = config.front_end(), variants(config)
            with by_command(f"data.{config.data.source}"):
                splits = config.data.selected.load(progress=progress)
            notes = notes_on(config, splits)
            task = prepare(splits, config.augment, seed=config.seed, features=features)
            rehearse(config, task)
            measured = files(config.sweep.num_chips)  # of each net
            swept = [DIRECT, HWA, *(other.chips for other in others)]
            kept = examine.kept(config)
            kept += [f"{on}/{name}" for on in swept for name in measured]
            chosen = [levels.key(level) for level in config.chip.levels]
            nets = [*(chosen or ["hwa"]), *(other.key for other in others if other.trained)]
            looks = [*(f"chips/{net}" for net in chosen), *itertools.chain(*map(ranges, nets))]
            kept += [f"{look}/{name}" for look in looks for name in levels.FILES]
            kept += [f"checkpoints/{net}-new-ranges.pt" for net in nets]
            folder.begin(
                fingerprint(splits, *task.augmenter.noise.recordings),
                classes=task.classes,
                code=code_of(config),
                planned=(*OUTPUTS, *kept),
            )
            digital = train_digital(config, task, folder, progress=progress)
            on_chip = converted(config, deep_copy(digital))
            folder.keep_state(
                "direct", on_chip, functools.partial(calibrated, config, batches=task.calibration)
            )
            at_chips = folder.files(DIRECT, measured)
            direct = measure(config, task, on_chip, at_chips, progress=progress)

            choices: dict[str, RangeChoice] = {}

            def to_level(own: KWSConfig, name: str) -> nn.Module:
                start = deep_copy(on_chip) if own.chip == config.chip else None
                return train_hwa(
                    own, task, folder, digital, name, choices, start, progress=progress
                )

            settled, trained, validation = levels.trained(config, task, folder, to_level)
            hwa = measure(config, task, trained, folder.files(HWA, measured), progress=progress)
            ablation = {}
            for other in variants(settled):
                logger.info("for the report: %s", other.name)
                net = trained
                if other.trained:
                    net = to_level(other.config, other.key)
                at_chips = folder.files(other.chips, measured)
                ablation[other.name] = measure(other.config, task, net, at_chips, progress=progress)
            titles = {"hwa": "hardware-aware"}
            titles |= {levels.key(level): f"level {level:g}" for level in config.chip.levels}
            titles |= {other.key: f"ablation: {other.name}" for other in others}
            logger.info("measuring what the report says")
            more = examine.examined(config, task, digital, trained, hwa, folder, progress=progress)
            result = Result(
                digital=at.accuracy(digital, task.test_batches()),
                direct=direct,
                hwa=hwa,
                chip=config.chip.build().name,
                data={
                    "source": config.data.source,
                    "classes": list(task.classes),
                    **{split: len(clips) for split, clips in splits.items()},
                },
                seed=config.seed,
                seconds=time.perf_counter() - start,
                continued=folder.resume,
                versions=versions(),
                notes=(
                    *notes,
                    *condition_notes(config),
                    *correction_notes(config, task),
                    *more.pop("notes", ()),
                ),
                config=config.to_dict(),
                command=folder.again("kws", allow_code=bool(code_of(config))),
                ablation=ablation,
                levels=validation,
                level=settled.chip.training.scale if validation else None,
                ranges={titles[key]: choice for key, choice in choices.items()},
                training=curves(folder.path),
                **more,
            )
            if (clips := correcting(config, task.calibration)) is not None:
                folder.write(CORRECTING, packed(torch.cat(tuple(clips))))
            for name in FILES:
                folder.file(name)
            write(result, folder.path)
            folder.finish()
            return result
    finally:
        torch.set_num_threads(threads)


def notes_on(config: KWSConfig, splits: dict[str, Clips]) -> tuple[str, ...]:
    """Return the caveats of the data, which the report shows; they are logged too."""
    synthetic = espeak.NOTE if config.data.source == "synthetic" else None
    of_data = speaker_note, coverage_note, silence_note, changed_note
    found = (synthetic, *(note(splits) for note in of_data))
    notes = tuple(note for note in found if note)
    for note in notes:
        logger.warning("note: %s", note)
    return notes


def code_of(config: KWSConfig) -> dict[str, str]:
    """Return the SHA-256 of each file of the user's code that the configuration needs, by name."""
    found: dict[str, str] = {}
    for name in (config.features.name, config.model.name):
        found |= digests_of(name) if is_code(name) else {}
    return found


def train_digital(
    config: KWSConfig, task: Task, folder: RunFolder, *, progress: bool = False
) -> nn.Module:
    """Return the network of the configuration, trained from random weights.

    Its weights are saved as digital.pt.
    """
    network = untrained(config, task.classes, task.val[0][:2])
    logger.info("digital training, %d epochs", config.digital.epochs)
    train_phase(config, task, folder, network, config.digital, "digital", progress=progress)
    folder.save("digital", network)
    return network


def to_chip(config: KWSConfig, task: Task, network: nn.Module) -> nn.Module:
    """Return a copy of a digital network, converted and calibrated as the configuration says."""
    return calibrated(config, converted(config, deep_copy(network)), task.calibration)


def train_hwa(
    config: KWSConfig,
    task: Task,
    folder: RunFolder,
    digital: nn.Module,
    name: str = "hwa",
    choices: dict[str, RangeChoice] | None = None,
    start: nn.Module | None = None,
    *,
    progress: bool = False,
) -> nn.Module:
    """Return the network after HWA training from the digital net.

    It is converted, calibrated, trained, and gets the ranges that ``recalibrated`` chooses, which
    ``choices`` then hold. Its checkpoint and its weights are saved under ``name``. ``start`` is
    what ``to_chip`` has made of the digital net, which may change; None: it is made here.
    """
    network = to_chip(config, task, digital) if start is None else start
    logger.info("hardware-aware training, %d epochs", config.hwa.epochs)
    train_phase(config, task, folder, network, config.hwa, name, teacher=digital, progress=progress)
    network = recalibrated(config, task, network, name, folder.files, choices, folder.keep_state)
    folder.save(name, network)
    return network


def saved(
    config: KWSConfig, classes: tuple[str, ...], features: Tensor, run: Path, name: str
) -> nn.Module:
    """Return a network of a finished run.

    Args:
        config: that of the run.
        classes: its classes in their order.
        features: those of some clips, (B, ...).
        run: folder of the run.
        name: ``hwa``, trained for the chip, converted and calibrated; or ``digital``.

    Raises:
        ValueError: the file is damaged, or of another network; or the network's code gives random
            logits, or such that depend on other clips.
        FileNotFoundError: the run has not written it yet.
    """
    network = untrained(config, classes, features)
    if name == "hwa":
        network = converted(config, network)
    file = run / f"{name}.pt"
    try:
        network.load_state_dict(unpacked(file))
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{file} does not fit the network of the run, {config.model.name}"
            f"{remedy(run, code_of(config))}"
        ) from error
    known = (read(run) or {}).get("digests", {})  # older runs have none
    layers = [layer for _, layer in at.analog_layers(network)]
    if name == "hwa" and file.name not in known and not any(layer.ranged for layer in layers):
        raise ValueError(
            f"{file} has no ranges, which a net that was trained for the chip has"
            f"{remedy(run, code_of(config))}"
        )
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

    All phases with a teacher see the same clips in the same order and draw the same random numbers,
    so that their results can be compared pairwise.
    """
    # here, as Lightning takes seconds to import, and commands that do not train need none
    from analogtorch.speech.training import fit

    seed = derived(config.seed, "training" if teacher is None else "training with a teacher")
    return fit(
        network,
        batches_of(config, task, phase, seed),
        phase,
        seed=seed,
        checkpoint=folder.checkpoint(name),
        resume=folder.resume,
        teacher=None if teacher is None else deep_copy(teacher),
        validation=task.val,
        progress=progress,
        accelerator=config.accelerator,
        devices=config.devices,
        curve=folder.file(f"training/{name}.csv"),
        loggers=loggers(config, name),
    )


def versions() -> dict[str, str]:
    """Return the versions of the packages that the numbers depend on."""
    found = {name: version(name) for name in ("torch", "torchaudio", "lightning", "numpy")}
    # a source checkout need not be installed
    return {"analogtorch": at.__version__, "Python": platform.python_version(), **found}
