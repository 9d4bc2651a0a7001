"""Chips in files: YAML or JSON, which users may write by hand."""

import json
from pathlib import Path

from analogtorch.chips.chip import Chip
from analogtorch.chips.serial import from_dict, to_dict
from analogtorch.files import parse_json, parse_yaml, write_atomically, yaml_package
from analogtorch.values import checks

SUFFIXES = (".yaml", ".yml", ".json")
"""Endings of the name of a chip's file."""


def save(chip: Chip, path: str | Path) -> Path:
    """Write the chip to a ``.yaml``, ``.yml`` or ``.json`` file.

    The file appears whole or not at all, and ``load`` returns an equal chip. A new chip starts best
    from the file of a preset: ``save(hermes64(), "mine.yaml")``, then edit it.

    Returns:
        The path.

    Raises:
        ValueError: the suffix is another.
        ImportError: the file is YAML and PyYAML is not installed.
        OSError: the file could not be written.
    """
    path, data = checks.path("path", path), to_dict(chip)
    if _suffix(path) == ".json":
        return write_atomically(path, json.dumps(data, indent=2) + "\n")
    return write_atomically(
        path, yaml_package().safe_dump(data, sort_keys=False, width=100, allow_unicode=True)
    )


def load(path: str | Path) -> Chip:
    """Return the chip in a ``.yaml``, ``.yml`` or ``.json`` file, such as ``save`` writes.

    YAML is read without running code in it.

    Raises:
        ValueError: the suffix is another; the file is no YAML or JSON, is nested too deeply, or has
            too many values once its aliases are expanded; a key is unknown (the nearest known one
            is named) or missing; or a field refuses its value.
        ImportError: the file is YAML and PyYAML is not installed.
        OSError: the file could not be read.
    """
    path = checks.path("path", path)
    suffix, text = _suffix(path), path.read_bytes()
    try:
        return from_dict(parse_json(text) if suffix == ".json" else parse_yaml(text))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _suffix(path: Path) -> str:
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"a chip's file must end in one of {', '.join(SUFFIXES)}, got {str(path)!r}"
        )
    return path.suffix.lower()
