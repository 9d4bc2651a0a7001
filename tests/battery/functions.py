"""Public functions and methods."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

import analogtorch as at
from analogtorch import chips
from tests.battery.calls import (
    CHIP,
    NO_FLAG,
    NO_INTEGER,
    NO_MODEL,
    NO_NUMBER,
    Bad,
    X,
    Y,
    analog,
    digital,
    every,
    mapping,
    never,
    programmed,
    used_up,
)

NO_CHIP = (None, "hermes64", chips.hermes64, 3, CHIP.cell)
NO_EXAMPLE = (None, "x", 3, [X], [])
NO_SEED = (1.5, True, "1", None, math.nan, torch.tensor(1))

NO_DIRECTION = [v for v in NO_FLAG if v is not None]
"""None leaves the direction of a metric to the metric."""


class Nan(nn.Module):
    """Gives NaN for whatever."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x), 3), math.nan)


def calls() -> Iterator[Bad]:
    """All of them."""
    yield from _convert()
    yield from _calibrate()
    yield from _program()
    yield from _evaluate()
    yield from _training()
    yield from _mapping()
    yield from _chips()


def _convert() -> Iterator[Bad]:
    yield from every(
        "convert model",
        lambda v: at.convert(v, CHIP),
        NO_MODEL,
        "convert: model must be a",
        TypeError,
    )
    yield from every(
        "convert chip",
        lambda v: at.convert(digital(), v),
        NO_CHIP,
        "chip must be a Chip such as",
        TypeError,
    )
    yield Bad(
        "convert twice",
        lambda: at.convert(at.convert(digital(), CHIP), chips.ideal()),
        ValueError,
        "",
    )
    yield Bad(
        "convert a chip",
        lambda: at.convert(programmed(), CHIP),
        TypeError,
        "a programmed chip is a model at a",
    )
    yield Bad(
        "convert a view",
        lambda: at.convert(programmed().at("0 s"), CHIP),
        ValueError,
        "belongs to a programmed",
    )
    for name in ("include", "exclude"):
        yield from every(
            f"convert {name}",
            lambda v, name=name: at.convert(digital(), CHIP, **{name: v}),
            ["hed", ["hed"], "re:("],
            "convert: .*(matches none of|is no regular expression)",
        )
        yield from every(
            f"convert {name}",
            lambda v, name=name: at.convert(digital(), CHIP, **{name: v}),
            [3, [3], [None]],
            "convert: .*(pattern|include|exclude)",
            (TypeError, ValueError),
        )
    yield from every(
        "convert where",
        lambda v: at.convert(digital(), CHIP, where=v),
        ["0", 3, True],
        "where",
        TypeError,
    )
    yield from every(
        "convert per_layer",
        lambda v: at.convert(digital(), CHIP, per_layer=v),
        [
            ["0"],
            "0",
            3,
            {"0": 3},
            {"0": {"array": {"rowz": 3}}},
            {"0": {"array": {"rows": -1}}},
            {"hed": CHIP},
            {3: CHIP},
        ],
        "per_layer|convert: .*pattern",
        (TypeError, ValueError),
    )
    for name in ("embeddings", "fold_batch_norm"):
        yield from every(
            f"convert {name}",
            lambda v, name=name: at.convert(digital(), CHIP, **{name: v}),
            NO_FLAG,
            f"{name} must be True or False",
            (TypeError, ValueError),
        )
    yield from every(
        "convert example",
        lambda v: at.convert(digital(), CHIP, fold_batch_norm=True, example=v),
        ["x", 3, torch.randn(3, 7)],
        "example|shape",
        (TypeError, ValueError, RuntimeError),
    )
    yield from every(
        "to_digital", at.to_digital, NO_MODEL, "to_digital: model must be a", TypeError
    )
    yield Bad(
        "to_digital a view",
        lambda: at.to_digital(programmed().at("0 s")),
        ValueError,
        "belongs to a programmed chip",
    )
    yield from every(
        "analog_layers",
        lambda v: list(at.analog_layers(v)),
        NO_MODEL,
        "analog_layers: model must be a",
        TypeError,
    )
    yield from every("summary", at.summary, NO_MODEL, "summary: model must be a", TypeError)
    yield from every(
        "guard model", lambda v: at.guard(v, X), NO_MODEL, "guard: model must be a", TypeError
    )
    yield from every(
        "guard example",
        lambda v: at.guard(analog(), v),
        NO_EXAMPLE,
        "example",
        (TypeError, ValueError),
    )
    yield from every(
        "guard allow_unused",
        lambda v: at.guard(analog(), X, allow_unused=v),
        NO_FLAG,
        "allow_unused must be True or False",
        (TypeError, ValueError),
    )
    yield from every(
        "guard forward",
        lambda v: at.guard(analog(), X, forward=v),
        [3, "x"],
        "forward must be",
        TypeError,
    )
    yield Bad("guard digital", lambda: at.guard(digital(), X), ValueError, "no analog layer")
    yield from every(
        "fold model",
        lambda v: at.fold_batch_norm(v, X),
        NO_MODEL,
        "fold_batch_norm: model must be a",
        TypeError,
    )
    yield from every(
        "fold example",
        lambda v: at.fold_batch_norm(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), v),
        [None, "x", 3],
        "example",
        (TypeError, ValueError),
    )
    yield from every(
        "fold tolerance",
        lambda v: at.fold_batch_norm(
            nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), X, tolerance=v
        ),
        [math.nan, -1, True, "1"],
        "tolerance must be",
        (TypeError, ValueError),
    )


