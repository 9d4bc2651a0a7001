import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.nn.utils import prune

import analogtorch as at
from analogtorch.graph.trace import Trace, trace
from analogtorch.graph.types import Operation
from tests.mapping.nets import Residual
from tests.score import Score


def _mvms(traced: Trace) -> dict[str, Operation]:
    return {op.name: op for op in traced.operations if op.kind == "mvm"}


def _sizes(traced: Trace) -> dict[str, tuple[int, int, int, int]]:
    return {m.name: (m.rows, m.cols, m.groups, m.kernel) for m in traced.matrices}


def test_branches_residuals_and_shared_layers() -> None:
    traced = trace(Residual(), torch.zeros(1, 3, 6, 6))
    assert _sizes(traced) == {"conv": (27, 8, 1, 9), "shared": (72, 8, 1, 9), "head": (16, 5, 1, 1)}
    mvms = _mvms(traced)
    assert [(name, op.vectors, op.inputs) for name, op in mvms.items()] == [
        ("conv", 36, ("(input)",)),
        ("shared", 36, ("relu",)),
        ("shared#2", 36, ("shared",)),
        ("head", 1, ("mean", "mean#2")),
    ]
    digital = {
        op.name: (op.kind, op.operations, op.inputs) for op in traced.operations if op.kind != "mvm"
    }
    assert digital["add"] == ("add", 288, ("shared#2", "relu"))
    assert digital["mean"] == ("pool", 288, ("relu",))


@pytest.mark.parametrize(
    ("layer", "shape", "expected", "vectors"),
    [
        (nn.Linear(6, 4), (2, 5, 6), (6, 4, 1, 1), 10),
        (nn.Conv1d(4, 6, 3), (1, 4, 9), (12, 6, 1, 3), 7),
        (nn.Conv2d(4, 6, (3, 2), stride=2, groups=2), (1, 4, 9, 8), (12, 6, 2, 6), 16),
        (nn.Conv3d(1, 2, 2), (1, 1, 3, 3, 3), (8, 2, 1, 8), 8),
        (nn.ConvTranspose1d(4, 6, 3, groups=2), (1, 4, 5), (2, 18, 2, 1), 5),
        (nn.ConvTranspose2d(2, 3, 2, stride=2), (1, 2, 4, 4), (2, 12, 1, 1), 16),
    ],
)
def test_layers(
    layer: nn.Module, shape: tuple[int, ...], expected: tuple[int, ...], vectors: int
) -> None:
    traced = trace(nn.Sequential(layer), torch.zeros(shape))
    assert _sizes(traced) == {"0": expected}
    assert _mvms(traced)["0"].vectors == vectors
    assert traced.matrices[0].weights == layer.weight.numel()


def test_overlapping_outputs_of_a_transposed_convolution_are_added_digitally() -> None:
    traced = trace(nn.Sequential(nn.ConvTranspose1d(4, 6, 3)), torch.zeros(1, 4, 5))
    (add,) = [op for op in traced.operations if op.kind == "add"]
    assert (add.name, add.operations) == ("0.overlap", 5 * 18 - 7 * 6)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "output_padding"),
    [
        ((1, 3), 1, (0, 1), 1, 0),
        ((4, 2), 2, (1, 0), 1, 0),
        ((2, 3), (3, 1), 0, 1, (1, 0)),
        ((5, 2), 2, (2, 1), 1, 1),
        ((3, 3), (1, 2), (1, 2), (2, 3), (0, 1)),
        ((2, 2), 3, 0, 1, 0),
    ],
)
def test_no_result_is_added_that_padding_cuts_off(
    size: int, kernel: Any, stride: Any, padding: Any, dilation: Any, output_padding: Any
) -> None:
    layer = nn.ConvTranspose2d(2, 3, kernel, stride, padding, output_padding, dilation=dilation)
    layer.requires_grad_(False).bias.zero_()
    layer.weight.fill_(1)
    counts = layer(torch.ones(1, 2, size, size + 3)) / 2  # results that meet at each output
    found = [op for op in trace(layer, torch.zeros(1, 2, size, size + 3)).operations]
    added = sum(op.operations for op in found if op.name.endswith("overlap"))
    assert added == (counts - 1).clamp_min(0).sum()


