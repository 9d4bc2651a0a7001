import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import analogtorch as at
from analogtorch.mapping import ChipMapping, map_to_chip
from tests.mapping.nets import Residual
from tests.mapping.zoo import NETS, Made, gpt2_next_token, mixtral

CHIP = at.chips.hermes64()


class _AllKinds(nn.Module):
    """Weights that ``convert`` makes analog in any forward, and weights that it leaves digital."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.named = nn.Linear(6, 6)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
        self.bilinear = nn.Bilinear(6, 6, 6)
        self.bare = nn.Parameter(torch.ones(6, 6))
        self.tokens = nn.Embedding(5, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.cell = nn.GRUCell(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(self.fc(x), self.named.weight) @ self.bare
        y = self.bilinear(self.normed(y), y)
        y = self.attention(y, y[:, :1], y[:, :1])[0][:, 0]
        return F.linear(self.cell(y), self.tokens.weight)


def _all_kinds() -> Made:
    return _AllKinds(), torch.zeros(2, 3, 6)


def _tied() -> Made:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5))
    model[2].weight = model[0].weight
    return model, torch.zeros(1, 3, dtype=torch.long)


def _residual() -> Made:
    return Residual(), torch.zeros(1, 3, 6, 6)


ALL = [*NETS.values(), _all_kinds, _tied, _residual]


def _map(model: nn.Module, example: object) -> ChipMapping:
    return map_to_chip(model, example, chip=CHIP, num_chips=None)


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_what_convert_makes_analog_is_what_lies_on_tiles(make) -> None:
    torch.manual_seed(0)
    model, example = make()
    before = {name: p.clone() for name, p in model.named_parameters()}
    mapping = _map(model, example)
    at.convert(model, CHIP)
    analog = {id(layer.weight) for _, layer in at.analog_layers(model)}
    digital = {
        n
        for n, p in model.named_parameters()
        if id(p) not in analog and not n.endswith("input_range")
    }
    assert set(dict(mapping.digital_weights)) == digital
    assert mapping.weights == sum(
        {id(m.weight): m.weight.numel() for _, m in at.analog_layers(model)}.values()
    )
    assert _map(model, example) == mapping
    assert all(
        torch.equal(p, before[name]) for name, p in model.named_parameters() if name in before
    )


@pytest.mark.parametrize(
    "name", [name for name in NETS if name not in ("detector", "gpt2_next_token")]
)
def test_without_weights_too(name: str) -> None:
    model, example = NETS[name]()
    mapping = _map(model, example)
    model.to("meta")
    getattr(model, "tie_weights", lambda: None)()  # which .to cuts
    assert _map(model, example) == mapping


def test_where_only_values_show_what_runs_a_model_without_weights_is_refused() -> None:
    model, example = NETS["detector"]()
    with pytest.raises(ValueError, match="module 'rpn' .*give the model its weights"):
        _map(model.to("meta"), example)


def test_a_cache_in_the_example_is_left_as_it_is() -> None:
    model, example = gpt2_next_token()
    keys = example["past_key_values"].layers[0].keys.clone()
    mapping = _map(model, example)
    assert torch.equal(example["past_key_values"].layers[0].keys, keys)
    attention = next(op for op in mapping.digital if op.kind == "attention")
    # heads x queries x keys of 7 earlier tokens
    assert attention.operations == 2 * 1 * 8 * (2 * 8 + 2 * 8 + 1 + 5)


def test_experts_are_digital_and_counted() -> None:
    model, example = mixtral()
    mapping = _map(model, example)
    held = {name for name, _ in mapping.digital_weights}
    assert "model.layers.0.mlp.experts.down_proj" in held
    counted = sum(op.operations for op in mapping.digital if op.kind == "matmul")
    # layers x operations x tokens x experts of each x weights
    assert counted >= 2 * 2 * 7 * 2 * (3 * 16 * 32)


def test_the_example_is_left_as_it_is() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.register_buffer("seen", torch.zeros(4))

        def forward(self, x: dict[str, Tensor]) -> Tensor:
            self.seen += 1
            return self.fc(x["a"].add_(1))

    model, example = Writes(), ({"a": torch.zeros(2, 4)},)
    before = copy.deepcopy(example)
    _map(model, example)
    assert torch.equal(example[0]["a"], before[0]["a"])
    assert not model.seen.any()


def test_numbers_that_stand_ins_overwrite_are_unknown() -> None:
    class Overwrites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.head = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            out = torch.zeros(2, 4)
            row = out[0]
            out[:] = self.fc(x)
            return self.head(row[None]) if out.sum() > 0 else row

    model = Overwrites()
    nn.init.constant_(model.fc.bias, 9.0)
    nn.init.zeros_(model.fc.weight)
    (*_, head, _) = _map(model, torch.zeros(2, 4)).operations
    assert (head.name, head.inputs) == ("head", ("fc",))
    with pytest.raises(ValueError, match="decides by the values of a tensor"):
        _map(model.to("meta"), torch.zeros(2, 4))
