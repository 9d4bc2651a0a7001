"""What a model computes, from one traced run without data: its matrices and operations, in order.

The model is traced by ``torch.export`` on fake tensors, as the digital model that it is or was: no weight is copied and
nothing is computed, whatever the model's size.
"""

import contextlib
import copy
import functools
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.nn.utils.rnn import PackedSequence

from analogtorch.convert import analog_layers, reason, to_digital
from analogtorch.mapping.sequence import whole_sequences
from analogtorch.mapping.types import Matrix, Operation
from analogtorch.mapping.walk import Value, Walk
from analogtorch.mapping.weights import Constant, parameter
from analogtorch.nn import AnalogEmbedding

_LOUD = ("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes")
Example = Tensor | tuple[Any, ...] | Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What ``trace`` returns."""

    operations: tuple[Operation, ...]
    matrices: tuple[Matrix, ...]
    sources: dict[str, tuple[str, ...]]
    """Parameters that each matrix holds."""
    parameters: dict[str, int]
    """Weights of each parameter of the model."""
    left_digital: frozenset[str]
    """Parameters of a converted model that ``convert`` was told to leave digital."""
    example: tuple[str, ...]
    """Shapes and types of the example's tensors."""


def trace(model: nn.Module, example: Example) -> Trace:
    """Trace ``model`` on ``example`` (a tensor, a tuple of arguments, or a dictionary of keyword arguments).

    Raises:
        TypeError: ``model`` or ``example`` is of another type.
        ValueError: the model cannot be traced; names the module in which it failed.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"map_to_chip: model must be a torch.nn.Module, got {type(model).__name__}")
    args, kwargs = _arguments(model, example)
    left = _left_digital(model)
    view = to_digital(_shared(model)).eval()
    program = _export(view, args, kwargs)
    names = {id(p): name for name, p in reversed(list(view.named_parameters(remove_duplicate=False)))}
    known = dict(view.named_parameters(remove_duplicate=False))
    state = {name: parameter(name, p) for name, p in view.named_parameters()}
    inputs = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(Value())
        elif spec.kind is InputKind.PARAMETER and spec.target is not None:
            inputs.append(Value(constant=state[names[id(known[spec.target])]]))
        else:
            inputs.append(Value(constant=Constant(None)))
    read = frozenset(names[id(m.weight)] for _, m in analog_layers(model) if isinstance(m, AnalogEmbedding))
    walk = Walk(parameters=state, embeddings=read)
    walk.run(program.graph_module, inputs)
    return Trace(
        operations=tuple(walk.operations),
        matrices=tuple(walk.matrices.values()),
        sources=walk.sources,
        parameters={name: p.numel() for name, p in view.named_parameters()},
        left_digital=left,
        example=_shapes(args, kwargs),
    )


def _shapes(args: Any, kwargs: Any) -> tuple[str, ...]:
    return tuple(
        f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}"
        for t in torch.utils._pytree.tree_leaves((args, kwargs))
        if isinstance(t, Tensor)
    )


def _arguments(model: nn.Module, example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Tensor):
        args: tuple[Any, ...] = (example,)
        kwargs: dict[str, Any] = {}
    elif isinstance(example, tuple):
        args, kwargs = example, {}
    elif isinstance(example, Mapping):
        args, kwargs = (), dict(example)
    else:
        raise TypeError(
            "map_to_chip: example must be the model's input: a tensor such as torch.zeros(1, 3, 224, 224), a tuple of "
            f"arguments or a dictionary of keyword arguments; got {type(example).__name__}"
        )
    first = next(iter(model.parameters()), None)
    if first is None:
        return args, kwargs
    device = first.device
    return torch.utils._pytree.tree_map_only(
        Tensor, lambda t: torch.empty_like(t, device=device) if t.is_meta else t.to(device), (args, kwargs)
    )


def _left_digital(model: nn.Module) -> frozenset[str]:
    """Parameters of layers that could be analog, in a model that has analog layers, but are not."""
    if next(analog_layers(model), None) is None:
        return frozenset()
    left = [
        p
        for name, module in model.named_modules()
        if next(analog_layers(module), None) is None and reason(model, name, module) is None
        for p in module.parameters(recurse=False)
    ]
    ids = {id(p) for p in left}
    return frozenset(name for name, p in model.named_parameters() if id(p) in ids)


def _shared(model: nn.Module) -> nn.Module:
    """A copy of the modules that shares every tensor with ``model``."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers, vars(module)):
            memo |= {id(t): t for t in tensors.values() if isinstance(t, Tensor)}
    return copy.deepcopy(model, memo)


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.export.ExportedProgram:
    entered: list[str] = []
    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(functools.partial(_enter, entered, name)))
        hooks.append(module.register_forward_hook(lambda m, a, o: entered.__delitem__(-1)))
    try:
        with warnings.catch_warnings(), _quiet(), _no_fused_attention(), whole_sequences(), torch.enable_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(model, args, kwargs, strict=False)
    except Exception as error:  # whatever the model's own code raises, told with its place
        raise ValueError(_explain(model, entered, error, args, kwargs)) from error
    finally:
        for handle in hooks:
            handle.remove()


class _Packed(Exception):
    """A module was given a packed sequence."""


def _enter(entered: list[str], name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
    entered.append(name)
    if any(isinstance(a, PackedSequence) for a in args):
        raise _Packed("the number of its vectors depends on the lengths")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch writes to stderr where it cannot trace: the error says it. Other text comes after."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with contextlib.redirect_stderr(io.StringIO()) as written:
            yield
        sys.stderr.write(written.getvalue())
    finally:
        for logger, was in zip(loggers, before, strict=True):
            logger.disabled = was


@contextlib.contextmanager
def _no_fused_attention() -> Iterator[None]:
    """Without the one fused operator for a whole encoder layer, which hides its products."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _explain(model: nn.Module, entered: list[str], error: Exception, args: Any, kwargs: Any) -> str:
    name = entered[-1] if entered else ""
    module = model.get_submodule(name)
    where = f"module {name!r} ({type(module).__name__})" if name else type(module).__name__
    what = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if isinstance(error, _Packed):
        remedy = (
            "it is given a packed sequence, whose lengths a mapping cannot know: map the model without "
            "pack_padded_sequence, every sequence at its full length"
        )
    elif _depends_on_data(error):
        remedy = (
            "its forward decides by the values of a tensor, which a mapping cannot know: write it with torch.where or "
            "torch.cond, pass the decision as a Python argument, or map the parts around it one by one"
        )
    else:
        remedy = "give an example that the model accepts: model(*example) must run"
    given = ", ".join(_shapes(args, kwargs)) or "no tensor"
    return (
        f"map_to_chip: could not trace {where} with an example of {given}: {remedy}. ({type(error).__name__}: {what})"
    )


def _depends_on_data(error: BaseException | None) -> bool:
    signs = ("datadependent", "data-dependent", "guardondatadependent", "unbacked", "dynamic control flow", ".item()")
    while error is not None:
        text = f"{type(error).__name__} {error}".lower()
        if any(sign in text for sign in signs):
            return True
        error = error.__cause__
    return False
