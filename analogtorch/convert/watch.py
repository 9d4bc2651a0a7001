"""Watch one run of a model: which analog layers run, and who computes with their weights beside them."""

import contextlib
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from analogtorch.convert.kinds import analog_layers
from analogtorch.nn import AnalogLayer

_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
_SHAPE_ONLY = frozenset(
    {
        *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like"),
        *("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"),
    }
)
"""Operators that take a tensor for its shape and type and read none of its values."""
_HERE = f"{Path(__file__).parent}{os.sep}"


@dataclass(frozen=True)
class Bypass:
    """An operator that computed with the weight of a layer outside of that layer."""

    operator: str
    user: str
    """The innermost module that was running."""
    site: str
    """File and line."""
    module: nn.Module | None = field(compare=False, repr=False)
    """That module itself."""

    def __str__(self) -> str:
        return f"{self.operator} in {self.user}, {self.site}"


def watch(model: nn.Module, run: Callable[[nn.Module], Any]) -> "Watch":
    """Run the model once, in evaluation mode and without gradients, and change nothing of it."""
    seen = Watch(model, dict(analog_layers(model)))
    with _unchanged(model), seen.counting(), eager(), torch.no_grad():
        model.eval()
        with seen:
            run(model)
    return seen


@dataclass(frozen=True)
class _Region:
    """The bytes of its storage that a weight covers, and the layers that hold it."""

    weight: Tensor
    names: list[str]

    def meets(self, other: Tensor) -> bool:
        (start, stop), (first, last) = _bytes(self.weight), _bytes(other)
        return start < last and first < stop


