"""What 8-bit converters alone do to whole networks, and the share of their weights on the chip."""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

import analogtorch as at
from benchmarks.convert.chip import ADC, ADC_BY_COLUMN, centred_cosine
from benchmarks.convert.nets import (
    VISION,
    WITH_NORMS,
    Net,
    efficientnet_lite,
    lstm,
    minilm,
    transformer,
    vision,
)

WEIGHTED = (
    nn.Linear,
    nn.modules.conv._ConvNd,
    nn.RNNBase,
    nn.MultiheadAttention,
)
"""Modules whose matrices should be on the chip."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A chip and a calibration."""

    chip: Mapping[str, Any] = field(default_factory=dict)
    """Parts in which it differs from hermes64, as ``Chip.replace`` takes them."""
    calibrate: Mapping[str, Any] | None = None
    """Arguments of ``at.calibrate``; None: not calibrated."""


SILENT = at.chips.hermes64()
"""A chip without output noise."""
SETTINGS = {
    "8-bit": Setting(),
    "calibrated": Setting(calibrate={}),
    "and ADC": Setting(calibrate=ADC),
    "column scales too": Setting(chip={"periphery": {"weight_scale": "column"}}, calibrate=ADC),
    "ADC by column": Setting(calibrate=ADC_BY_COLUMN),
    "DAC alone": Setting(chip={"adc": {"steps": None}, "periphery": {"output_bits": None}}),
    "12-bit": Setting(
        chip={
            "dac": {"bits": 12},
            "adc": {"bits": 12, "steps": None},
            "periphery": {"output_bits": None},
        },
        calibrate=ADC_BY_COLUMN,
    ),
}
"""Columns of the table. "and ADC": its range is calibrated too, for the layer or for each column of
a tile."""


@dataclass(kw_only=True)
class Row:
    """One net."""

    net: str
    layers: int = 0
    """Number of analog layers; each matrix of an attention or recurrent layer counts."""
    share: float = 0.0
    """Share, 0..1, of the weights of linear, convolutional, recurrent and attention layers that is
    on the chip."""
    guard: str = ""
    """``ok``, or what is bypassed."""
    cosines: dict[str, float | str] = field(default_factory=dict)
    """Cosine with the digital output by setting, after subtracting the mean digital output from
    both; or the error."""
    plain: dict[str, float] = field(default_factory=dict)
    """Cosine with the digital output by setting."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Taken to convert, to calibrate (the DACs), and by an evaluation of the batch, digital and
    analog."""


def nets(size: int, inputs: int, epochs: int = 10) -> dict[str, Callable[[], Net]]:
    """Return makers of all nets of the table, by name; ``epochs`` is for those trained here."""
    of_torchvision = {name: lambda name=name: vision(name, size, inputs) for name in VISION}
    of_torchvision |= {
        f"{name}_digits": lambda name=name: vision(name, 64, epochs=epochs) for name in WITH_NORMS
    }
    trained = {
        "efficientnet_lite": lambda: efficientnet_lite(size, inputs),
        "minilm": lambda: minilm(sentences=50),
    }
    return {**of_torchvision, **trained, "transformer": transformer, "lstm": lstm}


@torch.no_grad()
def measure(net: Net, settings: Mapping[str, Setting] = SETTINGS) -> Row:
    """Return the row of ``net``; a failure is reported in it."""
    row = Row(net=net.name)
    exact, row.seconds["digital"] = _timed(lambda: net.forward(net.model, net.batch))
    model = copy.deepcopy(net.model)
    try:
        model, row.seconds["convert"] = _timed(lambda: at.convert(model, at.chips.hermes64()))
        row.guard = _guarded(model, net)
    except ValueError as error:
        row.guard = str(error)
        return row
    row.layers, row.share = len(list(at.analog_layers(model))), share(net.model, model)
    for name, setting in settings.items():
        try:
            y = _outputs(net, setting, row if name in ("8-bit", "calibrated") else None)
            row.cosines[name] = centred_cosine(exact, y)
            row.plain[name] = cosine_similarity(exact, y).mean().item()
        except ValueError as error:
            row.cosines[name] = str(error)
    return row


def _guarded(model: nn.Module, net: Net) -> str:
    at.guard(model, net.batch, forward=net.forward)
    return "ok"


def _outputs(net: Net, setting: Setting, row: Row | None) -> Tensor:
    model = at.convert(copy.deepcopy(net.model), SILENT.replace(**setting.chip))
    at.guard(model, net.batch, forward=net.forward)
    arguments = setting.calibrate
    if arguments is not None:
        _, taken = _timed(
            lambda: at.calibrate(
                model, net.calibration, effort="ranges", forward=net.forward, **arguments
            )
        )
        if row is not None:
            row.seconds["calibrate"] = taken
    y, taken = _timed(lambda: net.forward(model, net.batch))
    if row is not None:
        row.seconds["analog"] = taken
    return y


def share(digital: nn.Module, analog: nn.Module) -> float:
    """Return the share, 0..1, of the weights of ``WEIGHTED`` modules that are on the chip."""
    total = {
        id(p): p.numel()
        for module in digital.modules()
        if isinstance(module, WEIGHTED)
        for p in module.parameters(recurse=False)
        if p.dim() > 1
    }
    held = {id(layer.weight): layer.weight.numel() for _, layer in at.analog_layers(analog)}
    return sum(held.values()) / sum(total.values())


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start
