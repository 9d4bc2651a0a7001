"""A check that a clip gives the same alone and in a batch, each time."""

import torch
from torch import Tensor, nn

from analogtorch.speech.tried import tried

_ALLOWED = 0.01
"""Most that may differ, as a share of the spread of what a module gives. A step of an 8-bit
converter whose range is three standard deviations to both sides is 0.023 of it, so that a chip does
not see less; and bfloat16 rounds a number by 0.004 of it at most."""
_ROUNDING = 1e-5
"""The same as a share of the largest number, beside which all others are rounded."""


@torch.no_grad()
def check_alone(
    what: str, module: nn.Module, inputs: Tensor, names: tuple[str, ...], kind: str, gives: str
) -> None:
    """Raise ValueError unless a module gives the same for each input alone as in a batch.

    Windows of a recording come one by one where a chip listens, and accuracies are of batches.
    What is not finite passes: other checks name it.

    Args:
        what: the module, for messages.
        module: the module, in evaluation mode.
        inputs: some inputs, which differ: (B, ...).
        names: what each of them is, for messages.
        kind: what inputs are, for messages.
        gives: what it gives for them, for messages.
    """
    batch = tried(what, module, inputs, kind)
    whole = batch[batch.isfinite().reshape(len(batch), -1).all(1)]
    if not whole.numel():
        return
    spread = float(whole.double().std(unbiased=False))
    allowed = _ALLOWED * spread + _ROUNDING * float(whole.abs().max())
    for row, name in enumerate(names):
        one = inputs[row : row + 1]
        alone, again = (tried(what, module, one, kind) for _ in range(2))
        for other, how, remedy in (
            (
                again,
                "at each call",
                f"In evaluation {gives} must not be random, nor depend on earlier calls: draw "
                "random numbers once, in __init__, or only while self.training is true, as "
                "F.dropout(x, training=self.training) does, and begin each call with a new state",
            ),
            (
                batch[row : row + 1],
                "in a batch with another clip than alone",
                f"The {gives} of a clip must not depend on other clips: take means, largest "
                "numbers and norms over the dimensions of one clip, never over dimension 0, and "
                "in evaluation let batch norm use its running statistics, and quantisation fixed "
                "scales",
            ),
        ):
            apart = _apart(alone, other)
            if apart > allowed:
                raise ValueError(
                    f"{what} gives other {gives} for {name} {how}: they are {apart:.3g} apart "
                    f"(root mean square), where their standard deviation is {spread:.3g} and "
                    f"{allowed:.3g} is allowed for rounding. {remedy}"
                )


def _apart(a: Tensor, b: Tensor) -> float:
    """Return the root mean square difference; infinite for other shapes."""
    if a.shape != b.shape:
        return float("inf")
    return float((a.double() - b.double()).square().mean().sqrt())