class Watch(TorchDispatchMode):
    """Sees every operator of a run, and which of them read a weight outside of its layer.

    Not a TorchFunctionMode: that turns torch's own fast paths off, and would miss what happens without it.
    """

    def __init__(self, model: nn.Module, layers: dict[str, AnalogLayer]) -> None:
        super().__init__()
        self.layers = layers
        self.modules = {id(m): (name, m) for name, m in model.named_modules()}
        self.runs = dict.fromkeys(layers, 0)
        self.running: list[str] = []
        self.bypasses: dict[str, Bypass] = {}
        self.digital_uses: dict[str, set[str]] = {name: set() for name in layers}
        self.regions: dict[int, list[_Region]] = {}
        self.derived: dict[int, tuple[Tensor, list[_Region]]] = {}  # the tensor keeps its storage's number taken
        for name, layer in layers.items():
            if isinstance(weight := layer._parameters.get("weight"), Tensor):
                self._add(name, weight)

    def _add(self, name: str, weight: Tensor) -> None:
        known = self.regions.setdefault(storage(weight), [])
        for region in known:
            if _bytes(region.weight) == _bytes(weight):
                region.names.append(name)
                return
        known.append(_Region(weight, [name]))

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count the runs of ``analog_forward``, which is also what a direct call of ``forward`` ends in."""
        before = {name: vars(layer).get("analog_forward") for name, layer in self.layers.items()}
        try:
            for name, layer in self.layers.items():
                vars(layer)["analog_forward"] = self._counted(name, layer.analog_forward)
            yield
        finally:
            for name, layer in self.layers.items():
                vars(layer).pop("analog_forward", None)
                if before[name] is not None:
                    vars(layer)["analog_forward"] = before[name]

    def _counted(self, name: str, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def counted(*args: Any, **kwargs: Any) -> Tensor:
            self.running.append(name)
            try:
                result = forward(*args, **kwargs)
            finally:
                self.running.pop()
            self.runs[name] += 1
            return result

        return counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and func._schema.name.split("::")[-1] not in _SHAPE_ONLY:
            self._look(func, args, kwargs or {}, result)
        return result

    def _look(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        found = [self._regions(t) for t in _read(func, args, kwargs)]
        used = [r for regions in found for r in regions if not any(name in self.running for name in r.names)]
        if not used:
            return
        if any(not regions for regions in found) or self._added(func, args, kwargs):
            self._report(func, used)
            return
        for t in _tensors(result):  # made of weights alone: nothing is computed with them yet
            if storage(t) not in self.regions:
                known = self.derived.get(storage(t), (t, []))[1]
                self.derived[storage(t)] = (t, known + [r for r in used if r not in known])

    def _added(self, func: Any, args: Any, kwargs: Any) -> bool:
        """Whether the operator adds what it reads to other data, as ``x.add_(weight)`` does."""
        return func._schema.name != "aten::copy_" and any(not self._regions(t) for t in _read(func, args, kwargs, True))

    def _regions(self, t: Tensor) -> list[_Region]:
        number = storage(t)
        if number in self.derived:
            return self.derived[number][1]
        return [region for region in self.regions.get(number, ()) if region.meets(t)]

    def _report(self, func: Any, used: list[_Region]) -> None:
        user, site = self._place(sys._getframe(1))
        label = "(root)" if user is None else self._label(user)
        for region in used:
            owner = user is not None and not isinstance(user, AnalogLayer) and _holds(user, region)
            for name in region.names:
                if owner:
                    self.digital_uses[name].add(label)
                else:
                    self.bypasses.setdefault(name, Bypass(str(func.overloadpacket), label, site, user))

    def _label(self, module: nn.Module) -> str:
        name = self.modules[id(module)][0]
        return f"{name or '(root)'} ({type(module).__name__})"

    def _place(self, frame: FrameType | None) -> tuple[nn.Module | None, str]:
        """The innermost running module of the model, and the innermost line outside of torch (else, the module's)."""
        user, site, inside = None, "", ""
        while frame is not None and frame.f_code is not watch.__code__:
            code = frame.f_code
            line = f"{code.co_filename}:{frame.f_lineno}"
            if not (site or code.co_filename.startswith(_HERE) or code.co_filename.startswith(_TORCH)):
                site = line
            if user is None and code.co_varnames[:1] == ("self",):
                module = frame.f_locals.get("self")
                if id(module) in self.modules:
                    user, inside = self.modules[id(module)][1], line
            frame = frame.f_back
        return user, site or inside or "in torch"


def _holds(module: nn.Module, region: _Region) -> bool:
    own = [p for p in module._parameters.values() if p is not None]
    return any(storage(p) == storage(region.weight) and region.meets(p) for p in own)


def _read(func: Any, args: Any, kwargs: Any, written: bool = False) -> list[Tensor]:
    """The tensors that an operator only reads, or else those that it writes: ``w.clamp_(-1, 1)`` takes none from w."""
    given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    writes = {a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write}
    return _tensors([value for name, value in given.items() if (name in writes) is written])


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def storage(t: Tensor) -> int:
    """A number that views of one storage share, on any device; the tensor's own where it has no storage."""
    try:
        return t.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return -id(t)


def _bytes(t: Tensor) -> tuple[int, int]:
    """First and past-the-last byte of its storage that a tensor may touch."""
    start = t.storage_offset()
    span = 0 if t.numel() == 0 else 1 + sum((n - 1) * step for n, step in zip(t.shape, t.stride(), strict=True))
    return int(start) * t.element_size(), int(start + span) * t.element_size()


def eager() -> contextlib.AbstractContextManager[Any]:
    """Compiled parts run as they are written, or their operators would not be seen."""
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    return torch.compiler.set_stance("force_eager")


@contextlib.contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Give modes, buffers and random states back as they were."""
    modes = {m: m.training for m in model.modules()}
    buffers = {m: {n: (b, _copied(b)) for n, b in m._buffers.items()} for m in model.modules()}
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for module, training in modes.items():
            module.training = training
        for module, before in buffers.items():
            module._buffers.clear()
            module._buffers.update({name: _restored(*pair) for name, pair in before.items()})


def _copied(buffer: Tensor | None) -> Tensor | None:
    return None if buffer is None or buffer.is_meta else buffer.detach().clone()


@torch.no_grad()
def _restored(buffer: Tensor | None, copied: Tensor | None) -> Tensor | None:
    if buffer is not None and copied is not None and not torch.equal(buffer, copied):
        with torch.inference_mode(buffer.is_inference()):
            buffer.copy_(copied)
    return buffer
