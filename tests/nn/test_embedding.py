"""Embeddings on a chip: on request only, one MVM with the token's row, noise of the same cells."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import T5Config, T5ForConditionalGeneration

import analogtorch as at
from analogtorch.ops import Plan, block_scales, fold, mvm, normal, seed_tensor
from analogtorch.ops.reference import noisy_weight
from tests.crossbar import crossbar
from tests.nn import lasting

TOKENS, WIDTH = 50, 11
SMALL = lasting.SMALL  # 24 rows, 7 columns: three row blocks, two column blocks
X = torch.tensor([[0, 23, 24, 49, 7], [7, 7, 48, 3, 0], [1, 30, 30, 24, 2]])


def _digital(**options: object) -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(TOKENS, WIDTH, **options)


def _analog(
    chip: at.Chip = SMALL, digital: nn.Embedding | None = None, **options: object
) -> at.nn.AnalogEmbedding:
    return at.convert(copy.deepcopy(digital or _digital(**options)), chip, embeddings=True)


def test_it_is_converted_on_request_only() -> None:
    model = nn.Sequential(_digital(), nn.Linear(WIDTH, 4))
    at.convert(model, SMALL)
    assert [name for name, _ in at.analog_layers(model)] == ["1"]
    assert at.summary(model).skipped == (
        ("0", "digital unless convert(..., embeddings=True) takes it", TOKENS * WIDTH),
    )
    at.convert(model, SMALL, embeddings=True)
    assert [name for name, _ in at.analog_layers(model)] == ["0", "1"]
    at.convert(model, SMALL)  # what is analog stays so
    assert [name for name, _ in at.analog_layers(model)] == ["0", "1"]
    with pytest.raises(
        ValueError, match=r"cannot be analog: digital unless convert\(\.\.\., embeddings=True\)"
    ):
        at.convert(nn.Sequential(_digital(), nn.Linear(WIDTH, 4)), SMALL, include="0")
    with pytest.raises(ValueError, match=r"nothing to convert.*digital unless"):
        at.convert(_digital(), SMALL)


def test_the_reason_of_an_excluded_table_is_true() -> None:
    options = {"embeddings": True, "exclude": "0"}
    model = at.convert(nn.Sequential(_digital(), nn.Linear(WIDTH, 4)), SMALL, **options)
    why = "digital unless convert(..., embeddings=True) takes it"  # which exclude kept from it
    assert at.summary(model).skipped == (("0", why, TOKENS * WIDTH),)
    model = nn.Sequential(_digital(), nn.Linear(WIDTH, 4), _digital(), _digital(max_norm=1.0))
    at.convert(model, SMALL, **options)
    assert [row.name for row in at.summary(model).layers] == ["1", "2"]
    why = [why for _, why, _ in at.summary(model).skipped]
    assert why[0] == "not converted"
    assert why[1].startswith("its max_norm rescales stored rows")


def test_a_table_that_only_holds_tied_weights_is_excluded() -> None:
    sizes = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1}
    model = T5ForConditionalGeneration(T5Config(**sizes, num_heads=2)).eval()
    tokens = torch.randint(0, 40, (2, 5), generator=torch.Generator().manual_seed(0))
    example = {"input_ids": tokens, "decoder_input_ids": tokens}
    with pytest.raises(ValueError, match=r"1 of 22 analog layers did not run: 'shared'.*exclude="):
        at.convert(model, SMALL, embeddings=True, example=example)
    at.convert(model, SMALL, embeddings=True, exclude="shared", example=example)
    assert at.summary(model).skipped[0] == ("shared", "not converted", 40 * 16)
    assert at.summary(model).share.digital == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_norm": 1.0}, "its max_norm rescales stored rows"),
        ({"max_norm": 0.0}, "its max_norm rescales stored rows"),
        ({"sparse": True}, "its sparse asks for sparse gradients"),
        ({"scale_grad_by_freq": True}, "its scale_grad_by_freq divides gradients"),
    ],
)
def test_what_cells_cannot_follow_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        at.convert(_digital(**options), SMALL, embeddings=True)
    with pytest.raises(ValueError, match=message):
        at.convert(
            nn.Sequential(_digital(**options), nn.Linear(WIDTH, 2)),
            SMALL,
            include="0",
            embeddings=True,
        )
    with pytest.raises(ValueError, match=message):
        at.nn.AnalogEmbedding(5, 4, chip=SMALL, **options)


@pytest.mark.parametrize("padding_idx", [None, 7])
def test_an_ideal_chip_gives_torchs_numbers_and_gradients(padding_idx: int | None) -> None:
    digital = _digital(padding_idx=padding_idx).double()
    analog = _analog(at.chips.ideal(), digital)
    for x in (X, X.int(), X[0], X[0, 0], X[:0]):
        assert torch.equal(analog(x), digital(x))
    for layer in (analog, digital):
        layer(X).square().sum().backward()
    assert torch.equal(analog.weight.grad, digital.weight.grad)


@pytest.mark.parametrize("weight_scale", ["block", "column"])
@pytest.mark.parametrize("bound", [2.1, 0.6])  # no reading falls between two steps
def test_a_token_is_one_reading_of_its_row_block(weight_scale: str, bound: float) -> None:
    layer = _analog(
        SMALL.replace(adc={"range": bound}, periphery={"weight_scale": weight_scale})
    ).eval()
    expected, w = torch.empty(*X.shape, WIDTH), layer.weight.detach()
    for place in [(i, j) for i in range(3) for j in range(5)]:
        token = int(X[place])
        block = w[token // 24 * 24 : token // 24 * 24 + 24]  # of 50 rows: 24, 24 and 2
        for c in range(0, WIDTH, 7):
            part = block[:, c : c + 7]
            scale = part.abs().amax(0) if weight_scale == "column" else part.abs().max()
            current = (w[token, c : c + 7] / scale).clamp(-bound, bound)
            expected[(*place, slice(c, c + 7))] = (
                (current / bound * 127).round() / 127 * bound * scale
            )
    assert ((layer(X) - expected).abs() > 1e-5).float().mean() < 0.01
    layer(X).sum().backward()
    counts = torch.bincount(X.flatten(), minlength=TOKENS).unsqueeze(1).float()
    columns = (0, 7, 11) if weight_scale == "block" else ()
    scales = block_scales(w.T, (0, 24, 48, 50), columns)
    passes = (w.abs() <= bound * scales.repeat_interleave(torch.tensor([24, 24, 2]), 0)).float()
    assert torch.equal(layer.weight.grad, counts * passes)
    assert bool(passes.all()) is (bound > 1)


@pytest.mark.parametrize("noise", ["gaussian", "programming"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_cells_have_the_noise_that_a_whole_product_would_give_them(
    noise: str, dtype: torch.dtype
) -> None:
    training = at.TrainingNoise(
        weight=noise, scale=0.05 if noise == "gaussian" else 1.0, output=False
    )
    chip = SMALL.replace(adc={"bits": None}, training=training)
    layer = _analog(chip).to(dtype)
    keys = fold(seed_tensor(3), torch.tensor(layer.executions.training.streams))
    y = layer.analog_forward(X, keys)
    matrix, plan = layer.as_matrix(layer.weight.detach()), layer.executions.training.plans[0]
    noisy = noisy_weight(matrix, block_scales(matrix, plan.bounds, plan.columns), keys[0], plan)
    assert not torch.equal(noisy, matrix)
    assert torch.equal(y, noisy.T[X])


def test_an_unknown_cell_trains_with_the_same_noise() -> None:
    curve = SMALL.cell.device.programming_std
    device = dataclasses.replace(
        SMALL.cell.device, programming_std=at.devices.Piecewise(split=0.5, below=curve, above=curve)
    )
    unknown = dataclasses.replace(SMALL, cell=at.devices.DifferentialPair(device=device))
    results = []
    exact = dataclasses.replace(SMALL, training=at.TrainingNoise(weight="none"))
    for chip in (exact, SMALL, unknown):
        layer = _analog(chip.replace(adc={"noise": 0.0, "bits": None}))
        with at.noise(1):
            results.append(layer(X))
    assert _analog(unknown).executions.training.in_torch
    clean, closed, drawn = results  # kernels know the size of the noise to 1.4 %
    assert 0 < (closed - drawn).norm() < 0.014 * (drawn - clean).norm()


def test_it_is_the_product_of_one_hot_vectors() -> None:
    """In one row block: noise of weights and readings, ADC and gradient are those of ``mvm``."""
    layer = _analog(SMALL.replace(array={"rows": 64}, adc={"range": 0.8}))
    keys = fold(seed_tensor(3), torch.tensor(layer.executions.training.streams))
    samples = torch.arange(100, 115)
    y = layer.analog_forward(X, keys, samples)
    w = layer.weight.detach().clone().requires_grad_()
    plan: Plan = layer.executions.training.plans[0]
    hot = F.one_hot(X.flatten(), TOKENS).float()
    expected = mvm(
        hot, torch.ones(1), w.T, plan, key=keys[0], output_keys=keys[1:], samples=samples
    )
    assert torch.allclose(y, expected.view_as(y), atol=1e-5)
    g = torch.randn(y.shape)
    y.backward(g)
    expected.backward(g.view_as(expected))
    assert torch.allclose(layer.weight.grad, w.grad, atol=1e-5)
    assert (layer.weight.grad == 0).any()  # some readings saturate


def test_output_noise_is_its_own_for_every_reading() -> None:
    training = at.TrainingNoise(weight="none")
    chip = SMALL.replace(
        array={"rows": 8, "columns": 64}, adc={"noise": 0.1, "bits": None}, training=training
    )
    layer = at.convert(nn.Embedding(16, 64), chip, embeddings=True)
    with torch.no_grad():
        layer.weight.copy_(torch.where(layer.weight > 0, 2.0, -2.0))
    x = torch.randint(16, (50, 20))
    error = layer(x) - layer.weight[x]
    assert len(error.flatten().unique()) > 0.9 * error.numel()
    # 64,000 draws; one block is read, whatever the others hold
    assert error.std().item() == pytest.approx(0.1 * 2, rel=0.02)


def test_the_padding_row_gets_no_gradient() -> None:
    layer = _analog(padding_idx=7)
    layer(X).square().sum().backward()
    assert not layer.weight.grad[7].any()
    assert layer.weight.grad[0].any()


def test_a_chip_reads_what_it_holds() -> None:
    layer = _analog()
    view = at.program(layer, seed=3).at("1 day", compensation="column")
    held, (section,) = view.programmed, view.sections
    y = view(X)
    tokens, block = X.flatten(), X.flatten() // 24
    full = held.scales[0][block]
    v = held.weights[0].T[tokens]
    v = v + full * SMALL.adc.noise * normal(
        held.keys[0], torch.arange(15), torch.zeros(15).long(), WIDTH
    )
    step = full * SMALL.adc.range / 127
    expected = (v.clamp(-127 * step, 127 * step) / step).round() * step * held.gains[0][block]
    assert ((y - expected.view_as(y)).abs() > 1e-5).float().mean() < 0.01
    assert section.rows == TOKENS
    exact = layer.weight[X]
    assert (y - exact).norm() < 0.5 * exact.norm()


def test_eight_bits_cost_little() -> None:
    """The bound of the ADC is made for sums of many rows: one row alone uses a small part of it."""
    layer = _analog(crossbar()).eval()
    exact = layer.weight[X]
    coarse = (layer(X) - exact).norm() / exact.norm()
    fine = _analog(crossbar(adc={"range": 1.0})).eval()
    assert coarse < 0.25
    assert (fine(X) - exact).norm() < 0.02 * exact.norm()


class Tied(nn.Module):
    """An embedding and a head with one weight: on a chip, two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.places = nn.Embedding(5, WIDTH)
        self.head = nn.Linear(WIDTH, TOKENS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x) + self.places(torch.arange(5)))