def _calibrate() -> Iterator[Bad]:
    batches = [X]
    yield from every(
        "calibrate model",
        lambda v: at.calibrate(v, batches),
        NO_MODEL,
        "calibrate: model must be a",
        TypeError,
    )
    yield from every(
        "calibrate batches",
        lambda v: at.calibrate(analog(), v),
        [None, 3, [], iter(()), used_up([X])],
        "batches",
        (TypeError, ValueError),
    )
    yield Bad(
        "calibrate one batch",
        lambda: at.calibrate(analog(), X),
        (TypeError, ValueError),
        r"batches.*\[",
    )
    yield Bad(
        "calibrate digital", lambda: at.calibrate(digital(), batches), ValueError, "no analog layer"
    )
    yield Bad(
        "calibrate chip",
        lambda: at.calibrate(programmed(), batches),
        TypeError,
        "a programmed chip is a model",
    )
    yield Bad(
        "calibrate view",
        lambda: at.calibrate(programmed().at("0 s"), batches),
        ValueError,
        "belongs to a programmed",
    )
    yield Bad("calibrate nan", lambda: at.calibrate(analog(), [X * math.nan]), ValueError, "NaN")
    yield Bad(
        "calibrate zeros", lambda: at.calibrate(analog(), [torch.zeros(3, 5)]), ValueError, "0"
    )
    yield Bad(
        "calibrate width",
        lambda: at.calibrate(analog(), [torch.randn(3, 7)]),
        (ValueError, RuntimeError),
        "shape|7",
    )
    yield Bad("calibrate dtype", lambda: at.calibrate(analog(), [X.double()]), TypeError, "float64")
    yield Bad("calibrate integers", lambda: at.calibrate(analog(), [X.long()]), TypeError, "int64")
    for name, values in {
        "method": ["mze", 3, True], "per": ["row", None, 3], "adc": ["mze", 3, True],
        "adc_per": ["row", None, 3], "percentile": [0, 101, math.nan, "99", True],
        "deviations": [0, -1, math.nan, "3", True], "allow_unused": NO_FLAG, "forward": [3, "x"],
    }.items():  # fmt: skip
        more = {
            "percentile": {"method": "percentile"},
            "deviations": {"method": "std"},
            "adc_per": {"adc": "mse"},
        }.get(name, {})
        yield from every(
            f"calibrate {name}",
            lambda v, name=name, more=more: at.calibrate(analog(), batches, **{name: v, **more}),
            values,
            name,
            (TypeError, ValueError),
        )
    yield from every(
        "correct model",
        lambda v: at.correct_columns(v, batches),
        NO_MODEL,
        "correct_columns: .*must be",
        TypeError,
    )
    yield Bad(
        "correct chip",
        lambda: at.correct_columns(programmed(), batches),
        TypeError,
        "a programmed chip is a model",
    )
    yield Bad(
        "correct analog", lambda: at.correct_columns(analog(), batches), ValueError, "programmed"
    )
    yield from every(
        "correct batches",
        lambda v: at.correct_columns(programmed().at("0 s"), v),
        [None, 3, [], used_up([X]), X],
        "batches",
        (TypeError, ValueError),
    )
    yield from every(
        "correct fit",
        lambda v: at.correct_columns(programmed().at("0 s"), batches, fit=v),
        ["afine", None, 3],
        "fit must be",
        (TypeError, ValueError),
    )
    yield from every(
        "correct rounds",
        lambda v: at.correct_columns(programmed().at("0 s"), batches, rounds=v),
        [0, -1, 1.5, True, "2"],
        "rounds must be",
        (TypeError, ValueError),
    )
    yield from every(
        "reestimate model",
        lambda v: at.reestimate_batch_norm(v, batches),
        NO_MODEL,
        "reestimate_batch_norm: .*must be",
        TypeError,
    )
    norm = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))
    norm(torch.randn(20, 5))
    norm = at.convert(norm, CHIP)
    yield Bad(
        "reestimate none",
        lambda: at.reestimate_batch_norm(programmed().at("0 s"), batches),
        ValueError,
        "batch norm|BatchNorm",
    )
    yield from every(
        "reestimate batches",
        lambda v: at.reestimate_batch_norm(at.program(norm, seed=1).at("0 s"), v),
        [None, 3, [], used_up([X]), X],
        "batches",
        (TypeError, ValueError),
    )
    yield from every(
        "reestimate relative",
        lambda v: at.reestimate_batch_norm(at.program(norm, seed=1).at("0 s"), batches, relative=v),
        NO_FLAG,
        "relative must be True or False",
        (TypeError, ValueError),
    )
    yield from every(
        "reestimate seed",
        lambda v: at.reestimate_batch_norm(at.program(norm, seed=1).at("0 s"), batches, seed=v),
        NO_SEED,
        "seed must be an integer",
        TypeError,
    )


