"""Chips as plain dictionaries for JSON and YAML.

The dictionaries have types and a version; they hold the dataclasses that
``analogtorch.devices.register`` knows.
"""

from typing import Any

from analogtorch.chips.chip import Chip
from analogtorch.chips.flat import upgraded
from analogtorch.devices.serial import decode, encode
from analogtorch.values import checks

VERSION = 2
"""Version of the form; it rises when a field changes its meaning. Version 1, the flat form, is
read."""


def to_dict(chip: Chip) -> dict[str, Any]:
    """Return the chip as JSON-ready types; ``from_dict`` returns an equal chip.

    Raises:
        TypeError: ``chip`` is no Chip, or a part of it has no form in a file: a curve that is a
            function, or a class that is not registered with ``analogtorch.devices.register``.
    """
    checks.instance("chip", chip, Chip, "analogtorch.chips.hermes64()")
    return {"version": VERSION, **encode(chip, "chip")}


def from_dict(data: dict[str, Any]) -> Chip:
    """Return the chip that ``to_dict`` wrote.

    Raises:
        ValueError: the version is another, a type is unknown, a field is unknown or missing, or
            refuses its value.
    """
    if not isinstance(data, dict):
        raise ValueError(
            "chip description must be a mapping such as analogtorch.chips.to_dict(chip), got "
            f"{checks.shown(data)}"
        )
    version = data.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise ValueError(
            f"chip description has version {version!r}, this AnalogTorch reads versions 1 to "
            f"{VERSION}"
        )
    whole = {k: v for k, v in data.items() if k != "version"}
    chip = decode(upgraded(whole) if version == 1 else whole, "chip")
    if not isinstance(chip, Chip):
        raise ValueError(f"chip description has type {data.get('type')!r}, expected 'Chip'")
    return chip
