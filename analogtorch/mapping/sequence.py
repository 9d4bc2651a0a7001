"""Recurrent layers as one operator while a model is traced: torch itself would trace them time step by time step."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor

NAME = "recurrent"
KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")


@torch.library.custom_op("analogtorch::recurrent", mutates_args=())
def _recurrent(
    kind: str,
    input: Tensor,
    hx: Sequence[Tensor],
    params: Sequence[Tensor],
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:
    raise NotImplementedError("a mapping is traced without data")


@_recurrent.register_fake
def _(
    kind: str,
    input: Tensor,
    hx: Sequence[Tensor],
    params: Sequence[Tensor],
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:
    outputs = hx[0].shape[-1] * (2 if bidirectional else 1)
    return [input.new_empty((*input.shape[:-1], outputs)), *(torch.empty_like(h) for h in hx)]


@contextlib.contextmanager
def whole_sequences() -> Iterator[None]:
    """Within it, ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` are one operator each, if their input is no packed sequence."""
    with contextlib.ExitStack() as stack:
        for kind in KINDS:
            stack.enter_context(mock.patch.object(torch._VF, kind, _instead(kind, getattr(torch._VF, kind))))
        yield


def _instead(kind: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Tensor, hx: Any, params: Any, *rest: Any) -> Any:
        if not isinstance(params, (list, tuple)):  # a packed sequence: the batch sizes come second
            return original(x, hx, params, *rest)
        _, layers, _, _, bidirectional, batch_first = rest
        states = list(hx) if isinstance(hx, (list, tuple)) else [hx]
        return tuple(_recurrent(kind, x, states, list(params), layers, bidirectional, batch_first))

    return call