def _tied() -> nn.Module:
    torch.manual_seed(0)
    return at.convert(Tied(), SMALL, embeddings=True)


def test_a_tied_head_is_a_layer_of_its_own() -> None:
    model = _tied()
    assert model.head.weight is model.embed.weight
    assert [row.name for row in at.summary(model).layers] == ["embed", "places", "head"]
    assert [row.runs for row in at.guard(model, X).layers] == [1, 1, 1]
    at.calibrate(model, [X])
    assert [layer.input_range.item() == 1 for _, layer in at.analog_layers(model)] == [
        True,
        True,
        False,
    ]
    held = [
        layer.programmed.weights[0]
        for _, layer in at.analog_layers(at.program(model, seed=1).at("programmed"))
    ]
    errors = [w - model.embed.weight.detach().T for w in (held[0], held[2].T)]
    together = (errors[0] * errors[1]).mean() / (errors[0].std() * errors[1].std())
    assert abs(together) < 4.5 / (TOKENS * WIDTH) ** 0.5  # devices of their own


def test_a_mapping_places_embeddings_and_the_tied_head() -> None:
    model = _tied()
    mapping = at.map_to_chip(model, X, chip=SMALL)
    shapes = {m.name: (m.cols, m.rows) for m in mapping.matrices}
    assert shapes == {"embed": (WIDTH, TOKENS), "places": (WIDTH, 5), "head": (TOKENS, WIDTH)}
    vectors = {op.matrix: op.vectors for op in mapping.operations if op.matrix}
    assert vectors == {"embed": 15, "places": 5, "head": 15}
    physical = at.program(model, seed=1, mapping=mapping, defects=at.Defects(tiles=0.5))
    works = {place: bool(state.works.any()) for place, state in physical.yield_map().items()}
    held = dict(at.analog_layers(physical.at("1 h", compensation="none")))
    for name in ("embed", "head"):
        cells = held[name].programmed.weights[0]
        for p in mapping.matrix_blocks(name):
            part = cells[
                p.block.col : p.block.col + p.block.cols, p.block.row : p.block.row + p.block.rows
            ]
            assert bool(part.any()) is works[p.chip, p.tile]
    digital = at.map_to_chip(Tied(), X, chip=SMALL)
    assert [m.name for m in digital.matrices] == ["head"]
    tied = at.convert(Tied(), SMALL)
    at.program(tied, seed=1, mapping=at.map_to_chip(tied, X, chip=SMALL))


