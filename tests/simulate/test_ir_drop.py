"""IR drop in programmed chips and in training, against the tile solved node by node."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import analogtorch as at
from analogtorch.chips import Wires
from analogtorch.devices import hermes_two_device
from analogtorch.ops import block_scales, ir_drop, native
from analogtorch.ops.column_drop import column_drop
from analogtorch.ops.physics import relative
from analogtorch.simulate import nodal

EXACT = at.chips.hermes64().without(*at.chips.hermes64().non_idealities())
"""The cells of hermes64, which take their targets exactly, behind no converters."""
BLOCKS = ((0, 256), (256, 512), (512, 600))
WIRES = (
    {"row_resistance": 0.35},
    {"column_resistance": 0.35},
    {"row_resistance": 0.35, "column_resistance": 0.35},
    {"column_resistance": 0.35, "model": "pulses"},
)


def _chip(calibrated=False, **wires):
    return EXACT.replace(wires=wires, periphery={"column_calibration": calibrated})


def _layer(rows, columns, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(rows, columns, bias=False))


def _on_chip(model, chip, time="programmed", **options):
    physical = at.program(at.convert(copy.deepcopy(model), chip), seed=0)
    return physical.at(time, compensation="none", **options)


def _solved(layer, x, chip, row=0, column=0):
    """Outputs of the layer on a tile that holds nothing else, with its first cell there."""
    w, solve = layer.weight.detach().double(), nodal.solve
    if chip.wires.model == "pulses":
        solve = nodal.solve_pulses
    largest, unit = w.abs().max(), 1e-6 * chip.cell.g_total
    rows, columns = chip.array.rows, chip.array.columns
    g = torch.zeros(rows, columns, 2, dtype=torch.float64)
    v = torch.zeros(len(x), rows, dtype=torch.float64)
    rows, columns = slice(row, row + w.shape[1]), slice(column, column + len(w))
    g[rows, columns] = torch.stack((w.T.clamp_min(0), (-w.T).clamp_min(0)), 2) * unit / largest
    v[:, rows] = x
    currents = solve(g.flatten(1), v, chip.wires).unflatten(1, (-1, 2))[:, columns]
    return (currents[..., 0] - currents[..., 1]) * largest / unit


@pytest.mark.parametrize(
    "wires",
    [
        {"column_resistance": 0.35},
        {"column_resistance": 2.0, "column_ends": 2},
        {"row_resistance": 0.35},
        {"row_resistance": 0.7, "row_ends": 2},
        {"row_resistance": 0.35, "column_resistance": 0.35, "row_ends": 2},
    ],
    ids=["column", "column, both ends", "row", "row, both ends", "both"],
)
def test_a_programmed_tile_is_the_network_of_its_wires(wires):
    """200 x 60 weights on a tile of 256 x 80, positive inputs: differential currents, in 0.2 %."""
    model, x = _layer(200, 60), torch.rand(2, 200)
    chip = _chip(**wires).replace(array={"columns": 80})
    expected = _solved(model[0], x, chip)
    found, ideal = _on_chip(model, chip)(x).double(), model(x).double()
    assert (expected - ideal).norm() > 0.005 * ideal.norm()
    assert (found - expected).norm() < 0.002 * ideal.norm()


@pytest.mark.parametrize(
    "wires",
    [
        {"column_resistance": 20.0, "column_ends": 2},
        {"column_resistance": 200.0, "column_ends": 2},
        {"row_resistance": 20.0, "row_ends": 2},
        {"row_resistance": 3.0, "column_resistance": 5.0, "row_ends": 2, "column_ends": 2},
        {"column_resistance": 20.0, "column_ends": 2, "model": "pulses"},
    ],
    ids=["column", "by elimination", "row", "both", "pulses"],
)
def test_the_far_end_of_a_line_is_that_of_the_tile(wires):
    """Layers on a part of a tile, where a mapping puts them: within 1 % of the drop.

    Inputs are full, so that all pulses end together.
    """
    chip = _chip(**wires).replace(array={"rows": 64, "columns": 40})
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 20, bias=False), nn.Linear(20, 12, bias=False)).double()
    analog = at.convert(copy.deepcopy(model), chip)
    for layer in analog:
        layer.set_input_range(1.0)
    mapping = at.map_to_chip(analog, torch.zeros(1, 30).double())
    physical = at.program(analog, seed=0, mapping=mapping).at("programmed", compensation="none")
    places = []
    for layer, on_chip, matrix in zip(model, physical, mapping.matrices, strict=True):
        (block,) = mapping.matrix_blocks(matrix.name)
        places.append((block.row, block.col))
        x = torch.ones(1, layer.in_features).double()
        expected, ideal = _solved(layer, x, chip, *places[-1]), layer(x)
        assert (on_chip(x) - expected).norm() < 0.01 * (expected - ideal).norm()
    assert places[0] == (0, 0) != places[1]


def test_every_row_block_has_wires_of_its_own():
    model, x = _layer(600, 30), torch.randn(5, 600)
    wires = {"column_resistance": 3.0}
    parts = []
    largest = model[0].weight.detach().abs().max().item()
    for a, b in BLOCKS:
        part = nn.Sequential(nn.Linear(b - a, 31, bias=False))
        part[0].weight.data[:30] = model[0].weight.data[:, a:b]
        part[0].weight.data[30] = 0
        part[0].weight.data[30, 0] = largest  # the scale of a block is that of the chip
        parts.append(_on_chip(part, _chip(**wires).replace(periphery={"weight_scale": "block"})))
    column = _chip(**wires).replace(periphery={"weight_scale": "column"})
    assert not torch.equal(_on_chip(model, column)(x), model(x))
    own = [p(x[:, a:b])[:, :30] for p, (a, b) in zip(parts, BLOCKS, strict=True)]
    scaled = nn.Sequential(nn.Linear(600, 31, bias=False))
    scaled[0].weight.data[:30] = model[0].weight.data
    scaled[0].weight.data[30] = 0
    scaled[0].weight.data[30, ::256] = largest
    assert_close(_on_chip(scaled, _chip(**wires))(x)[:, :30], sum(own), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "wires",
    [
        {"column_resistance": 2.0, "row_resistance": 0.1},
        {"column_resistance": 2.0, "column_ends": 2},
        {"column_resistance": 2.0, "row_resistance": 0.1, "column_ends": 2, "row_ends": 2},
    ],
    ids=["one end", "columns with two ends", "two ends"],
)
def test_training_meets_the_drop_of_the_programmed_chip(wires):
    for calibrated in (False, True):
        chip = _chip(calibrated, **wires)
        chip = chip.replace(training={"weight": "none"})
        model, x = _layer(300, 40), torch.randn(7, 300)
        trained = at.convert(copy.deepcopy(model), chip).train()
        physical = at.program(trained, seed=0).at("programmed")
        error = (trained(x) - physical(x)).norm() / (model(x) - physical(x)).norm()
        # calibrated columns are fitted to random inputs there, to magnitudes here
        assert error < (0.2 if calibrated else 1e-3)


def test_gradients_go_through_the_drop():
    chip = _chip(column_resistance=5.0).replace(training={"weight": "none"})
    model = at.convert(_layer(40, 6).double(), chip).train()
    weight, x = model[0].weight, torch.randn(3, 40, dtype=torch.float64)
    model(x).square().sum().backward()
    # the largest weight is the scale, through which no gradient goes
    scale = weight.detach().abs().flatten().argmax()
    step = torch.zeros_like(weight).view(-1)
    step[torch.arange(step.numel()) != scale] = 1e-6
    step = (step * torch.randn_like(step)).view_as(weight)
    losses = []
    for sign in (1, -1):
        other = copy.deepcopy(model)
        other[0].weight.data += sign * step
        losses.append(other(x).square().sum().item())
    expected = (losses[0] - losses[1]) / 2
    assert (weight.grad * step).sum().item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("wires", WIRES, ids=str)
def test_weights_of_zero_learn_as_tiny_ones_do(wires, dtype):
    """On resistive rows their gradient was 0."""
    chip = _chip(**wires).replace(training={"weight": "none"})
    x, gradients = torch.randn(9, 40, dtype=dtype), []
    for start in (0.0, 1e-12):
        model = _layer(40, 5).to(dtype)
        with torch.no_grad():
            model[0].weight[:, :20] = start
        at.convert(model, chip).train()(x).square().sum().backward()
        gradients.append(model[0].weight.grad)
    assert gradients[0].all()
    assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("g_min", [0.0, 8.0])
@pytest.mark.parametrize("wires", WIRES, ids=str)
def test_a_layer_of_zeros_learns_as_tiny_weights_do(wires, g_min, dtype):
    """A weight scale of 0 was a factor of its gradient; its output stays exactly 0."""
    device = dataclasses.replace(hermes_two_device(), g_min=g_min)
    chip = _chip(**wires).replace(training={"weight": "none"}, cell={"device": device})
    x, gradients = torch.randn(9, 40, dtype=dtype), []
    for start in (0.0, 1e-12):
        model = _layer(40, 5).to(dtype)
        nn.init.constant_(model[0].weight, start)
        y = at.convert(model, chip).train()(x)
        assert start or not y.any()
        y.sum().backward()
        gradients.append(model[0].weight.grad)
    assert_close(*gradients, rtol=1e-2, atol=1e-2)


def test_noise_of_the_kernels_is_added_behind_the_wires():
    """The mean of 400 forwards is the drop; the spread that of the cells, within 10 %."""
    chip = (
        at.chips.hermes64(training=at.TrainingNoise())
        .without("dac", "adc", "adc_gain")
        .replace(wires={"column_resistance": 0.35})
    )
    layer = _layer(200, 10)
    noisy = at.convert(copy.deepcopy(layer), chip).train()
    silent = at.convert(copy.deepcopy(layer), chip.replace(training={"weight": "none"})).train()
    straight = at.convert(copy.deepcopy(layer), chip.without("ir_drop")).train()
    x = torch.randn(3, 200)
    drawn, free = (torch.stack([m(x).detach() for _ in range(400)]) for m in (noisy, straight))
    # 5 standard errors of the mean
    assert ((drawn.mean(0) - silent(x)).abs() < 5 * drawn.std(0) / 20).all()
    assert drawn.std(0).mean().item() == pytest.approx(free.std(0).mean().item(), rel=0.1)


def test_the_share_of_training_noise_scales_the_drop():
    chip = _chip(column_resistance=2.0).replace(training={"weight": "none"})
    model, x = at.convert(_layer(200, 10), chip).train(), torch.randn(4, 200)
    whole = model(x)
    model[0].set_noise_fraction(0.0)
    exact = model(x)
    model[0].set_noise_fraction(0.5)
    half = model(x)
    assert_close(exact, x @ model[0].weight.T, rtol=1e-5, atol=1e-5)
    assert 0.3 < (half - exact).norm() / (whole - exact).norm() < 0.7


def test_where_a_block_lies_decides():
    """Far from the ADC a block loses more; a mapping says where it lies."""
    model = nn.Sequential(nn.Linear(60, 40, bias=False), nn.Linear(40, 20, bias=False))
    torch.manual_seed(1)
    for layer in model:
        nn.init.normal_(layer.weight)
    chip, x = _chip(column_resistance=5.0), torch.randn(9, 60)
    analog = at.convert(copy.deepcopy(model), chip)
    mapping = at.map_to_chip(analog, x)
    (block,) = mapping.matrix_blocks(mapping.matrices[1].name)
    assert (block.row, block.col) == (60, 0)
    apart = at.program(analog, seed=0).at("programmed")(x)
    packed = at.program(analog, seed=0, mapping=mapping).at("programmed")(x)
    assert (packed - model(x)).norm() > 1.1 * (apart - model(x)).norm()


def test_columns_calibrated_after_programming_take_back_the_mean_drop():
    model, x = _layer(256, 64), torch.randn(50, 256)
    errors = []
    for calibrated in (False, True):
        y = _on_chip(model, _chip(calibrated, column_resistance=1.0))(x)
        errors.append(((y - model(x)).norm() / model(x).norm()).item())
    assert errors[1] < 0.6 * errors[0]


def test_separate_phases_lose_the_same():
    """The phases of a product add up to it, behind wires too."""
    chip = _chip(column_resistance=2.0, row_resistance=0.1)
    model, x = _layer(100, 20), torch.randn(6, 100)
    together = _on_chip(model, chip)(x)
    apart = _on_chip(model, chip.replace(adc={"separate_phases": True}))(x)
    assert_close(apart, together, rtol=1e-4, atol=1e-5)


def test_a_chip_lists_it_and_keeps_it_in_a_file(tmp_path):
    chip = at.chips.hermes64().replace(wires={"column_resistance": 0.35})
    assert "ir_drop" in chip.non_idealities()
    assert "ir_drop" not in chip.without("ir_drop").non_idealities()
    assert chip.scaled(ir_drop=2.0).wires.column_resistance == 0.7
    assert "ir_drop" not in at.chips.hermes64().non_idealities()
    at.chips.save(chip, tmp_path / "chip.json")
    assert at.chips.load(tmp_path / "chip.json") == chip


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(12, 8, 3),
        nn.Conv2d(16, 16, 3, groups=4),
        nn.Conv1d(300, 9, 1),
        nn.LSTM(20, 8),
        nn.MultiheadAttention(16, 2),
    ],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("model", ["ladder", "pulses", "standard"])
def test_other_layers(layer, model):
    """Training meets the drop of the programmed chip in every kind of layer."""
    inputs = {
        nn.Conv2d: lambda: (torch.randn(2, layer.in_channels, 6, 6),),
        nn.Conv1d: lambda: (torch.randn(2, 300, 5),),
        nn.LSTM: lambda: (torch.randn(3, 2, 20),),
        nn.MultiheadAttention: lambda: (torch.randn(3, 2, 16),) * 3,
    }[type(layer)]()

    def outputs(module):
        y = module(*inputs)
        return y[0] if isinstance(y, tuple) else y

    chip = _chip(column_resistance=20.0, model=model).replace(training={"weight": "none"})
    exact = outputs(copy.deepcopy(layer).eval()).detach()
    model = at.convert(nn.ModuleList([copy.deepcopy(layer)]), chip)
    physical = at.program(model, seed=0).at("programmed", compensation="none")
    trained, programmed = outputs(model.train()[0]), outputs(physical[0])
    assert (programmed - exact).norm() > 1e-4 * exact.norm()
    assert (trained - programmed).norm() < 1e-3 * (programmed - exact).norm()


@pytest.mark.parametrize("model", ["pulses", "standard"])
def test_inputs_decide_what_they_lose(model):
    """Half of the rows off: a smaller share of the output is lost than with all rows on."""
    layer, chip = _layer(256, 20), _chip(column_resistance=2.0, model=model)
    layer[0].weight.data.abs_()
    physical, ladder = (
        at.convert(copy.deepcopy(layer), c) for c in (chip, _chip(column_resistance=2.0))
    )
    for each in (physical, ladder):
        each[0].set_input_range(1.0)
    physical, ladder = (at.program(m, seed=0).at("programmed") for m in (physical, ladder))
    every, half = torch.ones(1, 256), torch.ones(1, 256)
    half[:, ::2] = 0

    def lost(chip, x):
        return ((layer(x) - chip(x)).norm() / layer(x).norm()).item()

    assert lost(physical, half) < 0.65 * lost(physical, every)
    assert lost(ladder, half) == pytest.approx(lost(ladder, every), rel=0.02)
    if model == "pulses":  # all rows on: every cell loads its column
        assert lost(physical, every) == pytest.approx(lost(ladder, every), rel=1e-4)


def test_a_product_of_pulses_is_the_tile_solved_at_every_time():
    """One tile of 128 x 20 weights and signed inputs: differential currents, within 0.6 %."""
    model, x = _layer(128, 20), 2 * torch.rand(2, 128) - 1
    wires = {"column_resistance": 1.4, "model": "pulses"}
    analog = at.convert(copy.deepcopy(model), _chip(**wires))
    analog[0].set_input_range(1.0)
    found = at.program(analog, seed=0).at("programmed")(x).double()
    w = model[0].weight.detach().double()
    largest, unit = w.abs().max(), 1e-6 * EXACT.cell.g_total
    pairs = torch.stack((w.clamp_min(0), (-w).clamp_min(0)), 1).flatten(0, 1).T * unit / largest
    currents = nodal.solve_pulses(pairs, x, Wires(**wires)).unflatten(1, (-1, 2))
    expected = (currents[..., 0] - currents[..., 1]) * largest / unit
    ideal = model(x).double()
    assert (expected - ideal).norm() > 0.015 * ideal.norm()
    assert (found - expected).norm() < 0.006 * ideal.norm()


@pytest.mark.parametrize("model", ["pulses", "standard"])
def test_gradients_of_a_drop_by_inputs(model):
    chip = _chip(column_resistance=20.0, model=model).replace(training={"weight": "none"})
    analog = at.convert(_layer(40, 6).double(), chip).train()
    analog[0].set_input_range(1.5)
    weight = analog[0].weight
    x = torch.randn(3, 40, dtype=torch.float64).clamp(-1.4, 1.4).requires_grad_()
    analog(x).square().sum().backward()
    scale = weight.detach().abs().flatten().argmax()
    step = torch.zeros_like(weight).view(-1)
    step[torch.arange(step.numel()) != scale] = 1e-6
    step = (step * torch.randn_like(step)).view_as(weight)
    moved = 1e-7 * torch.randn_like(x)
    losses = []
    for sign in (1, -1):
        other = copy.deepcopy(analog)
        other[0].weight.data += sign * step
        losses.append(other((x + sign * moved).detach()).square().sum().item())
    expected = (losses[0] - losses[1]) / 2
    found = (weight.grad * step).sum() + (x.grad * moved).sum()
    assert found.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("model", ["pulses", "standard"])
def test_phases_and_batches(model):
    """Each phase has the drop of its own inputs, which load less; a batch may be split."""
    chip = _chip(column_resistance=2.0, model=model)
    layer, x = _layer(300, 20), torch.randn(6, 300)
    together = _on_chip(layer, chip)
    apart = _on_chip(layer, chip.replace(adc={"separate_phases": True}))
    y = together(x)
    assert (layer(x) - apart(x)).norm() < 0.7 * (layer(x) - y).norm()
    assert_close(torch.cat([together(part) for part in x.split(2)]), y)


@pytest.mark.parametrize("model", ["pulses", "standard"])
def test_an_embedding_drives_one_row(model):
    table = nn.Sequential(nn.Embedding(256, 8))
    ladder, by_input = (
        at.program(at.convert(copy.deepcopy(table), chip, embeddings=True), seed=0).at("programmed")
        for chip in (_chip(column_resistance=2.0), _chip(column_resistance=2.0, model=model))
    )
    tokens = torch.arange(256)
    exact = table(tokens)
    assert (by_input(tokens) - exact).norm() < 0.02 * (ladder(tokens) - exact).norm()


def test_a_model_in_a_file(tmp_path):
    chip = _chip(column_resistance=0.35, model="pulses")
    at.chips.save(chip, tmp_path / "chip.json")
    assert at.chips.load(tmp_path / "chip.json") == chip
    assert chip.without("ir_drop") == chip.scaled(ir_drop=0) == _chip()
    double = chip.scaled(ir_drop=2).wires
    assert (double.column_resistance, double.model) == (0.7, "pulses")
    assert "pulses" in str(chip)


@pytest.mark.parametrize(
    "bad",
    [
        {"row_resistance": -1.0},
        {"column_ends": 3},
        {"model": "closed_form"},
        {"row_resistance": 1.0, "model": "pulses"},
        {"column_ends": 2, "model": "standard", "column_resistance": 1.0},
        {"model": "pulses"},
        {"row_ends": 2},
    ],
)
def test_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Wires(**bad)


def test_slices_refuse_a_drop_by_inputs():
    chip = _chip(column_resistance=1.0, model="pulses")
    with pytest.raises(ValueError, match="not known for slices"):
        chip.replace(slices={"bits_per_pulse": 1}, dac={"bits": 8})


@pytest.mark.parametrize("ends", [1, 2])
@pytest.mark.parametrize("ohm", [0.35, 50.0])
def test_the_kernel_of_columns_is_the_elimination_along_each(ends, ohm):
    """Weights within 2e-6 of float64, gradients within 2e-5 of their largest."""
    if not native.available():
        pytest.skip("no CPU kernels")
    wires, cell, bounds = Wires(column_resistance=ohm, column_ends=ends), EXACT.cell, (0, 256, 301)
    array = at.chips.Array(rows=270, columns=37, tiles=1)
    torch.manual_seed(0)
    weight = torch.randn(37, 301).masked_fill_(torch.rand(37, 301) < 0.2, 0.0)
    weight[3, :256] = 0  # a column without a scale
    scale = block_scales(weight, bounds)
    exact, single = weight.double().requires_grad_(), weight.clone().requires_grad_()
    parts = []
    for (a, b), full in zip(((0, 256), (256, 301)), scale.double(), strict=True):
        r = relative(exact[:, a:b], full.unsqueeze(1))
        # where() gives zeros the gradient of the positive polarity, as the kernel does
        pair = torch.where(r >= 0, r, 0.0), torch.where(r < 0, -r, 0.0)
        block = ir_drop.Block(slice(0, 37), slice(0, b - a))
        plus, minus = ir_drop.behind_wires(*pair, [block], wires, cell, array)
        parts.append(full.unsqueeze(1) * (plus - minus))
    expected = torch.cat(parts, 1)
    found, own, sums = column_drop(single, None, bounds, (), wires, cell, array)
    assert_close(found.double(), expected, rtol=1e-5, atol=2e-6)
    assert torch.equal(own, scale)
    given, same, again = column_drop(single, scale, bounds, (), wires, cell, array)
    assert same is scale
    assert torch.equal(given, found)
    assert torch.equal(again, sums)
    for b, (i, j) in enumerate(((0, 256), (256, 301))):
        magnitudes = [w[:, i:j].abs().sum(1).float() for w in (exact, expected)]
        assert_close(sums[:, b], torch.stack(magnitudes), rtol=1e-5, atol=1e-6)
    g = torch.randn(37, 301)
    (of_exact,) = torch.autograd.grad(expected, exact, g.double())
    (of_single,) = torch.autograd.grad(found, single, g)
    used = torch.arange(37) != 3
    error = (of_single.double() - of_exact)[used].abs().max()
    assert error < 2e-5 * of_exact[used].abs().max()


@pytest.mark.parametrize("readout", ["chip", "ideal"])
@pytest.mark.parametrize("compensation", ["global", "column"])
@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize(
    "wires",
    [
        {"column_resistance": 1.0},
        {"column_resistance": 1.0, "model": "pulses"},
        {"column_resistance": 1.0, "model": "standard"},
    ],
    ids=["ladder", "pulses", "standard"],
)
def test_drift_compensation_leaves_ir_drop_alone(wires, calibrated, compensation, readout) -> None:
    analog = at.convert(_layer(300, 20), _chip(calibrated, **wires))
    physical = at.program(analog, seed=0)
    with_factors = physical.at("1 day", compensation=compensation, readout=readout)
    factors, plain = (
        view[0].programmed.gains[0]
        for view in (with_factors, physical.at("1 day", compensation="none"))
    )
    assert_close(factors, plain)
