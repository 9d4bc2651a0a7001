"""Checks of the arguments that the networks share."""

from typing import Any

from analogtorch.speech.data import FRAMES, MELS
from analogtorch.values import checks

INPUT_SHAPE = (1, FRAMES, MELS)
"""The shape of the features of one clip, by default those of ``LogMel``."""
MFCC_SHAPE = (1, FRAMES, 10)
"""The shape of the default features of ``Mfcc``."""


def maps(input_shape: Any, *, least: tuple[int, int] = (1, 1)) -> tuple[int, int]:
    """Return frames and filters of features of the shape (1, frames, filters).

    Args:
        input_shape: the shape of the features of a clip.
        least: the fewest frames and filters.

    Raises:
        ValueError: the features have another shape.
    """
    shape = checks.items("input_shape", input_shape, str(INPUT_SHAPE))
    if len(shape) != 3 or shape[0] != 1:
        raise ValueError(
            f"input_shape must be (1, frames, filters) such as {INPUT_SHAPE}, got {shape}: choose "
            "features that are maps, or another network"
        )
    frames = checks.count("frames of input_shape", shape[1], least=least[0])
    return frames, checks.count("filters of input_shape", shape[2], least=least[1])


def outputs(classes: Any) -> int:
    """Return the number of classes, which must be 2 or more."""
    return checks.count("classes", classes, least=2)


def counts(name: str, value: Any, *, length: int | None = None) -> tuple[int, ...]:
    """Return a list of integers >= 1 as a tuple.

    Raises:
        ValueError: it is empty, has another length than ``length``, or holds something else.
        TypeError: it is no list.
    """
    given = checks.items(name, value, "(16, 32)")
    if not given or (length is not None and len(given) != length):
        wanted = "one or more" if length is None else str(length)
        raise ValueError(f"{name} must hold {wanted} integers >= 1, got {checks.shown(value)}")
    return tuple(checks.count(f"{name}[{i}]", v) for i, v in enumerate(given))


def rate(value: Any) -> float:
    """Return a dropout rate, from 0 to below 1."""
    return checks.number("dropout", value, least=0, below=1)
