"""Sensors that compute: shot noise and dark current by light, refusals, training in place."""

import copy
import math
from pathlib import Path

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
    return at.program(model, seed=seed).at("0 s")


def test_an_ideal_sensor_equals_the_digital_convolution() -> None:
    image = torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    with torch.no_grad():
        for each, x in ((filters(), image), (conv, image.expand(2, 3, 12, 12))):
            expected, largest = each(x), float(each.weight.abs().sum((1, 2, 3)).max())
            found = on_sensor(each, IDEAL)(x)
            assert_close(found, expected, rtol=0, atol=1e-6 * max(largest, 1.0))


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


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


IMAGES = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_first_convolution_alone_is_in_the_sensor() -> None:
    chip = at.chips.hermes64()
    model = at.convert(net(), chip, sensor="0", example=IMAGES)
    assert type(model[0]) is at.nn.AnalogSensorConv2d
    assert type(at.to_digital(copy.deepcopy(model))[0]) is nn.Conv2d
    assert model[0].chip == at.chips.photodiode_sensor()
    assert model[3].chip == chip
    at.calibrate(model, [IMAGES])
    assert torch.isfinite(at.program(model, seed=1).at("0 s")(IMAGES)).all()
    assert at.convert(net(), chip, sensor=("0", NOISY))[0].chip == NOISY
    assert at.convert(model, chip, sensor="0") is model  # it is there already
    with pytest.raises(ValueError, match="on another chip already"):
        at.convert(model, chip, sensor=("0", NOISY))


def test_a_sensor_layer_can_be_made_directly() -> None:
    torch.manual_seed(0)
    layer = at.nn.AnalogSensorConv2d(1, 4, 3, stride=2, padding=1, padding_mode="reflect").eval()
    assert layer.chip == at.chips.photodiode_sensor()
    torch.manual_seed(0)
    digital = nn.Conv2d(1, 4, 3, stride=2, padding=1, padding_mode="reflect").eval()
    converted = at.convert(nn.Sequential(digital), layer.chip)
    assert torch.equal(layer(IMAGES), converted(IMAGES))
    assert_close(layer(IMAGES[0]), layer(IMAGES)[0])
    assert "chip=photodiode_sensor" in repr(layer)
    copied = at.nn.AnalogSensorConv2d(
        1, 4, 3, stride=2, padding=1, padding_mode="reflect", chip=layer.chip
    )
    copied.load_state_dict(layer.state_dict())
    assert torch.equal(copied.eval()(IMAGES), layer(IMAGES))
    assert torch.equal(copy.deepcopy(layer)(IMAGES), layer(IMAGES))
    back = at.to_digital(copied)
    assert type(back) is nn.Conv2d
    assert back.state_dict().keys() == nn.Conv2d(1, 4, 3).state_dict().keys()
    assert torch.isfinite(at.program(layer, seed=1).at("0 s")(IMAGES)).all()
    ideal = at.nn.AnalogSensorConv2d(1, 4, 3, chip=IDEAL).eval()
    expected = nn.functional.conv2d(IMAGES, ideal.weight, ideal.bias)
    assert_close(ideal(IMAGES), expected, rtol=0, atol=1e-6)


def test_a_sensor_layer_takes_chips_that_sense_light_alone() -> None:
    for chip in (at.chips.hermes64(), at.chips.ideal()):
        with pytest.raises(ValueError, match=f"{chip.name!r} senses no light.*photodiode_sensor"):
            at.nn.AnalogSensorConv2d(1, 4, 3, chip=chip)
    layer = at.nn.AnalogSensorConv2d(1, 4, 3)
    with pytest.raises(ValueError, match="or make an AnalogConv2d"):
        layer.chip = at.chips.hermes64()
    assert layer.chip == at.chips.photodiode_sensor()
    with pytest.raises(TypeError, match="chip must be a Chip"):
        at.nn.AnalogSensorConv2d(1, 4, 3, chip="photodiode_sensor")
    with pytest.raises(ValueError, match="a kernel of 5x5 is 25 photodiodes"):
        at.nn.AnalogSensorConv2d(1, 4, 5)


