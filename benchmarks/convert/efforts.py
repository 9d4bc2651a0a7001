"""What each effort of ``calibrate`` keeps of trained nets.

Behind the converters alone, and on programmed chips a day later.
"""

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import analogtorch as at
from analogtorch.calibration.choice import CalibrationReport
from analogtorch.speech.pretrained import load_pretrained
from benchmarks.convert.chip import TIME, subjects
from benchmarks.subject import Subject

EFFORTS: dict[str, dict[str, Any] | None] = {
    "uncalibrated": None,
    "ranges": {"effort": "ranges"},
    "default": {},
    "search": {"effort": "search"},
}
"""Arguments of ``calibrate``; None: it is not called."""
SPEECH = ("DNN_L", "CNN_L", "LSTM_L", "DS-CNN")
EVERY = 10
"""One of this many clips is for the calibration, in 8 batches, and another for the score."""


@dataclass(kw_only=True)
class Row:
    """One net with one effort."""

    net: str
    measure: str
    effort: str
    digital: float
    """Score of the digital net."""
    converters: float
    """Score behind the converters, without noise."""
    on_chip: list[float] = field(default_factory=list)
    """Score of each chip, a day after it was programmed."""
    seconds: float = 0.0
    """Time that the calibration took."""
    found: dict[str, Any] | None = None
    """The report of the search."""


def nets(epochs: int, data: Path) -> dict[str, Callable[[], Subject]]:
    """Return the trained nets by name; those of speech need the data folder."""
    known = subjects(epochs)
    speech = {name.lower(): lambda name=name: _speech(name, data) for name in SPEECH}
    return {"minilm": lambda: _smaller(known["minilm"]()), "digits": known["digits"], **speech}


def measure(
    subject: Subject,
    efforts: Sequence[str],
    chips: int,
    seed: int,
    step: Callable[[str], object],
) -> Iterator[Row]:
    """Yield the row of each effort; ``step`` is called with its name before."""
    digital = subject.scored(subject.model)
    for effort in efforts:
        arguments = EFFORTS[effort]
        step(f"{subject.name}: {effort}")
        model = at.convert(copy.deepcopy(subject.model), at.chips.hermes64())
        found: list[CalibrationReport] = []
        start = time.perf_counter()
        if arguments is not None:
            at.calibrate(
                model,
                subject.calibration,
                forward=subject.forward,
                report=found.append,
                **arguments,
            )
        taken = time.perf_counter() - start
        yield Row(
            net=subject.name,
            measure=subject.measure,
            effort=effort,
            digital=digital,
            converters=subject.scored(model),
            on_chip=[_aged(subject, model, seed + number) for number in range(chips)],
            seconds=taken,
            found=found[0].to_dict() if found else None,
        )


def _aged(subject: Subject, model: nn.Module, seed: int) -> float:
    return subject.scored(at.program(model, seed=seed).at(TIME))


def _smaller(subject: Subject) -> Subject:
    """Return MiniLM calibrated with the same sentences in batches of 25."""
    batches = [
        {key: value[first : first + 25] for key, value in batch.items()}
        for batch in subject.calibration
        for first in range(0, 50, 25)
    ]
    return dataclasses.replace(subject, calibration=batches)


def _speech(name: str, data: Path) -> Subject:
    """Return a keyword spotter that others trained, on every tenth clip of its test set."""
    net = load_pretrained(name, data)
    features, labels = net.features[1::EVERY], net.labels[::EVERY]
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    return Subject(
        name=name,
        measure="accuracy",
        model=net.model,
        calibration=list(features[order].tensor_split(8)),
        batches=list(net.features[::EVERY].split(128)),
        score=lambda y: (y.argmax(1) == labels).float().mean().item(),
    )
