"""The result of a run as a table for the terminal."""

import dataclasses

from analogtorch.evaluate import Interval
from analogtorch.report.columns import SPAN, over_chips, ruled, with_spread
from analogtorch.report.result import ISO, Result
from analogtorch.values.listed import counted


def table(result: Result) -> str:
    """Return the accuracies over the chips, in percent, with the iso-accuracy line."""
    lines = ruled(accuracy_rows(result))
    remarks = [f"Note: {note}" for note in notes(result)]
    whole = [*_facts(result), "", *lines, "", *remarks]
    return "\n".join(whole).rstrip()


def accuracy_rows(result: Result) -> list[tuple[str, ...]]:
    """Return the accuracies over time, the header first."""
    rows: list[tuple[str, ...]] = [
        (
            "accuracy, %, at",
            "mapped directly",
            "hardware-aware",
            "worst chip",
            "its loss",
            "its gain",
            "iso-accuracy",
        )
    ]
    direct, hwa = result.direct, result.hwa
    columns = zip(
        hwa.times,
        zip(direct.mean.tolist(), direct.std.tolist(), strict=True),
        zip(hwa.mean.tolist(), hwa.std.tolist(), strict=True),
        hwa.worst.tolist(),
        hwa.interval(),
        hwa.minus(direct).interval(),
        result.verdicts,
        strict=True,
    )
    for time, before, after, worst, spread, gain, verdict in columns:
        loss = dataclasses.replace(
            spread,
            mean=result.digital - spread.mean,
            low=result.digital - spread.high,
            high=result.digital - spread.low,
        )
        rows.append(
            (
                f"{time}{'*' * bool(hwa.note(time))}",
                spread_text(*before),
                spread_text(*after),
                f"{100 * worst:.2f}",
                points(loss),
                points(gain),
                str(verdict),
            )
        )
    return rows


def notes(result: Result) -> list[str]:
    """Return the caveats of the result, then those of times, which a star marks."""
    alike: dict[str, list[str]] = {}
    for time in result.hwa.times:
        if note := result.hwa.note(time):
            alike.setdefault(note, []).append(time)
    marked = [
        f"* {', '.join(times)} {'is' if len(times) == 1 else 'are'} {note}"
        for note, times in alike.items()
    ]
    return [*result.caveats, *marked]


def spread_text(mean: float, std: float) -> str:
    """Return a mean and its standard deviation in percent; one chip has none, which is NaN."""
    return with_spread(100 * mean, 100 * std)


def points(found: Interval) -> str:
    """Return a difference in points, with the ends of its interval if it has ``shown_ends``."""
    ends = [f"{100 * end:z.2f}" for end in found.shown_ends or ()]
    return f"{100 * found.mean:z.2f}" + (f" [{', '.join(ends)}]" if ends else "")


def confidence_text(result: Result) -> str:
    """Return how the confidence of ``Result.verdicts`` is found."""
    least = f", of a spread of at least one of {result.clips:,} test clips" if result.clips else ""
    return f"confidence by Student's t{least}"


def took(seconds: float, *, continued: bool) -> str:
    """Return the time that a run took, s, as text; if it was continued, that since then."""
    return f"{seconds:.0f} s{' since it was continued' if continued else ''}"


def clips_text(result: Result) -> str:
    """Return the number of clips of each split as text."""
    splits = (split for split in ("train", "val", "test") if split in result.data)
    return ", ".join(f"{result.data[split]:,} {split}" for split in splits)


def _facts(result: Result) -> list[str]:
    return [
        f"digital accuracy {100 * result.digital:.2f} %, iso-accuracy ({ISO:.0%} of it) "
        f"{100 * result.iso:.2f} %",
        f"{counted(result.tiles, 'tile')} of {result.chip}, "
        f"{over_chips(len(result.hwa.seeds))}; times after programming",
        "its loss against the digital accuracy and, chip by chip, its gain over the net mapped "
        f"directly: points {SPAN}",
        f"iso-accuracy of its mean over the chips ({confidence_text(result)})",
        f"data: {result.data['source']} ({clips_text(result)} clips); seed {result.seed}; "
        f"{took(result.seconds, continued=result.continued)}",
    ]
