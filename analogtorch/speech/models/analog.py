"""Convolutional nets of published analog chips: HERMES behind an analog front end, AnalogNets."""

from collections.abc import Sequence

from torch import Tensor, nn

from analogtorch.speech.labels import LABELS
from analogtorch.speech.models.arguments import MFCC_SHAPE, counts, maps, outputs, rate
from analogtorch.values import checks


class HermesConv(nn.Module):
    """The six-layer net that the 64-core HERMES chip ran behind an analog front end in 2025.

    Zolfagharinejad et al. (2025): signals of 64 reconfigurable nonlinear devices, then four
    convolutions over time with tanh, each followed by pooling over four frames, the mean over time,
    and two linear layers: 492,288 weights, as in the authors' published code. Convolutions have no
    padding, so that 1,984 frames take 118 million multiplications, and 431 or more are needed.

    The 64 signals are measured ones in the paper. Here they are log-mel energies: 64 filters,
    windows of 8.5 ms every 0.5 ms give the published 1,984 frames, and longer hops fewer.

    Args:
        width: channels of the second to fourth convolution.
        dropout: dropout before the last layer, 0 to below 1; the paper's code has none.
        classes: number of outputs.
        input_shape: (1, frames, signals) of the features.
    """

    def __init__(
        self,
        *,
        width: int = 256,
        dropout: float = 0.0,
        classes: int = len(LABELS),
        input_shape: Sequence[int] = (1, 1984, 64),
    ) -> None:
        super().__init__()
        checks.count("width", width)
        frames, signals = maps(input_shape)
        self.norm = nn.BatchNorm1d(signals)
        sizes, kernels = (signals, 64, width, width, width), (8, 3, 3, 3)
        self.convs = nn.Sequential()
        for inputs, filters, kernel in zip(sizes, sizes[1:], kernels, strict=False):
            frames = (frames - kernel + 1) // 4
            conv = nn.Conv1d(inputs, filters, kernel, bias=False)
            self.convs.append(
                nn.Sequential(conv, nn.BatchNorm1d(filters), nn.Tanh(), nn.AvgPool1d(4))
            )
        if frames < 1:
            raise ValueError(
                f"input_shape={tuple(input_shape)}; four convolutions and poolings need 431 frames "
                "or more: shorten the hop of the features"
            )
        self.hidden = nn.Linear(width, 64)
        self.dropout = nn.Dropout(rate(dropout))
        self.head = nn.Linear(64, outputs(classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of features (B, 1, frames, signals)."""
        x = self.convs(self.norm(x.squeeze(1).mT)).mean(-1)
        return self.head(self.dropout(self.hidden(x).tanh()))


class AnalogNet(nn.Module):
    """A net in the manner of AnalogNet-KWS: full 3x3 convolutions that fill half a large crossbar.

    Zhou et al., "AnalogNets", arXiv 2111.06503, and IEEE Micro (2022): a small net of depthwise
    separable blocks, with these replaced by full convolutions, for one crossbar of 1,024 x 512 PCM
    pairs. The paper's widths are not known here; these are chosen so that each layer fits the 1,024
    rows (1,008 at most), and all of them take 300,864 weights, 57 % of the crossbar. For maps (B,
    1, 49, 10) an inference takes 991 MVMs, which at the paper's 130 ns is its 7,762 inferences a
    second.

    Args:
        widths: channels of each convolution; the second one halves the map.
        dropout: dropout before the last layer, 0 to below 1.
        classes: number of outputs.
        input_shape: (1, frames, coefficients) of the features.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (64, 112, 96, 96, 64),
        dropout: float = 0.2,
        classes: int = len(LABELS),
        input_shape: Sequence[int] = MFCC_SHAPE,
    ) -> None:
        super().__init__()
        maps(input_shape)
        widths = counts("widths", widths)
        self.convs = nn.Sequential()
        for number, (inputs, filters) in enumerate(zip((1, *widths), widths, strict=False)):
            stride = 2 if number == 1 else 1
            conv = nn.Conv2d(inputs, filters, 3, stride, padding=1, bias=False)
            self.convs.append(nn.Sequential(conv, nn.BatchNorm2d(filters), nn.ReLU()))
        self.dropout = nn.Dropout(rate(dropout))
        self.head = nn.Linear(widths[-1], outputs(classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of MFCC maps (B, 1, frames, coefficients)."""
        return self.head(self.dropout(self.convs(x).mean((2, 3))))
