"""Programming loops: what they reach, while they see the cells through the converters only."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.ops import Noise
from analogtorch.simulate.readout import cell_reads
from analogtorch.simulate.writing import GradientDescent, Method, ProgramAndVerify
from tests.crossbar import crossbar


def _layer(device: str = "two_device", **parts: object) -> nn.Module:
    torch.manual_seed(0)
    chip = crossbar(device=device, **parts)  # type: ignore[arg-type]
    layer = nn.Sequential(nn.Linear(300, 60, bias=False))
    # one weight per row block at the end of the range, where pulses end too
    with torch.no_grad():
        layer[0].weight.normal_().clamp_(-2.5, 2.5)[0, [0, -1]] = 2.7
    return at.convert(layer, chip)


def _error(model: nn.Module, chip: nn.Module) -> float:
    """Return the relative error of MVMs with random inputs and exact converters."""
    x = torch.rand(400, 300, generator=torch.Generator().manual_seed(5)) * 2 - 1
    held, exact = chip[0].programmed.weights[0], model[0].weight
    return ((x @ (held - exact).T).norm() / (x @ exact.T).norm()).item()


def _programmed(model: nn.Module, method: object, **options: object) -> float:
    return _error(
        model,
        at.program(model, seed=3, method=method, **options).at("programmed", compensation="none"),
    )


@pytest.mark.parametrize("device", ["two_device", "two_equal", "two_sequential"])
def test_gradient_descent_beats_program_and_verify_at_equal_noise(device: str) -> None:
    model = _layer(device)
    once = _programmed(model, None)
    # the same pulses and converters, and 30 MVMs per row of a full block against 25: a cell is read
    # so often in every round
    assert cell_reads(model[0].chip) == 25
    verified = min(
        _programmed(model, ProgramAndVerify(rounds=1, margin=margin))
        for margin in (0.0, 0.02, 0.05)
    )
    descended = _programmed(model, GradientDescent(rounds=30))
    assert once == pytest.approx(
        {"two_device": 0.13, "two_equal": 0.11, "two_sequential": 0.10}[device], rel=0.35
    )
    assert descended < 0.5 * verified
    assert descended < 0.25 * once


@pytest.mark.parametrize(("device", "seed"), [("one_device", 1), ("pcm_like", 2)])
def test_it_does_on_other_chips_too(device: str, seed: int) -> None:
    model = _layer(device)

    def error(method: object) -> float:
        return _error(
            model, at.program(model, seed=seed, method=method).at("programmed", compensation="none")
        )

    verified = min(error(ProgramAndVerify(rounds=1, margin=margin)) for margin in (0.0, 0.05))
    assert error(GradientDescent()) < 0.5 * verified


def _spread(chip: at.Chip, rows: int, method: Method) -> float:
    """Return the spread of the errors of uniform weights, in units of the largest."""
    torch.manual_seed(0)
    layer = nn.Linear(rows, 40, bias=False)
    nn.init.uniform_(layer.weight, -1, 1)
    physical = at.program(at.convert(layer, chip), seed=1, method=method)
    return physical._placed[""][0].weight_errors()[0].std().item()


@pytest.mark.parametrize("rows", [20, 150])
@pytest.mark.parametrize(
    "preset", [at.chips.neurram48, at.chips.ibm_speech34, at.chips.memcapacitor, at.chips.sonos40]
)
def test_it_does_with_coarse_adcs_and_noise(preset: Callable[[], at.Chip], rows: int) -> None:
    """The ADC step and the noise average out over inputs and rounds."""
    verified = _spread(preset(), rows, ProgramAndVerify())
    assert _spread(preset(), rows, GradientDescent()) < 0.6 * verified


def test_outputs_at_the_ends_of_the_adc_range_are_ignored() -> None:
    """Uniform weights of a whole tile go beyond the range in 3 % of the MVMs of random inputs."""
    assert _spread(at.chips.hermes64(), 256, GradientDescent()) < 0.001


def test_the_loops_are_bounded_and_the_margin_is_kept() -> None:
    model = _layer(adc={"noise": 0.0, "bits": None})
    exact = [
        _programmed(model, ProgramAndVerify(rounds=rounds, margin=0.0)) for rounds in (1, 3, 30)
    ]
    assert exact[0] > exact[1] > exact[2]
    assert exact[2] < 1e-3  # without ADC and noise, the error goes as a power of the rounds
    chip = at.program(model, seed=3, method=ProgramAndVerify(margin=0.02)).at(
        "programmed", compensation="none"
    )
    full = chip[0].programmed.scales[0].repeat_interleave(torch.tensor([256, 44]), 0).T
    worst = ((chip[0].programmed.weights[0] - model[0].weight) / full).abs().max().item()
    assert 0.015 < worst <= 0.02 + 1e-5  # cells are left alone once they are inside


def test_what_a_read_of_a_cell_cannot_see_limits_the_verify() -> None:
    """Noise of a read limits it; steps of an ADC do not.

    A cell is read so often that there are 256 steps.
    """

    def error(bits: int, noise: float) -> float:
        return _programmed(_layer(adc={"noise": noise, "bits": bits}), ProgramAndVerify(margin=0.0))

    assert error(8, 0.04) < 0.5 * error(8, 0.1)
    assert [cell_reads(_layer(adc={"bits": bits})[0].chip) for bits in (12, 8, 6)] == [2, 25, 100]
    fine, coarse = error(8, 0.0), error(6, 0.0)
    assert coarse == pytest.approx(fine, rel=0.1)
    assert max(fine, coarse) < 0.01


@pytest.mark.parametrize("noise", [0.0, 0.04])
@pytest.mark.parametrize("device", ["two_device", "one_device"])
def test_the_default_verify_of_hermes_brings_weights_nearer(device: str, noise: float) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(256, 256, bias=False)
    nn.init.normal_(layer.weight)
    model = at.convert(layer, at.chips.hermes64(device=device, output_noise=noise))

    def spread(method: ProgramAndVerify | None) -> float:
        """Standard deviation of the error of the weights, in units of the largest."""
        held = (
            at.program(model, seed=1, method=method)
            .at("programmed", compensation="none")
            .programmed
        )
        return ((held.weights[0] - model.weight) / held.scales[0].T).std().item()

    once, verified = spread(None), spread(ProgramAndVerify())
    assert once == pytest.approx({"two_device": 0.035, "one_device": 0.051}[device], rel=0.05)
    assert verified < 0.5 * once
    assert verified < ProgramAndVerify().margin  # cells inside the margin are left alone


def test_the_same_seed_writes_the_same_chip_and_the_model_is_untouched() -> None:
    model = _layer()
    before = model[0].weight.clone()
    first, again = (
        at.program(model, seed=3, method=GradientDescent(rounds=3)).at("1 day") for _ in range(2)
    )
    assert torch.equal(first[0].programmed.weights[0], again[0].programmed.weights[0])
    other = at.program(model, seed=4, method=GradientDescent(rounds=3)).at("1 day")
    assert not torch.equal(first[0].programmed.weights[0], other[0].programmed.weights[0])
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("aware", [False, True])
@pytest.mark.parametrize("preset", [at.chips.neurram48, at.chips.sonos40], ids=lambda p: p.__name__)
@pytest.mark.parametrize("method", [ProgramAndVerify(margin=0.0), GradientDescent()])
def test_cells_relax_however_closely_they_were_written(
    preset: Callable[[], at.Chip], aware: bool, method: Method
) -> None:
    """Time adds its variance to cells that were written without an error, as to all others."""
    chip = preset().replace(dac={"bits": None}, adc={"bits": None, "steps": None, "noise": 0.0})
    chip = chip.without("read_noise")
    chip = chip.drift_aware("1 day") if aware else chip
    torch.manual_seed(0)
    layer = nn.Linear(100, 80, bias=False)
    nn.init.uniform_(layer.weight, -1, 1)

    def changes(device: at.Chip, method: Method | None) -> list[float]:
        """Return the change of the weights since programming, relative to them, at three times."""
        model = at.convert(copy.deepcopy(layer), device)
        physical = at.program(model, seed=1, method=method)
        views = [
            physical.at(t, compensation="none").programmed.weights[0]
            for t in ("programmed", "1 hour", "1 day", "2 days")
        ]
        return [((view - views[0]).norm() / layer.weight.norm()).item() for view in views[1:]]

    exact = changes(chip.without("programming_noise"), None)
    assert exact[0] < exact[1]
    assert changes(chip, method) == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("preset", [at.chips.hermes64, at.chips.neurram48])
def test_writing_decides_no_drift_of_devices_whose_error_does_not_grow(
    preset: Callable[[], at.Chip],
) -> None:
    device = at.devices.pcm_like() if preset is at.chips.hermes64 else at.devices.rram_cmo()
    chip = preset().replace(cell=at.devices.DifferentialPair(device=device))
    torch.manual_seed(0)
    model = at.convert(nn.Linear(100, 80, bias=False), chip)
    section = at.program(model, seed=1, method=ProgramAndVerify(rounds=3))._placed[""][0]
    part, g = slice(0, 80), section.g
    drift, read = (
        section._draws.normals(section._draws.of(part, *names))
        for names in ((Noise.DRIFT,), (Noise.READ, "86400.0"))
    )
    nu = device.drift_coefficient(chip.cell.targets(section.w), drift)
    expected = device.read(g, device.drift(g, nu, 86400.0), 86400.0, read)
    torch.testing.assert_close(section._read(part, 86400.0), expected)


_FEW = {
    "binary devices": at.devices.DifferentialPair(device=at.devices.rram_binary()),
    "two per polarity": at.devices.DifferentialPair(
        device=at.devices.rram_binary(), devices_per_polarity=2, split="sequential"
    ),
    "ternary": at.devices.QuantisedPair(device=at.devices.hermes_two_device()),
    "binary": at.devices.QuantisedPair(device=at.devices.hermes_two_device(), levels=2),
    "offset": at.devices.OffsetCell(device=at.devices.hermes_two_device(), levels=2),
    "significances": at.devices.SignificancePairs(device=at.devices.rram_binary()),
}


@pytest.mark.parametrize("method", [None, ProgramAndVerify(), GradientDescent()])
@pytest.mark.parametrize("name", _FEW)
def test_cells_of_few_weights_are_written_to_these(name: str, method: Method | None) -> None:
    """A method lessens the spread around the weights that a cell can hold, and adds none."""
    chip = at.chips.ideal().replace(cell=_FEW[name], name="of few weights")
    torch.manual_seed(0)
    layer = nn.Linear(64, 40, bias=False)
    nn.init.uniform_(layer.weight, -1, 1)

    def held(chip: at.Chip, method: Method | None) -> tuple[torch.Tensor, float]:
        physical = at.program(at.convert(copy.deepcopy(layer), chip), seed=0, method=method)
        view = physical.at("programmed", compensation="none")
        programmed = view.programmed
        return programmed.weights[0] / programmed.scales[0].T, physical.yield_map().analog_yield

    exact, share = held(chip.without("programming_noise"), None)
    states = exact.round(decimals=4).unique()
    assert len(states) == {"binary": 2, "offset": 2, "two per polarity": 5, "significances": 7}.get(
        name, 3
    )
    assert share == 1
    found, share = held(chip, method)
    assert share == pytest.approx(1, abs=0.1 if method is None else 0.01)
    once = (held(chip, None)[0] - exact).std()
    if method is not None:
        assert (found - exact).std() < 0.5 * once


_OTHER = {
    "one per polarity": at.devices.DifferentialPair(device=at.devices.hermes_two_device()),
    "smallest above 0": at.devices.DifferentialPair(device=at.devices.rram_milo()),
    "sequential": at.devices.DifferentialPair(
        device=at.devices.pcm_like(), devices_per_polarity=2, split="sequential"
    ),
}


@pytest.mark.parametrize("method", [ProgramAndVerify(), GradientDescent()])
@pytest.mark.parametrize("name", [*_FEW, *_OTHER])
def test_pulses_end_at_the_range_of_a_device(name: str, method: Method) -> None:
    """Also where a cell with a broken device wants more: the first write alone goes beyond."""
    cell = {**_FEW, **_OTHER}[name]
    torch.manual_seed(0)
    layer = nn.Linear(64, 40, bias=False)
    nn.init.uniform_(layer.weight, -1, 1)
    model = at.convert(layer, at.chips.hermes64().replace(cell=cell, name=name))
    defects = at.Defects(stuck_on=0.03, stuck_off=0.03)
    once, closer = (
        at.program(model, seed=1, method=each, defects=defects)._placed[""][0].g
        for each in (None, method)
    )
    assert (closer <= once.clamp_min(cell.device.g_max)).all()
    assert (closer >= once.clamp_max(cell.device.g_min)).all()


@pytest.mark.parametrize(
    ("cell", "weight_scale"),
    [("smallest above 0", "block"), ("one per polarity", "column"), ("sequential", "column")],
)
def test_other_devices_take_what_one_at_its_limit_cannot(cell: str, weight_scale: str) -> None:
    """Weights near 0, whose device is empty, and at the end of the range, whose device is full."""
    chip = at.chips.hermes64(weight_scale=weight_scale).replace(cell=_OTHER[cell], name=cell)
    torch.manual_seed(0)
    layer = nn.Linear(96, 96, bias=False)
    nn.init.normal_(layer.weight)
    physical = at.program(at.convert(layer, chip), seed=1, method=GradientDescent())
    section = physical._placed[""][0]
    error = chip.cell.weights(section.g) - section.w
    assert error.std() < 1.2 * 0.00107  # what pulses without limits reach
    assert error[section.w.abs() > 0.95].std() < 0.002
    assert error.abs().max() < 0.02


@pytest.mark.parametrize("method", [ProgramAndVerify(), GradientDescent()])
def test_a_cell_with_a_device_stuck_on_is_as_near_as_its_other_device_gets(method: Method) -> None:
    """The polarity that carries the weight gets the pulses that it can take if it works."""
    torch.manual_seed(0)
    model = at.convert(nn.Linear(200, 200, bias=False), at.chips.hermes64())
    physical = at.program(model, seed=1, method=method, defects=at.Defects(stuck_on=0.02))
    section = physical._placed[""][0]
    held, w = model.chip.cell.weights(section.g), section.w
    plus, minus = section.stuck.faults > 0
    for on, off, target in ((plus, minus, w), (minus, plus, -w)):
        value = held if on is plus else -held
        against, along = (on & ~off & (target < -0.05), on & ~off & (target > 0.05))
        assert against.sum() > 100
        assert along.sum() > 100
        assert value[against].mean().item() == pytest.approx(0, abs=0.04)  # both at the largest
        assert value[along].mean().item() == pytest.approx(1, abs=0.03)  # no pulse moves it


@pytest.mark.parametrize("changes", [{"rounds": 0}, {"step": 0.0}, {"step": 1.5}, {"noise": -1.0}])
@pytest.mark.parametrize("method", [ProgramAndVerify, GradientDescent])
def test_bad_numbers_are_refused(method: type, changes: dict) -> None:
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=rf"{method.__name__}.{name} must .*{value}"):
        method(**changes)


def test_other_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="margin"):
        ProgramAndVerify(margin=-0.1)
    with pytest.raises(TypeError, match="method must be None or .*got 'gdp'"):
        at.program(_layer(), seed=1, method="gdp")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "method", [None, ProgramAndVerify(), GradientDescent()], ids=lambda m: type(m).__name__
)
def test_a_calibrated_adc_bound_does_not_change_how_a_chip_is_written_and_read_out(
    method: object,
) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(40, 20)), torch.randn(50, 40)
    before = at.calibrate(at.convert(copy.deepcopy(model), crossbar()), [x])
    after = at.calibrate(copy.deepcopy(before), [x], adc="percentile", percentile=99.0)
    assert after[0].saved_column_ranges("adc_ranges") < 0.5 * before[0].chip.adc.range
    views = [
        at.program(m, seed=1, method=method).at("1 day", compensation="least_squares")
        for m in (before, after)
    ]
    held = [view[0].programmed for view in views]
    assert torch.equal(held[0].weights[0], held[1].weights[0])
    assert torch.equal(held[0].gains[0], held[1].gains[0])
