"""Programmed chips: times, compensations, writing methods, defects, positions, corrections."""

from functools import partial
from typing import Any

import torch

from benchmarks.record import api
from benchmarks.record.cases.layers import chip as usual
from benchmarks.record.nets import NETS, batches, cnn, random
from benchmarks.record.runs import (
    Case,
    Found,
    calibrated,
    call,
    evaluated,
    in_plain_torch,
    run_twice,
)

_TIMES = ("programmed", "0 s", "1 h", "1 day", "1 year")
_DEFECTS = {
    "cells": {"cells": 0.02, "worst_tile": 0.05},
    "columns": {"columns": 0.1, "tile_gain": 0.05},
    "tiles": {"tiles": 0.3},
}


def _device(name: str) -> Found:
    cell, w = api.cells()[name], random(9, 30).clamp(-1, 1)
    yield "spread", [api.shares(cell, w), api.programming_sigma(cell, w)]
    for time in (20.0, 3600.0, 86400.0, 3e7):
        yield f"{time:g} s", api.aged(cell, w, time, lambda seed, *shape: random(*shape, seed=seed))


def _fit(name: str, law: str) -> Found:
    device = api.cells()[name].device
    normals = lambda seed, *shape: random(*shape, seed=seed)  # noqa: E731
    yield from api.fitted(device, (1.0, 60.0, 3600.0), normals, law).items()


def _model(net: str, chip: api.Chip) -> Any:
    make, shape = NETS[net]
    return calibrated(
        api.convert(make(), chip), [(x,) for x in batches(*shape, count=2)], method="absmax"
    )


def _views(net: str) -> Found:
    model, x = _model(net, usual()), batches(*NETS[net][1], count=1)
    physical = api.program(model, seed=11)
    for time in _TIMES:
        for compensation in ("none", "global", "column", "least_squares"):
            for readout in ("chip", "ideal"):
                view = physical.at(time, compensation=compensation, readout=readout)
                yield f"{time}, {compensation}, {readout}", run_twice(view, x)
    view = physical.at("1 day")
    yield (
        "in two halves",
        [evaluated(view, half) for half in zip(*(t.chunk(2) for t in x), strict=True)],
    )
    yield "seconds", evaluated(physical.at(12345.0), x)
    yield "model as before", evaluated(model, x)


def _method(net: str, chip: str, method: Any) -> Found:
    model, x = _model(net, api.chips()[chip]), batches(*NETS[net][1], count=1)
    physical = api.program(model, seed=5, method=method)
    for time in ("programmed", "1 month"):
        yield time, run_twice(physical.at(time), x)


def _defects(net: str, name: str) -> Found:
    model, x, defects = (
        _model(net, usual()),
        batches(*NETS[net][1], count=1),
        api.Defects(**_DEFECTS[name]),
    )
    mapping = api.map_to_chip(model, x[0][:1], chip=usual(), num_chips=None, spread=True)
    moved = api.remap(
        mapping, retired=[(0, 1)], retired_columns=[(0, 0, 3)], num_chips=mapping.num_chips + 1
    )
    for place, where in (("consecutive", None), ("mapped", mapping), ("remapped", moved)):
        physical = api.program(model, seed=5, defects=defects, mapping=where)
        yield place, run_twice(physical.at("1 day"), x)
        yield f"{place}, tiles", api.yield_map(physical)


def _corrected(net: str, fit: Any) -> Found:
    model, samples = _model(net, usual()), batches(*NETS[net][1])
    view = api.program(model, seed=5).at("1 day")
    api.correct_columns(view, samples, fit=fit)
    yield "view", run_twice(view, samples[:1])


def _batch_norm() -> Found:
    samples = batches(*NETS["cnn"][1])
    for relative in (True, False):
        view = api.program(_model("cnn", usual()), seed=5).at("1 day")
        api.correct_columns(view, samples, rounds=1)
        names = api.reestimate_batch_norm(view, samples, relative=relative)
        yield (
            f"programmed, relative {relative}",
            [",".join(names), dict(view.named_buffers()), evaluated(view, samples[:1])],
        )
        model = _model("cnn", usual())
        api.reestimate_batch_norm(model, samples, relative=relative, seed=3)
        yield f"training noise, relative {relative}", dict(model.named_buffers())


