"""nn.ConvTranspose1d, 2d and 3d on an analog chip.

The chip multiplies the channels at each input position by all (output, kernel tap) columns; where
the taps of several positions overlap, their ADC outputs are added digitally. So an MVM has few
rows, and a kernel costs columns, not rows: each (output, tap) has its own ADC output and weight
scale.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.chips import Chip
from analogtorch.chips.tiling import Section
from analogtorch.nn.base import AnalogLayer
from analogtorch.nn.execution import Execution
from analogtorch.nn.traced import Proxy, whole
from analogtorch.ops import Plan
from analogtorch.ops.physics import wide

_TRANSPOSED: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class AnalogConvTranspose(AnalogLayer):
    """The base of the analog transposed convolutions, with ``dims`` spatial dimensions."""

    channel_dim = -2  # of the ADC outputs, (N, groups x outputs x taps, positions)
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
        """Return the analog transposed convolution of ``input``, plus the digital bias.

        Args:
            input: (N, C, *sizes), or one sample without N.
            output_size: sizes of the output's positions, or of the whole output, as for the digital
                layer.
        """
        if isinstance(input, Proxy):
            return whole(self, input, output_size)
        self.check_dense(input)
        geometry = (self.stride, self.padding, self.kernel_size, self.dims, self.dilation)
        wanted = None if output_size is None else list(output_size)
        extra = tuple(self._output_padding(input, wanted, *geometry))
        self._refuse_small(input, extra)
        if input.dim() == self.dims + 1:
            return self.analog_forward(input.unsqueeze(0), extra=extra).squeeze(0)
        return self.analog_forward(input, extra=extra)

    def _refuse_small(self, x: Tensor, extra: Sequence[int]) -> None:
        """Raise ValueError if the padding leaves nothing of the output."""
        if x.dim() - self.dims not in (1, 2):
            return  # ``_vectors`` refuses it
        given, sizes = tuple(x.shape[-self.dims :]), []
        geometry = (self.stride, self.padding, self.dilation, self.kernel_size)
        for n, step, pad, gap, taps, more in zip(given, *geometry, extra, strict=True):
            sizes.append((n - 1) * step + gap * (taps - 1) + 1 - 2 * pad + more)
        if min(sizes) < 1:
            raise ValueError(
                f"layer {self.layer_name!r}: an input with positions {given} has an output with "
                f"positions {tuple(sizes)}, which must be >= 1; give a larger input, or a layer "
                f"with less padding than {tuple(self.padding)}"
            )

    def _digital_product(
        self, x: Tensor, outputs: slice | None, extra: Sequence[int] | None = None
    ) -> Tensor:
        """Return the output of the digital layer; ``extra``: output padding, or the layer's."""
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

    def _overlapped(self, sums: Tensor, positions: Sequence[int], extra: Sequence[int]) -> Tensor:
        """Return the output (N, outputs, *sizes) of sums (N, outputs x taps, input positions)."""
        sizes, crop = [], []
        geometry = (self.stride, self.padding, self.dilation, self.kernel_size)
        for n, step, pad, gap, taps, more in zip(positions, *geometry, extra, strict=True):
            reach = (n - 1) * step + gap * (taps - 1) + 1
            crop.append(slice(pad, reach - pad + more))
            # outputs that no tap reaches get only the bias
            sizes.append(max(reach, reach - pad + more))
        spread = sums.unflatten(2, positions).unflatten(1, (self.out_channels, -1))
        total = _OverlapAdd.apply(
            spread, tuple(self.kernel_size), tuple(self.stride), tuple(self.dilation), sizes
        )
        total = total[(slice(None), slice(None), *crop)]
        if self.bias is not None:
            total = total + self.bias.to(total.dtype).view(-1, *[1] * self.dims)
        return total.to(sums.dtype)

    def as_matrix(self, weight: Tensor) -> Tensor:
        """Return the weight as (groups x outputs of one x taps, inputs of one group, 1).

        The product of each position has no kernel.
        """
        grouped = weight.unflatten(0, (self.groups, -1))
        return grouped.movedim(1, -1).flatten(0, -2).unsqueeze(-1)

    def analog_bias(self) -> Tensor | None:
        """Return None: the bias is added once, after the taps have been added up."""
        return None

    def _geometry(self, placed: tuple[Section, ...], chip: Chip) -> dict[str, tuple[int, ...]]:
        return {"stride": (1,), "padding": (0,), "dilation": (1,)}

    def _padded(self, x: Tensor, plan: Plan) -> Tensor:
        return x.flatten(2)

    def _vectors(self, x: Tensor) -> int:
        if x.dim() != self.dims + 2 or x.shape[1] != self.in_channels:
            sizes = {1: "L", 2: "H, W", 3: "D, H, W"}[self.dims]
            raise ValueError(
                f"layer {self.layer_name!r} takes (N, {self.in_channels}, {sizes}) inputs, or one "
                f"sample without N, got shape {tuple(x.shape)}"
            )
        return x.shape[0]

    def _absmax(self, x: Tensor) -> Tensor:
        return x.flatten(1).abs().amax(1).view(-1, 1, 1)


