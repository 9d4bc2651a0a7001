"""The layer in a sensor: the one that is convolved in the light itself, before all others."""

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

from torch import nn

from analogtorch.chips import Chip, photodiode_sensor
from analogtorch.conversion.patterns import closest
from analogtorch.nn.tap import hooked
from analogtorch.values import checks

_CALLS = "convert: sensor"
_WRITE = "sensor='conv1', or sensor=('conv1', at.chips.photodiode_sensor(illuminance=100.0))"


def in_sensor(model: nn.Module, sensor: Any) -> dict[str, Chip]:
    """Return the layer in the sensor with its chip, as ``per_layer`` takes it; empty for None.

    Raises:
        TypeError: it is neither a name nor a name and a chip.
        ValueError: the chip senses no light, or no ``nn.Conv2d`` has that name.
    """
    if sensor is None:
        return {}
    name, chip = (sensor, photodiode_sensor()) if isinstance(sensor, str) else _pair(sensor)
    if not chip.light.on:
        raise ValueError(
            f"{_CALLS}: chip {chip.name!r} senses no light; give at.chips.photodiode_sensor(), or "
            f"name the chip in per_layer={{{name!r}: ...}}"
        )
    layers = dict(model.named_modules(remove_duplicate=False))
    if name not in layers:
        known = [n for n, m in layers.items() if isinstance(m, nn.Conv2d)]
        raise ValueError(f"{_CALLS}: no layer is called {name!r}. {closest(name, known)}")
    if not isinstance(layers[name], nn.Conv2d):
        raise ValueError(
            f"{_CALLS}: layer {name!r} is {type(layers[name]).__name__}; a sensor computes the "
            "first nn.Conv2d of a model"
        )
    return {name: chip}


def check_alone(chip: Chip, layers: Collection[str]) -> None:
    """Raise ValueError if several layers that nobody named would be on a chip that senses light."""
    if chip.light.on and len(layers) > 1:
        first = next(iter(layers))
        raise ValueError(
            f"convert: chip {chip.name!r} senses light, which only the first layer of a model "
            f"gets, and {len(layers)} layers would be on it. Name that layer, such as {first!r}, "
            f"and another chip for the rest: convert(model, at.chips.hermes64(), sensor={first!r});"
            f" or leave the rest digital: convert(model, chip, include={first!r})"
        )


def _pair(sensor: Any) -> tuple[str, Chip]:
    match sensor:
        case (str() as name, Chip() as chip):
            return name, chip
    raise TypeError(f"{_CALLS} must be a layer, {_WRITE}; got {checks.shown(sensor)}")


@contextlib.contextmanager
def checked_first(model: nn.Module, name: str | None) -> Iterator[None]:
    """Raise ValueError after the block if a module with Parameters ran before the layer ``name``.

    Nothing else can see light before the sensor.
    """
    if name is None:
        yield
        return
    ran: list[str] = []
    names = {m: n for n, m in model.named_modules() if next(m.parameters(False), None) is not None}
    with hooked(names, before=lambda module, _: ran.append(names[module])):
        yield
    if ran[0] not in (name, names[model.get_submodule(name)]):
        raise ValueError(
            f"{_CALLS}: layer {ran[0]!r} runs before {name!r}, which would not see the light; "
            f"put {ran[0]!r} behind it, or the sensor's layer first"
        )
