import copy
import dataclasses

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.calibrate.histogram import Histogram
from analogtorch.ops import rounded

CHIP = dataclasses.replace(at.chips.hermes64(), output_noise=0.0)


def _peaked(*shape: int) -> torch.Tensor:
    """Weights of which one sets the scale: partial sums are small in its units."""
    w = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 0.02
    w.view(-1)[0] = 1.0
    return w


def _net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(300, 32), nn.ReLU(), nn.Linear(32, 8))
    for layer in (net[0], net[2]):
        layer.weight.data = _peaked(*layer.weight.shape)
    return net


X = torch.randn(200, 300, generator=torch.Generator().manual_seed(1)).clamp(-2, 2)


def _bounds(model: nn.Module) -> list[float]:
    return [layer.chip.output_bound for _, layer in at.analog_layers(model)]


@pytest.mark.parametrize("per", ["layer", "tile"])
@pytest.mark.parametrize("adc", ["mse", "percentile", "absmax"])
def test_small_partial_sums_are_read_with_less_error(adc: str, per: str) -> None:
    digital = _net()
    errors = []
    for choice in (None, adc):
        model = at.calibrate(at.convert(copy.deepcopy(digital), CHIP), [X], per=per, adc=choice).eval()
        errors.append((model(X) - digital(X)).square().mean().sqrt().item() / digital(X).std().item())
    # the chip's bound of 12 has steps of 0.094, the sums of the first layer a standard deviation of about 0.15, but for
    # the column with the large weight, which absmax covers
    assert errors[1] < errors[0] / 4
    assert all(bound < 4 for bound in _bounds(model))
    assert {layer.chip.nominal for _, layer in at.analog_layers(model)} == {CHIP}


def test_mse_is_the_least_error_in_units_of_the_output() -> None:
    model = at.calibrate(at.convert(_net(), dataclasses.replace(CHIP, output_bits=5)), [X], adc="mse").eval()
    layer = model[0]

    def error(bound: float) -> float:
        other = copy.deepcopy(layer)
        other.chip = dataclasses.replace(layer.chip, output_bound=bound)
        exact = copy.deepcopy(layer)
        exact.chip = dataclasses.replace(layer.chip, output_bits=None)
        return (other(X) - exact(X)).square().mean().item()

    best = min(error(layer.chip.output_bound * f) for f in torch.linspace(0.3, 3, 40).tolist())
    assert error(layer.chip.output_bound) < 1.1 * best


def test_a_bound_lies_outside_the_output_noise() -> None:
    noisy = dataclasses.replace(CHIP, output_noise=2.0)
    quiet, loud = (_bounds(at.calibrate(at.convert(_net(), chip), [X], adc="absmax"))[1] for chip in (CHIP, noisy))
    assert quiet < 1.5 < 6 < loud  # of 1,600 normals, the largest lies beyond 3 standard deviations


def test_it_is_declared_and_taken_back() -> None:
    model = at.calibrate(at.convert(_net(), CHIP), [X], adc="mse")
    first = _bounds(model)
    told = str(at.summary(model))
    assert f"ADC bound calibrated, the chip's own is 12: 0 {first[0]:.4g}, 2 {first[1]:.4g}" in told
    assert at.summary(model).chips == (CHIP,)
    assert at.convert(model, CHIP) is model  # a no-op still
    assert _bounds(model) == first
    with pytest.raises(ValueError, match="on another chip already"):
        at.convert(model, dataclasses.replace(CHIP, output_bound=3.0))
    ranges = [layer.input_ranges for _, layer in at.analog_layers(model)]
    at.calibrate(model, [X], adc="mse")
    assert (_bounds(model), [layer.input_ranges for _, layer in at.analog_layers(model)]) == (first, ranges)
    at.calibrate(model, [X])
    assert _bounds(model) == [12.0, 12.0]
    assert "ADC bound" not in str(at.summary(model))


def test_it_is_saved_and_programmed(tmp_path) -> None:
    model = at.calibrate(at.convert(_net(), CHIP), [X], adc="mse").eval()
    saved = at.save(model, tmp_path)
    for other in (_net(), at.convert(_net(), CHIP)):
        loaded = at.load(saved, other).eval()
        assert _bounds(loaded) == _bounds(model)
        assert torch.equal(loaded(X), model(X))
    view = at.program(model, seed=1).at("1 h")
    assert _bounds(view) == _bounds(model)


def test_matrices_of_recurrent_layers_and_convolutions() -> None:
    torch.manual_seed(0)
    lstm = at.convert(nn.Sequential(nn.LSTM(300, 12)), CHIP)
    at.calibrate(lstm, [torch.randn(7, 5, 300)], adc="absmax")
    assert lstm[0].ih_l0.chip.nominal_bound == lstm[0].hh_l0.chip.nominal_bound == 12.0
    assert lstm[0].ih_l0.chip.output_bound != lstm[0].hh_l0.chip.output_bound
    at.convert(lstm, CHIP)
    attention = at.convert(nn.MultiheadAttention(16, 2), CHIP)
    q, k = torch.randn(2, 6, 4, 16)
    at.calibrate(attention, [q], adc="absmax", per="tile", forward=lambda m, q: m(q, k, k))
    assert attention.in_proj.chip.nominal_bound == 12.0
    for grouped in ("sequential", "block_diagonal"):
        chip = dataclasses.replace(CHIP, rows=16, grouped=grouped, output_bits=16)
        digital = nn.Sequential(nn.Conv2d(4, 6, 5, padding=2, groups=2), nn.Conv2d(6, 4, 3))
        x = torch.randn(2, 4, 9, 9)
        model = at.calibrate(at.convert(copy.deepcopy(digital), chip), [x], adc="absmax", method="absmax").eval()
        exact = copy.deepcopy(model)
        for _, layer in at.analog_layers(exact):
            layer.chip = dataclasses.replace(layer.chip, output_bits=None)
        assert torch.allclose(model[0](x), exact[0](x), atol=1e-3)  # the largest sum fits, and barely
        model[0].chip = dataclasses.replace(model[0].chip, output_bound=model[0].chip.output_bound / 1.1)
        assert not torch.allclose(model[0](x), exact[0](x), atol=1e-3)