def _program() -> Iterator[Bad]:
    model = analog()
    yield from every(
        "program model",
        lambda v: at.program(v, seed=1),
        NO_MODEL,
        "program: model must be a",
        TypeError,
    )
    yield from every(
        "program seed",
        lambda v: at.program(model, seed=v),
        NO_SEED,
        "seed must be an integer",
        TypeError,
    )
    yield Bad(
        "program large seed", lambda: at.program(model, seed=2**63), ValueError, "seed must lie in"
    )
    yield from every(
        "program method",
        lambda v: at.program(model, seed=1, method=v),
        ["gdp", 3, at.GradientDescent],
        "method must be",
        TypeError,
    )
    yield from every(
        "program defects",
        lambda v: at.program(model, seed=1, defects=v),
        [0.01, "few", at.Defects],
        "defects must be",
        TypeError,
    )
    yield from every(
        "yield_map chip",
        lambda v: at.yield_map(v, at.Defects(), seed=1),
        [None, "hermes64", 3],
        "yield_map: chip must be",
        TypeError,
    )
    yield from every(
        "yield_map defects",
        lambda v: at.yield_map(at.chips.ideal(), v, seed=1),
        [None, 0.01, at.Defects],
        "yield_map: defects must be",
        TypeError,
    )
    yield from every(
        "program mapping",
        lambda v: at.program(model, seed=1, mapping=v),
        ["map", 3, {}],
        "mapping must be",
        TypeError,
    )
    yield Bad(
        "program digital", lambda: at.program(digital(), seed=1), ValueError, "no analog layer"
    )
    yield Bad(
        "program chip",
        lambda: at.program(programmed(), seed=1),
        TypeError,
        "a programmed chip is a model at a time",
    )
    yield Bad(
        "program view",
        lambda: at.program(programmed().at("0 s"), seed=1),
        ValueError,
        "belongs to a programmed",
    )
    yield from every(
        "at time",
        lambda v: programmed().at(v),
        ["1 eon", "", None, -1, math.nan, math.inf, True, [1]],
        "time",
        ValueError,
    )
    yield from every(
        "at compensation",
        lambda v: programmed().at(0, compensation=v),
        ["globl", None, 3, True, []],
        "compensation must be one of",
    )
    yield from every(
        "at readout",
        lambda v: programmed().at(0, readout=v),
        ["exact", None, 3, []],
        "readout must be one of",
    )
    view = programmed().at("0 s")
    yield Bad("train a view", lambda: view.train()(X), RuntimeError, "cannot train: call .eval()")
    yield Bad(
        "view width",
        lambda: programmed().at("0 s")(torch.randn(3, 7)),
        (ValueError, RuntimeError),
        "7",
    )
    yield Bad(
        "view dtype",
        lambda: programmed().at("0 s")(X.double()),
        TypeError,
        "float64 input: convert one",
    )
    yield Bad("analog dtype", lambda: analog()(X.long()), TypeError, "int64 input: convert one")
    yield Bad("analog width", lambda: analog()(torch.randn(3, 7)), (ValueError, RuntimeError), "7")
    for name in ("step", "rank", "first_sample"):
        yield from every(
            f"noise {name}",
            lambda v, name=name: at.noise(1, **{name: v}).__enter__(),
            [-1, 1.5, True, "1", None],
            f"noise: {name} must be an integer >= 0",
        )
    yield from every(
        "noise seed",
        lambda v: at.noise(v).__enter__(),
        NO_SEED,
        "seed must be an integer",
        TypeError,
    )


