"""Locks of threads that a forked process has anew: who holds one there is not in it."""

import os
import threading
from collections.abc import Callable
from typing import Any


class ThreadLock:
    """A lock for ``with``, which the threads of one process take in turn.

    A process that is forked while another thread holds a lock of Python waits for it for ever.

    Args:
        make: makes the lock, such as ``threading.RLock``, which a thread may take twice.
    """

    def __init__(self, make: Callable[[], Any] = threading.Lock) -> None:
        self._make = make
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = self._make()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
