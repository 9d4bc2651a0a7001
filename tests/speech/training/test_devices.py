"""Training on several devices: each is a process forked from one that has not compiled anything.

Other tests compile, so these run in a process of their own.
"""

import gc
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import nn

from analogtorch.speech.training.devices import forking
from tests.garbage import Owner
from tests.speech.training.conftest import Toy, bitwise_same


class Fail(L.Callback):
    """An error after a step."""

    def __init__(self, message: str, step: int = 1) -> None:
        self.message, self.step = message, step

    def on_train_batch_end(self, trainer: L.Trainer, *args: object) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError(self.message)


class Die(L.Callback):
    """A signal to one of the processes, at the start or after a step."""

    def __init__(self, number: signal.Signals, *, rank: int, step: int) -> None:
        self.number, self.rank, self.step = number, rank, step

    def _die(self, trainer: L.Trainer) -> None:
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            os.kill(os.getpid(), self.number)

    def setup(self, trainer: L.Trainer, *args: object, stage: str) -> None:
        self._die(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *args: object) -> None:
        self._die(trainer)


def _train(folder: Path, name: str, **options: object) -> nn.Module:
    toy = Toy()
    return toy.train(
        folder / f"{name}.ckpt",
        devices=2,
        curve=folder / f"{name}.csv",
        validation=(toy.x, toy.y),
        **options,
    )


def _resume(folder: Path) -> None:
    torch.set_num_threads(2)  # a process that is forked from several threads must not wait for them
    nn.BatchNorm1d(64)(torch.randn(5000, 64))
    whole = _train(folder, "a")
    assert torch.get_num_threads() == 2
    with pytest.raises(Exception, match="the machine fails"):
        _train(folder, "b", callbacks=(Fail("the machine fails", 6),))
    assert bitwise_same(whole, _train(folder, "b", resume=True))
    assert (folder / "a.csv").read_bytes() == (folder / "b.csv").read_bytes()
    alone = Toy().train(folder / "c.ckpt")
    assert not bitwise_same(whole, alone)  # each device has noise of its own
    assert not bitwise_same(whole, Toy().analog())


def _after_compile(folder: Path) -> None:
    message = "Unable to handle autograd's threading ... wiki/Autograd-and-Fork"  # torch's words
    with pytest.raises(RuntimeError, match=r"after torch\.compile, torch cannot train in forked"):
        _train(folder, "d", callbacks=(Fail(message),))


def _killed(folder: Path) -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored in a shell's background job
    for number, rank, step in (
        (signal.SIGINT, 1, 0),
        (signal.SIGINT, 0, 2),
        (signal.SIGTERM, 0, 2),
    ):
        die = Die(number, rank=rank, step=step)
        with pytest.raises(RuntimeError, match=rf"process {rank} \({number.name}\) has ended"):
            _train(folder, "e", callbacks=(die,))
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture(scope="module")
def process() -> Iterator[Executor]:
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        yield executor


@pytest.mark.slow
def test_devices_share_batches_and_a_resumed_run_is_the_same(process, tmp_path: Path) -> None:
    process.submit(_resume, tmp_path).result()


@pytest.mark.slow
def test_a_process_that_has_compiled_is_an_error(process, tmp_path: Path) -> None:
    process.submit(_after_compile, tmp_path).result()


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_others(process, tmp_path: Path) -> None:
    process.submit(_killed, tmp_path).result(60)  # others that are waited for never end


def test_processes_that_train_leave_the_garbage_of_the_first_alone(tmp_path: Path) -> None:
    log = tmp_path / "collected"
    gc.collect()
    gc.disable()
    try:
        Owner(log)
        with forking():
            if not (forked := os.fork()):
                gc.collect()
                os._exit(0)
        assert os.waitpid(forked, 0)[1] == 0
        assert not log.exists()
    finally:
        gc.enable()
    gc.collect()
    assert log.read_text() == f"{os.getpid()}\n"
