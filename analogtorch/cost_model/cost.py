"""The cost of one inference: time, energy by consumer, and efficiencies with what they count.

The report prints these conventions, or its fields name them:

- Operations are those of the matrix products, 2 per multiply-accumulate (MAC); digital operations
  cost energy and time and count as none. Reading a row of an embedding counts as one MAC for each
  output.
- Scopes: ``tile`` is input encoding, cells and output encoding; ``chip`` adds hops between tiles
  and the chip's own digital operations; ``system`` adds the ports of the chips and the host. Idle
  power is in none of them.
- A partly used tile is charged by the shares of ``Cost.shares``. As these are assumed for most
  chips, every efficiency carries a range: from each MVM charged as a full tile to each charged in
  proportion to its columns.
- Only the cells' share falls with their conductance.
- Scale, offset and bias, with which a digital unit ends the MVM of each column, are left out, in
  energy and time: published energies of an MVM do not have them. What a model computes beside its
  layers, such as a batch norm that is not folded, is charged.
- The operations with which the digital side scales each input vector of a layer without a fixed DAC
  range, and its outputs, are left out: a mapping does not have the ranges. ``summary`` names such
  layers.
- A weight of several unit cells (``Matrix.cells``) takes the MVMs of each, whose results are added.
"""

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analogtorch.chips import Chip, Cost, Energy, Figure, mvm_time
from analogtorch.chips.cost import Charge, Kind, Scope
from analogtorch.cost_model.efficiency import OPERATIONS_PER_MAC, Efficiency, published, weakest
from analogtorch.cost_model.entries import Entry, consumers, entries
from analogtorch.cost_model.schedule import schedule
from analogtorch.cost_model.steps import Mode, Run, Schedule
from analogtorch.files import comma_separated
from analogtorch.values import checks
from analogtorch.values.shown import Shown

_OF_COLUMNS = "scale, offset and bias of columns"


@dataclass(frozen=True, kw_only=True)
class EnergySplit:
    """Energy of one inference, J, by consumer."""

    control: float
    """Energy of a tile that does not depend on how much of it is used."""
    dac: float
    """Energy of input encoding (DACs)."""
    array: float
    """Energy of the current through the cells."""
    adc: float
    """Energy of output encoding (ADCs)."""
    chip_digital: float
    """Energy of digital operations on the chip, with additions of partial sums there."""
    chip_communication: float
    """Energy of hops between tiles."""
    host_digital: float
    """Energy of all other digital operations."""
    port_communication: float
    """Energy of numbers that enter and leave chips."""

    @property
    def tile(self) -> float:
        """Energy that the scope ``tile`` counts, J."""
        return self.control + self.dac + self.array + self.adc

    @property
    def chip(self) -> float:
        """Energy that the scope ``chip`` counts, J."""
        return self.tile + self.chip_digital + self.chip_communication

    @property
    def system(self) -> float:
        """Energy that the scope ``system`` counts, J."""
        return self.chip + self.host_digital + self.port_communication

    @property
    def digital(self) -> float:
        """Energy of all digital operations, J."""
        return self.chip_digital + self.host_digital

    @property
    def communication(self) -> float:
        """Energy of all transfers, J."""
        return self.chip_communication + self.port_communication


