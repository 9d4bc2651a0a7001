"""Residual nets of convolutions over time."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.speech.labels import LABELS
from analogtorch.speech.models.arguments import counts, maps, outputs, rate


class TCResNet(nn.Module):
    """TC-ResNet8: filters are channels, and full convolutions go over time alone.

    Choi et al., Interspeech 2019 (arXiv 1904.03814): a convolution over 3 frames, then residual
    blocks of two convolutions over 9 frames, the first with stride 2, and shortcuts of one frame;
    66k parameters and 1.5 million multiplications for 98 frames of 40 MFCC, 30 ms every 10 ms.
    Whether the first convolution is normalised is UNVERIFIED: here it is.

    Args:
        widths: channels of the first convolution and of each block.
        dropout: dropout before the last layer, 0 to below 1.
        classes: number of outputs.
        input_shape: (1, frames, coefficients) of the features.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (16, 24, 32, 48),
        dropout: float = 0.5,
        classes: int = len(LABELS),
        input_shape: Sequence[int] = (1, 98, 40),
    ) -> None:
        super().__init__()
        _, filters = maps(input_shape)
        widths = counts("widths", widths)
        self.stem = _conv(filters, widths[0], 3, 1)
        self.blocks = nn.Sequential(*(_Block(i, o) for i, o in pairwise(widths)))
        self.dropout = nn.Dropout(rate(dropout))
        self.head = nn.Linear(widths[-1], outputs(classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of features (B, 1, frames, coefficients)."""
        x = self.blocks(F.relu(self.stem(x.squeeze(1).mT)))
        return self.head(self.dropout(x.mean(-1)))


class _Block(nn.Module):
    def __init__(self, inputs: int, filters: int) -> None:
        super().__init__()
        self.first = _conv(inputs, filters, 9, 2)
        self.second = _conv(filters, filters, 9, 1)
        self.shortcut = _conv(inputs, filters, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + F.relu(self.shortcut(x)))


def _conv(inputs: int, filters: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv1d(inputs, filters, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm1d(filters))
