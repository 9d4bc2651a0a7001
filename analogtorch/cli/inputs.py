"""The files that a command reads, so that none of them is written over."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from analogtorch.files import expanded, parse_json
from analogtorch.speech.audio import SUFFIXES
from analogtorch.speech.clip_files import MANIFEST
from analogtorch.speech.run_journal import CONFIG

_READ = (*SUFFIXES, ".tar", ".gz", ".tgz", ".bz2", ".xz", MANIFEST)
"""Ends of the files that commands read in a folder: recordings, their archives and their list."""


def read_from(path: Path, options: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the option that names a file to read, and its value; None: no option does.

    A file is read that an option names, under this or another name, and so are recordings, their
    archives and their list in a folder that an option names. What the configuration of a run names
    counts, too: its recordings, its noise and its files of code; modules of code do not.

    Args:
        path: the file.
        options: the options that name no file to write, with their values.
    """
    if not path.is_file():
        return None
    whole = path.resolve()
    for place, text in _named(options):
        for source in _paths(text):
            # unlike those of Path, these functions raise nothing for a text that is no path
            if os.path.isfile(source) and os.path.samefile(source, path):
                return place, text
            inside = os.path.isdir(source) and whole.is_relative_to(Path(source).resolve())
            if inside and whole.name.lower().endswith(_READ):
                return place, text
    return None


def _named(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each text in options and in the configurations of runs that they name."""
    for option, value in options.items():
        for text in _texts(value):
            yield option.replace("_", "-"), text
            config = Path(text) / CONFIG
            try:
                found = parse_json(config.read_bytes())
            except (OSError, ValueError):  # no run, or one that is refused later
                continue
            yield from ((str(config), text) for text in _texts(found))


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts and paths in a value of JSON or of options."""
    if isinstance(value, str | Path):
        yield str(value)
    elif isinstance(value, dict):
        yield from (text for each in value.values() for text in _texts(each))
    elif isinstance(value, list | tuple):
        yield from (text for each in value for text in _texts(each))


def _paths(text: str) -> Iterator[str]:
    """Yield what a text may name: a file or folder, several with commas, or code in a file."""
    for name in (text, *text.split(","), text.rpartition(":")[0]):
        with contextlib.suppress(ValueError):  # empty, or it names a variable that is not set
            yield str(expanded(name.strip()))
