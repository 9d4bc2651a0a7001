"""Fix the full scales of each layer's converters from the inputs it meets."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from analogtorch import checks
from analogtorch.calibrate import adc as converters
from analogtorch.calibrate.adc import Limits, Wanted, limits
from analogtorch.calibrate.histogram import Histogram, Method
from analogtorch.calibrate.inputs import observe
from analogtorch.calibrate.judge import Error, Judge
from analogtorch.calibrate.measured import Ranges, choose
from analogtorch.calibrate.passes import Forward, check_given
from analogtorch.chips import Chip
from analogtorch.convert import analog_layers, refuse_programmed, refuse_taken, refuse_unloaded
from analogtorch.nn import AnalogLayer

Per = Literal["layer", "tile"]
ADC_ERROR = 0.1
"""Relative error of a layer's partial sums from which on its ADC is warned of, where all else errs less."""


@dataclass(frozen=True)
class Setting:
    """What calibration sets of one layer."""

    ranges: Ranges
    limits: Limits


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
    chips, batches = {name: layer.chip for name, layer in layers.items()}, list(batches)
    wanted = None if adc is None else Wanted(method=adc, per=adc_per, percentile=percentile)
    with _unrouted_on_error() as routes, _as_before(layers):
        _use(layers, chips, dac=False, adc=False)
        met = observe(model, layers, chips, per, batches, forward, progress, routes, allow_unused)
        layers = {name: layers[name] for name in met}
        for name, seen in met.items():
            _check_met(name, seen.magnitudes)

        def settings(ranges: Mapping[str, Ranges]) -> dict[str, Setting]:
            _use(layers, chips, adc=False)
            for name, values in ranges.items():
                if values is not None:
                    layers[name].set_input_range(values)
            found = limits(model, layers, chips, batches, wanted, forward, progress)
            return {name: Setting(ranges[name], found[name]) for name in layers}

        if method is None:
            chosen = settings(dict.fromkeys(layers))
        elif method == "mse":
            chosen = settings(choose(model, layers, chips, met, batches, forward, progress))
            chosen = _no_worse(model, layers, chips, chosen, settings, Judge(model, _held_back(batches), forward))
        else:
            each = {
                n: _by_magnitude(n, layers[n], chips[n], seen.magnitudes, method, percentile, deviations)
                for n, seen in met.items()
            }
            chosen = settings(each)
    _apply(layers, chosen)
    _warn_of_adc(chosen)
    return model


