"""What the recurrent networks share."""

import torch
from torch import Tensor, nn

from analogtorch.values import checks


def lstm(inputs: int, hidden: int) -> nn.LSTM:
    """Return an LSTM whose forget gates start with a bias of 1, and the other gates with none.

    The last state classifies the clip, many frames after the word: with torch's biases, which are
    near 0, an untrained state halves in each frame, and little is learnt. 1 is the value of
    Jozefowicz et al. (ICML 2015), and of TensorFlow's cells.

    Raises:
        ValueError: ``hidden`` is no integer >= 1.
    """
    layer = nn.LSTM(inputs, checks.count("hidden", hidden), batch_first=True)
    biases = dict(layer.named_parameters())
    with torch.no_grad():
        biases["bias_hh_l0"].zero_()
        biases["bias_ih_l0"].zero_()[hidden : 2 * hidden] = 1.0
    return layer


def sequence(x: Tensor) -> Tensor:
    """Return features (B, frames, filters) of maps (B, 1, frames, filters) or of themselves."""
    return x.squeeze(1) if x.dim() == 4 else x
