"""One model on several chips: its metric over time, energy, latency and area side by side."""

import contextlib
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from analogtorch.chips import Chip
from analogtorch.chips import get as preset
from analogtorch.chips.unit_cells import checked_cells
from analogtorch.conversion import analog_layers, convert
from analogtorch.conversion.detached import deep_copy
from analogtorch.conversion.example import Example
from analogtorch.conversion.kinds import check_module, refuse_distributed, refuse_programmed
from analogtorch.conversion.restored import switched
from analogtorch.conversion.summary import cells_of
from analogtorch.cost_model import CostReport, cost
from analogtorch.cost_model.steps import Mode
from analogtorch.evaluate.checked import checked_defects, checked_method, chip_seeds
from analogtorch.evaluate.comparison import ComparedChip, Comparison
from analogtorch.evaluate.helpers import checked_processes
from analogtorch.evaluate.look import Look
from analogtorch.evaluate.metric import Metric, check_metric, direction, finite, measure
from analogtorch.evaluate.plan_checks import check_prepare
from analogtorch.evaluate.prepared import Prepared
from analogtorch.evaluate.routed import route_calls
from analogtorch.evaluate.sweep import TIMES, sweep
from analogtorch.evaluate.swept import Sweep
from analogtorch.evaluate.times import checked_times
from analogtorch.mapping import ChipMapping, map_to_chip
from analogtorch.mapping.chosen import chips_of, described
from analogtorch.ops.scope import random_kept
from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.recovery import Recovery
from analogtorch.simulate.writing import Method
from analogtorch.values import checks
from analogtorch.values.warned import warn


