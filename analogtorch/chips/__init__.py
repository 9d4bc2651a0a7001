"""What a chip is: one frozen description, and one file per published chip."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from analogtorch.chips.chip import Chip, TrainingNoise
from analogtorch.chips.hermes64 import hermes64
from analogtorch.chips.ideal import ideal
from analogtorch.chips.serial import from_dict, to_dict

_PRESETS: dict[str, Callable[..., Chip]] = {"hermes64": hermes64, "ideal": ideal}


def names() -> tuple[str, ...]:
    """Names of the presets that ``get`` knows."""
    return tuple(_PRESETS)


def get(name: str, **options: Any) -> Chip:
    """The preset of that name, with the options that its function takes.

    Raises:
        ValueError: no preset has that name, or it does not take one of the options.
    """
    if name not in _PRESETS:
        near = get_close_matches(name, _PRESETS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown chip {name!r}; known: {', '.join(_PRESETS)}.{hint}")
    try:
        return _PRESETS[name](**options)
    except TypeError as error:
        raise ValueError(f"chip {name!r}: {error}") from error


__all__ = ["Chip", "TrainingNoise", "from_dict", "get", "hermes64", "ideal", "names", "to_dict"]
