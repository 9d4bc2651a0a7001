"""Every kind of layer on one chip with all effects, in each type of number.

Each runs with the kernels and without.
"""

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.record import api
from benchmarks.record.nets import KINDS, Net
from benchmarks.record.runs import (
    Case,
    Found,
    by_tile,
    evaluated,
    everything,
    in_plain_torch,
    stepped,
)


def chip() -> api.Chip:
    """Return a chip with digital unit, gains of ADCs, output noise and small tiles."""
    return api.small(api.hermes64(output_noise=0.04))


def _layer(kind: str, dtype: torch.dtype) -> Found:
    def make(seed: int) -> list[Tensor]:
        return [x.to(dtype) if x.is_floating_point() else x for x in KINDS[kind].inputs(seed)]

    def net() -> nn.Module:
        return api.convert(Net(KINDS[kind]).to(dtype), chip(), embeddings=True)

    yield "digital", evaluated(Net(KINDS[kind]).to(dtype), make(0))
    yield from everything(net(), make)
    if dtype == torch.float32 and kind != "embedding":
        for name, found in by_tile(net(), make):
            yield f"by tile, {name}", found


def _autocast(kind: str) -> Found:
    model, inputs = api.convert(Net(KINDS[kind]), chip(), embeddings=True), KINDS[kind].inputs(0)
    with torch.autocast("cpu", torch.bfloat16):
        yield "evaluation", evaluated(model, inputs)
        yield "training", stepped(model, inputs)


CASES: dict[str, Case] = {
    **{f"layer/{kind}/float32": partial(_layer, kind, torch.float32) for kind in KINDS},
    **{f"layer/{kind}/float64": partial(_layer, kind, torch.float64) for kind in KINDS},
    **{f"layer/{kind}/bfloat16": partial(_layer, kind, torch.bfloat16) for kind in KINDS},
    **{
        f"layer/{kind}/autocast": partial(_autocast, kind)
        for kind in ("linear", "conv2d", "lstm", "attention")
    },
    **{
        f"layer/{kind}/plain": in_plain_torch(partial(_layer, kind, torch.float32))
        for kind in KINDS
    },
}
