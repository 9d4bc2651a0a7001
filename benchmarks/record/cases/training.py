"""HWA training in loops of a few steps, clipping, and the scopes of noise."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.record import api
from benchmarks.record.cases.layers import chip as usual
from benchmarks.record.nets import NETS, batches, mlp, tokens
from benchmarks.record.runs import Case, Found, calibrated, evaluated, in_plain_torch

Optimizer = Callable[[nn.Module], torch.optim.Optimizer]


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def _adamw(model: nn.Module) -> torch.optim.Optimizer:
    groups = api.parameter_groups(model, weight_decay=0.1)
    groups[2]["lr"] = 1e-2
    return torch.optim.AdamW(groups, lr=3e-3)


def _loop(
    net: str, chip: api.Chip, optimizer: Optimizer, clip: dict[str, Any] | None, ramp: bool
) -> Found:
    make, shape = NETS[net]
    teacher, samples = make().eval(), batches(*shape, count=2)
    model = calibrated(api.convert(make(), chip), [(x,) for x in samples], method="std")
    steps = optimizer(model)
    if clip is not None:
        api.clip_after_step(steps, model, **clip)
    losses: list[Tensor] = []
    model.train()
    for step in range(4):
        if ramp:
            api.training_noise_(model, min(1.0, 0.25 * (step + 1)))
        x, y = samples[step % 2], tokens(shape[0], seed=step)
        with api.noise(2, step=step):
            out = model(x)
        with torch.no_grad():
            target = teacher(x)
        loss = F.cross_entropy(out, y) + api.distillation_loss(out, target, temperature=2.0)
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(loss.detach())
    learned = api.range_parameters(model)
    yield "losses", torch.stack(losses)
    yield "weights", {name: p for name, p in model.named_parameters() if id(p) not in learned}
    yield "ranges", {name: p for name, p in model.named_parameters() if id(p) in learned}
    yield "buffers", dict(model.named_buffers())
    yield "evaluation", evaluated(model, samples[:1])
    yield "programmed", evaluated(api.program(model, seed=1).at("1 day"), samples[:1])


def _clipped() -> Found:
    ways: list[dict[str, Any]] = [
        {},
        {"sigma": 1.5},
        {"sigma": 1.5, "per_channel": True},
        {"bound": 0.05},
    ]
    for options in ways:
        for net, (make, _) in NETS.items():
            model = api.clip_weights_(api.convert(make(), usual()), **options)
            yield f"{net} {options}", {name: p for name, p in model.named_parameters()}


def _scopes() -> Found:
    model, x = api.convert(mlp(), usual()).train(), batches(8, 40, count=1)[0]
    scopes: list[dict[str, int]] = [
        {"seed": 1},
        {"seed": -5, "step": 120},
        {"seed": 1, "rank": 2},
        {"seed": 1, "first_sample": 4},
    ]
    for scope in scopes:
        with api.noise(**scope):
            yield str(scope), [model(x), model(x)]  # a forward has noise of its own
    torch.manual_seed(9)
    yield "torch's generator", [model(x), torch.randn(2)]
    for fraction in (0.0, 0.3):
        with api.noise(1):
            yield f"fraction {fraction}", api.training_noise_(copy.deepcopy(model), fraction)(x)


_LOOPS: dict[str, tuple[Optimizer, dict[str, Any] | None, bool]] = {
    "sgd": (_sgd, None, False),
    "sgd, clipped": (_sgd, {"sigma": 2.0}, False),
    "sgd, clipped per channel, ramp": (_sgd, {"sigma": 2.0, "per_channel": True}, True),
    "adamw, groups, bound": (_adamw, {"bound": 0.2}, False),
}
_CHIPS = (
    "hermes64 output noise", "hermes64 column scale", "training noise device",
    "training noise per sample", "training noise drop connect", "ibm_speech34", "neurram48",
    "no converters",
)  # fmt: skip

CASES: dict[str, Case] = {
    **{
        f"train/{net}/{name}": partial(_loop, net, usual(), *loop)
        for net in NETS
        for name, loop in _LOOPS.items()
    },
    **{
        f"train/mlp, plain/{name}": in_plain_torch(partial(_loop, "mlp", usual(), *loop))
        for name, loop in _LOOPS.items()
    },
    **{
        f"train/{net}/{chip}": partial(_loop, net, api.chips()[chip], *_LOOPS["sgd, clipped"])
        for net in NETS
        for chip in _CHIPS
    },
    "train/clip": _clipped,
    "train/noise": _scopes,
}
