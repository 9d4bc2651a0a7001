"""Tables, plots, pages and the report of a run.

Importing this room lets chips, mappings, costs, sweeps, comparisons of chips, sensitivities, error
budgets, lifetimes, hardware plans, yield maps, adaptations, solutions and fitted devices print and
draw themselves (``analogtorch.values.shown``).
"""

from analogtorch.report import (  # noqa: F401  they show values
    adapted,
    budget,
    calibration,
    chip,
    comparison,
    cost,
    device_fit,
    floorplan_png,
    lifetime,
    mapping,
    plan,
    recalibration_interval,
    sensitivity,
    solution,
    sweep,
    yield_map,
)
from analogtorch.report.heard import Heard, Misheard
from analogtorch.report.page.mapping import html as _mapping_html  # noqa: F401  it shows mappings
from analogtorch.report.page.run import html, markdown
from analogtorch.report.plot import plot
from analogtorch.report.ranges import RangeChoice
from analogtorch.report.result import Result
from analogtorch.report.text import table
from analogtorch.report.write import write

__all__ = [
    "Heard",
    "Misheard",
    "RangeChoice",
    "Result",
    "html",
    "markdown",
    "plot",
    "table",
    "write",
]
