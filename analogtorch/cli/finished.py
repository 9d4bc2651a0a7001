"""A finished run of ``analogtorch kws``, for the commands that go on with its networks."""

from pathlib import Path

from torch import nn

from analogtorch.cli.kws import parse
from analogtorch.speech import kws
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.task import Task, prepare


def finished(command: str, run: Path, network: str) -> tuple[KWSConfig, Task, nn.Module]:
    """Return configuration, task and a network of a run, calibrated for its chip.

    Args:
        command: the command that asks, for messages.
        run: folder of the run.
        network: ``hwa``, trained for the chip; or ``digital``.

    Raises:
        ValueError: the folder has no finished run.
        OSError: a file is missing.
    """
    file = run / "config.json"
    if not file.is_file():
        raise ValueError(
            f"{command}: {run} holds no run of analogtorch kws, which writes config.json; name the "
            "folder that was its --out, such as runs/kws"
        )
    config = parse([f"--config={file}"]).config
    task = prepare(config.data.selected.load(), config.augment, seed=config.seed)
    return config, task, kws.trained(config, task, run, network)