def test_recurrent_layers() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(5, 4, 2, bidirectional=True, proj_size=3, batch_first=True)
            self.gru = nn.GRU(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.gru(self.rnn(x)[0].transpose(0, 1))[0]

    traced = trace(Net(), torch.zeros(2, 7, 5))
    assert _sizes(traced)["rnn.weight_ih_l1_reverse"] == (6, 16, 1, 1)
    assert _sizes(traced)["rnn.weight_hr_l0"] == (4, 3, 1, 1)
    assert _sizes(traced)["gru.weight_hh_l0"] == (2, 6, 1, 1)
    assert len(traced.matrices) == 14
    mvms = _mvms(traced)
    assert (mvms["rnn.weight_ih_l0"].vectors, mvms["rnn.weight_ih_l0"].steps) == (14, 1)
    assert (mvms["rnn.weight_hh_l0"].vectors, mvms["rnn.weight_hh_l0"].steps) == (14, 7)
    assert mvms["rnn.weight_ih_l1"].inputs == ("rnn.weight_hr_l0", "rnn.weight_hr_l0_reverse")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_long_sequences_are_not_unrolled(kind: type[nn.RNNBase]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = kind(3, 2)
            self.head = nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0])

    original = torch._VF.lstm
    mvms = _mvms(trace(Net(), torch.zeros(100_000, 3)))  # unbatched
    assert torch._VF.lstm is original
    assert (mvms["rnn.weight_hh_l0"].vectors, mvms["rnn.weight_hh_l0"].steps) == (100_000, 100_000)
    assert mvms["head"].inputs == ("rnn.weight_ih_l0.gates",)


def test_a_packed_sequence_counts_the_vectors_that_it_holds() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(3, 2)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            return self.rnn(nn.utils.rnn.pack_padded_sequence(x, lengths))[1][0]

    example = torch.zeros(4, 2, 3), torch.tensor([4, 2])
    for model in (Net(), at.convert(Net(), at.chips.hermes64())):
        mvms = _mvms(trace(model, example))
        assert (mvms["rnn.weight_hh_l0"].vectors, mvms["rnn.weight_hh_l0"].steps) == (6, 4)


def test_an_unrolled_cell_is_one_matrix_applied_step_by_step() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(1, 2)
            for step in x:
                h = self.cell(step, h)
            return h

    traced = trace(Net(), torch.zeros(3, 1, 3))
    assert _sizes(traced) == {"cell.weight_ih": (3, 6, 1, 1), "cell.weight_hh": (2, 6, 1, 1)}
    assert _mvms(traced)["cell.weight_hh#3"].inputs == ("cell.weight_ih#2.gates",)


def test_attention() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cross = nn.MultiheadAttention(8, 2, batch_first=True)
            self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.block(self.cross(x, x[:, :3], x[:, :3], need_weights=False)[0])

    # what the fused fast path, which hides the products, asks for
    model = Net().eval().requires_grad_(False)
    traced = trace(model, torch.zeros(1, 5, 8))
    cross = [f"cross.in_proj_weight[{i}:{i + 8}]" for i in (0, 8, 16)]
    block = [
        "block.self_attn.in_proj_weight",
        "block.self_attn.out_proj",
        "block.linear1",
        "block.linear2",
    ]
    assert list(_sizes(traced)) == [*cross, "cross.out_proj", *block]
    assert [_mvms(traced)[name].vectors for name in cross] == [5, 3, 3]
    assert sum(m.weights for m in traced.matrices) == sum(
        p.numel() for p in model.parameters() if p.dim() > 1
    )
    assert {"attention", "norm", "relu", "add"} <= {op.kind for op in traced.operations}
    assert torch.backends.mha.get_fastpath_enabled()


