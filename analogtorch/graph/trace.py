"""Tracing of a model: its matrices and operations in order, from one run.

The run is one of the digital model, on a copy of its modules that shares the weights. It computes
with stand-ins for the weights, whatever the model's size. If the model's code decides by values
that depend on weights, a second run computes with numbers.
"""

import contextlib
import copy
import traceback
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

from analogtorch.conversion.detached import copying, deep_copy
from analogtorch.conversion.digital_bits import watch_rounding
from analogtorch.conversion.example import Example, call, refused, runner
from analogtorch.conversion.fast_path import restore
from analogtorch.conversion.int8 import quantise_inputs
from analogtorch.conversion.kinds import (
    analog_layers,
    check_module,
    is_analog,
    matrices_of,
    reason,
    refuse_changed,
    refuse_distributed,
    refuse_programmed,
    refuse_scripted,
)
from analogtorch.conversion.patterns import names_of, units
from analogtorch.conversion.restored import same_random
from analogtorch.conversion.route import can_route, is_free, unroute
from analogtorch.conversion.running import Running
from analogtorch.conversion.watch import eager
from analogtorch.conversion.weights import tensors
from analogtorch.graph.parameters import NamedParameter, holders, named_parameters, once
from analogtorch.graph.recorder import Recorder
from analogtorch.graph.stand_in import StandIn
from analogtorch.graph.tracer import Tracer
from analogtorch.graph.types import Matrix, Operation
from analogtorch.graph.unreached import unreached
from analogtorch.nn import AnalogEmbedding
from analogtorch.nn.kinds import kind_of
from analogtorch.values import checks

ACCEPTED = "give an example that the model accepts: model(*example) must run"
"""What to do where a model refuses its example."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What a model computes, as ``trace`` returns it."""

    operations: tuple[Operation, ...]
    matrices: tuple[Matrix, ...]
    sources: dict[str, tuple[str, ...]]
    """The parameters that each matrix holds, under the names of the layer that applies it: two
    layers that share one have two matrices."""
    parameters: dict[str, int]
    """Number of weights of each parameter of the model."""
    analog: frozenset[str]
    """Parameters that ``convert`` made analog, or would make analog in a digital model, under the
    name in each such layer."""
    names: dict[str, tuple[str, ...]]
    """Further names of each matrix: those of all layers and Parameters that hold it, as ``convert``
    takes them."""
    bypassed: frozenset[str]
    """Matrices that a module applies without calling the layer, and otherwise than it would."""
    unreached: frozenset[str]
    """Matrices of analog layers that the run does not multiply by; they are the last ones."""
    of_complex: frozenset[str]
    """The operations of the kind ``mvm`` that compute with complex numbers."""
    rounding: dict[str, str]
    """The layer whose inputs each operation of the kind ``rounding`` rounds, by its name."""
    example: tuple[str, ...]
    """Shapes and types of the example's tensors."""


_AUTOGRAD = (torch.autograd.__file__, torch.autograd.functional.__file__)
"""Files of torch in which gradients are asked for."""


class ValuesNeeded(ValueError):
    """A model without values, on the meta device, does not run without them."""


@_disable_current_modes()  # within them, as that of fake tensors, there can be no stand-ins
def trace(model: nn.Module, example: Example, *, rounded: Collection[str] | None = None) -> Trace:
    """Trace ``model`` on ``example``.

    Args:
        model: a converted or digital model.
        example: a tensor, a tuple of arguments, or a dictionary of keyword arguments.
        rounded: names of the layers that round their inputs, as ``quantise_inputs`` takes them;
            None: those that do.

    Raises:
        TypeError: ``model`` or ``example`` is of another type.
        ValueError: the model is a programmed chip, has an analog layer whose weight is no plain
            Parameter, cannot be copied, or does not run on the example; the message names the
            module in which it failed. It is ``ValuesNeeded`` if that decides by values, which a
            model on the meta device does not have.
        RuntimeError: a weight of a recurrent layer or an attention is no plain Parameter since the
            conversion.
    """
    check_module("map_to_chip", model)
    refuse_programmed(model, "map_to_chip")
    refuse_changed(model, "map_to_chip", biases=False)
    refuse_distributed(model, "map_to_chip")
    refuse_scripted(model, "map_to_chip")
    run = _Run(model, example, rounded)
    try:
        return run.traced(real=False)
    except _Failed as failed:
        if run.is_meta:
            kind = ValuesNeeded if _needs_numbers(failed.error) else ValueError
            raise kind(run.explain(failed)) from failed.error
    try:  # its code may need numbers, which stand-ins do not have
        return run.traced(real=True)
    except _Failed as failed:
        raise ValueError(run.explain(failed)) from failed.error


