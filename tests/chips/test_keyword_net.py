"""Every preset maps, programs, costs and evaluates the net of the keyword-spotting benchmark."""

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.mapping import map_by_chip
from analogtorch.speech.models import ConvNet

_COARSE = torch.rand(2, 1, 6, 5, generator=torch.Generator().manual_seed(0))
X = nn.functional.interpolate(_COARSE, (49, 40), mode="bilinear")
"""Features from 0 to 1, which a sensor takes as light."""


def _on(name: str) -> nn.Module:
    torch.manual_seed(0)
    net, chip = ConvNet().eval(), at.chips.get(name)
    if not chip.light.on:
        return at.convert(net, chip)
    sensor = chip.replace(array={"rows": 49})  # a network of diodes for the stem's kernel of 7x7
    return at.convert(net, at.chips.hermes64(), sensor=("stem.0", sensor), example=X)


@pytest.mark.parametrize("name", sorted({*at.chips.names()} - {"ideal"}))
def test_the_net_on_every_preset(name: str) -> None:
    model = _on(name)
    at.calibrate(model, [X], effort="ranges")
    with torch.no_grad():
        exact = model.eval()(X)
    mappings = map_by_chip(model, X[:1])
    placed = {matrix for mapping in mappings for matrix in mapping.matrices}
    assert len(placed) == 8  # the stem, two convolutions of each of three blocks, and the head
    for mapping in mappings if at.chips.get(name).cost else ():
        cost = at.cost(mapping)
        assert cost.energy.system > 0
        assert cost.latency > 0

    def error(model: nn.Module) -> float:
        return ((model(X) - exact).norm() / exact.norm()).item()

    swept = at.sweep(model, error, num_chips=1, times=["0 s"], seed=1, higher_is_better=False)
    assert 0 < swept.values.item() < 0.2
