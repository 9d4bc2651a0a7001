"""Targets that allow for drift: what they do to conductances, weights and products."""

import copy
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.devices import PCM, DriftAware, SignificancePairs, hermes_two_device, ideal_device
from analogtorch.devices.cell import weights_as_written
from analogtorch.ops import reference

WEEK = 604_800.0
SHARES = torch.tensor([0.0, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0])


def _means(device: Any, t: float) -> Tensor:
    """Return the mean conductances at ``t`` of devices for ``SHARES``, from 0 to 1."""
    g = (SHARES * device.g_max).unsqueeze(1).expand(-1, 40_000)
    z = torch.randn(3, *g.shape, generator=torch.Generator().manual_seed(0))
    then = device.program(g, z[0])
    now = device.drift(then, device.drift_coefficient(g, z[1]), t)
    found = device.read(then, now, t, z[2]).mean(1)
    return (found - found[0]) / (found[-1] - found[0])


def test_mean_conductances_are_in_proportion_at_that_time_and_bent_without() -> None:
    aware = DriftAware(device=hermes_two_device(), time="1 week")
    # a mean of 40,000 devices is off by 0.0005 of the range (one sigma), lines between knots by
    # 0.003 at most
    assert (_means(aware, WEEK) - SHARES).abs().max() < 0.006
    assert (_means(aware.device, WEEK) - SHARES).abs().max() > 0.06


def test_the_energy_of_cells_counts_larger_targets() -> None:
    chip = at.chips.hermes64(weight_scale="column")
    aware = chip.drift_aware("1 day")
    w = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).clamp(-2.5, 2.5) / 2.5
    wanted = chip.cell.targets(w)
    larger = (aware.cell.device.target(wanted).sum() / wanted.sum()).item()
    assert 1.1 < larger < 1.5
    factor = at.chips.mean_conductance(aware.cell, 0, w)
    assert factor == pytest.approx(larger, rel=1e-4)
    assert at.chips.mean_conductance(aware.cell, 0) == pytest.approx(larger, rel=0.02)
    day = at.chips.mean_conductance(aware.cell, 86_400, w)
    assert at.chips.mean_conductance(chip.cell, 86_400, w) < day < factor
    mapping = at.map_to_chip(torch.nn.Linear(256, 256), torch.zeros(1, 256), chip=aware)
    plain, more = at.cost(mapping).energy, at.cost(mapping, conductance=factor).energy
    assert more.array == pytest.approx(larger * plain.array, rel=1e-4)
    assert (more.adc, more.dac, more.control) == (plain.adc, plain.dac, plain.control)


def test_targets_keep_the_ends_and_rise_in_between() -> None:
    aware = DriftAware(device=hermes_two_device(), time="1 month")
    g = torch.linspace(0, aware.g_max, 201)
    targets = aware.target(g)
    assert targets[0] == 0
    assert targets[-1].item() == pytest.approx(aware.g_max)
    assert (targets.diff() > 0).all()
    assert (targets[1:-1] > g[1:-1]).all()  # small ones fall fastest
    later = DriftAware(device=hermes_two_device(), time="1 year").target(g)
    assert (later[1:-1] > targets[1:-1]).all()
    without = DriftAware(device=ideal_device())
    assert torch.allclose(without.target(g / aware.g_max), g / aware.g_max, atol=1e-4)


def test_a_chip_has_the_targets_in_any_order_of_calls_and_in_its_file() -> None:
    chip = at.chips.hermes64().drift_aware("1 day")
    device = chip.cell.device
    assert isinstance(device, DriftAware)
    assert device.time == 86_400.0
    assert "targets for 1 day" in str(chip)
    assert at.chips.from_dict(at.chips.to_dict(chip)) == chip
    assert chip.drift_aware("1 day") == chip
    assert chip.scaled(drift=2.0) == at.chips.hermes64().scaled(drift=2.0).drift_aware("1 day")
    still = chip.without("drift", "programming_noise", "read_noise").cell.device
    assert torch.allclose(still.program(torch.ones(1), torch.ones(1)), torch.ones(1), atol=1e-4)


def test_products_err_less_after_a_day_and_a_year() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(256, 256, bias=False)), torch.rand(64, 256) * 2 - 1
    y = net(x)
    chip = at.chips.hermes64(weight_scale="column")
    models = [at.convert(copy.deepcopy(net), each) for each in (chip, chip.drift_aware())]
    for t in ("1 day", "1 year"):
        with torch.no_grad():
            plain, aware = ((at.program(m, seed=1).at(t)(x) - y).norm() for m in models)
        # 65,536 cells: an error differs by some 2 % of itself from chip to chip
        assert aware < 0.92 * plain


def test_a_loop_of_programming_ends_at_the_targets() -> None:
    torch.manual_seed(0)
    chip = at.chips.hermes64().drift_aware().without("adc_gain")
    model = at.convert(nn.Sequential(nn.Linear(64, 48, bias=False)), chip)
    once = at.program(model, seed=0)
    verified = at.program(model, seed=0, method=at.ProgramAndVerify())
    spread = [next(iter(p.yield_map().errors.values())).spread for p in (once, verified)]
    # what is written deliberately off, by 0.05 of the largest weight on average, is no error
    assert spread[1] < 0.06 < spread[0]
    w = model[0].weight / model[0].weight.abs().max()
    assert (weights_as_written(chip.cell, w) - w).abs().mean() > 0.04
    x = torch.eye(64)
    with torch.no_grad():
        off = verified.at("programmed")(x).T / model[0].weight.abs().max()
        gain = (off * w).sum() / (w * w).sum()
    assert (off / gain - w).abs().mean() > 0.03


