"""A language model on a programmed chip over a month, and what low-rank adapters get back.

The adapters learn beside one chip, after a day, without labels: its logits are to be those of the
digital model. What they learnt is then measured at every time.
"""

import argparse
import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import analogtorch as at
from benchmarks.tables import positive

TIMES = ("0 s", "1 day", "1 month")
LEARNT_AT = "1 day"
POINTS = 4
"""Number of points of the curve of learning."""
RATE = 1e-3
TARGETS = r".*_proj"
"""The layers with adapters: all projections of attention and MLP."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """Tokens, in sequences that do not overlap."""

    measured: list[Tensor]
    """Sequences (tokens,) for the perplexity."""
    calibration: list[Tensor]
    """Sequences (1, tokens) for calibration."""
    training: list[Tensor]
    """Sequences (1, tokens) for the adapters, one a step."""


@dataclass(kw_only=True)
class Found:
    """Perplexities of one model."""

    digital: float
    converters: dict[str, float] = field(default_factory=dict)
    """Without noise, by setup."""
    times: dict[str, dict[str, float]] = field(default_factory=dict)
    """On the chip, by setup and time."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """Steps, seconds and perplexity at ``LEARNT_AT`` while adapters learn."""
    share: float = 0.0
    """Parameters of the adapters per parameter of the model."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the table to the command line."""
    parser.add_argument(
        "--tokens", type=_two_or_more, default=256, help="of the perplexity of SmolLM2"
    )
    parser.add_argument(
        "--steps",
        type=_none_or_more,
        default=40,
        help="in which low-rank adapters learn, for --table language; 0: no adapters",
    )
    parser.add_argument("--rank", type=positive, default=16, help="of low-rank adapters")


def _two_or_more(text: str) -> int:
    if (value := int(text)) < 2:  # the first of a sequence is not predicted
        raise argparse.ArgumentTypeError(f"must be an integer >= 2, got {value}")
    return value


def _none_or_more(text: str) -> int:
    return int(text) and positive(text)


def perplexity(model: nn.Module, measured: list[Tensor]) -> float:
    """Return the perplexity of the next tokens, over all tokens that are predicted."""
    total, predicted = 0.0, 0
    for ids in measured:
        with torch.no_grad():
            logits = _logits(model, ids[None])
        total += float(cross_entropy(logits[0, :-1], ids[1:], reduction="sum"))
        predicted += len(ids) - 1
    return math.exp(total / predicted)


def measure(
    model: nn.Module, text: Text, chip: at.Chip, seed: int, rank: int, say: Callable[[str], object]
) -> Found:
    """Return the perplexities of a digital model, which stays as it is."""
    found = Found(digital=perplexity(model, text.measured))
    say(f"digital {found.digital:.2f}")
    analog = at.convert(copy.deepcopy(model), chip)
    for name in ("not calibrated", "calibrated"):
        if name == "calibrated":
            at.calibrate(analog, text.calibration, forward=_logits)
        found.converters[name] = perplexity(analog, text.measured)
        say(f"converters, {name} {found.converters[name]:.2f}")
    physical = at.program(analog, seed=seed)
    on_chip = found.times["programmed, calibrated"] = {}
    for when in TIMES:
        on_chip[when] = perplexity(physical.at(when), text.measured)
        say(f"{when} {on_chip[when]:.2f}")
    if text.training:
        learnt = _learn(physical.at(LEARNT_AT), model, text, found, rank, say)
        later = found.times[f"the same, adapters of rank {rank}"] = {}
        for when in TIMES:
            later[when] = perplexity(_with(physical.at(when), learnt, rank), text.measured)
            say(f"with adapters, {when} {later[when]:.2f}")
    return found


def _learn(
    view: nn.Module,
    twin: nn.Module,
    text: Text,
    found: Found,
    rank: int,
    say: Callable[[str], object],
) -> dict[str, Tensor]:
    """Return the adapters that make the view's logits those of the digital twin."""
    model, start = _with(view, {}, rank), time.perf_counter()
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found.share = sum(p.numel() for p in learning.values()) / _numel(twin)
    optimizer = torch.optim.Adam(learning.values(), lr=RATE)
    every = max(1, len(text.training) // POINTS)
    for step, ids in enumerate(text.training, 1):
        with torch.no_grad():
            target = _logits(twin, ids)
        loss = at.hwa.distillation_loss(_logits(model, ids), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % every == 0:
            seconds = time.perf_counter() - start
            now = perplexity(model, text.measured)
            found.curve.append({"steps": step, "seconds": seconds, "perplexity": now})
            say(f"adapters, {step} steps {now:.2f}")
            start = time.perf_counter() - seconds  # the clock stops while it is measured
    return {name: p.detach() for name, p in learning.items()}


def _with(view: nn.Module, adapters: dict[str, Tensor], rank: int) -> Any:
    """Return a chip with these adapters, by name; with new ones, which change nothing, if none."""
    import peft

    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = peft.get_peft_model(view, config).eval()
    with torch.no_grad():
        for name, values in adapters.items():
            model.get_parameter(name).copy_(values)
    return model


def _numel(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    return model(input_ids=ids, use_cache=False).logits


def smollm2_text(tokens: int, steps: int) -> tuple[nn.Module, Text]:
    """Return SmolLM2-135M and Python's language reference: see ``nets.smollm2``."""
    from benchmarks.convert.nets import smollm2

    net = smollm2(tokens, calibration=4 + steps)
    pieces = net.calibration
    measured = list(net.batch[0].split(256))
    return net.model, Text(measured=measured, calibration=pieces[:4], training=pieces[4:])
