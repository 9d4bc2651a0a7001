"""Residual nets whose blocks compute over frequency and, after its mean, over time."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.speech.labels import LABELS
from analogtorch.speech.models.arguments import maps, outputs, rate
from analogtorch.values import checks

_BANDS = 5  # frequency bands that are normalised each by itself
_BLOCKS = (2, 2, 4, 4)  # blocks of each stage; the second and third stage halve the frequencies
_FILTERS = 40


class BCResNet(nn.Module):
    """BC-ResNet: depthwise convolutions over frequency and, after its mean, over time.

    Kim et al., "Broadcasted Residual Learning", Interspeech 2021 (arXiv 2106.04140), in the layout
    of the authors' code (github.com/Qualcomm-AI-research/bcresnet): 9.2k parameters for scale 1
    (BC-ResNet-1) and 321k for scale 8, for log-mel features of 40 filters. Most layers are
    depthwise, which lose most on analog tiles.

    Args:
        scale: the number in the paper's names, which multiplies all widths: 1, 1.5, 2, 3, 6 or 8
            there; at least 0.5.
        dropout: dropout of channels in each block, 0 to below 1.
        classes: number of outputs.
        input_shape: (1, frames, 40) of the features.
    """

    def __init__(
        self,
        *,
        scale: float = 1.0,
        dropout: float = 0.1,
        classes: int = len(LABELS),
        input_shape: Sequence[int] = (1, 98, _FILTERS),
    ) -> None:
        super().__init__()
        _, filters = maps(input_shape)
        if filters != _FILTERS:
            raise ValueError(
                f"input_shape={tuple(input_shape)}; this net is made for {_FILTERS} filters"
            )
        base = round(8 * checks.number("scale", scale, least=0.5))
        widths = [base * 2, base, int(base * 1.5), base * 2, int(base * 2.5), base * 4]
        self.stem = _normed(nn.Conv2d(1, widths[0], 5, (2, 1), padding=2, bias=False))
        self.blocks = nn.Sequential()
        for stage, count in enumerate(_BLOCKS):
            for block in range(count):
                inputs = widths[stage] if block == 0 else widths[stage + 1]
                stride = 2 if stage in (1, 2) and block == 0 else 1
                self.blocks.append(_Block(inputs, widths[stage + 1], 2**stage, stride, dropout))
        last, wide = widths[-2:]
        self.gather = nn.Conv2d(last, last, 5, padding=(0, 2), groups=last, bias=False)
        self.widen = _normed(nn.Conv2d(last, wide, 1, bias=False))
        self.head = nn.Linear(wide, outputs(classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of features (B, 1, frames, 40)."""
        x = self.blocks(F.relu(self.stem(x.mT)))
        return self.head(F.relu(self.widen(self.gather(x))).mean((2, 3)))


class _Block(nn.Module):
    def __init__(
        self, inputs: int, filters: int, dilation: int, stride: int, dropout: float
    ) -> None:
        super().__init__()
        self.enter = None
        if inputs != filters:
            self.enter = _normed(nn.Conv2d(inputs, filters, 1, bias=False))
        self.over_frequency = nn.Conv2d(
            filters, filters, (3, 1), (stride, 1), padding=(1, 0), groups=filters, bias=False
        )
        self.bands = nn.BatchNorm2d(_BANDS * filters)
        over_time = nn.Conv2d(
            filters, filters, (1, 3), padding=(0, dilation), dilation=(1, dilation),
            groups=filters, bias=False,
        )  # fmt: skip
        self.over_time = _normed(over_time)
        self.mix = nn.Conv2d(filters, filters, 1, bias=False)
        self.dropout = nn.Dropout2d(rate(dropout))

    def forward(self, x: Tensor) -> Tensor:
        y = self.over_frequency(x if self.enter is None else F.relu(self.enter(x)))
        # each band of frequencies has a norm of its own
        y = self.bands(y.unflatten(2, (_BANDS, -1)).flatten(1, 2)).view_as(y)
        means = F.silu(self.over_time(y.mean(2, keepdim=True)))
        y = y + self.dropout(self.mix(means))
        return F.relu(y if self.enter is not None else y + x)


def _normed(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))
