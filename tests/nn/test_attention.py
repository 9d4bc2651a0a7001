"""Attention: equal to torch's on an ideal chip, with equal columns however they are computed.

torch's fast paths are off.
"""

import copy
import dataclasses
import io
import itertools
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils import prune

import analogtorch as at
from tests.crossbar import crossbar

pytestmark = pytest.mark.filterwarnings(
    "ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning"
)

EXACT = at.chips.ideal().replace(array={"rows": 7, "columns": 5})
SMALL = crossbar(array={"rows": 24, "columns": 16}, adc={"noise": 0.05})
E, H, N, L, S = 12, 3, 2, 4, 5
OPTIONS = {
    "plain": {},
    "batch_first": {"batch_first": True},
    "no_bias": {"bias": False, "batch_first": True},
    "bias_kv": {"add_bias_kv": True, "batch_first": True},
    "zero": {"add_zero_attn": True},
    "both": {"add_bias_kv": True, "add_zero_attn": True},
    "widths": {"kdim": 7, "vdim": 5},
    "widths_no_bias": {"kdim": 7, "bias": False, "batch_first": True},
    "memory_width": {"kdim": 7, "vdim": 7},
    "dropout": {"dropout": 0.5},
}
MASKS = (
    "none",
    "padding",
    "padding_float",
    "mask",
    "mask_float",
    "mask_3d",
    "both",
    "causal",
    "causal_padding",
)


def _attention(name: str) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(E, H, **OPTIONS[name]).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases begin as zeros
    return layer


def _inputs(layer: nn.MultiheadAttention, how: str, batched: bool = True) -> list[Tensor]:
    """Leaves: one for query, key and value, two for the query and the others, or three."""
    torch.manual_seed(1)
    widths = (
        [(L, E)]
        if how == "self"
        else [(L, E), (S, layer.kdim)] + [(S, layer.vdim)] * (how == "three")
    )
    shapes = [
        ((N, n, w) if layer.batch_first else (n, N, w)) if batched else (n, w) for n, w in widths
    ]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def _masks(kind: str, source: int, batched: bool = True) -> dict[str, object]:
    torch.manual_seed(2)
    padding = torch.zeros(N, source, dtype=torch.bool)
    padding[0, -1] = padding[1, 0] = True
    mask = torch.rand(L, source) < 0.3
    mask[:, 1] = False  # else a query might see nothing
    heads = torch.randn(N * H if batched else H, L, source).double()
    causal = torch.triu(torch.ones(L, source, dtype=torch.bool), 1)
    padding = padding if batched else padding[0]
    floats = padding.double() * -3
    return {
        "none": {},
        "padding": {"key_padding_mask": padding},
        "padding_float": {"key_padding_mask": floats},
        "mask": {"attn_mask": mask},
        "mask_float": {"attn_mask": mask.double() * -2},
        "mask_3d": {"attn_mask": heads},
        "both": {"attn_mask": heads, "key_padding_mask": floats},
        "causal": {"attn_mask": causal, "is_causal": True},
        "causal_padding": {"attn_mask": causal, "is_causal": True, "key_padding_mask": padding},
    }[kind]


def _run(
    layer: nn.Module, leaves: list[Tensor], **options: object
) -> tuple[list[Tensor], list[Tensor]]:
    """Results, and gradients of inputs and Parameters."""
    torch.manual_seed(3)
    arguments = (leaves * 3)[:3] if len(leaves) == 1 else [leaves[0], leaves[1], leaves[-1]]
    results = [t for t in layer(*arguments, **options) if t is not None]
    own = [p for name, p in layer.named_parameters() if "input_range" not in name]
    gradients = torch.autograd.grad(sum(t.square().sum() for t in results), [*leaves, *own])
    return results, list(gradients)


def _close(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, atol=1e-11, equal_nan=True)