def _folded() -> Found:
    x = random(8, 3, 8, 8, seed=5)
    model = cnn()
    yield "names", ",".join(api.fold_batch_norm(model, x))
    yield "parameters", dict(model.state_dict())
    folded = api.convert(cnn(), usual(), fold_batch_norm=True, example=x)
    yield "converted", evaluated(folded, [x])
    yield "back", dict(api.to_digital(folded).state_dict())


def _sweep() -> Found:
    model, x = _model("mlp", usual()), batches(32, 40, count=1)
    labels = evaluated(api.to_digital(api.convert(NETS["mlp"][0](), usual())), x).argmax(-1)
    found = api.sweep(
        model,
        lambda chip: api.accuracy(chip, [(x[0], labels)]),
        num_chips=2,
        times=["0 s", "1 year"],
        seed=4,
    )
    yield "sweep", [found.values, str(found), list(found.seeds)]
    yield (
        "sweep without recalibration",
        api.sweep(
            model,
            lambda chip: api.accuracy(chip, [(x[0], labels)]),
            num_chips=2,
            times=["1 year"],
            seed=4,
            recalibration=api.Recalibration(),
        ).values,
    )
    yield "accuracy", api.accuracy(model, [(x[0], labels)])
    scan = api.sensitivity(
        model,
        lambda m: (call(m, x) - 1).square().mean().item(),
        num_chips=2,
        higher_is_better=False,
    )
    yield "sensitivity", [str(scan), api.losses(scan)]
    scan = api.sensitivity(
        model, lambda m: api.accuracy(m, [(x[0], labels)]), effects=("bits", "drift"), num_chips=1
    )
    yield "sensitivity of the accuracy", [str(scan), api.losses(scan), str(scan.suggest(0.05))]


def _dtype(dtype: torch.dtype) -> Found:
    x = [t.to(dtype) for t in batches(32, 40, count=1)]
    model = api.convert(NETS["mlp"][0]().to(dtype), usual())
    calibrated(model, [x])
    for time in _TIMES:
        yield time, run_twice(api.program(model, seed=5).at(time), x)


_METHODS = {
    "at once": None,
    "verified": api.ProgramAndVerify(rounds=4),
    "verified, margin": api.ProgramAndVerify(rounds=3, margin=0.1, step=0.8, noise=0.1),
    "gradient descent": api.GradientDescent(rounds=4),
}
_CHIPS = (
    "hermes64 output noise", "hermes64 two sequential", "hermes64 column scale",
    "hermes64 separate phases", "no ADC", "no gain spread", "ibm_speech34", "neurram48",
)  # fmt: skip

CASES: dict[str, Case] = {
    **{f"device/{name}": partial(_device, name) for name in api.cells()},
    "fit/power law": partial(_fit, "pcm_like", "power"),
    "fit/at times": partial(_fit, "rram_cmo", "times"),
    **{f"programmed/views/{net}": partial(_views, net) for net in NETS},
    **{f"programmed/views/{net}, plain": in_plain_torch(partial(_views, net)) for net in NETS},
    **{
        f"programmed/{chip}/mlp {name}": partial(_method, "mlp", chip, m)
        for chip in _CHIPS
        for name, m in _METHODS.items()
    },
    **{f"programmed/{chip}/cnn": partial(_method, "cnn", chip, None) for chip in _CHIPS},
    **{
        f"programmed/cnn/{name}": partial(_method, "cnn", _CHIPS[0], m)
        for name, m in _METHODS.items()
    },
    **{
        f"programmed/defects {name}/{net}": partial(_defects, net, name)
        for name in _DEFECTS
        for net in NETS
    },
    **{
        f"correct/columns {fit}/{net}": partial(_corrected, net, fit)
        for fit in ("affine", "gain", "offset")
        for net in NETS
    },
    "correct/batch norm": _batch_norm,
    "fold batch norm": _folded,
    "evaluate": _sweep,
    **{f"programmed/{dtype}": partial(_dtype, dtype) for dtype in (torch.float64, torch.bfloat16)},
}
