"""One phase of training: it keeps a checkpoint after each epoch and can be resumed from it."""

import contextlib
import logging
import pickle
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from analogtorch.conversion.restored import switched
from analogtorch.hwa.lightning import Clip, NoiseRamp, SaveEachEpoch, StepSeed
from analogtorch.speech.training.batches import Batches
from analogtorch.speech.training.checkpoint import AtomicCheckpoint
from analogtorch.speech.training.curve import Curve
from analogtorch.speech.training.devices import DieOfSignals, forking
from analogtorch.speech.training.module import Classifier, FiniteLoss, Learner
from analogtorch.speech.training.phase import Phase

# fmt: off
_UNREADABLE = (
    OSError, ValueError, RuntimeError, LookupError, AttributeError, TypeError,
    pickle.UnpicklingError,
)
# fmt: on
_ENDED = re.compile(r"DataLoader worker \(.*\) (is killed|exited unexpectedly)")
"""What torch says of a worker that is gone."""


def fit(
    network: nn.Module,
    batches: Batches,
    phase: Phase,
    *,
    seed: int,
    checkpoint: str | Path,
    resume: bool = False,
    teacher: nn.Module | None = None,
    learner: type[Learner] = Classifier,
    validation: tuple[Tensor, Tensor] | None = None,
    progress: bool = False,
    accelerator: str = "cpu",
    devices: int = 1,
    callbacks: tuple[L.Callback, ...] = (),
    curve: str | Path | None = None,
    loggers: Sequence[Logger] = (),
) -> nn.Module:
    """Train ``network`` in place through all epochs of the phase.

    A run that was stopped and resumed ends with the very weights of a run that was not: each step
    is seeded by (seed, step), each batch is a function of (seed, epoch), and a checkpoint is the
    state after an epoch.

    Args:
        network: a digital network, or a converted and calibrated one; it must return what the
            learner takes, by default (N, classes).
        batches: the training data.
        phase: settings of the training.
        seed: seed of dropout and noise, a signed 64-bit integer.
        checkpoint: the file that keeps the state after the latest epoch.
        resume: continue from ``checkpoint`` if it exists; otherwise a file of that name is
            overwritten.
        teacher: the network to distil from, if ``phase.distill`` > 0.
        learner: what a step of the training is.
        validation: inputs and labels whose accuracy is shown and logged, after each of up to 19
            epochs and else ten to fourteen times; they
            decide nothing.
        progress: if True, show Lightning's progress bar.
        accelerator: as ``lightning.Trainer`` takes it.
        devices: number of devices, >= 1, which share each batch and average its gradient; each is
            a forked process of one thread, with noise of its own. The results depend on the
            number, and on nothing else.
        callbacks: further Lightning callbacks.
        curve: a file that gets loss and accuracy of each epoch, as CSV; None: none. A run that was
            resumed writes that of a run which was not stopped.
        loggers: Lightning's loggers, such as that of TensorBoard, which get the loss of batches.

    Returns:
        The network, on the CPU and in evaluation mode.

    Raises:
        ValueError: a teacher is missing, the checkpoint to resume from is damaged or of another
            network, or the loss becomes NaN or infinite; the checkpoint of the epoch before stays.
        RuntimeError: one of the processes of ``devices`` > 1, or one that makes batches, was
            killed, or this process has used ``torch.compile``.
        OSError: the checkpoint cannot be written, such as on a full disk; the one before stays
            whole.
    """
    path = Path(checkpoint)
    module = learner(network, phase, steps=phase.epochs * len(batches), teacher=teacher)
    curves = () if curve is None else (Curve(curve),)
    recipe: list[L.Callback] = [] if devices == 1 else [DieOfSignals()]
    if phase.ramp > 0:
        recipe.append(NoiseRamp(epochs=phase.ramp * phase.epochs))
    if phase.clip_sigma is not None:
        recipe.append(Clip(network, phase.clip_sigma))
    resume = resume and path.is_file()
    if resume:
        _check_fits(path, module)
    bars = contextlib.redirect_stdout(sys.stderr) if progress else contextlib.nullcontext()
    # batches are made on the host, and Lightning moves them, wherever torch's default device is
    with _quiet(), bars, torch.device("cpu"):
        trainer = L.Trainer(
            accelerator=accelerator,
            devices=devices,
            # forked, so that the caller's program is not begun anew on each device
            strategy="auto" if devices == 1 else "ddp_fork",
            max_epochs=phase.epochs,
            default_root_dir=path.parent,
            logger=list(loggers),
            log_every_n_steps=min(50, len(batches)),
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress,
            num_sanity_val_steps=0,
            check_val_every_n_epoch=max(1, phase.epochs // 10),
            plugins=[AtomicCheckpoint()],
            callbacks=[
                *(StepSeed(seed), *recipe, FiniteLoss()),
                *(*callbacks, *curves, SaveEachEpoch(path)),
            ],
        )
        network.train()
        forks = forking() if devices > 1 else contextlib.nullcontext()
        with _interruptible(trainer), _with_workers(), forks:
            loader = None
            if validation is not None:
                loader = DataLoader(TensorDataset(*validation), batch_size=500)
            trainer.fit(
                module,
                _Epochs(batches, trainer),
                loader,
                ckpt_path=str(path) if resume else None,
                weights_only=True,
            )
    return switched(network.cpu())


def _check_fits(path: Path, module: Learner) -> None:
    try:
        found = AtomicCheckpoint().load_checkpoint(path)["state_dict"]
        shapes = {name: value.shape for name, value in found.items()}
    except _UNREADABLE as error:
        raise ValueError(
            f"{path} is no checkpoint, or damaged ({error}); remove it to train from the start"
        ) from error
    if shapes != {name: value.shape for name, value in module.state_dict().items()}:
        raise ValueError(
            f"{path} does not fit this network; name another file, or remove it to train from the "
            "start"
        )


class _Epochs:
    """The iterable that Lightning iterates once per epoch.

    The epoch is counted from the optimizer steps, and only when the first batch is asked for:
    Lightning makes the iterator of a resumed run before it knows the epoch.
    """

    def __init__(self, batches: Batches, trainer: L.Trainer) -> None:
        self.batches, self.trainer = batches, trainer

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self.trainer.global_step // len(self.batches)
        yield from self.batches.epoch(epoch, self.trainer.global_rank, self.trainer.world_size)


@contextlib.contextmanager
def _interruptible(trainer: L.Trainer) -> Iterator[None]:
    """Keep Ctrl+C a KeyboardInterrupt.

    Lightning turns it into SystemExit and ignores the next one for good.
    """
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt from None
    finally:
        if main and handler is not None:
            signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def _with_workers() -> Iterator[None]:
    """Name what to do where a process that makes batches is killed."""
    try:
        yield
    except RuntimeError as error:
        if not _ENDED.search(str(error)):
            raise
        raise RuntimeError(
            f"a process that makes batches has ended, as where memory is short ({error}); the "
            "state after the last whole epoch is kept: resume from it (`analogtorch kws ... "
            "--resume`), with --workers 0 to make the same batches in this process"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's notes about devices, workers and loggers, which are chosen on purpose."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