def _converted(layer: nn.Module, chip: at.Chip = EXACT) -> nn.Module:
    return at.convert(copy.deepcopy(layer), chip)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *itertools.product(
            [name for name in OPTIONS if "width" not in name], ["self", "cross", "three"]
        ),
        *[("widths", "three"), ("widths_no_bias", "three"), ("memory_width", "cross")],
    ],
)
def test_an_ideal_chip_gives_torchs_numbers_and_gradients(name: str, how: str) -> None:
    digital = _attention(name)
    analog, leaves = _converted(digital), _inputs(digital, how)
    for kind, need_weights in itertools.product(MASKS, (False, True)):
        options = {"need_weights": need_weights, **_masks(kind, L if how == "self" else S)}
        for ours, theirs in zip(
            _run(analog, leaves, **options), _run(digital, leaves, **options), strict=True
        ):
            _close(ours, theirs)
    options = {"average_attn_weights": False}
    _close(_run(analog, leaves, **options)[0], _run(digital, leaves, **options)[0])


@pytest.mark.parametrize("name", ["batch_first", "both", "widths"])
def test_one_sample_without_a_batch(name: str) -> None:
    digital = _attention(name)
    analog, leaves = _converted(digital), _inputs(digital, "three", batched=False)
    for kind, need_weights in itertools.product(MASKS, (False, True)):
        options = {"need_weights": need_weights, **_masks(kind, S, batched=False)}
        _close(_run(analog, leaves, **options)[0], _run(digital, leaves, **options)[0])


# columns of one matrix


def _matrix(chip: at.Chip, dtype: torch.dtype, programmed: bool = False) -> at.nn.AnalogMatrix:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(20, 2)  # thirds that do not end where a block of 16 columns ends
    with torch.no_grad():
        layer.in_proj_bias.normal_()
    model = at.convert(nn.ModuleDict({"a": layer.to(dtype)}), chip.replace(adc={"gain_std": 0.1}))
    model["a"].in_proj.set_input_range(2.0)
    model["a"].in_proj.set_output_ranges(torch.rand(model["a"].in_proj.adc_shape) + 1.0)
    if programmed:
        model = at.program(model, seed=1).at("1 day", compensation="column")
    return model["a"].in_proj


CHIPS = {
    "programming": SMALL,
    "by_column": SMALL.replace(periphery={"weight_scale": "column"}),
    "gaussian": dataclasses.replace(SMALL, training=at.TrainingNoise(weight="gaussian", scale=0.1)),
    "unknown_cell": dataclasses.replace(SMALL, cell=at.chips.neurram48().cell),
    "no_converters": SMALL.replace(dac={"bits": None}, adc={"bits": None}),
    "digital_unit": SMALL.replace(
        adc={"bits": None, "steps": 422}, periphery={"column_calibration": True, "output_bits": 8}
    ),
}


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("state", ["train", "eval", "programmed", "autocast"])
def test_columns_that_are_read_alone_are_those_of_the_whole(
    chip: str, dtype: torch.dtype, state: str
) -> None:
    matrix = _matrix(CHIPS[chip], dtype, state == "programmed").train(state == "train")
    assert matrix.executions.training.in_torch == (chip == "unknown_cell")
    x, samples = torch.randn(6, 20, dtype=dtype), torch.tensor([3, 1, 4, 15, 9, 2])
    keys = matrix.draw(x)
    with torch.autocast("cpu", torch.bfloat16, enabled=state == "autocast"):
        whole = matrix(x, keys, samples)
        for run in matrix.output_runs:
            assert torch.allclose(matrix(x, keys, samples, run), whole[:, run], atol=1e-6)
    assert len(matrix.output_runs) == 4


def test_gradients_of_columns_are_those_of_the_whole() -> None:
    matrix = _matrix(SMALL, torch.float64).train()
    x, samples = torch.randn(6, 20, dtype=torch.float64, requires_grad=True), torch.arange(6)
    keys, leaves = matrix.draw(x), [x, matrix.weight, matrix.bias, matrix.input_range]
    q, _, _, kv = matrix.output_runs
    whole = torch.autograd.grad(matrix(x, keys, samples).square().sum(), leaves)
    parts = [
        torch.autograd.grad(matrix(x, keys, samples, run).square().sum(), leaves) for run in (q, kv)
    ]
    for expected, a, b in zip(whole, *parts, strict=True):
        assert torch.allclose(a + b, expected)


