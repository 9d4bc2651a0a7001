"""How many weights fit, how many chips they need, and how a mix of dense and accurate cells fits a
number of chips.
"""

import math
from collections.abc import Iterable, Mapping

from analogtorch.chips.chip import Chip
from analogtorch.conversion.pattern import Pattern
from analogtorch.values import checks


def chips_needed(chip: Chip, weights: int) -> int:
    """Chips that ``weights`` would fill without any waste: a lower bound; a placement may need
    more.

    Raises:
        ValueError: ``weights`` is no integer >= 1.
    """
    checks.instance("chip", chip, Chip, "analogtorch.chips.hermes64()")
    checks.count("weights", weights)
    return math.ceil(weights / chip.cells)


def device_mix(weights: int, devices: int, *, most: int = 4, least: int = 2) -> tuple[int, int]:
    """How many of ``weights`` get ``most`` devices and how many ``least``, so that ``devices`` are
    filled at most.

    As many as possible get ``most``. So a model that needs six chips at four devices per weight can
    fit five when its robust layers take two.

    Raises:
        ValueError: a count below 1, ``least`` above ``most``, or too few devices even with
            ``least`` each.
    """
    for name, value in (
        ("weights", weights),
        ("devices", devices),
        ("most", most),
        ("least", least),
    ):
        checks.count(name, value)
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
    """Devices per weight of every matrix, so that all fit a number of chips: as many as possible as
    on ``accurate``.

    A chip holds weights of one kind. The matrices are taken in the order of priority until the
    accurate chips are full; what no longer fits, most of all the largest, goes on the dense ones. 3
    % of the tiles are left, as much as a placement may need above its bound; ``map_to_chip`` of
    each kind, with the other excluded, shows that it fits.

    Args:
        weights: number of weights by name of the matrix, such as ``{m.name: m.weights for m in
            mapping.matrices}``.
        accurate: the chip with more devices per weight.
        dense: the same chip with fewer of them, and so with room for more weights.
        num_chips: chips there are, of both kinds together.
        first: names or patterns of the matrices that need accuracy most, the most sensitive first;
            a sensitivity scan gives them. All others follow, the smallest first.

    Raises:
        ValueError: a count below 1, no matrix, ``accurate`` not above ``dense`` in devices per
            weight, a name that matches nothing, or too few chips even with the devices of ``dense``
            everywhere.

    Example:
        >>> four, two = ibm_speech34(), ibm_speech34(pcm_per_weight=2)
        >>> plan_devices({"large": 12_000_000, "small": 8_000_000}, four, two, 2)
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
        checks.count(f"weights[{name!r}]", count)
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
    order, room = (
        _priority(weights, first),
        {chip: int(chip.cells / _PLACED) for chip in (accurate, dense)},
    )
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
"""Tiles that a placement may take, in units of the bound."""


def _priority(weights: Mapping[str, int], first: Iterable[str]) -> list[str]:
    if isinstance(first, str):
        raise ValueError(
            f"plan_devices: first must be a list of names or patterns, such as [{first!r}]"
        )
    order: list[str] = []
    for pattern in checks.items("plan_devices: first", first, "['head']"):
        found = Pattern(pattern, "plan_devices").of(weights)
        if not found:
            raise ValueError(
                f"plan_devices: first names {pattern!r}, which matches none of the {len(weights)} "
                f"matrices: {', '.join(list(weights)[:5])}"
            )
        order += found
    return list(dict.fromkeys([*order, *sorted(weights, key=lambda name: weights[name])]))
