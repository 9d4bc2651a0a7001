"""The non-linearity of ADCs: drawn for each column and code of a chip, by seed and place."""

import math

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.ops.converters import adc
from analogtorch.simulate.tile_state import adc_errors
from analogtorch.simulate.transfer import adc_inl

HERMES = at.chips.hermes64().replace(adc={"steps": 60})
DNL = HERMES.replace(adc={"dnl_std": 0.2})
SAR = HERMES.replace(adc={"bits": 7, "steps": None, "capacitor_std": 0.03})
BUMP = HERMES.replace(adc={"inl": (0.0, 1.5, 0.0, -0.8, 0.0)})
KINDS = {
    "dnl": DNL,
    "sar": SAR,
    "inl": BUMP,
    "floor": HERMES.replace(adc={"rounding": "floor"}),
    "ramp": HERMES.replace(
        adc={"slope_std": 0.05, "offset_std": 0.01, "inl": (0.0, -0.5, 0.0), "rounding": "floor"}
    ),
    "all": HERMES.replace(
        adc={"bits": 7, "steps": None, "capacitor_std": 0.03, "dnl_std": 0.3, "inl": (0.0, 1, 0.0)}
    ),
}
ADC_ALONE = ("dac", "programming_noise", "drift", "read_noise", "adc_gain", "digital_unit")


def _drawn(chip: at.Chip, seed: int, number: int, tile: int) -> Tensor:
    found = adc_inl(chip, seed, number, tile)
    assert found is not None
    return found


def test_the_inl_of_a_column_belongs_to_its_place() -> None:
    drawn = _drawn(DNL, 7, 0, 5)
    assert drawn.shape == (256, 120)
    assert torch.equal(drawn, _drawn(DNL, 7, 0, 5))
    for other in ((8, 0, 5), (7, 1, 5), (7, 0, 6)):
        assert not torch.allclose(_drawn(DNL, *other), drawn, atol=0.01)
    # 119 steps: (119 / 4)^0.5 times the spread in the middle; 256 columns, 4.4 %
    assert drawn[:, 60].std().item() == pytest.approx(0.2 * math.sqrt(119) / 2, rel=0.2)
    # 30,000 widths: 0.4 %
    assert drawn.diff().std().item() == pytest.approx(0.2, rel=0.02)
    assert _drawn(BUMP, 7, 0, 5).shape == (1, 120)
    assert torch.equal(_drawn(BUMP, 7, 0, 5), _drawn(BUMP, 8, 1, 3))
    assert adc_inl(HERMES, 7, 0, 5) is None
    half = _drawn(DNL.scaled(adc_dnl=0.5), 7, 0, 5)
    # but for the scale of all widths together, which both change
    assert (half - drawn / 2).abs().max() < 0.1


@pytest.mark.parametrize("name", ["dnl", "sar", "all"])
def test_a_layer_has_the_inl_of_its_position_on_any_tiling(name: str) -> None:
    torch.manual_seed(0)
    chip = KINDS[name].replace(periphery={"column_calibration": False})
    model = at.convert(nn.Sequential(nn.Linear(300, 20), nn.Linear(20, 9)), chip)
    mapping = at.map_to_chip(model, torch.zeros(1, 300), chip=chip)
    for where in (mapping, at.remap(mapping, retired=[(0, 0)])):
        view = at.program(model, seed=4, mapping=where).at("programmed")
        for p in where.placements:
            layer = view.get_submodule(p.block.matrix)
            block = layer.sections[0].bounds.index(p.block.row)
            columns = slice(p.block.col, p.block.col + p.block.cols)
            expected = _drawn(chip, 4, p.chip, p.tile)[p.col : p.col + p.block.cols]
            assert torch.equal(layer.programmed.adc_inl[0][block, columns], expected)