def test_reading_in_parts_changes_no_noise() -> None:
    for chip in (SMALL, SMALL.replace(periphery={"weight_scale": "column"})):
        layer = at.convert(nn.MultiheadAttention(12, 3, batch_first=True), chip)
        x = torch.randn(3, 6, 12)
        results = []
        for k, v in ((x, x), (y := x.clone(), y), (x.clone(), x.clone())):
            with at.noise(seed=5):
                results.append(layer(x, k, v)[0])
        assert torch.allclose(results[0], results[1], atol=1e-6)
        assert torch.allclose(results[0], results[2], atol=1e-6)
        with at.noise(seed=6):
            assert not torch.allclose(layer(x, x, x)[0], results[0], atol=1e-3)


@pytest.mark.parametrize("batch_first", [True, False])
def test_every_sample_has_its_own_noise_wherever_the_batch_is_split(batch_first: bool) -> None:
    torch.manual_seed(0)
    layer = at.convert(nn.MultiheadAttention(12, 3, batch_first=batch_first), SMALL)
    batch = 0 if batch_first else 1
    x, y = torch.randn(3, 4, 12), torch.randn(3, 7, 12)
    x, y = (x, y) if batch_first else (x.transpose(0, 1), y.transpose(0, 1))
    at.calibrate(layer, [(x, y)], forward=lambda model, pair: model(pair[0], pair[1], pair[1]))
    with at.noise(seed=5):
        whole = layer(x, y, y)[0]
    with at.noise(seed=5, first_sample=1):
        part = layer(x.narrow(batch, 1, 2), *[y.narrow(batch, 1, 2)] * 2)[0]
    assert torch.allclose(part, whole.narrow(batch, 1, 2), atol=1e-6)
    first, second = (
        at.program(nn.ModuleDict({"a": layer}), seed=1).at("1 h")["a"] for _ in range(2)
    )
    whole = first(x, y, y)[0]
    assert not torch.allclose(first(x, y, y)[0], whole, atol=1e-3)
    parts = [
        second(x.narrow(batch, i, n), *[y.narrow(batch, i, n)] * 2)[0] for i, n in ((0, 1), (1, 2))
    ]
    assert torch.allclose(torch.cat(parts, batch), whole, atol=1e-6)
    with pytest.raises(RuntimeError, match="programmed chip, which cannot train"):
        first.train()(x, y, y)


def test_queries_and_keys_have_output_noise_of_their_own() -> None:
    chip = SMALL.replace(
        dac={"bits": None}, adc={"bits": None}, training=at.TrainingNoise(weight="none")
    )
    layer = at.convert(nn.MultiheadAttention(12, 3, batch_first=True), chip)
    with torch.no_grad():
        layer.in_proj_weight.copy_(torch.eye(12).repeat(3, 1))
    x = torch.ones(20, 15, 12)
    noise = torch.stack([t.flatten() - 1 for t in layer._projected(x, x + 0, x + 0)])
    correlation = torch.corrcoef(noise)
    assert (correlation - torch.eye(3)).abs().max() < 4.5 / 60  # of 3,600 numbers


# what is converted, and back


def test_what_converts_in_an_encoder_and_what_the_summary_says() -> None:
    model = _transformer()
    keys = list(model.state_dict())
    at.convert(model, SMALL)
    assert list(model.state_dict()) == keys
    kinds = {
        type(m).__name__
        for m in model.modules()
        if any(p.dim() > 1 for p in m.parameters(recurse=False))
    }
    assert kinds == {"AnalogLinear", "AnalogMatrix", "AnalogMultiheadAttention"}
    summary = at.summary(model)
    assert all("LayerNorm" in why for _, why, _ in summary.skipped)
    assert summary.routed == ()
    assert str(summary).endswith(
        "digital: q k^T, softmax and the product with v of encoder.layers.0.self_attn and 5 more "
        "(no weights)"
    )
    before = list(model.modules())
    at.convert(model, SMALL)
    assert list(model.modules()) == before
    assert {type(m) for m in at.to_digital(model).modules()} == {
        type(m) for m in _transformer().modules()
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"exclude": "*.self_attn"},
            "'a.self_attn', which reads its weight without calling it, is digital",
        ),
        (
            {"where": lambda name, _: not name.endswith("self_attn")},
            "which reads its weight without calling it",
        ),
        ({"exclude": "*.out_proj"}, "not converted"),
    ],
)
def test_an_output_projection_is_analog_only_where_it_is_called(
    arguments: dict, message: str
) -> None:
    model = nn.ModuleDict(
        {"a": nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)}
    ).requires_grad_(False)
    digital = copy.deepcopy(model).eval()
    at.convert(model, EXACT, **arguments).eval()
    assert message in {n: why for n, why, _ in at.summary(model).skipped}["a.self_attn.out_proj"]
    x = torch.randn(2, 5, 8)
    at.guard(model, x, forward=lambda m, x: m["a"](x))
    assert torch.allclose(model["a"](x), digital["a"](x), atol=1e-6)


