"""Descriptions in files: YAML or JSON, by the suffix of the name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from analogtorch.files.atomic import write_atomically
from analogtorch.files.text import parse_json, parse_yaml, yaml_text
from analogtorch.values import checks

Read = TypeVar("Read")

SUFFIXES = (".yaml", ".yml", ".json")
"""What the name of a description ends in."""


def checked_suffix(path: str | Path, what: str) -> Path:
    """Return the path of a description.

    Args:
        path: as given.
        what: whose description it is, such as ``a chip``.

    Raises:
        TypeError: no path.
        ValueError: another suffix.
    """
    path = checks.path("path", path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{what}'s file must end in one of {', '.join(SUFFIXES)}, got {str(path)!r}"
        )
    return path


def write_description(path: str | Path, data: dict[str, Any], what: str) -> Path:
    """Write a description, whole or not at all.

    Raises:
        ValueError: another suffix.
        ImportError: YAML without PyYAML.
        OSError: the file could not be written.
    """
    path = checked_suffix(path, what)
    text = json.dumps(data, indent=2) + "\n" if path.suffix.lower() == ".json" else yaml_text(data)
    return write_atomically(path, text)


def read_description(path: str | Path, make: Callable[[Any], Read], what: str) -> Read:
    """Return what ``make`` makes of a description. YAML is read without code in it.

    Raises:
        ValueError: another suffix, no YAML or JSON within limits, or what ``make`` refuses; with
            the path.
        ImportError: YAML without PyYAML.
        OSError: the file could not be read.
    """
    path = checked_suffix(path, what)
    text = path.read_bytes()
    try:
        return make(parse_json(text) if path.suffix.lower() == ".json" else parse_yaml(text))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