def test_weights_in_functions_views_and_parametrizations() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.zeros(6, 4))
            self.experts = nn.Parameter(torch.zeros(3, 4, 5))
            self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(5, 5))
            self.tied = nn.Linear(4, 6)
            self.tied.weight = self.a
            self.embedding = nn.Embedding(9, 5)

        def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
            y = x @ self.a + F.linear(x, self.a.t()) + torch.einsum("bi,io->bo", x, self.a)
            x = self.tied(y)
            z = self.normed(y.expand(3, 2, 4) @ self.experts)
            return z.sum() + x.sum() + (z[0] @ z[0].mT).sum() + self.embedding(tokens).sum()

    traced = trace(Net(), (torch.zeros(2, 6), torch.zeros(7, dtype=torch.long)))
    assert _sizes(traced) == {
        "a": (6, 4, 1, 1),
        "tied": (4, 6, 1, 1),  # a layer of its own, whoever else holds its Parameter
        "experts": (4, 15, 3, 1),
        "normed": (5, 5, 1, 1),
    }
    assert {"a", "a#2", "a#3", "tied"} <= _mvms(traced).keys()
    assert traced.analog == {"tied.weight"}
    assert _mvms(traced)["experts"].vectors == 2
    kinds = {op.name: (op.kind, op.operations) for op in traced.operations}
    assert kinds["matmul"] == ("matmul", 2 * 2 * 2 * 5)
    assert kinds["embedding"] == ("embedding", 0)


