"""Solver chips in files: YAML or JSON, which users may write by hand."""

from pathlib import Path
from typing import Any

from analogtorch.devices.serial import decode, encode
from analogtorch.files.description import read_description, write_description
from analogtorch.solver.chip import SolverChip
from analogtorch.values import checks

VERSION = 1
"""Version of the form; it rises when a field changes its meaning."""


def save(chip: SolverChip, path: str | Path) -> Path:
    """Write the chip to a ``.yaml``, ``.yml`` or ``.json`` file, whole or not at all.

    Returns:
        The path.

    Raises:
        ValueError: the suffix is another.
        TypeError: ``chip`` is no ``SolverChip``, or a part of it has no form in a file.
        ImportError: the file is YAML and PyYAML is not installed.
        OSError: the file could not be written.
    """
    checks.instance("save: chip", chip, SolverChip, "at.solver.rram_solver()")
    data = {"version": VERSION, **encode(chip, "chip")}
    return write_description(path, data, "a solver chip")


def load(path: str | Path) -> SolverChip:
    """Return the chip in a ``.yaml``, ``.yml`` or ``.json`` file, equal to the one saved.

    YAML is read without running code in it.

    Raises:
        ValueError: the suffix is another, the file holds no solver chip, a key is unknown or
            missing, or a field refuses its value.
        ImportError: the file is YAML and PyYAML is not installed.
        OSError: the file could not be read.
    """
    return read_description(path, _chip, "a solver chip")


def _chip(data: Any) -> SolverChip:
    version = data.get("version") if isinstance(data, dict) else None
    if version != VERSION:
        raise ValueError(
            f"solver chip description has version {version!r}, this AnalogTorch reads {VERSION}"
        )
    chip = decode({key: value for key, value in data.items() if key != "version"}, "chip")
    if not isinstance(chip, SolverChip):
        raise ValueError(
            f"solver chip description has type {data.get('type')!r}, expected 'SolverChip'"
        )
    return chip
