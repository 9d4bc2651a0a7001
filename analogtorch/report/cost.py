"""The cost report as text."""

from collections.abc import Sequence
from dataclasses import fields

from analogtorch.chips import Chip
from analogtorch.cost_model import CostReport, Efficiency
from analogtorch.cost_model.traffic import tile_of
from analogtorch.report.columns import three_digits
from analogtorch.values.listed import counted
from analogtorch.values.shown import as_text


@as_text.register
def table(report: CostReport) -> str:
    """Return the report for a terminal: times, energy by consumer, efficiencies.

    The published efficiencies stand beside the estimated ones.
    """
    lines = _facts(report) + _energies(report)
    lines += [
        "",
        f"{'efficiency':<12} {'scope':<7} {'TOPS':>8} {'TOPS/W':>8} {'range':>17} {'fJ/MAC':>8}  "
        "figures",
    ]
    lines += [_row(e) for e in (*report.efficiencies, *report.published)]
    lines += [
        "",
        "2 operations per MAC, digital operations not counted. TOPS: of one busy tile, of one "
        "chip, of all chips.",
        "Range: each MVM charged as a full tile, to each in proportion to its columns (or by the "
        "shares, if less).",
        "Left out: scale, offset and bias of each column; for layers that scale each input vector "
        "(at.summary",
        "names them), the digital operations of that, 2 n + m per vector of n inputs and m "
        "outputs.",
        "Published figures come from workloads of their own; they are no prediction for this one.",
    ]
    lines += [
        f"{e.origin}, {e.scope}: without {e.excluded}"
        for e in (*report.efficiencies, *report.published)
    ]
    return "\n".join(lines + _origins(report))


def _facts(report: CostReport) -> list[str]:
    plan, costs = report.schedule, report.chip.costs
    lines = [
        f"{report.chip.name}: {counted(len(plan.tiles), 'tile')} on "
        f"{counted(plan.num_chips, 'chip')}, {plan.utilisation:.0%} of their cells used; "
        f"{costs.precision}, {counted(costs.phases, 'phase')}; conductance "
        f"{report.conductance:.3g} of programmed",
        f"{plan.mode}: latency {si(plan.latency, 's')}, one inference per "
        f"{si(plan.interval, 's')}, {plan.throughput:,.4g} per second, set by {plan.bottleneck}",
        f"one inference: {report.macs:,} MACs = {report.operations:,} operations in "
        f"{sum(r.mvms for r in plan.runs):,} MVMs of tiles, {si(report.energy.system, 'J')}, mean "
        f"power {si(report.power, 'W')}",
    ]
    lines += waiting_note(report) + signed_note(report.chip, plan.signed)
    if report.chip.adc.asymmetry_balance:
        lines.append("asymmetry balance: each MVM is read twice, at twice the time and energy")
    return lines


def waiting_note(report: CostReport) -> list[str]:
    """Return a text if blocks of the busiest tile wait for each other beside unused tiles."""
    plan, chip = report.schedule, report.chip
    unused = chip.array.tiles // chip.array.planes * plan.num_chips - len(plan.tiles)
    busiest = max(plan.tiles, key=lambda use: use.busy)
    there = (
        run for run in plan.runs if tile_of(run.placement, chip) == (busiest.chip, busiest.tile)
    )
    blocks = {run.placement.block for run in there}
    if not plan.bottleneck.startswith("MVMs of tile") or len(blocks) < 2 or not unused:
        return []
    return [
        f"the {len(blocks)} blocks of that tile wait for each other, and "
        f"{counted(unused, 'tile')} hold nothing: map_to_chip(spread=True) uses them"
    ]


def signed_note(chip: Chip, signed: Sequence[str]) -> list[str]:
    """Return a text about the matrices whose inputs are charged as signed; empty if none is."""
    if not signed:
        return []
    return [
        f"signed inputs, {chip.costs.signed_passes} passes each: {len(signed)} "
        f"{'matrix' if len(signed) == 1 else 'matrices'} "
        "(signed_inputs=[...] names those that have them; the others take one)"
    ]


def _energies(report: CostReport) -> list[str]:
    total = report.energy.system
    lines = ["", f"{'energy of one inference':<28} {'J':>12} {'share':>7}"]
    for field in fields(report.energy):
        value = getattr(report.energy, field.name)
        lines.append(
            f"  {field.name.replace('_', ' '):<26} {si(value, 'J'):>12} {value / total:>7.1%}"
        )
    return [
        *lines,
        f"  {'(each MVM a full tile)':<26} {si(report.energy_full_tiles.system, 'J'):>12}",
    ]


def _row(e: Efficiency) -> str:
    tops, per_watt, span, per_mac = figures(e)
    numbers = f"{tops:>8} {per_watt:>8} {span:>17} {per_mac:>8}"
    return f"{e.origin:<12} {e.scope:<7} {numbers}  {e.kinds}"


def figures(e: Efficiency) -> tuple[str, str, str, str]:
    """Return TOPS, TOPS/W, its range and fJ/MAC as text; empty where there is none."""
    tops = "" if e.tops is None else f"{e.tops:.3g}"
    span = "" if e.origin == "published" else f"{e.low:.3g} to {e.high:.3g}"
    return tops, f"{e.tops_per_watt:.3g}", span, three_digits(e.femtojoules_per_mac)


def _origins(report: CostReport) -> list[str]:
    """Return the sources of the published figures, and the factors between them."""
    known = report.published
    lines = [f"published: {source}" for source in dict.fromkeys(e.source for e in known)]
    steps = [
        f"{b.scope} / {a.scope} {b.tops_per_watt / a.tops_per_watt:.2f}"
        for a, b in zip(known, known[1:], strict=False)
    ]
    if steps:
        lines.append(f"published factors: {', '.join(steps)}; their causes cannot be separated")
    return lines


def si(value: float, unit: str) -> str:
    """Return a value >= 0 with the prefix of its unit that suits it, such as ``130 ns``."""
    if value == 0:
        return f"0 {unit}"
    for scale, prefix in ((1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"), (1e-12, "p")):
        if value >= scale:
            return f"{value / scale:.4g} {prefix}{unit}"
    return f"{value:.3g} {unit}"
