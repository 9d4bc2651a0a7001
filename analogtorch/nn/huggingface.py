"""The linear layer of GPT-2 and its kin, ``transformers.pytorch_utils.Conv1D``: ``nn.Linear`` with
a transposed weight.

It imports transformers: ``analogtorch.nn.kinds.kinds`` imports it only where the process has done
so already.
"""

import math
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from analogtorch.nn.base import AnalogLayer
from analogtorch.nn.traced import Proxy, whole


class AnalogConv1D(AnalogLayer, Conv1D):
    """``transformers.pytorch_utils.Conv1D`` whose product runs on a chip: made by ``convert``, or
    with ``chip``.

    Input ``(*, nx)``, output ``(*, nf)``; the weight is ``(nx, nf)``. Before calibration the DAC's
    full scale is the largest magnitude of each input vector.
    """

    channel_dim = -1
    digital = Conv1D
    nx: int

    def forward(self, x: Tensor) -> Tensor:
        """The analog product of ``x`` and the weight, plus the digital bias."""
        if isinstance(x, Proxy):
            return whole(self, x)
        return self.analog_forward(x)

    def as_matrix(self, weight: Tensor) -> Tensor:
        """(outputs, inputs)."""
        return weight.T

    def _digital(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight.T, bias)

    def _vectors(self, x: Tensor) -> int:
        if x.dim() == 0 or x.shape[-1] != self.nx:
            raise ValueError(
                f"layer {self.layer_name!r} takes (*, {self.nx}) inputs, got shape {tuple(x.shape)}"
            )
        return math.prod(x.shape[:-1])

    def _absmax(self, x: Tensor) -> Tensor:
        return x.abs().amax(-1, keepdim=True)

    def extra_repr(self) -> str:
        """Sizes, chip and input range."""
        return f"nf={self.nf}, nx={self.nx}{super().extra_repr()}"

    def __repr__(self) -> Any:
        return nn.Module.__repr__(self)  # the digital layer's own tells nothing of the chip
