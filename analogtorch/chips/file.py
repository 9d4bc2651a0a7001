"""Chips in files: YAML or JSON that a user may write by hand, and back."""

import json
from pathlib import Path
from typing import Any

from analogtorch.chips.chip import Chip
from analogtorch.chips.serial import from_dict, to_dict

SUFFIXES = (".yaml", ".yml", ".json")
"""What the name of a chip's file ends in."""


def save(chip: Chip, path: str | Path) -> Path:
    """Write the chip to a ``.yaml``, ``.yml`` or ``.json`` file, whole or not at all; ``load`` gives an equal chip.

    A new chip starts best from the file of a preset: ``save(hermes64(), "mine.yaml")``, then edit it.

    Raises:
        ValueError: another suffix.
        ImportError: YAML without PyYAML.
        OSError: the file could not be written.
    """
    from analogtorch.report.files import write_atomically  # here, because the report imports the chips

    path, data = Path(path), to_dict(chip)
    if _suffix(path) == ".json":
        return write_atomically(path, json.dumps(data, indent=2) + "\n")
    return write_atomically(path, _yaml().safe_dump(data, sort_keys=False, width=100, allow_unicode=True))


def load(path: str | Path) -> Chip:
    """The chip in a ``.yaml``, ``.yml`` or ``.json`` file, such as ``save`` writes. YAML is read without code in it.

    Raises:
        ValueError: another suffix, a file that is no YAML or JSON, a key that is not known (the nearest known one is
            named), a missing one, or a value that the field refuses.
        ImportError: YAML without PyYAML.
        OSError: the file could not be read.
    """
    path = Path(path)
    suffix, text = _suffix(path), path.read_text(encoding="utf-8")
    try:
        data = json.loads(text) if suffix == ".json" else _yaml().safe_load(text)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    except _yaml().YAMLError as error:
        raise ValueError(f"{path} is not YAML that can be loaded safely: {error}") from error
    try:
        return from_dict(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _suffix(path: Path) -> str:
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"a chip's file must end in one of {', '.join(SUFFIXES)}, got {str(path)!r}")
    return path.suffix.lower()


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError("YAML needs PyYAML; run: pip install pyyaml, or use a .json file") from error
    return yaml
