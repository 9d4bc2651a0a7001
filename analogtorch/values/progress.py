"""Progress bars that wait for no other process."""

import os
import threading
from typing import Any

from tqdm import tqdm
from tqdm.std import TqdmDefaultWriteLock


class Progress(tqdm):
    """A bar of tqdm whose lock is that of the threads of this process alone.

    Bars of tqdm have a lock in common with all processes that are forked from the same one, and
    take it even if they show nothing. A process that is killed while it has the lock, such as one
    that needs too much memory, would let every other one wait for ever.
    """

    monitor_interval = 0
    """No thread that watches slow bars: it would not be in processes that are forked."""
    _lock = TqdmDefaultWriteLock.th_lock

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"miniters": 1, **options})  # else a bar that slows down stands


def _lock_anew() -> None:
    """Give a forked process a lock of its own: another thread may have had that of its parent."""
    Progress._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lock_anew)
