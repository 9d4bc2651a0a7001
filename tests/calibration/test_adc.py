import contextlib
import copy
import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import analogtorch as at
from analogtorch.calibration.histogram import ColumnHistogram, Histogram
from analogtorch.ops import rounded
from tests.crossbar import crossbar

CHIP = crossbar(adc={"noise": 0.0})


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


def _adc(adc: str | None, per: str, percentile: float) -> dict[str, Any]:
    """Return the options of ``calibrate`` for ADC ranges, with the percentile where it counts."""
    given = {"adc": adc, "adc_per": per}
    return {**given, "percentile": percentile} if adc == "percentile" else given


X = torch.randn(200, 300, generator=torch.Generator().manual_seed(1)).clamp(-2, 2)


def _bounds(model: nn.Module) -> list[float | list[list[float]] | None]:
    return [layer.saved_column_ranges("adc_ranges") for _, layer in at.analog_layers(model)]


@pytest.mark.parametrize("per", ["layer", "tile"])
@pytest.mark.parametrize("adc_per", ["layer", "tile", "column"])
@pytest.mark.parametrize("adc", ["mse", "percentile", "absmax"])
def test_small_partial_sums_are_read_with_less_error(adc: str, adc_per: str, per: str) -> None:
    digital, chip = _net(), dataclasses.replace(CHIP, cell=at.chips.ideal().cell)
    errors = []
    for choice in (None, adc):
        each = "layer" if choice is None else adc_per
        model = at.convert(copy.deepcopy(digital), chip).eval()
        warned = (
            contextlib.nullcontext()
            if choice
            else pytest.warns(UserWarning, match=r"ADC .* of 2 layers.* '0' \(")
        )
        with warned:
            given = _adc(choice, each, 99.99)
            at.calibrate(model, [X], method="absmax", per=per, **given)
        errors.append(
            (model(X) - digital(X)).square().mean().sqrt().item() / digital(X).std().item()
        )
    # the chip's bound of 12 has steps of 0.094, the sums of the first layer a standard deviation of
    # about 0.15, but for the column with the large weight, which absmax covers
    assert errors[1] < errors[0] / 4
    for _, layer in at.analog_layers(model):
        assert layer.adc_ranges.shape == layer.adc_shape
        # 200 numbers: columns keep a margin
        assert layer.adc_ranges.max() < (5 if adc_per == "column" else 4)
        assert layer.chip == chip


def test_mse_is_the_least_error_in_units_of_the_output() -> None:
    model = at.calibrate(at.convert(_net(), CHIP.replace(adc={"bits": 5})), [X], adc="mse").eval()
    layer = model[0]

    def error(bound: float) -> float:
        other = copy.deepcopy(layer)
        other.set_adc_ranges(bound)
        exact = copy.deepcopy(layer)
        exact.chip = layer.chip.replace(adc={"bits": None})
        return (other(X) - exact(X)).square().mean().item()

    found = layer.saved_column_ranges("adc_ranges")
    best = min(error(found * f) for f in torch.linspace(0.3, 3, 40).tolist())
    assert error(found) < 1.1 * best


def test_a_bound_lies_outside_the_output_noise() -> None:
    noisy = CHIP.replace(adc={"noise": 2.0})
    quiet, loud = (
        _bounds(at.calibrate(at.convert(_net(), chip), [X], adc="absmax"))[1]
        for chip in (CHIP, noisy)
    )
    assert quiet < 1.5 < 6 < loud  # of 1,600 normals, the largest lies beyond 3 standard deviations


