"""The folder of an adaptation: its state, from which an interrupted run continues, and its log.

    adapt.json   what the run is of: the model, its options, and digests of the batches
    state.pt     all that the run goes on from: tensors and plain values, with a checksum
    log.csv      one row for each step

Each is written whole or not at all, after each look at the chips. Several processes may share a
folder, such as the ranks of ``torchrun``: their runs are the same where steps alone bound them, and
the state of the one that is the furthest is kept.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from analogtorch.evaluate.batches import with_structure
from analogtorch.evaluate.journal import made_folder, refuse_others
from analogtorch.evaluate.metric_identity import KEPT, KEPT_OF_FORWARD, in_present_form
from analogtorch.files import (
    locked,
    packed,
    read_object,
    remove_parts,
    unpacked,
    write_atomically,
)
from analogtorch.hwa.adapted import Step
from analogtorch.values import checks

_HEAD, _STATE, _LOG = "adapt.json", "state.pt", "log.csv"
_LATER = (
    *("forward", *KEPT_OF_FORWARD, "structure", "structure of the teacher", *KEPT),
    *("options", "options of the teacher", "attributes", "attributes of the teacher"),
)
"""What the head of a run that an earlier version began does not have."""


class RunFolder:
    """The files of one adaptation, in ``folder``, which is made if it does not exist.

    Raises:
        ValueError: the folder holds another run, a damaged file, or files that are no run's.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path, head: dict[str, Any]) -> None:
        self.folder = made_folder("adapt", folder)
        self._known: tuple[int, int] | None = None  # the state that was read or written last
        with locked(self.folder) as alone:  # or two that begin at once would each see half of it
            for name in (_HEAD, _STATE, _LOG):
                remove_parts(self.folder / name, alone=alone)
            self._open(json.loads(json.dumps(head)))

    def _open(self, head: dict[str, Any]) -> None:
        """Begin the folder, or check that it is of the same run."""
        path = self.folder / _HEAD
        if path.exists():
            found = in_present_form(with_structure(_read(path), head), head)
            head = {n: v for n, v in head.items() if n in found or n not in _LATER}
            if found != head:
                names = sorted(n for n in {*found, *head} if found.get(n) != head.get(n))
                order = ""
                if "batches" in names:
                    order = (
                        " (a loader that shuffles needs a generator with the same seed before each "
                        "call: make the loader anew, or call generator.manual_seed)"
                    )
                raise ValueError(
                    f"adapt: {self.folder} holds another run, which differs in {', '.join(names)}"
                    f"{order}; give another folder, or the same model and options"
                )
        else:
            refuse_others("adapt", self.folder, _HEAD)
            write_atomically(path, json.dumps(head, indent=2) + "\n")

    def read(self) -> dict[str, Any] | None:
        """Return the state that was kept last, or None; its log is written anew if it is damaged.

        Raises:
            ValueError: the file is damaged.
        """
        path, log = self.folder / _STATE, self.folder / _LOG
        with locked(self.folder):
            self._known = _identity(path)
            if self._known is None:
                return None
            try:
                state: dict[str, Any] = unpacked(path)
            except ValueError as error:
                raise ValueError(f"adapt: {error}; {_remedy(path)}") from error
            text = _csv(state["training"]["history"])
            if not log.exists() or log.read_bytes() != text.encode():
                write_atomically(log, text)
        return state

    def write(self, state: dict[str, Any], steps: Sequence[Step]) -> None:
        """Keep the state, and write the log of the steps.

        If another process has kept a later state, or the end, that stays.
        """
        path = self.folder / _STATE
        with locked(self.folder):
            there = _identity(path)
            if there not in (None, self._known) and _reached(unpacked(path)) > _reached(state):
                return
            write_atomically(self.folder / _LOG, _csv([vars(step) for step in steps]))
            write_atomically(path, packed(state))
            self._known = _identity(path)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one in its place; None if there is none."""
    if not path.exists():
        return None
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns


def _reached(state: dict[str, Any]) -> tuple[bool, int]:
    """Return how far a state is: whether its run has ended, and its steps."""
    return state["finished"], len(state["training"]["history"])


def goes_on(folder: str | Path) -> bool:
    """Return whether a folder keeps the state of a run.

    Raises:
        TypeError: it is no path.
    """
    return (checks.path("adapt: folder", folder) / _STATE).exists()


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except ValueError as error:
        raise ValueError(f"adapt: {error}; {_remedy(path)}") from error


def _remedy(path: Path) -> str:
    return f"give another folder, or remove {path.parent} to begin anew"


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, [f.name for f in fields(Step)], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
