"""Two keyword spotters for analog tiles; both take log-mel features (B, 1, 49, 40) and give (B, 12)."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from analogtorch.speech.labels import LABELS


class FullyConnected(nn.Module):
    """The shape of the fully connected net that the 34-tile chip runs for keyword spotting: 1,024 inputs, 12 outputs.

    Its 1,024 inputs are those of Ambrogio et al., Nature 620, 768 (2023). The sizes of the hidden layers, and how the
    features become 1,024 numbers, are UNVERIFIED: here 512 and 512, and the map of 49 frames by 40 filters averaged
    (digitally) to 32 by 32.

    Args:
        hidden: outputs of each hidden layer.
        dropout: before the last layer, 0 to below 1.
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
        """(B, 1, 49, 40) to (B, 12)."""
        return self.head(self.dropout(self.hidden(self.pool(x).flatten(1))))


class ConvNet(nn.Module):
    """A residual net of full 3x3 convolutions: none are depthwise, as those lose most on analog tiles.

    A 5x5 stem, then one block of two convolutions per further width, each halving time and frequency, then the mean
    over both. With the default widths it has 150 thousand weights.

    Args:
        widths: channels of the stem and of each block, at least one.
        stem_stride: strides of the stem over time and frequency.
        dropout: before the last layer, 0 to below 1.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (24, 32, 48, 64),
        stem_stride: tuple[int, int] = (1, 2),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(1, widths[0], 5, stem_stride), nn.ReLU())
        self.blocks = nn.Sequential(*(_Block(i, o) for i, o in pairwise(widths)))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], len(LABELS))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 49, 40) to (B, 12)."""
        return self.head(self.dropout(self.blocks(self.stem(x)).mean((2, 3))))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(inputs, outputs, 3, 2), nn.ReLU(), _conv(outputs, outputs, 3, 1))
        self.shortcut = _conv(inputs, outputs, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.shortcut(x)).relu()


def _conv(inputs: int, outputs: int, kernel: int, stride: int | tuple[int, int]) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))
