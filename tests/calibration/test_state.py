"""A model with a state in its buffers, as nets that stream: each pass starts from the given one."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at

X = torch.randn(320, 16, generator=torch.Generator().manual_seed(0)).split(64)


class Stream(nn.Module):
    """A recurrent net that keeps its state for the next chunk, and counts the chunks."""

    state: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix, self.norm, self.out = nn.Linear(24, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)
        self.register_buffer("state", torch.zeros(64, 8))
        self.chunks = 0

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.norm(self.mix(torch.cat([x, self.state], 1))))
        self.state = y.detach()
        self.chunks += 1
        return self.out(y)


def trained() -> Stream:
    net = Stream()
    for x in X:
        net(x)
    return net.eval()


def recovered(net: nn.Module) -> None:
    at.Recovery(batches=X).correct(net)


@pytest.mark.parametrize(
    ("call", "programmed"),
    [
        (lambda net: at.calibrate(net, X), False),
        (lambda net: at.calibrate(net, X, effort="search", report=None), False),
        (lambda net: at.reestimate_batch_norm(net, X), False),
        (lambda net: at.correct_columns(net, X, target="layer"), True),
        (recovered, True),
    ],
)
def test_state_is_as_before(call: Callable[[nn.Module], object], programmed: bool) -> None:
    net = at.convert(trained(), at.chips.hermes64())
    if programmed:
        at.calibrate(net, X)
        net = at.program(net, seed=1).at("1 day")
    state, before, chunks = net.state, net.state.clone(), net.chunks
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # columns follow the model: exact runs repeat themselves
        call(net)
    assert net.state is state
    assert torch.equal(net.state, before)
    assert net.chunks == chunks


def test_calibrated_twice_alike() -> None:
    net = at.convert(trained(), at.chips.hermes64())
    ranges = []
    for _ in range(2):
        at.calibrate(net, X)
        ranges.append((net.mix.input_ranges, net.out.input_ranges))
    assert ranges[0] == ranges[1]


def test_states_of_later_chunks_are_seen() -> None:
    """Within a pass the state goes on, so that the range is that of states and inputs."""
    net = at.convert(trained(), at.chips.hermes64())
    with torch.no_grad():
        net.mix.weight[:, :16] = 0
        net.state.zero_()
    x = [0.01 * part for part in X]
    at.calibrate(net, x)
    (found,) = net.mix.input_ranges
    assert found > 0.1, "inputs are below 0.05, states of later chunks above"
