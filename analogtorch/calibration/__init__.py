"""Calibration from data: DAC and ADC ranges, corrections of columns, statistics of batch norm."""

from analogtorch.calibration.batch_norm import reestimate_batch_norm
from analogtorch.calibration.choice import CalibrationReport
from analogtorch.calibration.columns import correct_columns
from analogtorch.calibration.ranges import calibrate
from analogtorch.calibration.smooth import Smoothed, smooth_channels

__all__ = [
    "CalibrationReport",
    "Smoothed",
    "calibrate",
    "correct_columns",
    "reestimate_batch_norm",
    "smooth_channels",
]
