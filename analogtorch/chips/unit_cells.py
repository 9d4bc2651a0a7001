"""How many unit cells of a chip hold one weight of a layer whose cell has more devices."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from analogtorch.chips.choices import Choices
from analogtorch.values import checks

if TYPE_CHECKING:
    from analogtorch.chips.chip import Chip


MOST = 64
"""Unit cells of one weight that options take at most: more are a slip."""


def checked_cells(name: str, value: Any) -> int:
    """Return a number of unit cells that hold one weight.

    Raises:
        ValueError: it is no integer from 1 to ``MOST``.
    """
    return checks.count(name, value, most=MOST)


def enlarged(chip: "Chip", cells: int, option: str = "chip.cells=") -> "Chip":
    """Return a chip of which as many unit cells hold one weight.

    Raises:
        ValueError: its cell cannot share a weight with others; it begins with the ``option``.
    """
    if cells == 1:
        return chip
    try:
        return chip.replace(cell=chip.cell.enlarged(cells))
    except ValueError as error:
        raise ValueError(f"{option}{cells} on {chip.name}: {error}") from error


def on_hardware_of(chip: "Chip", base: "Chip") -> int:
    """Return how many unit cells of ``base`` hold one weight of ``chip``; 0: it is another chip.

    More than one do if the cell of ``chip`` is that of ``base`` with as many times the devices
    (``cell.enlarged``). Training noise and what software chooses are no hardware.
    """
    alike = Choices.of(base).made(chip).replace(training=base.training)
    if alike == base:
        return 1
    cells, rest = divmod(alike.cell.devices, base.cell.devices)
    if rest or cells < 2 or alike.replace(cell=base.cell) != base:
        return 0
    try:
        return cells if alike.cell == base.cell.enlarged(cells) else 0
    except ValueError:  # such as of a SignificancePairs, whose devices are not copies
        return 0


def unit_cells(chip: "Chip", chips: Iterable["Chip"]) -> int:
    """Return how many unit cells hold one weight of ``chip``.

    The unit cell is the smallest of those among ``chips`` that ``chip`` is a multiple of.
    """
    smaller: list[Chip] = []
    for base in chips:
        if base.cell.devices < chip.cell.devices and base not in smaller:
            smaller.append(base)
    return max((on_hardware_of(chip, base) for base in smaller), default=1) or 1
