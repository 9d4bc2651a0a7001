"""Sensors that compute: shot noise and dark current by light, refusals, training in place."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import analogtorch as at
from analogtorch.ops import Plan, mvm

IDEAL = at.chips.photodiode_sensor(spread=0.0).without("adc", "shot_noise", "dark_current")
NOISY = at.chips.photodiode_sensor(spread=0.0, illuminance=10.0).without("adc")


def filters() -> nn.Conv2d:
    """The seven filters of the preset, in one layer."""
    conv = nn.Conv2d(1, 7, 3, bias=False)
    conv.weight.data = torch.tensor([*at.chips.FILTERS.values()]).float().view(7, 1, 3, 3)
    return conv


def on_sensor(conv: nn.Conv2d, chip: at.Chip, seed: int = 1) -> nn.Module:
    model = at.convert(nn.Sequential(conv), chip)
    model[0].set_input_range(1.0)
    return at.program(model, seed=seed).at("0 s")


def test_an_ideal_sensor_equals_the_digital_convolution() -> None:
    image = torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = filters()(image)
        found = on_sensor(filters(), IDEAL)(image)
    assert_close(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("level", [0.0, 0.25, 1.0])
@pytest.mark.parametrize(("shot", "dark"), [(1.0, 0.0), (0.0, 6e4), (1.0, 6e4)])
def test_noise_is_that_of_electrons(level: float, shot: float, dark: float) -> None:
    """Variance: N sum |w| x of the signal and 9 dark currents, within 5 standard errors."""
    chip, image = (
        NOISY.replace(light={"shot_noise": shot, "dark": dark}),
        torch.full((1, 1, 102, 102), level),
    )
    with torch.no_grad():
        y = on_sensor(filters(), chip)(image).flatten(2)[0]
    weights = torch.tensor([*at.chips.FILTERS.values()]).float()
    full = weights.abs().amax(1)
    electrons = 10.0 * 1e-3 * 2e5
    signal = shot**2 * electrons * (weights.abs().sum(1) / full) * level
    expected = (signal + 9 * dark * 1e-3).sqrt() / electrons * full
    bound = 5 / math.sqrt(2 * y.shape[1])
    assert_close(y.std(1), expected, rtol=bound, atol=1e-7)
    assert_close(y.mean(1), weights.sum(1) * level, rtol=0, atol=0.1)


def test_more_light_and_longer_exposures_are_less_noise() -> None:
    image, spreads = torch.full((1, 1, 34, 34), 0.5), []
    for light in ({"illuminance": 1.0}, {"illuminance": 100.0}, {"exposure": 1.0}):
        with torch.no_grad():
            y = on_sensor(filters(), NOISY.replace(light=light))(image)
        spreads.append(float(y[0, 1].std()))
    assert spreads[0] > 9 * spreads[1] > 9 * spreads[2] > 0


def test_evaluation_has_no_noise_and_training_has_new_one_in_each_forward() -> None:
    model = at.convert(nn.Sequential(filters()), NOISY)
    model[0].set_input_range(1.0)
    image = torch.rand(2, 1, 8, 8)
    assert torch.equal(model.eval()(image), model(image))
    model.train()
    first, second = model(image), model(image)
    assert not torch.equal(first, second)
    first.square().sum().backward()
    assert torch.isfinite(model[0].weight.grad).all()
    assert model[0].weight.grad.abs().sum() > 0


def test_noise_repeats_by_seed_and_does_not_depend_on_the_batch() -> None:
    image = torch.rand(6, 1, 8, 8)
    with torch.no_grad():
        whole = on_sensor(filters(), NOISY)(image)
        chip = on_sensor(filters(), NOISY)
        parts = torch.cat([chip(image[:2]), chip(image[2:])])
    assert_close(parts, whole)


def test_the_first_convolution_alone_is_in_the_sensor() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    sensor, chip = at.chips.photodiode_sensor(), at.chips.hermes64()
    at.convert(net, chip, per_layer={"0": sensor})
    at.calibrate(net, [torch.rand(20, 1, 8, 8)])
    assert net[0].chip.light.on
    assert not net[3].chip.light.on
    assert torch.isfinite(at.program(net, seed=1).at("0 s")(torch.rand(2, 1, 8, 8))).all()


def test_refusals() -> None:
    sensor = at.chips.photodiode_sensor()
    model = at.convert(nn.Sequential(filters()), sensor)
    with pytest.raises(ValueError, match="takes light, which is never negative, got -0.5"):
        model(torch.full((1, 1, 4, 4), -0.5))
    with pytest.raises(ValueError, match=r"a kernel of 5x5 is 25 photodiodes.*'rows': 25"):
        at.convert(nn.Sequential(nn.Conv2d(1, 2, 5)), sensor)
    with pytest.raises(ValueError, match=r"ConvTranspose2d has no light to sense.*per_layer"):
        at.convert(nn.Sequential(nn.ConvTranspose2d(1, 2, 3)), sensor)
    for bad in ({"illuminance": -1.0}, {"illuminance": 0.0}, {"exposure": 0.0}):
        with pytest.raises(ValueError, match=f"Light.{next(iter(bad))}"):
            at.chips.photodiode_sensor(**bad)
    with pytest.raises(ValueError, match="noise of light: give its illuminance"):
        at.chips.Light(shot_noise=1.0)
    with pytest.raises(ValueError, match="Light.dark"):
        at.chips.Light(illuminance=1.0, dark=-1.0)
    with pytest.raises(ValueError, match="shot > 0 needs output_keys"):
        mvm(torch.rand(3, 8), torch.ones(1), torch.randn(4, 8), Plan(bounds=(0, 8), shot=0.1))


def test_noise_of_light_can_be_scaled_and_files_hold_it() -> None:
    sensor = at.chips.photodiode_sensor(illuminance=50.0)
    assert {"shot_noise", "dark_current"} < set(sensor.non_idealities())
    double = sensor.scaled(shot_noise=2.0, dark_current=2.0)
    assert double.light.shot_variance == pytest.approx(4 * sensor.light.shot_variance)
    assert double.light.dark_std(9) == pytest.approx(2 * sensor.light.dark_std(9))
    assert at.chips.from_dict(at.chips.to_dict(sensor)) == sensor
    assert at.chips.ideal().light.shot_variance == at.chips.ideal().light.dark_std(9) == 0.0
