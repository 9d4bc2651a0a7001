"""A residual net of full convolutions."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.speech.labels import LABELS
from analogtorch.speech.models.arguments import INPUT_SHAPE, counts, maps, outputs, rate


class ConvNet(nn.Module):
    """A residual net of full convolutions, without depthwise ones, which lose most on analog tiles.

    It has a 7x7 stem, then one block of two 3x3 convolutions per further width, each of which
    halves time and frequency, then the mean over both. Shortcuts have no weights, and so no noise:
    they average, and new channels start at zero.

    Args:
        widths: channels of the stem and of each block, not decreasing.
        stem_stride: strides of the stem over time and frequency.
        dropout: dropout before the last layer, 0 to below 1.
        classes: number of outputs.
        input_shape: (1, frames, filters) of the features.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (16, 24, 48, 96),
        stem_stride: Sequence[int] = (1, 2),
        dropout: float = 0.2,
        classes: int = len(LABELS),
        input_shape: Sequence[int] = INPUT_SHAPE,
    ) -> None:
        super().__init__()
        maps(input_shape)
        widths = counts("widths", widths)
        if sorted(widths) != list(widths):
            raise ValueError(
                f"widths={widths}; shortcuts only add channels: do not let widths decrease"
            )
        over_time, over_frequency = counts("stem_stride", stem_stride, length=2)
        self.stem = _conv(1, widths[0], 7, (over_time, over_frequency))
        self.blocks = nn.Sequential(*(_Block(i, o) for i, o in pairwise(widths)))
        self.dropout = nn.Dropout(rate(dropout))
        self.head = nn.Linear(widths[-1], outputs(classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of features (B, 1, frames, filters)."""
        if self.training:  # on a CPU, steps take a quarter less time
            x = x.to(memory_format=torch.channels_last)
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
