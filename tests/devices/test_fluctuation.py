"""Fluctuations of cells against draws of their devices; bounds in standard errors."""

import math

import pytest
import torch

from analogtorch.devices import (
    Cell,
    DifferentialPair,
    OffsetCell,
    Polynomial,
    QuantisedPair,
    SignificancePairs,
    pcm_like,
    rram_binary,
    rram_cmo,
)
from analogtorch.devices.fluctuation import Fluctuations

STD = Polynomial(coefficients=(0.01, 0.03, -0.02))
DRAWS = 20_000
CELLS: dict[str, Cell] = {
    "pair": DifferentialPair(device=pcm_like()),
    "sequential": DifferentialPair(device=pcm_like(), devices_per_polarity=3, split="sequential"),
    "g_min": DifferentialPair(device=rram_cmo()),
    "offset": OffsetCell(device=pcm_like()),
    "reference column": OffsetCell(device=pcm_like(), devices_per_weight=2, reference="column"),
    "significance": SignificancePairs(device=pcm_like()),
    "quantised": QuantisedPair(device=pcm_like()),
}


@pytest.mark.parametrize("name", CELLS)
def test_both_polarities_have_the_variance_of_their_devices(name: str) -> None:
    cell = CELLS[name]
    w = torch.linspace(-1, 1, 7, dtype=torch.float64)
    g = cell.targets(w) + 0.3
    found = Fluctuations.of(cell, STD)
    z = torch.randn(
        DRAWS, *g.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    std = cell.device.g_max * STD(g / cell.device.g_max)
    drawn = (g + std * z).transpose(0, 1)
    weights, negatives = cell.weights(drawn), cell.negatives(drawn)
    for values, variance in (
        (weights, found.variances(g).sum(0)),
        (weights + negatives, found.variances(g)[0]),
        (negatives, found.variances(g)[1]),
    ):
        assert torch.allclose(values.var(0), variance, rtol=4.5 * math.sqrt(2 / DRAWS), atol=1e-20)


@pytest.mark.parametrize("name", CELLS)
def test_devices_without_fluctuations_add_nothing(name: str) -> None:
    cell = CELLS[name]
    g = cell.targets(torch.linspace(-1, 1, 5))
    found = Fluctuations.of(cell, STD)
    assert not found.variances(g, torch.zeros_like(g, dtype=torch.bool)).any()
    everything = torch.ones_like(g, dtype=torch.bool)
    assert torch.equal(found.variances(g, everything), found.variances(g))
    assert len(found.table) % 2 == 1  # a point at 0, where pairs have a kink


@pytest.mark.parametrize(
    "cell",
    [
        DifferentialPair(device=rram_binary()),
        DifferentialPair(device=rram_binary(), devices_per_polarity=2, split="sequential"),
        OffsetCell(device=rram_binary()),
    ],
)
def test_devices_of_two_states_fluctuate_as_the_state_that_they_hold(cell: Cell) -> None:
    w = torch.tensor([-1.0, -0.9, -0.3, -0.1, 0.0, 0.1, 0.2, 0.6, 1.0], dtype=torch.float64)
    g = cell.targets(w)
    held = torch.where(
        g > (cell.device.g_min + cell.device.g_max) / 2, cell.device.g_max, cell.device.g_min
    )
    found = Fluctuations.of(cell, STD)
    torch.testing.assert_close(found.of_weights(w), found.variances(held.to(w)))
    ends = torch.tensor([found.table[0], found.table[-1]], dtype=torch.float64)
    torch.testing.assert_close(ends, found.variances(held.to(w)).sum(0)[[0, -1]])