def _evaluate() -> Iterator[Bad]:
    model, pairs = analog(), [(X, Y)]
    yield from every(
        "accuracy model",
        lambda v: at.accuracy(v, pairs),
        NO_MODEL,
        "accuracy: model must be a",
        TypeError,
    )
    yield Bad(
        "accuracy chip",
        lambda: at.accuracy(programmed(), pairs),
        TypeError,
        "a programmed chip is a model at a time",
    )
    yield from every(
        "accuracy batches",
        lambda v: at.accuracy(model, v),
        [None, 3, "x", X],
        "batches must be pairs",
        TypeError,
    )
    yield from every(
        "accuracy batches",
        lambda v: at.accuracy(model, v),
        [[X], (X, Y), [(X, Y, Y)], [{"x": X}], [None]],
        "must be a pair of input and labels",
        TypeError,
    )
    yield from every(
        "accuracy none",
        lambda v: at.accuracy(model, v),
        [[], iter(()), used_up(pairs)],
        "holds no sample",
    )
    yield from every(
        "accuracy labels",
        lambda v: at.accuracy(model, [(X, v)]),
        [Y.float(), Y.bool(), [0] * 6, None, "0"],
        "labels of batch 0 must be a tensor of int",
        TypeError,
    )
    yield from every(
        "accuracy range",
        lambda v: at.accuracy(model, [(X, v)]),
        [Y + 3, Y - 1, Y + 100],
        r"labels must lie in \[0, 3\)",
    )
    yield from every(
        "accuracy shape",
        lambda v: at.accuracy(model, [(X, v)]),
        [Y[:5], Y[:, None], Y[0]],
        "labels .*; pass outputs",
    )
    yield Bad(
        "accuracy nan", lambda: at.accuracy(Nan(), pairs), ValueError, "outputs of batch 0 are NaN"
    )
    yield Bad(
        "accuracy one class",
        lambda: at.accuracy(nn.Linear(5, 1), pairs),
        ValueError,
        "2 classes or more",
    )
    for name, call in {"sweep": at.sweep, "sensitivity": at.sensitivity}.items():

        def run(model: Any = model, metric: Any = never, call: Any = call, **options: Any) -> Any:
            return call(model, metric, **options)

        yield from every(
            f"{name} model",
            lambda v, run=run: run(v),
            NO_MODEL,
            f"{name}: model must be a",
            TypeError,
        )
        yield Bad(
            f"{name} chip",
            lambda run=run: run(programmed()),
            TypeError,
            "a programmed chip is a model at a time",
        )
        yield Bad(
            f"{name} view",
            lambda run=run: run(programmed().at("0 s")),
            ValueError,
            "belongs to a programmed chip",
        )
        yield Bad(
            f"{name} digital",
            lambda run=run: run(digital()),
            ValueError,
            f"{name}: the model has no analog",
        )
        yield from every(
            f"{name} metric",
            lambda v, run=run: run(metric=v),
            [None, 3, "accuracy", digital()],
            "metric must be a function",
            TypeError,
        )
        yield from every(
            f"{name} chips",
            lambda v, run=run: run(num_chips=v),
            [*NO_INTEGER, 0, -1],
            "num_chips must be an integer >= 1",
        )
        yield from every(
            f"{name} seed",
            lambda v, run=run: run(seed=v),
            NO_SEED,
            "seed must be an integer",
            TypeError,
        )
        yield from every(
            f"{name} compensation",
            lambda v, run=run: run(compensation=v),
            ["globl", None, 3, []],
            "compensation must be one",
        )
        no_number = [None, "0.5", True, [0.5], X]
        yield from every(
            f"{name} result",
            lambda v, run=run: run(metric=lambda m: v, num_chips=1),
            no_number,
            "metric must return a number",
            TypeError,
        )
        yield from every(
            f"{name} result",
            lambda v, run=run: run(metric=lambda m: v, num_chips=1),
            [math.nan, -math.inf],
            "metric is .*must be a finite number",
        )
    yield from every(
        "sweep times",
        lambda v: at.sweep(model, never, times=v),
        [[], "1 day", 3.0, None, ["1 eon"], [math.nan], ["1 h", 3600], [None]],
        "times?",
    )
    yield from every(
        "sweep folder",
        lambda v: at.sweep(model, never, folder=v),
        [3, True, 1.5],
        "folder must be",
        TypeError,
    )
    yield from every(
        "sensitivity time",
        lambda v: at.sensitivity(model, never, time=v),
        ["1 eon", None, -1, math.nan],
        "time",
    )
    yield from every(
        "sensitivity effects",
        lambda v: at.sensitivity(model, never, effects=v),
        [[], "heat", ["bits", "heat"], 3, None, [None]],
        "effects must be",
    )
    for name, call in {"sensitivity": at.sensitivity, "sweep": at.sweep}.items():
        yield from every(
            f"{name} higher",
            lambda v, call=call: call(model, never, higher_is_better=v),
            NO_DIRECTION,
            "higher_is_better must be True or False",
        )
    yield from every(
        "budget time",
        lambda v: at.budget(model, never, time=v),
        ["1 eon", None, -1, math.nan],
        "time",
    )
    for name, call in {"budget": at.budget, "sweep": at.sweep}.items():
        yield from every(
            f"{name} defects",
            lambda v, call=call: call(model, never, defects=v),
            [0.01, "few", at.Defects],
            f"{name}: defects must be",
            TypeError,
        )
    for what, wrong, message in (
        ("chips", [[], ["hermes46"], ["ideal", "ideal"], {"": "ideal"}], "chips?"),
        ("chips", ["ideal", 3, None, [3], {3: "ideal"}, {"a": 3}], "compare: .*must be"),
        ("metric", [3, "accuracy"], "compare: metric must be a function"),
        ("mode", ["fast", None, 1], "compare: mode must be one of"),
        ("compensation", ["globl", None], "compare: compensation must be one of"),
        ("seed", NO_SEED, "seed must be an integer"),
        ("num_chips", [0, True, 1.5], "compare: num_chips must be"),
        ("times", [[], "1 day", ["1 eon"]], "times?"),
        (
            "higher_is_better",
            NO_DIRECTION,
            "compare: higher_is_better must be",
        ),
        ("prepare", ["calibrate", 3], "compare: prepare must be a function"),
        ("folder", [3, True], "compare: folder must be"),
        ("example", [3, None], "example must be"),
    ):
        yield from every(
            f"compare {what}",
            lambda v, what=what: at.compare(
                model, **({"chips": ["ideal"], "metric": never, "example": X} | {what: v})
            ),
            wrong,
            message,
            (TypeError, ValueError),
        )
    yield from every(
        "lifetime limit",
        lambda v: at.lifetime(model, never, limit=v, recalibration=at.Recalibration()),
        NO_NUMBER,
        "lifetime: limit",
    )
    yield from every(
        "lifetime recalibration",
        lambda v: at.lifetime(model, never, limit=1.0, recalibration=v),
        [None, "30 days", 3, at.Recalibration],
        "lifetime: recalibration must be",
        TypeError,
    )
    for name in ("lifetime", "recalibration_interval"):
        more = {"recalibration": at.Recalibration()} if name == "lifetime" else {}
        yield from every(
            f"{name} recovery",
            lambda v, name=name, more=more: getattr(at, name)(
                model, never, limit=1.0, recovery=v, **more
            ),
            ["columns", 3, at.Recovery],
            f"{name}: recovery must be",
            TypeError,
        )
    yield from every(
        "Recalibration every",
        lambda v: at.Recalibration(every=v),
        [0, -1, "1 eon", "programmed", math.nan],
        "time|every",
    )
    yield from every(
        "at temperature",
        lambda v: programmed().at("1 day", temperature=v),
        ["hot", -20, 85, 0, math.nan, 358.15],
        "temperature",
    )
    yield from every(
        "budget names",
        lambda v: at.budget(model, never, names=v),
        ["heat", ["drift", "heat"], [3], [None]],
        "no chip of the model has the non-ideality",
    )
    yield from every(
        "budget growth",
        lambda v: at.budget(model, never, growth=v),
        ["0.01", 0, -1, math.nan, math.inf, True],
        "budget: growth",
    )
    yield from every(
        "scaled factor",
        lambda v: at.chips.hermes64().scaled(drift=v),
        [*NO_NUMBER, -1],
        "Chip.scaled: drift",
    )
    found = at.sensitivity(model, lambda m: 0.5, effects="bits")
    yield from every(
        "suggest budget",
        found.suggest,
        [*NO_NUMBER, -1],
        "suggest: budget must be a finite number >= 0",
    )
    yield from every(
        "suggest effect",
        lambda v: found.suggest(0.1, effect=v),
        ["drift", "heat", 3],
        "effect .* was not measured",
    )
    values = torch.zeros(2, 1)
    yield from every(
        "Sweep values",
        lambda v: at.Sweep(times=("0 s",), values=v, seeds=(1, 2)),
        [None, values[:1], values.T, [[1.0], [2.0]]],
        "Sweep.values must be a tensor",
    )
    swept = at.Sweep(times=("0 s",), values=values, seeds=(1, 2))
    for name, call in {"chip_yield": swept.chip_yield, "keeps": swept.keeps}.items():
        yield from every(f"Sweep {name} limit", call, NO_NUMBER, f"Sweep.{name}: limit")
        yield from every(
            f"Sweep {name} confidence",
            lambda v, call=call: call(0.0, v),
            [*NO_NUMBER, 0.4, 1.0, 95],
            "confidence must be",
        )
    yield from every("Sweep quantile", swept.quantile, [*NO_NUMBER, -0.1, 1.1], "quantile: q must")
    yield from every(
        "Sweep minus", swept.minus, [None, 0.9, values], "minus: other must be a Sweep", TypeError
    )


