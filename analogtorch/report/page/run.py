"""The report of a keyword-spotting run as a document."""

from collections.abc import Iterator

from torch import Tensor

from analogtorch.evaluate import Sweep
from analogtorch.report.columns import SPAN, over_chips
from analogtorch.report.heard import Heard, Misheard
from analogtorch.report.page import as_html, as_markdown
from analogtorch.report.page.causes import budget_section, sensitivity_section
from analogtorch.report.page.curves import Level, curves, over_time
from analogtorch.report.page.on_chip import (
    cost_keys,
    cost_section,
    floorplan_section,
    listening_key,
    tile_key,
)
from analogtorch.report.page.parts import (
    Cell,
    Clip,
    Clips,
    Document,
    Drawing,
    Key,
    Section,
    Table,
    Text,
)
from analogtorch.report.page.ranges import ranges_section
from analogtorch.report.page.repeat import repeat_section
from analogtorch.report.page.training import training_section
from analogtorch.report.result import ISO, Result
from analogtorch.report.sweep import ordered
from analogtorch.report.text import (
    accuracy_rows,
    clips_text,
    confidence_text,
    notes,
    points,
    spread_text,
    took,
)
from analogtorch.values.listed import counted

_ISO = f"{100 * ISO:.0f} %"


def html(result: Result) -> str:
    """Return the report as one HTML page, with everything in it: drawings, clips, configuration.

    Raises:
        ImportError: jinja2 is not installed.
    """
    return as_html.render(document(result))


def markdown(result: Result, *, plot: str | None = None) -> str:
    """Return the report as Markdown, with the plot of the accuracy (a relative path)."""
    return as_markdown.render(document(result, plot=plot or ""))


def document(result: Result, *, plot: str = "") -> Document:
    """Return the report, from the key figures to the command that repeats the run."""
    data = result.data
    model = result.config.get("model", {}).get("name", "")
    return Document(
        title="Keyword spotting on an analog chip",
        about=f"{f'{model} on ' if model else ''}{result.chip}; data: {data['source']}; seed "
        f"{result.seed}",
        notes=tuple(notes(result)),
        keys=tuple(_keys(result)),
        sections=tuple(_sections(result, plot)),
    )


def _keys(result: Result) -> Iterator[Key]:
    hwa, clips = result.hwa, result.data.get("test")
    yield Key(
        label="Digital accuracy",
        value=f"{100 * result.digital:.2f} %",
        note="" if clips is None else f"{clips:,} test clips",
    )
    for time in result.key_times:
        i = hwa.times.index(time)
        yield Key(
            label=f"On chip after {time}{'*' * bool(hwa.note(time))}",
            value=f"{100 * hwa.mean[i].item():.2f} %",
            note=f"trained for the chip; {_over_chips(hwa, i)}",
        )
    for time in result.key_times:
        verdict = result.verdicts[hwa.times.index(time)]
        yield Key(
            label=f"Iso-accurate after {time}",
            value=str(verdict),
            note=f"at least {100 * result.iso:.2f} %, {_ISO} of digital; {confidence_text(result)}",
        )
    if result.cost is not None and result.joules_per_year is not None:
        yield from cost_keys(result.cost)
        yield listening_key(result.cost, result.windows_per_second, result.joules_per_year)
    if result.mapping is not None:
        yield tile_key(result.mapping)
    else:
        yield Key(label="Tiles", value=f"{result.tiles}", note=result.chip)


def _over_chips(sweep: Sweep, i: int) -> str:
    """Return what the mean at a time is over, and its spread if there is one."""
    if len(sweep.seeds) == 1:
        return "one chip"
    spread, worst = (100 * of[i].item() for of in (sweep.std, sweep.worst))
    return f"mean of {_chips(sweep)}, standard deviation {spread:.2f}, the worst {worst:.2f} %"


def _sections(result: Result, plot: str) -> Iterator[Section]:
    yield _accuracy(result, plot)
    if result.levels:
        yield _levels(result)
    if result.ranges:
        yield ranges_section(result.ranges)
    if result.ablation:
        yield _ablation(result)
    if result.heard is not None:
        yield _confusions(result.heard, result.hwa)
        if result.heard.misheard:
            yield _misheard(result.heard)
    if result.sensitivity is not None:
        yield sensitivity_section(result.sensitivity, result.digital)
    if result.budget is not None:
        yield budget_section(result.budget, result.digital)
    if result.training:
        yield training_section(result.training)
    if result.mapping is not None:
        yield floorplan_section(result.mapping)
    if result.cost is not None:
        yield cost_section(result.cost)
    yield _repeat(result)


def _accuracy(result: Result, plot: str) -> Section:
    order, at = ordered(result.hwa)
    named = [result.hwa.times[i] + "*" * bool(result.hwa.note(result.hwa.times[i])) for i in order]
    drawn = [
        over_time(name, sweep, order)
        for name, sweep in (("hardware-aware", result.hwa), ("mapped directly", result.direct))
    ]
    levels = [
        Level(name="digital", value=100 * result.digital),
        Level(name=f"{_ISO} of digital", value=100 * result.iso),
    ]
    svg = curves(
        drawn,
        levels,
        list(zip(at, named, strict=True)),
        unit="%",
        alternative="Accuracy over time after programming, hardware-aware and mapped directly; the "
        "table below has the numbers",
    )
    header, *rows = accuracy_rows(result)
    caption = (
        "Accuracy over the time after programming, on a logarithmic axis: "
        f"{over_chips(len(result.hwa.seeds), sign=' and')}."
    )
    return Section(
        "Accuracy over time",
        (
            Drawing(svg=svg, caption=caption, file=plot),
            Table(
                caption=f"Accuracy in percent, {over_chips(len(result.hwa.seeds))}; loss "
                "against digital, and gain over the net mapped directly on the same chips, in "
                f"points {SPAN}",
                header=header,
                rows=tuple(rows),
                words=(len(header) - 1,),
            ),
        ),
    )


