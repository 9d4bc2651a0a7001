"""The linear layer of GPT-2 and related models on a chip: ``nn.Linear`` with a transposed weight.

It is ``transformers.pytorch_utils.Conv1D``. This module imports transformers:
``analogtorch.nn.kinds.kinds`` imports it only if the process has imported transformers already.
"""

import math
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from analogtorch.nn.base import AnalogLayer
from analogtorch.nn.traced import Proxy, whole


class AnalogConv1D(AnalogLayer, Conv1D):
    """``transformers.pytorch_utils.Conv1D`` whose product runs on a chip; ``convert`` makes it.

    It can also be made directly, with ``chip``. The input is ``(*, nx)``, the output ``(*, nf)``
    and the weight ``(nx, nf)``. Before calibration the DAC range is the largest magnitude of each
    input vector.
    """

    channel_dim = -1
    digital = Conv1D
    expands = True
    nx: int

    def forward(self, x: Tensor) -> Tensor:
        """Return the analog product of ``x`` and the weight, plus the digital bias."""
        if isinstance(x, Proxy):
            return whole(self, x)
        return self.analog_forward(x)

    def as_matrix(self, weight: Tensor) -> Tensor:
        """Return the weight as (outputs, inputs)."""
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
        """Return sizes, chip and DAC range."""
        return f"nf={self.nf}, nx={self.nx}{super().extra_repr()}"

    def __repr__(self) -> Any:
        return nn.Module.__repr__(self)  # that of the digital layer lacks the chip
