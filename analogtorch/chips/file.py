"""Chips in files: YAML or JSON, which users may write by hand."""

from pathlib import Path

from analogtorch.chips.chip import Chip
from analogtorch.chips.serial import from_dict, to_dict
from analogtorch.files.description import SUFFIXES, read_description, write_description


def in_file(name: str) -> bool:
    """Return whether the name of a chip is that of a file, and not of a preset."""
    return Path(name).suffix.lower() in SUFFIXES


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
    return write_description(path, to_dict(chip), "a chip")


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
    return read_description(path, from_dict, "a chip")
