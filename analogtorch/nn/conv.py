"""nn.Conv1d, nn.Conv2d and nn.Conv3d on an analog chip.

The chip computes one MVM per output position, and a row block may hold any run of (channel, kernel
tap). The input is never unfolded in memory. The CPU kernels gather the patches of 32 positions at a
time into the cache, which costs a few percent of the product and serves every blocking, stride,
dilation and number of groups; where these lie in short pieces, they compute one position of 32
samples at a time instead. In plain torch a row block is a convolution of its channels and taps:
a convolution library computes it faster than a product of patches (im2col would move kernel-size
times the input).
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.chips import Chip, photodiode_sensor
from analogtorch.chips.tiling import Section
from analogtorch.nn.base import AnalogLayer
from analogtorch.nn.traced import Proxy, whole
from analogtorch.ops import Plan


class AnalogConv(AnalogLayer):
    """The base of the analog convolutions, with ``dims`` spatial dimensions."""

    senses = True
    dims: int
    stride: Any
    dilation: Any
    in_channels: Any
    padding_mode: Any
    padding: Any
    kernel_size: Any
    _reversed_padding_repeated_twice: Any
    placed_geometry: tuple[Any, ...] = ()
    """Stride, padding and dilation for which the executions were made, as they are assigned."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the analog convolution of ``input``, plus the digital bias."""
        if isinstance(input, Proxy):
            return whole(self, input)
        self.check_dense(input)
        if self._assigned() != self.placed_geometry:  # as code does that dilates a backbone
            self.replan()
        if input.dim() == self.dims + 1:
            return self.analog_forward(input.unsqueeze(0)).squeeze(0)
        return self.analog_forward(input)

    def _digital(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        digital: Any = self.digital  # a subclass may have its own
        return digital._conv_forward(self, x, weight, bias)

    def replan(self) -> None:
        """Make the executions anew, for stride, padding and dilation as they are now."""
        self.placed_geometry = self._assigned()
        super().replan()

    def _assigned(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.padding_mode

    def _pads(self) -> list[int]:
        """Return what ``F.pad`` adds: two numbers for each dimension, the last one first.

        From the attributes that torch reads: of zeros ``padding``, which may have been assigned.
        """
        if self.padding_mode != "zeros":
            return list(self._reversed_padding_repeated_twice)
        if self.padding == "valid":
            return [0] * 2 * self.dims
        if self.padding == "same":
            sizes = zip(_each(self.dilation, self.dims), self.kernel_size, strict=True)
            added = [dilation * (size - 1) for dilation, size in sizes]
            return [n for total in reversed(added) for n in (total // 2, total - total // 2)]
        return [n for n in reversed(_each(self.padding, self.dims)) for _ in range(2)]

    def _padded(self, x: Tensor, plan: Plan) -> Tensor:
        pads = self._pads()
        if any(plan.padding) or not any(pads):
            return x
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(x, pads, mode=mode)

    def _geometry(self, placed: tuple[Section, ...], chip: Chip) -> dict[str, tuple[int, ...]]:
        pads = self._pads()
        before, after = tuple(pads[-2::-2]), tuple(pads[-1::-2])
        by_product = self.padding_mode == "zeros" and before == after
        # zeros that the product adds pass no DAC, whose INL may change those of code 0
        if chip.dac.inl is not None or any(section.cuts_kernel for section in placed):
            by_product = False
        return {
            "stride": _each(self.stride, self.dims),
            "padding": before if by_product else (0,) * self.dims,
            "dilation": _each(self.dilation, self.dims),
        }

    def _vectors(self, x: Tensor) -> int:
        if x.dim() != self.dims + 2 or x.shape[1] != self.in_channels:
            sizes = {1: "L", 2: "H, W", 3: "D, H, W"}[self.dims]
            raise ValueError(
                f"layer {self.layer_name!r} takes (N, {self.in_channels}, {sizes}) inputs, or one "
                f"sample without N, got shape {tuple(x.shape)}"
            )
        return x.shape[0]

    def _absmax(self, x: Tensor) -> Tensor:
        return x.abs().amax(tuple(range(1, x.dim())), keepdim=True)


def _each(given: Any, dims: int) -> tuple[int, ...]:
    """Return a number for each dimension, of one for all or of one each, as torch takes both."""
    numbers = tuple(given) if isinstance(given, tuple | list) else (given,)
    return numbers * dims if len(numbers) == 1 else numbers


class AnalogConv1d(AnalogConv, nn.Conv1d):
    """``nn.Conv1d`` whose product runs on a chip; ``convert`` makes it.

    It can also be made directly, with ``chip`` and the arguments of ``nn.Conv1d``, whose options it
    has. The input is ``(N, C, L)`` or ``(C, L)``. Before calibration the DAC range is the largest
    magnitude of each sample.
    """

    dims = 1
    digital = nn.Conv1d
    channel_dim = -2


class AnalogConv2d(AnalogConv, nn.Conv2d):
    """``nn.Conv2d`` whose product runs on a chip; ``convert`` makes it.

    It can also be made directly, with ``chip`` and the arguments of ``nn.Conv2d``, whose options it
    has. The input is ``(N, C, H, W)`` or ``(C, H, W)``. Before calibration the DAC range is the
    largest magnitude of each sample.
    """

    dims = 2
    digital = nn.Conv2d
    channel_dim = -3


class AnalogConv3d(AnalogConv, nn.Conv3d):
    """``nn.Conv3d`` whose product runs on a chip; ``convert`` makes it.

    It can also be made directly, with ``chip`` and the arguments of ``nn.Conv3d``, whose options it
    has. The input is ``(N, C, D, H, W)`` or ``(C, D, H, W)``. Before calibration the DAC range is
    the largest magnitude of each sample.
    """

    dims = 3
    digital = nn.Conv3d
    channel_dim = -4


class AnalogSensorConv2d(AnalogConv2d):
    """``nn.Conv2d`` in a sensor, whose inputs are light; ``convert(..., sensor=...)`` makes it.

    It can also be made directly, with the arguments of ``nn.Conv2d``. ``chip`` is
    ``chips.photodiode_sensor()`` by default, and must be one that senses light. The input is
    ``(N, C, H, W)`` or ``(C, H, W)``, from 0 to the DAC range, 1 unless set, which is the light
    of the chip's illuminance.

    Raises:
        ValueError: the chip senses no light, or has fewer photodiodes than the kernel has taps.
        TypeError: it is no chip.

    Example:
        >>> layer = at.nn.AnalogSensorConv2d(1, 7, 3)
        >>> layer(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 7, 6, 6])
    """

    def __init__(self, *args: Any, chip: Chip | None = None, name: str = "", **kwargs: Any) -> None:
        chip = photodiode_sensor() if chip is None else chip
        super().__init__(*args, chip=chip, name=name, **kwargs)

    def _refuse_chip(self, chip: Chip) -> None:
        if not chip.light.on:
            raise ValueError(
                f"layer {self.layer_name or '(root)'!r}: chip {chip.name!r} senses no light; give "
                "at.chips.photodiode_sensor(), or make an AnalogConv2d"
            )
        super()._refuse_chip(chip)
