"""The magnitudes of the inputs of each layer, and DAC ranges from these alone."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from analogtorch.calibration.histogram import Histogram
from analogtorch.calibration.passes import (
    EXCLUDE,
    Forward,
    check_finite,
    check_ran,
    few_threads,
    run,
)
from analogtorch.calibration.read_taps import ReadTaps
from analogtorch.conversion.guard import listed, route_bypasses
from analogtorch.conversion.kinds import analog_layers
from analogtorch.conversion.restored import evaluating
from analogtorch.conversion.route import routed_layers
from analogtorch.conversion.unread import quiet
from analogtorch.conversion.watch import Bypass, Watch
from analogtorch.nn import AnalogLayer, Tap, tapped
from analogtorch.ops import Plan
from analogtorch.ops.blocks import seen_by
from analogtorch.ops.expansion import expanded
from analogtorch.ops.operands import Operands
from analogtorch.values.listed import listed as shown_in_part
from analogtorch.values.warned import warn

Ranges = list[float] | None
"""The DAC range of a layer, or those of its row blocks; None: each input vector or sample sets its
own."""


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
    *,
    route: bool,
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
        route: if True, route calls of a layer by its weight that the first batch shows to the
            layer, from then on; if False, such routes are known.
        allow_unused: as ``calibrate`` takes it.

    Returns:
        The inputs by name of the layer, by row block if those have ranges of their own.

    Raises:
        ValueError: a layer never ran, or an input is NaN or infinite.

    Warns:
        UserWarning: the model also multiplies by the weight of a layer that ran.
    """
    collected, read = _Collected(layers, per), ReadTaps(model)
    first = functools.partial(collected.route, model) if route else None
    with quiet(), evaluating(model), tapped(collected.taps(read)):
        run("calibrate", model, batches, forward, progress, first, read.begin)
    ran = collected.ran
    free = may_be_silent(layers, ran, collected.bypassed, allow_unused)
    remedy = EXCLUDE
    if not allow_unused:
        remedy += ", or pass allow_unused=True for those that run in training only"
    check_ran("calibrate", layers, ran | free, remedy=remedy)
    _name_bypassed(collected.factors)
    return {name: inputs for name, inputs in collected.seen.items() if name in ran}


def may_be_silent(
    layers: Mapping[str, AnalogLayer],
    ran: set[str],
    bypassed: Mapping[str, Bypass],
    allow_unused: bool,
) -> set[str]:
    """Return the layers that need not run: none, or those whose weights nothing else uses.

    Args:
        layers: the layers to calibrate.
        ran: the names of those that ran; where none did, the batches are at fault.
        bypassed: what uses the weights of layers outside of these, by layer.
        allow_unused: as ``calibrate`` takes it.
    """
    return layers.keys() - bypassed if allow_unused and ran else set()


def _name_bypassed(bypassed: Mapping[str, Bypass]) -> None:
    """Warn of layers by whose weights the model multiplies without calling them, too."""
    if bypassed:
        warn(
            f"calibrate: {len(bypassed)} analog layers are bypassed in part: the model also "
            "multiplies by their weights without calling them. These products are digital, "
            f"without the errors of the chip.{listed(bypassed)}\nWhere a product is what the layer "
            "computes, call the layer. Ignore this warning if the others may be digital, as the "
            "decoder of a tied autoencoder and gradients that forward computes; or leave the "
            "layers digital with convert(..., exclude=...)."
        )


class _Collected:
    """The inputs that layers get while they are tapped."""

    def __init__(self, layers: Mapping[str, AnalogLayer], per: str) -> None:
        self.layers = layers
        self.tiled = {
            name
            for name, layer in layers.items()
            if per == "tile"
            and layer.row_blocks > 1
            and layer.chip.dac.bits
            and layer.takes_range_per_block
        }
        self.ran: set[str] = set()
        self.bypassed: Mapping[str, Bypass] = {}
        """What computes with weights of layers outside of these, in the first batch."""
        self.factors: Mapping[str, Bypass] = {}
        """What multiplies by them."""
        self.start()

    def start(self) -> None:
        """Forget what was counted."""
        parts = {n: x.row_blocks if n in self.tiled else 1 for n, x in self.layers.items()}
        self.seen = {n: Seen([Histogram() for _ in range(count)]) for n, count in parts.items()}

    def route(self, model: nn.Module, first: Callable[[nn.Module], Any]) -> None:
        """Count the first batch, and route calls of weights that it shows.

        It runs once, as a forward may change the batch or the model, and again where calls were
        routed.
        """
        routed, watched = routed_layers(model), Watch(model, dict(analog_layers(model)))
        with watched.watching():
            first(model)
        counted = self.seen
        self.start()  # routes are tried in runs that do not count
        watched = route_bypasses(model, first, watched)
        self.bypassed, self.factors = watched.bypasses, watched.factors
        if routed_layers(model) == routed:
            self.seen = counted
        else:
            self.start()
            first(model)

    def taps(self, read: ReadTaps) -> dict[AnalogLayer, Tap]:
        """Return a tap for each layer."""
        return {layer: self._tap(name, layer, read) for name, layer in self.layers.items()}

    def _tap(self, name: str, layer: AnalogLayer, read: ReadTaps) -> Tap:
        look = functools.partial(self._input, name)
        if name not in self.tiled:
            return read.tap(layer, input=look)
        product = few_threads(functools.partial(self._product, name))
        return read.tap(layer, input=look, product=product)

    def _input(self, name: str, x: Tensor) -> None:
        check_finite("calibrate", f"the input of layer {name!r}", x)
        self.ran.add(name)
        self.seen[name].vectors += self.layers[name]._vectors(x)
        if name not in self.tiled:
            self.seen[name].magnitudes[0].add(expanded(x, self.layers[name].chip.expansion))

    def _product(self, name: str, inputs: Operands, plan: Plan, outputs: slice, y: Tensor) -> None:
        rows = inputs.w.shape[1:]
        for block, histogram in enumerate(self.seen[name].magnitudes[: plan.blocks]):
            histogram.add(seen_by(inputs.x, rows, plan.span(block, rows), plan))


