"""The Keyword Transformer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.speech.labels import LABELS
from analogtorch.speech.models.arguments import INPUT_SHAPE, maps, outputs, rate
from analogtorch.values import checks


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
        input_shape: (1, frames, filters) of the features.
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
        input_shape: Sequence[int] = INPUT_SHAPE,
    ) -> None:
        super().__init__()
        frames, filters = maps(input_shape)
        sizes = {"width": width, "depth": depth, "heads": heads, "hidden": hidden}
        for name, size in sizes.items():
            checks.count(name, size)
        self.patch = checks.count("patch", patch, most=frames)
        self.embedding = nn.Linear(filters * patch, width)
        self.class_token = nn.Parameter(_truncated(1, 1, width))
        self.positions = nn.Parameter(_truncated(1, -(-frames // patch) + 1, width))
        self.blocks = nn.Sequential(
            *(_encoder(width, heads, hidden, rate(dropout)) for _ in range(depth))
        )
        self.head = nn.Linear(width, outputs(classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of features (B, 1, frames, filters)."""
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
