"""The magnitudes of the inputs of each layer."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from analogtorch.calibration.histogram import Histogram
from analogtorch.calibration.passes import (
    EXCLUDE,
    Forward,
    check_finite,
    check_ran,
    evaluating,
    few_threads,
    run,
)
from analogtorch.conversion.guard import route_bypasses
from analogtorch.conversion.unread import forget_unread, quiet
from analogtorch.nn import AnalogLayer, Tap, tapped
from analogtorch.ops import Plan
from analogtorch.ops.blocks import seen_by
from analogtorch.ops.operands import Operands


@dataclass
class Seen:
    """The inputs that one layer got."""

    magnitudes: list[Histogram] = field(default_factory=list)
    """One histogram for the layer, or one for each of its row blocks if those have ranges of their
    own."""
    vectors: int = 0
    """Number of input vectors (linear) or samples (convolution)."""


def observe(
    model: nn.Module,
    layers: dict[str, AnalogLayer],
    per: str,
    batches: Iterable[Any],
    forward: Forward | None,
    progress: bool,
    routes: list[Callable[[], None]],
    allow_unused: bool,
) -> dict[str, Seen]:
    """Collect the inputs of each layer that runs.

    Args:
        model: the model to run.
        layers: the layers whose inputs are counted; they compute without converters.
        per: ``layer`` or ``tile``: as ``calibrate`` takes it.
        batches: as ``calibrate`` takes them.
        forward: as ``calibrate`` takes it.
        progress: if True, show a progress bar.
        routes: a list to which the functions are added that undo each route to a layer that was
            called by its weight.
        allow_unused: as ``calibrate`` takes it.

    Returns:
        The inputs by name of the layer, by row block if those have ranges of their own.

    Raises:
        ValueError: a layer never ran, or an input is NaN or infinite.
    """
    tiled = {n for n, x in layers.items() if per == "tile" and x.row_blocks > 1 and x.chip.dac.bits}
    parts = {name: layers[name].row_blocks if name in tiled else 1 for name in layers}
    seen = _empty(parts)
    ran: set[str] = set()
    bypassed: set[str] = set()

    def inputs_of(name: str) -> Callable[[Tensor], None]:
        def look(x: Tensor) -> None:
            check_finite("calibrate", f"the input of layer {name!r}", x)
            ran.add(name)
            seen[name].vectors += layers[name]._vectors(x)
            if name not in tiled:
                seen[name].magnitudes[0].add(x)

        return look

    def blocks_of(name: str) -> Callable[..., None]:
        def look(inputs: Operands, plan: Plan, outputs: slice, y: Tensor) -> None:
            rows = inputs.w.shape[1:]
            for block, histogram in enumerate(seen[name].magnitudes[: plan.blocks]):
                histogram.add(seen_by(inputs.x, rows, plan.span(block, rows), plan))

        return look

    def routed(first: Callable[[nn.Module], Any]) -> bool:
        """Route calls of weights if the first batch did not run all layers.

        Returns whether that batch must be counted again.
        """
        if ran.issuperset(layers):
            return False
        found, back = route_bypasses(model, first)
        routes.append(back)
        bypassed.update(found.bypasses)
        seen.update(_empty(parts))
        return True

    taps = {
        layer: Tap(
            input=inputs_of(name), product=few_threads(blocks_of(name)) if name in tiled else None
        )
        for name, layer in layers.items()
    }
    with quiet(), evaluating(model), tapped(taps):
        run("calibrate", model, batches, forward, progress, routed)
    free = set(layers) - bypassed if allow_unused and ran else set()
    remedy = EXCLUDE
    if not allow_unused:
        remedy += ", or pass allow_unused=True for those that run in training only"
    check_ran("calibrate", layers, ran | free, remedy=remedy)
    forget_unread(model)  # what did not run is known and allowed
    return {name: inputs for name, inputs in seen.items() if name in ran}


def _empty(parts: Mapping[str, int]) -> dict[str, Seen]:
    return {name: Seen([Histogram() for _ in range(count)]) for name, count in parts.items()}