class _Failed(Exception):
    """An error that the model's code raised in ``module``, which is called ``name``."""

    def __init__(self, module: nn.Module, name: str, error: Exception) -> None:
        super().__init__(str(error))
        self.module, self.name, self.error = module, name, error


class _Run:
    """A model and its input, which can run more than once."""

    def __init__(self, model: nn.Module, example: Example, rounded: Collection[str] | None) -> None:
        runner("map_to_chip", example)  # refuses others
        self.model, self.rounded = model, rounded
        self.example = dict(example) if isinstance(example, Mapping) else example
        given = [*model.parameters(), *model.buffers()]
        self.is_meta = any(t.is_meta for t in given)
        self.device = next((t.device for t in given if not t.is_meta), torch.device("cpu"))

    def traced(self, *, real: bool) -> Trace:
        """Return the trace of one run, with the weights or with stand-ins for them."""
        twin, known = _twin(self.model, real)
        example, inputs = _fresh(self.example, self.device)
        parameters = named_parameters(twin)
        first = once(parameters)
        names = {id(entry.parameter): name for name, entry in first.items()}
        read = [m.weight for _, m in analog_layers(self.model) if isinstance(m, AnalogEmbedding)]
        analog = frozenset(_analog(self.model))
        embeddings = frozenset(names[id(known[id(p)])] for p in read)
        modules = dict(twin.named_modules())
        free = {name for name, module in modules.items() if is_free(module)}

        def routed(user: str, layer: str, name: str, call: Mapping[str, Any]) -> bool:
            return user in free and can_route(modules[user], modules[layer], name, call)

        if self.rounded is not None:
            quantise_inputs(twin, self.rounded)
        rounding, running = watch_rounding(twin), Running(twin)
        shared = holders(twin, parameters)
        recorder = Recorder(first, shared, analog, embeddings, routed, rounding)
        for layer in {each.modules[-1] for each in parameters if each.name in analog}:
            running.direct(twin.get_submodule(layer))
        recorder.give(inputs)
        self._watched(twin, example, running, recorder)
        reached = {source for of_matrix in recorder.sources.values() for source in of_matrix}
        left = dict(unreached(twin, parameters, analog, reached))
        for parameter, matrix in left.items():
            recorder.place(parameter, matrix)
        return Trace(
            operations=tuple(recorder.operations),
            matrices=tuple(recorder.matrices.values()),
            sources=recorder.sources,
            parameters={name: entry.parameter.numel() for name, entry in first.items()},
            analog=analog,
            names=_further_names(recorder, twin, parameters, analog),
            bypassed=frozenset(recorder.bypassed),
            unreached=frozenset(matrix.name for matrix in left.values()),
            of_complex=frozenset(recorder.of_complex),
            rounding=recorder.rounding,
            example=_shapes(self.example),
        )

    def _watched(self, twin: nn.Module, example: Any, running: Running, recorder: Recorder) -> None:
        tracer = Tracer(running, recorder)
        with same_random(), warnings.catch_warnings(), _no_fused_attention(), eager():
            warnings.simplefilter("ignore")  # of the model's own code
            twin.eval()
            try:
                # inference mode: operators arrive whole, such as linear and lstm, before autograd
                # takes them apart
                with torch.inference_mode(), running.hooked(), tracer:
                    returned = call(twin, example)
            except Exception as error:  # the model's code may raise anything
                if tracer.recording:
                    raise
                module = running.raised(error) or twin
                raise _Failed(module, running.name(module), error) from error
        recorder.take(_in_fields(returned))

    def explain(self, failed: _Failed) -> str:
        """Return the error, where it happened and what to do."""
        kind = type(failed.module).__name__
        where = f"module {failed.name!r} ({kind})" if failed.name else kind
        text = str(failed.error)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        what = lines[0] if lines else type(failed.error).__name__
        remedy = refused(self.example, failed.error) or ACCEPTED
        if _of_autograd(failed.error):
            remedy = (
                "its forward computes gradients by torch.autograd, which cannot be traced; map the "
                "network whose gradients they are, such as map_to_chip(model.network, example)"
            )
        if self.is_meta and _needs_numbers(failed.error):
            remedy = (
                "its forward decides by the values of a tensor, which weights on the meta device "
                "do not have: give the model its weights (build it outside of "
                "torch.device('meta')), or write it with torch.where"
            )
        given = ", ".join(_shapes(self.example)) or f"no tensor, {checks.shown(self.example)}"
        error = type(failed.error).__name__
        return (
            f"map_to_chip: could not trace {where} with an example of {given}: {remedy}. "
            f"({error}: {what})"
        )


