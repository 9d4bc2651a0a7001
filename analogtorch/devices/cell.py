"""The protocol that every unit cell follows, such as ``DifferentialPair`` or one of your own."""

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from analogtorch.devices.device import Device, check_device
from analogtorch.devices.protocol import check_protocol
from analogtorch.devices.spread import Spread

_ROUNDING = 1e-5
"""Difference of two weights that is one of rounding, in units of the largest."""


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
        """Number of devices in the cell, >= 1."""
        ...

    @property
    def g_total(self) -> float:
        """The conductance, uS, that stands for ``|w| = 1``."""
        ...

    @property
    def spread(self) -> Spread | None:
        """The curve ``programming_sigma`` in the form that kernels evaluate, or None.

        Without it, training noise runs in plain torch.
        """
        ...

    def targets(self, w: Tensor) -> Tensor:
        """Return the target conductances, >= 0, of the weights ``w`` (S): shape (devices, *S)."""
        ...

    def weights(self, g: Tensor) -> Tensor:
        """Return the weights that the conductances ``g`` (devices, *S) stand for: shape S."""
        ...

    def negatives(self, g: Tensor) -> Tensor:
        """Return the part of each weight that a read subtracts, >= 0: shape S.

        ``g`` has shape (devices, *S). The part that a read adds is the weight plus this part.
        """
        ...

    def programming_sigma(self, w: Tensor) -> Tensor:
        """Return the standard deviation of cells programmed to the weights ``w`` (S): shape S."""
        ...

    def changes(self, change: Tensor, target: Tensor) -> Tensor:
        """Return the changes of conductance that change weights by ``change`` (S).

        ``target`` (S) holds the weights to reach. The changes have shape (devices, *S).
        """
        ...

    def enlarged(self, times: int) -> Self:
        """Return a cell of ``times`` as many devices, which share the weight."""
        ...


Hold = Callable[[Tensor], Tensor]
"""The conductances of all devices of cells from those that programming gives."""


@runtime_checkable
class Staged(Protocol):
    """A unit cell whose devices are written one after the other, each knowing the ones before.

    It has these two methods beside those of ``Cell``.
    """

    def program(self, w: Tensor, z: Tensor, hold: Hold) -> Tensor:
        """Return the conductances, uS, of cells programmed to the weights ``w`` (S).

        ``z`` (devices, *S) holds the standard normals of the devices. After each device,
        ``hold(g)`` returns the conductances with those of broken devices in their places.
        """
        ...

    def written(self, w: Tensor, g: Tensor) -> Tensor:
        """Return the targets to which devices were written that became ``g`` (devices, *S), uS."""
        ...


