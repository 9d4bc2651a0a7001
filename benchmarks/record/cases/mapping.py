"""Models on tiles, the cost of an inference, and the texts of both."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.record import api
from benchmarks.record.nets import Tied, cnn, mlp, random, tokens
from benchmarks.record.runs import Case, Found


def _transformer() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(32, 5))


def _large() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(700, 600), nn.ReLU(), nn.Linear(600, 300), nn.ReLU(), nn.Linear(300, 10)
    )


_NETS: dict[str, tuple[Any, Any]] = {
    "mlp": (mlp, lambda: random(1, 40)),
    "cnn": (cnn, lambda: random(1, 3, 8, 8)),
    "large": (_large, lambda: random(1, 700)),
    "tied": (Tied, lambda: tokens(1, 4)),
    "transformer": (_transformer, lambda: random(1, 6, 32)),
}
_CHIPS = {
    "hermes64": api.hermes64,
    "hermes64 one phase": lambda: api.hermes64(phases=1),
    "hermes64 small tiles": lambda: api.small(api.hermes64()),
    "ibm_speech34": api.ibm_speech34,
    "ibm_speech34 two PCM": lambda: api.ibm_speech34(pcm_per_weight=2),
    "neurram48": api.neurram48,
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "spread": {"spread": True},
    "copies": {"duplicate": {"0": 2}},
    "retired": {"retired": [(0, 0)], "retired_columns": [(0, 1, 7)]},
    "excluded": {"exclude": "0"},
}


def _mapping(net: str, chip: str, options: dict[str, Any] | None = None) -> Found:
    make, example = _NETS[net]
    mapping = api.map_to_chip(
        make(), example(), chip=_CHIPS[chip](), num_chips=None, **(options or {})
    )
    text = mapping.to_json()
    yield "blocks", api.placements(mapping)
    yield (
        "utilisation",
        [
            mapping.utilisation,
            mapping.tiles_used,
            mapping.tiles_lower_bound,
            mapping.cells,
            mapping.vectors,
        ],
    )
    yield "text", str(mapping)
    yield "json", text
    yield "json again", api.mapping_from_json(text).to_json()
    for mode in ("pipelined", "sequential"):
        report = api.cost(mapping, mode=mode)
        yield mode, [api.energies(report), api.times(api.schedule(mapping, mode=mode)), str(report)]
    aged = api.cost(mapping, conductance=0.8, signed_inputs=())
    yield "aged", [api.energies(aged), str(aged)]
    yield "page", mapping.to_html(cost=aged)


def _converted(net: str) -> Found:
    """Yield summaries, the report of guard, and a partial conversion."""
    make, example = _NETS[net]
    chip, x = api.hermes64(), example()
    model = api.convert(make(), chip, embeddings=True)
    yield "converted", [str(api.summary(model)), str(model)]
    yield "guard", str(api.guard(model, x))
    part = api.convert(
        make(), chip, exclude="*0*", per_layer={"*": {"periphery": {"output_bits": 10}}}
    )
    yield "in part", str(api.summary(part))
    yield "mapped after", str(api.map_to_chip(model, x, num_chips=None))
    yield "back", [str(api.to_digital(model)), ",".join(model.state_dict())]


def _bypassed() -> Found:
    """Yield a model that multiplies by a layer's weight itself, with routed calls."""

    class Bypassing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.qkv = nn.Linear(24, 36)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.qkv.weight, self.qkv.bias)

    model = api.convert(Bypassing(), api.small(api.hermes64()))
    api.calibrate(model, [random(16, 24, seed=1), random(16, 24, seed=2)])
    yield "evaluation", model.eval()(random(8, 24)).detach()
    yield "programmed", api.program(model, seed=1).at("1 day")(random(8, 24))
    yield "guard", str(api.guard(model, random(8, 24)))


def _capacity() -> Found:
    for name, make in _CHIPS.items():
        chip = make()
        drifted = [
            api.mean_conductance(chip.cell, t, random(500).clamp(-1, 1))
            for t in (0.0, 3600.0, 86400.0)
        ]
        yield (
            name,
            [
                api.chips_needed(chip, 10**8),
                drifted,
                str(api.peak(chip)),
                [str(e) for e in api.published(chip)],
            ],
        )
    sizes = {"first": 3_000_000, "second": 5_000_000, "third": 900_000}
    yield "devices", [*api.device_mix(10**7, 35 * 10**6)]
    dense, accurate = api.ibm_speech34(pcm_per_weight=2), api.ibm_speech34()
    yield "plan", api.plan_devices(sizes, accurate, dense, 1, first=["second"])


CASES: dict[str, Case] = {
    **{
        f"map/{net}/{chip}": partial(_mapping, net, chip)
        for net in _NETS
        for chip in _CHIPS
        if (net, chip) != ("large", "hermes64 small tiles")
    },
    **{
        f"map/{net}/{name}": partial(_mapping, net, "hermes64 small tiles", o)
        for net in ("mlp", "cnn")
        for name, o in _OPTIONS.items()
    },
    **{f"convert/{net}": partial(_converted, net) for net in _NETS},
    "convert/bypassed": _bypassed,
    "chips/capacity": _capacity,
}