def _twin(model: nn.Module, real: bool) -> tuple[nn.Module, dict[int, Any]]:
    """Return the digital model on a copy of the modules, and its weights by ``id`` of the original.

    Raises:
        ValueError: a module cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for group in (module._parameters, module._buffers, vars(module)):
            for t in group.values():
                if isinstance(t, Tensor) and id(t) not in memo:
                    memo[id(t)] = _held(t, group is module._parameters, real)
    known = dict(memo)
    layers: list[Any] = [m for m in model.modules() if is_analog(m)]
    digital = [layer.to_digital() for layer in layers]
    with copying(model):
        for layer, plain in zip(
            reversed(layers), reversed(digital), strict=True
        ):  # inner ones first
            memo[id(layer)] = copy.deepcopy(plain, memo)
        twin = copy.deepcopy(model, memo)
    for module in twin.modules():
        unroute(module)
    return restore(twin), known


def _held(t: Tensor, is_weight: bool, real: bool) -> Tensor:
    """Return what the copy of a model holds for ``t``.

    It is a stand-in, the weight itself, or a copy of a tensor that the model may write into.
    """
    if not real and (is_weight or t.is_meta):
        return StandIn.of(t)
    return t if is_weight else t.detach().clone()


def _analog(model: nn.Module) -> list[str]:
    """Return the weights that ``convert`` made analog, or would make analog in a digital model."""
    if made := [layer.parameter_name(name) for name, layer in analog_layers(model)]:
        return made
    return [
        f"{name}.{weight}".lstrip(".")
        for name, module in model.named_modules()
        if reason(model, name, module) is None
        for weight in kind_of(module).weight_names(module)
    ]


def _further_names(
    recorder: Recorder, twin: nn.Module, parameters: list[NamedParameter], analog: frozenset[str]
) -> dict[str, tuple[str, ...]]:
    """Return the names of layers and Parameters that hold each matrix or its whole, by matrix.

    Those of another layer that applies the same Parameter are not among them.
    """
    owners = {name: m for name, m in twin.named_modules() if matrices_of(m) is not None}
    all_names = names_of(twin)
    first = {name: names[0] for names in all_names.values() for name in names}
    names: dict[str, list[str]] = {}
    same: dict[int, list[str]] = {}
    for entry in parameters:
        module = entry.modules[-1]
        own = f"{first[module]}{entry.name.removeprefix(module)}".lstrip(".")
        names.setdefault(own, []).append(entry.layer)
        same.setdefault(id(entry.parameter), []).append(own)
    for unit in units(all_names, owners).values():
        # a matrix that was pruned or parametrized is computed from Parameters of other names
        if (own := unit.unit_names[len(unit.owner_names)]) in names:
            names[own].extend(unit.names)
    apart = analog.union(*recorder.sources.values())
    found = {}
    for matrix in recorder.matrices.values():
        if matrix.form == 0:  # other forms have the same weights, such as their transpose
            found[matrix.name] = tuple(
                dict.fromkeys(
                    name
                    for source in recorder.sources[matrix.name]
                    # peft computes some Parameters of an attention anew as it runs
                    for own in (source, *same.get(id(twin.get_parameter(source)), ()))
                    if own == source or own not in apart
                    for name in names.get(own, ())
                )
            )
    return found


def _fresh(example: Any, device: torch.device) -> tuple[Any, list[Tensor]]:
    """Return a copy of the example on ``device``, and the tensors in it.

    The model may write into it.
    """
    memo: dict[int, Any] = {}
    for t in tensors(example):
        if t.is_meta:
            memo[id(t)] = torch.zeros_like(t, device=device)
        else:
            memo[id(t)] = t.detach().to(device, copy=True)
    return deep_copy(example, memo), [t for t in memo.values() if isinstance(t, Tensor)]


def _in_fields(returned: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists, dictionaries and dataclasses."""
    found: list[Tensor] = []
    for leaf in tree_leaves(returned):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            found += _in_fields([getattr(leaf, field.name) for field in fields(leaf)])
    return found


def _shapes(example: Any) -> tuple[str, ...]:
    return tuple(
        f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors(example)
    )


@contextlib.contextmanager
def _no_fused_attention() -> Iterator[None]:
    """Disable the fused operator for an encoder layer, which hides its products."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _of_autograd(error: Exception) -> bool:
    """Return whether an error was raised where a gradient is computed."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code.co_filename in _AUTOGRAD for frame, _ in frames)


def _needs_numbers(error: Exception) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return any(sign in text for sign in ("meta", "item()", "notimplemented", "storage", "subclass"))
