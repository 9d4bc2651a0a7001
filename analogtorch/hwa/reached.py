"""Which layers the batches of ``adapt`` reach, before chips are measured."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from analogtorch.calibration.inputs import may_be_silent
from analogtorch.calibration.passes import Forward, check_ran, exactly, one_pass
from analogtorch.conversion.guard import listed, route_bypasses
from analogtorch.conversion.unread import quiet
from analogtorch.conversion.watch import Bypass, watch
from analogtorch.hwa.adaptation import calibrating
from analogtorch.hwa.twin import Twin


def reach(
    twin: Twin,
    fitted: Sequence[Any],
    options: Mapping[str, Any] | None,
    digital: str,
) -> None:
    """Route calls of layers by their weights, and refuse layers that never run.

    Args:
        twin: the converted model, and how it is run.
        fitted: the batches to calibrate and to train on; the first shows what can be routed.
        options: options of ``calibrate``, which refuses such layers, but only after the chips have
            been measured; None: it is not called, so that nothing is refused.
        digital: how the caller of ``adapt`` leaves a layer digital, for messages.

    Raises:
        ValueError: a layer never runs, and ``options`` do not allow it; or the model returns
            nothing to compare.
    """
    with quiet():  # layers used by their weight are digital until calibrate routes them
        first = functools.partial(twin.outputs, batch=fitted[0])
        seen = route_bypasses(twin.student, first, watch(twin.student, first))
    layers = {name: layer for name, layer in seen.layers.items() if layer.takes_range}
    if options is None or all(seen.runs[name] for name in layers):
        return
    ran = _ran(twin, calibrating(fitted), options.get("forward", twin.forward))
    allowed = may_be_silent(layers, ran, seen.bypasses, bool(options.get("allow_unused")))
    silent = layers.keys() - ran - allowed
    bypassed = {name: bypass for name, bypass in seen.bypasses.items() if name in silent}
    check_ran("adapt", layers, ran | allowed, remedy=_remedy(digital, silent, bypassed))


def _ran(twin: Twin, batches: Sequence[Any], forward: Forward | None) -> set[str]:
    """Return the layers that run on some of the batches."""
    found: set[str] = set()
    for batch in batches:
        number = twin.numbers.get(id(batch))
        run = functools.partial(one_pass, "adapt", batch=batch, forward=forward, number=number)
        with exactly(twin.student):
            runs = watch(twin.student, run).runs
        found.update(name for name, count in runs.items() if count)
        if len(found) == len(runs):
            break
    return found


def _remedy(digital: str, silent: set[str], bypassed: Mapping[str, Bypass]) -> str:
    other = "call the layers"
    if silent != bypassed.keys():
        other = 'pass calibration={"allow_unused": True} for those that run in training only'
    where = f". The model uses weights here:{listed(bypassed)}" if bypassed else ""
    return f"{digital}, or {other}{where}"
