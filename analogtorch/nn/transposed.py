"""nn.ConvTranspose1d, 2d and 3d on an analog chip.

The chip multiplies the channels at each input place by all (output, kernel tap) columns; where the
taps of several places meet, their readings are added digitally. So a reading is one of few rows,
and a kernel costs columns, not rows: each (output, tap) has an ADC reading and a weight scale of
its own.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.chips.tiling import Section
from analogtorch.nn.base import AnalogLayer
from analogtorch.nn.execution import Execution
from analogtorch.nn.traced import Proxy, whole
from analogtorch.ops.physics import wide

_TRANSPOSED: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class AnalogConvTranspose(AnalogLayer):
    """What the analog transposed convolutions share; ``dims`` spatial dimensions."""

    channel_dim = -2  # of the readings, (N, groups x outputs x taps, places)
    dims: int
    stride: Any
    padding: Any
    dilation: Any
    kernel_size: Any
    output_padding: Any
    groups: Any
    in_channels: Any
    out_channels: Any
    _output_padding: Any

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The analog transposed convolution of ``input``, plus the digital bias.

        Args:
            input: (N, C, *places), or one sample without N.
            output_size: of the output's places, or of the whole output, as the digital layer takes
                it.
        """
        if isinstance(input, Proxy):
            return whole(self, input, output_size)
        geometry = (self.stride, self.padding, self.kernel_size, self.dims, self.dilation)
        extra = tuple(
            self._output_padding(
                input, None if output_size is None else list(output_size), *geometry
            )
        )
        if input.dim() == self.dims + 1:
            return self.analog_forward(input.unsqueeze(0), extra=extra).squeeze(0)
        return self.analog_forward(input, extra=extra)

    def _digital_product(
        self, x: Tensor, outputs: slice | None, extra: Sequence[int] | None = None
    ) -> Tensor:
        """As of every layer; ``extra``: output padding per dimension, the layer's own if None."""
        extra = self.output_padding if extra is None else extra
        geometry = (self.stride, self.padding, extra, self.groups, self.dilation)
        return _TRANSPOSED[self.dims](x, self.weight, self.bias, *geometry)

    def _analog_product(
        self,
        execution: Execution,
        x: Tensor,
        keys: Tensor | None,
        samples: Tensor | None,
        outputs: slice | None,
        extra: Sequence[int] | None = None,
    ) -> Tensor:
        sums = super()._analog_product(execution, x, keys, samples, outputs)
        return self._overlapped(sums, x.shape[2:], self.output_padding if extra is None else extra)

    def _overlapped(self, sums: Tensor, places: Sequence[int], extra: Sequence[int]) -> Tensor:
        """The output (N, outputs, *places) of sums (N, outputs x taps, input places)."""
        sizes, crop = [], []
        for n, step, pad, gap, taps, more in zip(
            places, self.stride, self.padding, self.dilation, self.kernel_size, extra, strict=True
        ):
            reach = (n - 1) * step + gap * (taps - 1) + 1
            crop.append(slice(pad, reach - pad + more))
            # beyond what any tap reaches there is only the bias
            sizes.append(max(reach, reach - pad + more))
        spread = sums.unflatten(2, places).unflatten(1, (self.out_channels, -1))
        total = _OverlapAdd.apply(
            spread, tuple(self.kernel_size), tuple(self.stride), tuple(self.dilation), sizes
        )
        total = total[(slice(None), slice(None), *crop)]
        if self.bias is not None:
            total = total + self.bias.to(total.dtype).view(-1, *[1] * self.dims)
        return total.to(sums.dtype)

    def as_matrix(self, weight: Tensor) -> Tensor:
        """(groups x outputs of one x taps, inputs of one group, 1): a product of places has no
        kernel.
        """
        grouped = weight.unflatten(0, (self.groups, -1))
        return grouped.movedim(1, -1).flatten(0, -2).unsqueeze(-1)

    def _analog_bias(self) -> Tensor | None:
        return None  # it is added once, where the taps have been added up

    def _geometry(self, placed: tuple[Section, ...]) -> dict[str, tuple[int, ...]]:
        return {"stride": (1,), "padding": (0,), "dilation": (1,)}

    def _padded(self, x: Tensor, placed: tuple[Section, ...]) -> Tensor:
        return x.flatten(2)

    def _vectors(self, x: Tensor) -> int:
        if x.dim() != self.dims + 2 or x.shape[1] != self.in_channels:
            places = {1: "L", 2: "H, W", 3: "D, H, W"}[self.dims]
            raise ValueError(
                f"layer {self.layer_name!r} takes (N, {self.in_channels}, {places}) inputs, or one "
                f"sample without N, got shape {tuple(x.shape)}"
            )
        return x.shape[0]

    def _absmax(self, x: Tensor) -> Tensor:
        return x.flatten(1).abs().amax(1).view(-1, 1, 1)


class _OverlapAdd(torch.autograd.Function):
    """Add (N, outputs, taps, *places) up where they meet. Autograd of the slices would copy the sum
    once per tap.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, kernel: Any, stride: Any, dilation: Any, sizes: Any) -> Tensor:
        total = y.new_zeros((*y.shape[:2], *sizes), dtype=wide(y.dtype))
        for number, meets in enumerate(_met(y.shape[3:], kernel, stride, dilation)):
            total[meets] += y[:, :, number]
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        y, kernel, stride, dilation, _ = inputs
        ctx.geometry, ctx.dtype = (y.shape[3:], kernel, stride, dilation), y.dtype

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (g,) = gradients
        parts = [g[meets] for meets in _met(*ctx.geometry)]
        return torch.stack(parts, 2).to(ctx.dtype), None, None, None, None


def _met(
    places: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[Any]:
    """For each kernel tap, in the weight's order, the output places that it reaches from all input
    places.
    """
    found = []
    for taps in itertools.product(*map(range, kernel)):
        starts = [tap * gap for tap, gap in zip(taps, dilation, strict=True)]
        reached = [
            slice(a, a + (n - 1) * step + 1, step)
            for a, n, step in zip(starts, places, stride, strict=True)
        ]
        found.append((slice(None), slice(None), *reached))
    return found


class AnalogConvTranspose1d(AnalogConvTranspose, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` whose product runs on a chip: made by ``convert``, or with ``chip``
    beside its arguments.

    Input ``(N, C, L)`` or ``(C, L)``; every option of ``nn.ConvTranspose1d``. Before calibration
    the DAC's full scale is the largest magnitude of each sample.
    """

    dims = 1
    digital = nn.ConvTranspose1d


class AnalogConvTranspose2d(AnalogConvTranspose, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` whose product runs on a chip: made by ``convert``, or with ``chip``
    beside its arguments.

    Input ``(N, C, H, W)`` or ``(C, H, W)``; every option of ``nn.ConvTranspose2d``. Before
    calibration the DAC's full scale is the largest magnitude of each sample.
    """

    dims = 2
    digital = nn.ConvTranspose2d


class AnalogConvTranspose3d(AnalogConvTranspose, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` whose product runs on a chip: made by ``convert``, or with ``chip``
    beside its arguments.

    Input ``(N, C, D, H, W)`` or ``(C, D, H, W)``; every option of ``nn.ConvTranspose3d``. Before
    calibration the DAC's full scale is the largest magnitude of each sample.
    """

    dims = 3
    digital = nn.ConvTranspose3d
