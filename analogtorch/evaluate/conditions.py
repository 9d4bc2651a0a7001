"""What a reader of a result must know of its chips: defects, writing and drift compensation."""

from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.writing import Method

_COMPENSATIONS: dict[Compensation, str] = {
    "none": "drift is not compensated",
    "global": "drift is compensated by one factor per block, of the mean magnitude of its cells",
    "column": "drift is compensated by one factor per column, of the mean magnitude of its cells",
}
"""What differs from the default, ``least_squares``."""


def conditions(
    method: Method | None, defects: Defects | None, compensation: Compensation
) -> dict[str, str]:
    """Return what of simulated chips is not as by default, in words, by argument.

    Args:
        method: how cells are written, as ``program`` takes it.
        defects: what is broken, as ``program`` takes it.
        compensation: drift compensation, as ``ProgrammedChip.at`` takes it.
    """
    found = {
        "defects": "" if defects is None else defects.summary,
        "method": "" if method is None else method.summary,
        "compensation": _COMPENSATIONS.get(compensation, ""),
    }
    return {name: text for name, text in found.items() if text}


def listed(texts: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the entry of results with these conditions, for JSON; empty without any."""
    return {"conditions": list(texts)} if texts else {}
