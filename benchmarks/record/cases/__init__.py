"""The battery: every case by its name, with a room per module."""

from benchmarks.record.cases import (
    chips,
    files,
    layers,
    mapping,
    products,
    programming,
    solver,
    speech,
    training,
)
from benchmarks.record.runs import Case

CASES: dict[str, Case] = {
    **products.CASES,
    **layers.CASES,
    **chips.CASES,
    **programming.CASES,
    **training.CASES,
    **mapping.CASES,
    **files.CASES,
    **solver.CASES,
    **speech.CASES,
}
