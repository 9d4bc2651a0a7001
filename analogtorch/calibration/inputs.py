"""The inputs that layers are given, by magnitude."""

from collections.abc import Callable, Iterable
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
from analogtorch.nn import AnalogLayer, Tap, tapped
from analogtorch.ops import Plan
from analogtorch.ops.blocks import seen_by
from analogtorch.ops.operands import Operands


@dataclass
class Seen:
    """The inputs of one layer."""

    magnitudes: list[Histogram] = field(default_factory=list)
    """Of the layer, or of each of its row blocks where those have ranges of their own."""
    vectors: int = 0
    """Input vectors (linear) or samples (convolution)."""


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
    """The inputs of each layer that ran; of a layer with a range per row block, those of each
    block.

    Args:
        model: what runs.
        layers: whose inputs are counted; they compute without converters.
        per: ``layer`` or ``tile``: as ``calibrate`` takes it.
        batches: as ``calibrate`` takes them.
        forward: as ``calibrate`` takes it.
        progress: show a progress bar.
        routes: gains what takes back each route to a layer that was called by its weight.
        allow_unused: as ``calibrate`` takes it.

    Raises:
        ValueError: a layer never ran, or an input is NaN or infinite.
    """
    tiled = {
        n for n, x in layers.items() if per == "tile" and x.row_blocks > 1 and x.chip.input_bits
    }
    parts = {name: layers[name].row_blocks if name in tiled else 1 for name in layers}
    met = {name: Seen([Histogram() for _ in range(count)]) for name, count in parts.items()}
    ran: set[str] = set()
    bypassed: set[str] = set()

    def inputs_of(name: str) -> Callable[[Tensor], None]:
        def look(x: Tensor) -> None:
            check_finite("calibrate", f"the input of layer {name!r}", x)
            ran.add(name)
            met[name].vectors += layers[name]._vectors(x)
            if name not in tiled:
                met[name].magnitudes[0].add(x)

        return look

    def blocks_of(name: str) -> Callable[..., None]:
        def look(inputs: Operands, plan: Plan, outputs: slice, y: Tensor) -> None:
            rows = inputs.w.shape[1:]
            for block, histogram in enumerate(met[name].magnitudes[: plan.blocks]):
                histogram.add(seen_by(inputs.x, rows, plan.span(block, rows), plan))

        return look

    def routed(first: Callable[[nn.Module], Any]) -> bool:
        """Route calls of weights where the first batch did not run all layers; whether it must be
        counted anew.
        """
        if ran.issuperset(layers):
            return False
        seen, back = route_bypasses(model, first)
        routes.append(back)
        bypassed.update(seen.bypasses)
        met.update(
            {name: Seen([Histogram() for _ in range(count)]) for name, count in parts.items()}
        )
        return True

    taps = {
        layer: Tap(
            input=inputs_of(name), product=few_threads(blocks_of(name)) if name in tiled else None
        )
        for name, layer in layers.items()
    }
    with evaluating(model), tapped(taps):
        run("calibrate", model, batches, forward, progress, routed)
    free = set(layers) - bypassed if allow_unused and ran else set()
    remedy = (
        EXCLUDE
        if allow_unused
        else f"{EXCLUDE}, or pass allow_unused=True for those that run in training only"
    )
    check_ran("calibrate", layers, ran | free, remedy=remedy)
    return {name: seen for name, seen in met.items() if name in ran}
