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
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

from analogtorch.nn.composite import AnalogComposite, MatrixNames
from analogtorch.nn.traced import Proxy, whole
from analogtorch.ops import recurrence
from analogtorch.ops.gates import next_state
from analogtorch.ops.recurrence import Steps
from analogtorch.ops.transforms import unseen

_STEPS = 1 << 24
"""Distance of the output noise of two samples: the same for a sequence of any length, in any
batch."""


class AnalogRecurrent(AnalogComposite, nn.RNNBase):
    """The base of the analog recurrent layers."""

    steps_first = True

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

        The input is padded ``(L, N, I)`` (or batch first, or ``(L, I)``), or a ``PackedSequence``,
        of which the chip multiplies no padding.
        """
        if isinstance(input, Proxy):
            return whole(self, input, hx)
        self.refuse_changed()
        packed = input if isinstance(input, PackedSequence) else None
        x = input if packed is None else packed.data
        single = packed is None and x.dim() == 2
        steps = 1 if self.batch_first and x.dim() == 3 else 0
        if x.dim() in (2, 3) and x.shape[steps] == 0:
            raise ValueError(
                f"layer {self.layer_name!r} takes at least one time step, got shape "
                f"{tuple(x.shape)}"
            )
        if x.dim() not in ((2, 3) if packed is None else (2,)) or x.shape[-1] != self.input_size:
            raise ValueError(
                f"layer {self.layer_name!r} takes (L, N, {self.input_size}) inputs"
                f"{' with batch_first (N, L, ...)' if self.batch_first else ''}, one sample "
                f"without N, or a packed sequence; got shape {tuple(x.shape)}"
            )
        if packed is None:
            x = x.unsqueeze(1) if single else x.transpose(0, 1) if self.batch_first else x
            sizes, batch = None, x.shape[1]
        else:
            sizes = packed.batch_sizes.tolist()
            batch = sizes[0]
        order = None if packed is None else packed.sorted_indices
        states = self._first_states(x, batch, hx, single, order)
        outputs, last = self._layers(x, states, sizes, order)
        if packed is not None:
            result: Any = PackedSequence(outputs, *packed[1:])
        elif single:
            result = outputs.squeeze(1)
        else:
            result = outputs.transpose(0, 1) if self.batch_first else outputs
        return result, self._last_states(last, single, packed)

    def _layers(
        self,
        x: Tensor,
        states: list[tuple[Tensor, ...]],
        sizes: list[int] | None,
        order: Tensor | None,
    ) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """Compute all layers and directions; return outputs, of the form of ``x``, and last states.

        Args:
            x: the inputs of all steps, (L, N, I), or packed, (vectors, I).
            states: the first states of each.
            sizes: of packed inputs, the number of samples at each step, which are the first of
                the N samples; None: they are not packed.
            order: the index in the batch of each of the N samples, if they were sorted.
        """
        last: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(1 + self.bidirectional):
                suffix = f"_l{layer}" + ("_reverse" if direction else "")
                first = states[len(last)]
                steps = x.shape[0] if sizes is None else len(sizes)
                noise = {
                    kind: _Noise(self.matrix(kind + suffix), first[0], steps, order)
                    for kind in _kinds(self)
                }
                y, state = self._direction(x, first, noise, bool(direction), sizes)
                outputs.append(y)
                last.append(state)
            x = torch.cat(outputs, -1) if self.bidirectional else outputs[0]
            if self.dropout and layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        return x, last

    def _direction(
        self,
        x: Tensor,
        state: tuple[Tensor, ...],
        noise: dict[str, "_Noise"],
        reverse: bool,
        sizes: list[int] | None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        products = noise["ih"].sequence(x, sizes)
        if "hr" not in noise:
            at_once = noise["hh"].run(self.mode, products, state, sizes, reverse)
            if at_once is not None:
                return at_once
        inputs = products.unbind() if sizes is None else products.split(sizes)
        steps = len(inputs)
        outputs: list[Any] = [None] * steps
        for t in reversed(range(steps)) if reverse else range(steps):
            runs = state if sizes is None else tuple(h[: sizes[t]] for h in state)
            new = self._step(inputs[t], noise, runs, t)
            outputs[t] = new[0]
            # a sequence that has ended, or has not begun from behind, keeps its state
            if sizes is not None and sizes[t] < len(state[0]):
                pairs = zip(new, state, strict=True)
                new = tuple(torch.cat((a, b[sizes[t] :].to(a.dtype))) for a, b in pairs)
            state = new
        return torch.stack(outputs) if sizes is None else torch.cat(outputs), state

    def _step(
        self, x: Tensor, noise: dict[str, "_Noise"], state: tuple[Tensor, ...], t: int
    ) -> tuple[Tensor, ...]:
        """Return the next state from the input's product ``x`` (N, gates) and the state."""
        h, *c = next_state(self.mode, x, noise["hh"](state[0], t), state)
        return (noise["hr"](h, t) if "hr" in noise else h), *c

    def _first_states(
        self, x: Tensor, batch: int, hx: Any, single: bool, order: Tensor | None
    ) -> list[tuple[Tensor, ...]]:
        number, sizes = self.num_layers * (1 + self.bidirectional), self._state_sizes()
        if hx is None:
            return [tuple(x.new_zeros(batch, size) for size in sizes) for _ in range(number)]
        given = tuple(hx) if isinstance(hx, tuple | list) else (hx,)
        given = tuple(h.unsqueeze(1) if single else h for h in given)
        expected = [(number, batch, size) for size in sizes]
        if [tuple(h.shape) for h in given] != expected:
            raise ValueError(
                f"layer {self.layer_name!r} takes first states of shapes {expected}, "
                f"got {[tuple(h.shape) for h in given]}"
            )
        if order is not None:
            given = tuple(h.index_select(1, order) for h in given)
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

    def __init__(self, matrix: Any, like: Tensor, steps: int, order: Tensor | None) -> None:
        batch = like.shape[0]
        self.matrix, self.samples = matrix, None
        self.keys = matrix.draw(like, order)
        self.execution = matrix.execution
        self.varied = self.keys is not None and self.keys.dim() == 2  # weights of each sample
        if self.execution is not None and not self.varied and not torch.compiler.is_compiling():
            self.execution = self.execution.sharing()
        numbers = matrix.number(like, batch, batch)
        if numbers is not None:
            numbers = numbers if order is None else numbers[order]
            # (steps, batch)
            self.samples = numbers * _STEPS + torch.arange(steps, device=like.device).unsqueeze(1)

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """Return the product of the first samples ``x`` (samples, inputs) at one step."""
        count = x.shape[0]  # len would fix it where torch.export leaves it open
        keys = self.keys[:count] if self.varied else self.keys
        samples = None if self.samples is None else self.samples[step, :count]
        return self.matrix(x, keys, samples, execution=self.execution)

    def run(
        self,
        mode: str,
        x: Tensor,
        state: tuple[Tensor, ...],
        sizes: list[int] | None,
        reverse: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """Return outputs and last state of all steps, computed at once; None: they cannot be.

        Args:
            mode: that of the layer.
            x: the products of the input, from ``sequence``.
            state: the first state.
            sizes: as ``AnalogRecurrent._layers`` takes them.
            reverse: whether the last step comes first.
        """
        if self.execution is None or self.varied or not unseen(x, *state):
            return None
        samples = None if self.samples is None else self.samples[0]
        found = self.matrix.operands(state[0], self.keys, samples, self.execution)
        if found is None:
            return None
        operands, plan = found
        of_steps = (x.shape[1],) * len(x) if sizes is None else tuple(sizes)
        steps = Steps(mode, plan, reverse, of_steps, not self.matrix.calibrated, self.samples)
        if not recurrence.takes(x, state, operands, steps):
            return None
        outputs, last = recurrence.run(x.flatten(0, -2), state, operands, steps)
        return outputs.view(*x.shape[:-1], -1), last

    def sequence(self, x: Tensor, sizes: list[int] | None) -> Tensor:
        """Return the products of all steps ``x``, (steps, samples, outputs), or packed.

        The arguments are those of ``AnalogRecurrent._layers``.
        """
        if self.varied:
            return self._by_sample(x, sizes)
        samples = self.samples
        if sizes is None:
            samples = None if samples is None else samples.flatten()
        elif samples is not None:
            running = zip(samples, sizes, strict=True)
            samples = torch.cat([numbers[:size] for numbers, size in running])
        return self.matrix(x, self.keys, samples)

    def _by_sample(self, x: Tensor, sizes: list[int] | None) -> Tensor:
        """Return what ``sequence`` does, where every sample has weights of its own."""
        if sizes is None:  # samples first
            samples = None if self.samples is None else self.samples.T.flatten()
            return self.matrix(x.transpose(0, 1), self.keys, samples).transpose(0, 1)
        parts = []
        counts = torch.tensor(sizes, device="cpu")
        for i, part in enumerate(unpack_sequence(PackedSequence(x, counts))):
            samples = None if self.samples is None else self.samples[: len(part), i]
            parts.append(self.matrix(part.unsqueeze(0), self.keys[i : i + 1], samples).squeeze(0))
        return pack_sequence(parts).data


class AnalogRNN(AnalogRecurrent, nn.RNN):
    """``nn.RNN`` whose products run on a chip; ``convert`` makes it. It has every option."""

    digital = nn.RNN


class AnalogGRU(AnalogRecurrent, nn.GRU):
    """``nn.GRU`` whose products run on a chip; ``convert`` makes it. It has every option."""

    digital = nn.GRU


class AnalogLSTM(AnalogRecurrent, nn.LSTM):
    """``nn.LSTM`` whose products run on a chip; ``convert`` makes it. It has every option.

    The options include projections.
    """

    digital = nn.LSTM

    def _state_sizes(self) -> tuple[int, ...]:
        return self.proj_size or self.hidden_size, self.hidden_size
