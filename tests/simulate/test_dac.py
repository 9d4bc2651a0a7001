"""DACs of a chip: INL, gains of rows, and pulses with jitter, alone or split."""

import math

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.ops import Plan, mvm
from analogtorch.ops.converters import dac, pulses
from analogtorch.simulate.transfer import dac_gains

HERMES = at.chips.hermes64()
EXACT = HERMES.without(*(n for n in HERMES.non_idealities() if n != "dac")).replace(
    array={"rows": 16, "columns": 12}, periphery={"column_calibration": False}
)
KEYS = torch.arange(4)


def _view(chip: at.Chip, layer: nn.Module, seed: int = 3) -> nn.Module:
    model = at.convert(nn.Sequential(layer), chip, embeddings=True)
    view = at.program(model, seed=seed).at("programmed")[0]
    if not isinstance(layer, nn.Embedding):
        view.set_input_range(2.0)
    return view


def test_the_inl_of_a_dac_is_added_to_its_codes() -> None:
    r = torch.tensor([2.0])
    x = torch.tensor([[-9.0, -2.0, -1.4, -0.1, 0.0, 0.1, 0.6, 1.5, 2.0, math.nan]])
    inl = torch.tensor([0.5, -0.2, 0.0, 0.1, 0.0, 0.3, -0.4])  # 3 bits: codes -3..3
    code = torch.tensor([0, 0, 1, 3, 3, 3, 4, 5, 6])  # -1.4 is -2.1 steps, 0.1 is 0.15
    expected = torch.tensor([-3, -3, -2, 0, 0, 0, 1, 2, 3]) + inl[code]
    found = dac(x, r, 3, torch.float32, inl)[0]
    assert torch.allclose(found[:-1], expected * 2 / 3)
    assert found[-1].isnan()
    assert torch.equal(
        dac(x, r, 3, torch.float32, 0 * inl)[0, :-1], dac(x, r, 3, torch.float32)[0, :-1]
    )


@pytest.mark.parametrize("kind", ["linear", "convolution", "by block", "embedding"])
def test_a_programmed_layer_has_the_inl_of_its_dacs(kind: str) -> None:
    torch.manual_seed(0)
    inl = (0.4, -2.0, 0.0, 1.5, -0.6)
    digital, x = {
        "linear": (nn.Linear(40, 20), torch.randn(9, 40)),
        "by block": (nn.Linear(40, 20), torch.randn(9, 40)),
        "convolution": (nn.Conv2d(4, 20, 3), torch.randn(2, 4, 5, 5)),
        "embedding": (nn.Embedding(40, 20), torch.arange(40)),
    }[kind]
    view = _view(EXACT.replace(dac={"inl": inl}), digital)
    if kind == "by block":
        view.set_input_range([2.0, 1.0, 0.5])
    table = torch.nn.functional.interpolate(
        torch.tensor(inl).view(1, 1, -1), 255, mode="linear", align_corners=True
    ).flatten()
    if kind == "embedding":
        assert torch.allclose(view(x), digital(x) * (1 + inl[-1] / 127), atol=1e-5)
        return
    ranges = torch.tensor([2.0])
    if kind == "by block":
        ranges = torch.tensor([2.0] * 16 + [1.0] * 16 + [0.5] * 8)
    code = (x.clamp(-ranges, ranges) * 127 / ranges).round()
    driven = (code + table[code.long() + 127]) * ranges / 127
    assert torch.allclose(view(x), digital(driven), atol=1e-4)
    assert not torch.allclose(view(x), digital(code * ranges / 127), atol=1e-3)


@pytest.mark.parametrize("rows", [2, 64])
@pytest.mark.parametrize(("padding", "after"), [(1, 1), ("same", 2)])
def test_padding_passes_the_dac_on_tiles_of_any_size(rows: int, padding, after: int) -> None:
    """Zeros that the product added had no INL; 64 rows hold the kernel, 2 cut it."""
    kernel = 2 + after
    layer = nn.Conv1d(1, 1, kernel, padding=padding, bias=False)
    nn.init.ones_(layer.weight)
    chip = EXACT.replace(array={"rows": rows}, dac={"inl": (0.0, 3.0, 0.0)})
    found = _view(chip, layer)(torch.zeros(1, 1, 4))
    assert torch.allclose(found, torch.tensor(kernel * 3 * 2.0 / 127), atol=1e-5)