@runtime_checkable
class Limited(Protocol):
    """A unit cell in which devices stand in for others that are full or empty.

    It has this method beside those of ``Cell``.
    """

    def within(self, changes: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        """Return changes of conductance that change weights as ``changes`` do, as far as possible.

        All have the shape (devices, *S); no change is below ``lowest``, <= 0, or above ``highest``,
        >= 0. Changes of cells in which none was stay as they are.
        """
        ...


def program(cell: Cell, w: Tensor, z: Tensor, hold: Hold) -> Tensor:
    """Return the conductances, uS, (devices, *S), of cells programmed to the weights ``w`` (S).

    See ``Staged.program``; the devices of other cells are written at once.
    """
    if isinstance(cell, Staged):
        return cell.program(w, z, hold)
    return hold(cell.device.program(cell.targets(w), z))


def written(cell: Cell, w: Tensor, g: Tensor) -> Tensor:
    """Return the targets, uS, of devices that became ``g`` (devices, *S): see ``Staged.written``.

    They decide how the devices drift.
    """
    return cell.written(w, g) if isinstance(cell, Staged) else cell.targets(w)


def changes_within(
    cell: Cell, change: Tensor, target: Tensor, lowest: Tensor, highest: Tensor
) -> Tensor:
    """Return ``cell.changes(change, target)``; see ``Limited.within`` for cells that have it."""
    wanted = cell.changes(change, target)
    return cell.within(wanted, lowest, highest) if isinstance(cell, Limited) else wanted


def shared_within(changes: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """Return changes within limits: what a device cannot take is shared by those with room.

    They share it in proportion to their room, those of the other polarity with the other sign.

    Args:
        changes: changes of the devices of a pair in uS, (devices, *S), the positive half first.
        lowest: the smallest change that each device can take, <= 0.
        highest: the largest, >= 0.
    """
    kept, sign = changes.clamp(lowest, highest), torch.ones_like(changes)
    sign[len(changes) // 2 :] = -1.0
    left = sign * (sign * (changes - kept)).sum(0)
    room = torch.where(left > 0, highest - kept, lowest - kept)
    tiny = torch.finfo(room.dtype).tiny
    return kept + room * (left.abs() / room.abs().sum(0).clamp_min(tiny)).clamp_max(1.0)


def conductances_as_written(cell: Cell, w: Tensor) -> Tensor:
    """Return the conductances, uS, (devices, *S), of cells that are written for ``w`` (S) exactly.

    They are those of the states of the devices, which few targets may be.
    """
    return program(cell, w, w.new_zeros(cell.devices, *w.shape), lambda g: g)


def weights_as_written(cell: Cell, w: Tensor) -> Tensor:
    """Return the weights, of the shape of ``w``, to which cells are written for the wanted ``w``.

    They differ where cells or devices hold few values, or targets allow for drift: they are what
    programming without an error gives.
    """
    exact = cell.weights(conductances_as_written(cell, w))
    return torch.where((exact - w).abs() <= _ROUNDING, w, exact)


def is_paired(cell: Cell) -> bool:
    """Return whether each polarity is one column whose conductances the weights add up.

    Most cells are such pairs, and need not say so by an attribute ``paired``. IR drop is known for
    them alone.
    """
    return bool(getattr(cell, "paired", True))


def is_signed(cell: Cell) -> bool:
    """Return whether a cell holds negative weights.

    Most cells do, and need not say so by an attribute ``signed``. Others hold the bits of weights
    in two's complement.
    """
    return bool(getattr(cell, "signed", True))


def total(g: Sequence[Tensor] | Tensor) -> Tensor:
    """Return the sum of conductances over the devices, the first dimension of ``g``."""
    return functools.reduce(operator.add, g)


def binary(w: Tensor) -> Tensor:
    """Return the weights -1 and 1 that weights ``w`` become; 0 becomes 1."""
    return torch.full_like(w, -1.0).masked_fill(w >= 0, 1.0)


def negatives(cell: Cell, w: Tensor) -> Tensor:
    """Return the part that a read subtracts of cells that hold exactly the weights ``w`` (S).

    The polarity that is added holds what the targets of a weight do not, as where noise has moved
    it beyond 1; in a pair, the polarity of its sign does. The result has the shape S.
    """
    g = cell.targets(w.clamp(-1.0, 1.0))
    minus = cell.negatives(g)
    if not is_paired(cell):
        return minus
    return minus + (-w).clamp_min(0.0) - (-cell.weights(g)).clamp_min(0.0)


def conducts_twice(cell: Cell) -> bool:
    """Return whether both polarities of a cell may conduct at once.

    Such are the reference of an offset cell, and devices that conduct where they are empty.
    """
    w = torch.linspace(-1, 1, 129, dtype=torch.float64, device="cpu")
    minus = negatives(cell, w)
    return bool((torch.minimum(minus, w + minus) > _ROUNDING).any())


def shared(cell: Cell) -> tuple[int, ...]:
    """Return the numbers of the devices that all cells in a row of a block have in common.

    Cells with such devices name them by an attribute ``shared``. One draw decides each.
    """
    return tuple(getattr(cell, "shared", ()))


def levels(cell: Cell) -> int | None:
    """Return the number of weights that a cell can hold; None: any weight.

    Cells of few weights say so by an attribute of that name.
    """
    return getattr(cell, "levels", None)


def check_cell(owner: str, cell: Any) -> None:
    """Raise an error unless ``cell`` follows the protocol ``Cell``.

    Raises:
        TypeError: it lacks methods or attributes, which the message names, or it is no dataclass
            with a field ``device``.
    """
    example = "analogtorch.devices.DifferentialPair(device=analogtorch.devices.pcm_like())"
    check_protocol(owner, cell, Cell, "unit cell", example)
    if not is_dataclass(type(cell)) or "device" not in (field.name for field in fields(cell)):
        raise TypeError(
            f"{owner}: {type(cell).__name__} must be a frozen dataclass with a field 'device', so "
            "that a chip can be described without some errors of its devices"
        )
    check_device(f"{type(cell).__name__}.device", cell.device)
