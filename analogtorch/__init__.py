"""AnalogTorch: what an analog in-memory-computing chip does to a PyTorch model.

It also trains models so that the chip costs little accuracy. The usual steps are:

    chip = at.chips.hermes64()
    at.convert(model, chip)
    at.calibrate(model, batches)
    mapping = at.map_to_chip(model, example)
    physical = at.program(model, seed=7)
    physical.at("1 day")
"""

import logging
import sys

from analogtorch import chips, cost_model, devices, hwa, mapping, nn, report, solver
from analogtorch.calibration import (
    CalibrationReport,
    calibrate,
    correct_columns,
    reestimate_batch_norm,
    smooth_channels,
)
from analogtorch.checkpoint import load, save
from analogtorch.chips import Chip, TrainingNoise
from analogtorch.conversion import (
    GuardReport,
    analog_layers,
    convert,
    fold_batch_norm,
    guard,
    quantise_digital,
    to_digital,
)
from analogtorch.conversion.summary import Summary, summary
from analogtorch.cost_model import cost
from analogtorch.evaluate import (
    TIMES,
    Comparison,
    FloorNotReached,
    HardwarePlan,
    Sweep,
    accuracy,
    budget,
    compare,
    lifetime,
    metrics,
    plan,
    recalibration_interval,
    sensitivity,
    sweep,
)
from analogtorch.mapping import ChipMapping, map_to_chip, remap
from analogtorch.ops.scope import noise
from analogtorch.simulate import (
    Defects,
    GradientDescent,
    ProgramAndVerify,
    ProgrammedChip,
    Recalibration,
    Recovery,
    YieldMap,
    program,
    yield_map,
)
from analogtorch.solver import solve
from analogtorch.values.fields import describe_fields
from analogtorch.values.version import RELEASE

__version__ = RELEASE

describe_fields(sys.modules[__name__], chips, cost_model, devices, hwa, mapping, nn, solver)
logging.getLogger("analogtorch").addHandler(logging.NullHandler())

__all__ = [
    "TIMES",
    "CalibrationReport",
    "Chip",
    "ChipMapping",
    "Comparison",
    "Defects",
    "FloorNotReached",
    "GradientDescent",
    "GuardReport",
    "HardwarePlan",
    "ProgramAndVerify",
    "ProgrammedChip",
    "Recalibration",
    "Recovery",
    "Summary",
    "Sweep",
    "TrainingNoise",
    "YieldMap",
    "accuracy",
    "analog_layers",
    "budget",
    "calibrate",
    "chips",
    "compare",
    "convert",
    "correct_columns",
    "cost",
    "cost_model",
    "devices",
    "fold_batch_norm",
    "guard",
    "hwa",
    "lifetime",
    "load",
    "map_to_chip",
    "mapping",
    "metrics",
    "nn",
    "noise",
    "plan",
    "program",
    "quantise_digital",
    "recalibration_interval",
    "reestimate_batch_norm",
    "remap",
    "report",
    "save",
    "sensitivity",
    "smooth_channels",
    "solve",
    "solver",
    "summary",
    "sweep",
    "to_digital",
    "yield_map",
]
