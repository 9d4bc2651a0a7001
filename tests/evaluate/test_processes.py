"""Processes that share a sweep: every cell is measured once, and none is lost when one dies."""

import functools
import gc
import math
import multiprocessing
import os
import random
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import analogtorch as at
from analogtorch.evaluate.helpers import checked_processes
from analogtorch.files import locked
from tests.crossbar import crossbar
from tests.garbage import Owner

X = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
TIMES = ["0 s", "1 h", "1 day"]
CHIPS = 6

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this platform cannot fork"
)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model() -> nn.Module:
    torch.manual_seed(0)
    return at.convert(nn.Linear(12, 4), crossbar())


def plain(view: nn.Module) -> float:
    return view(X).square().mean().item()


def logged(log: Path, wait: float = 0.0) -> Callable[[nn.Module], float]:
    """Return the metric, which writes a line with the number of its process at each call."""

    @functools.wraps(plain)  # a folder knows the name of its metric
    def metric(view: nn.Module) -> float:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(wait)
        return plain(view)

    return metric


def sweep(metric: Callable[[nn.Module], float], **options) -> at.Sweep:
    return at.sweep(model(), metric, num_chips=CHIPS, times=TIMES, **options)


def forked(work: Callable[[], object]) -> multiprocessing.Process:
    """Start work in a process that ends with 0 if it succeeds."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize("folder", [None, "runs"])
def test_processes_give_the_result_of_one(folder: str | None, tmp_path: Path) -> None:
    log, where = tmp_path / "log", folder and tmp_path / folder
    torch.set_num_threads(2)
    found = sweep(logged(log, wait=0.01), folder=where, processes=3)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert torch.equal(found.values, sweep(plain).values)
    assert len(lines(log)) == CHIPS * len(TIMES)  # each cell once
    assert len(set(lines(log))) > 1  # not all by this process
    if where is not None:
        names = [*(f"chip-{i:05d}.json" for i in range(CHIPS)), "sweep.json"]
        assert sorted(os.listdir(where)) == names


def test_processes_that_know_nothing_of_each_other_share_a_folder(tmp_path: Path) -> None:
    log, expected = tmp_path / "log", sweep(plain).values

    def work() -> None:
        found = sweep(logged(log, wait=0.01), folder=tmp_path / "runs")
        os._exit(0 if torch.equal(found.values, expected) else 1)

    started = [forked(work) for _ in range(3)]
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0, 0]
    assert len(lines(log)) == CHIPS * len(TIMES)
    assert len(set(lines(log))) > 1


def test_killed_at_twenty_moments_a_sweep_loses_at_most_a_cell_each_time(tmp_path: Path) -> None:
    log, expected = tmp_path / "log", sweep(plain).values
    moments, kills = random.Random(0), 0
    for _ in range(20):
        process = forked(lambda: sweep(logged(log), folder=tmp_path / "runs"))
        process.join(moments.uniform(0.0, 0.06))
        if process.exitcode is None:
            process.kill()
            kills += 1
        process.join()
    found = sweep(logged(log), folder=tmp_path / "runs")
    assert torch.equal(found.values, expected)
    assert kills > 0
    assert CHIPS * len(TIMES) <= len(lines(log)) <= CHIPS * len(TIMES) + kills
    # what is in the folder is the same, byte by byte, as after a sweep that nothing stopped
    sweep(plain, folder=tmp_path / "whole")
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "runs" / path.name).read_bytes() == path.read_bytes()


def test_a_helper_that_is_killed_is_warned_of_and_its_work_is_done(tmp_path: Path) -> None:
    here = os.getpid()

    def deadly(view: nn.Module) -> float:
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(view)

    with pytest.warns(RuntimeWarning, match=r"1 of 1 .* ended early \(killed by signal 9\)"):
        found = sweep(deadly, processes=2)
    assert torch.equal(found.values, sweep(plain).values)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda: 1 / 0, r"\(ZeroDivisionError: division by zero\)"),
        (lambda: os._exit(3), r"\(exit code 3\)"),
    ],
    ids=["error", "exit"],
)
def test_a_helper_that_always_fails_is_warned_of(end: Callable[[], object], reason: str) -> None:
    here = os.getpid()

    def failing(view: nn.Module) -> float:
        if os.getpid() != here:
            end()
        return plain(view)

    with pytest.warns(RuntimeWarning, match=f"1 of 1 helping processes ended early {reason}"):
        found = sweep(failing, processes=2)
    assert torch.equal(found.values, sweep(plain).values)


def test_helpers_draw_what_one_process_draws(tmp_path: Path) -> None:
    log = tmp_path / "measured"

    def drawn(view: nn.Module) -> float:
        logged(log, wait=0.01)(view)
        numbers = random.random(), np.random.rand(), torch.rand(()).item()
        return sum(100**n * number for n, number in enumerate(numbers))

    before = random.getstate()
    one, two = sweep(drawn), sweep(drawn, processes=3)
    assert torch.equal(one.values, two.values)
    assert len(set(lines(log))) > 1
    assert random.getstate() == before


def test_helpers_leave_the_garbage_of_this_process_alone(tmp_path: Path) -> None:
    measure = logged(tmp_path / "measured", wait=0.01)

    def collecting(view: nn.Module) -> float:
        gc.collect()
        return measure(view)

    gc.collect()
    gc.disable()
    try:
        Owner(tmp_path / "collected")
        sweep(collecting, processes=2)
    finally:
        gc.enable()
    assert len(set(lines(tmp_path / "measured"))) == 2
    assert lines(tmp_path / "collected") == [str(os.getpid())]


def test_helpers_end_with_a_process_that_is_killed() -> None:
    from_helper, to_helper = os.pipe()

    def work() -> None:
        here = os.getpid()

        def endless(view: nn.Module) -> float:
            if os.getpid() != here:
                os.write(to_helper, b"at work")
            time.sleep(600)
            return 0.0

        sweep(endless, processes=3)

    process = forked(work)
    os.close(to_helper)
    assert os.read(from_helper, 7) == b"at work"
    process.kill()
    process.join()
    found = b"at work"
    while found:  # the end comes when no process is left that could write
        assert select.select([from_helper], [], [], 60)[0], "a helper is still there"
        found = os.read(from_helper, 7)
    os.close(from_helper)


def test_an_error_in_a_helper_appears_here_and_finished_work_is_kept(tmp_path: Path) -> None:
    expected = sweep(plain)
    bad = expected.values[4, 1].item()  # wherever it is measured

    @functools.wraps(plain)
    def metric(view: nn.Module) -> float:
        found = plain(view)
        return math.nan if found == bad else found

    with pytest.raises(ValueError, match="the metric is nan on chip 4 at 1 h"):
        sweep(metric, processes=2, folder=tmp_path / "runs")
    log = tmp_path / "log"
    assert torch.equal(sweep(logged(log), folder=tmp_path / "runs").values, expected.values)
    assert 0 < len(lines(log)) < CHIPS * len(TIMES)


def test_what_a_killed_process_leaves_does_not_stop_the_next(tmp_path: Path) -> None:
    for name in (".sweep.json.x1.part", ".chip-00000.json.x1.part", ".chip-00000.lock"):
        (tmp_path / name).write_text("")
    assert torch.equal(sweep(plain, folder=tmp_path).values, sweep(plain).values)
    assert not list(tmp_path.glob(".*"))


def test_a_chip_that_is_being_written_is_left_alone(tmp_path: Path, monkeypatch) -> None:
    """Whoever writes holds the folder, so that nobody who begins takes the part for a dead one."""
    sweep(plain, folder=tmp_path)
    (tmp_path / "chip-00000.json").unlink()
    replace, held = os.replace, []

    def replaced(old, new) -> None:
        with pytest.raises(BlockingIOError), locked(tmp_path, wait=False):
            pass
        held.append(Path(new).name)
        replace(old, new)

    monkeypatch.setattr(os, "replace", replaced)
    sweep(plain, folder=tmp_path)
    assert set(held) == {"chip-00000.json"}


def never(view: nn.Module) -> float:
    raise AssertionError


def test_where_processes_cannot_help_they_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (0, -1, 1.5, True, None):
        with pytest.raises(ValueError, match="sweep: processes must be an integer >= 1, got"):
            sweep(never, processes=wrong)
    with pytest.raises(
        ValueError, match="processes must be 1 for a model on meta, got 2; start se"
    ):
        checked_processes("sweep", 2, model().to("meta"))
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(ValueError, match="processes must be 1 on this platform, which cannot fork"):
        sweep(never, processes=2)


@pytest.mark.parametrize("read", [False, True])
def test_each_process_has_workers_of_its_own_for_a_loader_that_keeps_them(read: bool) -> None:
    """Those of this process, which its loader may have begun, would answer several at once."""
    samples = TensorDataset(X, torch.zeros(64, dtype=torch.long))
    loader = DataLoader(samples, batch_size=8, num_workers=1, persistent_workers=True)
    if read:
        assert len(list(loader)) == 8
    metric = at.metrics.accuracy(loader)
    options = {"num_chips": 4, "times": ["0 s"]}
    expected = at.sweep(model(), metric, **options)
    assert torch.equal(at.sweep(model(), metric, processes=2, **options).values, expected.values)
    assert len(list(loader)) == 8


def test_a_metric_starts_no_workers_before_it_measures() -> None:
    samples = TensorDataset(X, torch.zeros(64, dtype=torch.long))
    loader = DataLoader(samples, batch_size=8, num_workers=1, persistent_workers=True)
    at.metrics.accuracy(loader)
    assert loader._iterator is None
