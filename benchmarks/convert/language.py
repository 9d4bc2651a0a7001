"""A language model on a programmed chip over time, by design, and what adapters get back.

A design says how the digital model is laid onto the chip. Each is measured behind the converters,
and on devices that are drawn as the search of ``calibrate`` draws them (programmed, drifted for a
day and read, each column with a gain that fits), which takes seconds. Some are programmed: that has
all effects of the chip, and takes minutes. Low-rank adapters then learn beside the last programmed
chip, after a day, without labels: its logits are to be those of the digital model.
"""

import argparse
import copy
import math
import resource
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import analogtorch as at
from analogtorch.calibration.noisy_chips import on_noisy_chips
from benchmarks.convert.clipping import clipped
from benchmarks.tables import positive

Say = Callable[[str], object]
TIMES = ("0 s", "1 day", "1 month")
LEARNT_AT = "1 day"
POINTS = 4
"""Number of points of the curve of learning."""
RATE = 1e-3
"""Learning rate of the adapters in the first step; it falls to 0."""
CALIBRATION = 4
"""Sequences that calibrate."""
CORRECTION = 12
"""Sequences that columns are corrected by, those among them."""
TARGETS = r".*_proj"
"""The layers with adapters: all projections of attention and MLP."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """How a model is laid onto a chip."""

    text: str
    smoothed: bool = False
    """Whether scales of channels move into the weights (``at.smooth_channels``)."""
    expansion: float | None = None
    """Factor of weight expansion. Layers whose ADCs it would make clip are left without."""
    exclude: tuple[str, ...] = ()
    """Layers that stay digital."""
    aware: bool = False
    """Whether targets of the devices allow for a day of drift."""
    calibrated: bool = False
    """Whether ``calibrate`` sets ranges; else each vector sets its DAC range, and the digital unit
    does not round."""


DESIGNS = {
    "vector": Design(text="each vector sets its range"),
    "calibrated": Design(text="calibrated", calibrated=True),
    "digital-head": Design(text="head digital", exclude=("lm_head",)),
    "smoothed": Design(text="smoothed", smoothed=True),
    "mixed": Design(text="smoothed, expansion 1", smoothed=True, expansion=1.0),
    "expanded": Design(text="smoothed, expansion 2", smoothed=True, expansion=2.0),
    "aware": Design(text="targets for a day", aware=True),
    "smoothed-aware": Design(text="smoothed, targets for a day", smoothed=True, aware=True),
    "mixed-aware": Design(
        text="smoothed, expansion 1, targets for a day", smoothed=True, expansion=1.0, aware=True
    ),
    "expanded-aware": Design(
        text="smoothed, expansion 2, targets for a day", smoothed=True, expansion=2.0, aware=True
    ),
    "mixed-calibrated": Design(
        text="smoothed, expansion 1, calibrated", smoothed=True, expansion=1.0, calibrated=True
    ),
}


@dataclass(frozen=True, kw_only=True)
class Text:
    """Tokens, in sequences that do not overlap."""

    measured: list[Tensor]
    """Sequences (tokens,) for the perplexity."""
    calibration: list[Tensor]
    """Sequences (1, tokens) for calibration."""
    correction: list[Tensor]
    """Those for the columns of a programmed chip."""
    training: list[Tensor]
    """Sequences (1, tokens) for the adapters, one a step."""


@dataclass(kw_only=True)
class Row:
    """Perplexities of one design."""

    design: str
    converters: float = math.nan
    """Without noise."""
    drawn: float = math.nan
    """With drawn devices, a day after they were programmed."""
    times: dict[str, float] = field(default_factory=dict)
    """On the programmed chip, by time."""
    corrected: float = math.nan
    """The same at ``LEARNT_AT``, gain and offset of each column corrected."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that each step took (convert, calibrate, map, program)."""
    memory: float = 0.0
    """Largest memory of the process until then, the digital model included, GB."""


@dataclass(kw_only=True)
class Found:
    """What was measured of one model."""

    digital: float
    kinds: dict[str, float] = field(default_factory=dict)
    """Perplexity with drawn devices in one kind of layer alone."""
    rows: list[Row] = field(default_factory=list)
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
    names = list(DESIGNS)
    parser.add_argument(
        "--designs", nargs="*", choices=names, default=names, help="rows of --table language"
    )
    parser.add_argument(
        "--program",
        nargs="*",
        choices=names,
        default=["expanded"],
        help="rows of --table language that are programmed; adapters learn beside the last",
    )
    parser.add_argument("--times", nargs="+", default=TIMES, help="of programmed language models")
    parser.add_argument(
        "--kinds", action="store_true", help="of layers, measured alone, for --table language"
    )


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
    model: nn.Module, text: Text, chip: at.Chip, options: argparse.Namespace, say: Say
) -> Found:
    """Return the perplexities of a digital model, which stays as it is."""
    found = Found(digital=perplexity(model, text.measured))
    say(f"digital {found.digital:.2f}")
    if options.kinds:
        for kind, value in _by_kind(model, text, chip, options.seed):
            found.kinds[kind] = value
            say(f"{kind} alone {value:.2f}")
    for name in options.designs:
        _row(model, name, text, chip, options, found, say)
    return found


def _by_kind(model: nn.Module, text: Text, chip: at.Chip, seed: int) -> Iterator[tuple[str, float]]:
    """Yield each kind of layer, by the end of its name, and the perplexity if it alone is drawn."""
    analog = at.convert(model, chip)
    names = [name for name, _ in at.analog_layers(analog)]
    for kind in dict.fromkeys(name.rpartition(".")[2] for name in names):
        alone = [name for name in names if name.endswith(kind)]
        yield kind, _on_drawn(analog, text, seed, alone)
    at.to_digital(analog)


