"""The recurrent net that NeuRRAM ran."""

from collections.abc import Sequence

from torch import Tensor, nn

from analogtorch.speech.labels import LABELS
from analogtorch.speech.models.arguments import maps, outputs
from analogtorch.speech.models.recurrent import lstm, sequence
from analogtorch.values import checks


class NeuRRAMLSTM(nn.Module):
    """Four LSTMs side by side: each classifies its last state, and the logits are summed.

    Wan et al., Nature 608, 504 (2022), with the sizes of the authors' code
    (github.com/weierwan/Neurram_48core, lstm): states of 108 numbers, which with 6 rows of biases
    make 114; MFCC of 160 filters from 20 to 4,000 Hz with 40 coefficients, in windows of 641
    samples every 320. The biases of torch are digital here. The code also clips and quantises the
    numbers between the products, which is left to the chip and its DACs, and penalises similar
    blocks in training, which is left out. Its gates all start with a bias of 1, here the forget
    gates alone.

    Args:
        blocks: number of LSTMs.
        hidden: width of each state.
        classes: number of outputs.
        input_shape: (1, frames, coefficients) of the features.
    """

    def __init__(
        self,
        *,
        blocks: int = 4,
        hidden: int = 108,
        classes: int = len(LABELS),
        input_shape: Sequence[int] = (1, 49, 40),
    ) -> None:
        super().__init__()
        checks.count("blocks", blocks)
        _, inputs = maps(input_shape)
        self.lstms = nn.ModuleList(lstm(inputs, hidden) for _ in range(blocks))
        self.heads = nn.ModuleList(nn.Linear(hidden, outputs(classes)) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of MFCC (B, 1, frames, coefficients), or without the 1."""
        x = sequence(x)
        logits = [
            head(block(x)[0][:, -1]) for block, head in zip(self.lstms, self.heads, strict=True)
        ]
        return sum(logits[1:], logits[0])
