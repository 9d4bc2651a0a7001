import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from transformers import PerceiverConfig, PerceiverForMaskedLM

import analogtorch as at

CHIP = at.chips.hermes64()
X = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A layer of 64 weights, behind it tensors of other kinds, and what ``use`` does with them."""

    def __init__(self, use: Callable[["Net", Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.use = nn.Linear(8, 8), use
        self.table = nn.Embedding(8, 8)
        self.register_buffer("w", torch.randn(8, 8))
        self.register_buffer("row", torch.randn(8))
        self.register_buffer("taps", torch.randn(1, 1, 3))
        self.register_buffer("keys", torch.randn(1, 4, 8))
        self.plain = torch.randn(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, self.layer(x))


def _share(use: Callable[[Net, Tensor], Tensor]) -> dict[str, int]:
    model = at.convert(Net(use), CHIP)
    assert at.summary(model).share.digital == {}  # nothing has run
    report = at.guard(model, X)
    assert report.share == at.summary(model).share
    assert {name: count for name, _, count in report.digital} == report.share.digital
    return report.share.digital


def _written(m: Net, h: Tensor) -> Tensor:
    m.w.copy_(h.mT @ h)
    return h @ m.w


def _replaced(m: Net, h: Tensor) -> Tensor:
    y, m.w = h @ m.w, m.w + h.mT @ h
    return y


def _assembled(m: Net, h: Tensor) -> Tensor:
    w = torch.zeros(12, 8)
    w[:8], w[8:] = m.w, m.keys[0]
    return F.linear(h, w)


def _with_a_token(m: Net, h: Tensor) -> Tensor:
    h[0] = m.row
    return h @ X.mT


def _one_by_one(m: Net, h: Tensor) -> Tensor:
    filters = torch.zeros(8, 8)
    for i in range(8):
        filters[i, :] = torch.cos(m.row[i] * m.row)
    return F.linear(h, filters)


def _computed_twice(m: Net, h: Tensor) -> Tensor:
    return h @ torch.cos(m.row[:, None] * m.row) + h.relu() @ torch.cos(m.row[:, None] * m.row)


def _in_steps(m: Net, h: Tensor) -> Tensor:
    filters = torch.outer(m.row, m.row)
    for step in range(5):
        filters = (filters * step).cos()
        h = h @ filters @ (torch.outer(m.row, m.row) * step).cos()
    return h


def _in_two_orders(m: Net, h: Tensor) -> Tensor:
    taps = m.taps[0].exp()
    return h @ (m.row[:, None] * taps) + h @ (taps * m.row[:, None])


def _not_numbers(m: Net) -> Tensor:
    return torch.outer(m.row, m.row) * torch.nan


def _in_parts(m: Net, h: Tensor) -> Tensor:
    filters = torch.outer(m.row, m.row)
    return h @ filters[:, :4] + h @ filters[:, 4:]


def _windows(filters: Tensor, h: Tensor) -> Tensor:
    return sum((h @ filters[:, i : i + 4] for i in range(5)), torch.zeros(()))


def _padded(m: Net, h: Tensor) -> Tensor:
    w = h.new_zeros(8, 8)
    w[:4] = m.w[:4]
    return h @ w


def _offsets() -> Tensor:
    """Return which number of a row each element of a Toeplitz matrix is."""
    return torch.arange(8)[:, None] - torch.arange(8)


@pytest.mark.parametrize(
    ("use", "digital"),
    [
        (lambda m, h: h @ m.w, {"w": 64}),
        (lambda m, h: F.linear(h, 0.5 * m.w.double().float()) + m.w[0], {"w": 64}),
        (lambda m, h: F.linear(h, m.w * m.row), {"w": 64}),  # what scales it is no weight
        (lambda m, h: h @ m.row, {"row": 8}),
        (lambda m, h: F.conv1d(h[:, None], m.taps), {"taps": 3}),
        (lambda m, h: torch.einsum("bi,kti->bkt", h, m.keys), {"keys": 32}),
        (lambda m, h: h @ m.plain + h @ m.w, {"plain": 64, "w": 64}),
        (lambda m, h: F.linear(h, m.table.weight), {"table": 64}),
        (lambda m, h: h * m.w[0] + m.plain[1] + m.table(torch.tensor(3)) * m.row, {}),
        (lambda m, h: h + (m.row[:, None] @ torch.ones(1, 8))[0], {}),  # as rotary embeddings do
        (lambda m, h: h + m.w @ m.row, {}),  # of constants alone
        (_written, {}),  # a state
        (_replaced, {}),
        # in place: what is masked, scaled or added to stays data
        (lambda m, h: h.masked_fill_(m.w[:5] > 0, 0.0) @ X.mT, {}),
        (lambda m, h: h.mul_(m.row) @ X.mT, {}),
        (lambda m, h: h.add_(m.plain[:5]) @ X.mT, {}),
        (lambda m, h: h.add_(m.row) @ m.w, {"w": 64}),
        (lambda m, h: h @ m.w.clone().mul_(0.5), {"w": 64}),
        (lambda m, h: h @ torch.mul(m.w, m.row, out=torch.empty(8, 8)), {"w": 64}),
        (_with_a_token, {}),
        (_padded, {"w": 64}),
        (lambda m, h: h @ m.w.clone().mul_(m.row), {"w": 64}),
        (_assembled, {"w": 64}),
        # more numbers than what they are computed from
        (lambda m, h: h @ torch.cos(m.row[:, None] * m.row), {"computed from row": 64}),
        (lambda m, h: h @ (m.row[:, None] @ m.row[None]), {"computed from row": 64}),
        (
            lambda m, h: h @ (m.row[:, None] * m.taps.exp().sum() * torch.arange(1, 9)),
            {"computed from row, taps": 64},
        ),
        (
            lambda m, h: F.conv1d(h[:, None], (m.row[:, None] * m.taps[0])[:, None]),
            {"computed from row, taps": 24},
        ),
        (
            lambda m, h: h @ torch.outer(m.row, m.row).cos() + h @ torch.outer(m.row, m.row).sin(),
            {"computed from row": 128},
        ),
        (_computed_twice, {"computed from row": 64}),
        (_one_by_one, {"computed from row": 64}),
        # once, as filters that change from step to step, in any order of their factors
        (_in_steps, {"computed from row": 64}),
        (_in_two_orders, {"computed from row, taps": 24}),
        (lambda m, h: h @ _not_numbers(m) + h.relu() @ _not_numbers(m), {"computed from row": 64}),
        # parts of a bank add up, and count once where they overlap
        (_in_parts, {"computed from row": 64}),
        (lambda m, h: _windows(torch.outer(m.row, m.row), h), {"computed from row": 64}),
        (
            lambda m, h: h @ torch.stack([m.row.cos() * n for n in m.row]),
            {"computed from row": 64},
        ),
        # no more: copies, and a matrix of them
        (lambda m, h: h.expand(3, 5, 8) @ (m.w * m.row).expand(3, 8, 8).contiguous(), {"w": 64}),
        (lambda m, h: h.expand(3, 5, 8) @ (m.w.expand(3, 8, 8) * m.row), {"w": 64}),
        (lambda m, h: h @ m.row[_offsets()], {"row": 8}),
        (lambda m, h: h @ m.table(torch.arange(8)).mT, {"table": 64}),
        (lambda m, h: h @ (m.w + m.row[:, None] * m.row), {"w": 64}),
        (lambda m, h: h + torch.zeros(5, 8) @ m.w, {"w": 64}),  # an initial state
        # nor copies that are scaled, masked or changed one by one
        (lambda m, h: h @ (m.row[_offsets()] * 0.5), {"row": 8}),
        (lambda m, h: h @ m.row[_offsets()].tanh(), {"row": 8}),
        (lambda m, h: h @ (m.row[_offsets()] * torch.tril(torch.ones(8, 8))), {"row": 8}),
        (lambda m, h: h @ torch.where(_offsets() > 0, m.row[_offsets()], 0.0), {"row": 8}),
        (lambda m, h: h @ (2 * torch.diag(m.row)), {"row": 8}),
        (lambda m, h: h @ (torch.eye(8) * m.row), {"row": 8}),
        (lambda m, h: h @ (2 * m.row.expand(8, 8).contiguous()), {"row": 8}),
        (lambda m, h: h @ (2 * m.keys[0].mT.repeat(1, 2)), {"keys": 32}),
        (lambda m, h: h @ torch.cat([m.keys[0].mT, -m.keys[0].mT.flip(-1)], -1), {"keys": 32}),
        # zeros, as before training, are no copies
        (lambda m, h: h @ ((m.row[:, None] * 0) * m.row), {"computed from row": 64}),
    ],
)
def test_what_multiplies_data_without_a_layer_is_digital(
    use: Callable[[Net, Tensor], Tensor], digital: dict[str, int]
) -> None:
    assert _share(use) == digital


@pytest.mark.parametrize("batch", [2, 32])
@pytest.mark.parametrize(
    "queries",
    [
        lambda m, n: m.keys.repeat(n, 1, 1) / 8**0.5,
        lambda m, n: torch.zeros(n, 4, 8) + m.keys,
        lambda m, n: m.keys.expand(n, -1, -1).reshape(n * 4, 8).view(n, 4, 8) / 8**0.5,
        lambda m, n: F.layer_norm(m.keys.expand(n, -1, -1), (8,)) * 8**-0.5,
        lambda m, n: m.keys.repeat(n, 1, 1) + m.keys.flip(1).repeat(n, 1, 1),
        lambda m, n: (m.keys.mT.repeat(n, 1, 1) * 2).mT * m.row,
        lambda m, n: m.keys.repeat(n, 1, 1) @ (m.row[:, None] * torch.arange(8)),
    ],
)
def test_queries_that_are_repeated_for_each_sample_count_once(
    queries: Callable[[Net, int], Tensor], batch: int
) -> None:
    model = at.convert(Net(lambda m, h: queries(m, len(h)) @ h.mT), CHIP)
    assert at.guard(model, torch.randn(batch, 5, 8)).share.digital == {"keys": 32}


def test_it_is_named_with_its_place_and_share() -> None:
    model = at.convert(Net(lambda m, h: F.linear(h, m.table.weight) @ m.w), CHIP)
    text = str(at.guard(model, X))
    why = f"the model multiplies by it in aten.mm in (root) (Net), {__file__}:"
    assert "64 of 192 weights that multiply are on the chip (33.3 %)." in text
    assert f"\ndigital: w (64 weights; {why}" in text
    text = str(at.summary(model))
    assert f"digital: table (64 weights, 33.3 % of those that multiply; {why}" in text
    assert f"digital: w (64 weights, 33.3 % of those that multiply; {why}" in text
    assert "embeddings=True" not in text  # guard would refuse that
    model.use = lambda m, h: h
    at.guard(model, X)
    assert at.summary(model).share.digital == {}
    reason = "digital unless convert(..., embeddings=True) takes it"
    assert f"digital: table (64 weights; {reason})" in str(at.summary(model))


class Hidden(nn.Module):
    """Layers and tensors in plain lists and dictionaries, beside registered ones."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(8, 16), nn.Linear(16, 4)
        self.layers = [nn.Linear(16, 16), {"inner": (nn.Linear(16, 16),)}]
        self.filters = {"w": torch.randn(16, 16), "none": None}
        self.parts = [self.a, self.o, self.a.weight]  # which torch knows
        self.parts.append(self.parts)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](self.a(x))
        x = self.layers[1]["inner"][0](x) @ self.filters["w"]
        return self.o(x)