def _training() -> Iterator[Bad]:
    model = analog()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for name, call in {
        "clip_weights_": lambda m, **o: at.hwa.clip_weights_(m, **o),
        "clip_after_step": lambda m, **o: at.hwa.clip_after_step(optimizer, m, **o),
    }.items():
        yield from every(
            f"{name} model",
            lambda v, call=call: call(v, sigma=2.0),
            NO_MODEL,
            f"{name}: model must be a",
            TypeError,
        )
        yield Bad(
            f"{name} digital",
            lambda call=call: call(digital(), sigma=2.0),
            ValueError,
            "no analog layer",
        )
        yield Bad(
            f"{name} both", lambda call=call: call(model, sigma=2.0, bound=1.0), ValueError, "sigma"
        )
        for option in ("sigma", "bound"):
            yield from every(
                f"{name} {option}",
                lambda v, call=call, option=option: call(model, **{option: v}),
                [0, -1, math.nan, math.inf, True, "2"],
                f"{option} must be",
                (TypeError, ValueError),
            )
        yield from every(
            f"{name} per_channel",
            lambda v, call=call: call(model, sigma=2.0, per_channel=v),
            NO_FLAG,
            "per_channel must be True or False",
            (TypeError, ValueError),
        )
    yield from every(
        "clip optimizer",
        lambda v: at.hwa.clip_after_step(v, model, 2.0),
        [None, "sgd", model, torch.optim.SGD],
        "clip_after_step: optimizer must be",
        TypeError,
    )
    yield from every(
        "ramp model",
        lambda v: at.hwa.training_noise_(v, 0.5),
        NO_MODEL,
        "training_noise_: model must be a",
        TypeError,
    )
    yield from every(
        "ramp fraction",
        lambda v: at.hwa.training_noise_(model, v),
        [*NO_NUMBER, -0.1, 1.1],
        "fraction must be",
        (TypeError, ValueError),
    )
    yield Bad(
        "ramp digital",
        lambda: at.hwa.training_noise_(digital(), 0.5),
        ValueError,
        "no analog layer",
    )
    yield from every(
        "distill temperature",
        lambda v: at.hwa.distillation_loss(X, X, temperature=v),
        [*NO_NUMBER, 0, -1],
        "temperature must be a positive number",
    )
    yield from every(
        "distill student",
        lambda v: at.hwa.distillation_loss(v, X),
        [None, 3.0, "x", [1.0]],
        "must be",
        (TypeError, ValueError),
    )
    yield from every(
        "distill shapes",
        lambda v: at.hwa.distillation_loss(X, v),
        [X[:3], X.T, torch.zeros(0, 5), torch.tensor(1.0)],
        "must be logits of one shape",
    )
    yield Bad(
        "distill integers",
        lambda: at.hwa.distillation_loss(Y[:, None], Y[:, None]),
        (TypeError, ValueError),
        "must be",
    )
    yield from every(
        "groups model",
        lambda v: at.hwa.parameter_groups(v, 0.1),
        NO_MODEL,
        "parameter_groups: model must be a",
        TypeError,
    )
    yield from every(
        "groups decay",
        lambda v: at.hwa.parameter_groups(model, v),
        [*NO_NUMBER, -1],
        "weight_decay must be",
        (TypeError, ValueError),
    )


