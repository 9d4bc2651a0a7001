"""Weight expansion: matrices on more rows than they have inputs, by a random matrix."""

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import analogtorch as at
from analogtorch.ops.expansion import expanded, expansion_matrix
from tests.crossbar import crossbar
from tests.nn.test_phases import _kinds, _run

TWICE = at.chips.Expansion(factor=2.0)
SMALL = {"rows": 24, "columns": 7}
NO_EXPANSION = {"conv1d", "conv2d", "conv3d", "transposed", "embedding"}


def _linear(chip: at.Chip, inputs: int = 37, outputs: int = 11) -> nn.Module:
    torch.manual_seed(0)
    return at.convert(nn.Sequential(nn.Linear(inputs, outputs)), chip).eval()


# the matrix


@pytest.mark.parametrize(("inputs", "factor"), [(1, 1.0), (1, 3.0), (37, 1.3), (64, 2.0)])
def test_its_columns_are_orthonormal(inputs: int, factor: float) -> None:
    m = expansion_matrix(at.chips.Expansion(factor=factor), inputs)
    assert m.shape == (at.chips.Expansion(factor=factor).rows(inputs), inputs)
    assert torch.allclose(m.T @ m, torch.eye(inputs, dtype=m.dtype), rtol=0, atol=1e-14)


def test_its_entries_are_those_of_normal_vectors_and_follow_the_seed() -> None:
    m = expansion_matrix(TWICE, 256) * 512**0.5
    # 131,072 entries: mean within 4 sigma of 0, fourth moment within 3 % of 3
    assert m.mean().abs() < 4 / m.numel() ** 0.5
    assert m.pow(4).mean().item() == pytest.approx(3, rel=0.03)
    assert 3.5 < m.abs().max() < 6
    other = expansion_matrix(at.chips.Expansion(factor=2.0, seed=1), 256) * 512**0.5
    assert (m * other).mean().abs() < 4 / m.numel() ** 0.5
    assert not torch.equal(m, other)


def test_its_numbers_never_change() -> None:
    m = expansion_matrix(at.chips.Expansion(factor=1.5, seed=7), 4)
    assert m.shape == (6, 4)
    known = MATRIX_HEX.split()
    assert [float.hex(v) for v in m[0].tolist()] == known


MATRIX_HEX = """
-0x1.23b5bbcd6b454p-1
-0x1.6a691f27f955dp-1
0x1.9fb045bfb42c8p-4
0x1.c221309618420p-7
"""


def test_products_do_not_depend_on_the_batch_or_the_number_of_threads() -> None:
    x = torch.randn(50, 37, generator=torch.Generator().manual_seed(0))
    for given in (x, x.bfloat16()):
        whole = expanded(given, TWICE)
        assert whole.dtype == given.dtype
        for size in (1, 3, 16):
            parts = [expanded(part, TWICE) for part in given.split(size)]
            assert torch.equal(torch.cat(parts), whole)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        assert torch.equal(expanded(x, TWICE), expanded(x.clone(), TWICE))
    finally:
        torch.set_num_threads(threads)
    assert expanded(x[:0], TWICE).shape == (0, 74)
    assert torch.allclose(expanded(x, TWICE).norm(dim=1), x.norm(dim=1), rtol=1e-5)


def test_its_gradient_is_that_of_the_product() -> None:
    x, m = torch.randn(3, 37, requires_grad=True), expansion_matrix(TWICE, 37).float()
    g = torch.randn(3, 74)
    y = expanded(x, TWICE)
    assert torch.allclose(y, x @ m.T, atol=1e-5)
    assert torch.allclose(*torch.autograd.grad(y, x, g), g @ m, atol=1e-5)


# layers


@pytest.mark.parametrize("kind", sorted(set(_kinds()) - NO_EXPANSION))
@pytest.mark.parametrize("factor", [1.0, 1.7])
def test_it_is_exact_on_the_ideal_chip(kind: str, factor: float) -> None:
    digital, arguments = _kinds()[kind]
    chip = at.chips.ideal().replace(array=SMALL, expansion={"factor": factor})
    expected = _run(digital, arguments)
    model = at.convert(copy.deepcopy(digital), chip).eval()
    # without converters it is the digital product
    assert torch.allclose(_run(model, arguments), expected, rtol=0, atol=1e-6)
    mapping = at.map_to_chip(model, arguments, num_chips=None)
    for given in (None, mapping):
        view = at.program(model, seed=3, mapping=given).at("1 h")
        assert torch.allclose(_run(view, arguments), expected, rtol=0, atol=1e-5)


