"""What causes the loss: sections of the sensitivity of layers and of the error budget."""

from collections.abc import Mapping, Sequence

from analogtorch.evaluate.losses import Effect, Loss, Sensitivity
from analogtorch.evaluate.shares import Budget
from analogtorch.report import budget, sensitivity
from analogtorch.report.columns import SPAN, over_chips
from analogtorch.report.page.parts import Cell, Section, Table, Text
from analogtorch.report.sensitivity import effect_title, spread
from analogtorch.report.text import points, spread_text

Row = tuple[str | Cell, ...]


_FAR = 0.0101
"""Difference of accuracies from which a loss in these tables is not that of the key figures: more
than a point, also where both are rounded to 0.01 points."""


def sensitivity_section(found: Sensitivity, digital: float) -> Section:
    """Return what each layer loses alone, the largest loss first, with bars.

    Args:
        found: the losses of accuracy.
        digital: the accuracy of the digital net, 0..1.
    """
    last = found.effects[-1]
    longest = max([row.loss[last].mean for row in found.rows], default=0.0)

    def line(name: str, weights: str, losses: Sequence[str], length: float) -> Row:
        return (name, weights, *losses[:-1], Cell(text=losses[-1], bar=_share(length, longest)))

    rows = [
        line(
            row.name or "(root)", f"{row.weights:,}", _losses(found, row.loss), row.loss[last].mean
        )
        for row in found.rows
    ]
    sums = [f"{100 * found.sum[effect]:z.2f}" for effect in found.effects]
    rows.append(line("sum of the layers", "", sums, 0.0))
    rows.append(line("all on the chip", "", _losses(found, found.total), 0.0))
    table = Table(
        caption="Points of accuracy lost with one layer on the chip and the others exact, "
        f"{over_chips(len(found.seeds))}",
        header=("layer", "weights", *(effect_title(found, effect) for effect in found.effects)),
        rows=tuple(rows),
    )
    against = _against(found.reference, digital, found.total[last].mean)
    notes = _notes(found, sensitivity.remarks(found))
    return Section("Sensitivity of the layers", (against, table, *notes))


def budget_section(found: Budget, digital: float) -> Section:
    """Return what each non-ideality costs, the largest loss first, with bars.

    The arguments are those of ``sensitivity_section``.
    """
    longest = max([row.alone.mean for row in found.rows], default=0.0)
    rows: list[Row] = []
    for row in found.rows:
        alone = Cell(text=points(row.alone), bar=_share(row.alone.mean, longest))
        rows.append((row.name, points(row.saved), alone))
    rows.append(("sum of them alone", "", Cell(text=f"{100 * found.sum:z.2f}", bar=0.0)))
    rows.append(("all together", "", Cell(text=points(found.total), bar=0.0)))
    number = len(found.seeds)
    chips = "one chip" if number == 1 else f"mean {SPAN} of {number} chips"
    table = Table(
        caption=f"Points of accuracy at {found.time}{'*' * bool(found.note)} that each "
        f"non-ideality costs alone, and what the chip gains without it; {chips}",
        header=("non-ideality", "gain without it", "loss alone"),
        rows=tuple(rows),
    )
    against = _against(found.reference, digital, found.total.mean)
    return Section("Error budget", (against, table, *_notes(found, budget.remarks(found))))


def _losses(found: Sensitivity, by_effect: Mapping[Effect, Loss]) -> list[str]:
    """Return losses in points, with their spread where they were measured on several chips."""
    return [
        spread_text(loss.mean, spread(found, loss, effect)) for effect, loss in by_effect.items()
    ]


def _share(length: float, longest: float) -> float:
    """Return the length of a bar; losses that are gains have none."""
    return max(length, 0.0) / longest if longest > 0 else 0.0


def _against(reference: float, digital: float, loss: float) -> Text:
    """Return what the losses are counted from, and whether that is not the digital accuracy.

    Args:
        reference: what they are counted from, 0..1.
        digital: the accuracy of the digital net, 0..1.
        loss: that of everything on the chip against the reference.
    """
    text = (
        f"Losses are against {100 * reference:.2f} %, what the net trained for the chip has with "
        "exact weights and without converters."
    )
    if abs(reference - digital) > _FAR:
        text += (
            f" That is far from the {100 * digital:.2f} % of the digital net, which the key "
            "figures are against"
        )
        # or it may be that it was trained better or worse
        needs_chip = reference < digital and loss < 0
        text += ": the training took the converters into the net." if needs_chip else "."
    return Text(text)


def _notes(found: Sensitivity | Budget, remarks: list[str]) -> list[Text]:
    """Return what stands under a table: the note of its time, and remarks as sentences."""
    note = [f"* {found.time} is {found.note}"] if found.note else []
    return [Text(text) for text in (*note, *(f"{t[0].upper()}{t[1:]}." for t in remarks))]
