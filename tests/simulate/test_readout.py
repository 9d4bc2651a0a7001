"""ADC gains by physical position, the digital gains that undo them, and unbiased factors."""

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.tile_state import adc_errors
from tests.crossbar import crossbar

HERMES = at.chips.hermes64()
UNCALIBRATED = HERMES.replace(periphery={"column_calibration": False})


def _layer(chip: at.Chip, weight: Tensor) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    return at.convert(nn.Sequential(layer), chip)


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _uniform(*shape: int) -> Tensor:
    """Columns of such weights overflow the ADC when all rows are at full scale."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _sparse(*shape: int) -> Tensor:
    """95 % zeros, and a few outliers that set the scale of the rest."""
    w = _normal(*shape) * (_uniform(*shape) > 0.9)
    w.view(-1)[:: w.numel() // 7] = 12.0
    return w


def test_gains_belong_to_the_tile_of_a_chip() -> None:
    gains = torch.stack([adc_errors(HERMES, 7, 0, tile)[0] for tile in range(64)])
    assert gains.dtype == torch.float32
    # 16,384 columns: standard errors of 0.0004 and 0.00055
    assert gains.std().item() == pytest.approx(0.0709, abs=0.002)
    assert gains.mean().item() == pytest.approx(1.0, abs=0.003)
    assert torch.equal(adc_errors(HERMES, 7, 0, 5)[0], gains[5])
    for other in ((8, 0, 5), (7, 1, 5), (7, 0, 6)):
        both = torch.stack([adc_errors(HERMES, *other)[0], gains[5]])
        assert abs(torch.corrcoef(both)[0, 1]) < 4.5 / 16
    assert torch.equal(adc_errors(crossbar(), 7, 0, 5)[0], torch.ones(256))
    wild = HERMES.replace(adc={"gain_std": 2.0})
    assert adc_errors(wild, 7, 0, 5)[0].min() == pytest.approx(0.1)  # every ADC counts something


def test_a_layer_meets_the_gains_of_its_place_and_a_mapping_moves_it() -> None:
    model = at.convert(nn.Sequential(nn.Linear(300, 20), nn.Linear(20, 9)), UNCALIBRATED)
    mapping = at.map_to_chip(model, torch.zeros(1, 300), chip=UNCALIBRATED)
    seen = []
    for where in (mapping, at.remap(mapping, retired=[(0, 0)])):
        physical = at.program(model, seed=4, mapping=where)
        view = physical.at("1 h", compensation="none")
        for p in where.placements:
            held, (section,) = (
                view.get_submodule(p.block.matrix).programmed,
                view.get_submodule(p.block.matrix).sections,
            )
            block, columns = (
                section.bounds.index(p.block.row),
                slice(p.block.col, p.block.col + p.block.cols),
            )
            expected = adc_errors(UNCALIBRATED, 4, p.chip, p.tile)[0][p.col : p.col + p.block.cols]
            assert torch.equal(held.adc_errors[0][0][block, columns], expected)
            assert torch.equal(held.gains[0][block, columns], expected)
            assert torch.equal(
                physical.yield_map()[p.chip, p.tile].errors[0],
                adc_errors(UNCALIBRATED, 4, p.chip, p.tile)[0],
            )
        seen.append(view(torch.ones(1, 300)))
        again = at.program(model, seed=4, mapping=where).at("1 h", compensation="none")
        assert torch.equal(again(torch.ones(1, 300)), seen[-1])
    assert not torch.allclose(*seen, atol=1e-3)


def test_training_and_evaluation_do_not_know_the_gains() -> None:
    outputs = []
    for std in (0.0, 0.0709):
        layer = _layer(HERMES.replace(adc={"gain_std": std}), _normal(8, 20))
        with at.noise(1):
            outputs.append((layer(torch.ones(2, 20)), layer.eval()(torch.ones(2, 20))))
    assert all(map(torch.equal, *outputs))


@pytest.mark.parametrize("weight", [_normal, _uniform, _sparse])
@pytest.mark.parametrize("noise", [0.0, 0.04])
def test_digital_gains_undo_those_of_the_adcs(weight, noise: float) -> None:
    chip = at.chips.hermes64(output_noise=noise)
    held = at.program(_layer(chip, weight(128, 256)), seed=2).at("programmed")[0].programmed
    adc = held.adc_errors[0][0]
    even = at.program(_layer(chip.replace(adc={"gain_std": 0.0}), weight(128, 256)), seed=2)
    own = even.at("programmed")[0].programmed.gains[0]  # what columns err by without any spread
    assert adc.std() > 0.06
    assert (held.gains[0] / own - 1).std() < 0.1 * adc.std()
    fixed = at.program(_layer(UNCALIBRATED, weight(128, 256)), seed=2).at(
        "programmed", compensation="none"
    )
    assert torch.equal(fixed[0].programmed.gains[0], adc)


@pytest.mark.parametrize("weight", [_normal, _uniform, _sparse])
@pytest.mark.parametrize("noise", [0.0, 0.04])
def test_calibrated_columns_have_the_factor_that_fits_their_weights_best(
    weight, noise: float
) -> None:
    """Columns whose sums overflow the ADC included: what was clipped would make them seem small."""
    chip = at.chips.hermes64(output_noise=noise).replace(adc={"gain_std": 0.0})
    target = weight(128, 256)
    held = at.program(_layer(chip, target), seed=2).at("programmed")[0].programmed
    w = held.weights[0]
    best = (w * target).sum(1) / w.square().sum(1)
    # 256 inputs: the relative error of the column over 16 is the standard error
    error = (w - target).norm(dim=1) / target.norm(dim=1) / 16
    assert ((held.gains[0][0] / best - 1) / error).abs().max() < 5
    assert abs((held.gains[0][0] / best - 1).mean()) < 0.005


@pytest.mark.parametrize("weight", [_normal, _uniform, _sparse])
@pytest.mark.parametrize("noise", [0.0, 0.04])
@pytest.mark.parametrize("chip", ["hermes64", "crossbar"])
@pytest.mark.parametrize("time", ["0 s", "1 day", "1 year"])
def test_least_squares_through_the_adc_finds_the_factor_of_exact_reads(
    weight, noise: float, chip: str, time: str
) -> None:
    if chip == "hermes64":
        made = at.chips.hermes64(output_noise=noise)
    else:
        made = crossbar(adc={"noise": noise})
    physical = at.program(_layer(made, weight(64, 256)), seed=2)
    gains = [
        physical.at(time, compensation="least_squares", readout=readout)[0].programmed.gains[0]
        for readout in ("chip", "ideal")
    ]
    assert torch.allclose(gains[0], gains[1], rtol=0.01)


def test_a_factor_that_is_drawn_to_one_by_the_zeros_is_noticed() -> None:
    """Sparse weights drift as others do: their factor is that of their devices, far from 1."""
    physical = at.program(_layer(HERMES, _sparse(64, 256)), seed=2)
    assert physical.at("1 year")[0].programmed.gains[0].mean() > 1.25


def test_dead_columns_stay_dead_and_leave_the_others_their_factor() -> None:
    defects = Defects(columns=0.3)
    view = at.program(_layer(HERMES, _normal(64, 256)), seed=2, defects=defects).at("1 day")
    x = torch.rand(4, 256) * 2 - 1
    held = view[0].programmed
    dead = held.gains[0][0] == 0
    assert 0 < dead.sum() < 64
    assert not view(x)[:, dead].any()
    assert (held.adc_errors[0][0] > 0).all()  # no bound is divided by zero
    whole = at.program(_layer(HERMES, _normal(64, 256)), seed=2).at("1 day")[0].programmed
    assert torch.allclose(held.gains[0][0][~dead], whole.gains[0][0][~dead], rtol=0.01)


def test_the_default_is_least_squares() -> None:
    physical = at.program(_layer(HERMES, _normal(64, 256)), seed=2)
    x = torch.ones(1, 256)
    assert torch.equal(
        physical.at("1 day")(x), physical.at("1 day", compensation="least_squares")(x)
    )