def _held_back(batches: list[Any]) -> list[Any]:
    """The last quarter of the batches; all of fewer than four."""
    return batches[-(len(batches) // 4) :] if len(batches) >= 4 else batches


def _use(layers: Mapping[str, AnalogLayer], chips: Mapping[str, Chip], *, dac: bool = True, adc: bool = True) -> None:
    """Let the layers compute uncalibrated, with these converters."""
    for name, layer in layers.items():
        chip = chips[name] if dac else dataclasses.replace(chips[name], input_bits=None)
        chip = chip if adc else dataclasses.replace(chip, output_bits=None, adc_steps=None)
        if layer.chip != chip:
            layer.chip = chip
        layer.output_bounds = layer.output_ranges = None
        layer.calibrated = False  # else the ranges found now would depend on the ones before


def _apply(layers: Mapping[str, AnalogLayer], settings: Mapping[str, Setting]) -> None:
    for name, setting in settings.items():
        if setting.ranges is None:
            layers[name].forget_input_range()
        else:
            layers[name].set_input_range(setting.ranges)
        layers[name].set_output_bounds(setting.limits.output_bounds)
        layers[name].set_output_ranges(setting.limits.output_ranges)


def _no_worse(
    model: nn.Module,
    layers: dict[str, AnalogLayer],
    chips: Mapping[str, Chip],
    chosen: dict[str, Setting],
    settings: Callable[[Mapping[str, Ranges]], dict[str, Setting]],
    judge: Judge,
) -> dict[str, Setting]:
    """The settings chosen, unless the model errs less without: then ranges per vector, or nothing at all."""
    if not judge.judges:
        return chosen

    def error(tried: dict[str, Setting]) -> Error:
        _use(layers, chips)
        _apply(layers, tried)
        return judge.error()

    nothing = dict.fromkeys(layers, Setting(None, Limits(None, None)))
    least = error(nothing)
    if not error(chosen).exceeds(least):
        return chosen
    by_vector = settings(dict.fromkeys(layers))
    if not error(by_vector).exceeds(least):
        return by_vector
    warnings.warn(
        "calibrate: on the batches held back, the outputs of the model are closer to the digital ones without "
        "calibration, so it is left uncalibrated: every input vector sets its own DAC range. Pass method='percentile' "
        "or 'absmax' to fix ranges all the same",
        stacklevel=3,
    )
    return nothing


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
    if adc is not None and all(layer.chip.output_steps == 0 for layer in layers.values()):
        raise ValueError(f"calibrate: adc={adc!r} needs an ADC, but the chips of all layers have none; leave adc out")
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
        before = [(layer, layer.chip, *_kept(layer)) for layer in layers.values()]
    try:
        yield
    finally:
        for layer, chip, attributes, values, grad, learns in before:
            if layer.chip != chip:
                layer.chip = chip
            for name, value in attributes.items():
                setattr(layer, name, value)
            r = layer.input_range
            if r.shape != values.shape:
                r.data = values
            r.requires_grad_(False).copy_(values)
            r.requires_grad_(learns).grad = grad


def _kept(layer: AnalogLayer) -> tuple[dict[str, Any], Any, Any, bool]:
    """What calibration changes of a layer; the values of its range apart, as it stays the same Parameter."""
    names, r = ("output_bounds", "output_ranges", "calibrated", "input_range"), layer.input_range
    return {name: getattr(layer, name) for name in names}, r.detach().clone(), r.grad, r.requires_grad


def _warn_of_adc(chosen: Mapping[str, Setting]) -> None:
    """Name the layers whose partial sums use so little of the ADC's range that it decides their error."""
    found = {name: setting.limits for name, setting in chosen.items()}
    coarse = {name: x.adc_error for name, x in found.items() if x.adc_error > max(ADC_ERROR, x.other_error)}
    if coarse:
        worst = sorted(coarse, key=coarse.__getitem__, reverse=True)
        shown = ", ".join(f"{name!r} ({100 * coarse[name]:.0f} %)" for name in worst[:5])
        warnings.warn(
            f"calibrate: the fixed range of the ADC decides the error of {len(coarse)} of {len(chosen)} layers, whose "
            f"partial sums use little of it or are clipped: relative error of {shown}. A chip whose ADC range can be "
            "set helps, by calibrate(adc='mse', adc_per='column'), or weights scaled by column, by "
            "dataclasses.replace(chip, weight_scale='column') before convert",
            stacklevel=3,
        )


def _check_met(name: str, met: list[Histogram]) -> None:
    if not any(histogram.largest for histogram in met):
        raise ValueError(
            f"calibrate: layer {name!r} met only zeros; use batches of real data, and more than one step "
            "where that is the state of a recurrent layer"
        )


def _by_magnitude(
    name: str,
    layer: AnalogLayer,
    chip: Chip,
    met: list[Histogram],
    method: str,
    percentile: float,
    deviations: float,
) -> list[float]:
    """The range of the layer, or those of its row blocks."""
    bits = chip.input_bits
    steps = 0 if bits is None else 2 ** (bits - 1) - 1
    found = [h.bound(method, steps, percentile, deviations) if h.largest else 0.0 for h in met]
    if not all(value > 0 for value, h in zip(found, met, strict=True) if h.largest):
        why = f"the {percentile=} of the inputs is zero; use a larger percentile, or another method"
        if method == "std":
            why = "its inputs do not vary, so method='std' has no range for them"
        raise ValueError(f"calibrate: layer {name!r}: {why}")
    return layer.checked_ranges([value or max(found) for value in found])
