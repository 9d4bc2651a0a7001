"""The physics of memory devices, as pure functions of conductance, time and noise."""

from analogtorch.devices.cell import UnitCell
from analogtorch.devices.curves import Curve, LogClip, Piecewise, Polynomial, PowerClip
from analogtorch.devices.device import Device
from analogtorch.devices.pcm import (
    PCM,
    hermes_one_device,
    hermes_two_device,
    ideal_device,
    pcm_like,
)
from analogtorch.devices.reduced import IMPERFECTIONS, Imperfection, Reduced
from analogtorch.devices.reram import ReRAM, rram_wan
from analogtorch.devices.spread import Spread
from analogtorch.devices.time import seconds

__all__ = [
    "IMPERFECTIONS",
    "PCM",
    "Curve",
    "Device",
    "Imperfection",
    "LogClip",
    "Piecewise",
    "Polynomial",
    "PowerClip",
    "ReRAM",
    "Reduced",
    "Spread",
    "UnitCell",
    "hermes_one_device",
    "hermes_two_device",
    "ideal_device",
    "pcm_like",
    "rram_wan",
    "seconds",
]