class Padded(nn.Conv2d):
    """A convolution with an attribute of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.pad(x, (1, 1, 1, 1)))


def test_a_subclass_of_conv2d_goes_into_the_sensor(tmp_path: Path) -> None:
    model = at.convert(nn.Sequential(Padded(1, 4, 3)).eval(), IDEAL)
    assert isinstance(model[0], at.nn.AnalogSensorConv2d)
    assert isinstance(model[0], Padded)
    expected = at.to_digital(copy.deepcopy(model))(IMAGES)
    assert_close(model(IMAGES), expected, rtol=0, atol=1e-6)
    at.save(model, tmp_path / "model")
    again = at.load(tmp_path / "model", nn.Sequential(Padded(1, 4, 3)).eval())
    assert type(again[0]) is type(model[0])
    assert torch.equal(again(IMAGES), model(IMAGES))


@pytest.mark.filterwarnings("ignore:.*beyond the device's data")
def test_a_sensor_reads_no_compensation() -> None:
    """It would take known inputs, of either sign, and photodiodes do not drift."""
    chip = at.chips.photodiode_sensor(spread=0.2).without("adc", "shot_noise", "dark_current")
    physical = at.program(at.convert(nn.Sequential(filters()), chip), seed=1)
    views = [
        physical.at(time, compensation=compensation)
        for time in ("0 s", "10 years")
        for compensation in ("least_squares", "global", "column", "none")
    ]
    for view in views:
        assert all((gains == 1).all() for gains in view[0].programmed.gains)
        assert torch.equal(view(IMAGES), views[0](IMAGES))
    cost = physical.recalibration_cost()
    assert (cost.mvms, cost.seconds, cost.joules) == (0, 0, 0)


def test_columns_of_a_sensor_are_calibrated_in_light_that_there_is() -> None:
    chip = NOISY.replace(periphery={"column_calibration": True})
    physical = at.program(at.convert(nn.Sequential(filters()), chip), seed=1)
    for section in physical._placed["0"]:
        x = section.block(0, slice(0, 1)).inputs()
        assert set(x.unique().tolist()) == {0.0, 1.0}


def test_reads_of_a_sensor_and_the_chip_behind_it_are_charged_by_their_own_costs() -> None:
    hermes, images = at.chips.hermes64(), IMAGES[:5]
    layers = nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3)
    model = at.convert(nn.Sequential(*layers), hermes, sensor="0")
    at.calibrate(model, [images])
    alone = at.program(at.convert(nn.Sequential(layers[2]), hermes), seed=1).recalibration_cost()
    physical = at.program(model.eval(), seed=1)
    assert physical.recalibration_cost() == alone  # the sensor is not read
    # the batches of a recovery take 36 exposures of each of 4 filters, and an MVM of the other
    recovery = at.Recovery(batches=[images], columns=None, batch_norm=True)
    found = physical.recalibration_cost("none", recovery)
    assert found.mvms == 5 * (4 * 36 + 1)
    sensor = model[0].chip
    assert found.seconds == pytest.approx(5 * 36 * sensor.light.exposure)
    of_chip = hermes.cost.mvm(rows=144 / 256, cols=3 / 256, cells=144 * 3 / 256**2).total
    of_sensor = sensor.cost.mvm(rows=1, cols=1, cells=1).total
    assert found.joules == pytest.approx(5 * (4 * 36 * of_sensor + of_chip))

    def metric(view: nn.Module) -> float:
        return float(torch.isfinite(view(images)).all())

    lasting = at.lifetime(
        model, metric, limit=0.5, recalibration=at.Recalibration(every="1 year"), num_chips=1
    )
    assert lasting.cost == alone
    assert f"one takes {alone}" in str(lasting)
    interval = at.recalibration_interval(
        model, metric, limit=0.5, intervals=["180 days"], num_chips=1
    )
    assert interval.cost == alone
    assert f"one recalibration takes {alone}" in str(interval)


@pytest.mark.parametrize("name", at.chips.FILTERS)
def test_each_filter_responds_within_5_percent(name: str) -> None:
    """Of its ideal response at the preset's light: that of Jang 2022 is not in the sources used.

    Its taps, as fitted to the outputs, and the error of an output, both to the largest.
    """
    g, taps = torch.Generator().manual_seed(0), torch.tensor(at.chips.FILTERS[name]).float()
    image, conv = torch.rand(1, 1, 40, 40, generator=g), nn.Conv2d(1, 1, 3, bias=False)
    conv.weight.data = taps.view(1, 1, 3, 3)
    patches = nn.functional.unfold(image, 3)[0].mT
    for seed in range(3):
        y = on_sensor(conv, at.chips.photodiode_sensor(), seed)(image).detach().flatten()
        fitted = torch.linalg.lstsq(patches, y.unsqueeze(1)).solution.flatten()
        assert 0 < (fitted - taps).abs().max() < 0.05 * taps.abs().max()
        error = (y - patches @ taps).square().mean().sqrt()
        assert 0 < error < 0.05 * (patches @ taps).abs().max()


def test_light_is_that_of_the_chip_whatever_the_images() -> None:
    """Calibration on dim images must not make them bright, nor training change the light."""
    model = at.convert(net(), at.chips.hermes64(), sensor="0")
    at.calibrate(model, [0.1 * IMAGES])
    assert model[0].input_ranges == (1.0,)
    assert not model[0].input_range.requires_grad
    model[0].chip = NOISY
    assert model[0].input_ranges == (1.0,)
    again = at.convert(net(), at.chips.hermes64(), sensor="0")
    again.load_state_dict(model.state_dict())
    assert again[0].input_ranges == (1.0,)
    digital = at.to_digital(model)
    digital.load_state_dict(again.state_dict())
    moved = at.nn.AnalogConv2d(1, 4, 3, chip=at.chips.hermes64())
    moved.chip = NOISY
    assert moved.input_ranges == (1.0,)
    weight = torch.randn(4, 1, 3, 3)
    found = at.nn.functional.analog_conv2d(0.1 * IMAGES, weight, IDEAL)
    assert_close(found, nn.functional.conv2d(0.1 * IMAGES, weight), rtol=0, atol=1e-5)


def test_a_model_with_a_sensor_alone_needs_no_calibration() -> None:
    model = at.convert(net().eval(), IDEAL, include="0", sensor=("0", IDEAL))
    with pytest.raises(ValueError, match="sensors and embeddings have none"):
        at.calibrate(model, [IMAGES])
    at.hwa.adapt(model, list(IMAGES.split(5)), steps=2, num_chips=1, times=["0 s"])
    view = at.correct_columns(at.program(model, seed=1).at("0 s"), [IMAGES])
    assert torch.isfinite(view(IMAGES)).all()


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(1)
        self.head, self.big = nn.Linear(72, 2), nn.Conv2d(1, 2, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv1(self.norm(x).relu()).flatten(1)) + self.big(x).sum()


@pytest.mark.parametrize(
    ("sensor", "error", "said"),
    [
        ("conv", ValueError, "no layer is called 'conv'.*'conv1'"),
        ("head", ValueError, "'head' is Linear; a sensor computes the first nn.Conv2d"),
        ("big", ValueError, r"a kernel of 5x5 is 25 photodiodes.*'rows': 25"),
        ("conv1", ValueError, "layer 'norm' runs before 'conv1', which would not see the light"),
        (("conv1", at.chips.hermes64()), ValueError, "'hermes64' senses no light"),
        (NOISY, TypeError, "sensor must be a layer, sensor='conv1', or"),
        (["conv1"], TypeError, "sensor must be a layer"),
        (("conv1", "sensor"), TypeError, "sensor must be a layer"),
    ],
)
def test_layers_that_no_sensor_computes(sensor, error, said: str) -> None:
    model = Normalised().eval()
    with pytest.raises(error, match=said):
        at.convert(model, at.chips.ideal(), sensor=sensor, example=IMAGES)
    assert type(model.conv1) is nn.Conv2d


def test_refusals() -> None:
    sensor = at.chips.photodiode_sensor()
    model = at.convert(nn.Sequential(filters()), sensor)
    with pytest.raises(ValueError, match="takes light, which is never negative, got -0.5"):
        model(torch.full((1, 1, 4, 4), -0.5))
    with pytest.raises(ValueError, match=r"light up to 1, which is 1000 lux, got 255"):
        model(torch.full((1, 1, 4, 4), 255.0))
    model[0].set_input_range(255.0)
    assert torch.isfinite(model(torch.full((1, 1, 4, 4), 255.0))).all()
    with pytest.raises(ValueError, match=r"a kernel of 5x5 is 25 photodiodes.*'rows': 25"):
        at.convert(nn.Sequential(nn.Conv2d(1, 2, 5)), sensor)
    with pytest.raises(ValueError, match=r"ConvTranspose2d has no light to sense.*sensor='conv1'"):
        at.convert(nn.Sequential(nn.ConvTranspose2d(1, 2, 3)), sensor)
    with pytest.raises(ValueError, match="Linear has no light to sense"):
        at.convert(nn.LSTM(1, 2), sensor)
    for bad in ({"illuminance": -1.0}, {"illuminance": 0.0}, {"exposure": 0.0}):
        with pytest.raises(ValueError, match=f"Light.{next(iter(bad))}"):
            at.chips.photodiode_sensor(**bad)
    with pytest.raises(ValueError, match="noise of light: give its illuminance"):
        at.chips.Light(shot_noise=1.0)
    for given in ({"exposure": 0.1}, {"electrons": 1.0}):
        with pytest.raises(
            ValueError, match=f"{next(iter(given))}.* no effect without light: give"
        ):
            at.chips.hermes64().replace(light=given)
    with pytest.raises(ValueError, match="Light.dark"):
        at.chips.Light(illuminance=1.0, dark=-1.0)
    with pytest.raises(ValueError, match="shot > 0 needs output_keys"):
        mvm(torch.rand(3, 8), torch.ones(1), torch.randn(4, 8), Plan(bounds=(0, 8), shot=0.1))


def test_a_sensor_takes_the_first_layer_alone() -> None:
    sensor, model = at.chips.photodiode_sensor(), net()
    with pytest.raises(ValueError, match=r"2 layers would be on it.*sensor='0'.*include='0'"):
        at.convert(model, sensor)
    with pytest.raises(ValueError, match=r"'3' takes the results of '1'.*map_by_chip"):
        at.map_to_chip(model, IMAGES[:1], chip=sensor)
    first = at.map_to_chip(model, IMAGES[:1], chip=sensor, exclude="3")
    assert [m.name for m in first.matrices] == ["0"]
    assert isinstance(at.convert(model, sensor, include="0")[3], nn.Linear)


def test_an_mvm_of_a_sensor_takes_the_exposure() -> None:
    conv, sensor = filters(), at.chips.photodiode_sensor()
    for exposure in (1e-4, 1e-3, 1e-2):
        chip = sensor.replace(light={"exposure": exposure})
        assert at.chips.mvm_time(chip).value == exposure
        assert at.chips.mvm_time(at.chips.photodiode_sensor(exposure=exposure)).value == exposure
        cost = at.cost(at.map_to_chip(conv, IMAGES[:1, :, :3, :3], chip=chip))
        assert cost.latency == pytest.approx(exposure, rel=1e-3)


def test_noise_of_light_can_be_scaled_and_files_hold_it() -> None:
    sensor = at.chips.photodiode_sensor(illuminance=50.0)
    assert {"shot_noise", "dark_current"} < set(sensor.non_idealities())
    double = sensor.scaled(shot_noise=2.0, dark_current=2.0)
    assert double.light.shot_variance == pytest.approx(4 * sensor.light.shot_variance)
    assert double.light.dark_std(9) == pytest.approx(2 * sensor.light.dark_std(9))
    assert at.chips.from_dict(at.chips.to_dict(sensor)) == sensor
    assert at.chips.ideal().light.shot_variance == at.chips.ideal().light.dark_std(9) == 0.0
