"""Attention maps of a student are compared with those of its teacher."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import analogtorch as at
from analogtorch.hwa.attention_maps import AttentionMaps, map_error
from tests.crossbar import crossbar

_DRAW = torch.Generator().manual_seed(0)
X = torch.randn(3, 7, 16, generator=_DRAW)
ALLOWED = (torch.rand(7, 7, generator=_DRAW) < 0.7) | torch.eye(7, dtype=torch.bool)
ADDED = 0.5 * torch.randn(7, 7, generator=_DRAW)


class _Attention(nn.Module):
    """Attention of two heads, by torch's function or written out."""

    def __init__(self, by_function: bool = True, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.by_function, self.options = by_function, options

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (m(x).unflatten(-1, (2, 8)).transpose(1, 2) for m in (self.q, self.k, self.v))
        if self.by_function:
            return (
                F.scaled_dot_product_attention(q, k, v, **self.options).transpose(1, 2).flatten(2)
            )
        scores = q @ k.mT * self.options.get("scale", 8**-0.5)
        mask = self.options.get("attn_mask")
        if self.options.get("is_causal"):
            mask = torch.ones(7, 7, dtype=torch.bool).tril()
        if mask is not None:
            allowed = mask.dtype is torch.bool
            scores = scores.masked_fill(~mask, -math.inf) if allowed else scores + mask
        return (F.softmax(scores, dim=-1) @ v).transpose(1, 2).flatten(2)


def _maps(run: Callable[[], Any]) -> list[Tensor]:
    with AttentionMaps() as maps:
        run()
    return maps.logarithms()


@pytest.mark.parametrize(
    "options",
    [{}, {"scale": 0.2}, {"is_causal": True}, {"attn_mask": ALLOWED}, {"attn_mask": ADDED}],
)
def test_maps_of_the_function_are_those_that_are_written_out(options: dict[str, Any]) -> None:
    (found,) = _maps(lambda: _Attention(True, **options)(X))
    (expected,) = _maps(lambda: _Attention(False, **options)(X))
    assert found.shape == (3, 2, 7, 7)
    assert torch.allclose(found, expected, rtol=0, atol=1e-4)
    assert torch.allclose(found.exp().sum(-1), torch.ones(3, 2, 7), atol=1e-5)


def test_heads_that_share_keys_have_maps_of_their_own() -> None:
    q, k = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8)
    (found,) = _maps(lambda: F.scaled_dot_product_attention(q, k, k, enable_gqa=True))
    expected = (q @ k.repeat_interleave(2, 1).mT / math.sqrt(8)).log_softmax(-1)
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_position_that_reads_nothing_has_no_error() -> None:
    q, mask = torch.randn(1, 1, 3, 8), torch.tensor([[True] * 3, [False] * 3, [True] * 3])
    (one,) = _maps(lambda: F.scaled_dot_product_attention(q, q, q, attn_mask=mask))
    (other,) = _maps(lambda: F.scaled_dot_product_attention(2 * q, q, q, attn_mask=mask))
    assert one.isfinite().all()
    assert map_error(other, one, ()) > 0
    assert map_error(other[:, :, 1:2], one[:, :, 1:2], ()) == 0


def test_errors_are_divergences_of_the_positions_that_count() -> None:
    torch.manual_seed(1)
    student, teacher = (torch.randn(2, 3, 4, 5).log_softmax(-1) for _ in range(2))
    each = (teacher.exp() * (teacher - student)).sum(-1)  # (2, 3, 4)
    assert torch.allclose(map_error(student, teacher, ()), each.mean())
    read = torch.tensor([[True, True, False, False], [True, True, True, False]])
    counted = torch.cat((each[0, :, :2].flatten(), each[1, :, :3].flatten()))
    assert torch.allclose(map_error(student, teacher, (read,)), counted.mean())
    assert torch.allclose(map_error(student[:, 0], teacher[:, 0], (read,)), each[:, 0].mean())


@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_of_torch_is_compared_on_chips(need_weights: bool) -> None:
    torch.manual_seed(0)
    net = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = model(x, x, x, need_weights=need_weights)[0]
        return out

    recipe, chip = at.hwa.Recipe(attention=2.0, layers=0.5), crossbar()
    student = at.convert(copy.deepcopy(net), chip)
    with at.noise(1):
        found = at.hwa.Twin(student, net, recipe, forward).loss(X)
    total = found.outputs + 0.5 * found.layers + 2.0 * found.attention
    assert torch.allclose(found.total, total)
    assert found.attention > 0
    found.attention.backward()
    gradient = student.in_proj_weight.grad
    assert gradient[:32].abs().sum() > 0
    assert not gradient[32:].any()  # values make no map
    exact = at.convert(copy.deepcopy(net), at.chips.ideal())
    assert at.hwa.Twin(exact, net, recipe, forward).loss(X).attention.abs() < 1e-6


@pytest.mark.parametrize("by_function", [False, True])
def test_checkpointed_attention_has_the_same_gradients(by_function: bool) -> None:
    class Checkpointed(_Attention):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = checkpoint(super().forward, x, use_reentrant=False)
            return out

    def gradient(kind: type[_Attention]) -> Tensor:
        student = at.convert(kind(by_function), crossbar())
        twin = at.hwa.Twin(student, _Attention(), at.hwa.Recipe(attention=1.0, layers=0.0))
        with at.noise(1), twin.running():
            twin.total(X).backward()
        found = student.k.weight.grad
        assert found is not None
        return found

    assert torch.equal(gradient(_Attention), gradient(Checkpointed))


def test_a_model_without_attention_is_refused() -> None:
    net = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 4))
    recipe = at.hwa.Recipe(attention=1.0)
    twin = at.hwa.Twin(at.convert(copy.deepcopy(net), crossbar()), net, recipe)
    with pytest.raises(ValueError, match="0 in the model and 0 in its teacher.*attention=0"):
        twin.loss(X)
    student = at.convert(_Attention(is_causal=True, by_function=True), crossbar())
    with pytest.raises(ValueError, match="1 in the model and 2 in its teacher"):
        at.hwa.Twin(student, nn.Sequential(_Attention(), _Attention()), at.hwa.Recipe(
            attention=1.0, layers=0.0)).loss(X)  # fmt: skip


def test_a_run_logs_its_maps_and_continues(tmp_path: Path) -> None:
    batches = list(torch.randn(32, 7, 16, generator=_DRAW).split(4))
    options: dict[str, Any] = {
        "chip": crossbar(), "recipe": at.hwa.Recipe(attention=1.0, looks=1), "num_chips": 2,
        "times": ["1 day"], "progress": False, "folder": tmp_path / "run",
    }  # fmt: skip
    whole = at.hwa.adapt(_Attention(), batches, steps=3, **options)
    assert all(step.attention > 0 for step in whole.steps)
    assert "attention" in (tmp_path / "run" / "log.csv").read_text().splitlines()[0]
    again = at.hwa.adapt(_Attention(), batches, steps=3, **options)
    assert again.steps == whole.steps
    options["folder"] = tmp_path / "without"
    options["recipe"] = at.hwa.Recipe(looks=1)
    without = at.hwa.adapt(_Attention(), batches, steps=3, **options)
    assert not any(step.attention for step in without.steps)
