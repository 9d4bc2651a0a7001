"""AnalogTorch: what an analog in-memory-computing chip does to a PyTorch model, and training that makes it matter less.

chip = at.chips.hermes64()
at.convert(model, chip)
at.calibrate(model, batches)
mapping = at.map_to_chip(model, chip, example)
physical = at.program(model, seed=7)
physical.at("1 day")
"""

import logging
import sys

from analogtorch import chips, devices, hwa, mapping, nn
from analogtorch.calibrate import calibrate, correct_columns, reestimate_batch_norm
from analogtorch.checkpoint import load, load_programmed, save
from analogtorch.chips import Chip, TrainingNoise
from analogtorch.convert import GuardReport, analog_layers, convert, fold_batch_norm, guard, to_digital
from analogtorch.defects import Defects
from analogtorch.evaluate import TIMES, Sweep, accuracy, sweep
from analogtorch.field_docs import describe_fields
from analogtorch.hwa import clip_after_step, clip_weights_, distillation_loss, training_noise_
from analogtorch.mapping import Mapping, cost, map_to_chip
from analogtorch.program import ProgrammedChip, program
from analogtorch.programming import GradientDescent, ProgramAndVerify
from analogtorch.replay import noise
from analogtorch.sensitivity import sensitivity
from analogtorch.summary import Summary, summary

__version__ = "0.1.0"

describe_fields(sys.modules[__name__], chips, devices, hwa, mapping, nn)
logging.getLogger("analogtorch").addHandler(logging.NullHandler())

__all__ = [
    "TIMES",
    "Chip",
    "Defects",
    "GradientDescent",
    "GuardReport",
    "Mapping",
    "ProgramAndVerify",
    "ProgrammedChip",
    "Summary",
    "Sweep",
    "TrainingNoise",
    "accuracy",
    "analog_layers",
    "calibrate",
    "chips",
    "clip_after_step",
    "clip_weights_",
    "convert",
    "correct_columns",
    "cost",
    "devices",
    "distillation_loss",
    "fold_batch_norm",
    "guard",
    "hwa",
    "load",
    "load_programmed",
    "map_to_chip",
    "mapping",
    "nn",
    "noise",
    "program",
    "reestimate_batch_norm",
    "save",
    "sensitivity",
    "summary",
    "sweep",
    "to_digital",
    "training_noise_",
]
