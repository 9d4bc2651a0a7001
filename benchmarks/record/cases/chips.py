"""Every chip with a few kinds of layers that run differently, and every way to calibrate."""

from functools import partial
from typing import Any

from benchmarks.record import api
from benchmarks.record.cases.layers import chip as usual
from benchmarks.record.nets import KINDS, NETS, Net, batches
from benchmarks.record.runs import (
    Case,
    Found,
    by_tile,
    calibrated,
    call,
    evaluated,
    everything,
    in_plain_torch,
)

_KINDS = ("linear", "conv2d_groups", "lstm", "attention", "embedding")
_ADC: list[dict[str, Any]] = [
    {"adc": adc, "adc_per": per}
    for adc in ("mse", "percentile", "absmax")
    for per in ("layer", "tile", "column")
]
_WAYS: list[dict[str, Any]] = [
    {},
    {"per": "tile"},
    {"method": "percentile"},
    {"method": "percentile", "percentile": 98.0, "per": "tile"},
    {"method": "absmax"},
    {"method": "absmax", "per": "tile"},
    {"method": "std", "deviations": 2.5},
    {"method": None, "adc": "mse"},
    {"method": None, "adc": "absmax", "adc_per": "column"},
    {"adc": "mse", "adc_per": "column", "per": "tile"},
    *({"method": "absmax", **adc} for adc in _ADC),
]
"""Options of ``calibrate``."""


def _chip(name: str, kind: str) -> Found:
    chip = api.chips()[name]
    yield from everything(api.convert(Net(KINDS[kind]), chip, embeddings=True), KINDS[kind].inputs)
    if kind != "embedding":
        again = api.convert(Net(KINDS[kind]), chip)
        yield from ((f"by tile, {n}", found) for n, found in by_tile(again, KINDS[kind].inputs))


def _large(kind: str) -> Found:
    """Yield layers on tiles of the chip's own size, in one row block."""
    for name, chip in (("hermes64", api.hermes64()), ("neurram48", api.neurram48())):
        model = api.convert(Net(KINDS[kind]), chip, embeddings=True)
        yield from (
            (f"{name} as it is, {n}", found) for n, found in everything(model, KINDS[kind].inputs)
        )


def _way(net: str, options: dict[str, Any]) -> Found:
    make, shape = NETS[net]
    model = api.convert(make(), usual())
    calibrated(model, [(x,) for x in batches(*shape)], **options)
    yield "ranges", api.ranges(model)
    yield "evaluation", evaluated(model, batches(*shape, count=1))


def _again() -> Found:
    """Yield ranges that were set by hand, and forgotten ones."""
    make, shape = NETS["mlp"]
    model = api.convert(make(), usual())
    api.set_ranges(model, 2.5)
    yield "set", evaluated(model, batches(*shape, count=1))
    api.calibrate(model, [b[:16] for b in batches(*shape)], forward=lambda m, b: call(m, [b]))
    yield "calibrated after", api.ranges(model)


def _has(name: str, kind: str) -> bool:
    """Return whether layers of this kind can be on the chip: not all have weight expansion."""
    plain = not api.chips()[name].expansion.on
    return plain or not kind.startswith(("conv", "transposed", "embedding"))


def _named(options: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items()) or "by default"


CASES: dict[str, Case] = {
    **{
        f"chip/{name}/{kind}": partial(_chip, name, kind)
        for name in api.chips()
        for kind in _KINDS
        if _has(name, kind)
    },
    **{
        f"chip/{name}/{kind}, plain": in_plain_torch(partial(_chip, name, kind))
        for name in api.chips()
        for kind in ("linear", "conv2d_groups")
        if _has(name, kind)
    },
    **{f"chip/large tiles/{kind}": partial(_large, kind) for kind in _KINDS},
    **{f"calibrate/{net}/{_named(way)}": partial(_way, net, way) for net in NETS for way in _WAYS},
    **{
        f"calibrate/{net}, plain/{_named(way)}": in_plain_torch(partial(_way, net, way))
        for net in NETS
        for way in _WAYS
    },
    "calibrate/by hand": _again,
}
