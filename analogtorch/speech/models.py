"""Three keyword spotters for analog tiles, from log-mel features (B, 1, 49, 40) to (B, 12)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.speech.data import FRAMES, MELS
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


class KeywordTransformer(nn.Module):
    """A transformer whose tokens are the frames of the features, by default of KWT-1's size.

    The Keyword Transformer of Berg, O'Connor and Cruz, Interspeech 2021 (arXiv 2104.00769): each
    frame is mapped linearly to a token, a class token goes before them, positions are learnt, and
    the class token of the last block is classified. Blocks normalise after each sum, have GELU,
    and no bias in query, key and value. KWT-1 has 12 blocks of width 64, one head and 607k
    parameters for 98 frames of 10 ms; the log-mel features here have 49 of 20 ms. The embedding,
    the projections of attention, the hidden layers and the head have weights that a chip holds;
    products of queries, keys and values are digital.

    Args:
        width: numbers of a token; a multiple of ``heads``.
        depth: number of blocks.
        heads: heads of each attention.
        hidden: outputs of the hidden layer of each block; 256 gives the 607k parameters.
        patch: frames in a token; the last token is filled with zeros.
        dropout: dropout of attention and hidden layers, 0 to below 1; the authors' command has 0.
        classes: number of outputs.
        frames: number of frames of the input.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        depth: int = 12,
        heads: int = 1,
        hidden: int = 256,
        patch: int = 1,
        dropout: float = 0.0,
        classes: int = len(LABELS),
        frames: int = FRAMES,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.embedding = nn.Linear(MELS * patch, width)
        self.class_token = nn.Parameter(_truncated(1, 1, width))
        self.positions = nn.Parameter(_truncated(1, -(-frames // patch) + 1, width))
        self.blocks = nn.Sequential(
            *(_encoder(width, heads, hidden, dropout) for _ in range(depth))
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of features (B, 1, frames, 40)."""
        x = F.pad(x.squeeze(1), (0, 0, 0, -x.shape[2] % self.patch))
        tokens = self.embedding(x.unflatten(1, (-1, self.patch)).flatten(2))
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], dim=1)
        return self.head(self.blocks(tokens + self.positions)[:, 0])


def _encoder(width: int, heads: int, hidden: int, dropout: float) -> nn.TransformerEncoderLayer:
    block = nn.TransformerEncoderLayer(
        width, heads, hidden, dropout, "gelu", layer_norm_eps=1e-6, batch_first=True
    )
    block.self_attn.register_parameter("in_proj_bias", None)
    return block


def _truncated(*shape: int) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(shape), std=0.02)


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
