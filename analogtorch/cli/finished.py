"""A finished run of ``analogtorch kws``, for the commands that go on with its networks."""

from pathlib import Path

from torch import nn

from analogtorch.cli.kws import parse
from analogtorch.speech import kws
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.data import fingerprint
from analogtorch.speech.rundir import check
from analogtorch.speech.task import Task, prepare


def finished(
    command: str, run: Path, network: str, *, allow_code: bool
) -> tuple[KWSConfig, Task, nn.Module]:
    """Return configuration, task and a network of a run, calibrated for its chip.

    Args:
        command: the command that asks, for messages.
        run: folder of the run.
        network: ``hwa``, trained for the chip; or ``digital``.
        allow_code: whether to run code that the run's configuration names.

    Raises:
        ValueError: the folder has no finished run, or names code that is not allowed; or the
            recordings or that code are others than those of the run.
        OSError: a file is missing.
    """
    file = run / "config.json"
    if not file.is_file():
        raise ValueError(
            f"{command}: {run} holds no run of analogtorch kws, which writes config.json; name the "
            "folder that was its --out, such as runs/kws"
        )
    try:
        config = parse([f"--config={file}", *["--allow-code"] * allow_code]).config
    except ValueError as error:
        raise ValueError(f"{command}: cannot go on with {run}: {error}") from error
    features = config.features.build()
    splits = config.data.selected.load()
    task = prepare(splits, config.augment, seed=config.seed, features=features)
    recordings = fingerprint(splits, *task.augmenter.noise.recordings)
    try:
        check(run, config, recordings, kws.code_of(config))
    except ValueError as error:
        raise ValueError(f"{command}: {error}") from None
    return config, task, kws.trained(config, task, run, network)