class _Contracted(nn.Module):
    """Multiplies by a layer's weight, and by a cube, in ``tensordot``."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)
        self.cube = nn.Parameter(torch.zeros(3, 6, 5))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tensordot(x, self.layer.weight, dims=([-1], [1]))  # (2, 3, 6)
        y = torch.tensordot(self.cube, y, dims=([0, 1], [1, 2]))  # (5, 2)
        y = y + torch.tensordot(torch.ones(5, 6), self.layer(x).sum(1), dims=([1], [1]))
        return torch.tensordot(y, self.layer.weight, dims=0)  # sums nothing


def test_tensordot_with_weights_is_a_product_of_their_matrix() -> None:
    traced = trace(_Contracted(), torch.zeros(2, 3, 4))
    # rows, columns, groups and vectors: that of the layer is in the layer's own orientation
    assert _sizes(traced) == {"layer": (4, 6, 1, 1), "cube": (18, 5, 1, 1)}
    assert [(name, op.vectors) for name, op in _mvms(traced).items()] == [
        ("layer", 6), ("cube", 2), ("layer#2", 6),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        lambda module, name: prune.l1_unstructured(module, name, 0.5),
        nn.utils.weight_norm,
        nn.utils.parametrizations.weight_norm,
    ],
    ids=["pruned", "normed", "parametrized"],
)
@pytest.mark.parametrize(
    ("module", "name"),
    [
        (lambda: nn.LSTM(8, 8), "weight_hh_l0"),
        (lambda: nn.GRUCell(8, 8), "weight_hh"),
        (lambda: nn.MultiheadAttention(8, 2), "in_proj_weight"),
        (lambda: nn.MultiheadAttention(8, 2, kdim=8, vdim=4), "k_proj_weight"),
    ],
    ids=["lstm", "cell", "attention", "apart"],
)
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")
def test_modules_with_a_matrix_that_torch_computes_are_digital(
    module: Callable[[], nn.Module], name: str, change: Callable[[nn.Module, str], object]
) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = module(), nn.Linear(8, 4)
            change(self.inner, name)

        def forward(self, x: Tensor) -> Tensor:
            if isinstance(self.inner, nn.MultiheadAttention):
                return self.last(self.inner(x, x, x[..., : self.inner.vdim])[0])
            found = self.inner(x)
            return self.last(found[0] if isinstance(found, tuple) else found)

    x = torch.zeros(3, 8)
    for model in (Net(), at.convert(Net(), at.chips.hermes64())):
        mapping = at.map_to_chip(model, x, chip=at.chips.hermes64())
        assert [placed.name for placed in mapping.matrices] == ["last"]
        matmuls = [op.name for op in mapping.digital if op.kind == "matmul"]
        assert any(name in matmul for matmul in matmuls)
        assert at.map_to_chip(model, x, exclude="inner*", chip=at.chips.hermes64())


def test_writing_in_place_keeps_the_order() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            out = torch.zeros(2, 4)
            out[:, :4] = self.a(x)
            y = self.a(x)
            y.relu_()
            return self.b(out) + self.b(y)

    mvms = _mvms(trace(Net(), torch.zeros(2, 4)))
    assert (mvms["b"].inputs, mvms["b#2"].inputs) == (("a",), ("relu",))


def test_no_grad_inside_a_forward_hides_nothing() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.a(x)
            with torch.autocast("cpu", torch.bfloat16):
                return self.b(x)

    mvms = _mvms(trace(Net(), torch.zeros(2, 4)))
    assert mvms["b"].inputs == ("a",)


def test_tracing_leaves_the_model_alone_and_copies_no_weight() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trace(model, torch.randn(3, 4))
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not model[0]._forward_hooks
    with torch.device("meta"):
        assert trace(nn.Sequential(nn.Linear(4, 4)), torch.zeros(3, 4)).matrices[0].name == "0"


def test_a_converted_model_is_traced_as_the_digital_one() -> None:
    digital = trace(Residual(), torch.zeros(1, 3, 6, 6))
    converted = trace(at.convert(Residual(), at.chips.hermes64()), torch.zeros(1, 3, 6, 6))
    assert digital.operations == converted.operations
    assert digital.matrices == converted.matrices


class _Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return y if y.sum() > 0 else -y


def test_control_flow_by_data_follows_the_values() -> None:
    model = nn.Sequential(nn.Linear(4, 4), _Branching())
    for sign, negated in ((1.0, False), (-1.0, True)):
        nn.init.constant_(model[1].inner.bias, 100 * sign)
        traced = trace(model, torch.zeros(2, 4))
        assert list(_mvms(traced)) == ["0", "1.inner"]
        assert ("1.neg" in [op.name for op in traced.operations]) == negated


def test_control_flow_by_data_without_weights_is_refused_with_the_module(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4), _Branching())
    with pytest.raises(ValueError, match=r"module '1' \(_Branching\).*torch.where"):
        trace(model, torch.zeros(2, 4))
    assert capfd.readouterr() == ("", "")


def test_an_example_of_the_wrong_shape_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        ValueError, match=r"module '1' \(Linear\) with an example of \(2, 5\) float32"
    ):
        trace(nn.Sequential(nn.ReLU(), nn.Linear(4, 4)), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="model\\(\\*example\\) must run"):
        trace(nn.Linear(4, 4), (torch.zeros(2, 4), torch.zeros(2, 4)))
    with pytest.raises(TypeError, match="got list"):
        trace(nn.Linear(4, 4), [1])
    assert capfd.readouterr() == ("", "")


class Constants(nn.Module):
    """A model like torchvision's swin_v2: a small net computes a bias from a table of positions.

    It also has layers of learned queries.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.ones(15, 2))
        self.bias = nn.Sequential(nn.Linear(2, 7), nn.ReLU(), nn.Linear(7, 8, bias=False))
        self.queries = nn.Parameter(torch.ones(1, 5, 8))
        self.query = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.memory = nn.GRU(2, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.query(self.queries) + self.memory(self.table[None])[0].mean(1)
        return self.attention(queries.expand(len(x), -1, -1), x, x)[0] + self.bias(self.table).mean(
            0
        )


def test_layers_of_constants_lie_on_tiles_and_can_be_programmed_there() -> None:
    model = at.convert(Constants().eval(), at.chips.hermes64())
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    traced = trace(model, x)
    vectors = {name: op.vectors for name, op in _mvms(traced).items()}
    assert vectors | {"bias.0": 15, "bias.2": 15, "query": 5} == vectors
    assert _mvms(traced)["bias.0"].inputs == ()
    mapping = at.map_to_chip(model, x, chip=at.chips.hermes64())
    assert at.program(model, seed=1, mapping=mapping).at("1 day")(x).isfinite().all()


def test_weights_computed_of_weights_are_one_matrix() -> None:
    class Merged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base, self.a, self.b = (
                nn.Linear(6, 4),
                nn.Linear(6, 2, bias=False),
                nn.Linear(2, 4, bias=False),
            )

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.base.weight + self.b.weight @ self.a.weight, self.base.bias)

    assert _sizes(trace(Merged(), torch.zeros(1, 6))) == {"base": (6, 4, 1, 1)}


