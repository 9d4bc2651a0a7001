"""Chips: one frozen description of named parts, and one file per published chip."""

import inspect
from collections.abc import Callable
from typing import Any

from analogtorch.chips.array import Array
from analogtorch.chips.chip import Chip
from analogtorch.chips.column_errors import column_errors
from analogtorch.chips.conductance import mean_conductance
from analogtorch.chips.converters import ADC, DAC
from analogtorch.chips.cost import Cost, Digital, Energy, Figure, Network, Published, Shares
from analogtorch.chips.expansion import Expansion
from analogtorch.chips.file import load, save
from analogtorch.chips.hermes64 import hermes64
from analogtorch.chips.hermes_core import hermes_core
from analogtorch.chips.ibm_speech34 import ibm_speech34
from analogtorch.chips.ideal import ideal
from analogtorch.chips.iv_curve import IVCurve
from analogtorch.chips.light import Light
from analogtorch.chips.memcapacitor import memcapacitor
from analogtorch.chips.neurram48 import neurram48
from analogtorch.chips.non_ideality import non_ideality
from analogtorch.chips.periphery import Periphery
from analogtorch.chips.photodiode_sensor import FILTERS, photodiode_sensor
from analogtorch.chips.pulses import mvm_time
from analogtorch.chips.read_noise import MVMReadNoise
from analogtorch.chips.reram_4mb import reram_4mb
from analogtorch.chips.serial import from_dict, to_dict
from analogtorch.chips.slices import Slices
from analogtorch.chips.sonos40 import sonos40
from analogtorch.chips.standard_crossbar import standard_crossbar
from analogtorch.chips.thermal import Thermal
from analogtorch.chips.training import TrainingNoise
from analogtorch.chips.wires import Wires
from analogtorch.values import checks
from analogtorch.values.sources import Sources

ADC_ERRORS = column_errors(ADC)
"""Errors that the ADC of each column may have, in the order in which operators take them."""

_PRESETS: dict[str, Callable[..., Chip]] = {
    "hermes64": hermes64,
    "hermes_core": hermes_core,
    "ibm_speech34": ibm_speech34,
    "neurram48": neurram48,
    "reram_4mb": reram_4mb,
    "sonos40": sonos40,
    "memcapacitor": memcapacitor,
    "photodiode_sensor": photodiode_sensor,
    "standard_crossbar": standard_crossbar,
    "ideal": ideal,
}


def names() -> tuple[str, ...]:
    """Return the names of the presets that ``get`` knows."""
    return tuple(_PRESETS)


def get(name: str, **options: Any) -> Chip:
    """Return the preset of that name, with the options that its function takes.

    Raises:
        ValueError: no preset has that name, or it does not take one of the options.
    """
    if not isinstance(name, str) or name not in _PRESETS:
        raise ValueError(
            f"unknown chip {name!r}{checks.nearest(name, _PRESETS)}; known: {', '.join(_PRESETS)}"
        )
    known = inspect.signature(_PRESETS[name]).parameters
    if unknown := [option for option in options if option not in known]:
        near = checks.nearest(unknown[0], known)
        raise ValueError(
            f"chip {name!r} has no option {unknown[0]!r}{near}; it has {', '.join(known) or 'none'}"
        )
    try:
        return _PRESETS[name](**options)
    except TypeError as error:
        raise ValueError(f"chip {name!r}: {error}") from error


__all__ = [
    "ADC",
    "DAC",
    "FILTERS",
    "Array",
    "Chip",
    "Cost",
    "Digital",
    "Energy",
    "Expansion",
    "Figure",
    "IVCurve",
    "Light",
    "MVMReadNoise",
    "Network",
    "Periphery",
    "Published",
    "Shares",
    "Slices",
    "Sources",
    "Thermal",
    "TrainingNoise",
    "Wires",
    "from_dict",
    "get",
    "hermes64",
    "hermes_core",
    "ibm_speech34",
    "ideal",
    "load",
    "mean_conductance",
    "memcapacitor",
    "mvm_time",
    "names",
    "neurram48",
    "non_ideality",
    "photodiode_sensor",
    "reram_4mb",
    "save",
    "sonos40",
    "standard_crossbar",
    "to_dict",
]
