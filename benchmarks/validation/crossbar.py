"""The parts of the standard crossbar model, each alone: 512 rows, one weight scale per column.

Weights are normal with a standard deviation of 0.246, clipped at 1; inputs uniform in [-1, 1].
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import analogtorch as at
from benchmarks.validation import mvm, published
from benchmarks.validation.row import MVM_ERROR, Row

PARTS: dict[str, dict[str, Any]] = {
    "8-bit inputs": {"dac": {"bits": 8}},
    "8-bit outputs": {"adc": {"bits": 8, "range": 10.0}},
    "output noise": {"adc": {"noise": 0.04}},
    "read noise": {"mvm_read_noise": {"std": at.devices.SquareRoot(scale=0.0175)}},
    "IR drop": {"wires": {"column_resistance": 0.35}},
}
"""What each part of ``published.STANDARD`` changes of a chip without error."""


def chip(*parts: str) -> at.Chip:
    """Return a chip with these parts of the model alone, and devices of at most 5 uS."""
    device = dataclasses.replace(at.devices.ideal_device(), g_max=5.0, g_reference=5.0)
    made = mvm.plain_chip().replace(
        cell=at.devices.DifferentialPair(device=device),
        dac={"bits": None},
        periphery={"weight_scale": "column"},
    )
    for part in parts:
        made = made.replace(**PARTS[part])
    return made


def weights(generator: torch.Generator) -> Tensor:
    """Return the weights of the model."""
    return (0.246 * torch.randn(512, 512, generator=generator)).clamp(-1, 1)


def inputs(generator: torch.Generator) -> Tensor:
    """Return the inputs of the model."""
    return mvm.uniform(generator, 128, 512, zeros=0.0)


def error(*parts: str) -> list[float]:
    """Return the MVM error, %, with these parts."""
    return mvm.errors(
        chip(*parts), ("programmed",), weights=weights, inputs=inputs, input_range=1.0
    )["none"]


def closed_form_error() -> list[float]:
    """Return the MVM error, %, of IR drop by the closed form of the model."""
    wires = {**PARTS["IR drop"]["wires"], "model": "standard"}
    return mvm.errors(
        chip().replace(wires=wires),
        ("programmed",),
        weights=weights,
        inputs=inputs,
        input_range=1.0,
    )["none"]


@functools.cache
def pcm_errors(compensation: str) -> dict[str, float]:
    """Return the MVM error with PCM at each time of ``published.STANDARD_PCM``, %."""
    times = tuple(published.STANDARD_PCM[compensation])
    found = mvm.errors(
        at.chips.standard_crossbar(),
        times,
        (compensation,),
        weights=weights,
        inputs=inputs,
        input_range=1.0,
    )
    return dict(zip(times, found[compensation], strict=True))


def rows() -> Iterator[Row]:
    """Yield a row for each part, one for all, and those with PCM."""
    missing = [part for part in published.STANDARD if part not in (*PARTS, "all")]
    lacks = f" (the library lacks {', '.join(missing)})" if missing else ""
    yield Row(
        quantity='IR drop, `Wires.model="standard"`',
        reference=published.Reference({"programmed": published.STANDARD["IR drop"]}, "Rasch 2023"),
        found=closed_form_error,
        bar=MVM_ERROR,
    )
    for name, parts in {**{part: (part,) for part in PARTS}, "all": tuple(PARTS)}.items():
        yield Row(
            quantity=name + lacks if name == "all" else name,
            reference=published.Reference({"programmed": published.STANDARD[name]}, "Rasch 2023"),
            found=lambda p=parts: error(*p),
            bar=MVM_ERROR,
        )
    for compensation, values in published.STANDARD_PCM.items():
        yield Row(
            quantity=f"`standard_crossbar`, compensation `{compensation}`",
            reference=published.Reference(values, "Rasch 2023"),
            found=lambda c=compensation: list(pcm_errors(c).values()),
            bar=MVM_ERROR,
        )
