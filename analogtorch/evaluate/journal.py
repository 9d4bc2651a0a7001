"""The finished measurements of a sweep in a folder, so that an interrupted sweep can go on.

``sensitivity`` keeps its own so, in ``sensitivity.json`` and by effect and layer.

Several processes can share a folder: each chip is measured by the one that claims it.

    sweep.json        the experiment: seed, compensation, version of the noise, digests of the model
                      and its structure, defects if there are any, and what a metric is known by
    chip-00003.json   what has been measured on chip 3, by time in seconds after programming
                      ("programmed": right after programming, before any read noise)
    .chip-00003.lock  there while a process measures chip 3; of a process that has died it is worth
                      nothing, and the chip is claimed by another

The others are JSON, written whole or not at all, by a process that holds the folder meanwhile: what
lies there half written is of one that was killed, and is removed by the next call.
"""

import contextlib
import errno
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from analogtorch.evaluate.batches import with_structure
from analogtorch.evaluate.identity import short_digest
from analogtorch.evaluate.metric_identity import KEPT, KEPT_OF_FORWARD, in_present_form
from analogtorch.files import claimed, locked, read_object, remove_parts, write_atomically
from analogtorch.values import checks
from analogtorch.values.warned import warn

VERSION = 3
"""Version of the form of the files. In version 1 the digest of the model covered chips as one flat
list of fields, and before version 3 nothing covered its structure."""
_HEAD = "{}.json"
HEAD = _HEAD.format("sweep")
"""The file that marks a folder of a sweep."""
_NAME = "chip-{:05d}.json"
_CHIP = re.compile(r"chip-\d{5,}\.json")


class OtherExperiment(ValueError):
    """A folder holds the measurements of another experiment."""


class NotWritable(PermissionError):
    """A folder lacks measurements, and nothing can be written in it."""