def _mapping() -> Iterator[Bad]:
    model = digital()
    yield from every(
        "map model",
        lambda v: at.map_to_chip(v, X, chip=CHIP),
        NO_MODEL,
        "map_to_chip: model must be a",
        TypeError,
    )
    yield Bad(
        "map chip",
        lambda: at.map_to_chip(programmed(), X, chip=CHIP),
        TypeError,
        "a programmed chip is a model at a time",
    )
    yield from every(
        "map onto",
        lambda v: at.map_to_chip(model, X, chip=v),
        [c for c in NO_CHIP if c is not None],
        "chip must be a Chip",
        TypeError,
    )
    yield from every(
        "map example",
        lambda v: at.map_to_chip(model, v, chip=CHIP),
        [None, "x", 3],
        "example",
        (TypeError, ValueError),
    )
    yield Bad(
        "map width",
        lambda: at.map_to_chip(model, torch.randn(3, 7), chip=CHIP),
        (ValueError, RuntimeError),
        "7",
    )
    yield from every(
        "map chips",
        lambda v: at.map_to_chip(model, X, chip=CHIP, num_chips=v),
        [0, -1, 1.5, True, "2"],
        "num_chips must be",
        (TypeError, ValueError),
    )
    yield from every(
        "map duplicate",
        lambda v: at.map_to_chip(model, X, chip=CHIP, duplicate=v),
        [["0"], 3, {"9": 2}, {"0": 0}, {"0": 1.5}, {"0": True}, {"0": "2"}],
        "duplicate",
        (TypeError, ValueError),
    )
    yield from every(
        "map exclude",
        lambda v: at.map_to_chip(model, X, chip=CHIP, exclude=v),
        ["hed", 3, [3], ["hed"]],
        "exclude",
        (TypeError, ValueError),
    )
    yield from every(
        "map retired",
        lambda v: at.map_to_chip(model, X, chip=CHIP, retired=v),
        [3, "0", [0], [(0,)], [(0, 64)], [(0, -1)], [(0, 1.5)], [("0", 1)]],
        "retired",
        (TypeError, ValueError),
    )
    yield from every(
        "map columns",
        lambda v: at.map_to_chip(model, X, chip=CHIP, retired_columns=v),
        [3, "0", [0], [(0, 1)], [(0, 64, 0)], [(0, 0, 256)], [(0, 0, -1)], [(0, 0, "1")]],
        "retired_columns",
        (TypeError, ValueError),
    )
    two = at.convert(digital(), CHIP, per_layer={"0": at.chips.ibm_speech34()})
    for name, bad, said in (
        ("duplicate", [["0"], 3, {"9": 2}, {"0": 0}, {"0": 1.5}, {"0": True}], "duplicate"),
        ("exclude", ["hed", 3, [3], ["hed"], ["0", "2"]], "(exclude|nothing to place)"),
    ):
        yield from every(
            f"by chip {name}",
            lambda v, name=name: at.mapping.map_by_chip(two, X, **{name: v}),
            bad,
            f"map_by_chip.*{said}",
            (TypeError, ValueError),
        )
    yield from every(
        "by chip model",
        lambda v: at.mapping.map_by_chip(v, X),
        NO_MODEL,
        "map_by_chip: model must be a",
        TypeError,
    )
    yield Bad(
        "by chip programmed",
        lambda: at.mapping.map_by_chip(programmed().at("0 s"), X),
        ValueError,
        "map_by_chip: layer '0' belongs to a programmed chip",
    )
    yield from every(
        "by chip example",
        lambda v: at.mapping.map_by_chip(two, v),
        [None, "x", 3],
        "example",
        (TypeError, ValueError),
    )
    yield from every(
        "total energy",
        at.cost_model.total_energy,
        [None, 3, "map", [], [3], [mapping()], at.cost(mapping())],
        "total_energy: reports",
        (TypeError, ValueError),
    )
    for name in ("spread", "progress"):
        yield from every(
            f"map {name}",
            lambda v, name=name: at.map_to_chip(model, X, chip=CHIP, **{name: v}),
            NO_FLAG,
            f"{name} must be True or False",
            (TypeError, ValueError),
        )
    for name, call in {"cost": at.cost, "schedule": at.cost_model.schedule}.items():
        yield from every(
            f"{name} mapping",
            call,
            [None, 3, "map", model, CHIP],
            "mapping must be what map_to_chip gives",
            TypeError,
        )
        yield from every(
            f"{name} mode",
            lambda v, call=call: call(mapping(), mode=v),
            ["fast", None, 3, []],
            "mode must be one of",
        )
        yield from every(
            f"{name} signed",
            lambda v, call=call: call(mapping(), signed_inputs=v),
            ["0", 3, ["nope"], [3]],
            "signed_inputs (must|names)",
            (TypeError, ValueError),
        )
    yield from every(
        "cost conductance",
        lambda v: at.cost(mapping(), conductance=v),
        [v for v in NO_NUMBER if v is not None] + [-1],
        "conductance must be",
        (TypeError, ValueError),
    )
    bare = dataclasses.replace(CHIP, cost=None)
    yield Bad(
        "cost none", lambda: at.cost(at.map_to_chip(model, X, chip=bare)), ValueError, "has no cost"
    )
    yield from every(
        "from_json",
        at.ChipMapping.from_json,
        [None, 3, "", "{", "[]", "{}", b"\xff", '{"version": 99}'],
        "mapping|Mapping|JSON",
        (TypeError, ValueError),
    )
    yield from every(
        "matrix_blocks",
        lambda v: mapping().matrix_blocks(v),
        ["nope", None, 3],
        "no matrix",
        ValueError,
    )
    yield from every(
        "remap",
        lambda v: at.remap(mapping(), retired=v),
        [3, "0", [0], [(0, 64)]],
        "retired|tile",
        (TypeError, ValueError),
    )
    yield from every(
        "plot",
        lambda v: mapping().plot(v),
        ["map.txt", "map", 3],
        "path|must end in",
        (TypeError, ValueError),
    )
    yield from every(
        "plot cost",
        lambda v: mapping().plot(cost=v),
        [3, "cheap"],
        "cost must be",
        (TypeError, ValueError),
    )
    yield from every(
        "html cost",
        lambda v: mapping().to_html(cost=v),
        [3, "cheap"],
        "cost must be",
        (TypeError, ValueError),
    )


