"""Garbage that tells which process has collected it."""

import os
from pathlib import Path


class Owner:
    """Owns what a forked process has not, such as a thread; only a collection ends it.

    Whoever collects it writes the number of its process as a line of ``log``.
    """

    def __init__(self, log: Path) -> None:
        self.log, self.itself = log, self

    def __del__(self) -> None:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")