CHIPS = {
    "converters and noise": {},
    "hermes64": at.chips.hermes64().replace(array=SMALL),
    "devices": {"training": at.TrainingNoise(weight="device")},
    "per sample": {"training": at.TrainingNoise(per_sample=True)},
    "columns": {"periphery": {"weight_scale": "column"}},
    "slices": {"slices": {"weight_bits": 6, "bits_per_slice": 2, "bits_per_pulse": 1}},
    "phases": {"adc": {"separate_phases": True}},
    "balance": {"adc": {"asymmetry_balance": True}},
    "ir drop": {"wires": {"row_resistance": 0.5, "column_resistance": 0.5}},
    "read noise": {"mvm_read_noise": {"std": at.devices.SquareRoot(scale=0.01)}},
    "block diagonal": {"array": {"grouped": "block_diagonal"}},
}


@pytest.mark.parametrize("kind", _kinds())
@pytest.mark.parametrize("name", CHIPS)
def test_every_layer_has_it_on_every_chip_or_refuses_it(kind: str, name: str) -> None:
    digital, arguments = _kinds()[kind]
    parts = CHIPS[name]
    chip = parts if isinstance(parts, at.Chip) else crossbar(array=SMALL).replace(**parts)
    chip = chip.replace(expansion={"factor": 1.5})
    before = {key: value.clone() for key, value in digital.state_dict().items()}
    if kind in NO_EXPANSION:
        with pytest.raises(ValueError, match=r"has no weight expansion.*per_layer=.*exclude="):
            at.convert(digital, chip, embeddings=True)
        assert type(digital).__module__.startswith("torch.nn")
        return
    model = at.convert(copy.deepcopy(digital), chip)
    assert model.state_dict().keys() == before.keys()
    if kind != "attention":  # which is called with three inputs
        at.calibrate(model, [arguments[0]])
    y = _run(model.train(), arguments)
    y.square().sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    expected = _run(digital, arguments)
    view = at.program(model.eval(), seed=3).at("1 h")
    for found in (_run(model, arguments), _run(view, arguments)):
        assert 0 < (found - expected).norm() < 0.5 * expected.norm()