def heard(seen: Mapping[str, Seen], allow_unused: bool) -> dict[str, Seen]:
    """Return the inputs of the layers that got other numbers than zero.

    Raises:
        ValueError: a layer got only zeros and ``allow_unused`` is False, or all layers did.
    """
    found = {n: inputs for n, inputs in seen.items() if any(h.largest for h in inputs.magnitudes)}
    silent = [name for name in seen if name not in found]
    if silent and not any(inputs.vectors for inputs in seen.values()):
        raise ValueError("calibrate: no batch has a sample; use batches of real data")
    if silent and not (allow_unused and found):
        raise ValueError(
            f"calibrate: layer {silent[0]!r} got only zeros; use batches of real data, and more "
            "than one step where that is the state of a recurrent layer. Behind a ReLU, all units "
            "may have died in training: train anew, at a smaller learning rate. If it gets nothing "
            "else, as the values of the first attention in a decoder of DETR, leave it digital "
            "with convert(..., exclude=...), or pass allow_unused=True"
        )
    return found


OFFSET = 2.0
"""Mean of the inputs of a layer, in units of their standard deviation, from which on a warning
names the layer. Errors of the cells multiply both, and at 2 cost five times as much as without."""
_OF_CELLS = {"programming_noise", "drift", "read_noise"}
_corrected = ContextVar("corrected", default=False)


@contextlib.contextmanager
def means_corrected(corrected: bool) -> Iterator[None]:
    """Warn of no mean in the context if ``corrected``: chips that correct columns undo offsets."""
    token = _corrected.set(corrected)
    try:
        yield
    finally:
        _corrected.reset(token)


def warn_of_means(layers: Mapping[str, AnalogLayer], seen: Mapping[str, Seen]) -> None:
    """Warn of layers whose inputs have a mean far from 0, where the cells of the chip err."""
    if _corrected.get():
        return
    offsets = {
        name: max(h.offset for h in seen[name].magnitudes)
        for name, layer in layers.items()
        if not _OF_CELLS.isdisjoint(layer.chip.non_idealities())
    }
    found = [f"{n or '(root)'!r} ({o:.2g} times)" for n, o in offsets.items() if o >= OFFSET]
    if found:
        warn(
            f"calibrate: inputs have a mean of over {OFFSET:g} standard deviations in "
            f"{shown_in_part(found, 3)}. Errors of the cells multiply it, which gives each column "
            "an offset. Give inputs without it, and add weight @ mean to the bias; or let chips "
            "correct their columns, by at.correct_columns(view, batches) or "
            "recovery=at.Recovery(batches=batches); or leave the layer digital with "
            "convert(..., exclude=...)"
        )


def by_magnitude(
    layers: Mapping[str, AnalogLayer],
    seen: Mapping[str, Seen],
    method: str | None,
    percentile: float,
    deviations: float = 3.0,
) -> dict[str, Ranges]:
    """Return the range of each layer, or those of its row blocks, from its input magnitudes.

    Without a method it is None.

    Args:
        layers: the layers that ran, by name.
        seen: the inputs of each layer.
        method: ``percentile``, ``absmax`` or ``std``, as ``calibrate`` takes it.
        percentile: as ``calibrate`` takes it.
        deviations: as ``calibrate`` takes it.

    Raises:
        ValueError: a range would be zero.
    """
    ranges: dict[str, Ranges] = dict.fromkeys(seen)
    for name, layer in layers.items() if method is not None else ():
        steps, inputs = layer.chip.dac.levels, seen[name].magnitudes
        found = [
            h.bound(str(method), steps, percentile, deviations) if h.largest else 0.0
            for h in inputs
        ]
        if not all(value > 0 for value, h in zip(found, inputs, strict=True) if h.largest):
            why = (
                f"the {percentile=} of the inputs is zero; "
                "use a larger percentile, or another method"
            )
            if method == "std":
                why = "its inputs do not vary, so method='std' has no range for them"
            raise ValueError(f"calibrate: layer {name!r}: {why}")
        ranges[name] = layer.checked_ranges([value or max(found) for value in found])
    return ranges
