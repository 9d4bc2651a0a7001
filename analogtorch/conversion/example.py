"""The example of a model's input, in the form that every function of this library takes."""

import inspect
from collections.abc import Callable, Mapping
from numbers import Number
from types import UnionType
from typing import Any, Union, get_args, get_origin

import numpy as np
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from analogtorch.conversion.fresh import fresh
from analogtorch.nn.adapters import unwrapped

Example = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""A tensor, a tuple of arguments or a dictionary of keyword arguments."""


def is_one_input(model: nn.Module, given: Any) -> bool:
    """Return whether ``given`` is a tensor, or what the model takes as one argument.

    That is a ``PackedSequence``; a named tuple of the type with which the first argument of
    ``forward`` is annotated; a list of tensors, where that is annotated as one, or of pictures
    (C, H, W), where ``forward`` begins with ``images, targets``, as of detectors; or a mapping,
    where it has one argument and the mapping nothing of its name.
    """
    if isinstance(given, Tensor | PackedSequence):
        return True
    if isinstance(given, Mapping):
        return bool(given) and takes_one(model) and parameters(model)[0].name not in given
    first = next(iter(parameters(model)), None)
    if first is None:
        return False
    if isinstance(given, list) and given:
        if not _are_alike(given):
            return False
        detects = [p.name for p in parameters(model)[:2]] == ["images", "targets"]
        return (detects and given[0].dim() == 3) or _takes_tensors(first.annotation)
    if not (isinstance(given, tuple) and hasattr(given, "_fields")):
        return False
    return first.annotation in (type(given), type(given).__name__)


def _takes_tensors(annotation: Any) -> bool:
    """Return whether what is annotated so is a list of tensors, or may be one."""
    if isinstance(annotation, str):
        plain = annotation.replace("typing.", "").replace("torch.Tensor", "Tensor")
        return plain.lower().startswith(("list[tensor]", "optional[list[tensor]]"))
    if get_origin(annotation) in (Union, UnionType):
        return any(map(_takes_tensors, get_args(annotation)))
    return get_origin(annotation) is list and get_args(annotation) == (Tensor,)


def _are_alike(given: list[Any]) -> bool:
    """Return whether a list holds tensors of one kind, as images are, not images and labels."""
    kinds = {(x.dim(), x.dtype) if isinstance(x, Tensor) else None for x in given}
    return len(kinds) == 1 and None not in kinds


def takes_one(model: nn.Module) -> bool:
    """Return whether ``forward`` has one argument, which can be given by its place."""
    found = parameters(model)
    return len(found) == 1 and found[0].kind in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )


def parameters(model: nn.Module) -> list[inspect.Parameter]:
    """Return the parameters of a model's ``forward``; empty: they are not known.

    Of models that ``torch.compile`` returns, and of torch's wrappers, which pass all on, they are
    those of the model inside.
    """
    try:
        return list(inspect.signature(unwrapped(model).forward).parameters.values())
    except (TypeError, ValueError):  # it has none
        return []


def call(model: nn.Module, example: Example) -> Any:
    """Return what a model gives for the example, into which it may write.

    Raises:
        Exception: what the model raises, with a note if ``refused`` knows why.
    """
    try:
        if is_one_input(model, example):
            return model(example)
        return model(**example) if isinstance(example, Mapping) else model(*example)
    except Exception as error:
        if remedy := refused(example, error):
            error.add_note(remedy)
        raise


def refused(example: Any, error: BaseException) -> str:
    """Return what to give in place of an example that a model has refused; empty: not known.

    It is a tensor in place of its shape, which a model may take as integers, and a mapping as one
    argument in place of keyword arguments.
    """
    if isinstance(example, tuple) and example and all(type(size) is int for size in example):
        sizes = ", ".join(map(str, example))
        return f"the example holds integers alone: give a tensor, such as torch.zeros({sizes})"
    if isinstance(example, Mapping) and isinstance(error, TypeError) and "argument" in str(error):
        return (
            "the entries of the example are keyword arguments: where the model takes the mapping "
            "as one argument, give (example,)"
        )
    return ""


def as_one(given: Any, name: str) -> str:
    """Return how to give a model an input called ``name`` that is of no type a model takes.

    It begins with a semicolon. Nothing is said of None, text and numbers, which are no input.
    """
    if given is None or isinstance(given, str | bytes | Number):
        return ""
    if isinstance(given, np.ndarray):
        return f"; give torch.as_tensor({name})"
    kind = type(given).__name__
    return f"; where the model takes the {kind} as one argument, give ({name},)"


def runner(caller: str, example: Any, remedy: str = "") -> Callable[[nn.Module], Any]:
    """Return a function that runs a model on the example; the error ends with ``remedy``.

    Each run has a copy of it.

    Raises:
        TypeError: the example is of another type.
    """
    if isinstance(example, Tensor | tuple | Mapping):
        return lambda model: call(model, fresh(example))
    raise TypeError(
        f"{caller}: example must be the model's input: a tensor, such as torch.zeros(1, 3, 224, "
        f"224), a tuple of arguments or a dictionary of keyword arguments, got "
        f"{type(example).__name__}{as_one(example, 'example')}{remedy}"
    )
