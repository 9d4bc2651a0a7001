"""What a bad call is, and the small models that they share."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import analogtorch as at

CHIP = at.chips.hermes64()
X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
Y = torch.zeros(6, dtype=torch.int64)

NO_NUMBER: tuple[Any, ...] = (math.nan, math.inf, True, "1", None, torch.tensor(1.0), [1.0])
NO_INTEGER: tuple[Any, ...] = (math.nan, 1.5, True, "1", None, torch.tensor(1))
NO_FLAG: tuple[Any, ...] = (1, 0.0, "yes", None)
NO_TEXT: tuple[Any, ...] = (None, 3, "", ["a"])
NO_MODEL: tuple[Any, ...] = (None, 3, "model", nn.Linear, {"weight": X}, X)


@dataclass(frozen=True)
class Bad:
    """One call and how it must end."""

    name: str
    call: Callable[[], Any]
    error: type[Exception] | tuple[type[Exception], ...]
    message: str
    """A regular expression that the message must match."""


def every(
    name: str,
    call: Callable[[Any], Any],
    values: Iterable[Any],
    message: str,
    error: type[Exception] | tuple[type[Exception], ...] = ValueError,
) -> Iterator[Bad]:
    """A call for each of the values."""
    for value in values:
        text = "a tensor" if isinstance(value, Tensor) else repr(value)[:40]
        yield Bad(f"{name}({text})", functools.partial(call, value), error, message)


def fields(
    make: Callable[[], Any],
    names: str,
    values: Iterable[Any],
    message: str,
    error: Any = ValueError,
) -> Iterator[Bad]:
    """Yield calls with each value in each field of what ``make`` returns.

    ``names``, separated by blanks, restrict the fields.
    """
    owner = make()
    for name in names.split():
        where = f"{type(owner).__name__}.{name}"

        def call(value: Any, name: str = name) -> Any:
            return replace(owner, **{name: value})

        yield from every(where, call, values, rf"{type(owner).__name__}\.{name}.*{message}", error)


def digital() -> nn.Module:
    """A net of two layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


def analog() -> nn.Module:
    """The same, converted."""
    return at.convert(digital(), CHIP)


@functools.cache
def programmed() -> at.ProgrammedChip:
    """A chip with it."""
    return at.program(analog(), seed=1)


@functools.cache
def mapping() -> at.ChipMapping:
    """Return the mapping of the model."""
    return at.map_to_chip(digital(), X, chip=CHIP)


def used_up(batches: Iterable[Any]) -> Iterator[Any]:
    """A generator that somebody has read before."""
    generator = iter(batches)
    for _ in generator:
        pass
    return generator


def never(*_: Any) -> float:
    """A function that must not be called."""
    raise AssertionError("called")