@dataclass(frozen=True, kw_only=True)
class CostReport(Shown):
    """Time and energy of one inference, as ``cost`` returns them; print it for a table."""

    chip: Chip
    """The chip of the mapping, whose ``cost`` was charged."""
    schedule: Schedule
    """When each operation runs and how busy each tile is, for one inference; times in s."""
    conductance: float
    """Mean conductance of the cells, as a multiple of that of cells just written to their
    weights."""
    macs: int
    """Number of multiply-accumulates of the matrix products in one inference."""
    energy: EnergySplit
    """Energy of one inference, with partly used tiles charged by ``Cost.shares``."""
    energy_by_columns: EnergySplit
    """Energy of one inference, with every MVM charged in proportion to its columns."""
    energy_full_tiles: EnergySplit
    """Energy of one inference, with every MVM charged as a full tile."""
    efficiencies: tuple[Efficiency, ...]
    """Predicted efficiencies of the scopes tile, chip and system."""
    published: tuple[Efficiency, ...]
    """Published efficiencies of the chip, which have workloads of their own."""

    @property
    def operations(self) -> int:
        """Operations of the matrix products in one inference, 2 per MAC."""
        return OPERATIONS_PER_MAC * self.macs

    @property
    def latency(self) -> float:
        """Time of one inference, s."""
        return self.schedule.latency

    @property
    def throughput(self) -> float:
        """Inferences per second."""
        return self.schedule.throughput

    @property
    def time_kind(self) -> Kind:
        """The weakest kind of figure that latency and throughput rest on."""
        return _time_kind(self.chip, self.schedule)

    @property
    def power(self) -> float:
        """Mean power, W, at that throughput, without idle power."""
        return self.energy.system * self.throughput

    def efficiency(self, scope: Scope) -> Efficiency:
        """Return the predicted efficiency of a scope, with everything it must be quoted with."""
        found = {e.scope: e for e in self.efficiencies}
        if scope not in found:
            raise ValueError(f"scope must be one of {', '.join(found)}, got {scope!r}")
        return found[scope]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers, ready for JSON: seconds, joules, efficiencies."""
        plan = self.schedule
        return {
            "mode": plan.mode,
            "latency": self.latency,
            "interval": plan.interval,
            "bottleneck": plan.bottleneck,
            "macs": self.macs,
            "mvms": sum(run.mvms for run in plan.runs),
            "conductance": self.conductance,
            "power": self.power,
            "energy": {**asdict(self.energy), "system": self.energy.system},
            "energy by columns": self.energy_by_columns.system,
            "energy of full tiles": self.energy_full_tiles.system,
            "steps": [
                {
                    "operation": s.operation,
                    "place": s.place,
                    "compute": s.compute,
                    "transfer": s.transfer,
                }
                for s in plan.steps
            ],
            "efficiencies": [asdict(e) for e in (*self.efficiencies, *self.published)],
        }

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return CSV of one line per figure, and write it to ``path`` if given.

        Lines and columns are those of ``compare``, and have its names; energies by consumer follow.

        Raises:
            TypeError: ``path`` is no path.
            OSError: the file cannot be written.
        """
        rows = [list(asdict(each).values()) for each in (*entries(self), *consumers(self))]
        return comma_separated([[*Entry.__dataclass_fields__], *rows], path)


def cost(
    mapping: Any,
    *,
    mode: Mode = "pipelined",
    conductance: float | None = None,
    signed_inputs: Collection[str] | None = None,
) -> CostReport:
    """Compute time and energy of one inference of a mapped model.

    What the digital side computes for layers that scale each input vector is left out: 2 ``n`` +
    ``m`` operations per vector of ``n`` inputs and ``m`` outputs. ``summary`` names these layers.

    Args:
        mapping: a ``ChipMapping``, or anything with ``chip``, ``operations``, ``matrices`` and
            ``placements``.
        mode: ``pipelined``: inferences follow each other as fast as the busiest resource allows.
            ``sequential``: one operation runs at a time.
        conductance: mean conductance of the cells, as a multiple of that of cells just written to
            their weights; None is 1. ``chips.mean_conductance(chip.cell, seconds)`` gives it after
            drift, and for targets that allow for drift.
        signed_inputs: names of the matrices whose inputs have both signs; None means all. They
            matter on chips whose rows take unsigned inputs only.

    Returns:
        Time, energy and efficiencies; print them for a table.

    Raises:
        ValueError: ``schedule`` refuses the mapping, or the conductance is no positive number.
        TypeError: ``mapping`` lacks one of the four attributes.
    """
    given = 1 if conductance is None else conductance  # as programmed
    conductance = checks.number("conductance", given, above=0)
    plan = schedule(mapping, mode=mode, signed_inputs=signed_inputs)
    chip, macs = mapping.chip, _macs(mapping)
    split, column, tile = (
        _energy(plan, chip, conductance, charge) for charge in ("model", "column", "tile")
    )
    return CostReport(
        chip=chip,
        schedule=plan,
        conductance=conductance,
        macs=macs,
        energy=split,
        energy_by_columns=column,
        energy_full_tiles=tile,
        efficiencies=_efficiencies(chip, plan, macs, (split, column, tile), conductance),
        published=published(chip),
    )


