"""The models of the battery and their inputs, all small and from fixed seeds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence


def random(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normals of a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(*shape: int, seed: int = 0) -> Tensor:
    """Return integers below 10."""
    return torch.randint(10, shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Kind:
    """A layer with inputs that it takes."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...]]
    """A function from a seed to inputs."""
    call: Callable[..., Any] = lambda layer, *inputs: layer(*inputs)


class Net(nn.Module):
    """One layer, called as its kind needs."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.call = kind.make(), kind.call

    def forward(self, *inputs: Any) -> Any:
        """Return the output of the layer."""
        return self.call(self.layer, *inputs)


def _of(*shape: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda seed: (random(*shape, seed=seed),)


def _packed(layer: nn.Module, x: Tensor) -> Any:
    output, state = layer(pack_padded_sequence(x, torch.tensor([3, 6, 5]), enforce_sorted=False))
    return output.data, state


def _twice(cell: nn.Module, x: Tensor) -> Any:
    return cell(x, cell(x))


def _attention(seed: int) -> tuple[Tensor, ...]:
    return (
        random(3, 5, 20, seed=seed),
        random(3, 4, 9, seed=seed + 50),
        random(3, 4, 7, seed=seed + 60),
    )


def _huggingface() -> nn.Module:
    from transformers.pytorch_utils import Conv1D

    layer = Conv1D(11, 37)
    nn.init.normal_(layer.weight)
    return layer


_LINE, _IMAGE, _VOLUME = _of(3, 6, 12), _of(3, 6, 7, 6), _of(2, 4, 4, 5, 4)
_CONV1, _CONV2, _CONV3 = nn.Conv1d, nn.Conv2d, nn.Conv3d
_UP1, _UP2, _UP3 = nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d

KINDS: dict[str, Kind] = {
    "linear": Kind(lambda: nn.Linear(37, 14), _of(6, 37)),
    "linear_no_bias": Kind(lambda: nn.Linear(37, 14, bias=False), _of(37)),
    "linear_sequence": Kind(lambda: nn.Linear(37, 14), _of(2, 3, 37)),
    "conv1d": Kind(lambda: _CONV1(6, 8, 3, stride=2), _LINE),
    "conv1d_same": Kind(lambda: _CONV1(6, 8, 4, padding="same", dilation=2), _LINE),
    "conv1d_reflect": Kind(lambda: _CONV1(6, 8, 3, padding=1, padding_mode="reflect"), _LINE),
    "conv2d": Kind(lambda: _CONV2(6, 14, 3, padding=1), _IMAGE),
    "conv2d_options": Kind(
        lambda: _CONV2(6, 8, (5, 1), stride=(2, 3), padding=(2, 0), dilation=(1, 2)), _IMAGE
    ),
    "conv2d_unbatched": Kind(lambda: _CONV2(6, 8, 3), _of(6, 7, 6)),
    "conv2d_groups": Kind(lambda: _CONV2(6, 8, 3, groups=2, stride=2), _IMAGE),
    "conv2d_depthwise": Kind(lambda: _CONV2(6, 12, 3, groups=6, padding=1, bias=False), _IMAGE),
    "conv2d_circular": Kind(
        lambda: _CONV2(6, 8, 3, padding=(1, 2), padding_mode="circular"), _IMAGE
    ),
    "conv3d": Kind(lambda: _CONV3(4, 6, 3, padding=1), _VOLUME),
    "conv3d_groups": Kind(lambda: _CONV3(4, 6, (1, 3, 2), stride=(2, 1, 1), groups=2), _VOLUME),
    "transposed1d": Kind(lambda: _UP1(6, 8, 4, stride=2, padding=1), _LINE),
    "transposed2d": Kind(lambda: _UP2(6, 5, 3, stride=2, padding=1, output_padding=1), _IMAGE),
    "transposed2d_groups": Kind(
        lambda: _UP2(6, 8, (3, 2), stride=(1, 2), groups=2, padding=(2, 0)), _IMAGE
    ),
    "transposed3d": Kind(lambda: _UP3(4, 6, (1, 3, 2), stride=(1, 2, 1), groups=2), _VOLUME),
    "rnn": Kind(lambda: nn.RNN(10, 9, num_layers=2), _of(6, 3, 10)),
    "rnn_relu": Kind(
        lambda: nn.RNN(10, 9, nonlinearity="relu", bias=False, batch_first=True), _of(3, 6, 10)
    ),
    "lstm": Kind(lambda: nn.LSTM(10, 9), _of(6, 3, 10)),
    "lstm_bidirectional": Kind(
        lambda: nn.LSTM(10, 9, num_layers=2, bidirectional=True), _of(6, 3, 10)
    ),
    "lstm_projected": Kind(lambda: nn.LSTM(10, 9, proj_size=4, batch_first=True), _of(3, 6, 10)),
    "lstm_packed": Kind(lambda: nn.LSTM(10, 9, bidirectional=True), _of(6, 3, 10), _packed),
    "gru": Kind(lambda: nn.GRU(10, 9), _of(6, 3, 10)),
    "gru_bidirectional": Kind(
        lambda: nn.GRU(10, 9, bidirectional=True, batch_first=True), _of(3, 6, 10)
    ),
    "gru_packed": Kind(lambda: nn.GRU(10, 9), _of(6, 3, 10), _packed),
    "rnn_cell": Kind(lambda: nn.RNNCell(10, 9), _of(6, 10), _twice),
    "lstm_cell": Kind(lambda: nn.LSTMCell(10, 9), _of(6, 10), _twice),
    "gru_cell": Kind(lambda: nn.GRUCell(10, 9), _of(6, 10), _twice),
    "attention": Kind(
        lambda: nn.MultiheadAttention(20, 4), _of(5, 3, 20), lambda layer, x: layer(x, x, x)
    ),
    "attention_cross": Kind(
        lambda: nn.MultiheadAttention(20, 4, kdim=9, vdim=7, add_bias_kv=True, batch_first=True),
        _attention,
        lambda layer, q, k, v: layer(q, k, v),
    ),
    "encoder": Kind(
        lambda: nn.TransformerEncoderLayer(20, 4, 30, dropout=0.0, batch_first=True), _of(3, 5, 20)
    ),
    "decoder": Kind(
        lambda: nn.TransformerDecoderLayer(20, 4, 30, dropout=0.0),
        _of(5, 3, 20),
        lambda layer, x: layer(x, x.tanh()),
    ),
    "embedding": Kind(
        lambda: nn.Embedding(10, 20, padding_idx=2), lambda seed: (tokens(4, 5, seed=seed),)
    ),
    "huggingface_conv1d": Kind(_huggingface, _of(6, 37)),
}
"""Every kind of layer that becomes analog, by name."""


def mlp() -> nn.Sequential:
    """Return two layers, of which the first takes three row blocks of a small tile."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 10))


def cnn() -> nn.Sequential:
    """Return convolutions, one of them depthwise, with batch norms that have statistics."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    with torch.no_grad():
        for seed in range(3):
            net(random(16, 3, 8, 8, seed=seed))
    return net.eval()


class Tied(nn.Module):
    """An embedding and a head that share their weight, with digital and analog layers between.

    Between them are an LSTM and a bilinear layer, which stays digital.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.lstm = nn.Embedding(10, 20), nn.LSTM(20, 20, batch_first=True)
        self.mix, self.head = nn.Bilinear(20, 20, 20), nn.Linear(20, 10)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, 10) of tokens (B, T)."""
        states = self.lstm(self.embedding(x))[0]
        return self.head(self.mix(states, states.tanh()))


def batches(*shape: int, count: int = 4) -> list[Tensor]:
    """Return inputs to calibrate with."""
    return [random(*shape, seed=100 + number) for number in range(count)]


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (32, 40)),
    "cnn": (cnn, (8, 3, 8, 8)),
}
"""Whole nets, with the shape of a batch."""
