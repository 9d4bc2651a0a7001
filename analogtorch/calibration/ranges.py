"""``calibrate``: the full scales of each layer's converters, from its inputs."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from analogtorch.calibration import adc as converters
from analogtorch.calibration.adc import Wanted
from analogtorch.calibration.batches import check_given
from analogtorch.calibration.choice import CalibrationReport, Effort
from analogtorch.calibration.default import Default
from analogtorch.calibration.described import taken_back, warn_of_adc
from analogtorch.calibration.histogram import Method
from analogtorch.calibration.inputs import by_magnitude, heard, observe, warn_of_means
from analogtorch.calibration.options import Way
from analogtorch.calibration.passes import Forward, check_finite
from analogtorch.calibration.search import Search, parts
from analogtorch.calibration.settings import Calibration, held_back, undone
from analogtorch.conversion.kinds import (
    analog_layers,
    refuse_distributed,
    refuse_programmed,
    refuse_unloaded,
)
from analogtorch.conversion.restored import same_random
from analogtorch.conversion.route import routed_as_before_on_error
from analogtorch.conversion.taken import refuse_taken
from analogtorch.conversion.unread import forgotten_unless_error
from analogtorch.nn import AnalogEmbedding, AnalogLayer
from analogtorch.values import checks

Per = Literal["layer", "tile"]

JUDGED = 16
"""Most batches that a default calibration judges on: it runs them on noisy chips for each trial."""

PERCENTILE, DEVIATIONS = 99.9, 3.0
"""Defaults of the options of ``calibrate`` with these names."""


def print_search(found: CalibrationReport) -> None:
    """Print the report of a search; other efforts take no longer than a report takes to read."""
    if found.effort == "search":
        print(found)


@torch.no_grad()
def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    effort: Effort = "default",
    method: Method | None = "mse",
    percentile: float = PERCENTILE,
    deviations: float = DEVIATIONS,
    per: Per = "layer",
    adc: converters.Adc | None = None,
    adc_per: converters.AdcPer = "layer",
    allow_unused: bool = False,
    forward: Forward | None = None,
    progress: bool = False,
    report: Callable[[CalibrationReport], object] | None = print_search,
) -> nn.Module:
    """Set the ranges of DACs and of the digital unit for every analog layer, from its inputs.

    The model runs in evaluation mode and without noise. First the inputs of every layer are
    collected, without padding (``attention_mask``; of states of recurrent layers only if sequences
    are packed), and a DAC range is chosen for each. Then the partial sums with these ranges give
    the full scales behind the array: ADC ranges if ``adc`` is given, and, on a chip whose digital
    unit rounds (``hermes64``), the range of each row block and column (``output_ranges``).

    With ``method="mse"`` the DAC range is chosen by measuring. A layer multiplies up to
    2,048 of its own input vectors as the chip would, with programming noise, DAC, ADC and output
    noise, for up to 16 candidates. These are ranges from the largest input down to the 90th
    percentile, and a range per vector, which is the largest input of the vector. Where the ADC
    clips the sums of large inputs, as it does in recurrent layers, ranges of up to 64 times the
    largest input are tried too: the sums become smaller with them, and the DAC's steps larger. The
    candidate with the least mean of ``||error|| / ||output||`` is taken. A range per vector is
    taken only if its error is below 0.7 of that of the best fixed range, because the digital side
    must scale each vector: an MVM of n inputs and m outputs takes n comparisons and n
    multiplications of the inputs, and m multiplications of the outputs. Inputs with heavy tails
    need it, such as those of language models. ``summary`` lists these layers.

    The default does more, by the error of the model's outputs on the last quarter of the batches
    (16 at most), which is used for nothing else; with fewer than four batches, all are used for
    both. A last batch of under half the inputs of the first joins them. It runs there on two noisy
    chips, drawn from a fixed seed: devices are programmed, drift for a day and are read, and a
    digital factor per block or column corrects them. If fixed DAC ranges cost over a tenth of
    the error of a range per vector, and over 0.005 of the variance of the outputs, all layers get a
    range per vector, where that errs less with rounded outputs. Where the digital unit scales
    columns (``Periphery.column_calibration`` or ``output_bits``), the devices of all layers are
    written to targets that allow for a day of drift (``Chip.drift_aware``) if that lowers the error
    of the uncalibrated model by over 1 % and beyond chance, and all layers get a weight scale per
    column if that saves over a tenth of it; the chips of the layers then change. Where a layer
    needs a range beyond its largest input, the model with measured ranges is compared instead, as
    both make sums larger. ``effort="ranges"`` does none of it: the chips stay as they are.

    At the end, both compare the outputs without noise with those of the uncalibrated model. If the
    calibrated model is worse, all layers get a range per vector; if that is worse too, and costs on
    noisy chips as well what fixed ranges may not cost there, the model is left without ranges, with
    a warning; what was chosen for its chips stays. Worse means that the angle to the digital
    outputs is larger and that more output vectors have their largest number at another index: more
    by over 1 % of the vectors and by over two standard errors. Real and imaginary parts count, and
    NaN of the digital model does not. The other methods make no comparison and change no chip.

    ``effort="search"`` tries more settings of all layers together on such chips: DAC ranges
    measured for each layer or row block, by percentile or per vector, targets that allow for drift,
    a weight scale per column, and, if ``adc`` is given, ADC ranges or those of the chip. Then up to
    32 layers, the one that causes most of the error first, try the three next best settings alone.
    Ranges are found on the first half of the batches, chosen on the next quarter (four batches at
    most), and judged on the last. The model keeps what errs least there: the search, what the
    default would give it, or no calibration. It takes several times as long as the default, tens of
    times with many layers. Batches should be shuffled, so that each part has all kinds of inputs.

    By default and in a search, a warning names the layers whose inputs have a mean of twice their
    standard deviation or more: errors of the cells multiply it, and give each column an offset.
    Another names those whose partial sums use so little of the ADC's fixed range, or exceed
    it so often, that the ADC's error is more than 10 % of the sums and larger than the errors of
    DAC, programming and output noise.

    The call also checks that nothing bypasses the analog layers. Where the model calls a layer by
    its weight, the call is routed to the layer, as by ``analogtorch.guard``. A layer that never ran
    is an error; a warning names those that run and by whose weights the model also multiplies
    elsewhere. Embeddings have no DAC range, and their outputs are the rows of their table: where
    the digital unit rounds, its ranges come from all of these, whatever the batches hold. Training
    mode, weights and random state are as before; calibrating again replaces all ranges.

    What an earlier call chose for the chips, a later one takes back before it chooses: it starts
    from the chip of the conversion, or that was assigned since (``given_chip`` of the layer), so
    that the last call alone decides, and its report names what is gone. Layers that it does not
    reach (``allow_unused``) keep theirs. ``effort="ranges"`` and the other methods keep the
    choices, for which a net may have been trained.

    Args:
        model: a converted model.
        batches: inputs, read once and kept in memory. A tensor or a ``PackedSequence`` is passed to
            the model, as a list of tensors is if it is annotated to take one; else of a tuple or
            list the first element, and a mapping as keyword arguments, or as it is if ``forward``
            has one argument, of another name than all keys. Runs get copies of caches in batches.
        effort: ``ranges``, ``default`` or ``search``, as described above; a search takes no
            ``method`` and ``per``, and needs three batches.
        method: ``mse`` measures, as described above. The others use the magnitudes of the inputs
            alone, in bins 1.6 to 3.1 % wide: ``percentile`` takes that percentile, ``absmax`` the
            largest, and ``std`` a multiple of the standard deviation over all batches, which suits
            a range that then learns in training. None: every layer keeps a range per vector, and
            gets those behind the array alone; that needs a digital unit that rounds, or ``adc``.
        percentile: percentile in (0, 100] for ``percentile`` of ``method`` and ``adc``, and for a
            search; 99.9 unless it is given.
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
        allow_unused: if True, leave a layer that the batches do not reach, or only with zeros, as
            it is instead of raising an error; examples are a head that only helps in training, and
            the values of the first attention in a decoder of DETR. A bypassed layer is an error all
            the same, as for ``analogtorch.guard``.
        forward: a function that runs the model on a batch, ``forward(model, batch)``, if the rule
            above does not fit. What it returns is compared at the end, without detections:
            mappings with ``boxes``, ``scores`` and integer ``labels``, as those of torchvision,
            whose order and number depend on the chip.
        progress: if True, show a progress bar.
        report: a function that gets the ``CalibrationReport``, such as ``print`` or
            ``found.append`` of a list, before the model changes; None: no report. If not given,
            that of a search is printed. Other methods than ``mse`` make none.

    Returns:
        The model.

    Raises:
        TypeError: ``model`` is no module, ``batches`` is one batch, or a batch is of another type.
        ValueError: the model is distributed; there is no analog layer or no batch; a layer never
            ran, or got only zeros (see ``allow_unused``); the percentile of the inputs of a layer
            is zero; an input is NaN or infinite; ``adc`` is given and there is no ADC; a search has
            fewer than three batches or no finite outputs to compare; or an option is not allowed,
            or has no effect beside the others.
        Exception: what the model raises, with a note that names the batch.

    Warns:
        UserWarning: fixed ranges are worse than none, there are no outputs to compare, the model
            also multiplies by the weights of layers elsewhere, the inputs of a layer have a mean
            far from 0, the range of an ADC decides the error of a layer, or the model draws random
            numbers in evaluation mode.

    After an error the model is unchanged.

    Example:
        >>> model = at.convert(torch.nn.Sequential(torch.nn.Linear(64, 10)), at.chips.hermes64())
        >>> _ = at.calibrate(model, [torch.randn(100, 64) for _ in range(4)])
    """
    check_given("calibrate", model, batches)
    refuse_distributed(model, "calibrate")
    _check_values(
        "calibrate",
        effort=effort,
        method=method,
        percentile=percentile,
        deviations=deviations,
        per=per,
        adc=adc,
        adc_per=adc_per,
        allow_unused=allow_unused,
        forward=forward,
        report=report,
    )
    layers = _checked(model, method, per, adc)
    wanted = None if adc is None else Wanted(method=adc, per=adc_per, percentile=percentile)
    batches, found = list(batches), None
    before = {name: layer.chip for name, layer in layers.items()}
    fitted, judged = held_back(batches, JUDGED) if method == "mse" else (batches, batches)
    whole = by_default = Calibration(model, layers, fitted, judged, wanted, forward, progress)
    if effort == "search":
        fitted, chosen_on, judged = parts(batches)
        whole = dataclasses.replace(whole, batches=fitted, judged=judged)
    tables = _tables(model)
    with (
        routed_as_before_on_error(model),
        forgotten_unless_error(model),
        _as_before([*layers.values(), *tables]),
        same_random(),
    ):
        whole.forget()
        _round(tables)
        if effort == "search" or (effort == "default" and method == "mse"):
            whole.take_back()
        with whole.without_converters():
            seen = observe(
                model, layers, per, whole.batches, forward, progress,
                route=True, allow_unused=allow_unused,
            )  # fmt: skip
        seen = heard(seen, allow_unused)
        ran = dataclasses.replace(whole, layers={name: layers[name] for name in seen})
        if effort == "search":
            by_default = dataclasses.replace(by_default, layers=ran.layers)
            chosen, found = Search(ran, seen, chosen_on, judged, percentile, by_default).run()
        elif method == "mse":
            way: Way = "measured" if per == "layer" else "tile"
            default = Default(ran, seen, effort, way)
            chosen, found = default.run()
            default.warn()
        else:
            ranges = by_magnitude(ran.layers, seen, method, percentile, deviations)
            chosen = ran.settings(ranges)
        warn_of_adc(chosen, before, effort if method == "mse" else None)
        if method == "mse" and effort != "ranges":  # those are for nets that have learnt for a chip
            warn_of_means(ran.layers, seen)
        if found is not None and report is not None:
            notes = (*found.notes, *taken_back(chosen, before))
            report(dataclasses.replace(found, notes=notes))
    ran.apply(chosen)
    _round(tables)
    return model


def check_options(caller: str, given: Mapping[str, Any]) -> None:
    """Raise an error for options that ``calibrate`` does not take, whatever the model.

    Args:
        caller: what the options are given to, for the message.
        given: the options by name.

    Raises:
        ValueError: there is no option of a name, or it does not take the value.
        TypeError: a function is of another type.
    """
    parameters = inspect.signature(calibrate).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    if unknown := [name for name in given if name not in known]:
        raise ValueError(
            f"{caller} has no option {unknown[0]!r}{checks.nearest(unknown[0], known)}; calibrate "
            f"takes {', '.join(known)}"
        )
    values = known | dict(given)
    del values["progress"]
    _check_values(caller, **values)


def _check_values(
    caller: str,
    *,
    effort: str,
    method: str | None,
    percentile: float,
    deviations: float,
    per: str,
    adc: str | None,
    adc_per: str,
    allow_unused: bool,
    forward: Any,
    report: Any,
) -> None:
    for name, value, allowed in (
        ("effort", effort, get_args(Effort)),
        ("method", method, (*get_args(Method), None)),
        ("per", per, get_args(Per)),
        ("adc", adc, (None, *get_args(converters.Adc))),
        ("adc_per", adc_per, get_args(converters.AdcPer)),
    ):
        checks.choice(f"{caller}: {name}", value, allowed)
    checks.number(f"{caller}: percentile", percentile, above=0, most=100)
    checks.number(f"{caller}: deviations", deviations, above=0, remedy="write one such as 3")
    checks.flag(f"{caller}: allow_unused", allow_unused)
    checks.function(f"{caller}: forward", forward, "forward(model, batch)")
    checks.function(f"{caller}: report", report, "report(found)")
    if adc is None and adc_per != "layer":
        raise ValueError(
            f"{caller}: adc_per={adc_per!r} needs adc, which says how to find ADC ranges, such as "
            "adc='mse'"
        )
    by_percentile = "percentile" in (method, adc) or effort == "search"
    if percentile != PERCENTILE and not by_percentile:
        raise ValueError(
            f"{caller}: percentile={percentile!r} has no effect with method={method!r} and "
            f"adc={adc!r}; pass method='percentile' or adc='percentile' too, or leave it out"
        )
    if deviations != DEVIATIONS and method != "std":
        raise ValueError(
            f"{caller}: deviations={deviations!r} has no effect with method={method!r}; pass "
            "method='std' too, or leave it out"
        )
    if effort == "search" and (method != "mse" or per != "layer"):
        raise ValueError(
            f"{caller}: effort='search' chooses how DAC ranges are found, so it takes no method "
            f"and per; got method={method!r}, per={per!r}; leave them out, or leave effort out"
        )


def _checked(
    model: nn.Module, method: str | None, per: str, adc: str | None
) -> dict[str, AnalogLayer]:
    found = dict(analog_layers(model))
    layers = {name: layer for name, layer in found.items() if layer.takes_range}
    tables = [layer for layer in found.values() if isinstance(layer, AnalogEmbedding)]
    rounds = any(x.chip.periphery.output_bits for x in (*layers.values(), *tables))
    if not layers and not rounds:
        raise ValueError(
            "calibrate: the model has no analog layer with a DAC range (sensors and embeddings "
            "have none); call analogtorch.convert(model, chip) first"
        )
    refuse_programmed(model, "calibrate")
    refuse_taken(model, "calibrate")
    refuse_unloaded(model, "calibrate")
    for name, layer in found.items():
        if not (is_lazy(layer.weight) or layer.weight.is_meta):
            check_finite("calibrate", f"the weight of layer {name!r}", layer.weight)
    if adc is not None and all(layer.chip.adc.levels == 0 for layer in layers.values()):
        raise ValueError(
            f"calibrate: adc={adc!r} needs an ADC, but the chips of all layers with a DAC range "
            "have none; leave adc out"
        )
    if method is None and (per != "layer" or (adc is None and not rounds)):
        raise ValueError(
            "calibrate: method=None fixes no DAC range, so that it takes no per='tile', and on "
            "chips without a digital unit that rounds (Periphery.output_bits) it needs adc, such "
            f"as adc='mse'; got adc={adc!r}, per={per!r}"
        )
    return layers


def _tables(model: nn.Module) -> dict[AnalogLayer, Tensor | None]:
    """Return the embeddings of a model, with the ranges in which the digital unit is to round."""
    return {
        layer: converters.ranges_of_table(name, layer)
        for name, layer in analog_layers(model)
        if isinstance(layer, AnalogEmbedding)
    }


def _round(tables: Mapping[AnalogLayer, Tensor | None]) -> None:
    for layer, ranges in tables.items():
        layer.set_output_ranges(ranges)


@contextlib.contextmanager
def _as_before(layers: Iterable[AnalogLayer]) -> Iterator[None]:
    """Restore ranges, whether they are known, and ADC ranges at the end of the context."""
    undo = undone(layers)
    try:
        yield
    finally:
        undo()
