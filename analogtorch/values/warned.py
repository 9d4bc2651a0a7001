"""Warnings that name the line of the user's code that caused them."""

import sys
import warnings
from types import FrameType

_BETWEEN = ("analogtorch", "torch", "contextlib")
"""Packages whose lines lie between the user's code and a warning, and say nothing to the user."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line outside of AnalogTorch and torch.

    A fixed ``stacklevel`` would name torch's lines where a decorator, a hook or ``Module.__call__``
    lies between.
    """
    level, frame = 2, sys._getframe(1)
    while _is_between(frame) and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)  # noqa: TID251  the one place


def _is_between(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return package in _BETWEEN
