"""What a trained model keeps on a programmed chip, step by step.

The steps are converters, programming and corrections.
"""

import copy
import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

import analogtorch as at
from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.writing import Method
from benchmarks.convert.digits import Digits, digits, trained
from benchmarks.convert.nets import minilm, smollm2
from benchmarks.subject import Subject

TIME = "1 day"
ADC = {"adc": "mse"}
"""An ADC range for each layer, which is a deviation from the chip."""
ADC_BY_COLUMN = {"method": None, "adc": "mse", "adc_per": "column"}
"""Each input vector sets its DAC range, and each column of a tile has an ADC range."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One way to put the model on a chip: one row, and one more for each correction."""

    label: str
    chip: Mapping[str, Any] = field(default_factory=dict)
    """Fields in which the chip differs from hermes64."""
    calibrate: Mapping[str, Any] | None = None
    """Arguments of ``at.calibrate``; None: not calibrated, each input vector or sample sets its
    range."""
    programmed: bool = False
    method: Method | None = None
    compensation: Compensation = "least_squares"
    correct: bool = False
    """Whether rows with digital corrections follow."""


COLUMN = {"periphery": {"weight_scale": "column"}}
IO = (
    Setup(label="converters, not calibrated"),
    Setup(label="converters, calibrated", calibrate={}),
    Setup(label="converters, calibrated, an ADC range per layer", calibrate=ADC),
    Setup(label="converters, a weight scale per column, calibrated", chip=COLUMN, calibrate={}),
)
"""Exact weights, no noise."""
ON_CHIP = (
    Setup(label="programmed, not calibrated", programmed=True),
    Setup(label="programmed, calibrated", calibrate={}, programmed=True, correct=True),
    Setup(
        label="programmed, calibrated, global compensation",
        calibrate={},
        programmed=True,
        compensation="global",
    ),
    Setup(
        label="programmed, calibrated, columns not calibrated",
        chip={"periphery": {"column_calibration": False}},
        calibrate={},
        programmed=True,
    ),
    Setup(
        label="programmed, calibrated, output noise 0.04",
        chip={"adc": {"noise": 0.04}},
        calibrate={},
        programmed=True,
    ),
    Setup(
        label="a weight scale per column, calibrated",
        chip=COLUMN,
        calibrate={},
        programmed=True,
        correct=True,
    ),
    Setup(
        label="the same, program-and-verify",
        chip=COLUMN,
        calibrate={},
        programmed=True,
        method=at.ProgramAndVerify(),
    ),
    Setup(
        label="the same, gradient-descent programming",
        chip=COLUMN,
        calibrate={},
        programmed=True,
        method=at.GradientDescent(),
    ),
)
"""Setups for a programmed chip a day later, with least-squares compensation unless the label names
another."""


@dataclass(kw_only=True)
class Row:
    """A row of the table, with one value per chip."""

    model: str
    measure: str
    label: str
    scores: list[float] = field(default_factory=list)
    cosines: list[float] = field(default_factory=list)
    """Mean over the inputs of the cosine with the digital output, the mean digital output
    subtracted from both."""

    def to_dict(self) -> dict[str, Any]:
        """Return the values with mean and standard deviation."""
        stats = {}
        for name, values in (("score", self.scores), ("cosine", self.cosines)):
            stats[name] = {"mean": statistics.mean(values), "std": std(values)}
        return {**dataclasses.asdict(self), **stats}


