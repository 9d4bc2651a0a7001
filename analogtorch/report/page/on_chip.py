"""What a page says about a mapping and its cost: key figures, floorplan, latency and energy."""

import math

from analogtorch.cost_model import CostReport
from analogtorch.mapping import ChipMapping
from analogtorch.report.cost import figures, si, waiting_note
from analogtorch.report.floorplan import energy_split, energy_unit, short
from analogtorch.report.mapping import HEADER, layer_rows
from analogtorch.report.page.floor import drawn
from analogtorch.report.page.parts import Cell, Facts, Key, Part, Section, Table, Text
from analogtorch.values.listed import counted

_LONGEST = 8
"""Operations that the table of times names."""
_OPEN = 12
"""Most rows of a table that is open from the start."""


def tile_key(mapping: ChipMapping) -> Key:
    """Return the number of tiles in use."""
    each, chips = mapping.chip.array, mapping.num_chips
    return Key(
        label="Tiles",
        value=f"{mapping.tiles_used:,} of {chips * each.tiles:,}",
        note=f"{chips} x {mapping.chip.name}, tiles of {each.rows} x {each.columns}; "
        f"{mapping.utilisation:.1%} of their cells taken",
    )


def cost_keys(cost: CostReport) -> list[Key]:
    """Return energy and latency of one inference."""
    low, high = cost.energy_by_columns.system, cost.energy_full_tiles.system
    low, high = min(low, cost.energy.system), max(high, cost.energy.system)
    efficiency = cost.efficiency("system")
    between = f"{unit(low, 'J')} to {unit(high, 'J')}; " if high > 1.001 * low else ""
    return [
        Key(
            label="Energy per inference",
            value=unit(cost.energy.system, "J"),
            note=f"whole system; {between}{_kind(efficiency.kind)}",
        ),
        Key(label="Latency", value=unit(cost.latency, "s"), note=_kind(cost.time_kind)),
    ]


def _kind(kind: str) -> str:
    return f"the weakest figure in it is {kind}"


def listening_key(cost: CostReport, windows_per_second: float, joules_per_year: float) -> Key:
    """Return the energy of a year of always-on listening."""
    late = "" if cost.throughput >= windows_per_second else "; the chip cannot keep up with them"
    return Key(
        label="A year of listening",
        value=unit(joules_per_year / 3600, "Wh"),
        note=f"{windows_per_second:g} inferences a second, without microphone, features and idle "
        f"power{late}",
    )


def floorplan_section(mapping: ChipMapping) -> Section:
    """Return the floorplan, and what its matrices and the digital rest are."""
    header = (*HEADER[:6], "cells taken", "input vectors")
    rows = layer_rows(mapping)
    parts: list[Part] = [
        drawn(mapping),
        Table(
            caption="Matrices on the chip; cells taken of all tiles that hold a part of the "
            "matrix; vectors of one inference",
            header=header,
            rows=tuple(rows),
            folded=len(rows) > _OPEN,
        ),
    ]
    if mapping.digital:
        parts.append(
            Table(
                caption="Digital operations of one inference",
                header=("operation", "kind", "numbers", "operations"),
                rows=tuple(
                    (op.name, op.kind, f"{op.elements:,}", f"{op.operations:,}")
                    for op in mapping.digital
                ),
                words=(1,),
                folded=len(mapping.digital) > _OPEN,
            )
        )
    if mapping.digital_weights:
        kept = mapping.digital_weights
        parts.append(
            Table(
                caption="Weights that stay digital",
                header=("parameter", "weights"),
                rows=tuple((name, f"{count:,}") for name, count in kept),
                folded=len(kept) > _OPEN,
            )
        )
    return Section("Floorplan", tuple(parts))


def cost_section(cost: CostReport) -> Section:
    """Return where time and energy go, and the efficiencies with what they count."""
    plan, costs = cost.schedule, cost.chip.costs
    rate = f"one inference per {unit(plan.interval, 's')}, {short(plan.throughput)} a second"
    facts = [
        ("bottleneck", f"{plan.bottleneck}: {rate}, {plan.mode}"),
        ("power at that rate", f"{unit(cost.power, 'W')}, without idle power"),
        (
            "work of one inference",
            f"{cost.macs:,} MACs in {sum(run.mvms for run in plan.runs):,} MVMs of tiles",
        ),
        (
            "charged as",
            f"{costs.precision}, {counted(costs.phases, 'phase')}; "
            f"conductance {cost.conductance:.3g} of programmed",
        ),
    ]
    facts += [("waiting", text) for text in waiting_note(cost)]
    if plan.signed:
        facts.append(
            (
                "signed inputs",
                f"{costs.signed_passes} passes each, {len(plan.signed)} matrices",
            )
        )
    if cost.chip.adc.asymmetry_balance:
        facts.append(("asymmetry balance", "each MVM is read twice"))
    return Section(
        "Latency and energy",
        (Facts(tuple(facts)), _longest(cost), _consumers(cost), *_efficiencies(cost)),
    )


def unit(value: float, name: str) -> str:
    """Return a value with the prefix of its unit that suits it, such as ``1.3 kWh``."""
    if value >= 1000:
        return f"{value / 1000:.4g} k{name}"
    return si(value, name).replace(f" u{name}", f" µ{name}")


def _longest(cost: CostReport) -> Table:
    steps = sorted(cost.schedule.steps, key=lambda s: -(s.compute + s.transfer))[:_LONGEST]
    longest = max((s.compute + s.transfer for s in steps), default=0.0)
    rows = []
    for s in steps:
        own = s.compute + s.transfer
        moved = Cell(text=unit(s.transfer, "s"), bar=own / longest if longest > 0 else 0.0)
        rows.append((s.operation, s.place, unit(s.compute, "s"), moved))
    return Table(
        caption=f"Where the time goes: the {len(steps)} longest of {len(cost.schedule.steps)} "
        "operations; bars show both times together"
        + ("; branches overlap" if cost.schedule.mode == "pipelined" else ""),
        header=("operation", "runs on", "computes", "moves data"),
        rows=tuple(rows),
        words=(1,),
    )


def _consumers(cost: CostReport) -> Table:
    split = energy_split(cost)
    name, joules = energy_unit(split)
    name, total = name.replace("uJ", "µJ"), math.fsum(split.values())
    return Table(
        caption="Where the energy of one inference goes",
        header=("consumer", name, "share"),
        rows=tuple(
            (
                consumer,
                short(value / joules),
                Cell(text=f"{100 * value / total:.1f} %", bar=value / total),
            )
            for consumer, value in split.items()
        ),
    )


def _efficiencies(cost: CostReport) -> list[Part]:
    listed = (*cost.efficiencies, *cost.published)
    rows = [(e.scope, e.origin, *figures(e), e.kinds, e.excluded) for e in listed]
    sources = dict.fromkeys(e.source for e in cost.published)
    return [
        Table(
            caption="Efficiency by scope; 2 operations per MAC, digital operations not counted",
            header=("scope", "origin", "TOPS", "TOPS/W", "range", "fJ/MAC", "kind", "without"),
            rows=tuple(rows),
            words=(1, 6, 7),
        ),
        Text(
            "The range goes from each MVM charged as a full tile to each charged in proportion to "
            "its columns. TOPS are of one busy tile, of one chip, of all chips."
            + (
                " Published figures come from workloads of their own; they are no prediction for "
                f"this one. Source: {'; '.join(sources)}."
                if sources
                else ""
            )
        ),
    ]
