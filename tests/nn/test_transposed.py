"""Transposed convolutions: equal to torch's on an ideal chip, computed by hand on another."""

import copy
import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.nn.execution import Quantised
from tests.crossbar import crossbar
from tests.nn import lasting

READ = crossbar(
    array={"rows": 5, "columns": 7}, dac={"bits": None}, adc={"noise": 0.0, "bits": None}
)
QUIET = at.TrainingNoise(weight="none")
KINDS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
X = {1: (3, 6, 7), 2: (2, 6, 5, 4), 3: (2, 6, 3, 4, 2)}
OPTIONS = [
    {"kernel_size": 1},
    {"kernel_size": 3},
    {"kernel_size": 3, "stride": 3},  # taps side by side
    {"kernel_size": 2, "stride": 4},  # places that no tap reaches
    {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    # places beyond the last tap
    {"kernel_size": 2, "stride": 3, "output_padding": 2, "dilation": 2},
    {"kernel_size": 3, "stride": 2, "dilation": 3, "padding": 2, "groups": 2},
    {"kernel_size": 3, "padding": 1, "groups": 6},
]
CASES = [(dims, options) for dims in (1, 2, 3) for options in OPTIONS]
_each = pytest.mark.parametrize(
    ("dims", "options"),
    CASES,
    ids=lambda v: "-".join(map(str, v.values())) if isinstance(v, dict) else v,
)


def _layer(dims: int, options: dict) -> nn.Module:
    torch.manual_seed(0)
    return KINDS[dims](6, 12, **options)


def _input(dims: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(X[dims], generator=torch.Generator().manual_seed(1), dtype=dtype)


@_each
@pytest.mark.parametrize("grouped", ["sequential", "block_diagonal"])
def test_readings_add_up_to_torchs_numbers_and_gradients(
    dims: int, options: dict, grouped: str
) -> None:
    digital = _layer(dims, options).double()
    # an ADC of 16 bits that never saturates: steps of 3e-5 x range x scale per reading
    chip = READ.replace(array={"grouped": grouped}, adc={"range": 7.0, "bits": 16}, training=QUIET)
    layer = at.convert(copy.deepcopy(digital), chip)
    layer.set_input_range(1.0)
    assert type(layer.execution) is Quantised
    x = _input(dims).clamp(-1, 1)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = layer(ours), digital(theirs)
    assert y.shape == expected.shape
    assert torch.allclose(y, expected, atol=5e-3)
    g = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y.backward(g)
    expected.backward(g)
    assert ours.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-10)
    for name, p in digital.named_parameters():
        assert torch.allclose(layer.get_parameter(name).grad, p.grad, atol=1e-10)


@_each
def test_an_ideal_chip_gives_torchs_numbers(dims: int, options: dict) -> None:
    digital, x = _layer(dims, options), _input(dims, torch.float32)
    layer = at.convert(copy.deepcopy(digital), at.chips.ideal())
    for given in (x, x[0]):
        assert torch.equal(layer(given), digital(given))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("chip", [at.chips.ideal(), lasting.SMALL], ids=["ideal", "small"])
def test_an_output_size_may_be_asked_for(dims: int, chip: at.Chip) -> None:
    digital, x = (
        _layer(dims, {"kernel_size": 3, "stride": 2, "padding": 1}),
        _input(dims, torch.float32),
    )
    layer = at.convert(copy.deepcopy(digital), chip).eval()
    for size in ([n * 2 for n in X[dims][2:]], [n * 2 - 1 for n in X[dims][2:]]):
        expected = digital(x, output_size=size)
        for given in (size, [*X[dims][:1], 12, *size]):
            y = layer(x, output_size=given)
            assert y.shape == expected.shape
            assert (y - expected).norm() < 0.2 * expected.norm()
        assert layer(x[0], output_size=size).shape == expected[0].shape
    with pytest.raises(ValueError, match="valid sizes range"):
        layer(x, output_size=[99] * dims)


def _by_hand(
    x: Tensor,
    w: Tensor,
    bias: Tensor,
    chip: at.Chip,
    full_scale: float,
    geometry: tuple,
    gains: Tensor | None,
    scales: Tensor,
) -> Tensor:
    """Compute one position and one tap after the other; ``w`` is (in, out, h, w)."""
    stride, padding, dilation, size = geometry
    n, channels, height, width = x.shape
    steps_in, steps_out = 2 ** (chip.dac.bits - 1) - 1, 2 ** (chip.adc.bits - 1) - 1
    codes = (
        (x.clamp(-full_scale, full_scale) / full_scale * steps_in).round() / steps_in * full_scale
    )
    out = bias.view(1, -1, 1, 1).repeat(n, 1, *size)
    places = itertools.product(range(height), range(width), range(w.shape[2]), range(w.shape[3]))
    for row, col, a, b in places:
        down, across = row * stride + a * dilation - padding, col * stride + b * dilation - padding
        if not (0 <= down < size[0] and 0 <= across < size[1]):
            continue
        column = torch.arange(w.shape[1]) * w.shape[2] * w.shape[3] + a * w.shape[3] + b
        for block, start in enumerate(range(0, channels, chip.array.rows)):
            part = slice(start, start + chip.array.rows)
            bound = full_scale * scales[block, column] * chip.adc.range
            current = codes[:, part, row, col] @ w[part, :, a, b]
            reading = (current.clamp(-bound, bound) * steps_out / bound).round() * bound / steps_out
            out[:, :, down, across] += reading * (1 if gains is None else gains[block, column])
    return out


@pytest.mark.parametrize("held", [False, True])
def test_against_the_explicit_product(held: bool) -> None:
    torch.manual_seed(0)
    digital = nn.ConvTranspose2d(12, 4, 3, stride=2, padding=1, dilation=2, output_padding=1)
    chip = crossbar(
        array={"rows": 5, "columns": 7}, adc={"noise": 0.0}, periphery={"weight_scale": "column"}
    )
    layer, x = at.convert(copy.deepcopy(digital), chip).eval(), torch.randn(2, 12, 4, 3)
    layer.set_input_range(1.3)
    matrix, gains = layer.as_matrix(digital.weight.detach()).squeeze(2), None
    scales = torch.stack([matrix[:, a : a + 5].abs().amax(1) for a in (0, 5, 10)])
    w = digital.weight.detach()
    if held:
        layer = at.program(layer, seed=3).at("1 day", compensation="column")
        matrix, gains, scales = (
            layer.programmed.weights[0].squeeze(2),
            layer.programmed.gains[0],
            layer.programmed.scales[0],
        )
        w = matrix.view(4, 3, 3, 12).movedim(-1, 0)
    y = layer(x)
    expected = _by_hand(
        x, w, digital.bias.detach(), chip, 1.3, (2, 1, 2, tuple(y.shape[2:])), gains, scales
    )
    # a reading may fall on the other side of a rounding boundary by float error: rarely
    assert ((y - expected).abs() > 1e-4).float().mean() < 0.01
    assert (y - digital(x)).norm() < (0.6 if held else 0.4) * digital(x).norm()


def test_each_input_place_is_a_vector_of_its_own_noise() -> None:
    chip = READ.replace(array={"rows": 64, "columns": 64}, adc={"noise": 0.1}, training=QUIET)
    layer = at.convert(nn.ConvTranspose1d(4, 16, 3, bias=False), chip)
    nn.init.ones_(layer.weight)
    layer.set_input_range(2.0)
    y = layer(torch.zeros(200, 4, 30))
    assert len(y.flatten().unique()) > 0.99 * y.numel()
    # an inner place adds three readings, each with 0.1 x range 2 x scale 1; 89,600 draws
    assert y[..., 2:-2].std().item() == pytest.approx(0.1 * 2 * 3**0.5, rel=0.02)
    assert y[..., 0].std().item() == pytest.approx(0.1 * 2, rel=0.06)


def test_eight_bits_cost_little() -> None:
    torch.manual_seed(0)
    digital, x = nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), torch.randn(2, 64, 8, 8)
    layer = at.calibrate(at.convert(copy.deepcopy(digital), crossbar()), [x]).eval()
    exact = digital(x)
    assert (layer(x) - exact).norm() < 0.12 * exact.norm()


