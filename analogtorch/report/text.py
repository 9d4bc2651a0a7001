"""The result of a run as a table for the terminal and as Markdown."""

from analogtorch.report.columns import aligned
from analogtorch.report.result import ISO, Result


def table(result: Result) -> str:
    """Return the accuracies over the chips, in percent, with the iso-accuracy line."""
    rows = _rows(result)
    lines = aligned(rows)
    rule = "-" * len(lines[0])
    notes = [f"Note: {note}" for note in _notes(result)]
    whole = [*_facts(result), "", lines[0], rule, *lines[1:], "", *notes]
    return "\n".join(whole).rstrip()


def markdown(result: Result, *, plot: str | None = None) -> str:
    """Return the table as Markdown, with the plot (a relative path) and the versions."""
    header, *rows = _rows(result)
    lines = ["# Keyword spotting on an analog chip", ""]
    lines += [f"> **{note}**\n" for note in _notes(result)]
    lines += [f"- {fact}" for fact in _facts(result)]
    lines += ["", "| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    if plot:
        lines += ["", f"![Accuracy over time after programming]({plot})"]
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    lines += ["", f"Versions: {versions}.", ""]
    return "\n".join(lines)


def _rows(result: Result) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("accuracy, %", "mapped directly", "hardware-aware", "its loss", "iso-accuracy")
    ]
    direct, hwa = result.direct.to_dict(), result.hwa.to_dict()
    for time, after in hwa.items():
        before = direct[time]
        loss = 100 * (result.digital - after["mean"])
        rows.append(
            (
                f"{time}{'*' * bool(result.hwa.note(time))} after programming",
                _spread(before),
                _spread(after),
                f"{loss:.2f}",
                "yes" if after["mean"] >= result.iso else "no",
            )
        )
    return rows


def _notes(result: Result) -> list[str]:
    """Return the notes of the result, then those of times, which a star marks."""
    return [
        *result.notes,
        *(f"* {t} is {note}" for t in result.hwa.times if (note := result.hwa.note(t))),
    ]


def _spread(value: dict[str, float]) -> str:
    return f"{100 * value['mean']:.2f} ± {100 * value['std']:.2f}"


def _facts(result: Result) -> list[str]:
    clips = ", ".join(
        f"{result.data[split]:,} {split}"
        for split in ("train", "val", "test")
        if split in result.data
    )
    return [
        f"digital accuracy {100 * result.digital:.2f} %, iso-accuracy ({ISO:.0%} of it) "
        f"{100 * result.iso:.2f} %",
        f"{result.tiles} tiles of {result.chip}, mean ± standard deviation over "
        f"{len(result.hwa.seeds)} chips",
        f"data: {result.data['source']} ({clips} clips); seed {result.seed}; "
        f"{result.seconds:.0f} s",
    ]
