"""``smooth_channels``: the digital model stays bit by bit, the one on a chip errs less."""

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import analogtorch as at

VOCABULARY = 32


def _logits(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids, use_cache=False).logits


def _tokens(count: int = 2) -> list[Tensor]:
    draws = torch.Generator().manual_seed(1)
    return [torch.randint(0, VOCABULARY, (2, 16), generator=draws) for _ in range(count)]


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=2, vocab_size=32,
                    num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                    tie_word_embeddings=True)).eval()  # fmt: skip


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=32, n_positions=32)
    return GPT2LMHeadModel(config).eval()


class _PostNorm(nn.Module):
    """A block whose norm goes into a residual path, too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return x + self.down(nn.functional.gelu(self.up(x)))


def _uneven(model: nn.Module) -> nn.Module:
    """Let a few channels be much larger than the others."""
    with torch.no_grad():
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, Tensor) and weight.dim() == 1:
                weight[:3] *= 30
    return model


def _same(model: nn.Module, before: Any) -> bool:
    return all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_a_llama_keeps_its_outputs_and_takes_part_as_a_whole() -> None:
    model, tokens = _uneven(_llama()), _tokens()
    before = [_logits(model, ids) for ids in tokens]
    found = at.smooth_channels(model, tokens, untie=True, forward=_logits)
    assert all(torch.equal(y, _logits(model, ids)) for y, ids in zip(before, tokens, strict=True))
    names = ["q", "k", "v"]
    assert found.moved == {
        **{f"model.layers.{i}.{norm}": tuple(f"model.layers.{i}.{name}_proj" for name in of)
           for i in (0, 1)
           for norm, of in (("input_layernorm", [f"self_attn.{n}" for n in names]),
                            ("post_attention_layernorm", ["mlp.gate", "mlp.up"]),
                            ("self_attn.v_proj", ["self_attn.o"]),
                            ("mlp.up_proj", ["mlp.down"]))},
        "model.norm": ("lm_head",),
    }  # fmt: skip
    assert not found.left
    assert not model.config.tie_word_embeddings
    assert model.lm_head.weight is not model.model.embed_tokens.weight


def test_tied_weights_stay_tied_unless_asked(tmp_path: Any) -> None:
    model = _uneven(_llama())
    found = at.smooth_channels(model, _tokens(), forward=_logits)
    assert list(found.left) == ["lm_head"]
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "14 of 15 linear layers" in str(found)
    assert "lm_head: no module before it" in str(found)
    found = at.smooth_channels(model, _tokens(), untie=True, forward=_logits)
    assert found.moved["model.norm"] == ("lm_head",)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(_logits(again, _tokens()[0]), _logits(model, _tokens()[0]))


def test_the_matrices_of_transformers_take_part() -> None:
    model, tokens = _uneven(_gpt2()), _tokens()
    before = _logits(model, tokens[0])
    found = at.smooth_channels(model, tokens, forward=_logits)
    assert torch.equal(before, _logits(model, tokens[0]))
    assert found.moved["transformer.h.0.ln_1"] == ("transformer.h.0.attn.c_attn",)
    assert found.moved["transformer.h.1.ln_2"] == ("transformer.h.1.mlp.c_fc",)
    # GELU keeps no factors, and one matrix writes queries, keys and values
    assert "transformer.h.0.mlp.c_proj" in found.left
    assert "transformer.h.0.attn.c_proj" in found.left


def test_layers_that_differ_by_a_number_in_their_name_take_part_by_themselves() -> None:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=48, decoder_ffn_dim=48,
        encoder_attention_heads=2, decoder_attention_heads=2, vocab_size=40, num_mel_bins=8,
        max_source_positions=12, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config).eval()
    batch = {"input_features": torch.randn(2, 8, 24), "decoder_input_ids": torch.ones(2, 5).long()}
    found = at.smooth_channels(model, [batch])
    for block in ("encoder.layers.1", "decoder.layers.0"):
        assert found.moved[f"model.{block}.final_layer_norm"] == (f"model.{block}.fc1",)
        assert f"model.{block}.fc2" in found.left  # GELU keeps no factors


def test_a_stack_with_relu_takes_part_from_layer_to_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(m for _ in range(3) for m in (nn.Linear(16, 16), nn.ReLU()))).eval()
    x = torch.randn(40, 16)
    before = model(x)
    assert at.smooth_channels(model, [x]).moved == {"0": ("2",), "2": ("4",)}
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("between", [nn.GELU(), nn.ReLU6(), nn.Softmax(-1)])
def test_what_keeps_no_factors_is_left(between: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), between, nn.Linear(16, 4)).eval()
    state = copy.deepcopy(model.state_dict())
    found = at.smooth_channels(model, [torch.randn(8, 16)])
    assert not found.moved
    assert _same(model, state)


def test_a_norm_with_another_reader_is_left() -> None:
    model = _PostNorm().eval()
    state = copy.deepcopy(model.state_dict())
    found = at.smooth_channels(model, [torch.randn(8, 16)])
    assert not found.moved
    assert set(found.left) == {"up", "down"}
    assert _same(model, state)


def test_the_chip_errs_less() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 32)).eval()
    with torch.no_grad():
        model[0].weight[:2] *= 100
        model[1].weight[:, :2] /= 100
    x = torch.randn(200, 64)
    exact = model(x)

    def error(net: nn.Module) -> float:
        analog = at.convert(copy.deepcopy(net), at.chips.hermes64())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            at.calibrate(analog, [x], effort="ranges")
        with torch.no_grad():
            chips = at.sweep(analog, lambda c: float((c(x) - exact).norm() / exact.norm()),
                             num_chips=3, times=["1 day"])  # fmt: skip
        return float(chips.mean)

    rough = error(model)
    at.smooth_channels(model, [x])
    assert torch.equal(model(x), exact)
    assert error(model) < 0.7 * rough


def _changing() -> nn.Module:
    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.randn(())

    return nn.Sequential(nn.LayerNorm(4), Noisy(4, 4))


@pytest.mark.parametrize(
    ("make", "batches", "message"),
    [
        (lambda: nn.Sequential(nn.ReLU()), [torch.ones(1, 4)], "no linear layer"),
        (lambda: nn.Linear(4, 2), [], "batches is empty"),
        (lambda: at.convert(nn.Linear(4, 2), at.chips.ideal()), [torch.ones(1, 4)], "converted"),
        (_changing, [torch.ones(1, 4)], "other outputs for the same batch in two runs"),
    ],
)
def test_wrong_models_are_refused(
    make: Callable[[], nn.Module], batches: list[Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        at.smooth_channels(make(), batches)


def test_outputs_that_change_on_a_later_batch_leave_the_model_as_it_was() -> None:
    class Clipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            return self.head(y.clamp(-1, 1) if len(x) > 4 else y)

    model = _uneven(Clipped().eval())
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="the outputs change with the scales"):
        at.smooth_channels(model, [torch.randn(4, 8), torch.randn(5, 8)])
    assert _same(model, state)


def test_a_loss_without_dimensions_beside_the_outputs_is_compared_too() -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y = self.head(self.norm(x))
            return {"loss": y.square().mean(), "logits": y}

    assert not at.smooth_channels(_uneven(WithLoss().eval()), [torch.randn(4, 8)]).left


def test_complex_layers_take_no_part() -> None:
    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.head = nn.Linear(5, 6, dtype=torch.complex64), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.mix(torch.fft.rfft(x)).abs())

    found = at.smooth_channels(Spectrum().eval(), [torch.randn(4, 8)])
    assert list(found.left) == ["head"]


@pytest.mark.parametrize("untie", [False, True])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_layers_whose_weight_or_bias_is_computed_take_no_part(name: str, untie: bool) -> None:
    def pruned() -> nn.Module:
        return prune.l1_unstructured(nn.Linear(8, 8), name, 0.5)

    parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    plain = [nn.LayerNorm(8), nn.Linear(8, 8), nn.ReLU()]
    model = nn.Sequential(*plain, pruned(), nn.ReLU(), pruned(), parametrized, parametrized)
    found = at.smooth_channels(model, [torch.randn(4, 8)], untie=untie)
    assert found.moved == {"0": ("1",)}
    assert sorted(found.left) == ["3", "5", "6"]
    remedy = f"its {name} is not a plain Parameter; make it one by torch.nn.utils.prune.remove"
    assert remedy in found.left["3"]


def test_a_model_without_its_weights_is_refused_by_name() -> None:
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 4)).to("meta")
    with pytest.raises(ValueError, match="'0.weight' is on the meta device; load weights first"):
        at.smooth_channels(model, [torch.randn(4, 8)])


def test_a_layer_of_zeros_refuses_no_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.LayerNorm(16), nn.Linear(16, 16), nn.ReLU(), nn.LayerNorm(16), nn.Linear(16, 4)
    )
    nn.init.zeros_(model[4].weight)  # as a head is begun
    with torch.no_grad():
        model[0].weight.mul_(torch.logspace(-1, 1, 16))
    x = torch.randn(64, 16)
    expected = model(x).detach()
    found = at.smooth_channels(model, [x])
    assert "0" in found.moved
    assert torch.equal(model(x), expected)
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_batch_of_nan_leaves_the_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 5))
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match="smooth_channels: the input of a linear layer has NaN"):
        at.smooth_channels(model, [torch.randn(4, 16), torch.full((4, 16), torch.nan)])
    assert all(map(torch.equal, before, model.parameters()))


class _Heads(nn.Module):
    """A head for training, or an expert that no token of a batch reaches, reads the norm too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head, self.other = nn.LayerNorm(16), nn.Linear(16, 5), nn.Linear(16, 5)

    def forward(self, x: Tensor, both: bool = False) -> Any:
        x = self.norm(x)
        return (self.head(x), self.other(x)) if both else self.head(x)


def test_layers_that_do_not_run_keep_what_they_may_read() -> None:
    torch.manual_seed(0)
    model, x = _uneven(_Heads()), torch.randn(8, 16)
    before = model(x, both=True)[1]
    found = at.smooth_channels(model, [x])
    assert torch.equal(model(x, both=True)[1], before)
    assert not found.moved
    assert found.left["other"] == "it never ran"
    assert "did not run on the first batch, and could read the same" in found.left["head"]
    both = at.smooth_channels(model, [x], forward=lambda model, x: model(x, both=True))
    assert both.moved == {"norm": ("head", "other")}


def test_nothing_is_untied_that_takes_no_scales() -> None:
    torch.manual_seed(0)
    a, b = nn.Linear(16, 16), nn.Linear(16, 16)
    b.weight = a.weight
    model = nn.Sequential(
        OrderedDict(
            norm=nn.LayerNorm(16), first=nn.Linear(16, 16), r=nn.Tanh(), a=a, s=nn.Tanh(), b=b
        )
    )
    found = at.smooth_channels(model, [torch.randn(8, 16)], untie=True)
    assert found.moved == {"norm": ("first",)}
    assert b.weight is a.weight
