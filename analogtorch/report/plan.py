"""A hardware plan: a table for the terminal and for notebooks, and metric over energy."""

import html
from typing import Any

from analogtorch.evaluate.conditions import remarks
from analogtorch.evaluate.hardware import HardwarePlan, HardwarePoint
from analogtorch.evaluate.plan_cost import PlanCost
from analogtorch.files.figures import new_figure
from analogtorch.report.columns import aligned, html_table
from analogtorch.report.cost import signed_note
from analogtorch.report.floorplan import energy_unit, short
from analogtorch.values.shown import as_figure, as_html, as_text


@as_text.register
def table(found: HardwarePlan) -> str:
    """Return the Pareto front, all layers on the chip and all digital, and what the best needs."""
    lines = aligned(_rows(found))
    rule = "-" * max(map(len, lines))
    return "\n".join([*_head(found), "", lines[0], rule, *lines[1:], rule, *_notes(found)])


@as_html.register
def page(found: HardwarePlan) -> str:
    """Return the table as HTML."""
    head, notes = ("<br>".join(map(html.escape, lines)) for lines in (_head(found), _notes(found)))
    return f"<p>{head}</p>{html_table(_rows(found))}<p>{notes}</p>"


@as_figure.register
def plot(found: HardwarePlan) -> Any:
    """Draw the metric of all plans over their energy, with the front, the floor and all digital."""
    figure = new_figure(8, 5)
    axes, front = figure.add_subplot(), found.front
    unit, joules = energy_unit({p.name: p.cost.energy for p in found.points})
    others = [p for p in found.points if p not in front]
    for points, colour, name in ((others, "0.7", "other plans"), (front, "C0", "Pareto front")):
        if points:
            axes.errorbar(
                [p.cost.energy / joules for p in points],
                [p.metric.mean for p in points],
                yerr=[p.metric.finite_half_width or 0.0 for p in points],
                fmt="o",
                color=colour,
                capsize=2,
                label=name,
            )
    if (best := found.best) is not None:
        axes.plot(
            best.cost.energy / joules,
            best.judged.metric.mean,
            "*",
            color="C3",
            markersize=16,
            label=f"least {_words(found)}: {best.name}{_confirmed(best)}",
        )
    axes.plot(
        found.digital_cost.energy / joules,
        found.digital_metric,
        "s",
        color="black",
        label=f"all digital, {found.digital}",
    )
    axes.axhline(
        found.threshold, color="black", linestyle="--", label=f"floor, {found.floor:g} of digital"
    )
    axes.set_xscale("log")
    axes.set_xlabel(f"energy of one inference, {unit}")
    axes.set_ylabel(f"metric, worst of {', '.join(found.times)}; 95 % interval")
    axes.set_title(f"{len(found.points)} plans on {len(found.seeds)} simulated {found.chip.name}")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _head(found: HardwarePlan) -> list[str]:
    bound = "at least" if found.higher_is_better else "at most"
    over = f"{len(found.seeds)} chips of {found.chip.name}, worst of {', '.join(found.times)}"
    return [
        f"digital metric {found.reference:.4g}; the floor, {found.floor:g} of it, asks for {bound} "
        f"{found.threshold:.4g}",
        f"{len(found.points)} plans measured on {over}, mean ± half of the 95 % interval",
    ]


def _rows(found: HardwarePlan) -> list[tuple[str, ...]]:
    """Return header and rows: the front by energy, all analog if it is not on it, all digital."""
    energies = {p.name: p.cost.energy for p in found.points}
    unit, joules = energy_unit(energies | {"": found.digital_cost.energy})
    header = ("plan", "metric", "of digital", f"energy ({unit})", "latency (us)")
    rows: list[tuple[str, ...]] = [(*header, "tiles", "chips", "digital MACs")]
    front, best = found.front, found.best
    for p in found.points:
        if p in front or p is best or not (p.digital or p.devices):
            mark = " *" if p is best else "" if p in front else " (not on the front)"
            mark += " (not on further chips)" if p in found.refuted else ""
            rows.append(
                _row(p.name + mark, p.metric.shown(4), p.metric.mean, p.cost, found, joules)
            )
    name = f"all digital, {found.digital}"
    metric = f"{found.digital_metric:.4f}"
    rows.append(_row(name, metric, found.digital_metric, found.digital_cost, found, joules))
    return rows


def _row(
    name: str, metric: str, mean: float, cost: PlanCost, found: HardwarePlan, joules: float
) -> tuple[str, ...]:
    return (
        name,
        metric,
        f"{mean / found.reference:.1%}",
        short(cost.energy / joules),
        short(cost.latency / 1e-6),
        str(cost.tiles),
        str(cost.chips),
        f"{cost.digital_macs / cost.macs:.1%}" if cost.macs else "-",  # embeddings multiply nothing
    )


def _notes(found: HardwarePlan) -> list[str]:
    """Return what the best plan is, how it compares, and which figures are assumed."""
    best, notes = found.best, []
    if best is None:
        notes.append(f"no plan keeps the floor; the nearest is {found.nearest.name}")
    else:
        notes.append(f"* least {_words(found)} of those that keep the floor{_confirmed(best)}")
        if len(best.digital) > 5:
            notes.append(f"  digital: {', '.join(best.digital)}")
        notes.append("  at.convert(at.to_digital(model), **found.convert_arguments())")
        if best.devices.keys() >= set(best.analog):
            notes.append(
                "  and map it by at.map_to_chip(..., chip=found.chip), for program(mapping=...) "
                "too: all its layers have more cells, and a cell of the chip is one"
            )
        if found.digital_cost.energy < best.cost.energy:
            times = best.cost.energy / found.digital_cost.energy
            notes.append(
                f"by these figures this plan takes {times:.3g} times the energy of all digital"
            )
    if found.refuted:
        notes.append(
            f"keeping it on the {len(found.seeds)} chips that chose them, and not on "
            f"{len(found.further_seeds)} further ones: "
            + "; ".join(f"{p.name} ({p.judged.metric.shown(4)})" for p in found.refuted)
        )
    notes += [f"before they are measured, {found.recovery}"] * bool(found.recovery)
    notes += remarks(found.conditions)
    notes += signed_note(found.chip, found.signed)
    host = found.chip.costs.host.energy
    notes.append(
        "digital layers: 2 operations per MAC and those that round inputs to int8, each "
        f"{host.value / 1e-12:.3g} pJ ({host.source}), and one read of each weight (WeightMemory)"
    )
    return notes


def _confirmed(point: HardwarePoint) -> str:
    """Return what a point reaches on the further chips, if it was measured there."""
    if (found := point.confirmed) is None:
        return ""
    return f"; {found.metric.shown(4)} on {len(found.values)} further chips"


def _words(found: HardwarePlan) -> str:
    return found.cheapest.replace("digital_macs", "digital MACs")
