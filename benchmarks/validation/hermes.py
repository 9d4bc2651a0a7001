"""What a HERMES core measured of itself, and what ``hermes_core`` gives for it.

The papers give the errors of the weights of two networks, and the error of the MVMs of a core. They
do not give the distributions of those weights and inputs, nor of what the MVM error is a share.
Here weights are Gaussian and clipped at 2.5 or 2 sigma, as training for this chip leaves them, and
inputs are uniform in [-1, 1].
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import analogtorch as at
from benchmarks.validation import published
from benchmarks.validation.row import MVM_ERROR, Row

CHIPS = 4


@dataclass(frozen=True)
class Core:
    """One layer of 256x256 weights, digital and on a programmed core, read at 0 s."""

    digital: nn.Linear
    programmed: nn.Module
    inputs: Tensor
    """(512, 256)."""


def core(clip: float, seed: int, zeros: float = 0.0) -> Core:
    """Return a core with Gaussian weights, clipped at ``clip`` sigma.

    A share ``zeros`` of its inputs is 0.
    """
    generator = torch.Generator().manual_seed(seed)
    digital, analog = (nn.Linear(256, 256, bias=False) for _ in range(2))
    digital.weight.data = torch.randn(256, 256, generator=generator).clamp(-clip, clip) / clip
    analog.load_state_dict(digital.state_dict())
    inputs = torch.rand(512, 256, generator=generator) * 2 - 1
    inputs *= torch.rand(512, 256, generator=generator) >= zeros
    analog = at.convert(analog, at.chips.hermes_core())
    at.calibrate(analog, [inputs], effort="ranges")
    return Core(digital, at.program(analog, seed=seed).at("0 s", compensation="none"), inputs)


@torch.no_grad()
def weight_error(clip: float) -> float:
    """Return the standard deviation of the errors of weights, in % of the largest weight."""
    total = 0.0
    for seed in range(CHIPS):
        found = core(clip, seed)
        stored = found.programmed.programmed.weights[0]  # type: ignore[union-attr, index]
        total += (stored - found.digital.weight).std().item()
    return 100 * total / CHIPS


@torch.no_grad()
def mvm_error(zeros: float = 0.0, clip: float = 2.5) -> float:
    """Return the standard deviation of the errors of outputs, in % of the span of the ADC."""
    total = 0.0
    for seed in range(CHIPS):
        found = core(clip, seed, zeros)
        total += (found.programmed(found.inputs) - found.digital(found.inputs)).std().item()
    return 100 * total / CHIPS / (2 * at.chips.hermes_core().adc.range)


def residual_noise(error: float) -> float:
    """Return the output noise that the published MVM error leaves beside an error of this size.

    Both errors are in % of the span of the ADC; the noise is in the units of ``ADC.noise``, 0 if
    the error alone is as large as the published one.
    """
    left = max(published.HERMES_MVM.numbers[0] ** 2 - error**2, 0.0) ** 0.5
    return left / 100 * 2 * at.chips.hermes_core().adc.range


def rows() -> Iterator[Row]:
    """Yield the rows of the errors that the core measured."""
    for clip, reference in published.HERMES_WEIGHTS.items():
        yield Row(
            quantity=f"weights clipped at {clip:g} sigma: standard deviation of their errors, % of "
            "the largest",
            reference=reference,
            found=lambda c=clip: [weight_error(c)],
            bar=MVM_ERROR,
        )
    yield Row(
        quantity="weights clipped at 2.5 sigma: standard deviation of the errors of 8-bit MVMs, % "
        "of the span of the ADC",
        reference=published.HERMES_MVM,
        found=lambda: [mvm_error()],
        bar=MVM_ERROR,
    )
