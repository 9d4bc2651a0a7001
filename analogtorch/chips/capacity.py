"""How many weights fit, how many chips they need, and how a mix of dense and accurate cells fits a number of chips."""

import math

from analogtorch.chips.chip import Chip


def chips_needed(chip: Chip, weights: int) -> int:
    """Chips that ``weights`` would fill without any waste: a lower bound; a placement may need more.

    Raises:
        ValueError: ``weights`` is no integer >= 1.
    """
    _count("weights", weights)
    return math.ceil(weights / chip.cells)


def device_mix(weights: int, devices: int, *, most: int = 4, least: int = 2) -> tuple[int, int]:
    """How many of ``weights`` get ``most`` devices and how many ``least``, so that ``devices`` are filled at most.

    As many as possible get ``most``. So a model that needs six chips at four devices per weight can fit five when its
    robust layers take two.

    Raises:
        ValueError: a count below 1, ``least`` above ``most``, or too few devices even with ``least`` each.
    """
    for name, value in (("weights", weights), ("devices", devices), ("most", most), ("least", least)):
        _count(name, value)
    if least >= most:
        raise ValueError(f"device_mix: least must be below most, got {least} and {most}")
    if weights * least > devices:
        raise ValueError(
            f"device_mix: {weights:,} weights need {weights * least:,} devices with {least} each, got {devices:,}; "
            "take more chips or leave layers digital"
        )
    accurate = min(weights, (devices - least * weights) // (most - least))
    return accurate, weights - accurate


def _count(name: str, value: int) -> None:
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
