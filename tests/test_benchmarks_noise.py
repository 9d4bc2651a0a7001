"""The table of training noise against inference noise."""

import pytest
import torch
from torch import nn

import analogtorch as at
from benchmarks.hwa.__main__ import parse
from benchmarks.hwa.noise import INFERENCE, PUBLISHED, TRAINED, disturbed, rows, shape

NAMES = [f"{noise:.0%}" for noise in TRAINED]


def result(seed: int, loss: float) -> dict:
    """Return a made-up result: a net without training noise loses, the others do not."""
    lost = {noise: loss * 10 * noise for noise in INFERENCE}
    nets = {
        name: {
            "digital": 0.9,
            "accuracy": {f"{n:.0%}": [0.9 - lost[n] * (name == "0%")] * 2 for n in INFERENCE},
            "seconds": 1.0,
        }
        for name in NAMES
    }
    return {"seed": seed, "nets": nets}


def test_the_tables_have_means_and_spreads_beside_the_published_ones() -> None:
    results = [result(0, 0.04), result(1, 0.06)]
    header, *found = rows(results)
    assert header[1:] == NAMES
    table = {name: cells for name, *cells in found}
    assert table["0%"] == ["90.0"] * 7
    assert table["10%"] == ["85.0 ± 1.2", *["90.0 ± 0.0"] * 6]
    assert table["5%, published"][:2] == ["87.3", "87.9"]
    assert len(found) == len(INFERENCE) + len(PUBLISHED)
    costs = {(noise, whose): cells for noise, whose, *cells in shape(results)[1:]}
    assert costs["10%", "here"] == ["5.0", "5%", "0.0"]
    assert costs["10%", "published"] == ["6.5", "15%", "0.7"]
    assert ("20%", "published") not in costs


def test_noise_is_that_of_the_largest_weight_and_the_same_for_all_nets() -> None:
    torch.manual_seed(0)
    small, large = (
        at.convert(nn.Sequential(nn.Linear(64, 64)), at.chips.hermes64()) for _ in range(2)
    )
    with torch.no_grad():
        large[0].weight.mul_(2.0)
    changes = [
        (disturbed(net, 0.1, seed=1)[0].weight - net[0].weight) / net[0].weight.abs().max()
        for net in (small, large)
    ]
    torch.testing.assert_close(*changes)
    assert 0.095 < changes[0].std().item() < 0.105
    assert torch.equal(disturbed(small, 0.0, seed=1)[0].weight, small[0].weight)
    assert not torch.equal(
        disturbed(small, 0.1, seed=2)[0].weight, disturbed(small, 0.1, seed=1)[0].weight
    )


def test_levels_are_not_ignored() -> None:
    with pytest.raises(ValueError, match=r"leave out chip\.levels"):
        parse(["--chip.levels=[1, 2]"])
