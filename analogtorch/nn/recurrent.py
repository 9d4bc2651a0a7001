"""nn.RNN, nn.LSTM and nn.GRU on an analog chip: their weight matrices lie on tiles.

Gates and states are digital. The input's products of all time steps run at once, those of the state
step by step. In training the noise of the weights is drawn once per forward and stays for all its
time steps, as on a chip; or once per sequence of the batch, if the chip has
``TrainingNoise.per_sample``.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from analogtorch.nn.composite import AnalogComposite, MatrixNames
from analogtorch.nn.traced import Proxy, whole

_STEPS = 1 << 24
"""Distance of the output noise of two samples: the same for a sequence of any length, in any
batch."""


class AnalogRecurrent(AnalogComposite, nn.RNNBase):
    """The base of the analog recurrent layers."""

    def all_matrices(self) -> Iterator[MatrixNames]:
        """Yield every weight matrix by layer and direction: input, state and projection."""
        for layer in range(self.num_layers):
            for suffix in (f"_l{layer}", f"_l{layer}_reverse")[: 1 + self.bidirectional]:
                for kind in _kinds(self):
                    bias = f"bias_{kind}{suffix}" if self.bias and kind != "hr" else None
                    yield MatrixNames(kind + suffix, f"weight_{kind}{suffix}", bias)

    # the forward pass

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Compute as the digital layer does.

        The input is padded ``(L, N, I)`` (or batch first, or ``(L, I)``), or a ``PackedSequence``.
        """
        if isinstance(input, Proxy):
            return whole(self, input, hx)
        self.refuse_changed()
        packed = input if isinstance(input, PackedSequence) else None
        lengths: Tensor | None = None
        order: Tensor | None = None
        if packed is not None:
            # longest first
            x, lengths = pad_packed_sequence(PackedSequence(packed.data, packed.batch_sizes))
            lengths, order = lengths.to(x.device), packed.sorted_indices
        else:
            x = input
        single = x.dim() == 2
        steps = 1 if self.batch_first and packed is None and not single else 0
        if x.dim() in (2, 3) and x.shape[steps] == 0:
            raise ValueError(
                f"layer {self.layer_name!r} takes at least one time step, got shape "
                f"{tuple(x.shape)}"
            )
        if x.dim() not in (2, 3) or x.shape[-1] != self.input_size:
            raise ValueError(
                f"layer {self.layer_name!r} takes (L, N, {self.input_size}) inputs"
                f"{' with batch_first (N, L, ...)' if self.batch_first else ''}, one sample "
                f"without N, or a packed sequence; got shape {tuple(x.shape)}"
            )
        if packed is None:
            x = x.unsqueeze(1) if single else x.transpose(0, 1) if self.batch_first else x
        states = self._first_states(x, hx, single, packed)
        outputs, last = self._layers(x, states, lengths, order)
        if packed is not None:
            assert lengths is not None
            made = pack_padded_sequence(outputs, lengths.cpu())
            order, back = packed.sorted_indices, packed.unsorted_indices
            result: Any = PackedSequence(made.data, made.batch_sizes, order, back)
        elif single:
            result = outputs.squeeze(1)
        else:
            result = outputs.transpose(0, 1) if self.batch_first else outputs
        return result, self._last_states(last, single, packed)

    def _layers(
        self,
        x: Tensor,
        states: list[tuple[Tensor, ...]],
        lengths: Tensor | None,
        order: Tensor | None,
    ) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """Compute all layers and directions over ``x`` (L, N, I); return outputs and last states.

        ``states`` are the first states of each. ``order`` is the index in the batch of each of the
        N samples, if they were sorted.
        """
        last: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(1 + self.bidirectional):
                suffix = f"_l{layer}" + ("_reverse" if direction else "")
                noise = self._noise(x, suffix, order)
                y, state = self._direction(x, states[len(last)], noise, bool(direction), lengths)
                outputs.append(y)
                last.append(state)
            x = torch.cat(outputs, -1)
            if self.dropout and layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        return x, last

    def _noise(self, x: Tensor, suffix: str, order: Tensor | None) -> dict[str, "_Noise"]:
        """Return the matrices of a direction, each with its noise of this forward."""
        return {kind: _Noise(self.matrix(kind + suffix), x, order) for kind in _kinds(self)}

    def _direction(
        self,
        x: Tensor,
        state: tuple[Tensor, ...],
        noise: dict[str, "_Noise"],
        reverse: bool,
        lengths: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        steps = x.shape[0]
        inputs = noise["ih"].sequence(x)
        outputs: list[Any] = [None] * steps
        for t in reversed(range(steps)) if reverse else range(steps):
            new = self._step(inputs[t], noise, state, t)
            # a sequence that has ended, or has not begun from behind, keeps its state
            if lengths is not None:
                runs, pairs = (t < lengths).unsqueeze(1), zip(new, state, strict=True)
                new = tuple(torch.where(runs, a, b.to(a.dtype)) for a, b in pairs)
            state, outputs[t] = new, new[0]
        return torch.stack(outputs), state

    def _step(
        self, x: Tensor, noise: dict[str, "_Noise"], state: tuple[Tensor, ...], t: int
    ) -> tuple[Tensor, ...]:
        """Return the next state from the input's product ``x`` (N, gates) and the state."""
        raise NotImplementedError

    def _first_states(
        self, x: Tensor, hx: Any, single: bool, packed: PackedSequence | None
    ) -> list[tuple[Tensor, ...]]:
        number, sizes = self.num_layers * (1 + self.bidirectional), self._state_sizes()
        if hx is None:
            return [tuple(x.new_zeros(x.shape[1], size) for size in sizes) for _ in range(number)]
        given = tuple(hx) if isinstance(hx, tuple | list) else (hx,)
        given = tuple(h.unsqueeze(1) if single else h for h in given)
        expected = [(number, x.shape[1], size) for size in sizes]
        if [tuple(h.shape) for h in given] != expected:
            raise ValueError(
                f"layer {self.layer_name!r} takes first states of shapes {expected}, "
                f"got {[tuple(h.shape) for h in given]}"
            )
        if packed is not None and packed.sorted_indices is not None:
            given = tuple(h.index_select(1, packed.sorted_indices) for h in given)
        return [tuple(h[i] for h in given) for i in range(number)]

    def _last_states(
        self, last: list[tuple[Tensor, ...]], single: bool, packed: PackedSequence | None
    ) -> Any:
        states = tuple(torch.stack(part) for part in zip(*last, strict=True))
        if packed is not None and packed.unsorted_indices is not None:
            states = tuple(h.index_select(1, packed.unsorted_indices) for h in states)
        states = tuple(h.squeeze(1) if single else h for h in states)
        return states if len(states) > 1 else states[0]

    def _state_sizes(self) -> tuple[int, ...]:
        return (self.hidden_size,)


def _kinds(layer: nn.RNNBase) -> tuple[str, ...]:
    """Return the kinds of matrices of a layer and direction: input, state and projection.

    Their names among the Parameters do not show them: pruning takes a name away.
    """
    return ("ih", "hh", "hr") if layer.proj_size else ("ih", "hh")


class _Noise:
    """A matrix with the noise of one forward: keys that all steps share, and numbers per vector.

    The steps share the weights that follow from the keys, too.
    """

    def __init__(self, matrix: Any, x: Tensor, order: Tensor | None) -> None:
        steps, batch = x.shape[:2]
        self.matrix, self.samples = matrix, None
        self.keys = matrix.draw(x.transpose(0, 1), order)
        self.execution = matrix.execution
        varied = self.keys is not None and self.keys.dim() == 2  # weights of each sample
        if self.execution is not None and not varied and not torch.compiler.is_compiling():
            self.execution = self.execution.sharing()
        numbers = matrix.number(x, batch, batch)
        if numbers is not None:
            numbers = numbers if order is None else numbers[order]
            # (steps, batch)
            self.samples = numbers * _STEPS + torch.arange(steps, device=x.device).unsqueeze(1)

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """Return the product of all samples ``x`` (N, inputs) at one step."""
        samples = None if self.samples is None else self.samples[step]
        return self.matrix(x, self.keys, samples, execution=self.execution)

    def sequence(self, x: Tensor) -> Tensor:
        """Return the products of all steps ``x`` (L, N, inputs): (L, N, outputs)."""
        if self.keys is not None and self.keys.dim() == 2:  # samples first
            samples = None if self.samples is None else self.samples.T.flatten()
            return self.matrix(x.transpose(0, 1), self.keys, samples).transpose(0, 1)
        samples = None if self.samples is None else self.samples.flatten()
        return self.matrix(x.flatten(0, 1), self.keys, samples).unflatten(0, x.shape[:2])


class AnalogRNN(AnalogRecurrent, nn.RNN):
    """``nn.RNN`` whose products run on a chip; ``convert`` makes it. It has every option."""

    digital = nn.RNN

    def _step(
        self, x: Tensor, noise: dict[str, _Noise], state: tuple[Tensor, ...], t: int
    ) -> tuple[Tensor, ...]:
        total = x + noise["hh"](state[0], t)
        return (total.tanh() if self.nonlinearity == "tanh" else total.relu(),)


class AnalogGRU(AnalogRecurrent, nn.GRU):
    """``nn.GRU`` whose products run on a chip; ``convert`` makes it. It has every option."""

    digital = nn.GRU

    def _step(
        self, x: Tensor, noise: dict[str, _Noise], state: tuple[Tensor, ...], t: int
    ) -> tuple[Tensor, ...]:
        (h,) = state
        return (gru_state(x, noise["hh"](h, t), h),)


class AnalogLSTM(AnalogRecurrent, nn.LSTM):
    """``nn.LSTM`` whose products run on a chip; ``convert`` makes it. It has every option.

    The options include projections.
    """

    digital = nn.LSTM

    def _state_sizes(self) -> tuple[int, ...]:
        return self.proj_size or self.hidden_size, self.hidden_size

    def _step(
        self, x: Tensor, noise: dict[str, _Noise], state: tuple[Tensor, ...], t: int
    ) -> tuple[Tensor, ...]:
        h, c = state
        h, c = lstm_state(x + noise["hh"](h, t), c)
        return (noise["hr"](h, t) if "hr" in noise else h), c


def gru_state(x: Tensor, products: Tensor, h: Tensor) -> Tensor:
    """Return the next state of a GRU.

    ``x`` and ``products`` are the products of input and state, (N, 3 gates); ``h`` is the state,
    (N, H).
    """
    xr, xz, xn = x.chunk(3, -1)
    hr, hz, hn = products.chunk(3, -1)
    new = (xn + (xr + hr).sigmoid() * hn).tanh()
    update = (xz + hz).sigmoid()
    return new + update * (h - new)


def lstm_state(products: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next h and c of an LSTM from both products' sum (N, 4 gates) and c (N, H)."""
    i, f, g, o = products.chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c
