"""Weights that a model multiplies by in code of its own, outside of the layers that hold weights.

These are buffers, other tensors that a module holds, and weights of embeddings, or what the model
computes from them, such as filters from their frequencies. What a module does with them shows in a
run only: most are added, looked up or scaled element by element.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from analogtorch.conversion.amounts import Amounts
from analogtorch.conversion.plain_tensors import plain_tensors, registered
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
from analogtorch.nn.kinds import kind_of

_MULTIPLIED = "_analogtorch_multiplied"
"""Attribute of modules, which copies keep: names of such tensors, and what multiplied by them in
the last run watched."""
_ADDED = "_analogtorch_added"
"""Attribute of modules, which copies keep: names of the Parameters that the last run watched added
to data, and did nothing else with."""
_SUMS = frozenset({"add", "sub", "rsub"})
"""Operators that add what they read."""
_BIASES = ("attn_mask", "attn_bias")
"""Arguments of fused attention that are added to the scores."""


@dataclass(frozen=True)
class Factor:
    """What data is multiplied by: a tensor that a module holds, or what is computed from some."""

    names: tuple[str, ...]
    """Full names of the tensors, the largest first."""
    computed: bool = False
    """Whether it holds more numbers than these together, such as an outer product."""


@dataclass(frozen=True)
class Computed:
    """How many weights a run computed, and what they count in place of."""

    count: int
    """Their number."""
    sources: tuple[str, ...]
    """The tensors that they come from, which the run did not multiply by as they are. Names are
    those in the module that holds the factor, and full ones elsewhere."""


@dataclass(frozen=True)
class Use:
    """How a run multiplied by a factor."""

    why: str
    """The reason why it is digital."""
    computed: Computed | None = None
    """What it computed; None: the factor is a tensor that a module holds."""


def remember(
    model: nn.Module,
    found: Mapping[tuple[nn.Module, str], Use],
    added: Iterable[tuple[nn.Module, str]],
) -> None:
    """Remember what a run multiplied by, and what it only added.

    Args:
        model: the model.
        found: modules, and names of tensors or ``computed from ...``.
        added: modules, and names of their Parameters.
    """
    for module in model.modules():
        forget_multiplied(module)
    for (module, own), use in found.items():
        vars(module).setdefault(_MULTIPLIED, {})[own] = use
    for module, own in added:
        vars(module).setdefault(_ADDED, set()).add(own)


def forget_multiplied(module: nn.Module) -> None:
    """Undo ``remember`` for a module alone."""
    vars(module).pop(_MULTIPLIED, None)
    vars(module).pop(_ADDED, None)


def only_added(module: nn.Module) -> Set[str]:
    """Return the Parameters of a module that the last run that was watched only added to data."""
    found: Set[str] = vars(module).get(_ADDED, frozenset())
    return found


def multiplied(model: nn.Module) -> Iterator[tuple[str, Tensor | None, str, int]]:
    """Yield what the last run that was watched multiplied by: name, tensor, reason, weights.

    A Parameter goes by the name of its module, unless that is analog. What is computed is no tensor
    that a module holds: None.
    """
    known = registered(model)
    for name, module in model.named_modules():
        uses = vars(module).get(_MULTIPLIED, {})
        of_module = plain_tensors(module, known) if uses else {}
        for own, use in uses.items():
            if use.computed is not None:
                yield f"{name}: {own}".removeprefix(": "), None, use.why, use.computed.count
            elif (t := of_module.get(own)) is not None and not _is_on_chip(module, own):
                whole = own in module._parameters and not _is_analog(module)
                named = (name if whole else f"{name}.{own}".lstrip(".")) or "(root)"
                yield named, t, use.why, t.numel()


def no_factors(model: nn.Module) -> set[int]:
    """Return the ``id`` of tensors that the last run that was watched did not multiply by.

    It only added them, or computed weights from them, which count in their place.
    """
    known = registered(model)
    by_module = {
        module: (name, plain_tensors(module, known)) for name, module in model.named_modules()
    }
    by_name = {
        f"{name}.{own}".lstrip("."): t
        for name, of_module in by_module.values()
        for own, t in of_module.items()
    }
    found = set[int]()
    for module, (_, of_module) in by_module.items():
        found.update(id(of_module.get(own)) for own in only_added(module))
        uses: Iterable[Use] = vars(module).get(_MULTIPLIED, {}).values()
        for own in chain.from_iterable(use.computed.sources for use in uses if use.computed):
            found.add(id(of_module.get(own, by_name.get(own))))
    return found


@dataclass
class _Bank:
    """How many numbers a run multiplied by that the same operators compute."""

    by_offset: dict[int, int] = field(default_factory=dict)
    """The most, by where they begin in a tensor: parts of it add up, and those of other steps, or
    of other modules that share the Parameters, do not."""
    whole: int = 0
    """The most that such a tensor holds."""

    def add(self, t: Tensor, amounts: Amounts) -> None:
        offset = int(t.storage_offset()) if t.layout is torch.strided else 0
        self.by_offset[offset] = max(amounts.of(t), self.by_offset.get(offset, 0))
        self.whole = max(amounts.whole(t), self.whole)

    def __int__(self) -> int:
        return min(self.whole, sum(self.by_offset.values()))


class Stored:
    """The tensors that the modules of a model hold, in one run.

    Args:
        model: the model.
        counted: the ``id`` of the tensors that count as digital without a run.
        analog: the ``id`` of the weights on the chip. A module that holds one of them may use it.
    """

    def __init__(self, model: nn.Module, counted: Set[int], analog: Set[int]) -> None:
        self._counted, self._analog = counted, analog
        self._weights, self._amounts = Weights(), Amounts()
        self._computed: dict[frozenset[Region], tuple[Factor, dict[frozenset[str], _Bank]]] = {}
        self._held: dict[str, tuple[nn.Module, str, Tensor]] = {}
        self._written, self._made = set[Storage](), set[Storage]()
        self._as_they_are = set[str]()
        self._added, self._used = set[str](), set[str]()
        self._registered = registered(model)
        for name, module in model.named_modules():
            for own, t in plain_tensors(module, self._registered).items():
                self._weights.add(full := f"{name}.{own}", t)
                self._held[full] = module, own, t

    def product(
        self, func: Any, args: Any, kwargs: Any, result: Any, user: nn.Module | None
    ) -> Factor | None:
        """Look at an operator and return what it multiplies data by, if no layer does.

        Args:
            func: the operator.
            args: its arguments.
            kwargs: its keyword arguments.
            result: what it returned.
            user: the module that is running.
        """
        name, read = operator_name(func), accessed(func, args, kwargs)
        bound = bind(func, args, kwargs)
        pair = operands(name, bound)
        # an outer product, such as positions times frequencies, sums nothing
        if pair is not None and pair[0].shape[-1:] == (1,) and "conv" not in name:
            pair = None
        if all(map(self._is_constant if pair is None else self._of, read)) and not changes_data(
            func, args, self._is_constant
        ):
            self._derive(func, read, result)
            return None
        biases = [id(bound.get(each)) for each in _BIASES]
        for t in read:
            names = self._added if name in _SUMS or id(t) in biases else self._used
            names.update(known for region in self._of(t) for known in region.names)
        self._written.update(map(storage, accessed(func, args, kwargs, written=True)))
        if pair is None:
            return None
        left, right = map(self._of, pair)
        if bool(left) == bool(right):
            return None
        return self._factor(pair[0] if left else pair[1], left or right, user)

    def added(self) -> Iterator[tuple[nn.Module, str]]:
        """Yield the Parameters that the run only added to data: module, and name there.

        Indexing of a table, as for positions, and other operators without data may come before.
        Weights of digital layers are none of them: one that did not run multiplies all the same.
        """
        of_layers = {id(t) for name, (_, _, t) in self._held.items() if self._is_of_layer(name)}
        for name in self._added - self._used:
            module, own, t = self._held[name]
            if isinstance(t, nn.Parameter) and id(t) not in of_layers:
                yield module, own

    def made(self, result: Any) -> None:
        """Remember tensors of the run that hold no data yet, such as ``torch.zeros(4)``."""
        self._made.update(map(storage, tensors(result)))

    def place(self, factor: Factor) -> tuple[nn.Module, str] | None:
        """Return the module that holds a factor, and its name there; None if the run changed it.

        It is then a state, such as a cache, and no weight.
        """
        if not all(map(self._still, factor.names)):
            return None
        module, own, _ = self._held[factor.names[0]]
        return module, f"computed from {', '.join(self._names(factor))}" if factor.computed else own

    def is_registered(self, factor: Factor) -> bool:
        """Return whether a factor is no Parameter, or one that torch knows by its name."""
        module, own, t = self._held[factor.names[0]]
        return not isinstance(t, nn.Parameter) or own in module._parameters

    def count(self, factor: Factor) -> Computed | None:
        """Return the weights of a factor that is computed; None for one that is held.

        Several from the same tensors, such as cosines and sines, count together. What the same
        operators compute, in each step or in several modules, counts once.
        """
        banks = dict(self._computed.values()).get(factor)
        if banks is None:
            return None
        names = zip(factor.names, self._names(factor), strict=True)
        sources = tuple(shown for name, shown in names if name not in self._as_they_are)
        return Computed(sum(map(int, banks.values())), sources)

    def _names(self, factor: Factor) -> list[str]:
        """Return the names of the tensors of a factor, short in the module that holds it."""
        held = [(name, *self._held[name]) for name in factor.names]
        return [own if m is held[0][1] else name.lstrip(".") for name, m, own, _ in held]

    def _still(self, name: str) -> bool:
        module, own, t = self._held[name]
        if "." in own:  # in a list
            there = plain_tensors(module, self._registered).get(own)
        else:  # at once, as a walk through all for each name would take minutes
            there = module._parameters.get(own, module._buffers.get(own, vars(module).get(own)))
        return there is t and storage(t) not in self._written

    def _derive(self, func: Any, read: list[Tensor], result: Any) -> None:
        """Remember what an operator computed from constants alone."""
        found = [self._of(t) for t in read]
        if not any(found):
            self.made(result)
            return
        self._weights.derive(result, [region for of in found for region in of])
        weights = [t for t, of in zip(read, found, strict=True) if of]
        others = [t for t, of in zip(read, found, strict=True) if not of]
        self._amounts.add(func, weights, others, result)

    def _of(self, t: Tensor) -> list[Region]:
        return [] if storage(t) in self._written else self._weights.of(t)

    def _is_constant(self, t: Tensor) -> bool:
        empty = storage(t) in self._made and storage(t) not in self._written
        return empty or bool(self._of(t))

    def _factor(self, t: Tensor, regions: list[Region], user: nn.Module | None) -> Factor | None:
        """Return ``t`` as a factor: the largest of the tensors that it is made of, or all of them.

        The others scale or mask the largest, unless there are more numbers than these tensors hold.
        It is None if it counts by itself.
        """
        regions = sorted(regions, key=lambda region: region.weight.numel(), reverse=True)
        names = tuple(self._name(region, user) for region in regions)
        known = [name for region in regions for name in region.names]
        of = {id(self._held[name][2]) for name in known}
        holder = self._held[names[0]][0]
        on_chip = of & self._analog and (holder is not user or _is_analog(holder))
        if self._amounts.of(t) <= sum(region.weight.numel() for region in regions):
            self._as_they_are.update(known)
            return None if of & self._counted or on_chip else Factor(names[:1])
        if on_chip or any(map(self._is_of_layer, known)):
            return None
        return self._add(t, regions, Factor(names, computed=True))

    def _add(self, t: Tensor, regions: list[Region], factor: Factor) -> Factor:
        """Add what a run computes, and return the first factor of the same tensors."""
        factor, banks = self._computed.setdefault(frozenset(regions), (factor, {}))
        banks.setdefault(self._amounts.how(t), _Bank()).add(t, self._amounts)
        return factor

    def _name(self, region: Region, user: nn.Module | None) -> str:
        """Return the name of a weight, in the module that runs if it holds it."""
        of_user = (name for name in region.names if self._held[name][0] is user)
        return next(of_user, region.names[0])

    def _is_of_layer(self, name: str) -> bool:
        """Return whether a tensor is the weight of a digital layer, which counts by itself."""
        module, _, t = self._held[name]
        return id(t) in self._counted and kind_of(module) is not None


def changes_data(func: Any, args: Any, is_constant: Callable[[Tensor], Any]) -> bool:
    """Return whether an operator changes data by what it reads, as ``x.add_(weight)`` does.

    Args:
        func: the operator.
        args: its positional arguments. ``out``, which it overwrites, is none of them.
        is_constant: returns whether a tensor holds no data.
    """
    return not all(map(is_constant, accessed(func, args, {}, written=True)))


def _is_on_chip(module: nn.Module, own: str) -> bool:
    """Return whether a tensor of a module is the weight of an analog layer, made so since."""
    return _is_analog(module) and own in module.weight_names(module)


def _is_analog(module: nn.Module) -> TypeGuard[AnalogLayer | AnalogComposite]:
    return isinstance(module, AnalogLayer | AnalogComposite)
