"""Calibration from data: DAC and ADC ranges, corrections of columns, statistics of batch norm."""

from analogtorch.calibration.batch_norm import reestimate_batch_norm
from analogtorch.calibration.choice import CalibrationReport
from analogtorch.calibration.columns import correct_columns
from analogtorch.calibration.ranges import calibrate

__all__ = ["CalibrationReport", "calibrate", "correct_columns", "reestimate_batch_norm"]