def test_it_is_declared_and_taken_back() -> None:
    model = at.calibrate(at.convert(_net(), CHIP), [X], adc="mse")
    first = _bounds(model)
    told = str(at.summary(model))
    assert (
        f"ADC range calibrated, that of the chip is 12: 0 {first[0]:.4g}, 2 {first[1]:.4g}" in told
    )
    assert at.summary(model).chips == (CHIP,)
    assert at.convert(model, CHIP) is model  # a no-op still
    assert _bounds(model) == first
    with pytest.raises(ValueError, match="on another chip already"):
        at.convert(model, CHIP.replace(adc={"range": 3.0}))
    ranges = [layer.input_ranges for _, layer in at.analog_layers(model)]
    at.calibrate(model, [X], adc="mse")
    assert (_bounds(model), [layer.input_ranges for _, layer in at.analog_layers(model)]) == (
        first,
        ranges,
    )
    at.calibrate(model, [X])
    assert _bounds(model) == [None, None]
    assert "ADC range calibrated" not in str(at.summary(model))


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
    assert lstm[0].ih_l0.saved_column_ranges("adc_ranges") != lstm[0].hh_l0.saved_column_ranges(
        "adc_ranges"
    )
    at.convert(lstm, CHIP)
    attention = at.convert(nn.MultiheadAttention(16, 2), CHIP)
    q, k = torch.randn(2, 6, 4, 16)
    at.calibrate(attention, [q], adc="absmax", per="tile", forward=lambda m, q: m(q, k, k))
    assert attention.in_proj.saved_column_ranges("adc_ranges") < 12.0
    for grouped in ("sequential", "block_diagonal"):
        chip = CHIP.replace(array={"rows": 16, "grouped": grouped}, adc={"bits": 16})
        digital = nn.Sequential(nn.Conv2d(4, 6, 5, padding=2, groups=2), nn.Conv2d(6, 4, 3))
        x = torch.randn(2, 4, 9, 9)
        model = at.calibrate(
            at.convert(copy.deepcopy(digital), chip), [x], adc="absmax", method="absmax"
        ).eval()
        exact = copy.deepcopy(model)
        for _, layer in at.analog_layers(exact):
            layer.chip = layer.chip.replace(adc={"bits": None})
        # the largest sum fits, and barely
        assert torch.allclose(model[0](x), exact[0](x), atol=1e-3)
        model[0].set_adc_ranges(model[0].adc_ranges / 1.1)
        assert not torch.allclose(model[0](x), exact[0](x), atol=1e-3)


