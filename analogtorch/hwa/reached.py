"""Which layers the batches of ``adapt`` reach, before chips are measured."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from analogtorch.calibration.inputs import may_be_silent
from analogtorch.calibration.passes import Forward, check_ran, exactly, one_pass
from analogtorch.conversion.detached import deep_copy
from analogtorch.conversion.guard import listed, route_bypasses
from analogtorch.conversion.kinds import analog_layers
from analogtorch.conversion.restored import evaluating, same_random
from analogtorch.conversion.unread import quiet
from analogtorch.conversion.watch import Bypass, Watch, watch
from analogtorch.hwa.adaptation import calibrating
from analogtorch.hwa.twin import Twin
from analogtorch.nn import Tap, tapped


def route_calls(twin: Twin, batch: Any) -> Watch:
    """Route calls of layers by their weights that a batch shows, and return its last run.

    Raises:
        ValueError: the model returns nothing to compare.
    """
    with quiet():  # layers used by their weight are digital until calibrate routes them
        first = functools.partial(twin.outputs, batch=batch)
        return route_bypasses(twin.student, first, watch(twin.student, first))


def refuse_silent(
    twin: Twin, seen: Watch, fitted: Sequence[Any], options: Mapping[str, Any], digital: str
) -> None:
    """Refuse layers that never run, before chips are measured; ``calibrate`` would do so after.

    Args:
        twin: the converted model, and how it is run.
        seen: what ``route_calls`` returned.
        fitted: the batches to calibrate and to train on.
        options: options of ``calibrate``.
        digital: how the caller of ``adapt`` leaves a layer digital, for messages.

    Raises:
        ValueError: a layer never runs, and ``options`` do not allow it.
    """
    layers = {name: layer for name, layer in seen.layers.items() if layer.takes_range}
    ran = {name for name in layers if seen.runs[name]}

    def refused() -> set[str]:
        unused = bool(options.get("allow_unused"))
        return layers.keys() - ran - may_be_silent(layers, ran, seen.bypasses, unused)

    silent = refused()
    if silent:  # by the first batch; others may reach them
        forward = options.get("forward", twin.forward)
        ran |= _reached(twin, calibrating(fitted), forward, silent)
        silent = refused()
    bypassed = {name: bypass for name, bypass in seen.bypasses.items() if name in silent}
    remedy = _remedy(digital, silent, bypassed)
    check_ran("adapt", layers, layers.keys() - silent, remedy=remedy)


def _reached(
    twin: Twin, batches: Sequence[Any], forward: Forward | None, silent: set[str]
) -> set[str]:
    """Return those of the layers that some of the batches reach."""
    model, found = deep_copy(twin.student), set[str]()  # a forward may change the model

    def tap(name: str) -> Tap:
        def reached(_: Tensor) -> None:
            found.add(name)

        return Tap(input=reached)

    taps = {layer: tap(name) for name, layer in analog_layers(model) if name in silent}
    with torch.no_grad(), same_random(), evaluating(model), exactly(model), tapped(taps):
        for batch in batches:
            one_pass("adapt", model, batch, forward, twin.numbers.get(id(batch)))
            if found == silent:
                break
    return found


def _remedy(digital: str, silent: set[str], bypassed: Mapping[str, Bypass]) -> str:
    other = "call the layers"
    if silent != bypassed.keys():
        other = 'pass calibration={"allow_unused": True} for those that run in training only'
    where = f". The model uses weights here:{listed(bypassed)}" if bypassed else ""
    return f"{digital}, or {other}{where}"