def _converted(sums: Tensor, full: Tensor, block: int, held, chip: at.Chip) -> Tensor:
    """Return the ADC outputs of the partial sums (vectors, outputs) of a row block."""
    gain, offset, inl = torch.ones_like(full), torch.zeros_like(full), None
    if held.adc_errors is not None:
        gain, offset = held.adc_errors[0][:, block]
    if held.adc_inl is not None:
        inl = held.adc_inl[0][block if len(held.adc_inl[0]) > 1 else 0]
    limit = full * (chip.adc.range / gain)
    floors = chip.adc.rounding == "floor"
    return adc(sums + offset * limit, limit, chip.adc.levels, floors, inl) * gain


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", ["linear", "convolution", "embedding"])
def test_a_programmed_layer_reads_its_partial_sums_through_them(name: str, kind: str) -> None:
    torch.manual_seed(0)
    chip = (
        KINDS[name]
        .without(*ADC_ALONE)
        .replace(array={"rows": 16, "columns": 12}, periphery={"column_calibration": False})
    )
    digital, x = {
        "linear": (nn.Linear(40, 20, bias=False), torch.randn(9, 40)),
        "convolution": (nn.Conv2d(4, 20, 3, bias=False), torch.randn(2, 4, 5, 5)),
        "embedding": (nn.Embedding(40, 20), torch.arange(40)),
    }[kind]
    layer = at.convert(nn.Sequential(digital), chip, embeddings=True)
    view = at.program(layer, seed=3).at("programmed")[0]
    if kind != "embedding":
        view.set_input_range(2.0)
    found, held, section = view(x), view.programmed, view.sections[0]
    flat, total = held.weights[0].flatten(1), torch.zeros_like(found)
    for block, (a, b) in enumerate(zip(section.bounds[:-1], section.bounds[1:], strict=True)):
        part = torch.zeros_like(flat)
        part[:, a:b] = flat[:, a:b]
        part, rows = part.view_as(held.weights[0]), slice(None)
        full = held.scales[0][block] * (1.0 if kind == "embedding" else 2.0)
        if kind == "linear":
            sums = x @ part.T
        elif kind == "convolution":
            sums = nn.functional.conv2d(x, part).movedim(1, -1)
        else:  # a token is read in its row block alone
            sums, rows = part.T, (x >= a) & (x < b)
        out = _converted(sums.reshape(-1, 20), full, block, held, chip).view_as(sums)
        total[rows] += (out.movedim(-1, 1) if kind == "convolution" else out)[rows]
    # a partial sum at a transition may be rounded otherwise
    assert ((found - total).abs() > 1e-4).float().mean() < 0.01


def test_the_slope_of_a_ramp_is_a_gain_of_the_whole_tile() -> None:
    chip = HERMES.replace(adc={"gain_std": 0.0, "slope_std": 0.05})
    gains = torch.stack(
        [adc_errors(chip, 7, number, tile)[0] for number in range(8) for tile in range(64)]
    )
    assert (gains == gains[:, :1]).all()
    # 512 tiles: 3.1 %
    assert gains[:, 0].std().item() == pytest.approx(0.05, rel=0.12)
    assert gains[:, 0].mean().item() == pytest.approx(1.0, abs=0.01)
    both = adc_errors(HERMES.replace(adc={"slope_std": 0.05}), 7, 0, 5)[0]
    assert torch.allclose(both, adc_errors(HERMES, 7, 0, 5)[0] * gains[5])
    assert torch.equal(adc_errors(HERMES, 7, 0, 5), adc_errors(HERMES.scaled(adc_slope=3), 7, 0, 5))


@pytest.mark.parametrize("name", ["dnl", "sar", "inl", "ramp"])
def test_training_and_evaluation_have_no_spread_and_no_table(name: str) -> None:
    outputs, chip = [], KINDS[name]
    spreads = {"dnl_std": 0.0, "capacitor_std": 0.0, "inl": None, "slope_std": 0.0}
    for each in (chip, chip.replace(adc=spreads | {"offset_std": 0.0})):
        torch.manual_seed(0)
        layer, x = at.convert(nn.Linear(20, 8), each), torch.ones(2, 20)
        with at.noise(1):
            outputs.append((layer(x), layer.eval()(x)))
    assert all(map(torch.equal, *outputs))


def test_rounding_toward_zero_is_a_part_of_evaluation_and_training() -> None:
    torch.manual_seed(0)
    digital, x = nn.Linear(64, 200, bias=False), torch.randn(40, 64)
    chip = HERMES.without("digital_unit").replace(training=at.TrainingNoise(weight="none"))
    y = []
    for rounding in ("nearest", "floor"):
        layer = at.convert(nn.Sequential(digital), chip.replace(adc={"rounding": rounding}))
        y.append((layer.eval()(x), layer.train()(x)))
    for nearest, floor in zip(*y, strict=True):
        assert (floor.abs() <= nearest.abs() + 1e-5).all()
        step = chip.adc.range / 60
        # 8,000 outputs: half a step is lost on average, in units of full scale
        full = x.abs().amax(1, keepdim=True) * digital.weight.abs().max()
        lost = ((nearest.abs() - floor.abs()) / full / step)[floor != 0].mean().item()
        assert lost == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("name", ["dnl", "sar", "inl"])
def test_the_gains_of_columns_are_fitted_through_the_inl(name: str) -> None:
    """They are fitted to outputs with the INL, so that they are not those of linear ADCs."""
    torch.manual_seed(0)
    layer, found = nn.Linear(256, 64, bias=False), []
    chip = KINDS[name]
    for each in (chip, chip.without("adc_dnl", "adc_capacitors", "adc_inl")):
        physical = at.program(at.convert(nn.Sequential(layer), each), seed=2)
        found.append(physical.at("1 day")[0].programmed.gains[0])
    assert not torch.equal(*found)
    assert torch.allclose(*found, rtol=0.15)