def test_batches_may_be_an_iterator_of_any_split_and_the_random_state_is_untouched() -> None:
    chip = dataclasses.replace(CHIP, output_noise=0.1)
    state = torch.get_rng_state()
    one = _bounds(at.calibrate(at.convert(_net(), chip), [X], adc="percentile"))
    parts = _bounds(at.calibrate(at.convert(_net(), chip), iter(X.split(70)), adc="percentile"))
    torch.set_rng_state(state)
    assert one == parts
    model = at.convert(_net(), chip)
    state = torch.get_rng_state()
    at.calibrate(model, [X], adc="mse")
    assert torch.equal(torch.get_rng_state(), state)


def test_sequences_may_be_split_too() -> None:
    torch.manual_seed(0)
    digital, x = nn.LSTM(20, 6, batch_first=True), torch.randn(40, 7, 20)
    chip = dataclasses.replace(CHIP, output_noise=0.1)
    one, parts = (
        _bounds(at.calibrate(at.convert(copy.deepcopy(digital), chip), batches, adc="mse"))
        for batches in ([x], x.split(9))
    )
    assert one == parts


@pytest.mark.parametrize("deviation", [0.01, 0.3, 2.0])
def test_noise_on_the_numbers_of_a_histogram(deviation: float) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.cat([torch.randn(30_000, generator=generator), torch.zeros(10_000)])
    weight = torch.rand(len(x), generator=generator)
    clean, drawn = Histogram(), Histogram()
    clean.add(x, weight)
    drawn.add(x + deviation * torch.randn(len(x), generator=generator), weight)
    noisy = clean.noisy(deviation)
    # to a bin or two, 1.6 to 3.1 % each; the largest of 40,000 readings varies by 5 % and more
    for percentile in (70.0, 90.0, 99.0, 100.0):
        expected = pytest.approx(drawn.bound("percentile", 8, percentile), rel=0.15 if percentile == 100 else 0.05)
        assert noisy.bound("percentile", 8, percentile) == expected
    for bits in (3, 8):
        assert noisy.bound("mse", bits, 99.0) == pytest.approx(drawn.bound("mse", bits, 99.0), rel=0.07)
    assert noisy.largest == pytest.approx(drawn.largest, rel=0.15)


@pytest.mark.parametrize("largest", [0.07, 1.0, 97.0, 99.9, 1e6])
def test_noise_that_is_small_beside_the_largest_number(largest: float) -> None:
    clean = Histogram()
    clean.add(torch.tensor([largest] * 5 + [0.01, 0.0]))
    noisy = clean.noisy(0.001)
    assert noisy.counts.sum() == pytest.approx(7)
    assert noisy.largest == pytest.approx(largest, rel=0.05)


def test_a_call_that_fails_changes_nothing() -> None:
    model = at.calibrate(at.convert(_net(), dataclasses.replace(CHIP, rows=100)), [X], per="tile", adc="mse").train()
    model[2].weight.data[0, 0] = float("nan")
    before = [(layer.chip, layer.input_ranges, layer.input_range) for _, layer in at.analog_layers(model)]
    with pytest.raises(ValueError, match="a partial sum of layer '2' has NaN or infinite"):
        at.calibrate(model, [X], method="absmax", adc="absmax")
    assert [(layer.chip, layer.input_ranges, layer.input_range) for _, layer in at.analog_layers(model)] == before
    assert all(
        r.requires_grad and layer.observer is None for layer in (model[0], model[2]) for r in (layer.input_range,)
    )
    assert model.training
    model[2].weight.data.zero_()
    with pytest.raises(ValueError, match="all partial sums of layer '2' are zero"):
        at.calibrate(model, [X], adc="mse")
    no_adc = at.convert(_net(), dataclasses.replace(CHIP, output_bits=None))
    with pytest.raises(ValueError, match="adc='mse' needs an ADC"):
        at.calibrate(no_adc, [X], adc="mse")
    assert not no_adc[0].calibrated
    with pytest.raises(ValueError, match="nominal_bound must be None or a positive number"):
        dataclasses.replace(CHIP, nominal_bound=-1.0)


def test_an_ideal_dac_before_an_adc() -> None:
    chip = dataclasses.replace(CHIP, input_bits=None)
    model = at.calibrate(at.convert(_net(), chip), [X], adc="absmax")
    assert max(_bounds(model)) < 4


def test_the_weighted_histogram_is_that_of_repeated_numbers() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(2))
    weighted, repeated = Histogram(), Histogram()
    weighted.add(x, torch.full_like(x, 3.0))
    for _ in range(3):
        repeated.add(x)
    assert weighted.bound("mse", 4, 99.0) == repeated.bound("mse", 4, 99.0)
    bound = torch.tensor(weighted.bound("mse", 4, 99.0))
    assert (rounded(x, bound, 4) - x).square().mean() < (rounded(x, x.abs().max(), 4) - x).square().mean()
