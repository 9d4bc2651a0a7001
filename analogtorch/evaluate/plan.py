"""The cheapest choice of digital layers and of devices per weight that keeps a metric."""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from torch import nn

from analogtorch.calibration.passes import exactly
from analogtorch.chips import Chip
from analogtorch.conversion import analog_layers
from analogtorch.conversion.detached import deep_copy
from analogtorch.conversion.example import Example
from analogtorch.conversion.guard import listed
from analogtorch.conversion.route import routes
from analogtorch.cost_model import WeightMemory
from analogtorch.devices import seconds
from analogtorch.evaluate.apart import apart_copy
from analogtorch.evaluate.checked import chip_seeds
from analogtorch.evaluate.conditions import conditions
from analogtorch.evaluate.hardware import Cheapest, Digital, FloorNotReached, HardwarePlan
from analogtorch.evaluate.look import Look
from analogtorch.evaluate.losses import Effect, Sensitivity
from analogtorch.evaluate.metric import Metric, direction, finite, measure
from analogtorch.evaluate.plan_bench import (
    Bench,
    Change,
    Measurement,
    confirmed,
    first_that_keeps,
    improve,
    search,
)
from analogtorch.evaluate.plan_checks import chip_for, device_changes, further
from analogtorch.evaluate.plan_cost import Costs, costs_of
from analogtorch.evaluate.plan_folder import SENSITIVITY, check_folder, measurement_folder
from analogtorch.evaluate.routed import route_calls
from analogtorch.evaluate.sensitivity import sensitivity as measured_sensitivity
from analogtorch.evaluate.suggestion import falling, shares
from analogtorch.evaluate.times import checked_times, label
from analogtorch.evaluate.walks import ANALOG, DIGITAL, Candidate, Table, walk
from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.recovery import Recovery
from analogtorch.values import checks
from analogtorch.values.progress import Progress
from analogtorch.values.warned import warn

_WALKS = 10
"""Most models that are measured for suggestions (2) and for the ends of walks (4) in any case."""
_SHARE = 3
"""Quarters of the plans to measure that walks may take; exchanges of layers take the others."""
_ROUNDING = 1e-6
"""How much a metric of the same model may differ on another machine, as a share."""


