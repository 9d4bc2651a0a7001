"""Two keyword spotters for analog tiles, from log-mel features (B, 1, 49, 40) to (B, 12)."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.speech.labels import LABELS


class FullyConnected(nn.Module):
    """A fully connected net like that of the 34-tile chip: 1,024 inputs, 12 outputs.

    The 1,024 inputs are those of Ambrogio et al., Nature 620, 768 (2023). The sizes of the hidden
    layers, and the way from features to 1,024 numbers, are UNVERIFIED: here they are 512 and 512,
    and the map of 49 frames by 40 filters is averaged (digitally) to 32 by 32.

    Args:
        hidden: outputs of each hidden layer.
        dropout: dropout before the last layer, 0 to below 1.
    """

    def __init__(self, *, hidden: Sequence[int] = (512, 512), dropout: float = 0.2) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(32)
        sizes = (32 * 32, *hidden)
        self.hidden = nn.Sequential()
        for inputs, outputs in pairwise(sizes):
            self.hidden += nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(sizes[-1], len(LABELS))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, 12) of features (B, 1, 49, 40)."""
        return self.head(self.dropout(self.hidden(self.pool(x).flatten(1))))


class ConvNet(nn.Module):
    """A residual net of full convolutions, without depthwise ones, which lose most on analog tiles.

    It has a 7x7 stem, then one block of two 3x3 convolutions per further width, each of which
    halves time and frequency, then the mean over both. Shortcuts have no weights, and so no noise:
    they average, and new channels start at zero.

    Args:
        widths: channels of the stem and of each block, not decreasing.
        stem_stride: strides of the stem over time and frequency.
        dropout: dropout before the last layer, 0 to below 1.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (16, 24, 48, 96),
        stem_stride: tuple[int, int] = (1, 2),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.stem = _conv(1, widths[0], 7, stem_stride)
        self.blocks = nn.Sequential(*(_Block(i, o) for i, o in pairwise(widths)))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], len(LABELS))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, 12) of features (B, 1, 49, 40)."""
        return self.head(self.dropout(self.blocks(self.stem(x).relu()).mean((2, 3))))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, 3, 2)
        self.second = _conv(outputs, outputs, 3, 1)
        self.new = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.pad(F.avg_pool2d(x, 2, ceil_mode=True), (0, 0, 0, 0, 0, self.new))
        return (self.second(self.first(x).relu()) + shortcut).relu()


def _conv(inputs: int, outputs: int, kernel: int, stride: int | tuple[int, int]) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))
