"""The loss of the metric that each analog layer causes when it alone is on the chip."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from analogtorch.calibration.passes import exact_execution
from analogtorch.conversion.kinds import (
    analog_layers,
    check_module,
    refuse_distributed,
    refuse_programmed,
    refuse_unloaded,
    some_layers,
)
from analogtorch.devices import seconds
from analogtorch.evaluate.look import Look
from analogtorch.evaluate.losses import EFFECTS, SINGLE, Effect, LayerLoss, Loss, Sensitivity
from analogtorch.evaluate.metric import Metric, check_metric, direction, finite, measure
from analogtorch.evaluate.sweep import checked_defects, checked_method, chip_seeds, label
from analogtorch.nn import AnalogLayer, Tap, tapped
from analogtorch.nn.programmed import Programmed
from analogtorch.ops.slices import cells
from analogtorch.simulate.chip import beyond_data, program
from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.copied import copied
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.recovery import Recovery
from analogtorch.simulate.writing import Method
from analogtorch.values import checks
from analogtorch.values.progress import Progress


def sensitivity(
    model: nn.Module,
    metric: Metric,
    *,
    effects: Effect | Iterable[Effect] = EFFECTS,
    time: str | float = "1 year",
    num_chips: int = 3,
    seed: int = 0,
    compensation: Compensation = "least_squares",
    method: Method | None = None,
    defects: Defects | None = None,
    recovery: Recovery | None = None,
    higher_is_better: bool | None = None,
    progress: bool = False,
) -> Sensitivity:
    """Measure what a metric loses when one analog layer is on the chip and the others are exact.

    Each effect includes those before it. ``bits``: quantised inputs and outputs with exact weights,
    as in ``eval()``. ``output_noise``: the noise of each MVM as well, which is output noise and
    ``mvm_read_noise``, still with exact weights. ``noise``: a programmed chip right after
    programming (``"0 s"``), with the errors that its converters, cells and wires have of their own,
    such as offsets of ADCs. ``drift``: the same chip at ``time``. Chip ``i`` is the one that
    ``sweep`` measures with the same ``seed``. The metric runs once per layer and effect: on the
    first chip for ``output_noise``, on every chip for ``noise`` and ``drift``.

    Args:
        model: a converted model. It is copied and stays as it is, whatever the metric does.
        metric: a function of a model in evaluation mode that returns a number, such as the
            accuracy.
        effects: the effects to measure.
        time: the time after programming of ``drift``, as ``ProgrammedChip.at`` takes it.
        num_chips: number of chips, >= 1.
        seed: seed of the whole experiment, a signed 64-bit integer.
        compensation: drift compensation, as ``ProgrammedChip.at`` takes it.
        method: how the cells are written, as ``program`` takes it.
        defects: which share of each chip is broken, as ``program`` takes it: part of ``noise`` and
            ``drift``.
        recovery: what each chip corrects of itself in ``noise`` and ``drift``, such as gain and
            offset of its columns, as ``sweep`` takes it, with all layers on the chip; None:
            nothing.
        higher_is_better: True if a worse model has a smaller metric, such as an accuracy; False for
            an error; None: as the metric says.
        progress: if True, show a progress bar.

    Returns:
        The losses by layer and effect; print them for a table.

    Raises:
        ValueError: the model has no analog layer, is a programmed chip or on the meta device, an
            effect is unknown, ``num_chips`` is below 1, ``program`` or ``at`` refuses its
            arguments, the metric is NaN or infinite, or the recovery fails on a chip.
        TypeError: the metric returns no number, or ``method``, ``defects`` or ``recovery`` is of
            another type.

    Example:
        >>> found = at.sensitivity(model, lambda chip: at.accuracy(chip, batches))
        >>> print(found)
        >>> print(found.suggest(0.01))
    """
    check_module("sensitivity", model)
    check_metric("sensitivity", metric)
    layers, chosen = some_layers(model, "sensitivity"), _chosen(effects)
    refuse_programmed(model, "sensitivity")
    refuse_distributed(model, "sensitivity")
    refuse_unloaded(model, "sensitivity")
    num_chips = checks.count("sensitivity: num_chips", num_chips)
    look = Look(compensation=compensation, recovery=recovery)
    look.check("sensitivity")
    method = checked_method("sensitivity", method)
    defects = checked_defects("sensitivity", defects)
    higher_is_better = direction("sensitivity", metric, higher_is_better)
    end = seconds(time)  # it must be a time, whatever the effects
    notes = beyond_data(model, end) if "drift" in chosen else []
    seeds = chip_seeds(seed, num_chips)
    reference, values = _measured(
        model, metric, chosen, time, seeds, look, method, defects, progress
    )
    sign = 1 if higher_is_better else -1
    lost = {
        e: sign * (reference - torch.tensor(v, dtype=torch.float64, device="cpu"))
        for e, v in values.items()
    }
    found = [{e: _over_chips(v[:, i]) for e, v in lost.items()} for i in range(len(layers) + 1)]
    rows = [
        _row(name, layer, loss)
        for (name, layer), loss in zip(layers.items(), found[1:], strict=True)
    ]
    return Sensitivity(
        rows=tuple(sorted(rows, key=lambda row: -row.loss[chosen[-1]].mean)),
        reference=reference,
        total=found[0],
        effects=chosen,
        time=label(time),
        note="; ".join(notes),
        seeds=seeds,
    )


def _measured(
    model: nn.Module,
    metric: Metric,
    effects: tuple[Effect, ...],
    time: str | float,
    seeds: tuple[int, ...],
    look: Look,
    method: Method | None,
    defects: Defects | None,
    progress: bool,
) -> tuple[float, dict[Effect, list[list[float]]]]:
    """Return the metric with all layers exact, and its values by effect and chip.

    The values of one chip are those with all layers on the chip, then with each layer alone.
    """
    plain = dataclasses.replace(look, recovery=None)
    time_of: dict[Effect, str | float] = {"output_noise": "0 s", "noise": "0 s", "drift": time}
    times = {effect: t for effect, t in time_of.items() if effect in effects}
    values: dict[Effect, list[list[float]]] = {effect: [] for effect in effects}
    layers = sum(1 for _ in analog_layers(model))
    turns = sum(1 if effect in SINGLE else len(seeds) for effect in effects)
    with Progress(
        total=1 + (layers + 1) * turns,
        desc="layers x effects x chips",
        unit="run",
        disable=not progress,
    ) as bar:
        quantised = _Apart(_copy(model), metric, bar)
        reference = quantised.exact()
        if "bits" in effects:
            values["bits"].append(quantised.each("bits"))
        for number, chip_seed in enumerate(seeds):
            wanted = {
                effect: t for effect, t in times.items() if number == 0 or effect not in SINGLE
            }
            if not wanted:
                break
            parts: dict[Defects | None, list[Effect]] = {}
            for effect in wanted:  # what is broken has no exact weights
                parts.setdefault(None if effect in SINGLE else defects, []).append(effect)
            for broken, of in parts.items():
                physical = program(model, seed=chip_seed, method=method, defects=broken)
                physical.warned.update(beyond_data(model, seconds(time)))  # the report has the note
                for effect in of:
                    alone = effect in SINGLE  # exact weights have nothing to correct
                    view = (plain if alone else look).at(physical)(seconds(wanted[effect]))
                    on_chip = _Apart(view, metric, bar, exact_weights=alone)
                    values[effect].append(on_chip.each(f"{effect}, chip {number}"))
                    del view, on_chip
                del physical  # the next chip has its memory
    return reference, values


def _chosen(effects: Effect | Iterable[Effect]) -> tuple[Effect, ...]:
    """Return the effects in their order, each once."""
    if not isinstance(effects, Iterable):
        raise ValueError(f"sensitivity: effects must be some of {EFFECTS}, got {effects!r}")
    given = [effects] if isinstance(effects, str) else list(effects)
    if not given:
        raise ValueError(f"sensitivity: effects must be some of {EFFECTS}, got none")
    for effect in given:
        checks.choice("sensitivity: each of effects", effect, EFFECTS)
    return tuple(effect for effect in EFFECTS if effect in given)


def _copy(model: nn.Module) -> nn.Module:
    """Return the model in evaluation mode; it shares its weights and copies all else."""
    weights = [layer.weight for _, layer in analog_layers(model)]
    shared = {id(w): nn.Parameter(w.detach(), requires_grad=False) for w in weights}
    return copied(model, shared)


def _exactly(layer: AnalogLayer) -> Programmed | None:
    """Return what a chip would hold of the layer without errors, but with its noise.

    Its devices take the weights exactly, and neither converters, cells nor wires bend its MVMs.
    """
    held = layer.programmed
    if held is None:
        return None
    matrix = layer.placed_matrix(layer.weight.detach())
    return Programmed(
        weights=tuple(cells(section, matrix) for section in layer.sections),
        scales=held.scales,
        gains=tuple(map(torch.ones_like, held.gains)),
        keys=held.keys,
        negatives=held.negatives,
        read_variances=held.read_variances,
        origin=held.origin,
    )


class _Apart:
    """A model of which one layer at a time is on the chip.

    With ``exact_weights`` it changes what the given model holds.
    """

    def __init__(
        self,
        model: nn.Module,
        metric: Metric,
        bar: Any,
        *,
        exact_weights: bool = False,
    ) -> None:
        self.model, self.metric, self.bar = model, metric, bar
        self.layers = dict(analog_layers(model))
        self.off = {layer: Tap(execution=exact_execution(layer)) for layer in self.layers.values()}
        for layer in self.layers.values() if exact_weights else ():
            layer.programmed = _exactly(layer)

    def each(self, effect: str) -> list[float]:
        """Return the metric with all layers on the chip, then with each layer alone."""
        values = [self._measure(f"all layers on the chip ({effect})", self.layers)]
        for name in self.layers:
            what = f"only layer {name or '(root)'!r} on the chip ({effect})"
            values.append(self._measure(what, [name]))
        return values

    def exact(self) -> float:
        """Return the metric with no layer on the chip."""
        return self._measure("all layers exact", [])

    def _measure(self, what: str, on_chip: Iterable[str]) -> float:
        self.model.eval()
        off = dict(self.off)
        for name in on_chip:
            layer = self.layers[name]
            del off[layer]
            if layer.programmed is not None:
                layer.hold(layer.programmed)  # its output noise starts from the first input again
        with tapped(off):
            value = finite("sensitivity", measure(self.metric, self.model), f"with {what}")
        self.bar.update()
        return value


def _over_chips(losses: torch.Tensor) -> Loss:
    return Loss(
        mean=losses.mean().item(), std=losses.std(correction=1 if len(losses) > 1 else 0).item()
    )


def _row(name: str, layer: AnalogLayer, loss: dict[Effect, Loss]) -> LayerLoss:
    return LayerLoss(
        name=name,
        weights=layer.weight.numel(),
        blocks=sum(section.tile_blocks for section in layer.sections),
        cell=layer.chip.cell,
        loss=loss,
    )
