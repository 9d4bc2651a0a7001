"""Batches: what they may be, and the tensors in them."""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import Dataset, IterableDataset

from analogtorch.conversion.kinds import check_module

EMPTY = (
    "batches is empty; pass at least one batch of inputs. A generator can be read only once: pass "
    "a list"
)
"""The end of the message where there is none."""


def check_given(caller: str, model: Any, batches: Any) -> None:
    """Raise TypeError if ``model`` is no module, or ``batches`` holds no batches.

    A single batch is refused too.
    """
    check_module(caller, model)
    check_batches(caller, batches)


def check_batches(caller: str, batches: Any) -> None:
    """Raise TypeError if ``batches`` holds no batches, or is a single one."""
    refuse_dataset(caller, batches)
    several = hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
    if not several or isinstance(batches, Tensor | PackedSequence | Mapping | str):
        raise TypeError(
            f"{caller}: batches must be an iterable of batches, such as a DataLoader or a list, "
            f"got {type(batches).__name__}{'; pass [batch]' if several else ''}"
        )


def some_batches(caller: str, batches: Iterable[Any]) -> list[Any]:
    """Return the batches as a list.

    Raises:
        ValueError: there is none.
    """
    if found := list(batches):
        return found
    raise ValueError(f"{caller}: {EMPTY}")


def ends_with_rest(batches: Sequence[Any]) -> bool:
    """Return whether the last batch is what a DataLoader may leave: under half of the first one.

    Inputs are counted by the first dimension of the first tensor that has one.
    """
    sizes = [
        next((len(t) for t in every_tensor(batch) if t.dim()), 0)
        for batch in (batches[0], batches[-1])
    ]
    return 2 * sizes[1] < sizes[0]


def refuse_dataset(caller: str, batches: Any) -> None:
    """Raise TypeError if ``batches`` is a dataset that gives samples by their number.

    An ``IterableDataset`` may give batches.
    """
    if isinstance(batches, Dataset) and not isinstance(batches, IterableDataset):
        raise TypeError(
            f"{caller}: batches must be an iterable of batches, such as a DataLoader or a list, "
            f"got {type(batches).__name__}, a dataset of samples; pass DataLoader(dataset, "
            "batch_size=64), with batch_size=None if each of its items is a batch"
        )


def named(value: Any) -> Mapping[Any, Any] | None:
    """Return the parts of a mapping or a dataclass by name; None: a value has no names.

    Fields of a dataclass that are not set are not among them.
    """
    if isinstance(value, Mapping):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (each.name for each in dataclasses.fields(value))
        return {name: getattr(value, name) for name in names if hasattr(value, name)}
    return None


def parts_of(value: Any) -> Iterable[Any]:
    """Return what a mapping, a dataclass or a sequence holds; nothing of any other value."""
    if (parts := named(value)) is not None:
        return parts.values()
    return value if isinstance(value, list | tuple | deque) else ()


def every_tensor(
    value: Any,
    parts: Callable[[Any], Iterable[Any]] = parts_of,
    within: frozenset[int] = frozenset(),
) -> Iterator[Tensor]:
    """Yield the tensors in a batch or in what a model returned, which may be nested.

    Args:
        value: the batch or the output.
        parts: returns the parts of a value that are looked at.
        within: ids of what holds it; a value that is among them holds itself, and is passed over.
    """
    if isinstance(value, Tensor):
        yield value
    elif id(value) not in within:
        for part in parts(value):
            yield from every_tensor(part, parts, within | {id(value)})