def _macs(mapping: Any) -> int:
    given = mapping.matrices
    matrices = {m.name: m for m in (given.values() if hasattr(given, "values") else given)}
    return sum(matrices[op.matrix].macs(op) for op in mapping.operations if op.matrix is not None)


def _energy(plan: Schedule, chip: Chip, conductance: float, charge: Charge) -> EnergySplit:
    costs, total = chip.costs, Energy()
    network = costs.network
    for run in plan.runs:
        total = total.plus(_mvm(run, chip, costs, conductance, charge), times=run.mvms)
    on_chip = sum(s.operations for s in plan.steps if s.place != "host")
    on_host = sum(s.operations for s in plan.steps if s.place == "host")
    return EnergySplit(
        control=total.control,
        dac=total.dac,
        array=total.array,
        adc=total.adc,
        chip_digital=on_chip * costs.on_chip.energy.value,
        chip_communication=sum(s.element_hops for s in plan.steps) * network.hop_energy.value,
        host_digital=on_host * costs.host.energy.value,
        port_communication=sum(s.port_elements for s in plan.steps) * network.chip_energy.value,
    )


def _mvm(run: Run, chip: Chip, costs: Cost, conductance: float, charge: Charge) -> Energy:
    return costs.mvm(
        rows=run.rows / chip.array.rows,
        cols=run.cols / chip.array.columns,
        cells=run.weights / (chip.array.rows * chip.array.columns),
        conductance=conductance,
        charge=charge,
    )


def _time_kind(chip: Chip, plan: Schedule) -> Kind:
    costs, steps = chip.costs, plan.steps
    figures = [mvm_time(chip), costs.network.chip_rate]
    figures += [costs.network.link_rate] if costs.network.link_rate else []
    figures += [costs.on_chip.rate] if any(s.place != "host" for s in steps) else []
    figures += [costs.host.rate] if any(s.place == "host" for s in steps) else []
    return weakest(figures)


def _efficiencies(
    chip: Chip, plan: Schedule, macs: int, splits: tuple[EnergySplit, ...], conductance: float
) -> tuple[Efficiency, ...]:
    """Return one efficiency per scope.

    ``splits`` are those by the shares, in proportion to columns, and of full tiles.
    """
    costs = chip.costs
    operations = OPERATIONS_PER_MAC * macs
    busy = sum(t.busy for t in plan.tiles)
    per_second = operations * plan.throughput
    kind = _time_kind(chip, plan)
    tile = [costs.mvm_energy]
    if conductance != 1 or not math.isclose(splits[0].tile, splits[2].tile, rel_tol=1e-9):
        tile += costs.shares.figures
    whole = [*tile, costs.network.hop_energy, costs.on_chip.energy]
    system = [*whole, costs.network.chip_energy, costs.host.energy]
    scopes: tuple[tuple[Scope, list[Figure], str, tuple[float, Kind]], ...] = (
        ("tile", tile, costs.excluded, (operations / busy, mvm_time(chip).kind)),
        (
            "chip",
            whole,
            f"{_OF_COLUMNS}, chip ports, host, idle power",
            (per_second / plan.num_chips, kind),
        ),
        ("system", system, f"{_OF_COLUMNS}, idle power, memory of the host", (per_second, kind)),
    )
    found = []
    for scope, figures, excluded, rate in scopes:
        per_joule = [operations / getattr(s, scope) for s in splits]
        found.append(_efficiency(scope, figures, excluded, rate, costs, plan, per_joule))
    return tuple(found)


def _efficiency(
    scope: Scope,
    figures: list[Figure],
    excluded: str,
    rate: tuple[float, Kind],
    costs: Cost,
    plan: Schedule,
    per_joule: list[float],
) -> Efficiency:
    model, column, tile = (x / 1e12 for x in per_joule)
    return Efficiency(
        scope=scope,
        origin="predicted",
        tops_per_watt=model,
        tops=rate[0] / 1e12,
        tops_kind=rate[1],
        low=min(model, column, tile),
        high=max(model, column, tile),
        precision=costs.precision,
        phases=costs.phases,
        utilisation=plan.utilisation,
        excluded=excluded,
        kind=weakest(figures),
        source="cost model of AnalogTorch on Chip.cost",
    )
