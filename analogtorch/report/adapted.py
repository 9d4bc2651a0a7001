"""What an adaptation gained, as a table for the terminal and as curves."""

import itertools
from typing import Any

from torch import Tensor

from analogtorch.conversion.share import share
from analogtorch.files.figures import new_figure
from analogtorch.hwa.adapted import Adapted, Generalisation
from analogtorch.hwa.on_chips import Reading
from analogtorch.report.columns import ruled
from analogtorch.values.listed import counted
from analogtorch.values.shown import as_figure, as_text

_RECOVERED = "columns fitted (at.Recovery, steps=0)"
_OTHER_CHIPS = (
    "chips that correct their columns keep more of a model that learns for them, by training noise "
    "with corrected=True"
)
_COSTS_OTHER_CHIPS = (
    "chips that correct their columns keep more of the model before this training: for them "
    "calibrate without adapt, or train by noise with corrected=True"
)
_LEARNT = "batches that were learnt from; give at least 4 to hold some back"
_UNTRAINED = "no look of the training was better than its start, so that it is undone"


@as_text.register
def table(found: Adapted) -> str:
    """Return one row per stage: error, agreement and metric on chips, at each time."""
    measures = _measures(found.stages[0].reading)
    header = ["stage", *(f"{name} at {time}" for name in measures for time in found.times), "kept"]
    rows = [header]
    measured = [(s.name, s.reading, "yes" if s.kept else "no") for s in found.stages]
    if found.recovered_before is not None and _trained(found):
        measured.append((f"{_RECOVERED}, before training", found.recovered_before, "no"))
    if found.recovered is not None:
        measured.append((_RECOVERED, found.recovered, "by each chip"))
    for stage, on_chips, kept in measured:
        values = [value for name in measures for value in _measures(on_chips)[name]]
        rows.append([stage, *values, kept])
    lines = ruled(rows)
    chips = counted(len(found.seeds), "chip")
    chips += " that correct their columns (at.Recovery, steps=0)" * found.corrected
    exact = "those of the teacher" if found.with_teacher else "the digital ones"
    notes = [
        f"error of the outputs on {chips} to {exact}, {_compared(found)}, and "
        "the share of outputs of one number within a tenth of their spread, of others whose "
        f"largest number agrees, on {'batches held back' if found.held_back else _LEARNT}",
        f"{len(found.steps)} steps, {found.seconds:,.0f} s: {found.stopped}",
        *([] if _trained(found) else [_UNTRAINED]),
        *([_generalised(found.generalisation)] if found.generalisation else []),
        *_corrected(found),
        *_digital(found),
        *([found.note] if found.note else []),
    ]
    return "\n".join([*lines, *notes])


def _digital(found: Adapted) -> list[str]:
    """Return the share of the weights that is on the chip, unless all are."""
    held = share(found.model)
    analog = held.percent(held.analog)
    why = "at.summary of the model says why the others are not"
    return [f"{analog} of the weights that multiply are on the chip; {why}"] if held.digital else []


@as_figure.register
def plot(found: Adapted) -> Any:
    """Draw the loss of each step, and the error on chips where it was measured."""
    figure = new_figure(7, 3.6)
    axes = figure.add_subplot()
    axes.plot([s.step for s in found.steps], [s.loss for s in found.steps], lw=0.8, label="loss")
    axes.plot([s.step for s in found.steps], [s.outputs for s in found.steps], lw=0.8,
              label="of the outputs")  # fmt: skip
    looks = [(s.step, s.error) for s in found.steps if s.error is not None]
    if looks:
        axes.plot(*zip(*looks, strict=True), "o-", label="error on chips")
    before = itertools.takewhile(lambda stage: stage.name != "distilled", found.stages)
    start = [stage for stage in before if stage.kept][-1]
    axes.axhline(start.reading.mean, ls="--", lw=0.8, color="grey", label=start.name)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("relative error")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _compared(found: Adapted) -> str:
    """Return how outputs are compared, in words: each, if they differ."""
    kinds = [
        f"as distributions over dimension {way.dim}"
        if way.by_scores
        else f"number by number{', each over its variance' if way.in_units else ''}"
        for way in found.ways
    ]
    if not kinds:  # a run that an earlier version has finished
        return "number by number" if found.compared == "error" else "as distributions"
    if len(set(kinds)) == 1:
        return kinds[0]
    return "; ".join(f"output {number} {kind}" for number, kind in enumerate(kinds))


def _corrected(found: Adapted) -> list[str]:
    """Return what chips that correct their columns gain or lose by the training."""
    if found.recovered is None:
        return []
    last = [stage.reading for stage in found.stages if stage.kept][-1]
    best = min(last.mean, found.recovered.mean)
    before = found.recovered_before
    if before is not None and _trained(found) and before.mean < best:
        return [_COSTS_OTHER_CHIPS]
    return [_OTHER_CHIPS] if found.recovered.mean < last.mean else []


def _trained(found: Adapted) -> bool:
    return all(stage.kept for stage in found.stages if stage.name == "distilled")


def _generalised(found: Generalisation) -> str:
    text = (
        f"left of the error on chips: {found.learnt:.0%} on batches that were learnt from, "
        f"{found.held:.0%} on those held back"
    )
    if found.is_unlike:
        return f"{text}; those held back are unlike the others: shuffle the samples before batching"
    return f"{text}; more batches would help" if found.needs_more else text


def _measures(reading: Reading) -> dict[str, list[str]]:
    found = {
        "error": [f"{100 * value:.1f} %" for value in _means(reading.error)],
        "agreement": [f"{100 * value:.1f} %" for value in _means(reading.agreement)],
    }
    if reading.metric is not None:
        found["metric"] = [f"{value:.4g}" for value in _means(reading.metric)]
    return found


def _means(values: Tensor) -> list[float]:
    return [float(value) for value in values.mean(0)]
