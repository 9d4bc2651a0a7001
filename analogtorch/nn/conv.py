"""nn.Conv1d and nn.Conv2d on an analog chip.

The chip computes one matrix-vector multiply per output position. Here the row blocks are convolutions over a part of
the channels, or over a part of the kernel on a shifted input, so that the input is never unfolded.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.nn.base import AnalogLayer
from analogtorch.tiling import RowBlock, Section


class AnalogConv(AnalogLayer):
    """What the analog convolutions share; ``dims`` spatial dimensions."""

    dims: int
    stride: Any
    dilation: Any
    kernel_size: Any
    out_channels: Any
    padding_mode: Any
    _reversed_padding_repeated_twice: Any
    _conv_forward: Any
    _convolve: Any

    def forward(self, input: Tensor) -> Tensor:
        """The analog convolution of ``input``, plus the digital bias."""
        if input.dim() == self.dims + 1:
            return self.analog_forward(input.unsqueeze(0)).squeeze(0)
        return self.analog_forward(input)

    def _digital(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)

    def _pad(self, x: Tensor) -> Tensor:
        # also resolves padding="same" and the integer paddings
        if not any(self._reversed_padding_repeated_twice):
            return x
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(x, self._reversed_padding_repeated_twice, mode=mode)

    def _partial(self, x: Tensor, weight: Tensor, section: Section, block: RowBlock) -> Tensor:
        channels, *taps = block
        x = x[:, section.channels]
        x = self._select_channels(x, section, channels)
        x = x[(slice(None), slice(None), *(self._span(x, d, tap) for d, tap in enumerate(taps)))]
        weight = weight[(slice(None), *block)]
        return self._convolve(x, weight, None, self.stride, 0, self.dilation, section.groups)

    def _select_channels(self, x: Tensor, section: Section, channels: slice) -> Tensor:
        per_group = section.shape[1]
        if channels.stop - channels.start == per_group:
            return x
        if section.groups == 1:
            return x[:, channels]
        grouped = x.reshape(x.shape[0], section.groups, per_group, *x.shape[2:])[:, :, channels]
        return grouped.flatten(1, 2)

    def _span(self, x: Tensor, dim: int, tap: slice) -> slice:
        """The part of a spatial dimension of the padded input that the kernel's taps in ``tap`` meet."""
        stride, dilation, kernel = self.stride[dim], self.dilation[dim], self.kernel_size[dim]
        outputs = (x.shape[2 + dim] - dilation * (kernel - 1) - 1) // stride + 1
        start = tap.start * dilation
        return slice(start, start + (outputs - 1) * stride + (tap.stop - tap.start - 1) * dilation + 1)

    def _absmax(self, x: Tensor) -> Tensor:
        return x.abs().amax(tuple(range(1, x.dim())), keepdim=True)

    def _output_positions(self, shape: torch.Size, outputs: Tensor) -> tuple[Tensor, Tensor]:
        samples, places = shape[0], shape[2:].numel()
        rows = torch.arange(samples, device=outputs.device).view(-1, 1) * self.out_channels + outputs
        cols = torch.arange(places, device=outputs.device).view(1, 1, *shape[2:])
        return rows.view(samples, len(outputs), *[1] * self.dims), cols


class AnalogConv1d(AnalogConv, nn.Conv1d):
    """``nn.Conv1d`` whose product runs on a chip; made by ``analogtorch.convert``.

    Input ``(N, C, L)`` or ``(C, L)``; every option of ``nn.Conv1d``. Before calibration the DAC's full scale is the
    largest magnitude of each sample.
    """

    dims = 1
    channel_dim = -2
    _convolve = staticmethod(F.conv1d)


class AnalogConv2d(AnalogConv, nn.Conv2d):
    """``nn.Conv2d`` whose product runs on a chip; made by ``analogtorch.convert``.

    Input ``(N, C, H, W)`` or ``(C, H, W)``; every option of ``nn.Conv2d``. Before calibration the DAC's full scale is
    the largest magnitude of each sample.
    """

    dims = 2
    channel_dim = -3
    _convolve = staticmethod(F.conv2d)
