"""Observation of one run: which analog layers run, and what else computes with their weights."""

import contextlib
import functools
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from analogtorch.conversion.kinds import analog_layers
from analogtorch.conversion.multiplied import Factor, Stored, Use, changes_data, remember
from analogtorch.conversion.restored import unchanged
from analogtorch.conversion.running import Running
from analogtorch.conversion.share import known
from analogtorch.conversion.weights import (
    Region,
    Weights,
    accessed,
    bind,
    operands,
    operator_name,
    storage,
    tensors,
)
from analogtorch.nn import AnalogLayer, Tap, tapped
from analogtorch.nn.adapters import is_part_of_adapter
from analogtorch.values.thread_lock import ThreadLock

_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
_SHAPE_ONLY = frozenset({
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like",
    "randint_like", "new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided",
})  # fmt: skip
"""Operators that take a tensor for its shape and type and read none of its values."""
_NORMS = frozenset({"linalg_vector_norm", "norm"})
"""Operators whose results are no weights: a norm of each output scales it in the digital unit."""
_FUSED = frozenset({
    "_transformer_encoder_layer_fwd", "_native_multi_head_attention", "_addmm_activation",
    "_cudnn_rnn", "miopen_rnn", "mkldnn_rnn_layer", "_trilinear", "convolution_backward",
})  # fmt: skip
"""Operators that multiply by all weights that they take, besides those of ``operands``."""
_CAN_BE_ANALOG = "a layer with this weight can be analog"
_UNREGISTERED = (
    "it is unregistered, so that torch and convert do not see it: keep it in nn.ModuleList, "
    "nn.ModuleDict or nn.ParameterList instead of a plain list or dictionary"
)
_PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"


@dataclass(frozen=True)
class Bypass:
    """An operator that computed with the weight of a layer outside of that layer."""

    operator: str
    user: str
    """Label of the innermost module that was running."""
    site: str
    """File and line."""

    def __str__(self) -> str:
        return f"{self.operator} in {self.user}, {self.site}"


def watch(model: nn.Module, run: Callable[[nn.Module], Any]) -> "Watch":
    """Run the model once in evaluation mode and without gradients, and leave it unchanged."""
    seen = Watch(model, dict(analog_layers(model)))
    with unchanged(model), torch.no_grad(), seen.watching():
        run(model)
    return seen


