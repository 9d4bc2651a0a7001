"""The networks of "Hello Edge" (Zhang et al., arXiv 1711.07128), without its DS-CNN.

Sizes are those of Arm's training commands (github.com/ARM-software/ML-KWS-for-MCU,
train_commands.txt), by default the small ones. All take MFCC; the published features have 10
coefficients and windows of 40 ms, 40 ms apart for the DNN and GRU(S), and 20 ms for the others.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.speech.labels import LABELS
from analogtorch.speech.models.arguments import MFCC_SHAPE, counts, maps, outputs
from analogtorch.speech.models.recurrent import lstm, sequence
from analogtorch.values import checks

BN_EPS = 1e-3
"""TensorFlow's default, which the published weights of this and of ``ds_cnn`` need; torch's is
1e-5."""


class HelloEdgeDNN(nn.Sequential):
    """The fully connected net, from MFCC of any shape to logits (B, classes).

    Args:
        width: outputs of each of the three hidden layers: 144 (S), 256 (M) or 436 (L).
        classes: number of outputs.
        input_shape: shape of the features of a clip.
    """

    def __init__(
        self,
        *,
        width: int = 144,
        classes: int = len(LABELS),
        input_shape: Sequence[int] = (1, 25, 10),
    ) -> None:
        checks.count("width", width)
        super().__init__(
            nn.Flatten(),
            nn.Linear(math.prod(counts("input_shape", input_shape)), width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, outputs(classes)),
        )


class HelloEdgeCNN(nn.Module):
    """The convolutional net, from MFCC maps (B, 1, 49, 10) to logits (B, classes).

    It has no depthwise layers and no padding.

    Args:
        channels: outputs of the two convolutions: (28, 30) (S), (64, 48) (M) or (60, 76) (L).
        narrow: width of the linear (no activation) low-rank layer behind them: 16, 16 or 58.
        classes: number of outputs.
        input_shape: (1, frames, coefficients) of the features.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = (28, 30),
        narrow: int = 16,
        classes: int = len(LABELS),
        input_shape: Sequence[int] = MFCC_SHAPE,
    ) -> None:
        super().__init__()
        first, second = counts("channels", channels, length=2)
        frames, filters = maps(input_shape, least=(19, 7))
        self.conv1 = nn.Conv2d(1, first, (10, 4))
        self.bn1 = nn.BatchNorm2d(first, eps=BN_EPS)
        self.conv2 = nn.Conv2d(first, second, (10, 4), stride=(2, 1))
        self.bn2 = nn.BatchNorm2d(second, eps=BN_EPS)
        positions = (1 + (frames - 19) // 2) * (filters - 6)
        self.lin = nn.Linear(second * positions, checks.count("narrow", narrow))
        self.fc = nn.Linear(narrow, 128)
        self.bn3 = nn.BatchNorm1d(128, eps=BN_EPS)
        self.out = nn.Linear(128, outputs(classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of MFCC maps (B, 1, frames, coefficients)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.lin(x.flatten(1))
        return self.out(F.relu(self.bn3(self.fc(x))))


class HelloEdgeLSTM(nn.Module):
    """The net with one LSTM, called "basic LSTM": its last hidden state is classified.

    Forget gates start with a bias of 1, as in Arm's code, where it is the default of the cell.

    Args:
        hidden: width of the state: 118 (S), 214 (M) or 344 (L).
        classes: number of outputs.
        input_shape: (1, frames, coefficients) of the features.
    """

    def __init__(
        self,
        *,
        hidden: int = 118,
        classes: int = len(LABELS),
        input_shape: Sequence[int] = MFCC_SHAPE,
    ) -> None:
        super().__init__()
        _, inputs = maps(input_shape)
        self.lstm = lstm(inputs, hidden)
        self.out = nn.Linear(hidden, outputs(classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of MFCC (B, 1, frames, coefficients), or without the 1."""
        return self.out(self.lstm(sequence(x))[0][:, -1])


class HelloEdgeGRU(nn.Module):
    """The net with one GRU: its last hidden state is classified.

    torch's GRU resets the state after the product with the recurrent weights and TensorFlow's cell
    before it, and torch's has a second bias, so that weights of the paper's nets do not fit.

    Args:
        hidden: width of the state: 154 (S), 250 (M) or 400 (L).
        classes: number of outputs.
        input_shape: (1, frames, coefficients) of the features.
    """

    def __init__(
        self,
        *,
        hidden: int = 154,
        classes: int = len(LABELS),
        input_shape: Sequence[int] = MFCC_SHAPE,
    ) -> None:
        super().__init__()
        _, inputs = maps(input_shape)
        self.gru = nn.GRU(inputs, checks.count("hidden", hidden), batch_first=True)
        self.out = nn.Linear(hidden, outputs(classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of MFCC (B, 1, frames, coefficients), or without the 1."""
        return self.out(self.gru(sequence(x))[0][:, -1])
