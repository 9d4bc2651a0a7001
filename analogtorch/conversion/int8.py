"""Quantisation to int8 of the layers that stay digital, computed with rounded floats.

It is what an integer unit computes, up to the rounding of sums: weights symmetric with one scale
per output, inputs symmetric with a scale of their own for each vector (for each sample of a
convolution), both of 8 bits. Sums, biases and all that multiplies no weight stay floats.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.conversion.digital_bits import keep_inputs_of, round_inputs_of, rounded
from analogtorch.conversion.example import Example, runner
from analogtorch.conversion.fast_path import attention_of, restore, switch_off
from analogtorch.conversion.kinds import (
    analog_layers,
    check_module,
    is_analog,
    left_digital,
    matrices_of,
    reason,
    refuse_lazy,
    refuse_programmed,
    refuse_scripted,
)
from analogtorch.conversion.restored import unchanged
from analogtorch.conversion.route import Router, is_free, name_in, route
from analogtorch.conversion.running import Running
from analogtorch.conversion.unread import quiet
from analogtorch.conversion.watch import eager
from analogtorch.nn.kinds import kind_of


@torch.no_grad()
def quantise_digital(model: nn.Module, *, example: Example | None = None) -> nn.Module:
    """Quantise the layers that ``convert`` could make analog and left digital to int8, in place.

    Their weights are rounded once, with one scale per output; their inputs are rounded in each
    call, with one scale per vector, or per sample of a convolution. Neither needs data. States of a
    recurrent layer and masks of attention stay floats, and so do the inputs of the ``out_proj`` of
    an attention and those of a module with analog matrices beside digital ones. Weights that an
    analog layer shares stay as they are, and so do embeddings, unless a digital layer shares their
    weight. Call it after ``convert`` and before ``calibrate``. ``at.save`` keeps which layers are
    quantised. Gradients pass the rounding of inputs straight through; training moves weights off
    the levels of int8, so call it again after it.

    A layer rounds its inputs where it is called. Where the model multiplies by its weight instead,
    ``F.linear(x, self.qkv.weight)``, they stay floats, unless an ``example`` shows the call. Then
    the module that makes it rounds them from then on, if the layer is inside that module and the
    call is one of ``F.linear`` or ``F.conv1d`` to ``3d``; ``at.save`` keeps that too.

    Args:
        model: a converted or a digital model. Its digital weights change; nothing restores them.
        example: the model's input (a tensor, a tuple of arguments or a dictionary of keyword
            arguments), on which the model runs once. None: inputs of layers that the model
            multiplies by their weights stay floats.

    Returns:
        The model.

    Raises:
        TypeError: ``model`` is no module, or ``example`` is of another type.
        ValueError: the model is a programmed chip, has a lazy layer without weights,
            or is scripted or traced.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 2))
        >>> model = at.quantise_digital(at.convert(model, at.chips.hermes64(), exclude="1"))
    """
    check_module("quantise_digital", model)
    refuse_programmed(model, "quantise_digital")
    refuse_lazy(model, "quantise_digital")
    refuse_scripted(model, "quantise_digital")
    run = None if example is None else runner("quantise_digital", example)
    shared = {id(layer.weight) for _, layer in analog_layers(model)}
    chosen = [
        (name, module)
        for name, module in model.named_modules()
        if not is_analog(module) and reason(model, name, module) is None
    ]
    rounding = [module for name, module in chosen if attention_of(model, name) is None]
    calls = {} if run is None else _calls_by_weight(model, rounding, run)
    for _, module in chosen:
        for weight in kind_of(module).weight_names(module):
            p = module._parameters[weight]
            if isinstance(p, Tensor) and id(p) not in shared:
                _round_weight(*_by_output(module, p))
    for module in rounding:
        round_inputs_of(module)
    for _, weight in left_digital(model):
        if id(weight) not in shared:
            _round_weight(weight, (0,))
    for user, names in calls.items():
        route(user, sorted(names))
    return switch_off(model)


def quantise_inputs(model: nn.Module, names: Collection[str]) -> None:
    """Let the layers with these names round their inputs, and no others.

    Raises:
        AttributeError: the model has no module of such a name.
    """
    chosen = {model.get_submodule(name) for name in names}
    for module in model.modules():
        if module not in chosen:
            keep_inputs_of(module)
    for module in chosen:
        round_inputs_of(module)
    restore(switch_off(model))


def _calls_by_weight(
    model: nn.Module, layers: Iterable[nn.Module], run: Callable[[nn.Module], Any]
) -> dict[nn.Module, set[str]]:
    """Return the layers whose weights a run multiplies by without calling them.

    They are by the innermost module that does so, and called as in that module.
    """
    running = Running(model)
    calls = _Calls([m for m in layers if m._parameters.get("weight") is not None], running)
    with unchanged(model), quiet(), eager(), running.hooked(), calls:
        run(model)
    return calls.found


class _Calls(Router):
    """Finds calls with the weight of one of the layers that are not made by the layer itself."""

    def __init__(self, layers: list[nn.Module], running: Running) -> None:
        super().__init__(lambda: layers)
        self.running = running
        self.found: dict[nn.Module, set[str]] = {}

    def product(self, layer: nn.Module, func: Any, call: dict[str, Any]) -> None:
        """Remember the call, which is computed as it is."""
        user = self.running.innermost
        # a layer that shares the weight rounds its inputs itself
        if user is None or any(p is call["weight"] for p in user._parameters.values()):
            return
        if is_free(user) and (name := name_in(user, layer)):
            self.found.setdefault(user, set()).add(name)


def _round_weight(weight: Tensor, outputs: tuple[int, ...]) -> None:
    weight.copy_(rounded(weight, tuple(d for d in range(weight.dim()) if d not in outputs)))


def _by_output(module: nn.Module, weight: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return a view of the weight, and the dimensions that count its outputs."""
    if matrices_of(module) is not None:
        return weight, (0,)
    if getattr(module, "transposed", False):  # (inputs, outputs of a group, ...)
        return weight.unflatten(0, (int(module.groups), -1)), (0, 2)  # type: ignore[arg-type]
    return weight, (1,) if kind_of(module).digital.__name__ == "Conv1D" else (0,)
