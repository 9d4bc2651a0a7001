"""Fix each layer's DAC range, and on request its ADC bound, from the inputs it meets."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from analogtorch import checks
from analogtorch.calibrate import adc as converters
from analogtorch.calibrate.histogram import Histogram, Method
from analogtorch.calibrate.passes import (
    EXCLUDE,
    Forward,
    check_finite,
    check_given,
    check_ran,
    evaluating,
    observing,
    run,
)
from analogtorch.chips import Chip
from analogtorch.convert import analog_layers, refuse_programmed, refuse_taken, refuse_unloaded
from analogtorch.convert.guard import route_bypasses
from analogtorch.convert.route import routed_layers
from analogtorch.nn import AnalogLayer
from analogtorch.ops import Plan, block_scales
from analogtorch.ops.blocks import seen_by
from analogtorch.ops.reference import Inputs

Per = Literal["layer", "tile"]


@torch.no_grad()
def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    method: Method | None = "mse",
    percentile: float = 99.9,
    deviations: float = 3.0,
    per: Per = "layer",
    adc: converters.Adc | None = None,
    adc_per: converters.AdcPer = "layer",
    allow_unused: bool = False,
    forward: Forward | None = None,
    progress: bool = False,
) -> nn.Module:
    """Set the input range of every analog layer from the inputs it meets, in evaluation mode and without noise.

    Also the check that nothing bypasses the analog layers: where the model calls a layer by its weight, the call is
    routed to the layer, as by ``analogtorch.guard``; one that never ran is an error. Embeddings have nothing to
    calibrate. Training mode, weights and random state are as before; calibrating again replaces the ranges.

    Args:
        model: a converted model.
        batches: inputs, read once. A tensor or a ``PackedSequence`` is passed to the model, of a tuple or list its
            first element, and a mapping as keyword arguments.
        method: ``mse`` minimises the mean squared error of a layer's outputs, by estimate: clipping and rounding of
            the inputs, and the rounding and noise of the readings of a chip, both of which grow with the range.
            ``percentile`` takes that percentile of the magnitudes; ``absmax`` the largest one; ``std`` a multiple of
            the standard deviation over all batches, from which a range learns on in training. Magnitudes are collected
            in bins 1.6 to 3.1 % wide. None: no range is fixed; each input vector or sample sets its own, as before any
            calibration. That needs ``adc``, and suits a chip whose readings have little noise: noise is in proportion
            to the range.
        percentile: for ``percentile``, of ``method`` and ``adc``, in (0, 100].
        deviations: for ``method="std"``, how many, > 0; 3 as in Rasch et al., Nat. Commun. 14, 5282 (2023).
        per: what has a range of its own: the ``layer``, or each ``tile``, that is each row block, as tiles have DACs of
            their own. It pays where the parts of an input differ in size. On a GPU, and where row blocks cut a kernel,
            such layers run in plain torch, more slowly. The groups of a convolution share the range of a row block; a
            block that met zeros only takes the largest of the others; layers of one row block or without DAC keep one
            range.
        adc: None: the chip's own bound of the ADC, also where an earlier call had changed it. Otherwise bounds from the
            partial sums as the new ranges give them, with the output noise on them: by ``absmax``, ``percentile`` or
            ``mse`` as for ``method``. Hardware may not offer that: it is a deviation from the chip, which ``summary``
            lists (``output_bounds`` of the layer). It takes a second, slower run over the batches, which are kept in
            memory. Both runs are without ADC, which has no bound yet.
        adc_per: what has an ADC bound of its own: the ``layer``, each ``tile``, or each ``column`` of a tile, which has
            an ADC of its own on chips such as HERMES. Columns keep most where their sums differ in size, as in
            transformers. Each is counted in bins of its own, 6 to 12 % wide, that take 2 KB (4 with ``method=None``).
        allow_unused: leave a layer that the batches do not reach as it is, rather than raise: a head that helps in
            training only, for one. A layer that is bypassed is an error all the same, as for ``analogtorch.guard``.
        forward: runs the model on a batch, ``forward(model, batch)``, where the rule above does not fit.
        progress: show a progress bar.

    Returns:
        The model.

    Raises:
        TypeError: ``model`` is no module, ``batches`` is one batch, or a batch is of another type.
        ValueError: no analog layer, no batches, a layer that never ran (see ``allow_unused``) or whose inputs, or their
            percentile, are zero, a NaN or infinity in the inputs of a layer, an ADC to calibrate where there is none,
            or an option that is not allowed. The model is unchanged.
    """
    check_given("calibrate", model, batches)
    checks.flag("calibrate: allow_unused", allow_unused)
    checks.function("calibrate: forward", forward, "forward(model, batch)")
    layers = _checked(model, method, percentile, deviations, per, adc, adc_per)
    chips = {name: layer.chip for name, layer in layers.items()}
    batches, bounds = batches if adc is None else list(batches), {}
    with _unrouted_on_error() as routes, _as_before(layers):
        for name, layer in layers.items():
            layer.output_bounds = None
            if adc is not None:
                layer.chip = dataclasses.replace(chips[name], output_bits=None)
            layer.calibrated = False  # else the ranges found now would depend on the ones before
        met = _observe(model, layers, per, batches, forward, progress, routes, allow_unused)
        ranges = {}
        if method is not None:
            # a bound that is calibrated later fits whatever range is chosen now; the output noise does not
            beyond = {n: _reading_errors(layers[n], chips[n], adc is None, len(met[n])) for n in met}
            ranges = {n: _ranges(n, layers[n], met[n], method, percentile, deviations, beyond[n]) for n in met}
        if adc is not None:
            for name, values in ranges.items():
                layers[name].set_input_range(values)
            read = {name: layers[name] for name in met if chips[name].output_bits is not None}
            bounds = converters.bounds(model, read, chips, batches, adc, adc_per, percentile, forward, progress)
    for name in met:
        layer = layers[name]
        if method is None:
            layer.forget_input_range()
        else:
            layer.set_input_range(ranges[name])
        layer.set_output_bounds(bounds.get(name))
    return model


def _checked(
    model: nn.Module, method: str | None, percentile: float, deviations: float, per: str, adc: str | None, adc_per: str
) -> dict[str, AnalogLayer]:
    layers = {name: layer for name, layer in analog_layers(model) if layer.takes_range}
    if not layers:
        raise ValueError(
            "calibrate: the model has no analog layer with an input range; call analogtorch.convert(model, chip) first"
        )
    refuse_programmed(model, "calibrate")
    refuse_taken(model, "calibrate")
    refuse_unloaded(model, "calibrate")
    for name, value, allowed in (
        ("method", method, (*get_args(Method), None)),
        ("per", per, get_args(Per)),
        ("adc", adc, (None, *get_args(converters.Adc))),
        ("adc_per", adc_per, get_args(converters.AdcPer)),
    ):
        if value not in allowed:
            raise ValueError(f"calibrate: {name} must be one of {allowed}, got {value!r}")
    checks.number("calibrate: percentile", percentile, above=0, most=100)
    checks.number("calibrate: deviations", deviations, above=0, remedy="write one such as 3")
    if adc is not None and all(layer.chip.output_bits is None for layer in layers.values()):
        raise ValueError(
            f"calibrate: adc={adc!r} needs an ADC, but the chips of all layers have output_bits None; leave adc out"
        )
    if adc is None and adc_per != "layer":
        raise ValueError(f"calibrate: adc_per={adc_per!r} needs adc, which says how to find the bounds, such as 'mse'")
    if method is None and (adc is None or per != "layer"):
        raise ValueError(
            "calibrate: method=None fixes no input range, so that it needs adc, such as adc='mse', and takes no "
            f"per='tile'; got adc={adc!r}, per={per!r}"
        )
    return layers


@contextlib.contextmanager
def _unrouted_on_error() -> Iterator[list[Callable[[], None]]]:
    """What takes back the routes that are added inside; all of it is called if the calibration fails or is stopped."""
    routes: list[Callable[[], None]] = []
    try:
        yield routes
    except BaseException:
        for back in routes:
            back()
        raise


@contextlib.contextmanager
def _as_before(layers: dict[str, AnalogLayer]) -> Iterator[None]:
    """Chips, ranges, whether they are known, and ADC bounds are afterwards as before."""
    with torch.inference_mode(False):  # what is put back must be able to learn
        before = [
            (layer, layer.chip, layer.output_bounds, layer.calibrated, r, r.detach().clone(), r.grad, r.requires_grad)
            for layer in layers.values()
            for r in (layer.input_range,)
        ]
    try:
        yield
    finally:
        for layer, chip, bounds, calibrated, r, values, grad, learns in before:
            if layer.chip != chip:
                layer.chip = chip
            layer.output_bounds, layer.calibrated, layer.input_range = bounds, calibrated, r
            if r.shape != values.shape:
                r.data = values
            r.requires_grad_(False).copy_(values)
            r.requires_grad_(learns).grad = grad


def _observe(
    model: nn.Module,
    layers: dict[str, AnalogLayer],
    per: str,
    batches: Iterable[Any],
    forward: Forward | None,
    progress: bool,
    routes: list[Callable[[], None]],
    allow_unused: bool,
) -> dict[str, list[Histogram]]:
    """What each layer that ran met; of a layer with a range per row block, what each block met.

    ``routes`` gains what takes back each route to a layer that was called by its weight.
    """
    tiled = {n for n, x in layers.items() if per == "tile" and x.row_blocks > 1 and x.chip.input_bits is not None}
    met = {name: [Histogram() for _ in range(layers[name].row_blocks if name in tiled else 1)] for name in layers}
    ran: set[str] = set()
    bypassed: set[str] = set()

    def listener(name: str) -> Callable[[Tensor], None]:
        def look(x: Tensor) -> None:
            check_finite("calibrate", f"the input of layer {name!r}", x)
            ran.add(name)
            if name not in tiled:
                met[name][0].add(x)

        return look

    def observer(name: str) -> Callable[..., None]:
        def look(inputs: Inputs, plan: Plan, outputs: slice, y: Tensor) -> None:
            rows = inputs.w.shape[1:]
            for block, histogram in enumerate(met[name][: plan.blocks]):
                histogram.add(seen_by(inputs.x, rows, plan.span(block, rows), plan))

        return look

    def routed(first: Callable[[nn.Module], Any]) -> bool:
        """Whether layers that the first batch did not run are reached now that calls of their weights are routed."""
        if ran.issuperset(layers):
            return False
        before = len(routed_layers(model))
        seen, back = route_bypasses(model, first)
        routes.append(back)
        bypassed.update(seen.bypasses)
        if len(routed_layers(model)) == before:
            return False
        for name, histograms in met.items():
            met[name] = [Histogram() for _ in histograms]
        return True

    listeners = {layer: listener(name) for name, layer in layers.items()}
    with evaluating(model), observing({layers[name]: observer(name) for name in tiled}, listeners):
        run("calibrate", model, batches, forward, progress, routed)
    free = set(layers) - bypassed if allow_unused and ran else set()
    remedy = EXCLUDE if allow_unused else f"{EXCLUDE}, or pass allow_unused=True for those that run in training only"
    check_ran("calibrate", layers, ran | free, remedy=remedy)
    return {name: histograms for name, histograms in met.items() if name in ran}


def _reading_errors(layer: AnalogLayer, chip: Chip, rounded: bool, parts: int) -> list[float]:
    """What errors of the readings cost for each of the ``parts`` that have a range, as ``Histogram.bound`` takes it.

    The output noise and, if ``rounded``, the step of the ADC are in proportion to ``range x weight scale``. Their
    squared error is told in that of the inputs, which reaches an output through the squares of its weights.
    """
    step = chip.output_bound / (2 ** (chip.output_bits - 1) - 1) if rounded and chip.output_bits is not None else 0.0
    error = step**2 / 12 + chip.output_noise**2
    steps, reached = [0.0] * parts, [0.0] * parts
    for section in layer.sections:
        w = section.weight(layer.as_matrix(layer.weight.detach())).flatten(1)
        scales = block_scales(w, section.bounds, section.shared_columns(chip))
        for block, (start, stop) in enumerate(zip(section.bounds, section.bounds[1:], strict=False)):
            part = min(block, parts - 1)
            steps[part] += error * scales[block].square().sum().item()
            reached[part] += w[:, start:stop].float().square().sum().item()
    return [a / b if b else 0.0 for a, b in zip(steps, reached, strict=True)]


def _ranges(
    name: str,
    layer: AnalogLayer,
    met: list[Histogram],
    method: str,
    percentile: float,
    deviations: float,
    beyond: list[float],
) -> list[float]:
    """The range of the layer, or those of its row blocks."""
    if not any(histogram.largest for histogram in met):
        raise ValueError(
            f"calibrate: layer {name!r} met only zeros; use batches of real data, and more than one step "
            "where that is the state of a recurrent layer"
        )
    bits = layer.chip.input_bits
    found = [
        h.bound(method, bits, percentile, deviations, b) if h.largest else 0.0 for h, b in zip(met, beyond, strict=True)
    ]
    if not all(value > 0 for value, h in zip(found, met, strict=True) if h.largest):
        why = f"the {percentile=} of the inputs is zero; use a larger percentile, or another method"
        if method == "std":
            why = "its inputs do not vary, so method='std' has no range for them"
        raise ValueError(f"calibrate: layer {name!r}: {why}")
    return layer.checked_ranges([value or max(found) for value in found])