def test_batches_may_be_an_iterator_of_any_split_and_the_random_state_is_untouched() -> None:
    chip = CHIP.replace(adc={"noise": 0.1})
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
    chip = CHIP.replace(adc={"noise": 0.1})
    one, parts = (
        _bounds(
            at.calibrate(
                at.convert(copy.deepcopy(digital), chip), batches, adc="mse", effort="ranges"
            )
        )
        for batches in (x.split(10), x.split(5))  # the last quarter of either is held back
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
        expected = pytest.approx(
            drawn.bound("percentile", 8, percentile), rel=0.15 if percentile == 100 else 0.05
        )
        assert noisy.bound("percentile", 8, percentile) == expected
    for bits in (3, 8):
        assert noisy.bound("mse", bits, 99.0) == pytest.approx(
            drawn.bound("mse", bits, 99.0), rel=0.07
        )
    assert noisy.largest == pytest.approx(drawn.largest, rel=0.15)


@pytest.mark.parametrize("largest", [0.07, 1.0, 97.0, 99.9, 1e6])
def test_noise_that_is_small_beside_the_largest_number(largest: float) -> None:
    clean = Histogram()
    clean.add(torch.tensor([largest] * 5 + [0.01, 0.0]))
    noisy = clean.noisy(0.001)
    assert noisy.counts.sum() == pytest.approx(7)
    assert noisy.largest == pytest.approx(largest, rel=0.05)


def test_a_call_that_fails_changes_nothing() -> None:
    model = at.calibrate(
        at.convert(_net(), CHIP.replace(array={"rows": 100})), [X], per="tile", adc="mse"
    ).train()
    model[2].weight.data[0, 0] = float("nan")
    before = [
        (layer.chip, layer.input_ranges, layer.input_range) for _, layer in at.analog_layers(model)
    ]
    with pytest.raises(ValueError, match="the weight of layer '2' has NaN or infinite"):
        at.calibrate(model, [X], method="absmax", adc="absmax")
    assert [
        (layer.chip, layer.input_ranges, layer.input_range) for _, layer in at.analog_layers(model)
    ] == before
    assert all(
        r.requires_grad and not layer.taps
        for layer in (model[0], model[2])
        for r in (layer.input_range,)
    )
    assert model.training
    model[2].weight.data.zero_()
    with pytest.raises(ValueError, match="all partial sums of layer '2' are zero"):
        at.calibrate(model, [X], adc="mse")
    no_adc = at.convert(_net(), CHIP.replace(adc={"bits": None}))
    with pytest.raises(ValueError, match="adc='mse' needs an ADC"):
        at.calibrate(no_adc, [X], adc="mse")
    assert not no_adc[0].calibrated
    with pytest.raises(ValueError, match="adc_per='column' needs adc, which says how"):
        at.calibrate(no_adc, [X], adc_per="column")
    with pytest.raises(
        ValueError, match="rounds .*output_bits. it needs adc, such as adc='mse'; got"
    ):
        at.calibrate(no_adc, [X], method=None)
    with pytest.raises(ValueError, match="takes no per='tile', .* got adc='mse', per='tile'"):
        at.calibrate(at.convert(_net(), CHIP), [X], method=None, adc="mse", per="tile")
    with pytest.raises(ValueError, match="adc_per must be one of .*, got 'row'"):
        at.calibrate(no_adc, [X], adc="mse", adc_per="row")


def test_an_ideal_dac_before_an_adc() -> None:
    chip = CHIP.replace(dac={"bits": None})
    model = at.calibrate(at.convert(_net(), chip), [X], method="absmax", adc="absmax")
    assert max(_bounds(model)) < 4


def test_the_weighted_histogram_is_that_of_repeated_numbers() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(2))
    weighted, repeated = Histogram(), Histogram()
    weighted.add(x, torch.full_like(x, 3.0))
    for _ in range(3):
        repeated.add(x)
    assert weighted.bound("mse", 4, 99.0) == repeated.bound("mse", 4, 99.0)
    bound = torch.tensor(weighted.bound("mse", 4, 99.0))
    assert (rounded(x, bound, 4) - x).square().mean() < (
        rounded(x, x.abs().max(), 4) - x
    ).square().mean()


def _reads(layer: nn.Module, x: torch.Tensor, bounds: torch.Tensor | None) -> torch.Tensor:
    """What the layer reads with these bounds, or exactly."""
    other = copy.deepcopy(layer)
    other.set_adc_ranges(bounds)
    if bounds is None:
        other.chip = layer.chip.replace(adc={"bits": None})
    return other(x)