def plan(
    model: nn.Module,
    metric: Metric,
    floor: float = 0.99,
    *,
    example: Example,
    chip: Chip | None = None,
    prepare: Callable[[nn.Module], Any] | None = None,
    cheapest: Cheapest = "energy",
    also: Iterable[str | Iterable[str]] = (),
    devices: Mapping[int, Change] | None = None,
    digital: Digital = "int8",
    memory: WeightMemory | None = None,
    signed_inputs: Collection[str] | None = None,
    max_chips: int | None = None,
    max_plans: int = 32,
    sensitivity: Sensitivity | None = None,
    times: Sequence[str | float] = ("1 day",),
    num_chips: int = 3,
    confirm: int = 10,
    seed: int = 0,
    compensation: Compensation = "least_squares",
    recovery: Recovery | None = None,
    higher_is_better: bool | None = None,
    folder: str | Path | None = None,
    progress: bool = False,
) -> HardwarePlan:
    """Find which layers to keep digital, and which to give more devices, to keep a metric cheaply.

    Layers leave the chip one after another, in an order that their sensitivities and costs give
    (``analogtorch.evaluate.walks``); each model on the way is converted, measured on simulated
    chips, and charged by the cost model. Then layers are exchanged while that makes the best
    cheaper. So accuracies are measured, never estimated. All models
    run on the same chips. As in LionHeart (Lammie et al., arXiv 2401.09420), the floor is a share
    of the digital metric.

    Digital layers are charged two operations of ``chip.cost.host`` per multiply-accumulate (MAC),
    those that round their inputs to int8 (``quantise_digital``), what they send and receive through
    the ports, and one read of each weight as a byte (``memory``). A layer with ``n`` times the
    cells is charged ``n`` MVMs for each, one after another where these share a tile.

    Args:
        model: a converted model. It stays as it is.
        metric: a function of a model in evaluation mode that returns a number, such as the
            accuracy; the digital model's must be above 0.
        floor: share of the digital metric to keep, in (0, 1], on the mean over the chips, at each
            of ``times``. An error (``higher_is_better=False``) may be the digital one over it.
        example: input of one inference, as ``map_to_chip`` takes it: a batch of one for costs per
            sample. Calls such as ``F.linear(x, self.qkv.weight)`` that its run shows are routed to
            their layers, as ``convert(example=...)`` does.
        chip: the chip to convert for; None: that of the analog layers, which must all have the
            same. A search by ``calibrate`` may have given them several. None may have several times
            the devices: ``plan`` chooses them.
        prepare: a function that gets each model after ``convert`` and changes it in place, such as
            ``lambda m: at.calibrate(m, batches)``. None: nothing; a calibrated model needs it.
        cheapest: what the best plan has least of: ``energy`` or ``latency`` of an inference, or
            ``digital_macs``, which leaves most work to the chip.
        also: further plans to measure, each the pattern or patterns of the layers that it keeps
            digital, as ``convert(exclude=...)`` takes them: ``["dw*", ("conv1", "head")]``.
        devices: cells with more devices to try, by the unit cells of the chip that one takes, >= 2:
            what ``convert(per_layer=...)`` takes, such as ``{2: {"cell": pairs}}``. None: twice
            the devices, if the cell can have them (``cell.enlarged``). {}: none.
        digital: how layers that are digital compute: ``int8``, by ``quantise_digital``; or
            ``float``, which costs more than the int8 that is charged all the same.
        memory: the memory of digital weights; None: ``WeightMemory()``, which is assumed.
        signed_inputs: names of the matrices whose inputs have both signs, as ``cost`` takes them;
            None means all. Those of layers that a plan keeps digital have no effect on it.
        max_chips: largest number of chips of a plan; None: as many as needed.
        max_plans: largest number of models to measure, >= 12 and >= 10 more than those of ``also``.
            The model without a chip and the sensitivities are not among them. Long walks are
            measured at some steps, and around the floor.
        sensitivity: what ``at.sensitivity`` measured of this model by this metric, with the effect
            ``drift``; None measures it first.
        times: times after programming, as ``ProgrammedChip.at`` takes them.
        num_chips: number of simulated chips, >= 1; with one there are no intervals.
        confirm: number of further chips, >= 0, on which the best plan must keep the floor too,
            since the best of many on a few chips is better there than on others. Where it does not,
            the next cheapest is measured there, converted and prepared again, so that of many these
            chips choose in turn. 0: none.
        seed: seed of the whole experiment, as ``sweep`` has it.
        compensation: drift compensation, as ``ProgrammedChip.at`` takes it.
        recovery: what each chip corrects of itself at each time, as ``sweep`` takes it; its own
            cost is not in the figures.
        higher_is_better: False if the metric is an error; None: as the metric says.
        folder: a folder that stores the sensitivities and the metric of each model on each chip,
            each as soon as it is measured, as that of ``sweep``: called again with the same
            arguments, ``plan`` goes on. Models are converted and prepared again, and the
            metric without a chip is measured again. One folder per metric and set of samples.
        progress: if True, show a progress bar.

    Returns:
        All measured plans, their Pareto front and the best; print it for a table.

    Raises:
        FloorNotReached: no plan keeps the floor; its ``plan`` holds what was measured. It is a
            ValueError.
        ValueError: the floor is not in (0, 1]; the model is no converted one, is programmed, has
            layers on several chips and no ``chip``, layers whose weights take several unit cells,
            or is calibrated while ``prepare`` is missing; the chip has no ``cost``; a pattern
            matches nothing; ``also`` has more plans than ``max_plans`` has room for; no plan takes
            as few chips as ``max_chips``; the metric is NaN, infinite, or not above 0 with all
            layers exact; ``sensitivity`` is of other layers, or its metric with all layers exact is
            another; the folder holds something else; or ``convert``, ``map_to_chip``, ``cost`` or
            ``sweep`` refuse their arguments.
        TypeError: an argument is of another type, or the metric returns no number.
        OSError: the folder cannot be written.

    Example:
        >>> found = at.plan(model, lambda m: at.accuracy(m, batches), 0.99, example=x[:1],
        ...                 prepare=lambda m: at.calibrate(m, [x]))
        >>> print(found)
        >>> again = at.convert(at.to_digital(model), **found.convert_arguments())
    """
    chip = chip_for(model, metric, prepare, chip)
    floor = checks.number(
        "plan: floor", floor, above=0, most=1, what="share", remedy="0.99 is 99 %"
    )
    checks.choice("plan: cheapest", cheapest, get_args(Cheapest))
    higher_is_better = direction("plan", metric, higher_is_better)
    max_plans = checks.count("plan: max_plans", max_plans, least=12)
    confirm = checks.count("plan: confirm", confirm, least=0)
    if max_chips is not None:
        checks.count("plan: max_chips", max_chips)
    Look(compensation=compensation, recovery=recovery).check("plan")
    how = Measurement(
        metric=metric,
        times=tuple(checked_times("plan", times).values()),
        num_chips=checks.count("plan: num_chips", num_chips),
        confirm=confirm,
        seed=seed,
        compensation=compensation,
        recovery=recovery,
        higher_is_better=higher_is_better,
        digital=checks.choice("plan: digital", digital, get_args(Digital)),
        example=example,
        prepare=prepare,
        folder=None if folder is None else checks.path("plan: folder", folder),
    )
    asked = further(model, also)
    _check_room(len(set(asked)), max_plans)
    changes = device_changes(chip, devices)
    costs = costs_of(model, example, chip, memory, signed_inputs)
    model = _routed(model, example)
    found = _sensitivity(model, how, bool(changes), sensitivity, progress)
    slack = (1 - floor) if higher_is_better else (1 / floor - 1)
    losses = _losses(found, tuple(changes))
    offered = _suggested(found, slack * found.reference, tuple(changes))
    walks = [*([each] for each in (*asked, *offered)), *_walks(losses, costs, cheapest)]
    walks = _small(walks, costs, max_chips)
    with Progress(total=max_plans, desc="plans", unit="plan", disable=not progress) as bar:
        bench = Bench(model, chip, changes, costs, how, bar)
        result = HardwarePlan(
            points=(),
            chip=chip,
            reference=found.reference,
            floor=floor,
            digital=digital,
            digital_metric=bench.all_digital(),
            digital_cost=costs.all_digital(),
            signed=costs.signed(),
            cheapest=cheapest,
            times=tuple(map(label, how.times)),
            seeds=chip_seeds(seed, num_chips),
            further_seeds=chip_seeds(seed, num_chips + confirm)[num_chips:],
            higher_is_better=higher_is_better,
            sensitivity=found,
            recovery="" if recovery is None else recovery.summary,
            conditions=tuple(conditions(None, None, compensation).values()),
        )
        for number, each in enumerate(walks):
            left = _SHARE * max_plans // 4 - len(bench.measured)
            search(each, bench.point, result.keeps, left // (len(walks) - number))
        # fewest digital layers first, which are cheap mostly
        spare = sorted({c for walk in walks for c in walk}, key=lambda c: (len(c.digital), c.cells))
        settled = False
        while not settled:
            first_that_keeps(bench, spare, result, max_plans)
            improve(bench, losses, result, max_plans, max_chips)
            settled = not confirm or confirmed(bench, result)
        bar.total = bar.n  # no more are needed
        bar.refresh()
    points = sorted(bench.measured.values(), key=lambda p: p.cost.energy)
    rest = {candidate for walk in walks for candidate in walk} - bench.measured.keys()
    result = dataclasses.replace(result, points=tuple(points), unmeasured=len(rest))
    if result.best is None:
        raise FloorNotReached(result)
    return result


def _check_room(asked: int, max_plans: int) -> None:
    if asked + _WALKS > max_plans:
        raise ValueError(
            f"plan: max_plans={max_plans} has no room for the {asked} plans of also and the "
            f"{_WALKS} that the search may need in any case; write max_plans={asked + _WALKS}, or "
            "drop some"
        )


def _routed(model: nn.Module, example: Example) -> nn.Module:
    """Return the model; a copy of it where calls of layers by their weights have to be routed."""
    copied = deep_copy(model)
    left = route_calls("plan", copied, example)
    if left:
        warn(
            f"plan: {len(left)} analog layers are bypassed: the model multiplies by their weights "
            "without calling them. These products are charged as analog and measured as digital, "
            f"without the errors of the chip.{listed(left)}\nCall the layers, or leave them "
            "digital with convert(..., exclude=...)."
        )
    return model if routes(copied) == routes(model) else copied


def _sensitivity(
    model: nn.Module,
    how: Measurement,
    with_devices: bool,
    given: Sensitivity | None,
    progress: bool,
) -> Sensitivity:
    """Return the losses of the layers at the latest of the times.

    Raises:
        ValueError: those given are of other layers, of another reference or without ``drift``, or
            the reference is not above 0.
    """
    if how.folder is not None:
        check_folder(how.folder)
    if given is not None:
        checks.instance("plan: sensitivity", given, Sensitivity, "what at.sensitivity returns")
        names = {name for name, _ in analog_layers(model)}
        if {row.name for row in given.rows} != names or "drift" not in given.effects:
            raise ValueError(
                "plan: sensitivity must have the effect 'drift' of each analog layer of this "
                "model; leave it out to measure it"
            )
    exact = _exact(model, how.metric)
    if given is not None:
        if not math.isclose(given.reference, exact, rel_tol=_ROUNDING):
            raise ValueError(
                "plan: sensitivity must be of this model, metric and samples: with all layers "
                f"exact the metric is {exact:.8g}, and that of sensitivity was "
                f"{given.reference:.8g}; leave it out to measure it"
            )
        return given
    effects: tuple[Effect, ...] = ("output_noise", "noise") if with_devices else ()
    with measurement_folder(how.folder, SENSITIVITY) as own:
        return measured_sensitivity(
            model,
            how.metric,
            effects=(*effects, "drift"),
            time=max(how.times, key=lambda t: -1.0 if (s := seconds(t)) is None else s),
            num_chips=how.num_chips,
            seed=how.seed,
            compensation=how.compensation,
            recovery=how.recovery,
            higher_is_better=how.higher_is_better,
            folder=own,
            progress=progress,
        )


def _exact(model: nn.Module, metric: Metric) -> float:
    """Return the metric with all layers exact, which must be above 0."""
    with exactly(copy := apart_copy(model)):
        value = finite("plan", metric, measure(metric, copy), "with all layers exact")
    if value <= 0:
        raise ValueError(
            f"plan: the metric with all layers exact is {value:.4g}; a share of it says "
            "something only above 0: shift or negate the metric"
        )
    return value


def _losses(found: Sensitivity, cells: tuple[int, ...]) -> dict[str, dict[int, float]]:
    """Return the estimated losses by layer and unit cells per weight, the most sensitive first.

    Those with more devices are estimated as ``suggest`` does, where ``noise`` was measured.
    """
    rows = {row.name: row for row in found.rows}
    share = shares(rows, found, "drift", 1.0)
    enough = {"output_noise", "noise"} <= set(found.effects)
    losses: dict[str, dict[int, float]] = {}
    for name, row in rows.items():
        fall = falling(row, "drift") if enough else 0.0
        more = {n: share[name] * (1 - fall * (1 - n**-0.5)) for n in cells if fall > 0}
        losses[name] = {ANALOG: share[name], **more, DIGITAL: 0.0}
    return losses


def _walks(losses: Table, costs: Costs, cheapest: Cheapest) -> list[list[Candidate]]:
    """Return the walks by what is to be cheap, by MACs and by layers.

    By MACs there is a walk with more devices too, which cost none. The order of the layers breaks
    ties.
    """
    whole, price = costs.of(Candidate(())), "latency" if cheapest == "latency" else "energy"

    def added(what: str, options: Table) -> dict[str, dict[int, float]]:
        start = getattr(whole, what)
        return {
            name: {n: getattr(costs.one(name, n), what) - start for n in given}
            for name, given in options.items()
        }

    off = {name: {n: given[n] for n in (ANALOG, DIGITAL)} for name, given in losses.items()}
    each = {name: {ANALOG: 0.0, DIGITAL: 1.0} for name in losses}
    more = any(len(given) > 2 for given in losses.values())
    return [
        walk(losses, added(price, losses)),
        walk(off, added("digital_macs", off)),
        *([walk(losses, added("digital_macs", losses))] if more else []),
        walk(off, each),
    ]


def _suggested(found: Sensitivity, slack: float, cells: tuple[int, ...]) -> list[Candidate]:
    """Return what ``suggest`` offers for a loss of ``slack``, where ``plan`` can make it."""
    low, high = found.bounds
    offered = found.suggest(min(slack, high - low))
    names = [row.name for row in found.rows]
    choices = [dict.fromkeys(offered.exclude, DIGITAL)]
    if offered.multiple in cells:
        choices.append(dict.fromkeys(offered.per_layer, offered.multiple))
    listed = [Candidate.of(choice, names) for choice in choices]
    return [c for c in listed if len(c.digital) < len(names)]


def _small(
    walks: list[list[Candidate]], costs: Costs, max_chips: int | None
) -> list[list[Candidate]]:
    """Return the walks without candidates that take too many chips."""
    if max_chips is None:
        return walks
    fit = [[c for c in each if costs.of(c).chips <= max_chips] for each in walks]
    if not any(fit):
        fewest = min(costs.of(c).chips for each in walks for c in each)
        raise ValueError(
            f"plan: no plan takes {max_chips} chips or fewer, the smallest takes {fewest}; raise "
            "max_chips"
        )
    return fit
