"""Copies of models whose modules keep tensors with a history of gradients."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

T = TypeVar("T")


def deep_copy(given: T, memo: dict[int, Any] | None = None) -> T:
    """Return a deep copy, also of what ``copy.deepcopy`` refuses: results that modules keep.

    Pruning and the weight norm of ``torch.nn.utils`` keep a weight that is computed from
    Parameters, and compute it anew in each run; other modules keep outputs of their last run. The
    copy has their values without the history.

    Args:
        given: a model, or a part or an input of one.
        memo: what the copy has in place of objects, by ``id``, as ``copy.deepcopy`` takes and
            extends it; None: nothing.

    Raises:
        ValueError: the model holds what cannot be copied; the message names it.
    """
    with copying(given):
        return copy.deepcopy(given, memo)


@contextlib.contextmanager
def copying(given: Any) -> Iterator[None]:
    """Let ``copy.deepcopy`` do in the context what ``deep_copy`` does, and raise what that does.

    Args:
        given: the model that is copied there, in parts or as a whole.
    """
    try:
        with _Detaching():
            yield
    except (TypeError, RuntimeError, NotImplementedError, copy.Error) as error:
        if not isinstance(given, nn.Module):
            raise
        raise ValueError(
            f"{type(given).__name__} cannot be copied by copy.deepcopy, which programs, maps and "
            f"measures a model without changing it: {_refused(given) or error}; keep what cannot "
            "be copied out of the model's attributes"
        ) from error


class _Detaching(TorchFunctionMode):
    """Copies a tensor with a history without it, wherever it is held."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach().clone()
        return func(*args, **(kwargs or {}))


def _refused(model: nn.Module) -> str | None:
    """Return which attribute of a model cannot be copied; None: no single one."""
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute != "_modules":
                try:
                    with _Detaching():
                        copy.deepcopy(value)
                except Exception as error:
                    full = f"{name}.{attribute}".lstrip(".")
                    return f"{full!r} is a {type(value).__name__} ({error})"
    return None
