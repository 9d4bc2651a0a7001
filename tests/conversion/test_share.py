import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.ao.nn import quantized
from torch.ao.nn.quantized import dynamic
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from transformers import MixtralConfig, MixtralForCausalLM

import analogtorch as at
from analogtorch.conversion.share import Share, share

CHIP = at.chips.hermes64()


class Matrices(nn.Module):
    """A module with Parameters: experts, a router, positions, a scale per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.router = (
            nn.Parameter(torch.randn(3, 4, 8)),
            nn.Parameter(torch.randn(3, 8)),
        )
        self.positions, self.scale = (
            nn.Parameter(torch.randn(1, 5, 8)),
            nn.Parameter(torch.randn(8, 1, 1)),
        )


def test_experts_and_routers_count_and_what_is_added_does_not() -> None:
    model = at.convert(
        nn.Sequential(nn.Linear(8, 6), Matrices(), nn.LayerNorm((4, 8)), nn.Embedding(9, 8)), CHIP
    )
    found = at.summary(model).share
    assert (found.analog, found.digital, found.total) == (
        48,
        {"1": 3 * 4 * 8 + 3 * 8},
        48 + 96 + 24,
    )
    text = str(at.summary(model))
    assert "48 of 168 weights that multiply are on the chip (28.6 %)." in text
    assert (
        "digital: 1 (168 weights, 71.4 % of those that multiply; no analog layer for Matrices, "
        "whose experts is 3 "
        "matrices of 4 x 8 in one Parameter, not a layer)" in text
    )


def test_a_tied_weight_counts_for_each_layer_that_has_cells_or_multiplies() -> None:
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9))
    model[2].weight = model[0].weight
    analog = at.convert(copy.deepcopy(model), CHIP)
    assert str(share(analog)) == "136 of 136 weights that multiply are on the chip (100 %)."
    assert share(at.convert(model, CHIP, exclude="2")).digital == {"2": 72}
    assert share(at.convert(at.to_digital(analog), CHIP, embeddings=True)).total == 136 + 72
    tied = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    tied[1].weight = tied[0].weight
    assert share(at.convert(copy.deepcopy(tied), CHIP)).total == 128
    assert share(at.convert(tied, CHIP, exclude="1")) == Share(64, {"1": 64})


def test_recurrent_layers_attention_and_changed_weights_count() -> None:
    layers = (
        nn.LSTM(8, 4),
        nn.MultiheadAttention(8, 2, add_bias_kv=True),
        nn.Conv1d(4, 6, 3),
        nn.Bilinear(2, 3, 4),
    )
    sizes = [4 * 4 * (8 + 4), 4 * 8 * 8, 4 * 6 * 3, 2 * 3 * 4, 48, 48, 48]
    changed = (
        parametrizations.weight_norm(nn.Linear(8, 6)),
        prune.l1_unstructured(nn.Linear(8, 6), "weight", 0.5),
        nn.Linear(8, 6),
    )
    model = nn.Sequential(*layers, *changed)
    assert share(model).total == sum(sizes)
    assert share(at.convert(model, CHIP)).analog == sum(sizes) - 24 - 2 * 48


@pytest.mark.parametrize(
    ("weights", "text"), [(0, "0 %"), (1, "0.1 %"), (5000, "50.0 %"), (9999, "99.9 %")]
)
def test_a_share_is_not_rounded_to_nothing_or_all(weights: int, text: str) -> None:
    assert share(nn.Linear(100, 100)).percent(weights) == text


def test_the_guard_prints_it_too() -> None:
    model = at.convert(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 24)), CHIP, exclude="1")
    report = at.guard(model, torch.randn(2, 8))
    assert (report.share.analog, report.share.total) == (64, 256)
    assert str(report).endswith(
        "64 of 256 weights that multiply are on the chip (25.0 %).\n"
        "digital: 192 weights in layers that stay digital; analogtorch.summary(model) lists "
        "them with the reasons"
    )


class Positions(nn.Module):
    """Attention with a table of relative positions, in which ``use`` sees scores and the table."""

    def __init__(self, use: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.q, self.use = nn.Linear(8, 8), use
        self.table = nn.Parameter(torch.randn(7, 4))

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x)
        return self.use(q @ x.mT, self.table).softmax(-1) @ x


@pytest.mark.parametrize(
    ("use", "digital"),
    [
        (lambda scores, table: scores + 16 * table.sigmoid()[:4], {}),
        (lambda scores, table: scores + table[torch.arange(16).view(4, 4) % 7].mean(-1), {}),
        (lambda scores, table: scores.add_(table[:4]), {}),
        (lambda scores, table: (scores - table[:4]).relu() - table[3:], {}),
        (lambda scores, table: scores + table[:4] @ table[3:].mT, {}),
        (lambda x, table: F.scaled_dot_product_attention(x, x, x, attn_mask=table[:4]), {}),
        (lambda x, table: F.scaled_dot_product_attention(x, table[:4], x), {"0": 28}),
        (lambda scores, table: scores, {"0": 28}),  # what the run does not show
        (lambda scores, table: scores @ table[:4] + table[:4], {"0": 28}),
        (lambda scores, table: (scores.unsqueeze(-1) * table[:4]).sum(-2), {"0": 28}),
        (lambda scores, table: table[scores.argmax(-1)] + table[:4], {"0": 28}),
    ],
)
def test_a_table_that_a_run_only_adds_does_not_count(
    use: Callable[[Tensor, Tensor], Tensor], digital: dict[str, int]
) -> None:
    model = at.convert(nn.Sequential(Positions(use)), CHIP)
    assert at.summary(model).share.digital == {"0": 28}
    x = torch.randn(2, 4, 8)
    assert at.guard(model, x).share == Share(64, digital) == at.summary(model).share
    assert at.summary(copy.deepcopy(model)).share.digital == digital
    view = at.program(model, seed=1).at("1 day")
    assert at.summary(view).share.digital == digital
    model[0].use = lambda scores, table: scores @ table[:4]
    assert at.guard(model, x).share.digital == {"0": 28}


def test_a_reason_names_the_matrix_that_multiplies() -> None:
    class Tables(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions = nn.Parameter(torch.randn(4, 8))
            self.projection = nn.Parameter(torch.randn(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return (x + self.positions) @ self.projection

    model = at.convert(nn.Sequential(nn.Linear(8, 8), Tables()), CHIP)
    ((_, why, _),) = at.summary(model).skipped
    assert why.endswith("whose positions is a matrix of 4 x 8, not a layer")
    at.guard(model, torch.randn(2, 4, 8))
    ((_, why, _),) = at.summary(model).skipped
    assert why.endswith("whose projection is a matrix of 8 x 8, not a layer")


def test_a_class_called_as_a_layer_of_torch_is_named_in_full() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 8))

    model = at.convert(nn.Sequential(nn.Linear(8, 8), Linear(), nn.LayerNorm(8)), CHIP)
    (_, own, _), (_, norm, _) = at.summary(model).skipped
    assert own.startswith(f"no analog layer for {__name__}.Linear, whose weight")
    assert norm == "no analog layer for LayerNorm"


class Added(nn.Module):
    """A layer whose weight is added in a run that leaves the layer out."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.on_chip, self.digital = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.same = self.digital.weight if tied else None

    def forward(self, x: Tensor) -> Tensor:
        return self.on_chip(x) + self.digital.weight[0]