def _on_drawn(
    analog: nn.Module, text: Text, seed: int, alone: Collection[str] | None = None
) -> float:
    with on_noisy_chips(analog, alone), at.noise(seed, step=0):
        return perplexity(analog, text.measured)


def _row(
    model: nn.Module,
    name: str,
    text: Text,
    chip: at.Chip,
    options: argparse.Namespace,
    found: Found,
    say: Say,
) -> None:
    """Add the row of a design; the model is digital again afterwards."""
    row, design = Row(design=DESIGNS[name].text), DESIGNS[name]
    found.rows.append(row)
    analog = _laid(model, design, text, chip, row)
    row.converters = perplexity(analog, text.measured)
    say(f"{name}: {_spent(row)}; converters {row.converters:.2f}")
    row.drawn = _on_drawn(analog, text, options.seed)
    say(f"{name}: devices drawn {row.drawn:.2f}")
    if name in options.program:
        physical = _timed(row, "program", lambda: at.program(analog, seed=options.seed))
    at.to_digital(analog)  # the chip has copies of the weights
    if name in options.program:
        learns = name == options.program[-1]
        _over_time(physical, model, text, options, row, found if learns else None, say)


def _laid(model: nn.Module, design: Design, text: Text, chip: at.Chip, row: Row) -> nn.Module:
    """Return the model on the chip, with a range per vector or calibrated, and mapped."""
    per_layer: dict[str, Any] = {}
    if design.aware:
        chip = chip.drift_aware("1 day")
    if design.smoothed:
        model = copy.deepcopy(model)
        at.smooth_channels(model, text.calibration, untie=True, forward=_logits)
    if design.expansion is not None:
        chip = chip.replace(expansion={"factor": design.expansion})
        names = clipped(model, chip, text.calibration[:1], _logits)
        per_layer = {name: {"expansion": {"factor": None}} for name in names}
    analog = _timed(
        row,
        "convert",
        lambda: at.convert(model, chip, exclude=design.exclude, per_layer=per_layer),
    )
    if design.calibrated:
        _timed(row, "calibrate", lambda: at.calibrate(analog, text.calibration, forward=_logits))
    ids = {"input_ids": text.calibration[0], "use_cache": False}
    _timed(row, "map", lambda: at.map_to_chip(analog, ids, chip=chip, num_chips=None))
    row.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return analog


def _timed(row: Row, step: str, run: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = run()
    row.seconds[step] = time.perf_counter() - start
    return result


def _spent(row: Row) -> str:
    steps = ", ".join(f"{step} {value:.1f} s" for step, value in row.seconds.items())
    return f"{steps}, {row.memory:.2f} GB"


def _over_time(
    physical: at.ProgrammedChip,
    twin: nn.Module,
    text: Text,
    options: argparse.Namespace,
    row: Row,
    found: Found | None,
    say: Say,
) -> None:
    """Measure a programmed chip over time, then with corrected columns, and with adapters."""
    for when in options.times:
        row.times[when] = perplexity(physical.at(when), text.measured)
        say(f"{row.design}, {when} {row.times[when]:.2f}")
    view = at.correct_columns(physical.at(LEARNT_AT), text.correction, forward=_logits, rounds=1)
    row.corrected = perplexity(view, text.measured)
    say(f"{row.design}, {LEARNT_AT}, columns corrected {row.corrected:.2f}")
    if found is not None and text.training:
        _learn(view, twin, text, found, options.rank, say)


def _learn(view: nn.Module, twin: nn.Module, text: Text, found: Found, rank: int, say: Say) -> None:
    """Let adapters make the view's logits those of the digital twin, and keep the curve."""
    model, start = _adapted(view, rank), time.perf_counter()
    learning = [p for p in model.parameters() if p.requires_grad]
    found.share = sum(p.numel() for p in learning) / _numel(twin)
    optimizer = torch.optim.Adam(learning, lr=RATE)
    steps = len(text.training)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / steps, total_iters=steps)
    every = max(1, steps // POINTS)
    for step, ids in enumerate(text.training, 1):
        with torch.no_grad():
            target = _logits(twin, ids)
        loss = at.hwa.distillation_loss(_logits(model, ids), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
        if step % every == 0:
            seconds = time.perf_counter() - start
            now = perplexity(model, text.measured)
            found.curve.append({"steps": step, "seconds": seconds, "perplexity": now})
            say(f"adapters, {step} steps {now:.2f}")
            start = time.perf_counter() - seconds  # the clock stops while it is measured


def _adapted(view: nn.Module, rank: int) -> Any:
    """Return a chip with new adapters, which change nothing."""
    import peft

    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return peft.get_peft_model(view, config).eval()


def _numel(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    return model(input_ids=ids, use_cache=False).logits


def smollm2_text(tokens: int, steps: int) -> tuple[nn.Module, Text]:
    """Return SmolLM2-135M and Python's language reference: see ``nets.smollm2``."""
    from benchmarks.convert.nets import smollm2

    net = smollm2(tokens, calibration=CORRECTION + steps)
    pieces, training = net.calibration[:CORRECTION], net.calibration[CORRECTION:]
    measured = list(net.batch[0].split(256))
    text = Text(
        measured=measured, calibration=pieces[:CALIBRATION], correction=pieces, training=training
    )
    return net.model, text
