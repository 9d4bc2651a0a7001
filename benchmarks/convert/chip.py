"""What a model with trained weights keeps on a programmed chip, step by step: converters, programming, corrections."""

import copy
import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

import analogtorch as at
from analogtorch.program import Compensation
from analogtorch.programming import Method
from benchmarks.convert.digits import Digits, digits, trained
from benchmarks.convert.nets import minilm

TIME = "1 day"
Scales = Literal["block", "column"]
CHIPS: dict[Scales, dict[str, Any]] = {"block": {}, "column": {"weight_scale": "column"}}
"""hermes64, and in what a chip of the table differs from it."""
ADC = {"adc": "percentile", "percentile": 99.99}
"""The calibration of the ADC's bound, one for a layer, that lost least on MiniLM."""
ADC_BY_COLUMN = {"method": None, "adc": "mse", "adc_per": "column"}
"""What keeps most without noise: each input vector sets its DAC range, each column of a tile has its ADC bound."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained model and how good it is."""

    name: str
    measure: str
    """Name of the score."""
    model: nn.Module
    calibration: list[Any]
    forward: Callable[[nn.Module, Any], Tensor]
    batches: list[Any]
    """What the score is measured on."""
    score: Callable[[Tensor], float]
    """Of the outputs for all batches."""
    norms: bool
    """Whether it has batch norms."""

    @torch.no_grad()
    def outputs(self, model: nn.Module) -> Tensor:
        """Of all batches, (inputs, features)."""
        return torch.cat([self.forward(model, batch) for batch in self.batches])


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One way to put the model on a chip; a row, and one more for each correction."""

    label: str
    scales: Scales = "block"
    silent: bool = False
    """Whether the chip has no output noise."""
    calibrate: Mapping[str, Any] | None = None
    """Arguments of ``at.calibrate``; None: not calibrated, each input vector or sample sets its range."""
    programmed: bool = False
    method: Method | None = None
    compensation: Compensation = "least_squares"
    correct: bool = False
    """Whether rows with digital corrections follow."""


IO = (
    Setup(label="8-bit I/O, not calibrated", silent=True),
    Setup(label="8-bit I/O, calibrated (mse)", silent=True, calibrate={}),
    Setup(label="8-bit I/O, calibrated (percentile 99.9)", silent=True, calibrate={"method": "percentile"}),
    Setup(label="8-bit I/O, calibrated (absmax)", silent=True, calibrate={"method": "absmax"}),
    Setup(label="8-bit I/O, calibrated (mse), ADC too (mse)", silent=True, calibrate={"adc": "mse"}),
    Setup(label="8-bit I/O, calibrated (mse), ADC too", silent=True, calibrate=ADC),
    Setup(
        label="8-bit I/O, calibrated (mse), ADC by column", silent=True, calibrate={"adc": "mse", "adc_per": "column"}
    ),
    Setup(label="8-bit I/O, ADC by column alone", silent=True, calibrate=ADC_BY_COLUMN),
    Setup(label="8-bit I/O, column scales, not calibrated", silent=True, scales="column"),
    Setup(label="8-bit I/O, column scales, calibrated, ADC too", silent=True, scales="column", calibrate=ADC),
)
"""Exact weights, no noise."""
ON_CHIP = (
    Setup(label="programmed once, not calibrated, global", programmed=True, compensation="global"),
    Setup(label="programmed once, calibrated, global", calibrate={}, programmed=True, compensation="global"),
    Setup(label="programmed once, calibrated, least squares", calibrate={}, programmed=True, correct=True),
    Setup(label="column scales, not calibrated", scales="column", programmed=True),
    Setup(label="column scales, calibrated, ADC too", scales="column", calibrate=ADC, programmed=True, correct=True),
    Setup(
        label="the same, program and verify",
        scales="column",
        calibrate=ADC,
        programmed=True,
        method=at.ProgramAndVerify(),
    ),
    Setup(
        label="the same, gradient descent",
        scales="column",
        calibrate=ADC,
        programmed=True,
        method=at.GradientDescent(),
        correct=True,
    ),
    Setup(
        label="the same without output noise",
        scales="column",
        silent=True,
        calibrate=ADC,
        programmed=True,
        method=at.GradientDescent(),
        correct=True,
    ),
)
"""On a programmed chip a day later; least-squares compensation unless the label says otherwise."""


@dataclass(kw_only=True)
class Row:
    """A row of the table: a value per chip."""

    model: str
    measure: str
    label: str
    scores: list[float] = field(default_factory=list)
    cosines: list[float] = field(default_factory=list)
    """Mean over the inputs of the cosine with the digital output, the mean digital output subtracted from both."""

    def to_dict(self) -> dict[str, Any]:
        """With mean and standard deviation."""
        stats = {}
        for name, values in (("score", self.scores), ("cosine", self.cosines)):
            stats[name] = {"mean": statistics.mean(values), "std": std(values)}
        return {**dataclasses.asdict(self), **stats}


def std(values: list[float]) -> float:
    """Standard deviation over the chips; 0 for one."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def measure(subject: Subject, chips: int, seed: int, step: Callable[[str], object]) -> list[Row]:
    """All rows of a model; ``step`` is told what comes next."""
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
    chip = dataclasses.replace(at.chips.hermes64(), **CHIPS[setup.scales])
    if setup.silent:
        chip = dataclasses.replace(chip, output_noise=0.0)
    model = at.convert(copy.deepcopy(subject.model), chip)
    if setup.calibrate is not None:
        at.calibrate(model, subject.calibration, forward=subject.forward, **setup.calibrate)
    return model


