"""nn.RNNCell, nn.LSTMCell and nn.GRUCell on an analog chip: two products run on tiles.

Gates and state are digital. A cell does not know where a sequence begins: each call is one forward
with new noise. The layers ``nn.RNN``, ``LSTM`` and ``GRU`` keep the noise of their weights for all
time steps.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from analogtorch.nn.composite import AnalogComposite, MatrixNames
from analogtorch.nn.traced import Proxy, whole
from analogtorch.ops.gates import next_state
from analogtorch.values.listed import counted


class AnalogRecurrentCell(AnalogComposite, nn.RNNCellBase):
    """The base of the analog recurrent cells."""

    states: int = 1
    """Number of tensors of the state."""
    mode: str
    """``nn.RNNBase.mode`` of the layer that repeats the cell."""

    def all_matrices(self) -> Iterator[MatrixNames]:
        """Yield the matrix of the input and that of the state."""
        for kind in ("ih", "hh"):
            yield MatrixNames(kind, f"weight_{kind}", f"bias_{kind}" if self.bias else None)

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """Return the next state, as the digital cell does.

        The input is ``(N, I)`` or ``(I,)``; a state of None is zero.
        """
        if isinstance(input, Proxy):
            return whole(self, input, hx)
        self.refuse_changed()
        if input.dim() not in (1, 2) or input.shape[-1] != self.input_size:
            raise ValueError(
                f"layer {self.layer_name!r} takes (N, {self.input_size}) inputs, or one sample "
                f"without N, got shape {tuple(input.shape)}"
            )
        wanted = (*input.shape[:-1], self.hidden_size)
        if hx is None:
            hx = (input.new_zeros(wanted),) * self.states
        given = tuple(hx) if isinstance(hx, tuple | list) else (hx,)
        if [tuple(h.shape) for h in given] != [wanted] * self.states:
            raise ValueError(
                f"layer {self.layer_name!r} takes {counted(self.states, 'state')} of "
                f"shape {wanted}, got {[tuple(h.shape) for h in given]}"
            )
        products = self.matrix("ih")(input), self.matrix("hh")(given[0])
        found = next_state(self.mode, *products, given)
        return found if len(found) > 1 else found[0]


class AnalogRNNCell(AnalogRecurrentCell, nn.RNNCell):
    """``nn.RNNCell`` whose products run on a chip; ``convert`` makes it. It has every option."""

    digital = nn.RNNCell

    @property
    def mode(self) -> str:  # type: ignore[override]
        """``nn.RNNBase.mode`` of the layer that repeats the cell."""
        return f"RNN_{self.nonlinearity.upper()}"


class AnalogGRUCell(AnalogRecurrentCell, nn.GRUCell):
    """``nn.GRUCell`` whose products run on a chip; ``convert`` makes it. It has every option."""

    digital = nn.GRUCell
    mode = "GRU"


class AnalogLSTMCell(AnalogRecurrentCell, nn.LSTMCell):
    """``nn.LSTMCell`` whose products run on a chip; ``convert`` makes it. It has every option."""

    digital = nn.LSTMCell
    mode = "LSTM"
    states = 2
