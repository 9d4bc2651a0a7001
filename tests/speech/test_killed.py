"""A run that is killed at random moments, in its trainings and in its measurements."""

import multiprocessing
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from analogtorch.__main__ import main
from benchmarks.record.cases.speech import write_tones
from tests.speech.test_kws import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_chip_decides")]

MADE = ("*.pt", "training/*.csv", "chips/*/*.json", "accuracy.csv", "config.json")
"""Files without the time that a run took."""


def _begun(clips: Path, out: Path, *more: str) -> BaseProcess:
    """Return a process that has begun with a run of a few clips."""
    given = [*SMALL, f"--data.folder.root={clips}", f"--out={out}", *more]
    process = multiprocessing.get_context("fork").Process(target=main, args=(["kws", *given],))
    process.start()
    return process


def test_killed_at_twenty_moments_a_run_gives_the_same_bytes(tmp_path: Path) -> None:
    clips, whole, killed = (tmp_path / name for name in ("clips", "whole", "killed"))
    clips.mkdir()
    write_tones(clips, {"train": 3, "val": 1, "test": 2})
    start = time.perf_counter()
    process = _begun(clips, whole)
    process.join()
    took, moments, kills = time.perf_counter() - start, random.Random(0), 0
    for _ in range(20):
        process = _begun(clips, killed, "--resume")
        process.join(moments.uniform(0.0, took / 3))
        if process.exitcode is None:
            process.kill()
            kills += 1
        process.join()
    assert kills > 0
    process = _begun(clips, killed, "--resume")
    process.join()
    files = sorted(file for pattern in MADE for file in whole.glob(pattern))
    assert {"accuracy.csv", "digital.pt", "hwa.pt"} <= {file.name for file in files}
    for file in files:
        assert (killed / file.relative_to(whole)).read_bytes() == file.read_bytes(), file.name