def test_what_plain_lists_and_dictionaries_hold_is_digital_and_named() -> None:
    model = at.convert(Hidden().eval(), CHIP)
    report = at.guard(model, X)
    names = ["layers.0.weight", "layers.1.inner.0.weight", "filters.w"]
    assert report.share.digital == dict.fromkeys(names, 256)
    whys = {name: why for name, why, _ in report.digital}
    for name in names[:2]:
        assert "it is unregistered" in whys[name]
        assert "nn.ModuleList" in whys[name]
    assert "a layer with this weight can be analog" in whys["filters.w"]
    assert at.summary(copy.deepcopy(model)).share == report.share
    assert "digital: layers.0.weight (256 weights, " in str(at.summary(model))


class Gabor(nn.Module):
    """Filters of 33 numbers, each computed from two."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.rand(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        t = torch.arange(-16, 17)
        centre, width = self.kernel[:, :1], self.kernel[:, 1:]
        filters = torch.exp(-((t * width) ** 2)) * torch.cos(centre * t)
        return F.conv1d(x, filters[:, None])


@pytest.mark.parametrize("how", ["as it is", "deepcopy", "pickle"])
def test_filters_that_a_run_computes_count_and_are_named_by_their_parameters(how: str) -> None:
    model = at.convert(nn.Sequential(Gabor(), nn.Conv1d(6, 4, 1)), CHIP)
    report = at.guard(model, torch.randn(2, 1, 40))
    name = "0: computed from kernel"
    assert report.share.digital == {name: 6 * 33}  # in place of the 12 of its Parameter
    assert f"\ndigital: {name} (198 weights; the model multiplies by it in aten.conv" in str(report)
    assert "; it is computed in each run)" in str(report)
    assert "can be analog" not in str(report)
    if how != "as it is":
        model = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert at.summary(model).share == report.share
    assert f"digital: {name} (198 weights, 89.2 % of those that multiply; the" in str(
        at.summary(model)
    )


class Factors(nn.Module):
    """Two matrices, and the weight that ``make`` computes from them."""

    def __init__(self, make: Callable[[Tensor, Tensor], Tensor], also: bool = False) -> None:
        super().__init__()
        self.make, self.also = make, also
        self.u, self.v = nn.Parameter(torch.randn(8, 2)), nn.Parameter(torch.randn(2, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.make(self.u, self.v)
        return y + (x @ self.u).sum(-1, keepdim=True) if self.also else y


@pytest.mark.parametrize(
    ("module", "digital"),
    [
        (Factors(lambda u, v: u @ v), {"1: computed from u, v": 64}),
        # what it multiplies by as it is too counts beside
        (Factors(lambda u, v: (u @ v).exp(), also=True), {"1": 16, "1: computed from u, v": 64}),
        (Factors(lambda u, v: torch.outer(u[:, 0], u[:, 1])), {"1": 16, "1: computed from u": 64}),
        # arrangements hold no other numbers: those of a complex matrix, a symmetric filter
        (Factors(lambda u, v: torch.cat([u, -v.mT, v.mT, u], 1)), {"1": 32}),
        (Factors(lambda u, v: torch.cat([u, 2 * u.flip(0)], 1)), {"1": 32}),
    ],
)
def test_what_is_computed_counts_in_place_of_its_parameters(
    module: Factors, digital: dict[str, int]
) -> None:
    model = at.convert(nn.Sequential(nn.Linear(8, 8), module), CHIP)
    assert at.summary(model).share.digital == {"1": 32}  # nothing has run
    assert at.guard(model, X).share.digital == digital
    assert at.summary(copy.deepcopy(model)).share.digital == digital


def test_filters_of_a_parameter_that_modules_share_count_once() -> None:
    one, other = Gabor(), Gabor()
    other.kernel = one.kernel
    model = at.convert(nn.Sequential(one, nn.Conv1d(6, 1, 1), other, nn.Conv1d(6, 1, 1)), CHIP)
    found = at.guard(model, torch.randn(2, 1, 80)).share.digital
    assert found["0: computed from kernel"] == 6 * 33
    assert sum(found.values()) == 6 * 33


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "program"])
def test_copies_keep_what_guard_has_seen(how: str) -> None:
    model = at.convert(nn.Sequential(nn.Linear(8, 8), Filtered()), CHIP)
    seen = at.guard(model, X).share
    assert seen.digital == {"1.filters": 64}
    if how == "program":
        twin = at.program(model, seed=1).at("1 day")
    else:
        twin = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert at.summary(twin).share == seen
    assert "digital: 1.filters (64 weights, 50.0 % of those that multiply; the model" in str(
        at.summary(twin)
    )


def test_digital_models_keep_nothing_of_it() -> None:
    model = nn.Sequential(nn.Linear(8, 8), Filtered())
    before = [set(vars(m)) for m in model.modules()]
    at.guard(at.convert(model, CHIP), X)
    assert [set(vars(m)) for m in at.to_digital(model).modules()] == before


class Filtered(nn.Module):
    """A module that multiplies by a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.filters