def test_results_do_not_depend_on_the_split_of_the_batch() -> None:
    chip = crossbar(array=SMALL, expansion={"factor": 1.5}, training=at.TrainingNoise())
    model, x = _linear(chip), torch.randn(12, 37)
    at.calibrate(model, [x])
    found = []
    for size in (12, 5):
        view = at.program(model, seed=1).at("1 h")
        trained = []
        for first in range(0, 12, size):
            with at.noise(3, first_sample=first):
                trained.append(model.train()(x[first : first + size]))
        model.eval()
        every = [torch.cat([run(part) for part in x.split(size)]) for run in (model, view)]
        found.append((*every, torch.cat(trained)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_gradient_is_that_of_the_digital_layer() -> None:
    chip = at.chips.ideal().replace(expansion={"factor": 2.0}, dac={"bits": 16})
    digital, x = nn.Linear(37, 11), torch.randn(8, 37)
    model = at.convert(nn.Sequential(copy.deepcopy(digital)), chip).train()
    for m in (digital, model):
        m(x).square().sum().backward()
    for a, b in zip(digital.parameters(), model.parameters(), strict=False):
        assert torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-3 * a.grad.abs().max())


def test_dac_ranges_are_those_of_the_expanded_inputs() -> None:
    x = torch.randn(200, 37, generator=torch.Generator().manual_seed(1))
    x[:, 0] *= 20  # an outlier among the inputs, which all rows share
    chip = crossbar(expansion={"factor": 2.0})
    ranges = []
    for on in (chip, chip.replace(expansion={"factor": None})):
        model = _linear(on)
        at.calibrate(model, [x], method="absmax")
        ranges.append(model[0].input_ranges[0])
    assert ranges[0] == pytest.approx(expanded(x, TWICE).abs().max().item(), rel=0.02)
    assert ranges[0] < ranges[1] / 2


# signal to noise


def _errors(chip: at.Chip, factor: float | None, x: Tensor) -> tuple[float, float]:
    """Return the error of a programmed chip relative to its outputs, and the weights' crest."""
    torch.manual_seed(0)
    digital = nn.Linear(256, 64, bias=False)
    nn.init.normal_(digital.weight)
    model = at.convert(nn.Sequential(digital), chip.replace(expansion={"factor": factor})).eval()
    at.calibrate(model, [x])
    expected = x @ digital.weight.T
    view = at.program(model, seed=3).at("1 h", compensation="none")
    w = model[0].placed_matrix(digital.weight.detach())
    crest = (w.abs().max() / w.square().mean().sqrt()).item()
    return ((view(x) - expected).std() / expected.std()).item(), crest


@pytest.mark.parametrize(
    ("left", "power"), [("programming_noise", 0.5), ("dac", 0.5), ("output_noise", 1.0)]
)
def test_errors_shrink_by_the_predicted_factor(left: str, power: float) -> None:
    # of devices and DACs by sqrt(rows / inputs), of ADCs by rows / inputs; and all but the DACs'
    # in proportion to what the largest weight lies above the others, as it sets the scale. 16,384
    # weights and 19,200 outputs: the ratios scatter by 3 %
    wide = at.chips.hermes64().replace(array={"rows": 1024}, dac={"bits": 6}, adc={"noise": 0.2})
    chip = wide.without(*(set(wide.non_idealities()) - {left}))
    x = torch.randn(300, 256, generator=torch.Generator().manual_seed(1))
    plain, crest = _errors(chip, None, x)
    for factor in (2.0, 4.0):
        found, other = _errors(chip, factor, x)
        expected = factor**power * (1.0 if left == "dac" else crest / other)
        assert plain / found == pytest.approx(expected, rel=0.1)


def test_outliers_of_weights_are_spread() -> None:
    wide = at.chips.hermes64().replace(array={"rows": 1024})
    chip = wide.without(*(set(wide.non_idealities()) - {"programming_noise"}))
    x = torch.randn(300, 256, generator=torch.Generator().manual_seed(1))
    errors = {}
    for factor in (None, 1.0, 4.0):
        torch.manual_seed(0)
        digital = nn.Linear(256, 64, bias=False)
        with torch.no_grad():
            digital.weight.normal_()[:, :3] *= 8
        on = chip.replace(expansion={"factor": factor})
        view = at.program(at.convert(nn.Sequential(digital), on).eval(), seed=3).at("1 h")
        expected = x @ digital.weight.T
        errors[factor] = ((view(x) - expected).std() / expected.std()).item()
    # mixed inputs alone help; then rows do by sqrt(4), less what the largest weights grow
    assert errors[1.0] < 0.65 * errors[None]
    assert errors[4.0] < 0.65 * errors[1.0]


# mapping, cost and files


def test_a_mapping_has_more_rows_and_charges_the_digital_product() -> None:
    chip = at.chips.hermes64().replace(expansion={"factor": 2.0})
    digital, x = nn.Sequential(nn.Linear(300, 10), nn.ReLU(), nn.Linear(10, 3)), torch.zeros(4, 300)
    plain = at.map_to_chip(digital, x, chip=at.chips.hermes64())
    for model in (digital, at.convert(copy.deepcopy(digital), chip)):
        mapping = at.map_to_chip(model, x, chip=chip)
        assert [(m.rows, m.cols, m.weights) for m in mapping.matrices] == [
            (600, 10, 3000),
            (20, 3, 30),
        ]
        assert mapping.cells == 2 * plain.cells
        products = {op.name: op for op in mapping.operations if op.kind == "matmul"}
        assert {n: (op.operations, op.elements) for n, op in products.items()} == {
            "0.expansion": (4 * 2 * 600 * 300, 4 * 600),
            "2.expansion": (4 * 2 * 20 * 10, 4 * 20),
        }
        report, bare = at.cost(mapping), at.cost(plain)
        assert report.macs == bare.macs
        assert report.energy.host_digital > bare.energy.host_digital
        assert "zeros of block-diagonal" not in str(mapping)
        assert at.ChipMapping.from_json(mapping.to_json()) == mapping
    lstm = at.map_to_chip(nn.LSTM(6, 4), torch.zeros(5, 1, 6), chip=chip)
    assert {op.name: op.steps for op in lstm.operations if op.kind == "matmul"} == {
        "weight_ih_l0.expansion": 1,
        "weight_hh_l0.expansion": 5,
    }
    with pytest.raises(ValueError, match=r"'0' has no weight expansion.*exclude=\['0'\]"):
        at.map_to_chip(nn.Sequential(nn.Conv1d(3, 4, 3)), torch.zeros(1, 3, 8), chip=chip)
    assert chip.capacity == at.chips.hermes64().capacity // 2


def test_signed_inputs_are_charged_as_the_matrix_makes_them_so() -> None:
    chip = at.chips.ibm_speech34()
    model, x = nn.Sequential(nn.Linear(30, 10)), torch.zeros(1, 30)
    mvms = {}
    for factor in (None, 1.0):
        mapping = at.map_to_chip(model, x, chip=chip.replace(expansion={"factor": factor}))
        plan = at.cost(mapping, signed_inputs=[]).schedule
        mvms[factor] = sum(tile.mvms for tile in plan.tiles)
    assert mvms[1.0] == chip.cost.signed_passes * mvms[None]


def test_flops_count_the_product_of_the_inputs() -> None:
    model = _linear(crossbar(expansion={"factor": 2.0}))
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(5, 37))
    # inputs, the matrix itself in eval() before programming, and the MVMs
    assert counter.get_total_flops() == 2 * 74 * 37 * (5 + 11) + 2 * 5 * 11 * 74


