"""Buffers that a run writes go back, with the graph that they had."""

import torch
from torch import Tensor, nn

from analogtorch.conversion.restored import same_buffers


class Holder(nn.Module):
    """Holds a state in a buffer."""

    state: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("state", torch.zeros(3))


def test_a_buffer_leaves_the_graph_of_what_was_written_into_it() -> None:
    net, weight = Holder(), torch.ones(3, requires_grad=True)
    with same_buffers(net):
        net.state[:] = 2 * weight
        assert net.state.requires_grad
    assert not net.state.requires_grad
    assert not net.state.any()


def test_a_buffer_stays_in_the_graph_that_it_was_in() -> None:
    net, weight = Holder(), torch.ones(3, requires_grad=True)
    net.state = 2 * weight
    with same_buffers(net):
        net.state = torch.zeros(3)
    net.state.sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [2, 2, 2]
