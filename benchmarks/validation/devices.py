"""Rows of single devices and of pairs: programming, drift, read noise."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from analogtorch import devices
from analogtorch.devices import Device, DifferentialPair
from benchmarks.devices import Row as Shipped
from benchmarks.validation import published
from benchmarks.validation.published import DAY, HOUR, YEAR, Reference
from benchmarks.validation.row import MEAN, SPREAD, Row

DRAWS = 400_000
"""Devices of a random draw: a standard deviation is known to 0.11 %."""


def device(call: str) -> Device:
    """Return a device by what makes it in ``at.devices``, such as ``pcm_like()``."""
    return Shipped(call, "").device


def conductances(of: Device, reference: Reference) -> Tensor:
    """Return the targets, uS, whose shares of the range label the reference."""
    return of.g_min + torch.tensor([float(r) for r in reference.values]).double() * (
        of.g_max - of.g_min
    )


def spread(call: str, reference: Reference, t: float | None = None) -> list[float]:
    """Return the standard deviation of programming, % of the largest, before the clamp at 0.

    With a time ``t`` in seconds, what it has grown to.
    """
    of = device(call)
    g = conductances(of, reference)
    sigma = of.programming_sigma(g) if t is None else of.sigma(g, t)  # type: ignore[attr-defined]
    return (100 * sigma / of.g_max).tolist()


def drift_factors(call: str, times: list[float]) -> list[float]:
    """Return the drift factor of the largest conductance at the mean drift exponent."""
    of = device(call)
    g = torch.tensor([of.g_max], dtype=torch.float64)
    nu = of.drift_coefficient(g, torch.zeros_like(g))
    return [(of.drift(g, nu, t) / g).item() for t in times]


def exponent_spread(call: str, reference: Reference) -> list[float]:
    """Return the standard deviation of the drift exponent between devices."""
    of = device(call)
    g = conductances(of, reference)
    one = of.drift_coefficient(g, torch.ones_like(g))
    return (one - of.drift_coefficient(g, torch.zeros_like(g))).tolist()


def read_noise(call: str, times: list[float]) -> list[float]:
    """Return the standard deviation of a read of half the largest conductance, % of it."""
    of = device(call)
    g = torch.tensor([of.g_max / 2], dtype=torch.float64)
    return [100 * (of.read(g, g, t, torch.ones_like(g)) / g - 1).item() for t in times]


def drawn(call: str, share: float, t: float | None) -> Tensor:
    """Return many devices of one target, drifted to ``t``; None: as programmed."""
    of = device(call)
    g = torch.full((DRAWS,), of.g_min + share * (of.g_max - of.g_min), dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, DRAWS, generator=generator, dtype=torch.float64)
    programmed = of.program(g, z[0])
    return programmed if t is None else of.drift(programmed, of.drift_coefficient(g, z[1]), t)


def pairs(cell: DifferentialPair, w: float, t: float | None) -> Tensor:
    """Return many independent cells with the weight ``w``, as read at ``t``."""

    def normals(first: int) -> Tensor:
        seeds = range(first, first + cell.devices)
        return torch.stack(
            [torch.randn(DRAWS, generator=torch.Generator().manual_seed(s)) for s in seeds]
        )

    of, targets = cell.device, cell.targets(torch.full((DRAWS,), w))
    programmed = of.program(targets, normals(0))
    if t is None:
        return cell.weights(programmed)
    drifted = of.drift(programmed, of.drift_coefficient(targets, normals(10)), t)
    return cell.weights(of.read(programmed, drifted, t, normals(20)))


def programming_rows() -> Iterator[Row]:
    """Yield the spread of programming over conductance, % of the largest."""
    for call, reference in published.PROGRAMMING.items():
        yield Row(
            quantity=f"`{call}`",
            reference=reference,
            found=lambda c=call, r=reference: spread(c, r),
            bar=SPREAD,
            quick=True,
        )
    for (call, t), reference in published.LATER.items():
        yield Row(
            quantity=f"`{call}` after {devices.device.duration(t)}",
            reference=reference,
            found=lambda c=call, r=reference, t=t: spread(c, r, t),
            bar=SPREAD,
            quick=True,
        )
    yield Row(
        quantity="dynamic range of `memcapacitor()`",
        reference=published.MEMCAPACITOR_RANGE,
        found=lambda: [devices.memcapacitor().g_max / devices.memcapacitor().g_min],
        bar=MEAN,
        quick=True,
    )


def drift_rows() -> Iterator[Row]:
    """Yield mean and spread of drift."""
    for call, reference in published.DRIFT.items():
        times = [published.SECONDS[label] for label in reference.values]
        yield Row(
            quantity=f"`{call}`: mean factor of the largest conductance",
            reference=reference,
            found=lambda c=call, t=times: drift_factors(c, t),
            bar=MEAN,
            quick=True,
        )
    for call, reference in published.DRIFT_SPREAD.items():
        yield Row(
            quantity=f"`{call}`: standard deviation of the drift exponent, by conductance",
            reference=reference,
            found=lambda c=call, r=reference: exponent_spread(c, r),
            bar=SPREAD,
            quick=True,
        )
    yield from _cmo_rows()
    yield from _sonos_rows()


def _cmo_rows() -> Iterator[Row]:
    call, g = "rram_cmo()", 49.0
    law, (base, slope) = published.CMO_DRIFT, published.CMO_PROGRAMMING[0.2]
    times = {"1 s": 1.0, "10 min": 600.0, "1 h": HOUR, "1 year": YEAR}
    mean = {name: g + law["mean"] * math.log(t) for name, t in times.items()}
    spreads = {
        name: math.hypot(slope * g + base, law["spread"] * math.log(t) + law["spread at 1 s"])
        for name, t in times.items()
    }
    yield Row(
        quantity=f"`{call}`: mean of 49 uS, uS",
        reference=Reference(mean, "Falcone 2025"),
        found=lambda: [drawn(call, 0.5, t).mean().item() for t in times.values()],
        bar=MEAN,
    )
    yield Row(
        quantity=f"`{call}`: standard deviation of 49 uS, uS",
        reference=Reference(spreads, "Falcone 2025"),
        found=lambda: [drawn(call, 0.5, t).std().item() for t in times.values()],
        bar=SPREAD,
    )


def _sonos_rows() -> Iterator[Row]:
    current = 800 + published.polynomial(published.SONOS_DRIFT, 800.0)
    a, b = published.SONOS_SPREAD
    yield Row(
        quantity="`sonos()`: mean of 800 nA, nA",
        reference=Reference({"5 days": current}, "Agrawal 2022"),
        found=lambda: [100 * drawn("sonos()", 0.5, 5 * DAY).mean().item()],  # at 0.1 V
        bar=MEAN,
    )
    yield Row(
        quantity="`sonos()`: standard deviation of 800 nA, nA",
        reference=Reference({"5 days": a * (1 - math.exp(-current / b))}, "Agrawal 2022"),
        found=lambda: [100 * drawn("sonos()", 0.5, 5 * DAY).std().item()],
        bar=SPREAD,
    )


def read_rows() -> Iterator[Row]:
    """Yield the read noise over time, against the integral of its spectrum."""
    for call, reference in published.READ_NOISE.items():
        times = [published.SECONDS[label] for label in reference.values]
        yield Row(
            quantity=f"`{call}`: standard deviation at half of the largest conductance, % of it",
            reference=reference,
            found=lambda c=call, t=times: read_noise(c, t),
            bar=SPREAD,
            quick=True,
        )


def pair_rows() -> Iterator[Row]:
    """Yield mean and spread of weights in pairs of ``pcm_like``, as read."""
    for w, values in published.PAIR.items():
        means = {time: mean for time, (mean, _) in values.items() if mean}
        for name, expected, bar in (
            ("mean", means, MEAN),
            ("standard deviation", {time: std for time, (_, std) in values.items()}, SPREAD),
        ):
            times = [published.SECONDS[time] for time in expected]
            if not expected:
                continue
            yield Row(
                quantity=f"pair of `pcm_like()`, weight {w:g}: {name}",
                reference=Reference(expected, "Joshi 2020"),
                found=lambda w=w, t=times, mean=bar is MEAN: _moments(w, t, mean),
                bar=bar,
            )


def _moments(w: float, times: list[float | None], mean: bool) -> list[float]:
    read = [pairs(DifferentialPair(device=devices.pcm_like()), w, t) for t in times]
    return [(each.mean() if mean else each.std()).item() for each in read]