class _OverlapAdd(torch.autograd.Function):
    """Add (N, outputs, taps, *positions) up where they overlap.

    Autograd of the slices would copy the sum once per tap.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, kernel: Any, stride: Any, dilation: Any, sizes: Any) -> Tensor:
        total = y.new_zeros((*y.shape[:2], *sizes), dtype=wide(y.dtype))
        for number, reached in enumerate(_reached(y.shape[3:], kernel, stride, dilation)):
            total[reached] += y[:, :, number]
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        y, kernel, stride, dilation, _ = inputs
        ctx.geometry, ctx.dtype = (y.shape[3:], kernel, stride, dilation), y.dtype

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (g,) = gradients
        parts = [g[reached] for reached in _reached(*ctx.geometry)]
        return torch.stack(parts, 2).to(ctx.dtype), None, None, None, None


def _reached(
    positions: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[Any]:
    """Return the output positions that each kernel tap reaches from all input positions.

    The taps have the order of the weight.
    """
    found = []
    for taps in itertools.product(*map(range, kernel)):
        starts = [tap * gap for tap, gap in zip(taps, dilation, strict=True)]
        reached = [
            slice(a, a + (n - 1) * step + 1, step)
            for a, n, step in zip(starts, positions, stride, strict=True)
        ]
        found.append((slice(None), slice(None), *reached))
    return found


class AnalogConvTranspose1d(AnalogConvTranspose, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` whose product runs on a chip; ``convert`` makes it.

    It can also be made directly, with ``chip`` and the arguments of ``nn.ConvTranspose1d``, whose
    options it has. The input is ``(N, C, L)`` or ``(C, L)``. Before calibration the DAC range is
    the largest magnitude of each sample.
    """

    dims = 1
    digital = nn.ConvTranspose1d


class AnalogConvTranspose2d(AnalogConvTranspose, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` whose product runs on a chip; ``convert`` makes it.

    It can also be made directly, with ``chip`` and the arguments of ``nn.ConvTranspose2d``, whose
    options it has. The input is ``(N, C, H, W)`` or ``(C, H, W)``. Before calibration the DAC range
    is the largest magnitude of each sample.
    """

    dims = 2
    digital = nn.ConvTranspose2d


class AnalogConvTranspose3d(AnalogConvTranspose, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` whose product runs on a chip; ``convert`` makes it.

    It can also be made directly, with ``chip`` and the arguments of ``nn.ConvTranspose3d``, whose
    options it has. The input is ``(N, C, D, H, W)`` or ``(C, D, H, W)``. Before calibration the DAC
    range is the largest magnitude of each sample.
    """

    dims = 3
    digital = nn.ConvTranspose3d
