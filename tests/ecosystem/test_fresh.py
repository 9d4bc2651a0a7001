"""Batches and examples that a model changes as it runs."""

import copy
import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms.functional import normalize
from transformers.modeling_outputs import CausalLMOutputWithPast

import analogtorch as at
from analogtorch.conversion.fresh import fresh

pytestmark = pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
CHIP = at.chips.hermes64()
LENGTH = 5
"""Tokens in each cache."""
TIMES = ["1 day"]


def _llama() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def _ids(seed: int, length: int) -> Tensor:
    return torch.randint(3, 40, (4, length), generator=torch.Generator().manual_seed(seed))


def _batch(net: nn.Module, seed: int) -> dict[str, Any]:
    with torch.no_grad():
        cache = net(input_ids=_ids(seed, LENGTH), use_cache=True).past_key_values
    return {"input_ids": _ids(seed + 50, 3), "past_key_values": cache}


def _batches(net: nn.Module, count: int = 4) -> list[dict[str, Any]]:
    return [_batch(net, seed) for seed in range(count)]


def _explicit(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    output: Tensor = model(**copy.deepcopy(batch)).logits
    return output


def _lengths(batches: list[dict[str, Any]]) -> set[int]:
    return {batch["past_key_values"].get_seq_length() for batch in batches}


def test_ranges_are_those_of_batches_whose_cache_is_copied_by_hand() -> None:
    found = []
    for forward in (None, _explicit):
        net = _llama()
        batches, reports = _batches(net), list[Any]()
        model = at.convert(net, CHIP)
        at.calibrate(model, batches, forward=forward, report=reports.append)
        assert _lengths(batches) == {LENGTH}
        found.append((at.summary(model), reports[0].errors))
    assert str(found[0][0]) == str(found[1][0])
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-6)


@pytest.mark.parametrize(
    "forward", [None, lambda model, x: model(**x).logits], ids=["rule", "forward"]
)
def test_a_metric_measures_the_same_again(forward: Callable[..., Any] | None) -> None:
    net = _llama()
    (x,) = _batches(net, 1)
    pairs = [(x, _ids(9, 3))]
    metric = at.metrics.perplexity(pairs, forward=forward)
    expected = at.metrics.perplexity(pairs, forward=_explicit)(net)
    assert metric(net) == metric(net) == pytest.approx(expected, rel=1e-6)
    assert at.accuracy(net, pairs, forward=forward) == at.accuracy(net, pairs, forward=_explicit)
    model = at.convert(net, CHIP)
    first, again = (at.sweep(model, metric, num_chips=2, times=TIMES) for _ in range(2))
    assert torch.equal(first.values, again.values)
    assert _lengths([x]) == {LENGTH}


def test_columns_are_those_of_batches_whose_cache_is_copied_by_hand() -> None:
    net = _llama()
    batches = _batches(net)
    model = at.convert(net, CHIP)
    found = []
    for forward in (None, _explicit):
        view = at.program(model, seed=0).at("1 day")
        at.Recovery(batches=batches, forward=forward).correct(view)
        found.append(_explicit(view, batches[0]))
    assert torch.allclose(*found, atol=1e-6)
    assert _lengths(batches) == {LENGTH}


def test_adapt_leaves_the_caches() -> None:
    net = _llama()
    batches = _batches(net)
    options = {"steps": 1, "num_chips": 1, "times": TIMES, "calibration": {"effort": "ranges"}}
    found = [
        at.hwa.adapt(net, batches, chip=CHIP, forward=forward, **options)
        for forward in (None, _explicit)
    ]
    first, second = ([stage.reading.mean for stage in each.stages] for each in found)
    assert first == pytest.approx(second, rel=1e-4)
    assert _lengths(batches) == {LENGTH}


def test_examples_keep_the_length_of_their_caches() -> None:
    net = _llama()
    example = _batch(net, 0)
    model = at.convert(net, CHIP, example=example)
    at.guard(model, example)
    at.guard(model, example, forward=lambda model, x: model(**x))
    # ids, mask, positions, cache
    at.guard(model, (example["input_ids"], None, None, example["past_key_values"]))
    assert _lengths([example]) == {LENGTH}


def test_an_encoder_and_a_decoder_have_a_cache_each() -> None:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2,
        decoder_start_token_id=2, pad_token_id=2, eos_token_id=1,
    )  # fmt: skip
    net = transformers.T5ForConditionalGeneration(config).eval()
    given = net(input_ids=_ids(0, 6), decoder_input_ids=_ids(1, LENGTH), use_cache=True)
    cache = given.past_key_values
    assert isinstance(cache, transformers.EncoderDecoderCache)
    x = {
        "encoder_outputs": (given.encoder_last_hidden_state.detach(),),
        "decoder_input_ids": _ids(2, 1),
        "past_key_values": cache,
    }
    metric = at.metrics.perplexity([(x, _ids(3, 1))])
    assert metric(net) == metric(net)
    assert cache.get_seq_length() == LENGTH


def test_a_cache_may_have_a_history_of_gradients() -> None:
    net = _llama()
    cache = net(input_ids=_ids(0, LENGTH), use_cache=True).past_key_values
    assert cache.layers[0].keys.grad_fn is not None
    example = {"input_ids": _ids(1, 3), "past_key_values": cache}
    model = at.convert(net, CHIP, example=example)
    assert at.map_to_chip(model, example).digital
    assert cache.get_seq_length() == LENGTH


class _Named(NamedTuple):
    x: Any
    cache: Any


class _Chunks(list):
    """A list that is made of something else."""

    def __init__(self, first: Tensor, cache: Any) -> None:
        super().__init__([first, cache])