def test_saved_chips_and_models_keep_it(tmp_path: Path) -> None:
    chip = crossbar(array=SMALL, expansion={"factor": 1.5, "seed": 4})
    for name in ("chip.json", "chip.yaml"):
        at.chips.save(chip, tmp_path / name)
        assert at.chips.load(tmp_path / name) == chip
    assert "expansion.factor" in str(chip)
    old = at.chips.to_dict(chip)
    del old["expansion"]  # a file of an older version
    assert not at.chips.from_dict(old).expansion.on
    model, x = _linear(chip), torch.randn(9, 37)
    at.calibrate(model, [x], per="tile", adc="mse", adc_per="column")
    assert model[0].input_range.numel() == 3  # row blocks of 56 rows
    at.save(model, tmp_path / "model")
    loaded = at.load(tmp_path / "model", nn.Sequential(nn.Linear(37, 11))).eval()
    assert torch.equal(loaded(x), model(x))
    physical = at.program(model, seed=5)
    at.save(physical, tmp_path / "programmed")
    again = at.load(tmp_path / "programmed", nn.Sequential(nn.Linear(37, 11)))
    assert torch.equal(again.at("1 day")(x), physical.at("1 day")(x))


def test_corrections_and_sensitivity_know_it() -> None:
    chip = crossbar(array=SMALL, expansion={"factor": 1.5})
    model, x = _linear(chip), torch.randn(64, 37)
    at.calibrate(model, [x])
    expected = x @ model[0].weight.T + model[0].bias
    view = at.program(model, seed=1).at("1 day", compensation="none")
    before = (view(x) - expected).norm().item()
    at.correct_columns(view, [x])
    assert (view(x) - expected).norm().item() < 0.9 * before


@pytest.mark.slow
def test_it_compiles_into_one_graph() -> None:
    chip = crossbar(array=SMALL, expansion={"factor": 1.5})
    model, x = _linear(chip).train(), torch.randn(5, 37)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    found = []
    for each in (model, compiled):
        with at.noise(3, step=0):
            y = each(x)
        y.square().mean().backward()
        found.append((y, *(p.grad for p in each.parameters() if p.grad is not None)))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*found, strict=True))


@pytest.mark.slow
def test_the_operator_is_sound_and_becomes_onnx(tmp_path: Path) -> None:
    x = torch.randn(5, 37)
    torch.library.opcheck(torch.ops.analogtorch.expand.default, (x, 50, 0))
    model = _linear(crossbar(array=SMALL, expansion={"factor": 1.5}))
    at.calibrate(model, [x])
    exported = torch.export.export(model, (x,))
    assert torch.equal(exported.module()(x), model(x))
    file = tmp_path / "model.onnx"
    torch.onnx.export(model, (x,), dynamo=True, verbose=False).save(file)
    (y,) = onnxruntime.InferenceSession(file).run(None, {"input": x.numpy()})
    assert np.abs(y - model(x).detach().numpy()).max() < 1e-4


# what is refused


def test_a_chip_with_it_is_refused_by_a_layer_that_has_not_that_and_nothing_changes() -> None:
    model = at.convert(nn.Sequential(nn.Conv1d(3, 4, 3), nn.Linear(6, 2)), crossbar())
    conv = model[0]
    before = conv.chip
    with pytest.raises(ValueError, match="layer '0': Conv1d has no weight expansion"):
        conv.chip = crossbar(expansion={"factor": 2.0})
    assert conv.chip is before
    with pytest.raises(ValueError, match="no weight expansion"):
        at.nn.AnalogConv1d(3, 4, 3, chip=crossbar(expansion={"factor": 2.0}))
    digital = nn.Sequential(nn.Conv1d(3, 4, 3), nn.Linear(6, 2))
    mixed = at.convert(
        digital,
        crossbar(expansion={"factor": 2.0}),
        per_layer={"0": {"expansion": {"factor": None}}},
    )
    assert [layer.chip.expansion.on for layer in mixed] == [False, True]
    assert mixed(torch.randn(2, 3, 8)).shape == (2, 4, 2)


@pytest.mark.parametrize(
    "given", [{"factor": 0.9}, {"factor": 65}, {"factor": "2"}, {"seed": -1}, {"seed": 0.5}]
)
def test_bad_values_are_refused(given: dict) -> None:
    with pytest.raises(ValueError, match=f"Expansion.{next(iter(given))} must be"):
        at.chips.Expansion(**given)


def test_a_seed_without_a_factor_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Expansion.seed=3 has no effect without .* give factor"):
        at.chips.hermes64().replace(expansion={"seed": 3})


def test_rounding_adds_no_row() -> None:
    assert at.chips.Expansion(factor=1.1, seed=0).rows(100) == 110  # 1.1 * 100 is a hair more
    assert at.chips.Expansion(factor=1.1, seed=0).rows(101) == 112
