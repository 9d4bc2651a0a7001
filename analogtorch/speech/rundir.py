"""The output folder of a run, held by a lock, with a journal of the files that the run wrote.

No other file is ever removed from it.
"""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from torch import nn

from analogtorch.evaluate.journal import HEAD, check_whole, files, others, refuse_others
from analogtorch.files import (
    digest_of,
    expanded,
    locked,
    made,
    packed,
    remove_parts,
    signed,
    write_atomically,
)
from analogtorch.speech.earlier_run import Config, started
from analogtorch.speech.restored import restore
from analogtorch.speech.run_journal import CONFIG, FORMAT, JOURNAL, check_given, read
from analogtorch.speech.run_settings import changed

logger = logging.getLogger("analogtorch")

_HEADS = (HEAD, *files(0, "sensitivity"), *files(0, "budget"))
"""The files that mark a folder of measurements."""


Calibrate = Callable[[nn.Module], Any]
"""A function that calibrates a network in place."""


class RunFolder:
    """A folder that one run holds until the ``with`` block of ``open`` ends."""

    def __init__(
        self, path: Path, config: dict[str, Any], found: dict[str, Any] | None, *, resume: bool
    ) -> None:
        self.path = path
        self.resume = resume
        """Whether the run in the folder is to be continued."""
        self._config = config
        self._found = found  # the journal of an earlier run
        self._journal: dict[str, Any] = {}

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, out: str | Path, config: Config, *, resume: bool = False, overwrite: bool = False
    ) -> Iterator["RunFolder"]:
        """Hold the folder for a run of ``config``.

        A missing folder is made, and removed if no run begins; an existing one is left as it is.

        Args:
            out: a new or an empty folder, or that of an earlier run.
            config: the configuration of the run.
            resume: continue the run in the folder; begin one if there is none.
            overwrite: replace the run in the folder, once ``begin`` is called.

        Raises:
            ValueError: torchrun has started several processes; no folder is named; it holds files
                and no journal, or a damaged one; another run uses it; it holds a run and neither
                ``resume`` nor ``overwrite`` is given; or the run to resume has other settings that
                decide its results.
            OSError: the folder cannot be made.
        """
        _check_alone()
        path = named(out)
        if resume and overwrite:
            raise ValueError("--resume continues a run, --overwrite replaces it: give one of them")
        with contextlib.ExitStack() as stack:
            stack.enter_context(made(path))
            try:
                stack.enter_context(locked(path, wait=False))
            except BlockingIOError:
                raise ValueError(
                    f"another run is at work in {path}: wait for its end, or give another --out"
                ) from None
            wanted = config.to_dict()
            try:
                found = read(path)
            except ValueError as error:
                raise ValueError(f"{error}; nothing was touched: give another folder") from error
            if found is None and (held := others(path)):
                raise ValueError(
                    f"{path} holds files, such as {held[0].name}, but no run; give a new or an "
                    "empty folder as --out"
                )
            if found is not None and resume:
                _compare(path, found["config"], wanted)
            elif found is not None and not overwrite:
                state = "a finished" if found["finished"] else "an unfinished"
                raise ValueError(
                    f"{path} holds {state} run: continue it with --resume, replace it with "
                    "--overwrite, or give another --out"
                )
            yield cls(path, wanted, found, resume=resume and found is not None)

    def begin(
        self,
        recordings: str,
        *,
        classes: tuple[str, ...] = (),
        code: dict[str, str] | None = None,
        planned: tuple[str, ...] = (),
    ) -> None:
        """Prepare the folder: remove an earlier run, unless it is resumed, and write the journal.

        The configuration is written too.

        Args:
            recordings: the ``fingerprint`` of the data that the run trains on and measures with.
            classes: those of a keyword spotter, in their order.
            code: SHA-256 of each file of code, or of a trained network, that the configuration
                names, by its name.
            planned: the files that the run will write, so that one that exists already is found
                now.

        Raises:
            ValueError: the run to resume has other recordings, classes or code, or a file exists
                that no run wrote. Nothing is changed then.
            OSError: a file cannot be written or removed.
        """
        old: list[str] = [] if self._found is None else self._found["files"]
        if self.resume and self._found is not None:
            try:
                check_given(self.path, self._found, self._config, recordings, code or {}, classes)
            except ValueError as error:
                raise ValueError(
                    f"{error}, or start anew with --overwrite or in another folder"
                ) from None
        for name in {CONFIG, *planned} - set(old):
            self._refuse_others(name)
        for name in planned:
            if PurePosixPath(name).name in _HEADS:
                self._refuse_before(name, planned, old)
        journal = {
            **FORMAT,
            "config": self._config,
            "recordings": recordings,
            "classes": list(classes),
            "code": code or {},
            "digests": dict(self._found["digests"]) if self.resume and self._found else {},
            "finished": False,
        }
        # files that are about to be removed belong to their own run until they are gone
        old_run = None if self.resume else self._found
        self._journal = journal if old_run is None else {**old_run, "finished": False}
        self._write(old)
        for name in (JOURNAL, *old):
            remove_parts(self.path / name, alone=True)
            if name.startswith("chips/"):  # claims of a killed process, which are worth nothing
                lock = f".{PurePosixPath(name).stem}.lock"
                (self.path / name).with_name(lock).unlink(missing_ok=True)
            if name != JOURNAL and not self.resume:
                (self.path / name).unlink(missing_ok=True)
        if self.resume:
            logger.info("resuming the run in %s", self.path)
        else:
            self._journal = journal
            self._write([])
        self.write(CONFIG, json.dumps(self._config, indent=2) + "\n")

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the results of the run that has begun: settings, recordings and code.

        ``run_settings.differences`` compares two of them.
        """
        return {name: self._journal[name] for name in ("config", "recordings", "code")}

    def again(self, command: str, *, allow_code: bool = False) -> str:
        """Return the command that repeats the run, in a new folder inside its own.

        It is to be run where the run was started: there, relative paths of the configuration, to
        recordings and to code, lead to the same files. Those would not in the run's folder.
        """
        return started(command, self.path, self.path / "again", allow_code=allow_code)

    def file(self, name: str) -> Path:
        """Return the path of a file that the run is about to write, and add it to the journal.

        Raises:
            ValueError: as ``files``.
        """
        return self.files(".", [name]) / name

    def files(self, name: str, files: Iterable[str]) -> Path:
        """Return the path of a folder in this one, and add its files to the journal.

        Args:
            name: name of the folder.
            files: names of the files in it that the run is about to write.

        Raises:
            ValueError: a file of that name exists, and the run did not write it.
        """
        known = self._journal["files"]
        new = [path for file in files if (path := str(PurePosixPath(name, file))) not in known]
        for path in new:
            self._refuse_others(path)
        if new:
            self._write([*known, *new])
        return self.path / name

    def write(self, name: str, data: bytes | str) -> None:
        """Write a file of the run, and keep the SHA-256 of weights and clips in the journal.

        Raises:
            ValueError: as ``files``.
            OSError: it cannot be written.
        """
        path, files, digests = self.file(name), self._journal["files"], self._journal["digests"]
        # a process that is killed in between must not leave the digest of the older file
        if digests.pop(name, None) is not None:
            self._write(files)
        write_atomically(path, data)
        if name.endswith(".pt"):
            digests[name] = digest_of(path)
            self._write(files)

    def remove(self, name: str) -> None:
        """Remove a file of an earlier part of the run; one that no run wrote stays."""
        files = self._journal["files"]
        if name in files:
            (self.path / name).unlink(missing_ok=True)
            self._journal["digests"].pop(name, None)
            self._write([each for each in files if each != name])

    def checkpoint(self, name: str) -> Path:
        """Return the file that keeps the state of the phase ``name``."""
        return self.file(f"checkpoints/{name}.ckpt")

    def keep_state(self, name: str, network: nn.Module, calibrate: Calibrate) -> None:
        """Calibrate a network in place, or give it the state that this calibration had at first.

        It is kept as checkpoints/``name``.pt. On another machine, or by another version of the
        package, the last digits of ranges would be others, and with them all measurements.

        Raises:
            ValueError: the file is damaged, or of other weights.
        """
        file = f"checkpoints/{name}.pt"
        path = self.file(file)  # refuses one that no run wrote
        if self.resume and path.is_file():
            restore(network, path, self._journal["digests"].get(file))
            return
        calibrate(network)
        self.write(file, packed(network.state_dict()))

    def save(self, name: str, network: nn.Module) -> None:
        """Write the network's state_dict as ``name``.pt, for ``torch.load(weights_only=True)``."""
        self.write(f"{name}.pt", packed(network.state_dict()))

    def finish(self) -> None:
        """Mark the run as finished in the journal, with the SHA-256 of its weights and clips.

        What it has of files that were not written anew stays: they may have changed since.
        """
        files, known = self._journal["files"], self._journal["digests"]
        held = [name for name in files if name.endswith(".pt") and (self.path / name).is_file()]
        self._journal["digests"] = {
            name: known.get(name) or digest_of(self.path / name) for name in held
        }
        self._journal["finished"] = True
        self._write(files)

    def _refuse_others(self, name: str) -> None:
        path = self.path / name
        if path.exists() or path.is_symlink():
            raise _in_the_way(path)

    def _refuse_before(self, head: str, planned: tuple[str, ...], old: list[str]) -> None:
        """Raise ValueError if files lie where measurements begin or go on, which refuse them.

        They are those of others or, where a run goes on, its own: damaged, or without their head.
        """
        file = self.path / head
        folder = file.parent
        if not folder.is_dir():
            return
        if self.resume and file.exists():
            beside = (name for name in planned if (self.path / name).parent == folder)
            chips = (PurePosixPath(name).name for name in beside if name != head)
            check_whole("kws", file, chips)
            return
        for path in others(folder):
            if path.relative_to(self.path).as_posix() not in old:
                raise _in_the_way(path)
        if self.resume:
            refuse_others("kws", folder, file.name)

    def _write(self, files: list[str]) -> None:
        self._journal["files"] = files
        write_atomically(self.path / JOURNAL, json.dumps(signed(self._journal), indent=2) + "\n")


