"""nn.Linear on an analog chip."""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.nn.base import AnalogLayer
from analogtorch.nn.traced import Proxy, whole


class AnalogLinear(AnalogLayer, nn.Linear):
    """``nn.Linear`` whose product runs on a chip: made by ``convert``, or with ``chip`` beside its
    arguments.

    Input ``(*, in_features)``, output ``(*, out_features)``, as ``nn.Linear``. Before calibration
    the DAC's full scale is the largest magnitude of each input vector.

    Example:
        >>> layer = at.nn.AnalogLinear(64, 10, chip=at.chips.hermes64())
    """

    channel_dim = -1
    digital = nn.Linear
    sequence_first: bool = False
    """Whether inputs of three dimensions are (L, N, in_features), so that their second one counts
    the samples: ``convert`` says so of the layers of a transformer that is not ``batch_first``."""

    def forward(self, input: Tensor) -> Tensor:
        """The analog product of ``input`` and the weight, plus the digital bias."""
        if isinstance(input, Proxy):
            return whole(self, input)
        if self.sequence_first and input.dim() == 3:
            return self.analog_forward(input.transpose(0, 1)).transpose(0, 1)
        return self.analog_forward(input)

    def _digital(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def _vectors(self, x: Tensor) -> int:
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"layer {self.layer_name!r} takes (*, {self.in_features}) inputs, got shape "
                f"{tuple(x.shape)}"
            )
        return math.prod(x.shape[:-1])  # Size.numel() would fix a batch size that is traced

    def _absmax(self, x: Tensor) -> Tensor:
        return x.abs().amax(-1, keepdim=True)
