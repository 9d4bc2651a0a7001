"""The report of a transcription as a document."""

import math
from collections.abc import Iterator

from analogtorch.report.columns import over_chips
from analogtorch.report.page import as_html, as_markdown
from analogtorch.report.page.curves import Level, curves, over_time
from analogtorch.report.page.on_chip import cost_keys, cost_section, floorplan_section, tile_key
from analogtorch.report.page.parts import (
    Document,
    Drawing,
    Key,
    Section,
    Table,
    Text,
)
from analogtorch.report.page.repeat import repeat_section
from analogtorch.report.sweep import ordered
from analogtorch.report.text import took
from analogtorch.report.transcribed import Transcribed


def html(found: Transcribed) -> str:
    """Return the report as one HTML page.

    Raises:
        ImportError: jinja2 is not installed.
    """
    return as_html.render(document(found))


def markdown(found: Transcribed, *, plot: str = "") -> str:
    """Return the report as Markdown, with the plot of the error rate (a relative path)."""
    return as_markdown.render(document(found, plot=plot))


def document(found: Transcribed, *, plot: str = "") -> Document:
    """Return the report, from the key figures to the command that repeats the run."""
    return Document(
        title="Speech to text on an analog chip",
        about=f"{found.recogniser} on {found.chip}; {len(found.transcripts)} recordings",
        notes=found.notes,
        keys=tuple(_keys(found)),
        sections=tuple(_sections(found, plot)),
    )


def _keys(found: Transcribed) -> Iterator[Key]:
    if found.wer is not None and found.digital is not None:
        words = sum(len((each.said or "").split()) for each in found.transcripts)
        yield Key(
            label="Word error rate, digital",
            value=f"{100 * found.digital:.1f} %",
            note=f"{words:,} words said",
        )
        for time, spread in zip(found.times, found.wer.interval(), strict=True):
            ends = spread.shown_ends
            span = f", 95 % interval {100 * ends[0]:.1f} to {100 * ends[1]:.1f}" if ends else ""
            yield Key(
                label=f"On chip after {time}{'*' * bool(found.wer.note(time))}",
                value=f"{100 * spread.mean:.1f} %",
                note=f"{_chips(found)}{span}",
            )
    if found.cost is not None:
        yield from cost_keys(found.cost)
    if found.mapping is not None:
        yield tile_key(found.mapping)


def _chips(found: Transcribed) -> str:
    return f"mean of {len(found.seeds)} chips" if len(found.seeds) > 1 else "one chip"


def _sections(found: Transcribed, plot: str) -> Iterator[Section]:
    if found.wer is not None:
        yield _error_rate(found, plot)
    yield Section(
        "What is written down",
        (
            Table(
                caption="Texts of the digital net and of the first chip over time; "
                "transcripts.csv has those of all chips",
                header=("recording", "by", "text"),
                rows=tuple(_texts(found)),
                words=(1, 2),
            ),
        ),
    )
    if found.mapping is not None:
        yield floorplan_section(found.mapping)
    if found.cost is not None:
        section = cost_section(found.cost)
        window = Text(
            f"An inference is one window of {found.window:g} s with all tokens of its text at "
            "once; generate() reads them one by one."
        )
        yield Section(section.title, (window, *section.parts))
    yield _repeat(found)


def _texts(found: Transcribed) -> list[tuple[str, ...]]:
    """Return a row for the reference, the digital net and each time on the first chip.

    Each begins with the name of its recording, which a reader of single rows, such as a screen
    reader, needs too.
    """
    rows: list[tuple[str, ...]] = []
    for each in found.transcripts:
        if each.said is not None:
            rows.append((each.name, "reference", each.said))
        rows.append((each.name, "digital", each.digital))
        rows += [(each.name, t, x) for t, x in zip(found.times, each.chips[0], strict=True)]
    return rows


def _error_rate(found: Transcribed, plot: str) -> Section:
    wer = found.wer
    assert wer is not None
    assert found.digital is not None
    order, at = ordered(wer)
    named = [wer.times[i] + "*" * bool(wer.note(wer.times[i])) for i in order]
    curve = over_time("on chip", wer, order)
    svg = curves(
        [curve],
        [Level(name="digital", value=100 * found.digital)],
        list(zip(at, named, strict=True)),
        unit="%",
        alternative="Word error rate over time after programming; the table below has the numbers",
    )
    rows: list[tuple[str, ...]] = [("digital", f"{100 * found.digital:.1f}", "", "")]
    for i, time in enumerate(wer.times):
        values = [100 * v[i].item() for v in (wer.mean, wer.std, wer.worst)]
        shown = ["" if math.isnan(value) else f"{value:.1f}" for value in values]
        rows.append((named[order.index(i)] if i in order else time, *shown))
    return Section(
        "Word error rate over time",
        (
            Drawing(
                svg=svg,
                caption="Word error rate over the time after programming, on a logarithmic axis: "
                f"{over_chips(len(found.seeds), sign=' and')}.",
                file=plot,
            ),
            Table(
                caption="Word error rate in percent: wrong, missing and added words per word said",
                header=("time", "mean", "standard deviation", "worst chip"),
                rows=tuple(rows),
            ),
        ),
    )


def _repeat(found: Transcribed) -> Section:
    seconds = sum(each.seconds for each in found.transcripts)
    facts = [
        ("recordings", f"{len(found.transcripts)}, {seconds:.0f} s"),
        ("on the chip", found.share),
        ("time that it took", took(found.took, continued=found.continued)),
        ("versions", ", ".join(f"{name} {number}" for name, number in found.versions.items())),
    ]
    return repeat_section(facts, found.command, found.config)