def std(values: list[float]) -> float:
    """Return the standard deviation over the chips; 0 for one."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def measure(subject: Subject, chips: int, seed: int, step: Callable[[str], object]) -> list[Row]:
    """Return all rows of a model; ``step`` is called with the name of each step."""
    exact = subject.outputs(subject.model)
    rows: dict[str, Row] = {}

    def add(label: str, model: nn.Module) -> None:
        y = subject.outputs(model)
        row = rows.setdefault(label, Row(model=subject.name, measure=subject.measure, label=label))
        row.scores.append(subject.score(y))
        row.cosines.append(centred_cosine(exact, y))

    add("digital", subject.model)
    for setup in IO:
        step(f"{subject.name}: {setup.label}")
        add(setup.label, _converted(subject, setup))
    for setup in ON_CHIP:
        model = _converted(subject, setup)
        for number in range(chips):
            step(f"{subject.name}: {setup.label}, chip {number + 1}")
            for label, view in _views(subject, setup, model, seed + number):
                add(label, view)
    return list(rows.values())


def _converted(subject: Subject, setup: Setup) -> nn.Module:
    chip = at.chips.hermes64().replace(**setup.chip)
    model = at.convert(copy.deepcopy(subject.model), chip)
    if setup.calibrate is not None:
        at.calibrate(
            model,
            subject.calibration,
            effort="ranges",  # the rows name the weight scale
            forward=subject.forward,
            **setup.calibrate,
        )
    return model


def _views(
    subject: Subject, setup: Setup, model: nn.Module, seed: int
) -> Iterator[tuple[str, nn.Module]]:
    """Yield the chip a day later as it is, then with each correction on calibration inputs."""
    programmed = at.program(model, seed=seed, method=setup.method)

    def aged() -> nn.Module:
        return programmed.at(TIME, compensation=setup.compensation)

    yield setup.label, aged()
    if not setup.correct:
        return
    if subject.norms:
        view = aged()
        at.reestimate_batch_norm(view, subject.calibration, forward=subject.forward)
        yield f"{setup.label}\n  + batch norm re-estimated", view
    view = at.correct_columns(aged(), subject.calibration, forward=subject.forward)
    yield f"{setup.label}\n  + gain and offset of each column", view


def centred_cosine(exact: Tensor, y: Tensor) -> float:
    """Return the mean cosine between outputs (inputs, features), less the mean exact output."""
    mean = exact.mean(0)
    return cosine_similarity(exact - mean, y - mean).mean().item()


def rank_correlation(exact: Tensor) -> Callable[[Tensor], float]:
    """Return Spearman's correlation of the cosines between embeddings with the exact ones.

    Embeddings (inputs, features) have length 1; all their pairs count.
    """
    from scipy.stats import spearmanr

    one, other = torch.triu_indices(len(exact), len(exact), 1)

    def pairs(y: Tensor) -> Any:
        return (y @ y.T)[one, other].numpy()

    return lambda y: float(spearmanr(pairs(exact), pairs(y)).statistic)


def subjects(epochs: int) -> dict[str, Callable[[], Subject]]:
    """Return the models with trained weights, by name."""
    return {"minilm": _sentences, "digits": lambda: _digits(epochs), "smollm2": language}


def _sentences() -> Subject:
    net = minilm()
    with torch.no_grad():
        exact = net.forward(net.model, net.batch)
    return Subject(
        name="MiniLM",
        measure="Spearman",
        model=net.model,
        calibration=net.calibration,
        forward=net.forward,
        batches=[net.batch],
        score=rank_correlation(exact),
    )


def language(tokens: int = 256, calibration: int = 4) -> Subject:
    """Return SmolLM2 with its perplexity; see ``nets.smollm2``."""
    net = smollm2(tokens, calibration)
    following = net.batch[0, 1:]
    return Subject(
        name="SmolLM2-135M",
        measure="perplexity",
        model=net.model,
        calibration=net.calibration,
        forward=net.forward,
        batches=[net.batch],
        score=lambda y: float(cross_entropy(y[:-1], following).exp()),
        lower_is_better=True,
        example={"input_ids": net.batch},
    )


def _digits(epochs: int) -> Subject:
    data: Digits = digits()
    return Subject(
        name="ResNet, digits",
        measure="accuracy",
        model=trained(data, epochs=epochs),
        calibration=list(data.train[:384].split(128)),
        batches=list(data.test.split(100)),
        score=lambda y: (y.argmax(1) == data.test_labels).float().mean().item(),
        norms=True,
    )