@pytest.mark.parametrize("grouped", ["sequential", "block_diagonal"])
def test_a_mapping_places_it(grouped: str) -> None:
    chip = crossbar(array={"rows": 20, "columns": 30, "grouped": grouped})
    up = nn.ConvTranspose2d(12, 8, (3, 2), stride=2, groups=2)
    model = at.convert(nn.Sequential(up, nn.Flatten(2), nn.ConvTranspose1d(8, 40, 5)), chip)
    x = torch.randn(1, 12, 4, 4)
    mapping = at.map_to_chip(model, x, chip=chip)
    assert [m.name for m in mapping.matrices] == ["0", "2"]
    assert [m.cols for m in mapping.matrices] == [
        layer.matrix_shape[0] for _, layer in at.analog_layers(model)
    ]
    physical = at.program(model, seed=1, mapping=mapping, defects=at.Defects(tiles=1.0))
    assert set(physical.yield_map()) == set(mapping.tile_utilisation)
    for _, layer in at.analog_layers(physical.at("1 h")):
        assert not any(weights.any() for weights in layer.programmed.weights)
    half = at.program(model, seed=1, mapping=mapping, defects=at.Defects(tiles=0.5))
    works = {place: bool(state.works.any()) for place, state in half.yield_map().items()}
    assert set(works.values()) == {True, False}
    held = dict(at.analog_layers(half.at("1 h", compensation="none")))
    for p in mapping.matrix_blocks("2"):  # one section, so the block is where the mapping says
        cells = held["2"].programmed.weights[0].squeeze(2)
        part = cells[
            p.block.col : p.block.col + p.block.cols, p.block.row : p.block.row + p.block.rows
        ]
        assert bool(part.any()) is works[p.chip, p.tile]


