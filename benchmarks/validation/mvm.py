"""The error of an MVM on programmed chips: its setting, and the rows of the validation.

A layer of 512x512 weights on one tile, with 8-bit inputs in the range of each vector and outputs
that are not rounded; the mean of ``||error|| / ||y||`` over 128 inputs and four chips. Weights are
uniform in [-1, 1] with 30 % zeros, inputs with 50 % zeros.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

import analogtorch as at
from benchmarks.validation import published
from benchmarks.validation.row import MVM_ERROR, Row

CHIPS = 4
Draw = Callable[[torch.Generator], Tensor]


def uniform(generator: torch.Generator, *shape: int, zeros: float) -> Tensor:
    """Return numbers that are uniform in [-1, 1], but for a share of zeros."""
    x = torch.rand(*shape, generator=generator) * 2 - 1
    return torch.where(torch.rand(*shape, generator=generator) < zeros, 0.0, x)


def sparse_weights(generator: torch.Generator) -> Tensor:
    """Return the weights of the setting."""
    return uniform(generator, 512, 512, zeros=0.3)


def sparse_inputs(generator: torch.Generator) -> Tensor:
    """Return the inputs of the setting."""
    return uniform(generator, 128, 512, zeros=0.5)


def gaussian_weights(clip: float) -> Draw:
    """Return Gaussian weights that are clipped at ``clip`` standard deviations."""
    return lambda generator: torch.randn(512, 512, generator=generator).clamp(-clip, clip)


def plain_chip(device: str = "two_device") -> at.Chip:
    """Return the chip of the setting with a device of ``at.chips.hermes64``."""
    return at.chips.hermes64(device=device).replace(  # type: ignore[arg-type]
        array={"rows": 512, "columns": 512},
        adc={"bits": None, "steps": None, "noise": 0.0, "gain_std": 0.0},
        periphery={"output_bits": None, "column_calibration": False},
        name="validation",
    )


def errors(
    chip: at.Chip,
    times: Sequence[str | float],
    compensations: Sequence[str] = ("none",),
    *,
    weights: Draw = sparse_weights,
    inputs: Draw = sparse_inputs,
    input_range: float | None = None,
) -> dict[str, list[float]]:
    """Return the MVM error in percent at each time, by compensation."""
    total = torch.zeros(len(compensations), len(times), dtype=torch.float64)
    for seed in range(CHIPS):
        generator = torch.Generator().manual_seed(seed)
        x = inputs(generator)
        layer = nn.Linear(512, 512, bias=False)
        layer.weight.data = weights(generator)
        y = x @ layer.weight.detach().T
        analog = at.convert(layer, chip)
        if input_range is not None:
            analog.set_input_range(input_range)
        physical = at.program(analog, seed=seed)
        for i, compensation in enumerate(compensations):
            for j, time in enumerate(times):
                error = physical.at(time, compensation=compensation)(x) - y  # type: ignore[arg-type]
                total[i, j] += (error.norm(dim=1) / y.norm(dim=1)).mean() * 100
    return dict(zip(compensations, (total / CHIPS).tolist(), strict=True))


@functools.cache
def over_time(device: str) -> dict[str, list[float]]:
    """Return the MVM errors at ``published.TIMES`` by compensation; computed once."""
    return errors(plain_chip(device), published.TIMES, ("none", "global", "column"))


def rows() -> Iterator[Row]:
    """Yield the rows of the MVM error over time and of other options."""
    for (device, compensation), reference in published.MVM.items():
        yield Row(
            quantity=f"`{device}`, compensation `{compensation}`",
            reference=reference,
            found=lambda d=device, c=compensation: over_time(d)[c],
            bar=MVM_ERROR,
        )
    for (device, compensation, time), reference in published.OTHER_MVM.items():
        yield Row(
            quantity=f"`{device}`, compensation `{compensation}`",
            reference=reference,
            found=lambda d=device, c=compensation, t=time: errors(plain_chip(d), (t,), (c,))[c],
            bar=MVM_ERROR,
        )
    for (clip, scale), value in published.GAUSSIAN_MVM.items():
        clipped = "" if clip > 5 else f" clipped at {clip:g} sigma"
        yield Row(
            quantity=f"Gaussian weights{clipped}, a weight scale per {scale}",
            reference=published.Reference({"0 s": value}, "Le Gallo 2023"),
            found=lambda c=clip, s=scale: gaussian_error(c, s),
            bar=MVM_ERROR,
        )


def gaussian_error(clip: float, weight_scale: str) -> list[float]:
    """Return the MVM error of Gaussian weights on two devices at 0 s, in percent."""
    chip = plain_chip().replace(periphery={"weight_scale": weight_scale})
    return errors(chip, ("0 s",), weights=gaussian_weights(clip))["none"]
