"""The mapping of matrices onto tiles: splitting, packing, placement, and the number of chips."""

from analogtorch.graph.types import Matrix, Operation
from analogtorch.mapping.by_chip import map_by_chip
from analogtorch.mapping.capacity import chips_needed, device_mix, plan_devices
from analogtorch.mapping.map import map_to_chip, remap
from analogtorch.mapping.mapping import ChipMapping
from analogtorch.mapping.types import Block, Placement

__all__ = [
    "Block",
    "ChipMapping",
    "Matrix",
    "Operation",
    "Placement",
    "chips_needed",
    "device_mix",
    "map_by_chip",
    "map_to_chip",
    "plan_devices",
    "remap",
]
