"""Locks in processes that are forked while another thread holds them."""

import multiprocessing
import threading
import time

import pytest

from analogtorch.ops.scope import TURN
from analogtorch.values.thread_lock import ThreadLock


def _take(lock: ThreadLock) -> None:
    with lock:
        pass


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("lock", [ThreadLock(), ThreadLock(threading.RLock), TURN])
def test_a_forked_process_takes_what_another_thread_holds(lock: ThreadLock) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    child = multiprocessing.get_context("fork").Process(target=_take, args=(lock,), daemon=True)
    child.start()
    child.join(60)  # it would wait for ever
    code = child.exitcode
    child.kill()
    done.set()
    holder.join()
    assert code == 0


def test_threads_take_turns() -> None:
    lock, inside, most = ThreadLock(), [0], [0]

    def work() -> None:
        for _ in range(200):
            with lock:
                inside[0] += 1
                time.sleep(0)  # lets the others run
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
