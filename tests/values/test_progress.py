"""Bars of progress wait for no process that was killed."""

import io
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

import analogtorch as at
from analogtorch.values.progress import Progress

PACKAGE = Path(at.__file__).parent

# a process of its own: the lock that is lost is that of all bars in it
_PREAMBLE = """
import multiprocessing, os, signal
import torch
from torch import nn
from tqdm import tqdm
import analogtorch as at

here, x = os.getpid(), torch.randn(4, 6)
model = at.convert(nn.Linear(6, 3), at.chips.ideal())
dying, dies = os.pipe()


def die() -> None:
    tqdm.get_lock().acquire()
    os.write(dies, b"1")
    os.kill(os.getpid(), signal.SIGKILL)


tqdm(disable=True)  # makes the lock, as any bar before the fork
"""
_BESIDE = """
killed = multiprocessing.get_context("fork").Process(target=die)
killed.start()
killed.join()
at.calibrate(model, [x])
found = at.sweep(model, lambda view: view(x).sum().item(), num_chips=2, times=["0 s"])
print(len(found.values))
"""
_HELPER = """
import warnings
warnings.simplefilter("ignore", RuntimeWarning)
waited = []


def metric(view):
    if os.getpid() != here:
        die()
    if not waited:
        waited.append(os.read(dying, 1))
    tqdm(disable=True)
    return view(x).sum().item()


print(at.sweep(model, metric, num_chips=2, times=["0 s"], processes=2).values.shape[0])
"""


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this platform cannot fork"
)
@pytest.mark.parametrize("script", [_BESIDE, _HELPER], ids=["beside", "helper"])
@pytest.mark.slow
def test_a_process_that_dies_with_the_lock_of_tqdm_stops_no_other(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PREAMBLE + script], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "2", done.stderr[-2000:]


def test_all_bars_of_the_package_are_of_this_kind() -> None:
    users = [p for p in PACKAGE.rglob("*.py") if "import tqdm" in p.read_text()]
    names = {str(path.relative_to(PACKAGE)) for path in users}
    assert names == {"values/progress.py", "evaluate/helpers.py"}


def test_a_bar_that_slows_down_shows_each_step() -> None:
    text = io.StringIO()
    bar = Progress(total=1002, file=text, ascii=True)
    now = [bar.start_t]
    bar._time = lambda: now[0]
    for step in [1e-6] * 1000 + [60.0] * 2:  # finished work is passed over first
        now[0] += step
        bar.update()
    assert "1001/1002" in text.getvalue()
    bar.close()