def compare(
    model: nn.Module,
    chips: Iterable[str | Chip] | Mapping[str, str | Chip],
    metric: Metric | None = None,
    *,
    example: Example,
    prepare: Callable[[nn.Module], Any] | None = None,
    reference: nn.Module | None = None,
    times: Sequence[str | float] = TIMES,
    num_chips: int = 10,
    seed: int = 0,
    compensation: Compensation = "least_squares",
    method: Method | None = None,
    defects: Defects | None = None,
    recovery: Recovery | None = None,
    higher_is_better: bool | None = None,
    cells: int | None = None,
    mode: Mode = "pipelined",
    signed_inputs: Collection[str] | None = None,
    folder: str | Path | None = None,
    processes: int = 1,
    progress: bool = False,
) -> Comparison:
    """Put one model on several chips and compare what each makes of it and what it takes.

    For each chip the digital model is converted anew, prepared, mapped, charged by the cost model
    and, with a metric, measured on simulated chips over time (``sweep``). All chips are converted
    and mapped before any is measured, so that one that cannot take the model is known at once.

    Args:
        model: a digital model, or a converted one, whose digital layers stay digital. It stays as
            it is. Layers with ``n`` times the devices of others, as those of a plan, get ``n``
            times those of each chip (``cell.enlarged``); what else differs between the chips of its
            layers is left out, with a warning.
        chips: the chips, as names of presets or as ``Chip``: ``["hermes64", my_chip]``. A
            dictionary gives them other names: ``{"1 phase": at.chips.hermes64(phases=1)}``.
        metric: a function of a model in evaluation mode that returns a number, such as the
            accuracy. None: costs alone.
        example: input of one inference, as ``map_to_chip`` takes it: a batch of one for costs per
            sample. With a metric, calls such as ``F.linear(x, self.qkv.weight)`` that its run shows
            are routed to their layers, as ``convert(example=...)`` does.
        prepare: a function that gets each model after ``convert`` and changes it in place, such as
            ``lambda m: at.calibrate(m, batches)``. None: nothing; a calibrated model needs it.
        reference: the model whose metric, in digital layers, is the digital one, such as the net
            that hardware-aware training began with. None: ``model``. The weights of a net trained
            for its chip may be far worse without converters, in which nobody would use them.
        times: times after programming, as ``sweep`` takes them. One beyond the data of a chip's
            devices is marked.
        num_chips: number of simulated chips of each kind, >= 1.
        seed: seed of the whole experiment, as ``sweep`` has it.
        compensation: drift compensation, as ``ProgrammedChip.at`` takes it.
        method: how the cells are written, as ``program`` takes it.
        defects: which share of each chip is broken, as ``program`` takes it. Costs stay those of a
            whole chip.
        recovery: what each chip corrects of itself at each time, as ``sweep`` takes it. Its own
            cost is not in the figures.
        higher_is_better: False if the metric is an error; None: as the metric says.
        cells: number of unit cells of each chip that hold one weight, in all layers, 1 to 64; None:
            as many as in ``model``.
        mode: ``pipelined`` or ``sequential``, as ``cost`` takes it.
        signed_inputs: names of the matrices whose inputs have both signs, as ``cost`` takes them;
            None means all.
        folder: a folder that stores each measurement as soon as it is made, with a folder of
            ``sweep`` for each chip; None stores nothing.
        processes: number of processes that measure chips at the same time, as ``sweep`` has it.
        progress: if True, show progress bars.

    Returns:
        The chips side by side; print it for a table.

    Warns:
        UserWarning: the layers of the model are on several chips.

    Raises:
        ValueError: there is no chip, two have the same name, or one is unknown or cannot take the
            model; an argument has no effect without a metric; the model is calibrated and
            ``prepare`` is missing; ``convert``, ``map_to_chip``, ``cost`` or ``sweep`` refuses its
            arguments; or the metric is NaN or infinite.
        TypeError: an argument is of another type.
        OSError: the folder cannot be written.

    Example:
        >>> found = at.compare(model, ["hermes64", "ibm_speech34"], accuracy, example=x[:1],
        ...                    prepare=lambda m: at.calibrate(m, [x]))
        >>> print(found)
    """
    given = {"compare": model}
    if reference is not None:
        given["compare: reference"] = reference
    for caller, each in given.items():
        check_module(caller, each)
        refuse_programmed(each, caller)
        refuse_distributed(each, caller)
    if metric is not None:
        check_metric("compare", metric)
    check_prepare("compare", model, prepare)
    checks.choice("compare: mode", mode, get_args(Mode))
    higher_is_better = direction("compare", metric, higher_is_better)
    Look(compensation=compensation, recovery=recovery).check("compare")
    checked_method("compare", method)
    checked_defects("compare", defects)
    chip_seeds(seed, checks.count("compare: num_chips", num_chips))
    if cells is not None:
        checked_cells("compare: cells", cells)
    checked_times("compare", times)
    checked_processes("compare", processes, model)
    if folder is not None:
        folder = checks.path("compare: folder", folder)
    if metric is None:
        _check_idle(
            reference=reference,
            times=tuple(times),
            num_chips=num_chips,
            seed=seed,
            compensation=compensation,
            method=method,
            defects=defects,
            recovery=recovery,
            folder=folder,
            processes=processes,
        )
    named, bench = _named(chips), _Bench(model, cells)
    _warn_of_several(model)
    charged: dict[str, Any] = {"mode": mode, "signed_inputs": signed_inputs}
    ready = {
        name: bench.on(name, chip, example, charged, prepare, routes=metric is not None)
        for name, chip in named.items()
    }
    measured: dict[str, Sweep] = {}
    digital: float | None = None
    if metric is not None:
        # an error of it is better known before the long work
        digital = bench.metric(metric) if reference is None else _Bench(reference).metric(metric)
        measured = sweep(
            {name: converted for name, (converted, _, _) in ready.items()},
            metric,
            num_chips=num_chips,
            times=times,
            seed=seed,
            compensation=compensation,
            method=method,
            defects=defects,
            recovery=recovery,
            higher_is_better=higher_is_better,
            folder=folder,
            processes=processes,
            progress=progress,
        )
    found = [
        ComparedChip(
            name=name,
            chip=named[name],
            mapping=mapping,
            cost=report,
            sweep=measured.get(name),
        )
        for name, (_, mapping, report) in ready.items()
    ]
    return Comparison(
        chips=tuple(found),
        metric=None if found[0].sweep is None else found[0].sweep.metric,
        digital=digital,
        higher_is_better=higher_is_better,
    )


