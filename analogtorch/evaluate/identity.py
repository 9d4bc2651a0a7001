"""What an experiment is of: digests of models.

Folders of results keep it, so that those of another experiment are never taken for its own.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from analogtorch.calibration.norm_statistics import remembered
from analogtorch.chips import to_dict
from analogtorch.conversion import analog_layers
from analogtorch.evaluate.batches import batches_digest, without_address
from analogtorch.evaluate.described import described, each_described, is_named, is_plain, name_of

_HOLDING = (Tensor, np.ndarray, np.generic, Mapping, list, tuple)
"""Types of attributes that may hold numbers of a model."""
_OWN_AFFAIRS = frozenset({"all_tied_weights_keys", "hf_device_map", "warnings_issued"})
"""What transformers keeps of weights with two names, of devices and of its warnings."""


def model_digest(caller: str, model: nn.Module) -> str:
    """Return the SHA-256 of the state of a model and of the chip of each analog layer.

    ``structure_digest`` covers how the model computes with them.

    Raises:
        ValueError: a tensor is on the meta device.
        TypeError: a part of a chip has no form in a file.
    """
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(f"{name}\n".encode())
        if isinstance(value, Tensor):
            _add(found, caller, name, value)
        else:
            found.update(repr(value).encode())
    known: dict[int, str] = {}
    for name, layer in analog_layers(model):
        if id(layer.chip) not in known:
            known[id(layer.chip)] = json.dumps(_computing(to_dict(layer.chip)))
        found.update(f"{name}\n{layer.layer_name}\n{known[id(layer.chip)]}\n".encode())
    return found.hexdigest()


def structure_digest(caller: str, model: nn.Module) -> str:
    """Return the SHA-256 of the structure of a model: what decides its outputs beside its state.

    It covers the class of each module, the options that the module prints (``extra_repr``), such as
    the stride of a convolution, buffers that are not in the state, what ``reestimate_batch_norm``
    remembers, and where a module without a state is used again. ``options_digest`` covers options
    that it does not print. Neither covers the code of a user's class.

    Raises:
        ValueError: a buffer is on the meta device.
    """
    found, state = hashlib.sha256(), model.state_dict().keys()
    analog = {layer for _, layer in analog_layers(model)}
    for name, module in model.named_modules():
        # ranges, which an analog layer shows, are part of its state
        shown = "" if module in analog else without_address(module.extra_repr())
        found.update(f"{name}\n{type(module).__qualname__}\n{shown}\n".encode())
    for name, buffer in model._named_members(_held):
        if name not in state and name.rpartition(".")[2] != "vectors_read":  # a count
            found.update(f"{name}\n".encode())
            _add(found, caller, name, buffer)
    for name, first in _used_again(model):
        found.update(f"{name} is {first}\n".encode())
    return found.hexdigest()


def _used_again(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield each further name of a module without a state, and the first one.

    Of a module with a state, ``state_dict`` has both, and so those of the modules inside it.
    """
    first = {module: name for name, module in model.named_modules()}
    for name, module in model.named_modules(remove_duplicate=False):
        parent = name.rpartition(".")[0]
        inside = bool(name) and first[model.get_submodule(parent)] != parent
        if name != first[module] and not inside and not module.state_dict():
            yield name, first[module]


def _held(module: nn.Module) -> list[tuple[str, Tensor | None]]:
    """Return the buffers of a module and what is remembered of it, by name.

    It is the order of when that lay in buffers, so that folders of then go on.
    """
    kept = remembered(module)  # first, as it takes them out of the buffers of then
    return [*module._buffers.items(), *kept]


def options_digest(model: nn.Module) -> str:
    """Return the SHA-256 of the options that modules keep as attributes, and of forward hooks.

    It covers public attributes that are plain, such as the number of heads of an attention, frozen
    sets and dataclasses of plain values, and functions and hooks: by name, and of lambdas and local
    ones the code.
    """
    found, analog = hashlib.sha256(), {layer for _, layer in analog_layers(model)}
    for name, module in model.named_modules():
        hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
        lasting = [hook for hook in hooks if not getattr(hook, "gone_after_one", False)]
        code: list[Any] = []
        names = [_function(hook, code) for hook in lasting]
        options = _attributes(module, module in analog, code)
        found.update(f"{name}\n{options}\n{names}\n".encode())
        if code:  # digests of models without stay those of earlier versions
            found.update(json.dumps(code).encode())
    return found.hexdigest()