@pytest.mark.parametrize("tied", [False, True])
def test_weights_of_digital_layers_count_whatever_a_run_adds(tied: bool) -> None:
    model = at.convert(Added(tied), CHIP, exclude="digital")
    expected = at.summary(model).share
    assert (expected.analog, *expected.digital.values()) == (64, 64)
    assert at.guard(model, torch.randn(4, 8)).share == expected == at.summary(model).share


def test_digital_models_do_not_keep_what_a_run_added() -> None:
    model = nn.Sequential(Positions(lambda scores, table: scores + table[:4]))
    before = set(vars(model[0]))
    at.convert(model, CHIP, example=torch.randn(2, 4, 8))
    assert at.summary(model).share.digital == {}
    assert set(vars(at.to_digital(model)[0])) == before


def test_ranges_are_no_parameters_of_the_model() -> None:
    torch.manual_seed(0)
    digital = nn.Sequential(nn.Linear(600, 8), nn.LSTM(8, 4))
    count = sum(p.numel() for p in digital.parameters())
    found = at.summary(at.convert(digital, CHIP))
    assert (found.parameters, found.ranges) == (count, 3)
    at.calibrate(digital, [torch.randn(4, 600)], per="tile", effort="ranges")
    found = at.summary(digital)
    assert (found.parameters, found.ranges) == (count, 5)  # the first layer has three row blocks
    assert sum(p.numel() for p in digital.parameters()) == found.parameters + found.ranges


