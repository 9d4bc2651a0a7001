"""The offset cell: one device per weight, beside a reference that is subtracted."""

from dataclasses import dataclass, field, replace
from typing import Literal, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from analogtorch.devices.cell import binary, total
from analogtorch.devices.device import Device, check_device
from analogtorch.devices.drift_aware import bare
from analogtorch.devices.registry import register
from analogtorch.devices.spread import Spread, programmed_sigma
from analogtorch.values import checks
from analogtorch.values.sources import Sources, check_sources

_SHIFT = 0.01
"""Largest shift of all weights, in units of the largest, by a reference that is not in the middle
of the range: half a step of a device of 101 states."""


@register
@dataclass(frozen=True, kw_only=True)
class OffsetCell:
    """A unipolar cell: ``w = (g - g_ref) / g_total`` with ``g_ref`` in the middle of the range.

    It takes half the devices of a differential pair, and half the conductance stands for a weight.
    The reference is subtracted where a chip subtracts the polarities of a pair: before the ADC, or
    behind it where ``ADC.separate_phases`` reads four phases. In that case it takes the ADC's
    rounding and output noise as a column does.
    """

    device: Device
    """A model that follows the protocol ``Device``, such as ``TimedDevice``."""
    devices_per_weight: int = 1
    """Number of devices that share the weight equally, >= 1."""
    levels: Literal[2] | None = None
    """2: binary weights, ``g_min`` for negative weights and ``g_max`` for the others. None: any
    conductance."""
    reference: Literal["constant", "column"] = "constant"
    """``constant``: a trimmed current in proportion to what the DACs apply to the rows, without
    drift and noise. The devices drift and the reference stays, so that all weights move in one
    direction, which no factor can undo. ``column``: one more device per row and block, programmed
    to the middle of the range, where the device must have a state. It drifts, and its errors are
    those of all columns at once. Noise that is not drawn device by device (``TrainingNoise(weight=
    "programming")``, ``Chip.mvm_read_noise``) has its variance, but differs by column."""
    sources: Sources = field(default=Sources(), compare=False)
    """Source of each number, by the name of its field."""

    paired = False

    def __post_init__(self) -> None:
        check_device("OffsetCell.device", self.device)
        checks.counts(self, "devices_per_weight")
        checks.choice("OffsetCell.levels", self.levels, (None, 2))
        checks.choice("OffsetCell.reference", self.reference, ("constant", "column"))
        check_sources(self)
        if self.shared:
            self._check_reference()

    def _check_reference(self) -> None:
        """Raise ValueError unless the device has a state in the middle of its range."""
        # whatever the default device and mode are, fake tensors too, which have no numbers; what
        # targets add for drift is no error
        with torch.inference_mode(False), torch.no_grad(), _disable_current_modes():
            wanted = torch.full((1,), self.g_ref, dtype=torch.float64, device="cpu")
            held = bare(self.device).program(wanted, torch.zeros_like(wanted)).item()
        shift = 2 * (self.g_ref - held) / (self.device.g_max - self.device.g_min)
        if abs(shift) > _SHIFT:
            raise ValueError(
                "OffsetCell.reference='column' needs a device with a state in the middle of its "
                f"range, {self.g_ref:.4g} uS; {self.device.name!r} would hold {held:.4g} uS, which "
                f"shifts all weights by {shift:.2g} times the largest. Give a device with more "
                "states, or write reference='constant'"
            )

    @property
    def devices(self) -> int:
        """Number of devices of the weight, and one for the column of references."""
        return self.devices_per_weight + len(self.shared)

    @property
    def shared(self) -> tuple[int, ...]:
        """Numbers of the devices that all columns of a block share: that of the reference."""
        return (self.devices_per_weight,) if self.reference == "column" else ()

    @property
    def g_total(self) -> float:
        """The conductance beyond the reference, uS, that stands for ``|w| = 1``."""
        return self.devices_per_weight * (self.device.g_max - self.device.g_min) / 2

    @property
    def g_ref(self) -> float:
        """The conductance of the reference, uS, for one device: that of a weight of 0."""
        return (self.device.g_max + self.device.g_min) / 2

    @property
    def spread(self) -> Spread | None:
        """None: the deviation of ``w`` is not that of ``-w``, which kernels expect."""
        return None

    def targets(self, w: Tensor) -> Tensor:
        """Return the target conductances, uS, (devices, *S), of weights ``w`` (S) in [-1, 1]."""
        if self.levels == 2:
            w = binary(w)
        each = self.device.g_min + (1 + w) * (self.device.g_max - self.device.g_min) / 2
        reference = [torch.full_like(each, self.g_ref)] * len(self.shared)
        return torch.stack([each] * self.devices_per_weight + reference)

    def weights(self, g: Tensor) -> Tensor:
        """Return the weights (S) that the conductances ``g`` (devices, *S), uS, stand for."""
        return total(g[: self.devices_per_weight]) / self.g_total - self.negatives(g)

    def negatives(self, g: Tensor) -> Tensor:
        """Return the reference in units of ``g_total``, in the shape S of weights.

        It counts once per device of the weight.
        """
        each = g[-1] if self.shared else torch.full_like(g[0], self.g_ref)
        return each * (self.devices_per_weight / self.g_total)

    def programming_sigma(self, w: Tensor) -> Tensor:
        """Return the standard deviation of cells programmed to the weights ``w`` in [-1, 1]."""
        variances = programmed_sigma(self.device, self.targets(w)).square()
        n = self.devices_per_weight
        variance = variances[:n].sum(0) + n * n * variances[n:].sum(0)
        return variance.sqrt() / self.g_total

    def changes(self, change: Tensor, target: Tensor) -> Tensor:
        """Return changes of conductance, uS, (devices, *S), in equal shares.

        A reference is not changed.
        """
        found = change.new_zeros(self.devices, *change.shape)
        found[: self.devices_per_weight] = change * self.g_total / self.devices_per_weight
        return found

    def enlarged(self, times: int) -> Self:
        """Return a cell with ``times`` as many devices."""
        return replace(self, devices_per_weight=times * self.devices_per_weight)
