"""How often chips must be recalibrated, as a table for the terminal."""

from analogtorch.devices.time import duration
from analogtorch.evaluate.conditions import remarks
from analogtorch.evaluate.recalibration_interval import RecalibrationInterval
from analogtorch.report.columns import ruled, three_digits
from analogtorch.report.lifetime import MISSED, since, takes
from analogtorch.values.shown import as_text


@as_text.register
def table(found: RecalibrationInterval) -> str:
    """Return one row per interval: the chips that it, or a longer one, keeps, and what it costs.

    Rows end with the first interval that keeps all chips.
    """
    rows = [("recalibrated", "chips kept", "in all", "ms", "uJ")]
    for interval in found.intervals:
        kept, reads = int((found.longest >= interval).sum()), found.reads(interval)
        cost = found.cost
        costs = ("-", "-")
        if cost is not None:
            costs = (
                three_digits(1e3 * reads * cost.seconds),
                three_digits(1e6 * reads * cost.joules),
            )
        chips = f"{kept} of {len(found.longest)}"
        rows.append((f"every {duration(interval)}", chips, f"{reads:,}", *costs))
        if kept == len(found.longest):
            break
    lines = ruled(rows)
    answer = "none of the intervals keeps all chips"
    if found.every is not None:
        answer = f"every {duration(found.every)} keeps all chips"
    if found.times:
        others = ", ".join(duration(float(t)) for t in found.times)
        answer = f"recalibrated at {others} too, {answer}"
    notes = [
        f"{answer} within {found.limit:g} {since(found.start) or 'for '}"
        f"{'to ' if found.start else ''}{duration(found.life)}",
        takes("one recalibration", found.cost),
        *_shorter(found),
        *([found.note] if found.note else []),
        *remarks(found.conditions),
        MISSED,
    ]
    return "\n".join([*lines, *notes])


def _shorter(found: RecalibrationInterval) -> list[str]:
    """Return a line if chips cross the limit with the interval after the one that keeps them."""
    crossing = int((~found.shorter).sum())
    if not crossing:
        return []
    return [
        f"{crossing} of {len(found.shorter)} chips cross the limit with the next shorter interval: "
        "near it read noise decides, or recalibrating costs the model some of the metric; measure "
        "shorter intervals alone"
    ]
