"""nn.Linear on an analog chip."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.nn.base import AnalogLayer
from analogtorch.tiling import RowBlock, Section


class AnalogLinear(AnalogLayer, nn.Linear):
    """``nn.Linear`` whose product runs on a chip; made by ``analogtorch.convert``.

    Input ``(*, in_features)``, output ``(*, out_features)``, as ``nn.Linear``. Before calibration the DAC's full scale
    is the largest magnitude of each input vector.
    """

    channel_dim = -1

    def forward(self, input: Tensor) -> Tensor:
        """The analog product of ``input`` and the weight, plus the digital bias."""
        return self.analog_forward(input)

    def _digital(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def _pad(self, x: Tensor) -> Tensor:
        return x

    def _partial(self, x: Tensor, weight: Tensor, section: Section, block: RowBlock) -> Tensor:
        if len(section.row_blocks) == 1:
            return F.linear(x, weight)
        return F.linear(x[..., block[0]], weight[:, block[0]])

    def _absmax(self, x: Tensor) -> Tensor:
        return x.abs().amax(-1, keepdim=True)

    def _output_positions(self, shape: torch.Size, outputs: Tensor) -> tuple[Tensor, Tensor]:
        vectors = torch.arange(shape[:-1].numel(), device=outputs.device).view(*shape[:-1], 1)
        return vectors, outputs