def test_the_columns_are_in_the_order_of_group_output_and_tap() -> None:
    layer = at.convert(nn.ConvTranspose2d(6, 4, (2, 3), groups=2), at.chips.ideal())
    matrix = layer.as_matrix(layer.weight)
    assert matrix.shape == (4 * 6, 3, 1)
    for group, output, down, across, channel in itertools.product(
        range(2), range(2), range(2), range(3), range(3)
    ):
        cell = matrix[((group * 2 + output) * 2 + down) * 3 + across, channel, 0]
        assert cell == layer.weight[group * 3 + channel, output, down, across]


@pytest.mark.parametrize("shape", [(2, 5, 4, 4), (2, 6, 4), (2, 6, 4, 4, 4), (5, 4, 4)])
def test_inputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    layer = at.convert(nn.ConvTranspose2d(6, 4, 3), crossbar())
    with pytest.raises(
        ValueError, match=r"layer '' takes \(N, 6, H, W\) inputs, or one sample.* got shape"
    ):
        layer(torch.zeros(shape))


@pytest.mark.parametrize("chip", [at.chips.ideal(), crossbar()])
def test_an_input_whose_output_is_all_padding_is_refused(chip: at.Chip) -> None:
    layer = at.convert(nn.ConvTranspose1d(1, 1, 3, padding=2), chip)
    with pytest.raises(ValueError, match=r"positions \(1,\) has an output with positions \(-1,\)"):
        layer(torch.zeros(1, 1, 1))
    assert layer(torch.zeros(1, 3)).shape == (1, 1)


def test_meta_and_lazy_layers() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.ConvTranspose2d(64, 32, 4))
    at.convert(model, crossbar())
    assert at.summary(model).layers[0].shape == (32 * 16, 64, 1)
    assert model.eval()(torch.zeros(1, 64, 3, 3, device="meta")).shape == (1, 32, 6, 6)
    lazy = nn.Sequential(nn.LazyConvTranspose2d(4, 3), nn.Linear(3, 3))
    assert dict((n, why) for n, why, _ in at.summary(at.convert(lazy, crossbar())).skipped)[
        "0"
    ].startswith("lazy")


DIGITAL = nn.Sequential(
    nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2)
)


def test_copies_and_the_way_back() -> None:
    lasting.check_copies(DIGITAL, _input(2, torch.float32))


def test_checkpoints(tmp_path: Path) -> None:
    lasting.check_checkpoint(DIGITAL, _input(2, torch.float32), tmp_path)


def test_noise_is_replayed_and_does_not_depend_on_the_batch() -> None:
    lasting.check_replay(DIGITAL, _input(2, torch.float32))


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
def test_compilers() -> None:
    lasting.check_compilers(DIGITAL, _input(2, torch.float32))


def test_summary_and_guard() -> None:
    lasting.check_reports(DIGITAL, _input(2, torch.float32), ["0"])


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    model, x = (
        at.convert(nn.Sequential(nn.ConvTranspose1d(3, 2, 4, stride=2)), lasting.SMALL),
        torch.randn(32, 3, 6),
    )
    target = nn.ConvTranspose1d(3, 2, 4, stride=2)(x).detach()
    at.calibrate(model, [x], method="absmax")
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.02), []
    for _ in range(60):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert model[0].input_range.grad is not None


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_vmap_of_the_evaluation_form() -> None:
    layer, x = (
        at.convert(nn.ConvTranspose1d(3, 2, 3), lasting.SMALL).eval(),
        torch.randn(4, 2, 3, 5),
    )
    layer.set_input_range(2.0)
    assert torch.allclose(torch.vmap(layer)(x), torch.stack([layer(part) for part in x]), atol=1e-5)