class Journal:
    """The measurements of one experiment in ``folder``, which is made if it does not exist.

    Args:
        folder: the folder.
        experiment: what identifies the experiment, but for its metric.
        metric: what identifies the metric, as ``kept_of`` gives it.
        caller: the function that measures; it names the head.

    Raises:
        ValueError: the folder holds another experiment, a damaged file, or files that are no
            journal's.
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        experiment: dict[str, Any],
        metric: Mapping[str, Any],
        *,
        caller: str = "sweep",
    ) -> None:
        self.caller = caller
        self.folder = made_folder(caller, folder)
        with locked(self.folder) as alone:  # or two that begin at once would each see half of it
            for name in (_HEAD.format(caller), "chip-[0-9]*.json"):
                remove_parts(self.folder / name, alone=alone)
            self._open({"version": VERSION, **experiment, **metric})

    def _open(self, wanted: dict[str, Any]) -> None:
        """Begin the journal, or check that it is of the same experiment."""
        head = self.folder / _HEAD.format(self.caller)
        if head.exists():
            found = _read_head(self.caller, head)
            self._compare(_upgraded(found, wanted), wanted)
            if found != wanted and writable(self.folder):
                _write(head, wanted)
            if found["version"] != VERSION:
                warn(
                    f"{self.caller}: {self.folder} was begun by an earlier version, which "
                    "described models otherwise, so that nothing can tell whether its values are "
                    "of this model: they are taken as they are. For another model give another "
                    "folder"
                )
        else:
            refuse_others(self.caller, self.folder, head.name)
            _write(head, wanted)

    def _compare(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        if found != wanted:
            remedy = "give another folder"
            if found.get("attributes") != wanted.get("attributes"):
                remedy += (
                    ", and attributes that decide no output, such as what a pass keeps, a private "
                    "name like self._features"
                )
            raise OtherExperiment(
                f"{self.caller}: {self.folder} holds another experiment "
                f"({', '.join(_differences(found, wanted))}); {remedy}"
            )

    def read(self, number: int, seed: int) -> dict[str, float]:
        """Return what has been measured on chip ``number``: in sweeps, by ``key(time)``.

        Raises:
            ValueError: the file is damaged, or of another chip.
        """
        path = self._path(number)
        return _read_chip(self.caller, path, seed) if path.exists() else {}

    def write(self, number: int, seed: int, values: dict[str, float]) -> None:
        """Store all that has been measured on chip ``number``."""
        with locked(self.folder):
            _write(self._path(number), {"seed": seed, "values": values, "sum": _sum(seed, values)})

    @contextlib.contextmanager
    def claim(self, number: int, *, wait: bool) -> Iterator[None]:
        """Hold chip ``number`` while the context lasts, so that no other process measures it.

        Where nothing can be written it is not held: what is finished can be read there all the
        same, and ``check_writable`` refuses to measure more.

        Raises:
            BlockingIOError: another process measures it, and ``wait`` is False.
            OSError: a file for it cannot be made, as one is there that belongs to somebody else.
        """
        lock = self.folder / f".chip-{number:05d}.lock"
        with claimed(lock, wait=wait) if writable(self.folder) else nullcontext():
            yield

    def check_writable(self) -> None:
        """Raise NotWritable, before more is measured, if nothing can be written in the folder."""
        refuse_unwritable(self.caller, self.folder)

    def _path(self, number: int) -> Path:
        return self.folder / _NAME.format(number)


def files(num_chips: int, caller: str = "sweep") -> tuple[str, ...]:
    """Return the names of the files that the journal of this many chips has in its folder."""
    return (_HEAD.format(caller), *map(_NAME.format, range(num_chips)))


def check_whole(caller: str, head: Path, chips: Iterable[str]) -> None:
    """Raise ValueError if the head of a journal, or one of these files beside it, is damaged."""
    _read_head(caller, head)
    for path in map(head.with_name, chips):
        if path.exists():
            _read_chip(caller, path)


def made_folder(caller: str, folder: str | Path) -> Path:
    """Return a folder of results, which is made if it does not exist.

    Raises:
        TypeError: it is no path.
        OSError: it cannot be made, or is a file.
    """
    path = checks.path(f"{caller}: folder", folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{caller}: could not make the folder {path}: {error.strerror}; name another folder",
        ) from error
    return path


def writable(folder: Path) -> bool:
    """Return whether files can be made in an existing folder."""
    return os.access(folder, os.W_OK | os.X_OK)


def refuse_unwritable(caller: str, folder: Path) -> None:
    """Raise NotWritable if nothing can be written in a folder that lacks measurements."""
    if not writable(folder):
        raise NotWritable(
            errno.EACCES,
            f"{caller}: could not write in {folder}, which lacks some of the measurements. What it "
            "has is untouched; copy it to a folder that can be written, and give that one",
        )


def refuse_others(caller: str, folder: Path, head: str) -> None:
    """Raise ValueError if a folder of results without the file ``head`` holds files of others."""
    if strangers := others(folder):
        # of a journal that has lost its head, which alone tells of what they are
        own = all(_CHIP.fullmatch(path.name) for path in strangers)
        remedy = f"remove {folder} to measure again, or give" if own else "give"
        raise ValueError(
            f"{caller}: {folder} holds {strangers[0].name} and no {head}; {remedy} a new or an "
            "empty folder"
        )


def others(folder: Path) -> list[Path]:
    """Return what is in a folder and keeps results from beginning there.

    Hidden files do not: killed processes leave some, and file managers others, such as .DS_Store.
    """
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


class Unkept:
    """A journal that keeps nothing."""

    def read(self, number: int, seed: int) -> dict[str, float]:
        """Return that nothing has been measured."""
        return {}

    def write(self, number: int, seed: int, values: dict[str, float]) -> None:
        """Keep nothing."""

    def claim(self, number: int, *, wait: bool) -> AbstractContextManager[None]:
        """Hold what no other process knows of."""
        return nullcontext()

    def check_writable(self) -> None:
        """Do nothing: nothing is written."""


def key(t: float | None) -> str:
    """Return the name of the time ``t``, s, in a file; None is right after programming."""
    return "programmed" if t is None else repr(t)


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], of: str = "") -> Iterator[str]:
    """Yield what differs between two heads, part by part."""
    for name in sorted(there.keys() | here.keys()):
        was, now = there.get(name), here.get(name)
        if isinstance(was, dict) and isinstance(now, dict):
            yield from _differences(was, now, f"{of}{name}: ")
        elif was != now:
            yield f"{of}{name} {was!r} there and {now!r} here"


def _upgraded(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Return a head of an earlier version in the present form.

    What the earlier version did not keep, digests and what there is of functions, is that of
    ``wanted``, as is code of another Python.
    """
    found = _filled(with_structure(found, wanted), wanted, ("options", "attributes", *KEPT))
    if (recovery := found.get("recovery")) is not None:
        recovery = _filled(recovery, wanted.get("recovery", {}), KEPT_OF_FORWARD)
        found["recovery"] = {"target": "layer", "steps": 0, **recovery}  # all that there was
    if found.get("version") not in (1, 2):
        return found
    unknown = ("structure", "model") if found["version"] == 1 else ("structure",)
    return {**found, "version": VERSION, **{name: wanted[name] for name in unknown}}


def _filled(
    found: dict[str, Any], wanted: dict[str, Any], later: tuple[str, ...]
) -> dict[str, Any]:
    """Return what a head has, with those of the ``later`` entries of ``wanted`` that it lacks."""
    lacking = {name: wanted[name] for name in later if name in wanted}
    return {**lacking, **in_present_form(found, wanted)}


def _read_head(caller: str, path: Path) -> dict[str, Any]:
    return _load(caller, path, f"give another folder, or remove {path.parent} to measure again")


def _read_chip(caller: str, path: Path, seed: int | None = None) -> dict[str, float]:
    """Return what a file has of a chip, of this seed or, if it is None, of any."""
    remedy = "remove it to measure this chip again"
    data = _load(caller, path, remedy)
    values: Any = data.get("values")
    of_chip = data.get("seed") if seed is None else seed
    good = (
        data.get("seed") == of_chip
        and isinstance(values, dict)
        and data.get("sum") == _sum(of_chip, values)
    )
    if not good or not all(isinstance(v, float) and math.isfinite(v) for v in values.values()):
        raise ValueError(f"{caller}: {path} is damaged or of another chip; {remedy}")
    return dict(values)


def _load(caller: str, path: Path, remedy: str) -> dict[str, Any]:
    try:
        return read_object(path)
    except ValueError as error:
        raise ValueError(f"{caller}: {error}; {remedy}") from error


def _sum(seed: Any, values: dict[str, float]) -> str:
    return short_digest(json.dumps([seed, values], sort_keys=True))


def _write(path: Path, data: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(data, indent=2) + "\n")