def test_an_output_projection_asked_for_alone_is_analog_alone() -> None:
    model = (
        nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
        .eval()
        .requires_grad_(False)
    )
    x = torch.randn(2, 5, 8)
    expected = model(x)
    at.convert(model, EXACT, include="*.out_proj")
    assert [name for name, _ in at.analog_layers(model)] == ["0.self_attn.out_proj"]
    at.guard(model, x)
    assert torch.allclose(model(x), expected, atol=1e-6)
    with pytest.raises(
        ValueError, match=r"'0.self_attn.in_proj' was left digital when '0.self_attn' was converted"
    ):
        at.convert(model, EXACT, include="*.self_attn")
    at.convert(at.to_digital(model), SMALL, include="*.self_attn")
    at.convert(model, SMALL, include="*.out_proj")
    assert len(list(at.analog_layers(model))) == 2


class Leaky(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) @ self.inner.layers[0].linear1.weight.t()


def test_a_conversion_that_fails_its_proof_is_undone() -> None:
    model = Leaky().eval()
    kinds, attention = [type(m) for m in model.modules()], model.inner.layers[0].self_attn
    with pytest.raises(ValueError, match="bypassed"):
        at.convert(model, SMALL, example=torch.randn(2, 5, 8))
    assert [type(m) for m in model.modules()] == kinds
    assert model.inner.layers[0].self_attn is attention
    assert _flags(model.inner) == (True, 1)


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def test_attention_that_computes_something_else_stays_digital() -> None:
    model = nn.ModuleDict(
        {name: nn.MultiheadAttention(8, 2) for name in ("pruned", "changed", "taken", "plain")}
    )
    prune.l1_unstructured(model["pruned"], "in_proj_weight", 0.5)
    model["changed"].out_proj = Doubled(8, 8)
    model["taken"].in_proj = "mine"
    at.convert(model, SMALL)
    reasons = {name: why for name, why, _ in at.summary(model).skipped}
    assert "its in_proj_weight is not a plain Parameter" in reasons["pruned"]
    assert (
        "'pruned' reads its weight without calling it, and stays digital: its in"
        in reasons["pruned.out_proj"]
    )
    assert (
        reasons["changed"]
        == "its out_proj is a Doubled, whose forward MultiheadAttention does not call"
    )
    assert reasons["taken"] == "it has its own 'in_proj', a name that analog layers use"
    assert [name for name, _ in at.analog_layers(model)] == ["plain.out_proj", "plain.in_proj"]


# fast paths


def _encoder(**options: object) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2).eval().requires_grad_(False)


def _padded() -> tuple[Tensor, Tensor]:
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[1, 4:] = padding[2, 1:] = True
    return torch.randn(3, 6, 16, generator=torch.Generator().manual_seed(0)), padding