def test_its_range_is_that_of_the_one_hot() -> None:
    model = nn.Sequential(_analog())
    layer = model[0]
    assert layer.calibrated
    assert layer.input_range.item() == 1
    assert not layer.input_range.requires_grad
    with pytest.raises(ValueError, match="is 1, as a one-hot drives full scale; got 2"):
        layer.set_input_range(2.0)
    with pytest.raises(ValueError, match="no analog layer with a DAC range"):
        at.calibrate(model, [X])
    layer(X).sum().backward()
    assert layer.input_range.grad is None
    assert repr(layer) == f"AnalogEmbedding({TOKENS}, {WIDTH}, chip=crossbar, range=1)"
    with torch.device("meta"):
        empty = nn.Sequential(nn.Embedding(TOKENS, WIDTH))
    at.convert(empty, SMALL, embeddings=True)
    assert at.summary(empty).layers[0].shape == (WIDTH, TOKENS)
    empty.load_state_dict(_digital_state(), assign=True)
    assert empty[0].input_range.item() == 1
    assert torch.equal(empty.eval()(X), _analog().eval()(X))


@pytest.mark.parametrize("effort", ["ranges", "default"])
def test_calibrate_finds_the_ranges_of_the_digital_unit_from_all_rows(
    effort: str, tmp_path: Path
) -> None:
    chip = at.chips.hermes64().replace(array={"rows": 24})
    model = nn.Sequential(_digital(), nn.Linear(WIDTH, 4)).eval()
    model = at.convert(model, chip, embeddings=True)
    table, before = model[0], model[0](X)
    assert "(0, 1) do not round" in str(at.summary(model))
    at.calibrate(model, [X, X % 5], effort=effort)  # some rows are in no batch
    assert "do not round" not in str(at.summary(model))
    ranges, rows = table.output_ranges, torch.tensor([24, 24, 2])
    assert ranges.shape == (3, WIDTH)
    blocks = table.weight.detach().split(rows.tolist())
    scale = torch.stack([block.abs().max() for block in blocks]).unsqueeze(1)
    assert all((w.abs() <= r).all() for w, r in zip(blocks, ranges * scale, strict=True))
    step = (ranges * scale / 127).repeat_interleave(rows, 0)[X]
    unrounded = (table(X) / step - (table(X) / step).round()).abs()
    assert unrounded.max() < 1e-3
    assert ((table(X) - before).abs() <= 0.51 * step).all()
    at.save(model, tmp_path / "net.safetensors")
    loaded = at.load(tmp_path / "net.safetensors", nn.Sequential(_digital(), nn.Linear(WIDTH, 4)))
    assert torch.equal(loaded[0].output_ranges, ranges)
    chips = [at.program(m, seed=1).at("1 day") for m in (model, loaded)]
    assert torch.equal(chips[0](X), chips[1](X))
    assert torch.equal(chips[0][0].output_ranges, ranges)
    again = at.calibrate(copy.deepcopy(model), [X, X % 5], effort=effort)
    assert torch.equal(again(X), model(X))
    assert type(at.to_digital(model)[0]) is nn.Embedding


