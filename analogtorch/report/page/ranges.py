"""The section on the ranges that trained nets keep."""

from collections.abc import Mapping

from analogtorch.report.page.parts import Section, Table
from analogtorch.report.ranges import RangeChoice


def ranges_section(ranges: Mapping[str, RangeChoice]) -> Section:
    """Return the section on what each net keeps, by the name of the net.

    Args:
        ranges: the choices, one or more, all on the same chips at the same times.
    """
    first = next(iter(ranges.values())).new
    chips = "one chip" if len(first.seeds) == 1 else f"{len(first.seeds)} chips"
    rows = [
        (
            name,
            f"{100 * choice.learnt.values.mean().item():.2f}",
            f"{100 * choice.new.values.mean().item():.2f}",
            f"{100 * choice.margin:.2f}",
            choice.kept,
        )
        for name, choice in ranges.items()
    ]
    return Section(
        "Ranges of the converters",
        (
            Table(
                caption="Accuracy on validation clips with the ranges that a net has learnt in its "
                f"training, and with new ones for its weights, in percent: mean over {chips} "
                f"that no other table has, at {' and '.join(first.times)}. New ones stay unless "
                "they cost more than the margin, in points, which is larger where clips are few. "
                "Nets that keep different ranges differ in more than their training",
                header=("net", "learnt", "new", "margin", "kept"),
                rows=tuple(rows),
                words=(4,),
            ),
        ),
    )