def _chips() -> Iterator[Bad]:
    two = chips.ibm_speech34(pcm_per_weight=2)
    four = chips.ibm_speech34()
    yield from every(
        "needed",
        lambda v: at.mapping.chips_needed(CHIP, v),
        [*NO_INTEGER, 0],
        "weights must be an integer >= 1",
    )
    yield from every(
        "needed chip",
        lambda v: at.mapping.chips_needed(v, 10),
        NO_CHIP,
        "chip must be a Chip",
        TypeError,
    )
    yield from every("peak", at.cost_model.peak, NO_CHIP, "chip must be a Chip", TypeError)
    yield Bad("peak none", lambda: at.cost_model.peak(chips.ideal()), ValueError, "has no cost")
    yield from every(
        "published", at.cost_model.published, NO_CHIP, "chip must be a Chip", TypeError
    )
    for name in ("weights", "devices"):
        yield from every(
            f"mix {name}",
            lambda v, name=name: at.mapping.device_mix(**{"weights": 10, "devices": 40, name: v}),
            [*NO_INTEGER, 0],
            f"{name} must be an integer >= 1",
        )
    yield Bad(
        "mix order",
        lambda: at.mapping.device_mix(10, 40, most=2, least=2),
        ValueError,
        "least must be below most",
    )
    yield Bad(
        "mix room",
        lambda: at.mapping.device_mix(10, 10),
        ValueError,
        "take more chips or leave layers digital",
    )
    yield from every(
        "plan weights",
        lambda v: at.mapping.plan_devices(v, four, two, 1),
        [{}, {"a": 0}, {"a": 1.5}, {"a": True}, None, ["a"], 3],
        "weights",
        (TypeError, ValueError),
    )
    yield from every(
        "plan chips",
        lambda v: at.mapping.plan_devices({"a": 10}, four, two, v),
        [*NO_INTEGER, 0],
        "num_chips must be an integer >= 1",
    )
    yield from every(
        "plan first",
        lambda v: at.mapping.plan_devices({"a": 10}, four, two, 1, first=v),
        ["a", ["b"], 3, [3]],
        "plan_devices: (first|a pattern)",
        (TypeError, ValueError),
    )
    yield from every(
        "plan accurate",
        lambda v: at.mapping.plan_devices({"a": 10}, v, two, 1),
        NO_CHIP,
        "accurate must be a Chip",
        TypeError,
    )
    yield Bad(
        "plan order",
        lambda: at.mapping.plan_devices({"a": 10}, two, four, 1),
        ValueError,
        "accurate must have more devices",
    )
    yield from every(
        "conductance cell",
        lambda v: chips.mean_conductance(v, 0),
        [None, CHIP, "pcm"],
        "cell must be a unit cell",
        TypeError,
    )
    yield from every(
        "conductance t",
        lambda v: chips.mean_conductance(CHIP.cell, v),
        [*NO_NUMBER, -1],
        "t must be a finite number of sec",
    )
    yield from every(
        "conductance weights",
        lambda v: chips.mean_conductance(CHIP.cell, 0, v),
        [X * 100, X * 0, X * math.nan, [0.5], 0.5, torch.zeros(0)],
        "weights must",
        (TypeError, ValueError),
    )
