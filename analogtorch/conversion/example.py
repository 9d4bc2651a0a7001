"""The example of a model's input, in the form that every function of this library takes."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

Example = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""A tensor, a tuple of arguments or a dictionary of keyword arguments."""


def runner(caller: str, example: Any, remedy: str = "") -> Callable[[nn.Module], Any]:
    """Return a function that runs a model on the example; the error ends with ``remedy``.

    Raises:
        TypeError: the example is of another type.
    """
    if isinstance(example, Tensor):
        return lambda model: model(example)
    if isinstance(example, tuple):
        return lambda model: model(*example)
    if isinstance(example, Mapping):
        return lambda model: model(**example)
    raise TypeError(
        f"{caller}: example must be the model's input: a tensor, a tuple of arguments or a "
        f"dictionary of keyword arguments, got {type(example).__name__}{remedy}"
    )
