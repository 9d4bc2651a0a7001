"""Chips side by side: a table for the terminal and for notebooks, and plots."""

import html
from collections.abc import Iterator
from typing import Any

import torch

from analogtorch.cost_model import Entry
from analogtorch.evaluate import Interval
from analogtorch.evaluate.comparison import ComparedChip, Comparison
from analogtorch.evaluate.conditions import remarks
from analogtorch.files.figures import new_figure
from analogtorch.report.columns import SPAN, aligned, html_table, number_form
from analogtorch.report.cost import si, signed_note
from analogtorch.report.floorplan import short
from analogtorch.report.sweep import BEYOND, ordered, time_axis
from analogtorch.values.listed import counted
from analogtorch.values.shown import as_figure, as_html, as_text

_UNKNOWN = "not known"


@as_text.register
def table(found: Comparison) -> str:
    """Return one row per quantity and one column per chip, then what each figure covers."""
    lines = aligned(_rows(found))
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:], rule, *_notes(found)])


@as_html.register
def page(found: Comparison) -> str:
    """Return the table as HTML."""
    notes = "<br>".join(map(html.escape, _notes(found)))
    return f"{html_table(_rows(found))}<p>{notes}</p>"


@as_figure.register
def plot(found: Comparison) -> Any:
    """Draw the metric over time, and energy over latency, of the chips of which they are known."""
    measured = [each for each in found.chips if each.sweep is not None]
    charged = [each for each in found.chips if each.cost is not None]
    panels = [(draw, of) for draw, of in ((_metric, measured), (_costs, charged)) if of]
    figure = new_figure(6.5 * max(len(panels), 1), 4.2)
    for number, (panel, of) in enumerate(panels):
        panel(figure.add_subplot(1, len(panels), number + 1), found, of)
    return figure


def _metric(axes: Any, found: Comparison, chips: list[ComparedChip]) -> None:
    noted = False
    for number, each in enumerate(chips):
        sweep = each.sweep
        assert sweep is not None
        order, at = ordered(sweep)
        spread = [sweep.interval()[i] for i in order]
        ends = [s.ends or (s.mean, s.mean) for s in spread]
        colour = f"C{number}"
        axes.plot(at, [s.mean for s in spread], color=colour, label=each.name)
        axes.fill_between(at, *zip(*ends, strict=True), color=colour, alpha=0.25, linewidth=0)
        for i, t, s in zip(order, at, spread, strict=True):
            beyond = bool(sweep.note(sweep.times[i]))
            noted |= beyond
            axes.plot(t, s.mean, color=colour, marker="x" if beyond else "o")
        time_axis(axes, sweep)
    axes.set_xticklabels([label.get_text().rstrip("*") for label in axes.get_xticklabels()])
    axes.set_xlabel(f"time after programming{BEYOND.replace('*', 'crosses') if noted else ''}")
    if found.digital is not None:
        axes.axhline(found.digital, color="black", linewidth=1, label="digital")
    axes.set_ylabel(f"{found.metric}, mean and 95 % interval")
    axes.grid(alpha=0.3)
    axes.legend()


def _costs(axes: Any, found: Comparison, chips: list[ComparedChip]) -> None:
    """Draw energy over latency, with the range that the split of a tile's energy leaves open."""
    from matplotlib.ticker import EngFormatter, NullFormatter

    for number, each in enumerate(chips):
        entries = {entry.quantity: entry for entry in each.entries()}
        energy, latency = entries["energy, system"], entries["latency"]
        assert energy.low is not None
        assert energy.high is not None
        axes.errorbar(
            latency.value,
            energy.value,
            yerr=[[energy.value - energy.low], [energy.high - energy.value]],
            fmt="o",
            capsize=3,
            color=f"C{number}",
            label=f"{each.name}: {_cell(energy)}, {_cell(latency)}",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(0.25)
    for axis, unit in ((axes.xaxis, "s"), (axes.yaxis, "J")):
        axis.set_major_formatter(EngFormatter(unit))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("latency of one inference")
    axes.set_ylabel("energy of one inference, system, and its range")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small").set_in_layout(False)  # long names must not squeeze the axes


def _rows(found: Comparison) -> list[list[str]]:
    """Return header and rows: a quantity is in the table if a chip has it."""
    entries = [{entry.quantity: entry for entry in each.entries()} for each in found.chips]
    rows = [["", *(each.name for each in found.chips)]]
    values = [each.sweep.values.flatten() for each in found.chips if each.sweep is not None]
    form = number_form(torch.cat(values).flatten().tolist()) if values else ""
    if found.digital is not None:
        rows.append([f"{found.metric}, digital", *[f"{found.digital:{form}}"] * len(found.chips)])
    for quantity in dict.fromkeys(quantity for of in entries for quantity in of):
        rows.append([quantity, *(_cell(of.get(quantity), form) for of in entries)])
    return rows


def _cell(entry: Entry | None, form: str = "") -> str:
    """Return an entry as text; the metric has this format."""
    if entry is None:
        return _UNKNOWN
    if entry.kind == "simulated":
        shown = f"{entry.value:{form}}{'*' * bool(entry.note)}"
        if entry.low is None or entry.high is None:
            return shown
        ends = Interval(mean=entry.value, low=entry.low, high=entry.high).shown_ends or ()
        return shown + (f" [{', '.join(f'{end:{form}}' for end in ends)}]" if ends else "")
    if entry.kind == "counted":
        return f"{entry.value:,}"
    small = entry.unit in ("J", "s")
    value = si(entry.value, entry.unit) if small else f"{short(entry.value)} {entry.unit}"
    return f"{value} ({entry.kind})"


def _notes(found: Comparison) -> list[str]:
    """Return what each group of figures covers, and the caveats that stars mark."""
    notes = [f"on the chips, {text}" for text in {c.cells: None for c in found.chips} if text]
    if found.metric is not None:
        spread = f"mean {SPAN} of"
        counts = dict.fromkeys(
            f"{spread} {counted(len(each.sweep.seeds), 'simulated chip')}"
            for each in found.chips
            if each.sweep
        )
        notes.append(f"{found.metric}: {', '.join(counts)} of each kind")
        notes += [f"at each time the {found.recovery}"] * bool(found.recovery)
        notes += remarks(found.conditions)
    bits = [f"{c.name} {c.chip.cost.precision}" for c in found.chips if c.chip.cost is not None]
    if bits:
        notes += [
            f"costs are of {'; '.join(bits)}",
            *(
                f"{c.name}: {note}"
                for c in found.chips
                for note in (signed_note(c.chip, c.cost.schedule.signed) if c.cost else ())
            ),
            "energy of one inference: tile is input encoding, cells and output encoding; chip adds "
            "its digital operations and transport; system adds ports and host",
            "in brackets: the weakest kind of figure that a number rests on (measured, derived, "
            "fitted, modelled, assumed); to_dict and to_csv have scope and range of each",
        ]
    return [*notes, *dict.fromkeys(_caveats(found))]


def _caveats(found: Comparison) -> Iterator[str]:
    for each in found.chips:
        for entry in each.entries():
            if entry.note:
                yield f"* {each.name}, {entry.quantity}: {entry.note}"