def test_the_gain_of_a_row_belongs_to_its_place() -> None:
    chip = HERMES.replace(dac={"gain_std": 0.03})
    gains = torch.stack([dac_gains(chip, 7, 0, tile) for tile in range(64)])
    # 16,384 rows: 0.6 %
    assert gains.std().item() == pytest.approx(0.03, rel=0.03)
    assert gains.mean().item() == pytest.approx(1.0, abs=0.001)
    assert torch.equal(dac_gains(chip, 7, 0, 5), gains[5])
    for other in ((8, 0, 5), (7, 1, 5), (7, 0, 6)):
        assert not torch.allclose(dac_gains(chip, *other), gains[5], atol=0.01)
    twice = dac_gains(chip.scaled(dac_gain=2), 7, 0, 5)
    assert torch.allclose(twice - 1, 2 * (gains[5] - 1), atol=1e-6)


@pytest.mark.parametrize("separate", [False, True])
def test_the_weights_of_a_row_have_its_gain_on_any_tiling(separate: bool) -> None:
    torch.manual_seed(0)
    chip = HERMES.replace(
        array={"rows": 64, "columns": 16},
        adc={"separate_phases": separate, "gain_std": 0.0},
        periphery={"column_calibration": False},
        mvm_read_noise={"std": at.devices.SquareRoot(scale=0.01)},
    )
    model = at.convert(nn.Sequential(nn.Linear(100, 40), nn.Linear(40, 9)), chip)
    uneven = at.convert(
        nn.Sequential(nn.Linear(100, 40), nn.Linear(40, 9)), chip.replace(dac={"gain_std": 0.05})
    )
    uneven.load_state_dict(model.state_dict())
    mapping = at.map_to_chip(model, torch.zeros(1, 100), chip=chip)
    for where in (mapping, at.remap(mapping, retired=[(0, 0)])):
        views = [
            at.program(m, seed=4, mapping=where).at("1 hour", compensation="none")
            for m in (model, uneven)
        ]
        for p in where.placements:
            even, other = (v.get_submodule(p.block.matrix).programmed for v in views)
            here = (
                slice(p.block.col, p.block.col + p.block.cols),
                slice(p.block.row, p.block.row + p.block.rows),
            )
            gains = dac_gains(uneven[0].chip, 4, p.chip, p.tile)[p.row : p.row + p.block.rows]
            assert torch.allclose(other.weights[0][here], even.weights[0][here] * gains)
            for old, new in zip(even.read_variances[0], other.read_variances[0], strict=True):
                expected = old[here].float() * gains**2  # rounded to bfloat16, before and after
                assert torch.allclose(new[here].float(), expected, rtol=2**-7)
            if separate:
                assert torch.allclose(other.negatives[0][here], even.negatives[0][here] * gains)


def test_drift_is_compensated_in_spite_of_the_gains_of_rows() -> None:
    """Cells are read through the same DACs then and now."""
    torch.manual_seed(0)
    layer = nn.Linear(256, 64, bias=False)
    for compensation in ("global", "column", "least_squares"):
        found = []
        for std in (0.0, 0.05):
            chip = HERMES.replace(dac={"gain_std": std})
            physical = at.program(at.convert(nn.Sequential(layer), chip), seed=2)
            found.append(physical.at("1 day", compensation=compensation)[0].programmed.gains[0])
        assert (found[0] / found[1] - 1).mean().abs() < 0.005


def test_training_and_evaluation_have_neither() -> None:
    outputs = []
    for changes in ({}, {"inl": (0.0, 1.0, 0.0), "gain_std": 0.1}):
        torch.manual_seed(0)
        layer, x = at.convert(nn.Linear(20, 8), HERMES.replace(dac=changes)), torch.ones(2, 20)
        with at.noise(1):
            outputs.append((layer(x), layer.eval()(x)))
    assert all(map(torch.equal, *outputs))


def test_an_input_has_one_pulse_or_two() -> None:
    r = torch.tensor([1.0])
    codes = torch.tensor([[0.0, 1.0, 7.0, 8.0, 9.0, -16.0, -127.0]])
    x = codes / 127
    assert pulses(x, r, 8, 0).tolist() == [[0, 1, 1, 1, 1, 1, 1]]
    assert pulses(x, r, 8, 3).tolist() == [[0, 1, 1, 64, 65, 64, 65]]


