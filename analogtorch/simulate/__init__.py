"""A programmed chip: how its cells are written, what fails in them, and how they drift."""

from analogtorch.simulate.chip import ProgrammedChip, program
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.recalibration import Recalibration
from analogtorch.simulate.recovery import Recovery
from analogtorch.simulate.writes import Writes
from analogtorch.simulate.writing import GradientDescent, ProgramAndVerify
from analogtorch.simulate.yield_map import YieldMap, yield_map

__all__ = [
    "Defects",
    "GradientDescent",
    "ProgramAndVerify",
    "ProgrammedChip",
    "Recalibration",
    "Recovery",
    "Writes",
    "YieldMap",
    "program",
    "yield_map",
]
