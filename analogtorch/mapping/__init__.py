"""Layers onto tiles: trace, split, place, and what that costs."""

from analogtorch.mapping.cost import CostReport, EnergySplit, cost
from analogtorch.mapping.map import map_to_chip
from analogtorch.mapping.mapping import Mapping
from analogtorch.mapping.schedule import Schedule, schedule
from analogtorch.mapping.types import Block, Matrix, Operation, Placement

__all__ = [
    "Block",
    "CostReport",
    "EnergySplit",
    "Mapping",
    "Matrix",
    "Operation",
    "Placement",
    "Schedule",
    "cost",
    "map_to_chip",
    "schedule",
]
