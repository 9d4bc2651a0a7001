"""What the trainings of a run log: curves in its folder, and TensorBoard."""

from pathlib import Path
from typing import Any

from analogtorch.files import expanded
from analogtorch.report.result import Curve
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.training import read_curve

PHASES = ("digital", "hwa")
"""The trainings of a run."""


def loggers(config: KWSConfig, name: str) -> tuple[Any, ...]:
    """Return Lightning's loggers of a training.

    Raises:
        ImportError: TensorBoard is asked for, and not installed.
    """
    if config.tensorboard is None:
        return ()
    from lightning.pytorch.loggers import TensorBoardLogger

    try:
        return (TensorBoardLogger(expanded(config.tensorboard), name=name, version=""),)
    except ModuleNotFoundError as error:
        raise ImportError(
            "--tensorboard needs TensorBoard; run: pip install tensorboard, or leave it out: the "
            "curves are in training/ of the run anyway"
        ) from error


def curves(run: Path) -> dict[str, Curve]:
    """Return the curves of the trainings of a run, as far as it has them."""
    files = {phase: run / f"training/{phase}.csv" for phase in PHASES}
    return {phase: read_curve(file) for phase, file in files.items() if file.is_file()}