class _Wrapped(MutableMapping):
    """A mapping whose shallow copy has the parts of the one that was given."""

    def __init__(self, parts: dict[str, Any]) -> None:
        self.parts = parts

    def __getitem__(self, key: str) -> Any:
        return self.parts[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.parts[key] = value

    def __delitem__(self, key: str) -> None:
        del self.parts[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


def test_a_wrapped_mapping_keeps_the_cache_that_it_has() -> None:
    cache = _batch(_llama(), 0)["past_key_values"]
    given = _Wrapped({"cache": cache})
    assert fresh(given)["cache"] is not cache
    assert given["cache"] is cache


@dataclasses.dataclass(frozen=True)
class _Graph:
    x: Tensor
    other: object
    unset: Any = dataclasses.field(init=False)


class _Frozen(Mapping):
    """A mapping that nobody writes into, whose parts are attributes, too."""

    def __init__(self, **parts: Any) -> None:
        self.parts = parts

    def __getattr__(self, name: str) -> Any:
        if name in vars(self).get("parts", ()):
            return self.parts[name]
        raise AttributeError(name)

    def __getitem__(self, key: str) -> Any:
        return self.parts[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


def test_a_mapping_of_another_kind_stays_one_and_may_hold_what_cannot_be_copied() -> None:
    x, lock = torch.ones(2), threading.Lock()
    for given in (_Frozen(x=x, lock=lock), _Wrapped({"x": x, "lock": lock})):
        found = fresh(given)
        assert type(found) is type(given)
        assert torch.equal(found["x"], x)
        assert found["x"] is not x
        assert found["lock"] is lock
        assert given["x"] is x


def test_tensors_caches_and_what_holds_them_are_copied() -> None:
    cache, x, other = _batch(_llama(), 0)["past_key_values"], torch.ones(2), object()
    keys = cache.layers[0].keys
    given = [
        transformers.BatchEncoding({"x": x, "cache": cache, "keys": keys}),
        MappingProxyType({"x": x, "cache": cache, "other": other}),
        (_Named(x, cache), [other, {"inner": (cache,)}]),
    ]
    encoding, proxy, (named, (first, nested)) = fresh(given)
    assert type(encoding) is transformers.BatchEncoding
    assert encoding["x"] is proxy["x"] is named.x
    assert encoding["keys"] is encoding["cache"].layers[0].keys
    assert torch.equal(named.x, x)
    assert named.x is not x
    assert proxy["other"] is first is other
    # a batch that holds one cache in several places does so in its copy
    assert encoding["cache"] is proxy["cache"] is named.cache is nested["inner"][0]
    assert encoding["cache"] is not cache
    assert torch.equal(encoding["cache"].layers[0].keys, keys)
    assert given[0]["cache"] is cache
    output, wrapped, chunks = fresh(
        (
            CausalLMOutputWithPast(logits=x, past_key_values=cache),
            _Wrapped({"x": x, "cache": cache}),
            _Chunks(x, cache),
        )
    )
    assert output.past_key_values is output["past_key_values"] is wrapped["cache"] is chunks[1]
    assert output.past_key_values is not cache
    assert output.logits is chunks[0]
    assert type(chunks) is _Chunks
    assert type(wrapped) is _Wrapped
    graph, queue = fresh((_Graph(x, other), deque([x, other], maxlen=2)))
    assert graph.x is queue[0]
    assert torch.equal(graph.x, x)
    assert graph.x is not x
    assert graph.other is queue[1] is other
    assert not hasattr(graph, "unset")
    assert queue.maxlen == 2
    assert fresh(other) is other
    of_itself: list[Any] = [x]
    of_itself.append(of_itself)
    again = fresh(of_itself)
    assert again[1] is again is not of_itself


def test_a_copy_of_a_tensor_that_learns_is_a_leaf() -> None:
    x = torch.ones(2, requires_grad=True)
    y = fresh({"x": 2 * x, "leaf": x})
    assert y["x"].requires_grad
    assert y["x"].is_leaf
    y["leaf"].sum().backward()
    assert x.grad is None
    assert torch.equal(y["leaf"].grad, torch.ones(2))


class _Normalised(nn.Module):
    """Normalises pictures in place, as torchvision does on request."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(normalize(x, (0.5, 0.4, 0.3), (0.2, 0.3, 0.2), inplace=self.inplace))
        return y


@pytest.mark.parametrize("kind", [list, DataLoader])
def test_pictures_are_normalised_once(kind: Callable[..., Any]) -> None:
    found = []
    for inplace in (False, True):
        torch.manual_seed(0)
        pictures, labels = torch.rand(64, 3, 4, 4), torch.arange(64) % 4
        before = pictures.clone()
        given = [pictures[:32], pictures[32:]]
        batches = given if kind is list else DataLoader(pictures, batch_size=32)
        model = at.convert(_Normalised(inplace).eval(), CHIP)
        at.calibrate(model, batches)
        ranges = [layer.input_range.item() for _, layer in at.analog_layers(model)]
        pairs = list(zip(given, labels.split(32), strict=True))
        values = at.sweep(
            model, lambda chip, x=pairs: at.accuracy(chip, x), num_chips=2, times=TIMES
        ).values
        adapted = at.hwa.adapt(model, batches, steps=2, num_chips=1, times=TIMES)
        assert torch.equal(pictures, before)
        found.append((ranges, values.tolist(), [stage.reading.mean for stage in adapted.stages]))
    assert found[0] == found[1]


def test_a_forward_may_take_parts_out_of_a_batch() -> None:
    model = at.convert(nn.Sequential(nn.Linear(4, 3)), CHIP)
    batches = [{"x": torch.randn(8, 4)}]
    at.calibrate(model, batches, forward=lambda model, batch: model(batch.pop("x")))
    assert batches[0].keys() == {"x"}