def _check_idle(**given: Any) -> None:
    """Raise ValueError if an argument that has no effect without a metric is not the default."""
    defaults = inspect.signature(compare).parameters
    for name, value in given.items():
        if value != defaults[name].default:
            raise ValueError(
                f"compare: {name}={checks.shown(value)} has no effect on costs alone; give a "
                f"metric, or leave {name} out"
            )


def _warn_of_several(model: nn.Module) -> None:
    """Warn of what differs between the chips of layers, of which no chip keeps anything."""
    if any(True for _ in analog_layers(model)) and len(several := chips_of(model, "compare")) > 1:
        warn(
            f"compare: the layers of the model are on {len(several)} chips: {described(several)}. "
            "All are put on each of the chips to compare alike, without these differences; give "
            "chips that have what all layers need"
        )


@contextlib.contextmanager
def _put_on(name: str) -> Iterator[None]:
    """Say in a ValueError in the context which chip the model cannot be put on."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"compare: the model cannot be put on {name!r}: {error}") from error


class _Bench:
    """Puts the digital model on chips."""

    def __init__(self, model: nn.Module, cells: int | None = None) -> None:
        self.model = Prepared.of(model)
        self.arguments: dict[str, Any] = {"embeddings": True} if self.model.embeddings else {}
        if self.model.analog and self.model.left:
            self.arguments["exclude"] = list(self.model.left)
        given = cells_of(model) if cells is None else {"*": cells}
        self.cells = {name: n for name, n in given.items() if n > 1}
        """Unit cells per weight, by the patterns of the names of layers that have several."""

    def on(
        self,
        name: str,
        chip: Chip,
        example: Example,
        charged: dict[str, Any],
        prepare: Callable[[nn.Module], Any] | None,
        *,
        routes: bool,
    ) -> tuple[nn.Module, ChipMapping, CostReport | None]:
        """Return the model converted for a chip, its mapping, and its cost if the chip has one.

        With ``routes``, calls of layers by their weights are analog, as they are charged.
        """
        with random_kept(self.model.devices):
            with _put_on(name):
                larger = {layer: {"cell": chip.cell.enlarged(n)} for layer, n in self.cells.items()}
                model = deep_copy(self.model.digital)
                model = convert(model, chip, per_layer=larger or None, **self.arguments)
                if routes:
                    route_calls("compare", model, example)  # map_to_chip warns of what is left
            if prepare is not None:
                try:
                    prepare(model)
                except Exception as error:  # the user's code may raise anything
                    error.add_note(f"compare: prepare failed on the model for {name!r}")
                    raise
        with _put_on(name):
            mapping = map_to_chip(model, example, chip=chip, num_chips=None)
            return switched(model), mapping, None if chip.cost is None else cost(mapping, **charged)

    def metric(self, metric: Metric) -> float:
        """Return the metric of the digital model."""
        with torch.no_grad():
            given = measure(metric, self.model.digital)
        return finite("compare", metric, given, "of the digital model")


def _named(chips: Any) -> dict[str, Chip]:
    """Return the chips by what heads their columns.

    Raises:
        ValueError: there is none, a preset is unknown, or two have the same name.
        TypeError: they are no list, or one is neither a name nor a chip.
    """
    example = '["hermes64", at.chips.ibm_speech34()]'
    if isinstance(chips, Mapping):
        pairs = list(chips.items())
    else:
        given = checks.items("compare: chips", chips, example)
        pairs = [(each if isinstance(each, str) else None, each) for each in given]
    found: dict[str, Chip] = {}
    for name, each in pairs:
        chip = preset(each) if isinstance(each, str) else each
        checks.instance("compare: each of chips", chip, Chip, "at.chips.hermes64(), or its name")
        name = chip.name if name is None else name
        checks.text("compare: the name of a chip", name, "hermes64")
        if name in found:
            raise ValueError(
                f"compare: two chips are called {name!r}; give a dictionary with other names, such "
                f"as {{'a': ..., 'b': ...}}"
            )
        found[name] = chip
    if not found:
        raise ValueError(f"compare: chips is empty; give some, such as {example}")
    return found
