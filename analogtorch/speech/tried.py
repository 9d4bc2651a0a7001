"""A first call of a network or front end that a user brings."""

from typing import Any

from torch import Tensor, nn


def tried(what: str, module: nn.Module, inputs: Tensor, kind: str) -> Any:
    """Return what a module gives for inputs.

    Args:
        what: the module, for messages.
        module: the module.
        inputs: its inputs.
        kind: what these are, for messages.

    Raises:
        ValueError: it fails.
    """
    try:
        return module(inputs)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise ValueError(
            f"{what} cannot take {kind} of shape {tuple(inputs.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error
