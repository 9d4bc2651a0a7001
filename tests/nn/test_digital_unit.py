"""Every kind of layer behind ADCs with different gains, and a digital unit that rounds."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.nn.kinds import KINDS
from analogtorch.ops import in_steps
from analogtorch.simulate.tile_state import adc_errors
from tests.crossbar import crossbar
from tests.nn import lasting

EXACT = crossbar(adc={"noise": 0.0, "bits": None})
"""Without ADC."""
UNIT = EXACT.replace(
    adc={"gain_std": 0.15, "bits": None, "steps": 422},
    periphery={"column_calibration": True, "output_bits": 8},
)
TOKENS = torch.tensor([[0, 23, 24], [49, 7, 7]])


def _kinds() -> dict[str, tuple[nn.Module, str, Tensor]]:
    """Yield a module, its analog layer and inputs of that layer.

    Transposed layers get one position, with a column for each output.
    """
    torch.manual_seed(0)
    kinds: dict[str, tuple[nn.Module, str, Tensor]] = {
        "linear": (nn.Linear(20, 6, bias=False), "", torch.randn(2, 3, 20)),
        "conv1d": (nn.Conv1d(4, 6, 3, bias=False), "", torch.randn(2, 4, 9)),
        "conv2d": (nn.Conv2d(4, 6, 3, groups=2, bias=False), "", torch.randn(2, 4, 5, 6)),
        "conv3d": (nn.Conv3d(4, 6, 2, bias=False), "", torch.randn(2, 4, 3, 3, 4)),
        "transposed1d": (nn.ConvTranspose1d(12, 3, 2, bias=False), "", torch.randn(9, 12, 1)),
        "transposed2d": (
            nn.ConvTranspose2d(12, 4, 2, groups=2, bias=False),
            "",
            torch.randn(9, 12, 1, 1),
        ),
        "transposed3d": (
            nn.ConvTranspose3d(12, 2, (1, 2, 2), bias=False),
            "",
            torch.randn(9, 12, 1, 1, 1),
        ),
        "embedding": (nn.Embedding(50, 11), "", TOKENS),
        "recurrent": (nn.LSTM(20, 6, bias=False), "hh_l0", torch.randn(9, 6)),
        "cell": (nn.GRUCell(20, 6, bias=False), "ih", torch.randn(9, 20)),
        "attention": (nn.MultiheadAttention(20, 2, bias=False), "in_proj", torch.randn(9, 20)),
    }
    return kinds


def _columns(y: Tensor, kind: str) -> Tensor:
    """What a layer gives, as (vectors, columns of its matrix)."""
    if kind.startswith("transposed"):
        return y.flatten(1)
    return (y.movedim(1, -1) if kind.startswith("conv") else y).flatten(0, -2)


def _layer(model: nn.Module, kind: str) -> Any:
    child = _kinds()[kind][1]
    return model[0].get_submodule(child) if child else model[0]


def _model(kind: str, chip: at.Chip) -> nn.Module:
    model = at.convert(
        nn.Sequential(copy.deepcopy(_kinds()[kind][0])), chip, embeddings=True
    ).eval()
    if (layer := _layer(model, kind)).takes_range:
        layer.set_input_range(2.0)
    return model


def _held(model: nn.Module, kind: str) -> tuple[Any, Tensor, Tensor]:
    """Return the layer on a chip, its output, and the unit of its ADC range.

    Both tensors are (vectors, columns).
    """
    layer = _layer(at.program(model, seed=3).at("1 day", compensation="none"), kind)
    y, scales = _columns(layer(_kinds()[kind][2]), kind), torch.cat(layer.programmed.scales, 1)
    block = (
        TOKENS.flatten() // 256 if kind == "embedding" else torch.zeros(len(y), dtype=torch.int64)
    )
    return layer, y, scales[block] * layer.input_range.item()


_each_kind = pytest.mark.parametrize("kind", _kinds())


def test_these_are_all_kinds() -> None:
    made = {type(_layer(_model(kind, EXACT), kind)) for kind in _kinds()}
    assert made | {at.nn.AnalogMatrix} == {*KINDS, at.nn.AnalogMatrix} - {
        kind for kind in KINDS if issubclass(kind, at.nn.AnalogComposite)
    }


@_each_kind
@pytest.mark.parametrize("offset_std", [0.0, 0.1])
def test_an_adc_rounds_and_clips_the_current_times_its_gain_with_its_offset(
    kind: str, offset_std: float
) -> None:
    _, sums, full = _held(_model(kind, EXACT), kind)
    bound = 0.6 * (sums / full).abs().max().item()  # the largest are clipped
    chip = UNIT.replace(adc={"range": bound, "steps": 20, "offset_std": offset_std})
    model = _model(kind, chip)
    layer, y, _ = _held(model, kind)
    # one block each, one after the other
    tile = [one for _, one in at.analog_layers(model)].index(_layer(model, kind))
    gain, offset = adc_errors(chip, 3, 0, tile)[:, : y.shape[1]]
    assert offset.any() == (offset_std > 0)
    column = torch.cat(layer.programmed.gains, 1)[0] / gain
    assert gain.std() > 0.05
    assert (column - 1).abs().max() > 0.05
    currents = sums / full * gain + offset * bound
    expected = in_steps(currents, torch.tensor(bound), 20) * full * column
    # a reading may fall on the other side of a rounding boundary
    wrong = (y - expected).abs() > 1e-4
    assert wrong.float().mean() < 0.02
    assert (y - expected).abs().max() < 1.1 * bound / 20 * (full * column).abs().max()


@_each_kind
@pytest.mark.parametrize("held", [True, False])
def test_outputs_are_rounded_to_bits_in_their_ranges(kind: str, held: bool) -> None:
    model = _model(kind, UNIT.replace(periphery={"output_bits": 4}))
    x, (_, _, full) = _kinds()[kind][2], _held(model, kind)

    def run() -> Tensor:
        return _held(model, kind)[1] if held else _columns(_layer(model, kind)(x), kind)

    free = run()
    ranges = (free / full).abs().amax(0) * torch.linspace(0.4, 1.6, free.shape[1])
    _layer(model, kind).set_output_ranges(ranges.unsqueeze(0))
    limit = full * ranges
    expected = (free.clamp(-limit, limit) / limit * 7).round() / 7 * limit  # 4 bits: 7 steps
    got = run()
    assert not torch.allclose(free, expected, atol=1e-3)
    assert ((got - expected).abs() > 1e-4).float().mean() < 0.02
    assert (free.abs() > limit).any()
    _layer(model, kind).set_output_ranges(None)
    assert torch.equal(run(), free)


def test_row_blocks_have_gains_and_ranges_of_their_own() -> None:
    torch.manual_seed(0)
    chip = UNIT.replace(array={"rows": 24, "columns": 7}, periphery={"column_calibration": False})
    embedding, linear = nn.Embedding(50, 11), nn.Linear(50, 11, bias=False)
    with torch.no_grad():
        linear.weight.copy_(embedding.weight.T)
    models = [
        at.convert(nn.Sequential(layer), chip, embeddings=True).eval()
        for layer in (embedding, linear)
    ]
    ranges = torch.rand(3, 11) + 0.3
    for model in models:
        model[0].set_output_ranges(ranges)
    models[1][0].set_input_range(1.0)
    models[1][0].layer_name = models[0][0].layer_name
    one, other = (at.program(model, seed=3).at("1 day", compensation="none") for model in models)
    errors = other[0].programmed.adc_errors[0]
    # of two row and two column blocks: the fourth tile
    assert torch.equal(errors[:, 1, 7:], adc_errors(chip, 3, 0, 3)[:, :4])
    hot = nn.functional.one_hot(TOKENS, 50).float()
    assert torch.allclose(one(TOKENS), other(hot), atol=1e-5)


def test_a_saturated_unit_stops_the_gradient() -> None:
    layer = at.convert(nn.Linear(4, 2, bias=False), UNIT).eval()
    nn.init.ones_(layer.weight)
    layer.set_input_range(1.0)
    layer.set_output_ranges([[5.0, 1.0]])
    x = torch.full((1, 4), 0.5, requires_grad=True)
    layer(x)[0, 0].backward()
    assert x.grad.tolist() == [[1.0] * 4]
    x.grad = None
    y = layer(x)[0, 1]
    y.backward()
    assert y.item() == pytest.approx(1.0)
    assert x.grad.tolist() == [[0.0] * 4]


def test_without_a_digital_unit_ranges_have_no_effect() -> None:
    layer, x = at.convert(nn.Linear(20, 6), crossbar()).eval(), torch.randn(3, 20)
    before = layer(x)
    layer.set_output_ranges(0.1)
    assert torch.equal(layer(x), before)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.0, r"output ranges of 'a' must be positive finite numbers, got 0"),
        (-1.0, r"must be positive finite numbers, got -1"),
        (float("inf"), r"must be positive finite numbers, got inf"),
        ([[1.0] * 5 + [float("nan")]], r"must be positive finite numbers, got nan"),
        (
            [1.0] * 6,
            r"one for each of \(1, 6\) \(row blocks, outputs\), got shape \(6,\): "
            "calibrate them anew",
        ),
        ([[1.0], [1.0, 2.0]], r"output ranges of 'a' must be numbers, of one shape"),
        ("wide", r"output ranges of 'a' must be numbers, of one shape"),
    ],
)
def test_bad_ranges_are_refused_and_change_nothing(value: Any, message: str) -> None:
    layer = at.convert(nn.ModuleDict({"a": nn.Linear(20, 6)}), UNIT)["a"]
    layer.set_output_ranges(2.0)
    with pytest.raises(ValueError, match=message):
        layer.set_output_ranges(value)
    assert torch.equal(layer.output_ranges, torch.full((1, 6), 2.0))


def test_ranges_for_another_chip_are_named() -> None:
    layer = at.convert(nn.ModuleDict({"a": nn.Linear(20, 6)}), UNIT)["a"].eval()
    layer.set_output_ranges(2.0)
    layer.chip = UNIT.replace(array={"rows": 10})
    with pytest.raises(
        RuntimeError,
        match=r"'a' has output ranges for \(1, 6\).*\(2, 6\).*set_output_ranges\(None\)",
    ):
        layer(torch.zeros(1, 20))
    layer.set_output_ranges(None)
    layer(torch.zeros(1, 20))


@pytest.mark.parametrize("value", [3.0, [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]])
def test_ranges_travel_with_state_dict_copies_and_files_and_stay_behind(
    value: Any, tmp_path: Any
) -> None:
    digital, x = nn.Sequential(nn.Linear(20, 6)), torch.randn(4, 20)
    model = at.convert(copy.deepcopy(digital), UNIT).eval()
    model[0].set_input_range(2.0)
    model[0].set_output_ranges(value)
    expected = model(x)
    assert list(model.state_dict()) == list(digital.state_dict())
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = at.convert(copy.deepcopy(digital), UNIT).eval()
    assert not torch.equal(loaded(x), expected)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    at.save(model, tmp_path)
    for other in (loaded, copy.deepcopy(model), at.load(tmp_path, copy.deepcopy(digital)).eval()):
        assert torch.equal(other[0].output_ranges, model[0].output_ranges)
        assert torch.equal(other(x), expected)
    physical, double = at.program(model, seed=1), copy.deepcopy(model).double()
    assert physical.at("1 h")[0].output_ranges.tolist() == model[0].output_ranges.tolist()
    assert double[0].output_ranges.dtype == torch.float64
    assert double(x.double()).dtype == torch.float64
    back = at.to_digital(model)
    assert not hasattr(back[0], "output_ranges")
    assert back.state_dict()._metadata == digital.state_dict()._metadata
    assert torch.equal(back(x), digital(x))


def test_a_state_dict_without_ranges_takes_them_away() -> None:
    """Whoever saved a DAC range had these ranges too, or none."""
    model = at.convert(nn.Sequential(nn.Linear(20, 6)), UNIT)
    model[0].set_input_range(2.0)
    state = model.state_dict()
    model[0].set_output_ranges(3.0)
    model.load_state_dict(state)
    assert model[0].output_ranges is None


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
def test_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, evaluation and a programmed chip with ranges have one graph and eager's numbers."""
    torch.manual_seed(0)
    digital, converted = (
        nn.Sequential(nn.Linear(40, 12), nn.Tanh(), nn.Linear(12, 5)),
        lasting.converted,
    )

    def with_ranges(*args: Any, **options: Any) -> nn.Module:
        model = converted(*args, **options)
        for _, layer in at.analog_layers(model):
            layer.set_output_ranges(torch.rand(layer.adc_shape) + 0.5)
        return model

    chip = UNIT.replace(array={"rows": 24, "columns": 7}, adc={"noise": 0.04})
    monkeypatch.setattr(lasting, "SMALL", chip)
    monkeypatch.setattr(lasting, "converted", with_ranges)
    lasting.check_compilers(digital, torch.randn(4, 40))
    lasting.check_copies(digital, torch.randn(4, 40))
    lasting.check_replay(digital, torch.randn(4, 40))
