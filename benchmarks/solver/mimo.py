"""Zero-forcing detection of massive MIMO: users that send symbols to many antennas at once.

``y = H s + n`` with a channel ``H`` of independent normals (Rayleigh fading) and noise ``n``. The
detector solves ``H^H H x = H^H y`` and takes the nearest symbol of each user; ``H^H y`` is digital.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

import analogtorch as at


@dataclass(frozen=True)
class Received:
    """Channels, what was sent and what was received."""

    channel: Tensor
    """(B, antennas, users), complex128."""
    sent: Tensor
    """Levels of both axes of each symbol, int64 (B, users, 2), 0 to ``levels - 1``."""
    received: Tensor
    """(B, antennas), complex128."""
    levels: int
    """Levels of an axis: 16 for 256-QAM."""


def receive(
    antennas: int, users: int, order: int, decibels: float, count: int, seed: int
) -> Received:
    """Return what antennas receive of random symbols.

    Args:
        antennas: number of antennas.
        users: number of users, each with one antenna.
        order: symbols of the QAM, such as 256, of mean energy 1.
        decibels: signal-to-noise ratio at each antenna, dB: energy of all users over that of noise.
        count: number of channels, each with one vector of symbols.
        seed: seed of all draws.
    """
    g, levels = torch.Generator().manual_seed(seed), round(order**0.5)
    channel = _normals(g, count, antennas, users)
    sent = torch.randint(levels, (count, users, 2), generator=g)
    noise = (users * 10 ** (-decibels / 10)) ** 0.5 * _normals(g, count, antennas)
    received = (channel @ _symbols(sent, levels).unsqueeze(-1)).squeeze(-1) + noise
    return Received(channel, sent, received, levels)


def equations(given: Received) -> tuple[Tensor, Tensor]:
    """Return matrices ``H^H H / antennas`` and right-hand sides, complex128."""
    adjoint, antennas = given.channel.mH, given.channel.shape[1]
    matched = (adjoint @ given.received.unsqueeze(-1)).squeeze(-1)
    return adjoint @ given.channel / antennas, matched / antennas


def bit_errors(given: Received, x: Tensor) -> Tensor:
    """Return the share of wrong bits of each channel, (B,), of Gray-coded symbols."""
    levels = given.levels
    axes = torch.view_as_real(x.to(torch.complex128)) * _scale(levels)
    found = ((axes + levels - 1) / 2).round().clamp(0, levels - 1).long()
    different = (found ^ (found >> 1)) ^ (given.sent ^ (given.sent >> 1))
    bits = levels.bit_length() - 1
    wrong = sum((different >> bit) & 1 for bit in range(bits))
    return wrong.double().mean((1, 2)) / bits


def digital(given: Received) -> Tensor:
    """Return what a digital solver detects in float32."""
    matrix, matched = equations(given)
    return torch.linalg.solve(matrix.to(torch.complex64), matched.to(torch.complex64))


def analog(given: Received, chip: at.solver.SolverChip, passes: int) -> Tensor:
    """Return what a solver chip detects after some passes."""
    return at.solve(*equations(given), chip, passes=passes).x


def _normals(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.complex128)


def _scale(levels: int) -> float:
    """Return the factor from symbols of mean energy 1 to odd integers."""
    return (2 * (levels**2 - 1) / 3) ** 0.5


def _symbols(sent: Tensor, levels: int) -> Tensor:
    axes = (2.0 * sent.double() - (levels - 1)) / _scale(levels)
    return torch.view_as_complex(axes)