def _views(subject: Subject, setup: Setup, model: nn.Module, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """The chip a day later as it is, then corrected on the inputs of the calibration, step after step."""
    view = at.program(model, seed=seed, method=setup.method).at(TIME, compensation=setup.compensation)
    yield setup.label, view
    if not setup.correct:
        return
    if subject.norms:
        at.reestimate_batch_norm(view, subject.calibration, forward=subject.forward)
        yield f"{setup.label}\n  + batch norm re-estimated", view
    at.correct_columns(view, subject.calibration, forward=subject.forward)
    if subject.norms:  # the norms have adapted to what the columns were
        at.reestimate_batch_norm(view, subject.calibration, forward=subject.forward)
    yield f"{setup.label}\n  + gain and offset of each column{', then batch norm' if subject.norms else ''}", view


def centred_cosine(exact: Tensor, y: Tensor) -> float:
    """Mean over the inputs of the cosine between outputs (inputs, features), less the mean of the exact ones."""
    mean = exact.mean(0)
    return cosine_similarity(exact - mean, y - mean).mean().item()


def rank_correlation(exact: Tensor) -> Callable[[Tensor], float]:
    """Spearman's, over all pairs of embeddings (inputs, features) of length 1, of their cosines with the exact ones."""
    from scipy.stats import spearmanr

    one, other = torch.triu_indices(len(exact), len(exact), 1)

    def pairs(y: Tensor) -> Any:
        return (y @ y.T)[one, other].numpy()

    return lambda y: float(spearmanr(pairs(exact), pairs(y)).statistic)


def subjects(epochs: int) -> dict[str, Callable[[], Subject]]:
    """The models with trained weights, by name."""
    return {"minilm": _sentences, "digits": lambda: _digits(epochs)}


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
        norms=False,
    )


def _digits(epochs: int) -> Subject:
    data: Digits = digits()
    return Subject(
        name="ResNet, digits",
        measure="accuracy",
        model=trained(data, epochs=epochs),
        calibration=list(data.train[:384].split(128)),
        forward=lambda model, x: model(x),
        batches=list(data.test.split(100)),
        score=lambda y: (y.argmax(1) == data.test_labels).float().mean().item(),
        norms=True,
    )