def _flags(model: nn.TransformerEncoder) -> tuple[object, ...]:
    return model.use_nested_tensor, *(layer.activation_relu_or_gelu for layer in model.layers)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_padded_encoder_leaves_its_fast_paths_and_gets_them_back(activation: str) -> None:
    model, (x, padding) = _encoder(activation=activation), _padded()
    flags, expected = _flags(model), model(x, src_key_padding_mask=padding)
    attributes = [set(vars(m)) for m in model.modules()]
    assert all(flags)
    at.convert(model, EXACT)
    for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not any(_flags(other))
        assert torch.allclose(
            other(x, src_key_padding_mask=padding)[~padding], expected[~padding], atol=1e-5
        )
        at.guard(other, {"src": x, "src_key_padding_mask": padding})
        assert not any(_flags(at.convert(other, EXACT)))
        at.to_digital(other)
        assert _flags(other) == flags
        assert torch.equal(other(x, src_key_padding_mask=padding), expected)
        assert [set(vars(m)) for m in other.modules()] == attributes


def test_only_what_holds_analog_layers_leaves_its_fast_path() -> None:
    model, (x, padding) = _encoder(), _padded()
    expected = model(x, src_key_padding_mask=padding)
    at.convert(model, EXACT, include="layers.1.linear1")
    assert _flags(model) == (False, 1, 0)
    assert torch.allclose(
        model(x, src_key_padding_mask=padding)[~padding], expected[~padding], atol=1e-5
    )
    model.layers[1] = at.to_digital(model.layers[1])
    assert _flags(model) == (False, 1, 1)
    at.to_digital(model)
    assert _flags(model) == (True, 1, 1)


class Louder(nn.TransformerEncoderLayer):
    def forward(self, src: Tensor, **options: object) -> Tensor:
        return 2 * super().forward(src, **options)


def test_a_forward_that_calls_torchs_finds_no_fast_path_either() -> None:
    model = Louder(16, 4, 32, batch_first=True).eval().requires_grad_(False)
    x, expected = _padded()[0], model(_padded()[0])
    assert len(at.guard(at.convert(model, EXACT), x).layers) == 4
    assert torch.allclose(model(x), expected, atol=1e-5)
    assert torch.equal(at.to_digital(model)(x), expected)


# whole models


def _transformer() -> nn.Transformer:
    torch.manual_seed(0)
    return nn.Transformer(16, 4, 2, 2, 32, batch_first=True, dropout=0.0)


def _pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 7, 16, generator=generator), torch.randn(3, 5, 16, generator=generator)


def test_a_transformer_end_to_end() -> None:
    digital = _transformer().double()
    analog, (source, target) = _converted(digital), (t.double() for t in _pair())
    mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    padding = torch.zeros(3, 7, dtype=torch.float64)
    padding[1, 5:] = float("-inf")
    options = {
        "tgt_mask": mask,
        "src_key_padding_mask": padding,
        "memory_key_padding_mask": padding,
    }
    for training in (True, False):
        results = [m.train(training)(source, target, **options) for m in (analog, digital)]
        _close([results[0]], [results[1]])
    _close(*(torch.autograd.grad(r.sum(), [p for n, p in m.named_parameters() if "range" not in n])
             for m, r in zip((analog, digital), results, strict=True)))  # fmt: skip
    report = at.guard(analog, (source, target))
    assert sum(row.weights for row in report.layers) == sum(
        p.numel() for p in digital.parameters() if p.dim() > 1
    )