class Held(nn.Module):
    """A module that AnalogTorch does not know, with the weight of another."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


def test_a_tied_weight_that_another_module_multiplies_by_counts_again() -> None:
    layer = nn.Linear(8, 8)
    model = at.convert(nn.Sequential(layer, Held(layer.weight)), CHIP)
    assert at.guard(model, X).share == at.conversion.Share(64, {"1": 64})


def test_buffers_of_subclasses_and_masks_of_pruned_layers() -> None:
    class Mixed(nn.Linear):
        def __init__(self) -> None:
            super().__init__(8, 8)
            self.register_buffer("mix", torch.randn(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x @ self.mix)

    model = nn.Sequential(Mixed(), prune.l1_unstructured(nn.Linear(8, 4), "weight", 0.5))
    at.convert(model, CHIP)
    assert at.guard(model, X).share.digital == {"0.mix": 64, "1": 32}
    view = at.program(at.convert(nn.Sequential(Mixed()), CHIP), seed=1).at("1 day")
    assert at.guard(view, X).share.digital == {"0.mix": 64}


def test_the_head_of_a_perceiver_is_its_embedding() -> None:
    config = PerceiverConfig(
        vocab_size=100,
        d_model=32,
        d_latents=32,
        num_latents=8,
        num_blocks=1,
        num_self_attends_per_block=1,
        num_self_attention_heads=4,
        num_cross_attention_heads=4,
        max_position_embeddings=8,
    )
    model = at.convert(PerceiverForMaskedLM(config).eval(), CHIP)
    report = at.guard(model, {"inputs": torch.arange(3, 11)[None]})
    assert report.share.digital["perceiver.input_preprocessor.embeddings"] == 3200


class Irrep(tuple):
    """A tuple without a length, as e3nn has them."""

    def __len__(self) -> int:
        raise NotImplementedError


def test_a_tuple_of_a_class_of_its_own_is_looked_into() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    model.irreps = [Irrep((0, torch.randn(4, 4)))]
    at.convert(model, CHIP)
    at.guard(model, torch.randn(2, 4))
    at.summary(model)
