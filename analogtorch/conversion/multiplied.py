"""Weights that a model multiplies by in code of its own, outside of the layers that hold weights.

These are buffers, other tensors that a module holds, and weights of embeddings. What a module does
with them shows in a run only: most are added, looked up or scaled element by element.
"""

from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.conversion.weights import (
    Region,
    Storage,
    Weights,
    accessed,
    bind,
    operands,
    operator_name,
    storage,
    tensors,
)
from analogtorch.nn import AnalogComposite, AnalogLayer

_MULTIPLIED = "_analogtorch_multiplied"
"""Attribute of modules, which copies keep: names of such tensors, and what multiplied by them in
the last run watched."""


def remember(model: nn.Module, found: Mapping[tuple[nn.Module, str], str]) -> None:
    """Remember what a run multiplied by: modules and names of tensors, with the reason."""
    for module in model.modules():
        forget_multiplied(module)
    for (module, own), why in found.items():
        vars(module).setdefault(_MULTIPLIED, {})[own] = why


def forget_multiplied(module: nn.Module) -> None:
    """Undo ``remember`` for a module alone."""
    vars(module).pop(_MULTIPLIED, None)


def multiplied(model: nn.Module) -> Iterator[tuple[str, Tensor, str]]:
    """Yield what the last run that was watched multiplied by: name, tensor, reason.

    A Parameter goes by the name of its module, unless that is analog.
    """
    for name, module in model.named_modules():
        for own, why in vars(module).get(_MULTIPLIED, {}).items():
            if (t := _tensors(module).get(own)) is not None:
                whole = own in module._parameters and not _is_analog(module)
                yield (name if whole else f"{name}.{own}".lstrip(".")) or "(root)", t, why


class Stored:
    """The tensors that the modules of a model hold, in one run.

    Args:
        model: the model.
        counted: the ``id`` of the tensors that count as digital without a run.
        analog: the ``id`` of the weights on the chip. A module that holds one of them may use it.
    """

    def __init__(self, model: nn.Module, counted: Set[int], analog: Set[int]) -> None:
        self._counted, self._analog = counted, analog
        self._weights = Weights()
        self._held: dict[str, tuple[nn.Module, str, Tensor]] = {}
        self._written, self._made = set[Storage](), set[Storage]()
        for name, module in model.named_modules():
            for own, t in _tensors(module).items():
                self._weights.add(full := f"{name}.{own}", t)
                self._held[full] = module, own, t

    def product(
        self, func: Any, args: Any, kwargs: Any, result: Any, user: nn.Module | None
    ) -> str | None:
        """Look at an operator and return the tensor that it multiplies data by, if no layer does.

        Args:
            func: the operator.
            args: its arguments.
            kwargs: its keyword arguments.
            result: what it returned.
            user: the module that is running.
        """
        found = [self._of(t) for t in accessed(func, args, kwargs)]
        written = accessed(func, args, kwargs, written=True)
        if not (found or written):
            self.made(result)
        if all(found) and not changes_data(func, args, self._is_constant):
            self._weights.derive(result, [region for of in found for region in of])
            return None
        self._written.update(map(storage, written))
        if not any(found):
            return None
        name = operator_name(func)
        pair = operands(name, bind(func, args, kwargs))
        # an outer product, such as positions times frequencies, sums nothing
        if pair is None or (pair[0].shape[-1:] == (1,) and "conv" not in name):
            return None
        left, right = map(self._of, pair)
        return None if bool(left) == bool(right) else self._name(left or right, user)

    def made(self, result: Any) -> None:
        """Remember tensors of the run that hold no data yet, such as ``torch.zeros(4)``."""
        self._made.update(map(storage, tensors(result)))

    def still(self, name: str) -> tuple[nn.Module, str] | None:
        """Return the module that holds a tensor, and its name there; None if the run changed it.

        It is then a state, such as a cache, and no weight.
        """
        module, own, t = self._held[name]
        same = _tensors(module).get(own) is t and storage(t) not in self._written
        return (module, own) if same else None

    def _of(self, t: Tensor) -> list[Region]:
        return [] if storage(t) in self._written else self._weights.of(t)

    def _is_constant(self, t: Tensor) -> bool:
        empty = storage(t) in self._made and storage(t) not in self._written
        return empty or bool(self._of(t))

    def _name(self, regions: list[Region], user: nn.Module | None) -> str | None:
        """Return the largest of the tensors that a weight is made of; others scale or mask it."""
        of = {id(self._held[name][2]) for region in regions for name in region.names}
        names = max(regions, key=lambda region: region.weight.numel()).names
        own = next((name for name in names if self._held[name][0] is user), None)
        on_chip = of & self._analog and (own is None or _is_analog(self._held[own][0]))
        return None if of & self._counted or on_chip else own or names[0]


def changes_data(func: Any, args: Any, is_constant: Callable[[Tensor], Any]) -> bool:
    """Return whether an operator changes data by what it reads, as ``x.add_(weight)`` does.

    Args:
        func: the operator.
        args: its positional arguments. ``out``, which it overwrites, is none of them.
        is_constant: returns whether a tensor holds no data.
    """
    return not all(map(is_constant, accessed(func, args, {}, written=True)))


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the plain tensors that a module holds, by name."""
    if isinstance(module, torch.jit.ScriptModule):  # it returns new ones each time
        return {}
    held = {**vars(module), **module._buffers, **module._parameters}
    return {
        name: t
        for name, t in held.items()
        if type(t) in (Tensor, nn.Parameter) and t.layout is torch.strided and not t.is_nested
    }


def _is_analog(module: nn.Module) -> bool:
    return isinstance(module, AnalogLayer | AnalogComposite)
