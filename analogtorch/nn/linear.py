"""nn.Linear on an analog chip."""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.nn.base import AnalogLayer
from analogtorch.nn.traced import Proxy, whole


class AnalogLinear(AnalogLayer, nn.Linear):
    """``nn.Linear`` whose product runs on a chip; ``convert`` makes it.

    It can also be made directly, with ``chip`` and the arguments of ``nn.Linear``. The input is
    ``(*, in_features)``, the output ``(*, out_features)``. Before calibration the DAC range is the
    largest magnitude of each input vector.

    Example:
        >>> layer = at.nn.AnalogLinear(64, 10, chip=at.chips.hermes64())
    """

    channel_dim = -1
    digital = nn.Linear
    expands = True
    senses = True
    sequence_first: bool = False
    """Whether inputs of three dimensions are (L, N, in_features), so that the second one counts the
    samples, by which noise is numbered and ``TrainingNoise.per_sample`` draws; outputs stay the
    same but for their noise. Set it on a layer that gets (L, N, in_features); ``convert`` does in
    the layers of a transformer of torch that is not ``batch_first``. ``to_digital`` forgets it."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the analog product of ``input`` and the weight, plus the digital bias."""
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