def _function(function: Any, code: list[Any]) -> Any:
    """Return a function by its name; that of a lambda or a local one, and its code in ``code``.

    Objects, whose attributes may change as they are called, are known by their class alone.
    """
    if isinstance(function, functools.partial):
        return described(function, code)
    found = name_of(function)
    if isinstance(function, types.FunctionType) and not is_named(function):
        described(function, code)
    return found


def _attributes(module: nn.Module, analog: bool, code: list[Any]) -> dict[str, Any]:
    """Return the options of a module among its attributes: the public ones that cannot change.

    Of an analog layer, some of whose attributes change as it runs, they are those that torch lists.
    The code of functions without a name of their own is appended to ``code``.
    """
    found: dict[str, Any] = {}
    listed = getattr(module, "__constants__", ()) if analog else vars(module).keys() - {"training"}
    unchanged = getattr(module, "_defaults", {}) if is_counting(module) else {}
    for name in sorted(listed):
        value: Any = unchanged.get(name, getattr(module, name, None))
        if name.startswith("_"):
            continue
        if isinstance(value, types.FunctionType | types.BuiltinFunctionType | functools.partial):
            found[name] = _function(value, code)
        elif isinstance(value, frozenset):
            found[name] = sorted(map(repr, value)) if all(map(is_plain, value)) else None
        elif _is_frozen(value):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            found[name] = {"class": name_of(type(value)), **each_described(fields, code)}
        elif is_plain(value):
            found[name] = tuple(value) if isinstance(value, list) else value
    return found


def _is_frozen(value: Any) -> bool:
    """Return whether a value is a dataclass that cannot change."""
    return getattr(getattr(type(value), "__dataclass_params__", None), "frozen", False) is True


def attribute_digests(model: nn.Module) -> dict[str, str]:
    """Return digests of values that modules keep as attributes and ``options_digest`` leaves.

    They are of public attributes that are tensors, arrays, and lists and mappings of such and of
    plain values, by name. Left out are results of a pass with gradients, empty containers, metrics,
    some of whose attributes change as they run, and what the library of a model keeps of its own
    affairs. Of analog layers it is the DAC range, which no entry of a ``state_dict`` has.
    """
    found, analog = dict[str, str](), {layer for _, layer in analog_layers(model)}
    for name, module in model.named_modules():
        if module in analog and not (module.calibrated and module.input_ranges is None):
            text = repr(module.input_ranges)
            found[f"{name}.input_range".lstrip(".")] = (
                text if len(text) < 32 else short_digest(text)
            )
        for of, value in () if module in analog or is_counting(module) else public(module):
            if isinstance(value, _HOLDING) and not is_plain(value) and of not in _OWN_AFFAIRS:
                # it holds an object, or refuses to be read, as a setting that is missing
                with contextlib.suppress(Exception):
                    if parts := dict(_parts(value)):
                        found[f"{name}.{of}".lstrip(".")] = short_digest(batches_digest([parts]))
    return found


def short_digest(text: str) -> str:
    """Return the first 16 digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _parts(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what containers hold, in an order that does not depend on that of a set."""
    if isinstance(value, Mapping) and all(map(is_plain, value)):
        for key in sorted(value, key=repr):
            yield from _parts(value[key], f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _parts(part, f"{where}[{number}]")
    elif not isinstance(value, Tensor) or value.grad_fn is None:
        yield where, value


def is_counting(module: nn.Module) -> bool:
    """Return whether a module is a metric of torchmetrics: what it counts decides no output."""
    return any(of.__module__.partition(".")[0] == "torchmetrics" for of in type(module).__mro__)


def public(module: nn.Module) -> list[tuple[str, Any]]:
    """Return the public attributes of a module that it does not register, by name."""
    return sorted((n, v) for n, v in vars(module).items() if n[0] != "_" and n != "training")


def _computing(data: Any) -> Any:
    """Return the description of a chip without sources and area, which no number depends on."""
    if isinstance(data, dict):
        return {k: _computing(v) for k, v in data.items() if k not in ("sources", "area")}
    return data


def _add(found: Any, caller: str, name: str, tensor: Tensor) -> None:
    """Add the bytes of a tensor to a hash."""
    if tensor.is_meta:
        raise ValueError(f"{caller}: {name!r} is on the meta device; load weights first")
    if hasattr(tensor, "__tensor_flatten__"):  # of integers and scales, as torchao has them
        parts, rules = tensor.__tensor_flatten__()
        found.update(f"{type(tensor).__qualname__} {without_address(repr(rules))}\n".encode())
        for part in parts:
            _add(found, caller, f"{name}.{part}", getattr(tensor, part))
        return
    flat = tensor.detach().cpu().contiguous().flatten()
    found.update(flat.view(torch.uint8).numpy())