@pytest.mark.parametrize("method", ["mse", "percentile", "absmax"])
def test_each_column_has_the_bound_that_suits_it(method: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(4000, 300).clamp(-2, 2)
    # one row block: an output is a reading
    chip = CHIP.replace(array={"rows": 512}, adc={"bits": 6})
    layer = nn.Sequential(nn.Linear(300, 40, bias=False))
    layer[0].weight.data *= torch.logspace(-2.5, 0, 40).unsqueeze(1)
    layer[0].weight.data[7] = 0.0
    layer[0].weight.data[8] *= 1e-4  # below all bins
    model = at.calibrate(
        at.convert(layer, chip), [x], method="absmax", **_adc(method, "column", 95.0)
    ).eval()
    bounds, exact = model[0].adc_ranges, _reads(model[0], x, None)
    sizes = exact.abs().amax(0) / (model[0].input_range * layer[0].weight.abs().max())
    used = (torch.arange(40) != 7) & (torch.arange(40) != 8)
    assert bounds[0, 8] == pytest.approx(sizes[8].item(), rel=1e-5)
    assert bounds.max() < 100
    assert bounds[0, 7] == bounds.max()  # reads zeros whatever it is
    if method == "absmax":
        assert torch.allclose(bounds[0, used], sizes[used], rtol=1e-5)
    elif method == "percentile":
        inside = (
            (exact.abs() <= bounds[0] * (exact.abs().amax(0) / sizes).nan_to_num(1.0))
            .float()
            .mean(0)
        )
        assert (inside[used] >= 0.945).all()
        assert (inside[used] < 0.98).all()
    else:
        errors = [
            (_reads(model[0], x, bounds * f) - exact).square().mean(0)
            for f in torch.logspace(-0.5, 0.5, 41)
        ]
        ratios = ((model(x) - exact).square().mean(0) / torch.stack(errors).amin(0))[used]
        assert ratios.max() < 1.2  # bins of 12 %


def test_a_bound_per_column_reads_columns_of_all_sizes() -> None:
    torch.manual_seed(0)
    digital = nn.Sequential(
        nn.Conv2d(8, 24, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 16, 33)
    )
    for layer in (digital[0], digital[3]):
        layer.weight.data *= torch.logspace(-3, 0, len(layer.weight)).view(
            -1, *[1] * (layer.weight.dim() - 1)
        )
        layer.bias.data.zero_()
    x, errors = torch.randn(50, 8, 6, 6), {}
    y = digital(x)
    for grouped in ("sequential", "block_diagonal"):
        chip = CHIP.replace(array={"rows": 64, "columns": 16, "grouped": grouped})
        for per in ("layer", "tile", "column"):
            model = at.convert(copy.deepcopy(digital), chip)
            at.calibrate(model, [x], method="absmax", adc="mse", adc_per=per)
            errors[per] = (
                ((model.eval()(x) - y).square().mean(0) / y.square().mean(0)).sqrt().max().item()
            )
            assert all(layer.adc_ranges.shape == layer.adc_shape for layer in (model[0], model[3]))
        # a column whose sums are a hundredth of the largest is a step of a bound for all
        assert errors["column"] < 0.1 < errors["tile"] < errors["layer"]


def test_a_column_of_few_numbers_has_the_tail_of_all_columns() -> None:
    torch.manual_seed(0)
    digital = nn.Linear(100, 200, bias=False)
    digital.weight.data *= torch.logspace(-1, 0, 200).unsqueeze(1)
    few, many, errors = torch.randn(8, 100), torch.randn(2000, 100), {}
    for adc in ("mse", "percentile", "absmax"):
        model = at.convert(copy.deepcopy(digital), CHIP)
        at.calibrate(model, [few], method=None, **_adc(adc, "column", 99.9))
        errors[adc] = ((model.eval()(many) - digital(many)).norm() / digital(many).norm()).item()
    # the largest of 8 normals is 1.4 standard deviations, the best bound for 8 bits 4
    assert max(errors["mse"], errors["percentile"]) < 0.05 < 0.15 < errors["absmax"]


def test_columns_do_not_depend_on_the_batch_split_and_the_noise_is_outside() -> None:
    chip = CHIP.replace(adc={"noise": 0.04})
    one, parts = (
        at.calibrate(at.convert(_net(), chip), batches, adc="mse", adc_per="column")
        for batches in ([X], X.split(70))
    )
    assert all(
        torch.equal(a.adc_ranges, b.adc_ranges) for a, b in ((one[0], parts[0]), (one[2], parts[2]))
    )
    # two standard deviations; the sums themselves have 0.15
    assert one[0].adc_ranges.min() > 0.08
    quiet = at.calibrate(at.convert(_net(), CHIP), [X], adc="mse", adc_per="column")
    assert (quiet[2].adc_ranges < one[2].adc_ranges).all()


@pytest.mark.parametrize("adc_per", ["layer", "tile", "column"])
def test_bounds_of_layers_whose_inputs_set_their_range(adc_per: str, tmp_path) -> None:
    torch.manual_seed(0)
    digital = nn.Sequential(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 6))
    x = torch.randn(64, 4, 12) * torch.logspace(-2, 2, 64).view(-1, 1, 1)
    y = digital(x)
    chip = CHIP.replace(array={"rows": 32})
    ranges = at.convert(copy.deepcopy(digital), chip).eval()
    at.calibrate(ranges, [x], method="absmax", adc="mse", adc_per=adc_per)
    model = copy.deepcopy(ranges)
    at.calibrate(model, [x], method=None, adc="mse", adc_per=adc_per)
    assert [layer.input_ranges for _, layer in at.analog_layers(model)] == [None, None]
    assert not any(layer.input_range.requires_grad for _, layer in at.analog_layers(model))
    errors = [((m(x) - y).norm(dim=1) / y.norm(dim=1)).mean() for m in (ranges, model)]
    # one range for inputs of all sizes rounds the small ones away
    assert errors[1] < 0.15 < errors[0]
    for loaded in (
        at.load(at.save(model, tmp_path), copy.deepcopy(digital)),
        at.convert(digital, chip),
    ):
        loaded.load_state_dict(model.state_dict())
        assert torch.equal(loaded.eval()(x), model(x))