def test_correcting_columns_takes_back_what_is_linear_in_the_inl() -> None:
    """A curve that grows evenly is a gain, which the digital unit corrects."""
    torch.manual_seed(0)
    x, digital = torch.randn(400, 64), nn.Linear(64, 48, bias=False)
    chip = HERMES.without(*ADC_ALONE).replace(
        adc={"inl": (-12.0, 0.0, 12.0), "steps": 400, "range": 20.0},
        periphery={"column_calibration": False},
    )
    model = at.calibrate(at.convert(nn.Sequential(digital), chip), [x] * 4)
    view = at.program(model, seed=1).at("programmed")
    wrong = (view(x) - digital(x)).norm() / digital(x).norm()
    corrected = at.correct_columns(view, [x])
    right = (corrected(x) - digital(x)).norm() / digital(x).norm()
    assert right < wrong / 2


def test_batches_of_any_size_have_the_same_outputs() -> None:
    torch.manual_seed(0)
    x, model = torch.randn(12, 300), at.convert(nn.Sequential(nn.Linear(300, 20)), KINDS["all"])
    model[0].set_input_range(2.0)
    whole = at.program(model, seed=4).at("1 day")(x)
    parts = at.program(model, seed=4).at("1 day")
    assert torch.allclose(torch.cat([parts(each) for each in x.split(5)]), whole, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_chips_with_them_travel_as_files_and_older_files_have_none(name: str, tmp_path) -> None:
    chip = KINDS[name]
    for path in (tmp_path / "chip.yaml", tmp_path / "chip.json"):
        at.chips.save(chip, path)
        assert at.chips.load(path) == chip
    data = at.chips.to_dict(HERMES)
    for field in ("inl", "dnl_std", "capacitor_std", "rounding", "slope_std"):
        del data["adc"][field]
    assert at.chips.from_dict(data) == HERMES
    gone = chip.without(*chip.non_idealities())
    assert gone.non_idealities() == ()
    assert gone.adc.rounding == "nearest"
    assert "inl" in str(chip)


def test_an_error_budget_has_them() -> None:
    torch.manual_seed(0)
    x, digital = torch.randn(64, 100), nn.Linear(100, 10)
    model = at.calibrate(at.convert(nn.Sequential(digital), KINDS["all"]), [x])

    def metric(net: nn.Module) -> float:
        return -float((net(x) - digital(x)).norm() / digital(x).norm())

    budget = at.budget(model, metric, num_chips=2, names=("adc_dnl", "adc_inl"))
    assert {share.name for share in budget.rows} == {"adc_inl", "adc_dnl"}
    assert all(share.alone.mean > 0 for share in budget.rows)


WRONG = {
    "length": (
        {"inl": (0.0, 0.1)},
        "must have an odd number of values, at least 3.* got 2; 121 are",
    ),
    "even": ({"inl": (0.0, 0.1, 0.1, 0.0)}, "must have an odd number of values"),
    "number": ({"inl": 0.5}, "must be a tuple of numbers in LSB such as"),
    "text": ({"inl": "0.5"}, "must be a tuple of numbers in LSB such as"),
    "nan": ({"inl": (0.0, math.nan, 0.0)}, r"ADC.inl\[1\] must be a finite number"),
    "monotone": (
        {"inl": (0.0, 61.0, 0.0)},
        "must not make the transfer function turn back: from value 0 to 1, which are 60 LSB apart",
    ),
    "negative": ({"dnl_std": -0.1}, "ADC.dnl_std must be a number >= 0"),
    "capacitors": ({"capacitor_std": -0.1}, "ADC.capacitor_std must be a number >= 0"),
    "slope": ({"slope_std": math.nan}, "ADC.slope_std must be a number >= 0"),
    "kind": ({"rounding": "flor"}, "must be one of .*got 'flor', did you mean 'floor'"),
    "steps": ({"capacitor_std": 0.1}, "give bits, got steps=60"),
    "sar counter": (
        {"capacitor_std": 0.1, "bits": 7, "steps": None, "rounding": "floor"},
        "rounding='nearest', got 'floor'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_no_adc_has_is_refused(name: str) -> None:
    changes, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        HERMES.replace(adc=changes)


@pytest.mark.parametrize(
    "changes", [{"dnl_std": 0.1}, {"inl": (0.0, 0.1, 0.0)}, {"rounding": "floor"}]
)
def test_they_need_codes(changes) -> None:
    with pytest.raises(ValueError, match="needs codes, but bits and steps are None"):
        HERMES.replace(periphery={"output_bits": None}, adc={"steps": None} | changes)