@pytest.mark.parametrize("example", [(1, 6), torch.Size([1, 6])])
def test_a_shape_is_refused_with_the_tensor_to_give(example: tuple[int, ...]) -> None:
    model = at.convert(nn.Sequential(nn.Linear(6, 4)), at.chips.hermes64())
    remedy = r"give a tensor, such as torch.zeros\(1, 6\)"
    with pytest.raises(ValueError, match=rf"an example of no tensor, .*1, 6.*: {remedy}. \(Ty"):
        at.map_to_chip(model, example)
    with pytest.raises(TypeError, match="takes 2 positional arguments") as caught:
        at.guard(model, example)
    assert re.search(remedy, "".join(caught.value.__notes__))


def test_a_model_may_take_integers() -> None:
    class Grid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 3)

        def forward(self, rows: int, columns: int) -> Tensor:
            return self.layer(torch.cartesian_prod(torch.arange(rows), torch.arange(columns)) * 1.0)

    model = at.convert(Grid(), at.chips.hermes64(), example=(2, 3))
    assert _mvms(trace(model, (2, 3)))["layer"].vectors == 6


def test_a_forward_that_computes_gradients_is_no_fault_of_the_example() -> None:
    with pytest.raises(
        ValueError, match="computes gradients by torch.autograd.* whose gradients they are"
    ) as error:
        trace(Score(nn.Linear(8, 1)), torch.randn(2, 8))
    assert "give an example" not in str(error.value)


def test_models_of_fake_tensors_are_traced_within_their_mode_and_outside() -> None:
    with FakeTensorMode():
        model, x = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2)), torch.zeros(3, 6)
        within = trace(model, x)
    assert within == trace(model, x)
    assert [op.vectors for op in _mvms(within).values()] == [3, 3]


@pytest.mark.parametrize("change", ["buffer", "attribute", "pruned", "pruned after"])
@pytest.mark.parametrize("kind", ["linear", "lstm"])
def test_a_bias_may_be_no_parameter_where_a_weight_must(kind: str, change: str) -> None:
    layer, bias = nn.Linear(8, 8), "bias"
    model: nn.Module = nn.Sequential(layer)
    if kind == "lstm":
        layer, bias = nn.LSTM(8, 8), "bias_hh_l0"  # type: ignore[assignment]
        model = nn.Sequential(layer)
    if kind == "lstm" or change == "pruned after":
        at.convert(model, at.chips.hermes64())
    values = getattr(model[0], bias).detach()
    if change in ("buffer", "attribute"):
        delattr(model[0], bias)
    if change == "buffer":
        model[0].register_buffer(bias, values)
    elif change == "attribute":
        setattr(model[0], bias, values)
    else:
        prune.l1_unstructured(model[0], bias, 2)
    at.convert(model, at.chips.hermes64())
    x = torch.randn(3, 8)
    assert len(trace(model, x).matrices) == (1 if kind == "linear" else 2)
    prune.identity(model[0], bias.replace("bias", "weight"))
    with pytest.raises((ValueError, RuntimeError), match="its weight.* is not a plain Parameter"):
        trace(model, x)
