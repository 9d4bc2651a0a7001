"""The mask of saturated partial sums has one form, which every tier can read."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import analogtorch as at
from analogtorch.ops import Operands, Plan, mvm, native, reference
from analogtorch.ops.mask import MASK, mask_shape, packed, unpacked
from analogtorch.ops.native import loading

PLANS = {
    "linear": ((3, 2, 40), (37, 40), Plan(bounds=(0, 24, 40))),
    "vector": ((40,), (5, 40), Plan(bounds=(0, 40))),
    "convolution": (
        (3, 4, 41),
        (6, 2, 3),
        Plan(bounds=(0, 3, 6), stride=(1,), padding=(1,), dilation=(1,), groups=2),
    ),
}


def _inputs(name: str, **options: object) -> tuple[Operands, Plan]:
    x, w, plan = PLANS[name]
    draw = torch.Generator().manual_seed(0)
    tensors = torch.randn(x, generator=draw), torch.ones(1), torch.randn(w, generator=draw)
    plan = dataclasses.replace(plan, input_bits=8, output_bits=8, adc_range=1.5, **options)
    return Operands(*tensors, *[None] * 8), plan


@pytest.mark.parametrize("last", [1, 8, 31, 32, 33, 200])
def test_a_bit_for_each_partial_sum(last: int) -> None:
    outside = torch.rand(7, last, generator=torch.Generator().manual_seed(last)) < 0.5
    mask = packed(outside)
    assert mask.dtype == MASK
    assert mask.shape == mask_shape((7, last), 1, 0)[1:]
    assert torch.equal(unpacked(mask, last), outside)
    assert not unpacked(mask, mask.shape[1] * 8)[:, last:].any()


@pytest.mark.parametrize("name", PLANS)
def test_kernels_and_plain_torch_keep_the_same_mask(name: str) -> None:
    inputs, plan = _inputs(name)
    if not native.takes(inputs, plan):
        pytest.skip("the CPU kernels are not built: no C compiler")
    mine, theirs = native.forward(inputs, plan, True), reference.forward(inputs, plan, True)
    assert mine.mask.any()
    assert torch.equal(mine.mask, theirs.mask)
    g = torch.ones_like(mine.y)
    needs = [True] * 4
    for kept in (mine, theirs):
        ours, plain = (
            native.backward(g, inputs, kept, plan, needs),
            reference.backward(g, inputs, kept, plan, needs),
        )
        for a, b in zip(ours, plain, strict=True):
            assert a is not None
            assert b is not None
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "plain"])
@pytest.mark.parametrize("name", PLANS)
def test_a_traced_operator_expects_what_either_gives(
    name: str, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernels:
        monkeypatch.setattr(loading, "available", lambda: False)
    inputs, plan = _inputs(name)
    x, r, w = (t.clone().requires_grad_() for t in inputs[:3])
    arguments = (x, r, w, *inputs[3:], plan.ints, plan.floats, True)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.analogtorch.mvm.default, arguments, test_utils=tests)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
def test_a_graph_cached_on_disk_with_kernels_runs_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not native.available():
        pytest.skip("the CPU kernels are not built: no C compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    inputs, plan = _inputs("linear")

    def step() -> tuple[Tensor, ...]:
        torch._dynamo.reset()
        leaves = [t.clone().requires_grad_() for t in inputs[:3]]
        y = torch.compile(lambda x, r, w: mvm(x, r, w, plan), fullgraph=True)(*leaves)
        y.sum().backward()
        return y.detach(), *(leaf.grad for leaf in leaves)

    with_kernels = step()
    monkeypatch.setattr(loading, "available", lambda: False)
    hits = counters["aot_autograd"]["autograd_cache_hit"]
    without = step()
    assert counters["aot_autograd"]["autograd_cache_hit"] == hits + 1
    for a, b in zip(with_kernels, without, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
def test_inductor_compiles_the_operators_where_ci_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Inductor then refuses operators that have a decomposition, once per process and operator."""
    from torch._inductor.lowering import FALLBACK_ALLOW_LIST, lowerings

    for name in ("mvm", "mvm_backward"):
        FALLBACK_ALLOW_LIST.discard(f"analogtorch::{name}")
        lowerings.pop(getattr(torch.ops.analogtorch, name).default, None)
    monkeypatch.setenv("CI", "1")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    inputs, plan = _inputs("linear")
    x = inputs.x.clone().requires_grad_()
    y = torch.compile(lambda x: mvm(x, inputs.input_range, inputs.w, plan), fullgraph=True)(x)
    y.sum().backward()
    assert torch.allclose(y, mvm(inputs.x, inputs.input_range, inputs.w, plan))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chip", [at.chips.hermes64(), at.chips.sonos40()], ids=lambda c: c.name)
def test_a_convolution_in_channels_last_learns_the_same(
    chip: at.Chip, dtype: torch.dtype, train: bool
) -> None:
    """In double the reference computes, whose results have the layout of the weight."""
    gradients = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).to(dtype)
        x = torch.randn(4, 3, 12, 12, dtype=dtype)
        model = at.calibrate(at.convert(net.to(memory_format=layout), chip), [x]).train(train)
        with at.noise(0):
            model(x.to(memory_format=layout)).square().sum().backward()
        gradients.append(model[0].weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3 * gradients[0].abs().max().item())
