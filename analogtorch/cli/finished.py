"""A finished run of ``analogtorch kws``, for the commands that go on with its networks."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.cli.kws import parse
from analogtorch.files import parse_json, parse_yaml, unpacked
from analogtorch.speech import kws
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.data import SAMPLES, fingerprint
from analogtorch.speech.earlier_run import begun, check, continued, remedy
from analogtorch.speech.labels import classes_of
from analogtorch.speech.on_chips import recovery
from analogtorch.speech.run_journal import CONFIG, JOURNAL
from analogtorch.speech.task import AT_ONCE, Task, check_front_end, prepare

_REPORT = "report.json"


def finished(
    command: str, run: Path, network: str, *, allow_code: bool, others: Sequence[str] = ()
) -> tuple[KWSConfig, Task, nn.Module]:
    """Return configuration, task and a network of a run, calibrated for its chip.

    Args:
        command: the command that asks, for messages.
        run: folder of the run.
        network: ``hwa``, trained for the chip; or ``digital``.
        allow_code: whether to run code that the run's configuration names.
        others: other networks that the command uses where the run has them; they are checked too.

    Raises:
        ValueError: the folder has no finished run, or names code that is not allowed or not to be
            found from the current folder; or the configuration, the recordings, that code or the
            weights are others than those of the run.
        OSError: a file is missing.
    """
    config = _configuration(command, run, network, allow_code, others)
    features = config.front_end()
    splits = config.data.selected.load()
    task = prepare(splits, config.augment, seed=config.seed, features=features)
    _check(command, run, config, fingerprint(splits, *task.augmenter.noise.recordings))
    found = kws.saved(config, task.classes, task.val[0][:2], run, network)
    return config, task, kws.to_chip(config, task, found) if network == "digital" else found


def listener(
    command: str, run: Path, *, allow_code: bool
) -> tuple[KWSConfig, nn.Module, tuple[str, ...], nn.Module, at.Recovery | None]:
    """Return configuration, front end, classes and the network of a run trained for its chip.

    The last is what its chips correct of themselves. The recordings of the run are not needed if it
    has written its report and, where its chips correct themselves, the features they do so with.

    Args:
        command: the command that asks, for messages.
        run: folder of the run.
        allow_code: whether to run code that the run's configuration names.

    Raises:
        ValueError: as ``finished`` raises it, the report is damaged, or the front end gives other
            features for a window alone than in a batch.
        OSError: a file is missing.
    """
    config = _configuration(command, run, "hwa", allow_code)
    files = [run / _REPORT, *[run / kws.CORRECTING] * config.chip.correct]
    if not all(file.is_file() for file in files):
        config, task, network = finished(command, run, "hwa", allow_code=allow_code)
        return config, task.features, task.classes, network, recovery(config, task.calibration)
    _check(command, run, config, None, [file.name for file in files[1:]])
    classes = _classes(run / _REPORT)
    features = config.front_end()
    # of noise: where a front end divides by the spread of a clip, those of silence are NaN
    noise = torch.randn(
        2, SAMPLES, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu"
    )
    tried = check_front_end(features, 0.1 * noise, ("a second of noise", "another one"))
    batches = [part for file in files[1:] for part in _clips(file, config, tried).split(AT_ONCE)]
    corrections = recovery(config, batches)
    return config, features, classes, kws.saved(config, classes, tried, run, "hwa"), corrections


def _configuration(
    command: str, run: Path, network: str, allow_code: bool, others: Sequence[str] = ()
) -> KWSConfig:
    file = run / CONFIG
    if not file.is_file() and not (run / JOURNAL).is_file():
        raise ValueError(
            f"{command}: {run} holds no run of analogtorch kws, which writes {CONFIG}; name the "
            "folder that was its --out, such as runs/kws"
        )
    if lacks := _lacks(file):
        try:
            begun(run)  # or there is nothing to write it from
        except ValueError as error:
            raise ValueError(f"{command}: {file} {lacks}, and {error}") from error
        raise ValueError(
            f"{command}: {file} {lacks}; copy it back, or write into it the object that is called "
            f"config in {run / JOURNAL}"
        )
    try:
        config = parse([f"--config={file}", *["--allow-code"] * allow_code]).config
    except ValueError as error:
        raise ValueError(f"{command}: cannot go on with {run}: {error}") from error
    except (FileNotFoundError, ImportError) as error:
        raise ValueError(
            f"{command}: cannot go on with {run}: {error}. A run's own code is looked for from the "
            f"current folder; start {command} in the one where the run was started"
        ) from error
    if not (weights := run / f"{network}.pt").is_file():
        raise ValueError(
            f"{command}: {weights} is missing: the run has not finished; continue it with "
            f"{continued(run, kws.code_of(config))}"
        )
    present = [name for other in others if (run / (name := f"{other}.pt")).is_file()]
    _check(command, run, config, None, [weights.name, *present])  # before all clips are read
    return config


def _lacks(file: Path) -> str:
    """Return what is wrong with a file that is no configuration at all; empty if it is one."""
    if not file.is_file():
        return "is missing"
    try:
        return "" if isinstance(parse_yaml(file.read_bytes()), dict) else "holds no options"
    except ValueError as error:
        return str(error)


def _check(
    command: str, run: Path, config: KWSConfig, recordings: str | None, files: Sequence[str] = ()
) -> None:
    try:
        check(run, config, recordings, kws.code_of(config), files)
    except ValueError as error:
        raise ValueError(f"{command}: {error}") from None


def _clips(file: Path, config: KWSConfig, tried: Tensor) -> Tensor:
    """Return the features in a file, if they have the shape of those that were tried."""
    found = unpacked(file)
    if not isinstance(found, Tensor) or found.shape[1:] != tried.shape[1:]:
        raise ValueError(
            f"{file} holds no clips for the front end of the run, {config.features.name}"
            f"{remedy(file.parent, kws.code_of(config))}"
        )
    return found


def _classes(report: Path) -> tuple[str, ...]:
    """Return the classes that a report names."""
    try:
        return classes_of("data.classes", parse_json(report.read_bytes())["data"]["classes"])
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(
            f"{report} does not name the classes of a run of analogtorch kws ({error}); continue "
            "the run with --resume, which writes it anew"
        ) from error