@pytest.mark.parametrize("time", ["programmed", "0 s", 0.0])
def test_a_time_that_is_not_after_programming_is_refused(time: Any) -> None:
    with pytest.raises(ValueError, match="must be after programming, such as '1 day'"):
        at.chips.hermes64().drift_aware(time)


def test_devices_that_cannot_have_such_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="devices of chip 'memcapacitor' do not drift"):
        at.chips.memcapacitor().drift_aware("1 day")
    aware = DriftAware(device=hermes_two_device())
    with pytest.raises(ValueError, match="is drift aware already"):
        DriftAware(device=aware)
    with pytest.raises(ValueError, match="cannot be drift aware"):
        SignificancePairs(device=aware)


def test_what_software_chooses_is_kept_by_a_state_dict() -> None:
    x = torch.randn(256, 64)
    model = at.convert(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8)), HERMES)
    at.calibrate(model, list(x.split(64)))
    assert all(isinstance(x.chip.cell.device, DriftAware) for _, x in at.analog_layers(model))
    fresh = at.convert(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8)), HERMES)
    fresh.load_state_dict(model.state_dict())
    pairs = zip(at.analog_layers(model), at.analog_layers(fresh), strict=True)
    assert all(a.chip == b.chip for (_, a), (_, b) in pairs)
    fresh[0].chip = HERMES
    assert at.map_to_chip(fresh, x[:1]).tiles_used == at.map_to_chip(model, x[:1]).tiles_used
    ideal = at.chips.ideal()
    other = at.convert(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8)), ideal)
    with pytest.warns(UserWarning, match="saved on the chip 'hermes64', and the layers are on 'i"):
        other.load_state_dict(model.state_dict())  # no drift to allow for
    assert all(layer.chip.cell == ideal.cell for _, layer in at.analog_layers(other))


HERMES = at.chips.hermes64()


def test_calibrated_ranges_count_the_programming_noise_of_any_cell() -> None:
    """Kernels have no formula for it: noise that is left out makes a range per vector look best."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 3)), torch.randn(64, 4)
    for chip in (HERMES, HERMES.drift_aware()):
        assert (chip.cell.spread is None) == (chip is not HERMES)
        model = at.calibrate(at.convert(copy.deepcopy(net), chip), [x], effort="ranges")
        assert model[0].input_ranges is not None


def test_noisy_weights_take_the_curve_of_a_cell_without_a_formula() -> None:
    chip = HERMES.drift_aware()
    plan = at.convert(nn.Linear(96, 32), HERMES).executions.evaluation.plans[0]
    plan = replace(plan, weight_noise=1.0)
    w = torch.randn(32, 96)
    scale, key = w.abs().amax().expand(1, 32), torch.tensor(7)
    curve = chip.cell.programming_sigma
    off = reference.noisy_weight(w, scale, key, plan, curve) - w
    z = off / (scale.view(-1, 1) * curve(w / scale.view(-1, 1)))
    assert z.std().item() == pytest.approx(1, abs=0.06)  # 3,072 normals: 0.013


def test_training_draws_devices_a_month_old_and_when_their_targets_are_right() -> None:
    noise = at.TrainingNoise(weight="device")
    month = 2_592_000.0
    assert noise.moments(HERMES.cell.device) == (month,)
    assert noise.moments(HERMES.drift_aware("1 day").cell.device) == (86_400.0, month)
    assert noise.moments(HERMES.drift_aware("1 month").cell.device) == (month,)
    once = at.TrainingNoise(weight="device", time="1 h")
    assert once.moments(HERMES.drift_aware().cell.device) == (3_600.0,)
    ends = at.chips.neurram48().drift_aware("1 week").cell.device  # its data end after two days
    assert noise.moments(ends) == (ends.valid_until,)
    assert at.TrainingNoise().moments(HERMES.drift_aware().cell.device) == (month,)  # no effect


def test_a_time_at_which_nothing_is_left_is_refused_when_the_device_is_made() -> None:
    @at.devices.register
    @dataclass(frozen=True, kw_only=True)
    class Vanishing(PCM):
        def drift(self, g_programmed: Tensor, nu: Tensor, t: float) -> Tensor:
            return 0.0 * g_programmed

    fields_of = {f.name: getattr(hermes_two_device(), f.name) for f in fields(PCM)}
    with pytest.raises(ValueError, match="is no larger than an empty one"):
        DriftAware(device=Vanishing(**fields_of))


def test_a_model_on_such_devices_compiles() -> None:
    noise = at.TrainingNoise(weight="device", drop_connect=0.1)  # which no kernel draws
    model = at.convert(nn.Sequential(nn.Linear(8, 4)), HERMES.drift_aware().replace(training=noise))
    x = torch.randn(3, 8)
    compiled = torch.compile(copy.deepcopy(model).train(), backend="eager", fullgraph=True)
    with at.noise(1):
        y = compiled(x)
    with at.noise(1):
        assert torch.allclose(y, model.train()(x), atol=1e-5)