@pytest.mark.parametrize("adc_per", ["layer", "tile", "column"])
def test_bounds_travel_with_a_state_dict(adc_per: str, tmp_path) -> None:
    chip = CHIP.replace(array={"rows": 100, "columns": 20})
    model = at.calibrate(at.convert(_net(), chip), [X], adc="mse", adc_per=adc_per).eval()
    torch.save(model.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    fresh = at.convert(_net(), chip).eval()
    fresh.load_state_dict(state)
    assert _bounds(fresh) == _bounds(model)
    assert torch.equal(fresh(X), model(X))
    other = at.convert(_net(), chip.replace(array={"rows": 60}))
    if adc_per == "layer":
        other.load_state_dict(state)
        assert _bounds(other) == _bounds(model)
    else:
        with pytest.raises(
            RuntimeError,
            match=r"ADC ranges of '0' must be one number, or one for each of \(5, 32\)",
        ):
            other.load_state_dict(state)
        assert _bounds(other)[0] is None
    chips_own = at.calibrate(at.convert(_net(), chip), [X])
    # whoever saved ranges without bounds had the chip's
    fresh.load_state_dict(chips_own.state_dict())
    assert _bounds(fresh) == [None, None]
    model.load_state_dict(_net().state_dict())  # a digital checkpoint says nothing of them
    assert _bounds(model) != [None, None]


def test_bounds_of_columns_are_saved_and_programmed(tmp_path) -> None:
    chip = CHIP.replace(array={"rows": 100, "columns": 20})
    model = at.calibrate(at.convert(_net(), chip), [X], adc="mse", adc_per="column").eval()
    saved = at.save(model, tmp_path)
    loaded = at.load(saved, _net()).eval()
    assert torch.equal(loaded[0].adc_ranges, model[0].adc_ranges)
    assert torch.equal(loaded(X), model(X))
    view = at.program(model, seed=1).at("1 h")
    assert torch.equal(view[0].adc_ranges, model[0].adc_ranges)
    assert torch.equal(
        at.load(at.save(at.program(model, seed=1), tmp_path), _net()).at("1 h")(X), view(X)
    )
    description = tmp_path / "analog.json"
    data = json.loads(description.read_text())
    for wrong, message in (
        (
            data["layers"][0]["adc_ranges"][:2],
            r"has 2 rows of ADC ranges, and \(3, 32\) \(row blocks, outputs\)",
        ),
        ([[1.0] * 31] * 3, "3 rows of ADC ranges, and"),
        ([[1.0, -1.0]], "must have positive adc_ranges"),
        ([[]], "must have positive adc_ranges"),
        ("12", "must have positive adc_ranges"),
    ):
        data["layers"][0]["adc_ranges"] = wrong
        data.pop("checksum", None)
        description.write_text(json.dumps(data))
        with pytest.raises(ValueError, match=message):
            at.load(saved, _net())


def test_bounds_can_be_set_and_taken_away() -> None:
    chip = CHIP.replace(array={"rows": 100})
    model = at.calibrate(at.convert(_net(), chip), [X]).eval()
    layer, first = model[0], model(X)
    assert layer.adc_shape == (3, 32)
    layer.set_adc_ranges(12.0)
    assert torch.equal(model(X), first)
    layer.set_adc_ranges([[0.5] * 32, [1.0] * 32, [2.0] * 32])
    assert "ADC ranges=0.5 to 2" in repr(layer)
    on_meta = copy.deepcopy(model).to("meta")
    assert "ADC ranges=meta" in repr(on_meta[0])
    assert "0 meta" in str(at.summary(on_meta))
    bounds = layer.adc_ranges
    for wrong, message in (
        (0.0, "must be positive finite numbers, got 0.0"),
        (torch.full((3, 32), float("nan")), "must be positive finite numbers, got nan"),
        ([1.0, 2.0], r"one for each of \(3, 32\) \(row blocks, outputs\), got shape \(2,\)"),
        ([[1.0], [1.0, 2.0]], "must be numbers, of one shape"),
        ("wide", "must be numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            layer.set_adc_ranges(wrong)
        assert layer.adc_ranges is bounds
    assert model.double()[0].adc_ranges.dtype == torch.float64
    model(X.double())
    model.float()
    layer.chip = chip.replace(array={"rows": 256})
    with pytest.raises(
        RuntimeError, match=r"has ADC ranges for \(3, 32\) .*, and \(2, 32\) on .* crossbar; call"
    ):
        model(X)
    layer.chip = chip.replace(array={"rows": 256}, adc={"bits": None})  # no ADC, no bound
    model(X)
    layer.chip = chip
    layer.set_adc_ranges(None)
    assert torch.equal(model(X), first)
    assert set(vars(at.to_digital(model)[0])) == set(vars(nn.Linear(2, 2)))
    assert list(model[0]._buffers) == []
    assert at.convert(model, chip)[0].adc_ranges is None


def test_an_embedding_reads_each_dimension_with_its_bound() -> None:
    torch.manual_seed(0)
    chip = CHIP.replace(array={"rows": 32})
    layer = at.convert(nn.Sequential(nn.Embedding(50, 20)), chip, embeddings=True).eval()[0]
    tokens, fresh = torch.arange(50), copy.deepcopy(layer)
    layer.set_adc_ranges(torch.rand(layer.adc_shape) + 0.1)
    scale = torch.stack([block.abs().max() for block in layer.weight.split(32)])
    bound = layer.adc_ranges.repeat_interleave(torch.tensor([32, 18]), 0) * scale.repeat_interleave(
        torch.tensor([32, 18])
    ).unsqueeze(1)
    assert torch.allclose(layer(tokens), rounded(layer.weight, bound, 8), atol=1e-6)
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(tokens), layer(tokens))


def test_columns_of_a_histogram_are_histograms() -> None:
    generator = torch.Generator().manual_seed(3)
    sizes = torch.tensor([1e-6, 0.003, 0.2, 5.0, 90.0])
    x = torch.randn(20_000, 5, generator=generator) * sizes
    columns = ColumnHistogram(5)
    columns.add(x[:7000])
    columns.add(x[7000:, 3:], first=3)
    columns.add(x[7000:, :3])
    for deviation in (0.0, 0.04):
        read = columns.noisy(deviation)
        for i in range(5):
            one = Histogram()
            one.add(x[:, i])
            expected = one.noisy(deviation)
            for method, bits in (("mse", 4), ("mse", 8), ("percentile", 8), ("absmax", 8)):
                found = read.bound(method, bits, 99.0)[i].item()
                if i == 0 and not deviation:
                    assert found == one.largest  # below all bins: whatever it is, it fits
                else:
                    assert found == pytest.approx(expected.bound(method, bits, 99.0), rel=0.2), (
                        method,
                        bits,
                        i,
                    )


def _weighted_task() -> tuple[nn.Module, torch.Tensor]:
    """Return inputs of two sizes, a thousand times apart, with large sums of the small ones."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 16, bias=False)
    signs = torch.sign(layer.weight.detach()[torch.randint(16, (500,))])
    return nn.Sequential(layer), torch.cat(
        [torch.rand(500, 64) + 3 * signs, 1000 * torch.randn(500, 64)]
    )


def test_mse_is_in_units_of_the_output_also_where_inputs_set_their_range() -> None:
    digital, x = _weighted_task()
    chip, errors = CHIP.replace(adc={"bits": 4}), {}
    for per in ("layer", "column"):
        model = at.calibrate(
            at.convert(copy.deepcopy(digital), chip), [x], method=None, adc="mse", adc_per=per
        ).eval()
        errors[per] = (model(x) - digital(x)).norm().item()
    assert errors["column"] < 1.1 * errors["layer"]


def test_columns_of_many_rows_have_bounds_beyond_a_thousand() -> None:
    layer = nn.Linear(8192, 4, bias=False)
    nn.init.ones_(layer.weight)
    x = torch.rand(64, 8192) * 0.2 + 0.8
    for adc in ("mse", "percentile", "absmax"):
        for noise in (0.0, 0.04):
            chip = CHIP.replace(array={"rows": 8192}, adc={"noise": noise})
            model = at.convert(nn.Sequential(copy.deepcopy(layer)), chip).eval()
            at.calibrate(model, [x], method="absmax", **_adc(adc, "column", 100.0))
            assert (model[0].adc_ranges > 7300).all()
            assert torch.allclose(model(x), layer(x), rtol=0.02)


@pytest.mark.parametrize("adc", ["mse", "percentile", "absmax"])
def test_a_column_of_zeros_gets_the_largest_bound_whatever_the_noise(adc: str) -> None:
    layer = nn.Linear(8, 4, bias=False)
    layer.weight.data = torch.eye(4, 8)
    x = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
    x[:, 2] = 0
    model = at.convert(nn.Sequential(layer), crossbar())
    at.calibrate(model, [x], adc=adc, adc_per="column")
    assert model[0].adc_ranges[0, 2] == model[0].adc_ranges.max() > 1


def test_a_state_without_ranges_takes_those_of_the_layer_away() -> None:
    first = at.calibrate(
        at.convert(_net(), CHIP), [X], method=None, adc="mse", adc_per="column"
    ).eval()
    other = at.calibrate(at.convert(_net(), CHIP), [X]).eval()
    other.load_state_dict(first.state_dict())
    assert not other[0].calibrated
    assert torch.equal(other(X), first(X))
    plain = at.calibrate(at.convert(_net(), CHIP), [X])
    # that one says nothing of converters
    plain.load_state_dict(at.convert(_net(), CHIP).state_dict())
    assert plain[0].calibrated


def test_bounds_that_the_meta_device_lost_are_not_made_up() -> None:
    model = at.calibrate(at.convert(_net(), CHIP), [X], adc="mse", adc_per="column").eval()
    plain = {key: t.clone() for key, t in model.state_dict().items()}
    model = model.to("meta")
    with (
        pytest.warns(UserWarning, match="carries no DAC ranges"),
        pytest.warns(UserWarning, match="ADC ranges of .* were lost on the meta device"),
    ):
        model.load_state_dict(plain, assign=True)
    assert _bounds(model) == [None, None]
    assert model(X).isfinite().all()


def test_loading_replaces_bounds_of_another_chip(tmp_path) -> None:
    small = CHIP.replace(array={"rows": 128})
    model, other = (
        at.calibrate(at.convert(_net(), chip), [X], adc="mse", adc_per="column").eval()
        for chip in (CHIP, small)
    )
    saved = at.save(other, tmp_path)
    for layer in (model[0], model[2]):
        layer.chip = small
    assert torch.equal(at.load(saved, model)(X), other(X))
    assert torch.equal(at.load(saved, model.to("meta"))(X), other(X))


def test_bounds_that_do_not_fit_are_refused_before_anything_is_loaded(tmp_path) -> None:
    model = at.calibrate(at.convert(_net().double(), CHIP), [X.double()])
    model[0].set_adc_ranges(1e-60)
    saved, fresh = at.save(model, tmp_path), _net()
    fresh[2].weight.data.zero_()
    with pytest.raises(ValueError, match="has ADC ranges that do not fit in torch.float32"):
        at.load(saved, fresh)
    assert type(fresh[0]) is nn.Linear
    assert not fresh[2].weight.any()


def test_checkpoints_of_before_have_no_bounds(tmp_path) -> None:
    saved = at.save(at.calibrate(at.convert(_net(), CHIP), [X]), tmp_path)
    description = tmp_path / "analog.json"
    data = json.loads(description.read_text())
    for entry in data["layers"]:
        del entry["adc_ranges"]
    del data["checksum"]
    description.write_text(json.dumps(data))
    assert _bounds(at.load(saved, _net())) == [None, None]


def test_adc_ranges_are_read_under_the_name_in_earlier_files(tmp_path) -> None:
    model = at.calibrate(at.convert(_net(), CHIP), [X], adc="mse", adc_per="column")
    state = model.state_dict()
    entry = state._metadata["0"]
    entry["analogtorch.output_bounds"] = entry.pop("analogtorch.adc_ranges")
    other = at.convert(_net(), CHIP)
    other.load_state_dict(state)
    assert torch.equal(other[0].adc_ranges, model[0].adc_ranges)
    saved = at.save(model, tmp_path)
    description = tmp_path / "analog.json"
    data = json.loads(description.read_text())
    for layer in data["layers"]:
        layer["output_bounds"] = layer.pop("adc_ranges")
    del data["checksum"]
    description.write_text(json.dumps(data))
    loaded = at.load(saved, _net())
    assert torch.equal(loaded[2].adc_ranges, model[2].adc_ranges)


def test_bounds_without_an_adc_are_not_listed() -> None:
    model = at.calibrate(at.convert(_net(), CHIP), [X], adc="mse")
    model[0].chip = CHIP.replace(adc={"bits": None})
    assert "that of the chip is 12: 2 " in str(at.summary(model))


@pytest.mark.parametrize("per", ["layer", "tile"])
def test_calibrated_in_inference_mode_it_can_learn(per: str) -> None:
    model = at.convert(_net(), CHIP.replace(array={"rows": 100}))
    with torch.inference_mode():
        at.calibrate(model, [X], per="tile", adc="mse", adc_per="column")
        at.calibrate(model, [X], per=per, adc="mse", adc_per="column")
    model.train()(X).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


class _Sizes(TorchDispatchMode):
    """Remembers the largest result of an operation that computes."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = func(*args, **(kwargs or {}))
        looks = func in (torch.ops.aten.view.default, torch.ops.aten.detach.default)
        if isinstance(found, torch.Tensor) and found.is_floating_point() and not looks:
            self.largest = max(self.largest, found.numel())
        return found


@pytest.mark.parametrize("met", [Histogram(), ColumnHistogram(40)], ids=["one", "columns"])
def test_counting_shares_no_operation_among_threads(met: Histogram | ColumnHistogram) -> None:
    """They would wait for each other, spinning, wherever other programs keep the cores busy."""
    x = torch.randn(5000, 40, generator=torch.Generator().manual_seed(0))
    with _Sizes() as sizes:
        met.add(x)
    assert 0 < sizes.largest < 2**15
