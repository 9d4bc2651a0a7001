"""What a unit cell must have: the protocol that ``DifferentialPair`` keeps, for cells of your
own.
"""

from dataclasses import fields, is_dataclass
from typing import Any, Protocol, Self, runtime_checkable

from torch import Tensor

from analogtorch.devices.device import Device, check_device
from analogtorch.devices.protocol import check_protocol
from analogtorch.devices.spread import Spread


@runtime_checkable
class Cell(Protocol):
    """The devices at one crossing of a row and a column, which hold one weight ``w`` in [-1, 1].

    A cell is a frozen dataclass with a field ``device``, the model of all its devices.
    Conductances are in microsiemens. The devices of a cell are numbered by the first dimension of
    its conductances: shape (devices, *S) for weights of any shape S.
    """

    @property
    def device(self) -> Device:
        """The model of every device in the cell."""
        ...

    @property
    def devices(self) -> int:
        """Devices in the cell, >= 1."""
        ...

    @property
    def spread(self) -> Spread | None:
        """``programming_sigma`` as a kernel evaluates it; None: only plain torch can."""
        ...

    def targets(self, w: Tensor) -> Tensor:
        """Target conductances of the weights ``w`` (S), >= 0: shape (devices, *S)."""
        ...

    def weights(self, g: Tensor) -> Tensor:
        """The weights that the conductances ``g`` (devices, *S) stand for: shape S."""
        ...

    def negatives(self, g: Tensor) -> Tensor:
        """What a read of those weights subtracts, >= 0, in units of the weight: shape S. With
        ``weights`` added it is what the read adds.
        """
        ...

    def programming_sigma(self, w: Tensor) -> Tensor:
        """Standard deviation of the weight programmed to ``w``, all devices together: shape S."""
        ...

    def changes(self, change: Tensor, target: Tensor) -> Tensor:
        """Changes of conductance (devices, *S) that change weights with the targets ``target`` (S)
        by ``change`` (S).
        """
        ...

    def enlarged(self, times: int) -> Self:
        """A cell of ``times`` as many devices, each of which carries as much less of the weight."""
        ...


def check_cell(owner: str, cell: Any) -> None:
    """Refuse what is no unit cell.

    Raises:
        TypeError: with the methods and attributes that it lacks, or that it is no dataclass with a
            field ``device``.
    """
    example = "analogtorch.devices.DifferentialPair(device=analogtorch.devices.pcm_like())"
    check_protocol(owner, cell, Cell, "unit cell", example)
    if not is_dataclass(type(cell)) or "device" not in (field.name for field in fields(cell)):
        raise TypeError(
            f"{owner}: {type(cell).__name__} must be a frozen dataclass with a field 'device', so "
            "that a chip can be described without some errors of its devices"
        )
    check_device(f"{type(cell).__name__}.device", cell.device)
