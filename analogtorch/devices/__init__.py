"""The physics of memory devices, as pure functions of conductance, time and noise."""

from analogtorch.devices.binary import BinaryDevice
from analogtorch.devices.cell import Cell, Staged
from analogtorch.devices.curves import (
    Composed,
    Curve,
    Interpolated,
    LogClip,
    Piecewise,
    Polynomial,
    PowerClip,
    Saturating,
    SquareRoot,
)
from analogtorch.devices.device import Device, Fitted
from analogtorch.devices.drift_aware import DriftAware
from analogtorch.devices.file import load, save
from analogtorch.devices.fitting import Fit, fit
from analogtorch.devices.memcapacitor import memcapacitor
from analogtorch.devices.more_pcm import pcm_afm, pcm_projected, state_independent
from analogtorch.devices.offset import OffsetCell
from analogtorch.devices.pair import DifferentialPair
from analogtorch.devices.pcm import (
    PCM,
    hermes_one_device,
    hermes_two_device,
    ideal_device,
    pcm_like,
)
from analogtorch.devices.photodiode import photodiode
from analogtorch.devices.pulsed import PulsedDevice, capacitor, ecram, ecram_metal_oxide
from analogtorch.devices.quantised import QuantisedPair
from analogtorch.devices.registry import register, registered
from analogtorch.devices.reram import (
    milo_current,
    milo_curves,
    rram_binary,
    rram_cmo,
    rram_milo,
    rram_wan,
)
from analogtorch.devices.scaled import IMPERFECTIONS, Imperfection, Scaled
from analogtorch.devices.significance import SignificancePairs
from analogtorch.devices.single_ended import SingleEndedCell
from analogtorch.devices.sonos import sonos
from analogtorch.devices.spread import Spread
from analogtorch.devices.time import seconds
from analogtorch.devices.timed import TimedDevice

__all__ = [
    "IMPERFECTIONS",
    "PCM",
    "BinaryDevice",
    "Cell",
    "Composed",
    "Curve",
    "Device",
    "DifferentialPair",
    "DriftAware",
    "Fit",
    "Fitted",
    "Imperfection",
    "Interpolated",
    "LogClip",
    "OffsetCell",
    "Piecewise",
    "Polynomial",
    "PowerClip",
    "PulsedDevice",
    "QuantisedPair",
    "Saturating",
    "Scaled",
    "SignificancePairs",
    "SingleEndedCell",
    "Spread",
    "SquareRoot",
    "Staged",
    "TimedDevice",
    "capacitor",
    "ecram",
    "ecram_metal_oxide",
    "fit",
    "hermes_one_device",
    "hermes_two_device",
    "ideal_device",
    "load",
    "memcapacitor",
    "milo_current",
    "milo_curves",
    "pcm_afm",
    "pcm_like",
    "pcm_projected",
    "photodiode",
    "register",
    "registered",
    "rram_binary",
    "rram_cmo",
    "rram_milo",
    "rram_wan",
    "save",
    "seconds",
    "sonos",
    "state_independent",
]
