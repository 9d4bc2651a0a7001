"""A chip without imperfections computes the digital layer to 1e-12 in double precision."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at


def _x(*shape: int) -> Tensor:
    return torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape))
    )


LAYERS: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {
    "linear": (nn.Linear(300, 20), (_x(4, 300),)),
    "conv1d": (nn.Conv1d(4, 6, 3, padding=1, groups=2), (_x(2, 4, 20),)),
    "conv2d": (nn.Conv2d(40, 6, 3, stride=2, padding=1), (_x(2, 40, 9, 9),)),
    "conv3d": (nn.Conv3d(3, 6, 3), (_x(2, 3, 6, 6, 6),)),
    "transposed1d": (nn.ConvTranspose1d(4, 6, 3, stride=2), (_x(2, 4, 9),)),
    "transposed2d": (
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
        (_x(2, 4, 9, 9),),
    ),
    "transposed3d": (nn.ConvTranspose3d(4, 6, 3), (_x(2, 4, 4, 4, 4),)),
    "lstm": (nn.LSTM(10, 12, 2, bidirectional=True), (_x(7, 3, 10),)),
    "projected": (nn.LSTM(10, 12, proj_size=5), (_x(7, 3, 10),)),
    "gru": (nn.GRU(10, 12, 2), (_x(7, 3, 10),)),
    "rnn": (nn.RNN(10, 12), (_x(7, 3, 10),)),
    "lstm cell": (nn.LSTMCell(10, 12), (_x(3, 10), (_x(3, 12), _x(3, 12)))),
    "gru cell": (nn.GRUCell(10, 12), (_x(3, 10), _x(3, 12))),
    "attention": (nn.MultiheadAttention(16, 4), (_x(5, 2, 16),) * 3),
    "transformer": (nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0), (_x(5, 2, 16),)),
    "embedding": (nn.Embedding(30, 16), (torch.arange(20).view(4, 5),)),
}


def _tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif found is not None:
        for part in found:
            yield from _tensors(part)


def _run(model: nn.Module, given: tuple[Any, ...]) -> list[Tensor]:
    """Outputs, and in training the gradients of the weights."""
    found = list(_tensors(model[0](*given)))
    if not model.training:
        return found
    model.zero_grad()
    sum(y.square().sum() for y in found).backward()
    return found + [
        p.grad for name, p in model.named_parameters() if p.grad is not None and "range" not in name
    ]


@pytest.mark.parametrize("name", LAYERS)
def test_an_ideal_chip_is_exact_in_double_precision(name: str) -> None:
    layer, given = LAYERS[name]
    digital = nn.Sequential(copy.deepcopy(layer)).double()
    analog = at.convert(copy.deepcopy(digital), at.chips.ideal(), embeddings=name == "embedding")
    for training in (True, False):
        _assert_equal(_run(analog.train(training), given), _run(digital.train(training), given))
    physical = at.program(analog, seed=1)
    for time in ("programmed", "0 s", "1 day"):
        _assert_equal(_run(physical.at(time), given), _run(digital, given))


def _assert_equal(mine: list[Tensor], theirs: list[Tensor]) -> None:
    largest = max(t.abs().max() for t in theirs)
    for a, b in zip(mine, theirs, strict=True):
        assert a.dtype == torch.float64
        # gradients that are zero but for rounding, such as that of a key's bias, have no relative
        # error of their own
        assert (a - b).abs().max() <= 1e-12 * max(b.abs().max(), 1e-3 * largest)


@pytest.mark.parametrize("method", [at.ProgramAndVerify(rounds=2), at.GradientDescent(rounds=2)])
def test_programming_loops_run_in_double_precision(
    method: at.ProgramAndVerify | at.GradientDescent,
) -> None:
    model = at.convert(nn.Sequential(nn.Linear(30, 8)).double(), at.chips.hermes64())
    at.calibrate(model, [_x(9, 30)])
    y = at.program(model, seed=1, method=method).at("1 h")(_x(9, 30))
    assert y.dtype == torch.float64
    assert torch.isfinite(y).all()
