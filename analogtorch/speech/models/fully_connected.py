"""The fully connected net of the 34-tile chip."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from analogtorch.speech.labels import LABELS
from analogtorch.speech.models.arguments import INPUT_SHAPE, counts, maps, outputs, rate


class FullyConnected(nn.Module):
    """A fully connected net like that of the 34-tile chip: 1,024 inputs, 12 outputs.

    The 1,024 inputs are those of Ambrogio et al., Nature 620, 768 (2023). The sizes of the hidden
    layers, and the way from features to 1,024 numbers, are UNVERIFIED: here they are 512 and 512,
    and the map of 49 frames by 40 filters is averaged (digitally) to 32 by 32. The chip ran it on
    four tiles, as these sizes do.

    Args:
        hidden: outputs of each hidden layer.
        dropout: dropout before the last layer, 0 to below 1.
        classes: number of outputs.
        input_shape: (1, frames, filters) of the features.
    """

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (512, 512),
        dropout: float = 0.2,
        classes: int = len(LABELS),
        input_shape: Sequence[int] = INPUT_SHAPE,
    ) -> None:
        super().__init__()
        maps(input_shape)
        self.pool = nn.AdaptiveAvgPool2d(32)
        sizes = (32 * 32, *counts("hidden", hidden))
        self.hidden = nn.Sequential()
        for wide, narrow in pairwise(sizes):
            self.hidden += nn.Sequential(nn.Linear(wide, narrow), nn.ReLU())
        self.dropout = nn.Dropout(rate(dropout))
        self.head = nn.Linear(sizes[-1], outputs(classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of features (B, 1, frames, filters)."""
        return self.head(self.dropout(self.hidden(self.pool(x).flatten(1))))
