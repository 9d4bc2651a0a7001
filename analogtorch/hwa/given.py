"""What a model is given, by name."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from analogtorch.calibration.batches import named, parts_of


def by_name(
    function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]
) -> Mapping[str, Any]:
    """Return what a function is given, by the names of its parameters as far as they are known."""
    try:
        return inspect.signature(function).bind(*args, **options).arguments
    except (TypeError, ValueError):  # it has no signature, or refuses these arguments
        return {"": args, **options}


def inputs(given: Any, answers: tuple[str, ...] = ("target", "targets")) -> Iterable[Any]:
    """Return the parts of what a model is given, but for those named so or with ``label``."""
    names = named(given)
    if names is None:
        return parts_of(given)
    return [
        part
        for name, part in names.items()
        if "label" not in (plain := str(name).lower()) and plain not in answers
    ]