def _chips(of: Sweep | Heard) -> str:
    return counted(len(of.seeds), "chip")


def _levels(result: Result) -> Section:
    first = next(iter(result.levels.values()))
    rows = [
        (
            f"{level:g}" + ", chosen" * (level == result.level),
            *map(spread_text, sweep.mean.tolist(), sweep.std.tolist()),
            f"{100 * sweep.values.mean().item():.2f}",
        )
        for level, sweep in result.levels.items()
    ]
    return Section(
        "Level of the training noise",
        (
            Table(
                caption="Accuracy on validation clips after training with each level, in percent, "
                f"{over_chips(len(first.seeds))} that no other table has; the "
                "largest mean over them and the times chose, without a look at the test clips",
                header=("level", *first.times, "mean"),
                rows=tuple(rows),
            ),
        ),
    )


def _ablation(result: Result) -> Section:
    hwa, rows = result.hwa, []
    chosen = [hwa.times.index(time) for time in result.key_times]
    for name, sweep in result.ablation.items():
        spreads = map(spread_text, sweep.mean.tolist(), sweep.std.tolist())
        gains = hwa.minus(sweep).interval()
        rows.append((name, *spreads, *(points(gains[i]) for i in chosen)))
    return Section(
        "Ablation",
        (
            Table(
                caption="Other trainings on the same chips, or the same net on chips made "
                f"otherwise: accuracy in percent, {over_chips(len(hwa.seeds))}; and what this run "
                f"gains over them, chip by chip, in points {SPAN}",
                header=(
                    "variant",
                    *hwa.times,
                    *(f"gain, {hwa.times[i]}" for i in chosen),
                ),
                rows=tuple(rows),
            ),
        ),
    )


def _confusions(heard: Heard, hwa: Sweep) -> Section:
    noted = heard.time in hwa.times  # among the notes on top
    return Section(
        "Which words are confused",
        (
            Text(
                "Each row has the clips of one word, each column what they were heard as, in "
                "percent of the row; zeros are left out."
                + (f" {heard.time} is {heard.note}." if heard.note and not noted else "")
            ),
            _matrix(heard, heard.digital, "Heard by the digital net, %"),
            _matrix(
                heard,
                heard.chips,
                f"Heard on {_chips(heard)} after {heard.time}{'*' * bool(heard.note)}, %",
            ),
        ),
    )


def _matrix(heard: Heard, what: Tensor, caption: str) -> Table:
    counts = heard.confusion(what).double()
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    rows: list[tuple[str | Cell, ...]] = [
        (name, *(Cell(text=_percent(share), shade=share) for share in row))
        for name, row in zip(heard.classes, shares.tolist(), strict=True)
    ]
    return Table(
        caption=caption,
        header=("said", *heard.classes),
        rows=tuple(rows),
        matrix=True,
    )


def _percent(share: float) -> str:
    if share == 0:
        return ""
    return "<1" if share < 0.005 else f"{100 * share:.0f}"


def _misheard(heard: Heard) -> Section:
    clips = tuple(
        Clip(text=_described(clip, len(heard.seeds)), wav=clip.wav) for clip in heard.misheard
    )
    return Section(
        "Misheard clips",
        (
            Text(
                f"Test clips that the trained net mishears on chips after {heard.time}: one of "
                "each word and then further ones, of both those first that the digital net hears. "
                "Chips are counted from 0, in the order of the sweep."
            ),
            Clips(clips),
        ),
    )


def _described(clip: Misheard, chips: int) -> str:
    on: dict[str, list[str]] = {}
    for number, word in enumerate(clip.chips):
        if word != clip.said:
            on.setdefault(word, []).append(str(number))
    wrong = "; ".join(f"“{word}” on {_numbered(numbers, chips)}" for word, numbers in on.items())
    right = chips - sum(map(len, on.values()))
    also = f", right on {right}" if right else ""
    digital = "right" if clip.digital == clip.said else f"“{clip.digital}”"
    return f"Said “{clip.said}”, heard {wrong}{also}; digital: {digital}. Clip {clip.name}"


def _numbered(numbers: list[str], chips: int) -> str:
    if len(numbers) == chips:
        return f"all {chips} chips" if chips > 1 else "the chip"
    return f"chip{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"


def _repeat(result: Result) -> Section:
    versions = ", ".join(f"{name} {number}" for name, number in result.versions.items())
    facts = [
        ("clips", clips_text(result)),
        ("time that it took", took(result.seconds, continued=result.continued)),
        ("versions", versions),
    ]
    if lacking := _lacking(result):
        facts.append(("not measured", lacking))
    return repeat_section(facts, result.command, result.config)


def _lacking(result: Result) -> str:
    """Return what was not measured and how to measure it."""
    absent = {
        "sensitivity of the layers (--report.sensitivity true)": result.sensitivity,
        "error budget (--report.budget true)": result.budget,
    }
    return ", ".join(name for name, found in absent.items() if found is None)