def test_a_table_alone_is_calibrated_where_its_chip_rounds() -> None:
    model = at.convert(nn.Sequential(_digital()), at.chips.hermes64(), embeddings=True)
    at.calibrate(model, [X])
    assert "do not round" not in str(at.summary(model))
    assert model[0].output_ranges.shape == (1, WIDTH)


def test_a_calibration_that_fails_leaves_tables_as_they_are() -> None:
    model = nn.Sequential(_digital(), nn.Linear(WIDTH, 4))
    at.convert(model, at.chips.hermes64(), embeddings=True)
    with torch.no_grad():
        model[1].weight[0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        at.calibrate(model, [X])
    assert model[0].output_ranges is None
    with torch.no_grad():
        model[0].weight[3] = torch.inf
    with pytest.raises(ValueError, match="the weight of layer '0' has NaN or infinite values"):
        at.calibrate(model, [X])


def _digital_state() -> dict:
    return nn.Sequential(_digital()).state_dict()


def test_wrong_tokens_are_refused() -> None:
    layer = _analog()
    with pytest.raises(
        TypeError, match="takes token numbers of type int64 or int32, got torch.float32"
    ):
        layer(torch.zeros(3))
    for mode in (layer, at.program(layer, seed=1).at("1 day")):
        for token in (TOKENS, -1):
            with pytest.raises(IndexError):
                mode(torch.tensor([token]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_types(dtype: torch.dtype) -> None:
    layer = _analog().to(dtype)
    for mode in (True, False):
        y = layer.train(mode)(X)
        assert y.dtype == dtype
        assert y.isfinite().all()
        assert layer(X[:0]).shape == (0, 5, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(X).dtype == dtype  # as torch's own
    assert at.program(_analog(), seed=1).at("1 day").to(dtype)(X).dtype == dtype
    poisoned = _analog()
    with torch.no_grad():
        poisoned.weight[7] = float("nan")
    assert poisoned.eval()(X)[0, 4].isnan().all()


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    model, x = _tied(), torch.randint(TOKENS, (8, 5))
    at.calibrate(model, [x])
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.02), []
    for _ in range(40):
        loss = F.cross_entropy(model(x).flatten(0, 1), x.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


DIGITAL = nn.Sequential(_digital(padding_idx=7))


def test_copies_reports_and_replay() -> None:
    lasting.check_copies(DIGITAL, X, embeddings=True)
    lasting.check_reports(DIGITAL, X, ["0"], embeddings=True)
    lasting.check_replay(DIGITAL, X, embeddings=True)


def test_checkpoints(tmp_path: Path) -> None:
    lasting.check_checkpoint(DIGITAL, X, tmp_path, embeddings=True)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
def test_compilers() -> None:
    lasting.check_compilers(DIGITAL, X, embeddings=True)
