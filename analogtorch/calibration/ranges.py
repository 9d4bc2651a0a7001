"""``calibrate``: the full scales of each layer's converters, from its inputs."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from torch import nn

from analogtorch.calibration import adc as converters
from analogtorch.calibration.adc import Wanted
from analogtorch.calibration.histogram import Histogram, Method
from analogtorch.calibration.inputs import Seen, observe
from analogtorch.calibration.measured import Ranges, choose
from analogtorch.calibration.passes import Forward, check_given, without_adc
from analogtorch.calibration.settings import Calibration, Setting, held_back
from analogtorch.conversion.kinds import analog_layers, refuse_programmed, refuse_unloaded
from analogtorch.conversion.taken import refuse_taken
from analogtorch.nn import AnalogLayer
from analogtorch.values import checks

Per = Literal["layer", "tile"]
ADC_ERROR = 0.1
"""Relative error of the partial sums from which on a warning names the ADC, if all else errs
less."""


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
    """Set the ranges of DACs and of the digital unit for every analog layer, from its inputs.

    The model runs in evaluation mode and without noise. First the inputs of every layer are
    collected, and a DAC range is chosen for each. Then the partial sums with these ranges give the
    full scales behind the array: ADC ranges if ``adc`` is given, and, on a chip whose digital unit
    rounds (``hermes64``), the range in which it rounds each row block and column (``output_ranges``
    of the layer, which is no deviation from the chip).

    By default (``method="mse"``) the DAC range is chosen by measuring. A layer multiplies up to
    2,048 of its own input vectors as the chip would, with programming noise, DAC, ADC and output
    noise, for up to 16 candidates. These are ranges from the largest input down to the 90th
    percentile, and a range per vector, which is the largest input of the vector. The candidate with
    the least mean of ``||error|| / ||output||`` is taken. A range per vector is taken only if its
    error is below 0.7 of that of the best fixed range, because the digital side must scale each
    vector: an MVM of n inputs and m outputs takes n comparisons and n multiplications of the
    inputs, and m multiplications of the outputs. Inputs with heavy tails need it, such as those of
    language models. ``summary`` lists these layers.

    At the end, the outputs of the model are compared with the digital ones on the last quarter of
    the batches, which is used for nothing else; with fewer than four batches, all are used for
    both. If the calibrated model is worse than the uncalibrated one, all layers get a range per
    vector; if that is worse too, the model is left uncalibrated, with a warning. Worse means that
    the angle to the digital outputs is larger and that more output vectors have their largest
    number at another index: more by over 1 % of the vectors and by over two standard errors.
    Outputs without tensors are not compared. The other methods make no such comparison.

    A warning names the layers whose partial sums use so little of the ADC's fixed range, or exceed
    it so often, that the ADC's error is more than 10 % of the sums and larger than the errors of
    DAC, programming and output noise.

    The call also checks that nothing bypasses the analog layers. Where the model calls a layer by
    its weight, the call is routed to the layer, as by ``analogtorch.guard``; a layer that never ran
    is an error. Embeddings need no calibration. Training mode, weights and random state are as
    before; calibrating again replaces all ranges.

    Args:
        model: a converted model.
        batches: inputs, read once and kept in memory. A tensor or a ``PackedSequence`` is passed to
            the model, of a tuple or list its first element, and a mapping as keyword arguments.
        method: ``mse`` measures, as described above. The others use the magnitudes of the inputs
            alone, in bins 1.6 to 3.1 % wide: ``percentile`` takes that percentile, ``absmax`` the
            largest, and ``std`` a multiple of the standard deviation over all batches, which suits
            a range that then learns in training. None: every layer keeps a range per vector; that
            needs ``adc``.
        percentile: percentile in (0, 100] for ``percentile`` of ``method`` and ``adc``.
        deviations: number of standard deviations for ``method="std"``, > 0; 3 as in Rasch et al.,
            Nat. Commun. 14, 5282 (2023).
        per: unit that has a DAC range of its own: the ``layer``, or each ``tile``, that is each row
            block, as tiles have DACs of their own. A range per tile helps if the parts of an input
            differ in size. On a GPU, and where row blocks cut a kernel, such layers run in plain
            torch, more slowly. The groups of a convolution share the range of a row block. A block
            whose inputs are all zero takes the largest range of the others. Layers of one row block
            or without DAC keep one range.
        adc: None: the chip's own ADC range, also where an earlier call had changed it. Otherwise
            ranges from the partial sums with output noise, by ``absmax``, ``percentile`` or
            ``mse``, which is the least squared error of clipping and rounding. Hardware may not
            offer that: it is a deviation from the chip, which ``summary`` lists (``adc_ranges``
            of the layer).
        adc_per: unit that has an ADC range of its own: the ``layer``, each ``tile``, or each
            ``column`` of a tile, which has an ADC of its own on chips such as HERMES. Columns keep
            most where their sums differ in size, as in transformers. Each is counted in bins of its
            own, 6 to 12 % wide, that take 2 KB, or 4 KB in a layer with a range per vector.
        allow_unused: if True, leave a layer that the batches do not reach as it is instead of
            raising an error; an example is a head that only helps in training. A bypassed layer is
            an error all the same, as for ``analogtorch.guard``.
        forward: a function that runs the model on a batch, ``forward(model, batch)``, if the rule
            above does not fit. What it returns is compared at the end.
        progress: if True, show a progress bar.

    Returns:
        The model.

    Raises:
        TypeError: ``model`` is no module, ``batches`` is one batch, or a batch is of another type.
        ValueError: there is no analog layer or no batch; a layer never ran (see ``allow_unused``);
            the inputs of a layer, or their percentile, are zero; an input is NaN or infinite;
            ``adc`` is given and there is no ADC; or an option is not allowed. The model is
            unchanged.

    Example:
        >>> model = at.convert(torch.nn.Sequential(torch.nn.Linear(64, 10)), at.chips.hermes64())
        >>> _ = at.calibrate(model, [torch.randn(100, 64) for _ in range(4)])
    """
    check_given("calibrate", model, batches)
    checks.flag("calibrate: allow_unused", allow_unused)
    checks.function("calibrate: forward", forward, "forward(model, batch)")
    layers = _checked(model, method, percentile, deviations, per, adc, adc_per)
    wanted = None if adc is None else Wanted(method=adc, per=adc_per, percentile=percentile)
    batches = list(batches)
    fitted, judged = held_back(batches) if method == "mse" else (batches, batches)
    whole = Calibration(model, layers, fitted, judged, wanted, forward, progress)
    with _unrouted_on_error() as routes, _as_before(layers):
        whole.forget()
        with whole.without_converters():
            seen = observe(
                model, layers, per, whole.batches, forward, progress, routes, allow_unused
            )
        for name, inputs in seen.items():
            _check_seen(name, inputs.magnitudes)
        ran = dataclasses.replace(whole, layers={name: layers[name] for name in seen})
        if method == "mse":
            # an ADC range that is found afterwards fits whatever DAC range is chosen now
            tried = {
                name: layer.chip if wanted is None else without_adc(layer.chip)
                for name, layer in layers.items()
            }
            with whole.without_converters():
                ranges = choose(model, ran.layers, tried, seen, ran.batches, forward, progress)
            chosen = ran.no_worse(ran.settings(ranges))
        else:
            ranges = _by_magnitude(ran, seen, method, percentile, deviations)
            chosen = ran.settings(ranges)
    ran.apply(chosen)
    _warn_of_adc(chosen)
    return model


def _checked(
    model: nn.Module,
    method: str | None,
    percentile: float,
    deviations: float,
    per: str,
    adc: str | None,
    adc_per: str,
) -> dict[str, AnalogLayer]:
    layers = {name: layer for name, layer in analog_layers(model) if layer.takes_range}
    if not layers:
        raise ValueError(
            "calibrate: the model has no analog layer with an input range; call "
            "analogtorch.convert(model, chip) first"
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
    if adc is not None and all(layer.chip.adc.levels == 0 for layer in layers.values()):
        raise ValueError(
            f"calibrate: adc={adc!r} needs an ADC, but the chips of all layers have none; leave "
            "adc out"
        )
    if adc is None and adc_per != "layer":
        raise ValueError(
            f"calibrate: adc_per={adc_per!r} needs adc, which says how to find the bounds, such as "
            "'mse'"
        )
    if method is None and (adc is None or per != "layer"):
        raise ValueError(
            "calibrate: method=None fixes no input range, so that it needs adc, such as adc='mse', "
            f"and takes no per='tile'; got adc={adc!r}, per={per!r}"
        )
    return layers


@contextlib.contextmanager
def _unrouted_on_error() -> Iterator[list[Callable[[], None]]]:
    """Yield a list of functions that undo routes, and call them if the context fails."""
    routes: list[Callable[[], None]] = []
    try:
        yield routes
    except BaseException:
        for back in routes:
            back()
        raise


@contextlib.contextmanager
def _as_before(layers: dict[str, AnalogLayer]) -> Iterator[None]:
    """Restore ranges, whether they are known, and ADC ranges at the end of the context."""
    with torch.inference_mode(False):  # what is put back must be able to learn
        before = [(layer, *_kept(layer)) for layer in layers.values()]
    try:
        yield
    finally:
        for layer, attributes, values, grad, learns in before:
            for name, value in attributes.items():
                setattr(layer, name, value)
            r = layer.input_range
            if r.shape != values.shape:
                r.data = values
            r.requires_grad_(False).copy_(values)
            r.requires_grad_(learns).grad = grad


def _kept(layer: AnalogLayer) -> tuple[dict[str, Any], Any, Any, bool]:
    """Return what calibration changes of a layer.

    The values of its DAC range are apart, as it stays the same Parameter.
    """
    names, r = ("adc_ranges", "output_ranges", "calibrated", "input_range"), layer.input_range
    return (
        {name: getattr(layer, name) for name in names},
        r.detach().clone(),
        r.grad,
        r.requires_grad,
    )


def _warn_of_adc(chosen: Mapping[str, Setting]) -> None:
    """Name the layers whose error the range of the ADC decides.

    Their partial sums use little of that range.
    """
    found = {name: setting.limits for name, setting in chosen.items()}
    coarse = {
        name: x.adc_error
        for name, x in found.items()
        if x.adc_error > max(ADC_ERROR, x.other_error)
    }
    if coarse:
        worst = sorted(coarse, key=coarse.__getitem__, reverse=True)
        shown = ", ".join(f"{name!r} ({100 * coarse[name]:.0f} %)" for name in worst[:5])
        warnings.warn(
            f"calibrate: the fixed range of the ADC decides the error of {len(coarse)} of "
            f"{len(chosen)} layers, whose partial sums use little of it or are clipped: relative "
            f"error of {shown}. A chip whose ADC range can be set helps, by calibrate(adc='mse', "
            "adc_per='column'), or weights scaled by column, by "
            "chip.replace(periphery={'weight_scale': 'column'}) before convert",
            stacklevel=3,
        )


def _check_seen(name: str, seen: list[Histogram]) -> None:
    if not any(histogram.largest for histogram in seen):
        raise ValueError(
            f"calibrate: layer {name!r} got only zeros; use batches of real data, and more than "
            "one step where that is the state of a recurrent layer"
        )


def _by_magnitude(
    calibration: Calibration,
    seen: Mapping[str, Seen],
    method: str | None,
    percentile: float,
    deviations: float,
) -> dict[str, Ranges]:
    """Return the range of each layer, or those of its row blocks, from its input magnitudes.

    Without a method it is None.
    """
    ranges: dict[str, Ranges] = dict.fromkeys(seen)
    for name, layer in calibration.layers.items() if method is not None else ():
        bits, inputs = layer.chip.dac.bits, seen[name].magnitudes
        steps = 0 if bits is None else 2 ** (bits - 1) - 1
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