def _in_the_way(path: Path) -> ValueError:
    return ValueError(f"{path} is in the way, and no run wrote it: move it, or give another --out")


def _check_alone() -> None:
    """Raise ValueError in each of several processes of torchrun, which would all be the run."""
    count = os.environ.get("WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" in os.environ and count not in ("", "1"):
        raise ValueError(
            f"torchrun has started {count} processes, and a run is one: start it without torchrun. "
            "kws trains with --devices and measures with --sweep.processes; what a finished run "
            "has trained is measured by torchrun with analogtorch compare and its --folder"
        )


def named(out: str | Path) -> Path:
    """Return the folder that ``out`` names.

    Raises:
        ValueError: it names no folder.
    """
    if not str(out).strip() or "\0" in str(out):
        raise ValueError(
            f"--out {str(out)!r} names no folder; name one for what the run writes, such as "
            "runs/kws"
        )
    path = expanded(str(out))
    if path.exists() and not path.is_dir():
        raise ValueError(f"--out {path} is a file; name a folder")
    return path


def _compare(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise ValueError if a setting that decides the results differs."""
    if differ := changed(found, wanted):
        raise ValueError(
            f"the run in {path} has another configuration: {differ}. "
            "Resume with the same settings, or start anew with --overwrite or in another folder"
        )