def test_the_experts_of_a_mixtral_have_their_share() -> None:
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    config = MixtralConfig(vocab_size=64, num_hidden_layers=1, num_local_experts=4, **sizes)
    text = str(at.summary(at.convert(MixtralForCausalLM(config), CHIP)))
    assert "5,120 of 29,824 weights that multiply are on the chip (17.2 %)." in text
    assert (
        "mlp.experts (24,576 weights, 82.4 % of those that multiply; no analog layer for "
        "MixtralExperts" in text
    )
    assert (
        "mlp.gate (128 weights, 0.4 % of those that multiply; no analog layer for MixtralTopKRouter"
        in text
    )


@pytest.mark.parametrize("make", ["weight_norm", "spectral_norm", "orthogonal"])
def test_a_weight_that_is_parametrized_after_convert_counts_once(make: str) -> None:
    model, x = at.convert(nn.Sequential(nn.Linear(4, 4)), CHIP), torch.randn(3, 4)
    getattr(parametrizations, make)(model[0])
    summary = at.summary(model)
    assert (summary.share.analog, summary.share.digital, summary.skipped) == (16, {}, ())
    assert at.guard(model, x).share.digital == {}  # none was replaced
    with pytest.raises(ValueError, match=r"make it one by torch\.nn\.utils\.parametrize\.remove"):
        at.program(model, seed=1)
    parametrize.remove_parametrizations(model[0], "weight")
    at.program(model, seed=1)


class LowRank(nn.Linear):
    """A layer with two matrices of its own, as LoRA written by hand."""

    def __init__(self) -> None:
        super().__init__(16, 16)
        self.A, self.B = nn.Parameter(torch.randn(16, 4)), nn.Parameter(torch.randn(4, 16))
        self.gain = nn.Parameter(torch.ones(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias) + x @ self.A @ self.B * self.gain


def test_matrices_that_a_subclass_adds_count_as_digital() -> None:
    model = nn.Sequential(LowRank(), nn.Linear(16, 4))
    assert share(model).digital == {"0": 384, "1": 64}
    excluded = at.convert(copy.deepcopy(model), CHIP, exclude="0")
    assert share(excluded) == Share(64, {"0": 384})
    model[1].extra = nn.Parameter(torch.randn(3, 4))  # hooks may compute with it
    summary = at.summary(at.convert(model, CHIP))
    assert summary.share == Share(320, {"0.A": 64, "0.B": 64, "1.extra": 12})
    text = str(summary)
    assert "320 of 460 weights that multiply are on the chip (69.6 %)." in text
    assert (
        "digital: 0.A (64 weights, 13.9 % of those that multiply; the forward of LowRank computes "
        "with it)" in text
    )
    assert "digital: 0.gain (16 weights; the forward of LowRank computes with it)" in text
    assert (
        "digital: 1.extra (12 weights, 2.6 % of those that multiply; no weight of a Linear)" in text
    )
    model[1].extra = model[0].A  # counts once
    assert at.summary(model).share == Share(320, {"0.A": 64, "0.B": 64})
    prune.l1_unstructured(model[1], "weight", 0.5)  # on the chip under another name
    assert at.summary(model).share == Share(320, {"0.A": 64, "0.B": 64})


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_quantised_layers_of_torch_count_and_say_what_to_do() -> None:
    plain = quantized.Embedding(9, 8), quantized.EmbeddingBag(9, 8), quantized.BatchNorm2d(8)
    layers = (
        dynamic.Linear(8, 6),
        quantized.Conv1d(4, 6, 3),
        dynamic.GRU(8, 4, 2, bidirectional=True),
        dynamic.LSTMCell(8, 4),
    )
    gru = sum(w.numel() for w in nn.GRU(8, 4, 2, bidirectional=True).parameters() if w.dim() > 1)
    model = at.convert(nn.Sequential(nn.Linear(8, 8), *layers, *plain), CHIP)
    summary = at.summary(model)
    assert summary.share == Share(64, {"1": 48, "2": 72, "3": gru, "4": 16 * 12})
    why = "quantised, with no Parameter as its weight: convert the model before it is quantised"
    assert (("1", why, 48), ("3", why, gru)) == (summary.skipped[0], summary.skipped[2])
    with pytest.raises(ValueError, match=f"nothing to convert in Sequential.* found 0: {why}"):
        at.convert(nn.Sequential(layers[0]), CHIP)
