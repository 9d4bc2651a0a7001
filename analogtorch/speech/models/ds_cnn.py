"""The depthwise separable net of "Hello Edge", of the size that MLPerf Tiny measures."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.speech.labels import LABELS
from analogtorch.speech.models.arguments import MFCC_SHAPE, maps, outputs, rate
from analogtorch.speech.models.hello_edge import BN_EPS
from analogtorch.values import checks


class DSCNN(nn.Module):
    """DS-CNN(S): one convolution and four depthwise separable blocks, from MFCC maps to logits.

    Zhang et al., "Hello Edge", arXiv 1711.07128, as MLPerf Tiny's reference
    (github.com/mlcommons/tiny): 23,756 parameters for maps (B, 1, 49, 10) and 12 classes. The last
    pooling leaves out the 25th frame, as the reference does. The dropout of the reference, 0.2
    after the first convolution and 0.4 before the last layer, is one rate before the last layer
    here, and 0 by default. Depthwise layers lose most on analog tiles.

    Args:
        width: channels of all layers.
        blocks: number of separable blocks.
        dropout: dropout before the last layer, 0 to below 1.
        classes: number of outputs.
        input_shape: (1, frames, coefficients) of the features.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        blocks: int = 4,
        dropout: float = 0.0,
        classes: int = len(LABELS),
        input_shape: Sequence[int] = MFCC_SHAPE,
    ) -> None:
        super().__init__()
        checks.count("width", width)
        frames, filters = maps(input_shape, least=(4, 4))
        self.blocks = checks.count("blocks", blocks)
        self.conv0 = nn.Conv2d(1, width, (10, 4), stride=2)
        self.bn0 = nn.BatchNorm2d(width, eps=BN_EPS)
        for block in range(1, blocks + 1):
            self.add_module(f"dw{block}", nn.Conv2d(width, width, 3, padding=1, groups=width))
            self.add_module(f"bn{block}a", nn.BatchNorm2d(width, eps=BN_EPS))
            self.add_module(f"pw{block}", nn.Conv2d(width, width, 1))
            self.add_module(f"bn{block}b", nn.BatchNorm2d(width, eps=BN_EPS))
        self.dropout = nn.Dropout(rate(dropout))
        self.fc = nn.Linear(width, outputs(classes))
        # TensorFlow's "same" padding of an even kernel with stride 2 is uneven: it cannot live in
        # the convolution.
        self.padding = (*_same(filters, 4), *_same(frames, 10))
        self.pool = (frames // 2, filters // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of MFCC maps (B, 1, frames, coefficients)."""
        x = F.relu(self.bn0(self.conv0(F.pad(x, self.padding))))
        for block in range(1, self.blocks + 1):
            for conv, norm in ((f"dw{block}", f"bn{block}a"), (f"pw{block}", f"bn{block}b")):
                x = F.relu(self.get_submodule(norm)(self.get_submodule(conv)(x)))
        return self.fc(self.dropout(F.avg_pool2d(x, self.pool).flatten(1)))


def _same(size: int, kernel: int) -> tuple[int, int]:
    """Return the zeros on both sides by which a kernel with stride 2 halves ``size``."""
    zeros = max((size - 1) // 2 * 2 + kernel - size, 0)
    return zeros // 2, zeros - zeros // 2
