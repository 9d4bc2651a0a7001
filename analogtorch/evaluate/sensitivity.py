"""The loss of the metric that each analog layer causes when it alone is on the chip."""

import dataclasses
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from analogtorch.conversion.kinds import analog_layers
from analogtorch.devices import seconds
from analogtorch.evaluate.apart import Apart, Kept, apart_copy
from analogtorch.evaluate.checked import checked_defects, checked_method, chip_seeds, measurable
from analogtorch.evaluate.conditions import conditions
from analogtorch.evaluate.experiment import experiment
from analogtorch.evaluate.journal import Journal, Unkept
from analogtorch.evaluate.journal import key as time_key
from analogtorch.evaluate.look import Look
from analogtorch.evaluate.losses import EFFECTS, SINGLE, Effect, LayerLoss, Loss, Sensitivity
from analogtorch.evaluate.metric import Metric, bounds_of, check_metric, direction, heading
from analogtorch.evaluate.metric_identity import kept_of
from analogtorch.evaluate.times import label
from analogtorch.nn import AnalogLayer
from analogtorch.simulate.chip import ProgrammedChip, beyond_data, program
from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.recovery import Recovery
from analogtorch.simulate.writing import Method
from analogtorch.values import checks
from analogtorch.values.progress import Progress
from analogtorch.values.warned import warn


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
    folder: str | Path | None = None,
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
        folder: a folder that stores each measurement as soon as it is made, as that of ``sweep``:
            called again with the same model and options, ``sensitivity`` measures only what it
            lacks; more chips, effects and other times may be added. None stores nothing. One
            folder per metric and set of samples.
        progress: if True, show a progress bar.

    Returns:
        The losses by layer and effect; print them for a table.

    Raises:
        ValueError: the model has no analog layer, is a programmed chip or on the meta device, an
            effect is unknown, ``num_chips`` is below 1, ``program`` or ``at`` refuses its
            arguments, the metric is NaN or infinite, the recovery fails on a chip, or the folder
            holds another experiment.
        TypeError: the metric returns no number, ``method``, ``defects`` or ``recovery`` is of
            another type; or, with a folder, batches hold what has no digest, as in ``sweep``.
        OSError: the folder cannot be written.

    Warns:
        UserWarning: layers did not run while they were on the chip.

    Example:
        >>> found = at.sensitivity(model, lambda chip: at.accuracy(chip, batches))
        >>> print(found)
        >>> print(found.suggest(0.01))
    """
    layers = measurable("sensitivity", model)
    check_metric("sensitivity", metric)
    chosen = _chosen(effects)
    num_chips = checks.count("sensitivity: num_chips", num_chips)
    look = Look(compensation=compensation, recovery=recovery)
    look.check("sensitivity")
    method = checked_method("sensitivity", method)
    defects = checked_defects("sensitivity", defects)
    higher_is_better = direction("sensitivity", metric, higher_is_better)
    bounds = bounds_of("sensitivity", metric)
    end = seconds(time)  # it must be a time, whatever the effects
    notes = beyond_data(model, end) if "drift" in chosen else []
    seeds = chip_seeds(seed, num_chips)
    journal: Journal | Unkept = Unkept()
    if folder is not None:
        whole = experiment("sensitivity", model, seed, look, method, defects)
        journal = Journal(folder, whole, kept_of(metric), caller="sensitivity")
    reference, values, idle = _measured(
        model, metric, chosen, time, seeds, look, method, defects, journal, progress
    )
    sign = 1 if higher_is_better else -1
    lost = {
        e: sign * (reference - torch.tensor(v, dtype=torch.float64, device="cpu"))
        for e, v in values.items()
    }
    found = [{e: _over_chips(v[:, i]) for e, v in lost.items()} for i in range(len(layers) + 1)]
    # what a metric runs in a copy of the model, or elsewhere, is not seen to run, but has a loss
    silent = [n for n, of in zip(layers, found[1:], strict=True) if n in idle and _no_loss(of)]
    if silent and len(idle) < len(layers):
        warn(
            f"sensitivity: {len(silent)} of {len(layers)} layers did not run while they were on "
            f"the chip, and so show no loss: {', '.join(map(repr, silent))}. Either the metric's "
            "inputs do not reach them, or the model computes with their weights without calling "
            "them, which is digital. analogtorch.guard(model, example) routes to a layer what it "
            "computes, and names the rest"
        )
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
        bounds=bounds,
        recovery="" if recovery is None else recovery.summary,
        conditions=tuple(conditions(method, defects, compensation).values()),
        metric=heading(metric),
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
    journal: Journal | Unkept,
    progress: bool,
) -> tuple[float, dict[Effect, list[list[float]]], set[str]]:
    """Return the metric with all layers exact, its values by effect and chip, and idle layers.

    The values of one chip are those with all layers on the chip, then with each layer alone. A
    layer is idle if it did not run while it was on the chip.
    """
    times: dict[Effect, str | float] = {"output_noise": "0 s", "noise": "0 s", "drift": time}
    names = [name for name, _ in analog_layers(model)]
    plain = dataclasses.replace(look, recovery=None)
    values: dict[Effect, list[list[float]]] = {effect: [] for effect in effects}
    idle: set[str] = set()
    turns = sum(1 if effect in SINGLE else len(seeds) for effect in effects)
    reference = math.nan
    with Progress(
        total=1 + (len(names) + 1) * turns,
        desc="layers x effects x chips",
        unit="run",
        disable=not progress,
    ) as bar:
        for number, chip_seed in enumerate(seeds):
            with journal.claim(number, wait=True):
                kept = Kept(journal, number, chip_seed, bar.update)
                if number == 0:
                    quantised = Apart(names, partial(apart_copy, model), metric, kept)
                    reference = quantised.exact()
                    if "bits" in effects:
                        values["bits"].append(quantised.each("bits", "bits"))
                        idle |= quantised.idle
                chip = _Chip(model, chip_seed, method, seconds(time))
                for effect in effects:
                    if effect == "bits" or (number and effect in SINGLE):
                        continue
                    single = effect in SINGLE  # exact weights: nothing to correct, nothing broken
                    how, broken = (plain, None) if single else (look, defects)
                    made = partial(chip.at, seconds(times[effect]), how, broken)
                    on_chip = Apart(names, made, metric, kept, exact_weights=single)
                    key = f"{effect} at {time_key(seconds(time))}" if effect == "drift" else effect
                    values[effect].append(on_chip.each(key, f"{effect}, chip {number}"))
                    idle |= on_chip.idle
                    del on_chip  # the next has its memory
    return reference, values, idle


class _Chip:
    """The chip of a seed, programmed when it is first read, and again for other defects."""

    def __init__(
        self, model: nn.Module, seed: int, method: Method | None, latest: float | None
    ) -> None:
        self.model, self.seed, self.method, self.latest = model, seed, method, latest
        self._made: tuple[ProgrammedChip, Defects | None] | None = None

    def at(self, time: float | None, look: Look, defects: Defects | None) -> nn.Module:
        """Return the model on the chip at a time, s; None: right after programming."""
        if self._made is None or self._made[1] != defects:
            self._made = None  # two at a time would take twice the memory
            physical = program(self.model, seed=self.seed, method=self.method, defects=defects)
            physical.warned.update(beyond_data(self.model, self.latest))  # the report has the note
            self._made = physical, defects
        return look.at(self._made[0])(time)


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


def _over_chips(losses: torch.Tensor) -> Loss:
    return Loss(
        mean=losses.mean().item(), std=losses.std(correction=1 if len(losses) > 1 else 0).item()
    )


def _no_loss(losses: dict[Effect, Loss]) -> bool:
    return all(loss.mean == loss.std == 0 for loss in losses.values())


def _row(name: str, layer: AnalogLayer, loss: dict[Effect, Loss]) -> LayerLoss:
    return LayerLoss(
        name=name,
        weights=layer.weight.numel(),
        blocks=sum(section.tile_blocks for section in layer.sections),
        cell=layer.chip.cell,
        loss=loss,
    )