@pytest.mark.parametrize("phases", [1, 2])
@pytest.mark.parametrize("split", [0, 2])
def test_jitter_has_the_variance_of_its_pulses(split: int, phases: int) -> None:
    """That of independent durations of all pulses, drawn one by one here."""
    torch.manual_seed(0)
    x, w = torch.randn(1, 30).clamp(-1, 1), torch.randn(5, 30)
    x[0, ::4] = 0.0
    code = (x * 31).round()
    plan = Plan(bounds=(0, 12, 30), input_bits=6, split=split, jitter=0.7, phases=phases)
    vectors = x.expand(20_000, -1)
    y = mvm(vectors, torch.ones(1), w, plan, output_keys=KEYS)
    high = torch.floor(code.abs() / 2**split) if split else torch.zeros_like(code)
    low = code.abs() - high * 2**split
    z = torch.randn(2, 20_000, 30)
    error = 0.7 / 31 * ((low > 0) * z[0] + 2**split * (high > 0) * z[1])
    drawn = error @ w.T
    exact = code / 31 @ w.T
    # 20,000 vectors: 0.5 % of a deviation, 0.7 % of one
    assert torch.allclose(y.std(0), drawn.std(0), rtol=0.03)
    assert torch.allclose(y.mean(0), exact[0], atol=5 * drawn.std(0).max().item() / 141)


def test_jitter_of_a_convolution_of_any_range_and_with_read_noise() -> None:
    torch.manual_seed(0)
    x, w = torch.rand(1, 2, 4) + 0.2, torch.randn(3, 2, 2)
    geometry = {"stride": (1,), "padding": (1,), "dilation": (1,)}
    plan = Plan(
        bounds=(0, 4), input_bits=5, jitter=0.5, read_noise=1.0, output_noise=0.03, **geometry
    )
    r = torch.full((4_000, 1, 1), 1.5)
    variances = (0.01 * torch.rand(1, 3, 2, 2)).bfloat16()
    given = {"output_keys": KEYS, "read_variances": variances, "scale": torch.ones(1, 3)}
    y = mvm(x.expand(4_000, -1, -1), r, w, plan, **given)
    xq = dac(x, torch.tensor([1.5]), 5, torch.float32)
    conv = torch.nn.functional.conv1d
    expected = (1.5 * 0.03) ** 2 + conv(xq.square(), variances[0].float(), padding=1)
    expected = expected + (0.5 * 1.5 / 15) ** 2 * conv((xq != 0).float(), w.square(), padding=1)
    # 4,000 samples: 1.1 % of a deviation, of 15 outputs
    assert torch.allclose(y.std(0), expected[0].sqrt(), rtol=0.05)


@pytest.mark.parametrize("kind", ["linear", "embedding"])
def test_programmed_chips_and_training_have_jitter_and_evaluation_has_none(kind: str) -> None:
    torch.manual_seed(0)
    chip = EXACT.replace(dac={"jitter": 2.0}, training=at.TrainingNoise(weight="none"))
    digital = nn.Linear(40, 20) if kind == "linear" else nn.Embedding(40, 20)
    x = torch.randn(1, 40) if kind == "linear" else torch.tensor([7])
    many = x.expand(4_000, *[-1] * (x.dim() - 1))
    view = _view(chip, digital)
    model = at.convert(nn.Sequential(digital), chip, embeddings=True)
    if kind == "linear":
        model[0].set_input_range(2.0)
    assert torch.equal(model.eval()(many)[0], model(many)[-1])
    code = (x.clamp(-2, 2) * 127 / 2).round() if kind == "linear" else None
    w = digital.weight
    if kind == "linear":
        std = 2.0 * 2 / 127 * ((w.square() * (code != 0)).sum(1)).sqrt()
    else:
        std = 2.0 / 127 * w[7].abs()
    for y in (view(many), model.train()(many)):
        # 4,000 vectors: 1.1 %
        assert torch.allclose(y.std(0), std, rtol=0.05)


def test_jitter_does_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    chip, x = EXACT.replace(dac={"jitter": 1.0, "split": 3}), torch.randn(12, 40)
    digital = nn.Linear(40, 20)
    whole, layer = _view(chip, digital)(x), _view(chip, digital)
    assert torch.allclose(torch.cat([layer(each) for each in x.split(5)]), whole, atol=1e-6)


