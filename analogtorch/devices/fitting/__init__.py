"""Fits of a device model to measurements of devices: ``analogtorch.devices.fit``."""

from analogtorch.devices.fitting.fit import fit
from analogtorch.devices.fitting.fitted import Band, Drift, Fit, Quality

__all__ = ["Band", "Drift", "Fit", "Quality", "fit"]
