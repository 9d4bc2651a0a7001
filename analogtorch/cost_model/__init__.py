"""Time, energy and area of a mapped model, at named scopes, with the source of each figure."""

from analogtorch.cost_model.cost import CostReport, EnergySplit, cost
from analogtorch.cost_model.efficiency import Efficiency, published
from analogtorch.cost_model.entries import Entry
from analogtorch.cost_model.peak import Peak, peak
from analogtorch.cost_model.recalibration import ReadCost
from analogtorch.cost_model.schedule import schedule
from analogtorch.cost_model.steps import Schedule
from analogtorch.cost_model.total import total_energy
from analogtorch.cost_model.weight_memory import WeightMemory

__all__ = [
    "CostReport",
    "Efficiency",
    "EnergySplit",
    "Entry",
    "Peak",
    "ReadCost",
    "Schedule",
    "WeightMemory",
    "cost",
    "peak",
    "published",
    "schedule",
    "total_energy",
]
