"""One holder of a folder at a time."""

import contextlib
import errno
import os
import threading
import time
from pathlib import Path

import pytest

from analogtorch.files import lock
from analogtorch.files.lock import claimed, locked


def test_a_second_holder_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    with locked(tmp_path) as alone:
        assert alone
        with (
            pytest.raises(BlockingIOError, match="another process is at work there"),
            locked(tmp_path, wait=False),
        ):
            pass
        with locked(Path("/"), wait=False):
            pass  # another folder
    with locked(tmp_path, wait=False):
        assert os.listdir(tmp_path) == []


def test_an_error_lets_go_although_a_forked_worker_has_the_handle(
    tmp_path: Path, monkeypatch
) -> None:
    copies, real = [], os.open

    def opened(*args: object) -> int:
        handle = real(*args)  # type: ignore[arg-type]
        copies.append(os.dup(handle))
        return handle

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opened)
        with pytest.raises(KeyError), locked(tmp_path):
            raise KeyError
    with locked(tmp_path, wait=False):
        pass
    os.close(*copies)


def test_a_lock_ends_with_its_process_although_a_forked_one_lives_on(tmp_path: Path) -> None:
    until, end = os.pipe()
    started, start = os.pipe()
    if not (holder := os.fork()):
        with locked(tmp_path):
            if not os.fork():  # lets go of its copy of the handle before it goes on
                os.close(end)
                os.write(start, b"1")
                os.read(until, 1)
            else:
                os.read(started, 1)
            os._exit(0)  # as if killed
    os.waitpid(holder, 0)
    with locked(tmp_path, wait=False):
        pass
    for handle in (until, end, started, start):
        os.close(handle)


def test_a_forked_process_does_not_let_go(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(tmp_path))
        if not (forked := os.fork()):
            stack.close()
            os._exit(0)
        os.waitpid(forked, 0)
        with pytest.raises(BlockingIOError), locked(tmp_path, wait=False):
            pass


def test_what_cannot_be_locked_is_said(tmp_path: Path, monkeypatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(lock.fcntl, "flock", none)
        with (
            pytest.warns(
                RuntimeWarning, match=r"cannot be locked \(No locks available\): let only one"
            ),
            locked(tmp_path) as alone,
        ):
            assert not alone
    monkeypatch.setattr(lock, "fcntl", None)
    with pytest.warns(RuntimeWarning, match="this platform has none"), locked(tmp_path) as alone:
        assert not alone


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(tmp_path / "nowhere"):
        pass


def test_a_claim_is_a_file_while_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "job"
    with claimed(path):
        assert path.exists()
        with pytest.raises(BlockingIOError), claimed(path, wait=False):
            pass
        with claimed(tmp_path / "another job", wait=False):
            pass
        assert path.exists()
    assert os.listdir(tmp_path) == []
    path.write_text("")  # a process that died has left it
    with claimed(path, wait=False):
        pass
    assert os.listdir(tmp_path) == []


def test_who_waits_for_a_claim_gets_it_although_its_file_is_gone(tmp_path: Path) -> None:
    path, order = tmp_path / "job", []
    held = threading.Event()

    def second() -> None:
        held.wait()
        with claimed(path):
            order.append("second")
            assert path.exists()

    other = threading.Thread(target=second)
    other.start()
    with claimed(path):
        held.set()
        time.sleep(0.05)
        order.append("first")
    other.join()
    assert order == ["first", "second"]
    assert os.listdir(tmp_path) == []