def test_eight_bits_cost_little_and_training_pays() -> None:
    model, pair = _transformer(), _pair()
    expected = model.eval()(*pair)
    at.convert(model, crossbar())
    run = {"forward": lambda model, pair: model(*pair)}
    at.calibrate(model, [pair], **run)
    assert torch.cosine_similarity(model.eval()(*pair).flatten(), expected.flatten(), 0) >= 0.99
    at.hwa.clip_weights_(model)
    optimizer = torch.optim.Adam(model.train().parameters(), lr=2e-3)
    losses = []
    for step in range(15):
        with at.noise(seed=1, step=step):
            loss = (model(*pair) - pair[1].roll(1, -1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(layer.input_range.grad is not None for _, layer in at.analog_layers(model))


def test_checkpoints_of_models_and_chips(tmp_path: Path) -> None:
    model, pair = at.convert(_transformer(), SMALL), _pair()
    at.calibrate(model, [pair], forward=lambda model, pair: model(*pair))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = at.convert(_transformer(), SMALL)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    loaded = at.load(at.save(model, tmp_path / "model"), _transformer())
    for other in (fresh, loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.eval()(*pair), model.eval()(*pair))
        assert all(
            m.in_proj.weight is m.in_proj_weight for m in other.modules() if hasattr(m, "in_proj")
        )
    _transformer().load_state_dict(model.state_dict(), strict=True)
    fresh.load_state_dict(at.to_digital(loaded).state_dict(), strict=True)
    physical = at.program(model, seed=3)
    again = at.load(at.save(physical, tmp_path / "chip"), _transformer())
    assert torch.equal(again.at("1 day")(*pair), physical.at("1 day")(*pair))


@pytest.mark.parametrize("cols", [16, 256])
def test_a_mapping_places_every_matrix_whole_or_in_parts(cols: int) -> None:
    chip = SMALL.replace(array={"columns": cols, "rows": 16, "tiles": 200})
    model, pair = at.convert(_transformer(), chip), _pair()
    mapping = at.map_to_chip(model, pair, chip=chip)
    names = {m.name for m in mapping.matrices}
    # self-attention reads all columns at once
    assert "encoder.layers.0.self_attn.in_proj_weight" in names
    # cross-attention those of two inputs
    assert "decoder.layers.1.multihead_attn.in_proj_weight[16:48]" in names
    assert mapping.weights == sum(p.numel() for p in model.parameters() if p.dim() > 1)
    physical = at.program(model, seed=1, mapping=mapping, defects=at.Defects(tiles=1.0))
    assert set(physical.yield_map()) == set(mapping.tile_utilisation)
    assert not any(
        layer.programmed.weights[0].any() for _, layer in at.analog_layers(physical.at("1 h"))
    )


class Cross(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.MultiheadAttention(16, 2)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.a(query, key, value, need_weights=False)[0]


def test_parts_of_a_matrix_meet_the_defects_of_their_own_tiles() -> None:
    chip = SMALL.replace(array={"rows": 16, "columns": 16, "tiles": 200})
    model = at.convert(Cross(), chip)
    mapping = at.map_to_chip(model, tuple(torch.randn(n, 1, 16) for n in (3, 4, 4)), chip=chip)
    where = {
        m: mapping.matrix_blocks(f"a.in_proj_weight[{m}]")[0] for m in ("0:16", "16:32", "32:48")
    }
    broken = at.Defects(tiles=0.5)
    physical = at.program(model, seed=1, mapping=mapping, defects=broken)
    state, held = physical.yield_map(), physical.at("1 h").a.in_proj.programmed.weights[0]
    alive = [bool(state[p.chip, p.tile].works.any()) for p in where.values()]
    assert [bool(held[i : i + 16].any()) for i in (0, 16, 32)] == alive
    assert len(set(alive)) == 2  # of this seed: some tiles work, others do not
    short = at.map_to_chip(
        model, tuple([torch.randn(3, 1, 16)] * 3), chip=chip, exclude="a.out_proj"
    )
    with pytest.raises(ValueError, match="no matrix of layer 'a.out_proj'"):
        at.program(model, seed=1, mapping=short)


def test_one_graph_in_torch_compile_and_export() -> None:
    model, pair = at.convert(Cross(), SMALL), _pair()
    pair = pair[1].transpose(0, 1), *[pair[0].transpose(0, 1)] * 2
    at.calibrate(model, [pair], forward=lambda model, inputs: model(*inputs))
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for training in (True, False):
        model.train(training)
        results = []
        for run in (model, compiled):
            with at.noise(seed=1):
                results.append(run(*pair))
        assert torch.allclose(*results, atol=1e-5)
    assert counter.frame_count == 2
    with torch.no_grad():
        exported = torch.export.export(model, pair)
        assert torch.allclose(exported.module()(*pair), model(*pair), atol=1e-5)


def test_half_precision_autocast_and_other_types() -> None:
    layer = at.convert(nn.MultiheadAttention(12, 3, kdim=7, vdim=7), SMALL)
    x, y = torch.randn(4, 2, 12), torch.randn(5, 2, 7)
    with torch.autocast("cpu", torch.bfloat16):
        assert (
            layer(x, y, y, key_padding_mask=torch.zeros(2, 5, dtype=torch.bool))[0].dtype
            == torch.bfloat16
        )
    half = layer.bfloat16()
    assert half(x.bfloat16(), *[y.bfloat16()] * 2)[0].dtype == torch.bfloat16
    assert all(m.weight.dtype == torch.bfloat16 for m in layer.matrices())


@pytest.mark.parametrize(
    ("shapes", "options", "error", "message"),
    [
        (
            [(4, 2, 9), (4, 2, 12)],
            {},
            ValueError,
            r"takes a query of shape \(L, N, 12\).*got \(4, 2, 9\)",
        ),
        ([(4, 2, 12), (5, 12)], {}, ValueError, r"takes a key of shape"),
        ([(12,), (12,)], {}, ValueError, r"takes a query of shape .* or all without N"),
        ([(4, 2, 12), (5, 3, 12)], {}, ValueError, "batches of one size"),
        (
            [(4, 2, 12), (5, 2, 12)],
            {"attn_mask": (4, 4)},
            ValueError,
            r"attn_mask of \(4, 5\) or \(6, 4, 5\), got",
        ),
        (
            [(4, 2, 12), (5, 2, 12)],
            {"key_padding_mask": (5, 2)},
            ValueError,
            r"key_padding_mask of \(2, 5\), got",
        ),
        (
            [(4, 12), (5, 12)],
            {"key_padding_mask": (1, 5)},
            ValueError,
            r"key_padding_mask of \(5,\), got \(1, 5\)",
        ),
        (
            [(4, 2, 12), (5, 2, 12)],
            {"is_causal": True},
            ValueError,
            "is_causal is a hint about attn_mask; pass",
        ),
        (
            [(4, 2, 12), (5, 2, 12)],
            {"attn_mask": [4, 5]},
            TypeError,
            r"boolean or floating point, got torch.int64",
        ),
    ],
)
def test_bad_inputs_are_refused(shapes: list, options: dict, error: type, message: str) -> None:
    layer = at.convert(nn.MultiheadAttention(12, 3), SMALL)
    given = {
        name: torch.zeros(value, dtype=torch.int64 if isinstance(value, list) else torch.bool)
        if isinstance(value, tuple | list)
        else value
        for name, value in options.items()
    }
    with pytest.raises(error, match=message):
        layer(torch.zeros(shapes[0]), *[torch.zeros(shapes[1])] * 2, **given)


def test_nested_tensors_are_refused() -> None:
    layer = at.convert(nn.MultiheadAttention(12, 3, batch_first=True), SMALL)
    x = torch.nested.nested_tensor([torch.zeros(3, 12), torch.zeros(2, 12)])
    with pytest.raises(
        TypeError, match="takes no nested tensors, got one as query; pass a padded tensor"
    ):
        layer(x, x, x)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("per_sample", [True, False])
def test_a_part_of_a_batch_meets_its_noise_in_every_layer_of_a_transformer(
    batch_first: bool, per_sample: bool
) -> None:
    torch.manual_seed(0)
    chip = crossbar(training=at.TrainingNoise(per_sample=per_sample))
    model = nn.Transformer(8, 2, 1, 1, 16, dropout=0.0, batch_first=batch_first)
    at.convert(model, chip)
    batch = 0 if batch_first else 1
    source, target = (torch.randn((3, n, 8) if batch_first else (n, 3, 8)) for n in (5, 4))
    parts = [(source.narrow(batch, i, n), target.narrow(batch, i, n)) for i, n in ((0, 1), (1, 2))]

    def noisy(first: int, source: Tensor, target: Tensor) -> Tensor:
        with at.noise(seed=1, step=0, first_sample=first):
            return model.train()(source, target)

    split = torch.cat([noisy(0, *parts[0]), noisy(1, *parts[1])], batch)
    assert torch.allclose(split, noisy(0, source, target), atol=1e-6)
    programmed = at.program(model.eval(), seed=3)
    whole, view = programmed.at("1 day")(source, target), programmed.at("1 day")
    assert torch.allclose(torch.cat([view(*part) for part in parts], batch), whole, atol=1e-6)
    assert not any("sequence_first" in vars(m) for m in at.to_digital(model).modules())