class Observer(TorchDispatchMode):
    """A dispatch mode that sees every operator of a run.

    Compiled parts run as written; see ``eager``.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # otherwise torch imports all of torch._dynamo, which takes seconds
        return False


class Watch(Observer):
    """Sees every operator of a run, and which of them use a weight outside of its layer.

    It is no TorchFunctionMode: that would disable torch's fast paths, and so miss what they do.
    """

    def __init__(self, model: nn.Module, layers: dict[str, AnalogLayer]) -> None:
        super().__init__()
        self.model, self.layers = model, layers
        self.running = Running(model)
        self.outside = len(traceback.extract_stack()) - 1
        """Number of frames of the stack that are outside of the run."""
        self.runs = dict.fromkeys(layers, 0)
        self.within: list[str] = []
        self.bypasses: dict[str, Bypass] = {}
        """The first bypass of each layer."""
        self.users = Counter[tuple[str, nn.Module | None]]()
        """How often each module, while it was the innermost, bypassed each layer."""
        self.factors: dict[str, Bypass] = {}
        """Those bypasses that multiply data by the weight and sum, as its layer does."""
        self.digital_uses: dict[str, set[str]] = {name: set() for name in layers}
        counted = {id(p) for of in known(model).values() for p in of}
        self.stored = Stored(model, counted, {id(layer.weight) for layer in layers.values()})
        self.products: dict[Factor, Bypass] = {}
        """The first operator that multiplies data by each factor that is no layer's weight."""
        self.weights, self.changed = Weights(), Weights()
        for name, layer in layers.items():
            if isinstance(weight := layer._parameters.get("weight"), Tensor):
                self.weights.add(name, weight)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the run in the context."""
        with self.counting(), eager(), self.running.hooked(), self:
            yield
            remember(self.model, self.multiplied(), self.stored.added())

    def counting(self) -> contextlib.AbstractContextManager[None]:
        """Count the runs of the layers, with direct calls of ``forward``."""
        taps = {
            layer: Tap(running=functools.partial(self._running, name))
            for name, layer in self.layers.items()
        }
        return tapped(taps)

    @contextlib.contextmanager
    def _running(self, name: str) -> Iterator[None]:
        self.within.append(name)
        try:
            yield
        finally:
            self.within.pop()
        self.runs[name] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if operator_name(func) in _SHAPE_ONLY:
            if not self.within:
                self.stored.made(result)
        elif not func.is_view:
            self._look(func, args, kwargs or {}, result)
            if not self.within:
                self._look_at_stored(func, args, kwargs or {}, result)
                changed = map(self.changed.of, accessed(func, args, kwargs or {}))
                self._follow(func, args, kwargs or {}, result, list(chain.from_iterable(changed)))
        return result

    def _look_at_stored(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        user = self.running.innermost
        factor = self.stored.product(func, args, kwargs, result, user)
        if factor is not None and factor not in self.products:
            self.products[factor] = self._bypass(func, user)

    def multiplied(self) -> dict[tuple[nn.Module, str], Use]:
        """Return what the run has multiplied by outside of layers, by module and name."""
        found = {}
        for factor, bypass in self.products.items():
            if (where := self.stored.place(factor)) is not None:
                if factor.computed:
                    can = "it is computed in each run"
                else:
                    can = _CAN_BE_ANALOG if self.stored.is_registered(factor) else _UNREGISTERED
                why = f"the model multiplies by it in {bypass}; {can}"
                found[where] = Use(why, self.stored.count(factor))
        return found

    def _look(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        found = [self.weights.of(t) for t in accessed(func, args, kwargs)]
        regions = (region for of_tensor in found for region in of_tensor)
        used = [r for r in regions if not any(name in self.within for name in r.names)]
        if not used or operator_name(func) in _NORMS:
            return
        added = func._schema.name != "aten::copy_" and changes_data(func, args, self.weights.of)
        if added or not (all(found) or self._adapts(func)):
            self._follow(func, args, kwargs, result, self._report(func, used))
            return
        # computed from weights, and in an adapter from its own, with no other data yet
        self.weights.derive(result, used)

    def _adapts(self, func: Any) -> bool:
        """Return whether an adapter computes number by number, as DoRA adds its own to a weight.

        Products with data are not among these operators.
        """
        user = self.running.innermost
        return (
            user is not None
            and torch.Tag.pointwise in func.tags
            and is_part_of_adapter(self.model, self.running.name(user))
        )

    def _report(self, func: Any, used: list[Region]) -> list[Region]:
        """Record a use of weights outside of their layers, and return those that are bypassed."""
        user = self.running.innermost
        label = self._label(user)
        bypassed = []
        for region in used:
            if user is not None and not isinstance(user, AnalogLayer) and _holds(user, region):
                for name in region.names:
                    self.digital_uses[name].add(label)
                continue
            bypassed.append(region)
            for name in region.names:
                self.users[name, user] += 1
                if name not in self.bypasses:
                    self.bypasses[name] = self._bypass(func, user)
        return bypassed

    def _follow(
        self, func: Any, args: Any, kwargs: Any, result: Any, bypassed: list[Region]
    ) -> None:
        """Look whether an operator multiplies by weights that are bypassed, as they are or changed.

        Weights that are scaled, or changed otherwise number by number, are followed. Inside of an
        analog layer what is computed from the weight of another is data.
        """
        if self.within or not bypassed:
            return
        name, user = operator_name(func), self.running.innermost
        pair = operands(name, bind(func, args, kwargs)) or ()
        for t in accessed(func, args, kwargs) if name in _FUSED else pair:
            for region in (*self.weights.of(t), *self.changed.of(t)):
                for factor in region.names if region in bypassed else ():
                    if factor not in self.factors:
                        self.factors[factor] = self._bypass(func, user)
        if torch.Tag.pointwise in func.tags:
            sizes = {t.numel() for t in tensors(result)}
            self.changed.derive(result, [r for r in bypassed if r.weight.numel() in sizes])

    def _bypass(self, func: Any, user: nn.Module | None) -> Bypass:
        return Bypass(str(func.overloadpacket), self._label(user), self._site(user))

    def _label(self, module: nn.Module | None) -> str:
        if module is None:
            return "(root)"
        return f"{self.running.name(module) or '(root)'} ({type(module).__name__})"

    def _site(self, user: nn.Module | None) -> str:
        """Return the innermost line that runs outside of torch and of this package.

        If there is none, it is the innermost in the file of the module ``user``.
        """
        inside = traceback.extract_stack()[self.outside :]
        frames = [f for f in inside if not f.filename.startswith((_PACKAGE, _TORCH))]
        if not frames and user is not None:
            file = getattr(sys.modules.get(type(user).__module__), "__file__", None)
            frames = [f for f in inside if f.filename == file]
        return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "in torch"


def _holds(module: nn.Module, region: Region) -> bool:
    held = [p for p in module._parameters.values() if p is not None]
    return any(storage(p) == storage(region.weight) and region.overlaps(p) for p in held)


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """Run compiled parts as written, as their operators would be hidden otherwise.

    torch has one stance for all threads: the first to come sets it, and the last to go restores it.
    """
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with _EAGER.lock:
        if not _EAGER.count:
            _EAGER.stance = torch.compiler.set_stance("force_eager")
        _EAGER.count += 1
    try:
        yield
    finally:
        with _EAGER.lock:
            _EAGER.count -= 1
            if not _EAGER.count:
                _EAGER.stance.__exit__(None, None, None)


class _Eager:
    """How many contexts of ``eager`` last, and the stance to restore."""

    def __init__(self) -> None:
        self.lock = ThreadLock()
        self.count = 0
        self.stance: Any = None


_EAGER = _Eager()
