"""The physics of memory devices, as pure functions of conductance, time and noise."""

from analogtorch.devices.cell import Cell
from analogtorch.devices.curves import Curve, LogClip, Piecewise, Polynomial, PowerClip
from analogtorch.devices.device import Device, Fitted
from analogtorch.devices.pair import DifferentialPair
from analogtorch.devices.pcm import (
    PCM,
    hermes_one_device,
    hermes_two_device,
    ideal_device,
    pcm_like,
)
from analogtorch.devices.registry import register, registered
from analogtorch.devices.reram import ReRAM, rram_wan
from analogtorch.devices.scaled import IMPERFECTIONS, Imperfection, Scaled
from analogtorch.devices.spread import Spread
from analogtorch.devices.time import seconds

__all__ = [
    "IMPERFECTIONS",
    "PCM",
    "Cell",
    "Curve",
    "Device",
    "DifferentialPair",
    "Fitted",
    "Imperfection",
    "LogClip",
    "Piecewise",
    "Polynomial",
    "PowerClip",
    "ReRAM",
    "Scaled",
    "Spread",
    "hermes_one_device",
    "hermes_two_device",
    "ideal_device",
    "pcm_like",
    "register",
    "registered",
    "rram_wan",
    "seconds",
]
