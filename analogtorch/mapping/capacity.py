"""How many weights fit on chips, and the mix of dense and accurate cells that fits a number."""

import math
from collections.abc import Iterable, Mapping

from analogtorch.chips.chip import Chip
from analogtorch.conversion.pattern import Pattern
from analogtorch.values import checks


def chips_needed(chip: Chip, weights: int) -> int:
    """Return the number of chips that ``weights`` would fill without waste.

    It is a lower bound: a mapping may need more.

    Raises:
        ValueError: ``weights`` is no integer >= 1.
        TypeError: ``chip`` is no chip.
    """
    checks.instance("chip", chip, Chip, "analogtorch.chips.hermes64()")
    checks.count("weights", weights, largest=checks.INT64)
    return math.ceil(weights / chip.capacity)


def device_mix(weights: int, devices: int, *, most: int = 4, least: int = 2) -> tuple[int, int]:
    """Return how many weights get ``most`` devices and how many ``least``.

    As many weights as possible get ``most``. A model that needs six chips at four devices per
    weight can fit on five where its robust layers take two.

    Args:
        weights: number of weights, >= 1.
        devices: number of devices that there are, >= 1.
        most: devices of an accurate weight, >= 1.
        least: devices of a dense weight, from 1 to below ``most``.

    Raises:
        ValueError: a count is below 1, ``least`` is not below ``most``, or there are too few
            devices even with ``least`` each.
    """
    given = {"weights": weights, "devices": devices, "most": most, "least": least}
    for name, value in given.items():
        checks.count(name, value, largest=checks.INT64)
    if least >= most:
        raise ValueError(f"device_mix: least must be below most, got {least} and {most}")
    if weights * least > devices:
        raise ValueError(
            f"device_mix: {weights:,} weights need {weights * least:,} devices with {least} each, "
            f"got {devices:,}; take more chips or leave layers digital"
        )
    accurate = min(weights, (devices - least * weights) // (most - least))
    return accurate, weights - accurate


def plan_devices(
    weights: Mapping[str, int],
    accurate: Chip,
    dense: Chip,
    num_chips: int,
    *,
    first: Iterable[str] = (),
) -> dict[str, int]:
    """Return the devices per weight of every matrix, so that all fit a number of chips.

    As many matrices as possible get the devices of ``accurate``.

    A chip holds weights of one kind. The matrices are taken in the order of priority until the
    accurate chips are full. What no longer fits, most often the largest, goes on the dense chips. 3
    % of the tiles are left free, as much as a mapping may need above its bound; ``map_to_chip`` of
    each kind, with the other excluded, shows whether it fits.

    Args:
        weights: number of weights by name of the matrix, such as ``{m.name: m.weights for m in
            mapping.matrices}``.
        accurate: the chip with more devices per weight.
        dense: the same chip with fewer of them, and so with room for more weights.
        num_chips: number of chips of both kinds together.
        first: names or patterns of the matrices that need accuracy most, the most sensitive first;
            ``sensitivity`` measures it. All others follow, the smallest first.

    Raises:
        ValueError: a count is below 1, there is no matrix, ``accurate`` does not have more devices
            per weight than ``dense``, a name matches nothing, or there are too few chips even with
            the devices of ``dense`` everywhere.

    Example:
        >>> four, two = at.chips.ibm_speech34(), at.chips.ibm_speech34(pcm_per_weight=2)
        >>> at.mapping.plan_devices({"large": 12_000_000, "small": 8_000_000}, four, two, 2)
        {'large': 2, 'small': 4}
    """
    checks.count("plan_devices: num_chips", num_chips)
    for name, chip in (("accurate", accurate), ("dense", dense)):
        checks.instance(f"plan_devices: {name}", chip, Chip, "analogtorch.chips.ibm_speech34()")
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"plan_devices: weights must be numbers of weights by name, got {checks.shown(weights)}"
        )
    for name, count in weights.items():
        checks.count(f"weights[{name!r}]", count, largest=checks.INT64)
    most, least = accurate.cell.devices, dense.cell.devices
    if not weights:
        raise ValueError(
            "plan_devices: weights is empty; give the number of weights of each matrix by its name"
        )
    if most <= least:
        raise ValueError(
            f"plan_devices: accurate must have more devices per weight than dense, got {most} "
            f"({accurate.name}) and {least} ({dense.name})"
        )
    order = _priority(weights, first)
    room = {chip: int(chip.capacity / _PLACED) for chip in (accurate, dense)}
    for number in range(num_chips, -1, -1):
        free, plan = number * room[accurate], dict.fromkeys(weights, least)
        for name in order:
            if weights[name] <= free:
                free -= weights[name]
                plan[name] = most
        left = sum(weights[name] for name, devices in plan.items() if devices == least)
        if left <= (num_chips - number) * room[dense]:
            return plan
    needed = math.ceil(sum(weights.values()) / room[dense])
    raise ValueError(
        f"plan_devices: {sum(weights.values()):,} weights need {needed} chips with {least} devices "
        f"each, got {num_chips}; take more chips or leave matrices digital"
    )


_PLACED = 1.03
"""Tiles that a mapping may take, in units of the bound."""


def _priority(weights: Mapping[str, int], first: Iterable[str]) -> list[str]:
    if isinstance(first, str):
        raise ValueError(
            f"plan_devices: first must be a list of names or patterns, such as [{first!r}]"
        )
    order: list[str] = []
    for pattern in checks.items("plan_devices: first", first, "['head']"):
        found = list(filter(Pattern(pattern, "plan_devices", weights), weights))
        if not found:
            raise ValueError(
                f"plan_devices: first names {pattern!r}, which matches none of the {len(weights)} "
                f"matrices: {', '.join(list(weights)[:5])}"
            )
        order += found
    return list(dict.fromkeys([*order, *sorted(weights, key=lambda name: weights[name])]))