def test_split_pulses_take_less_time() -> None:
    """hermes64: 7 + 15 instead of 127 LSB of 1 ns, in each of four phases."""
    assert HERMES.dac.pulse_steps == 127
    split = HERMES.replace(dac={"split": 3})
    assert split.dac.pulse_steps == 22
    before, after = at.chips.mvm_time(HERMES), at.chips.mvm_time(split)
    assert before == HERMES.cost.mvm_time
    assert before.value - after.value == pytest.approx(4 * 105e-9)
    assert "4 x (127 - 22) LSB" in after.source
    model = at.convert(nn.Sequential(nn.Linear(64, 10)), HERMES)
    slow, fast = (
        at.cost(at.map_to_chip(model, torch.zeros(1, 64), chip=chip)).latency
        for chip in (HERMES, split)
    )
    assert slow - fast == pytest.approx(4 * 105e-9)
    with pytest.raises(ValueError, match="saves 4.2e-06 s of an MVM of"):
        at.chips.mvm_time(split.replace(dac={"lsb_time": 1e-8}))
    unknown = at.chips.ibm_speech34().replace(dac={"split": 3})
    with pytest.raises(ValueError, match=r"DAC.split=3 makes an MVM shorter, by a time that"):
        at.chips.mvm_time(unknown)
    with pytest.raises(ValueError, match="has no cost"):
        at.chips.mvm_time(at.chips.ideal())


def test_chips_with_them_travel_as_files_and_older_files_have_none(tmp_path) -> None:
    chip = HERMES.replace(dac={"inl": (0.0, 1, 0.0), "gain_std": 0.01, "jitter": 0.3, "split": 3})
    at.chips.save(chip, tmp_path / "chip.yaml")
    assert at.chips.load(tmp_path / "chip.yaml") == chip
    data = at.chips.to_dict(at.chips.neurram48())
    for field in ("inl", "gain_std", "jitter", "encoding", "split", "lsb_time"):
        del data["dac"][field]
    assert at.chips.from_dict(data) == at.chips.neurram48()
    assert {"dac_inl", "dac_gain", "dac_jitter"} < set(chip.non_idealities())
    assert chip.without(*chip.non_idealities()).non_idealities() == ()
    gone = chip.without("dac")
    assert (gone.dac.inl, gone.dac.jitter, gone.dac.gain_std) == (None, 0.0, 0.01)


WRONG = {
    "length": ({"inl": (0.0, 0.1)}, "an odd number of values, at least 3.* got 2; 255 are"),
    "monotone": ({"inl": (0.0, -128.0, 0.0)}, "from value 0 to 1, which are 127 LSB apart"),
    "codes": ({"inl": (0.0, 1.0, 0.0), "bits": None}, "needs codes, but bits is None; give it"),
    "gain": ({"gain_std": -1}, "DAC.gain_std must be a number >= 0"),
    "jitter": ({"jitter": -1}, "DAC.jitter must be a number >= 0"),
    "encoding": ({"encoding": "pulse_with"}, "got 'pulse_with', did you mean 'pulse_width'"),
    "amplitude": ({"encoding": "amplitude"}, "it needs encoding='pulse_width', got 'amplitude'"),
    "split": ({"split": 7}, r"DAC.split must be an integer in \[1, 6\]"),
    "two bits": ({"split": 1, "bits": 2}, "needs two bits of magnitude, got bits=2"),
    "time": ({"lsb_time": 0.0}, "DAC.lsb_time must be a positive number"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_no_dac_has_is_refused(name: str) -> None:
    changes, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        HERMES.replace(dac=changes)


@pytest.mark.parametrize("changes", [{"inl": (0.0, 1, 0.0)}, {"jitter": 0.1}, {"split": 3}])
def test_inputs_that_are_applied_digit_by_digit_refuse_them(changes: dict) -> None:
    with pytest.raises(ValueError, match="with Slices.bits_per_pulse=1 give dac="):
        EXACT.replace(dac=changes, slices={"bits_per_pulse": 1}, periphery={"output_bits": None})


def test_wrong_operands_and_plans_are_refused() -> None:
    x, w = torch.randn(2, 8), torch.randn(4, 8)
    plan = Plan(bounds=(0, 8), input_bits=4)
    with pytest.raises(ValueError, match=r"dac_inl must be floating point \(15,\)"):
        mvm(x, torch.ones(1), w, plan, dac_inl=torch.zeros(14))
    with pytest.raises(ValueError, match="jitter > 0 needs output_keys"):
        mvm(x, torch.ones(1), w, Plan(bounds=(0, 8), input_bits=4, jitter=0.1))
    with pytest.raises(ValueError, match="jitter must be 0 without input_bits"):
        Plan(bounds=(0, 8), jitter=0.1)
    with pytest.raises(ValueError, match="split must be 0, or from 1 to input_bits - 2"):
        Plan(bounds=(0, 8), input_bits=4, split=3)
