"""Language models of transformers: converted, calibrated, generating, saved, mapped and priced."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import analogtorch as at
from tests.ecosystem.models import CHIP

pytestmark = pytest.mark.filterwarnings("ignore:this state_dict carries no DAC ranges")
IDS = torch.randint(3, 40, (2, 6), generator=torch.Generator().manual_seed(1))
DECODER = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip


def _llama() -> nn.Module:
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**DECODER, tie_word_embeddings=True)
    )


def _qwen() -> nn.Module:
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**DECODER, head_dim=8))


def _mixtral() -> nn.Module:
    return transformers.MixtralForCausalLM(
        transformers.MixtralConfig(**DECODER, num_local_experts=3)
    )


def _gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=40, n_positions=32, n_embd=16, n_layer=1, n_head=2,
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def _t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2,
        decoder_start_token_id=2, pad_token_id=2, eos_token_id=1,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


def _whisper() -> nn.Module:
    config = transformers.WhisperConfig(
        vocab_size=40, num_mel_bins=8, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24,
        decoder_ffn_dim=24, max_source_positions=10, max_target_positions=32, bos_token_id=0,
        decoder_start_token_id=2, pad_token_id=2, eos_token_id=1,
        begin_suppress_tokens=None, suppress_tokens=None,
    )  # fmt: skip
    return transformers.WhisperForConditionalGeneration(config)


def _bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=32, num_labels=3,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


DECODERS = [_llama, _qwen, _mixtral, _gpt2]
GENERATING = [*DECODERS, _t5, _whisper]
ALL = pytest.mark.parametrize("make", [*GENERATING, _bert])


def _made(make: Any) -> Any:
    torch.manual_seed(0)
    return make().eval()


def _inputs(make: Any) -> dict[str, Tensor]:
    """Return what ``generate`` takes."""
    if make is _whisper:
        return {"input_features": torch.randn(2, 8, 20, generator=torch.Generator().manual_seed(1))}
    return {"input_ids": IDS}


def _batch(make: Any) -> dict[str, Tensor]:
    more = {"decoder_input_ids": IDS} if make in (_t5, _whisper) else {}
    return _inputs(make) | more


def _converted(make: Any, chip: at.Chip = CHIP) -> Any:
    return at.calibrate(at.convert(_made(make), chip), [_batch(make)])


def _logits(model: nn.Module, make: Any) -> Tensor:
    with torch.no_grad():
        return model(**_batch(make)).logits


def _scores(model: Any, make: Any, cache: bool) -> Tensor:
    """Return the logits of every step of a greedy ``generate``."""
    found = model.generate(
        **_inputs(make), max_new_tokens=5, do_sample=False, use_cache=cache,
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    return torch.stack(found.logits)


@ALL
def test_conversion_holds_no_second_copy_of_the_weights(make: Any) -> None:
    model = _made(make)
    before = dict(model.named_parameters(remove_duplicate=False))
    at.convert(model, CHIP)
    after = dict(model.named_parameters(remove_duplicate=False))
    assert all(after[name] is p for name, p in before.items())
    ranges = {id(layer.input_range) for _, layer in at.analog_layers(model)}
    assert {id(p) for p in after.values()} - ranges == {id(p) for p in before.values()}


@ALL
def test_a_model_is_saved_and_loaded_as_a_digital_one(make: Any, tmp_path: Path) -> None:
    model = _converted(make)
    model.save_pretrained(tmp_path)
    digital, report = type(_made(make)).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    saved = model.state_dict()
    assert all(torch.equal(t, saved[name]) for name, t in digital.state_dict().items())
    again = at.convert(digital, CHIP)
    again.load_state_dict(saved)  # with the ranges, which safetensors do not hold
    assert torch.equal(_logits(again, make), _logits(model, make))


@ALL
def test_a_model_is_mapped_and_priced(make: Any) -> None:
    model = _converted(make)
    mapping = at.map_to_chip(model, _batch(make))
    held = {id(layer.weight): layer.weight.numel() for _, layer in at.analog_layers(model)}
    assert sum(m.weights for m in mapping.matrices) == sum(held.values())
    costs = at.cost(mapping)
    assert costs.macs > 0
    assert costs.latency > 0


@pytest.mark.parametrize("make", GENERATING)
def test_generate_is_the_same_with_a_cache(make: Any) -> None:
    """Behind converters, and on a chip whose MVMs have no noise of their own.

    A vector is multiplied by itself, so that it does not matter with which others it comes.
    """
    quiet = CHIP.replace(adc={"noise": 0.0})
    model = _converted(make, quiet)
    chip = at.program(model, seed=1).at("1 day")
    for m in (model, chip):
        cached, whole = _scores(m, make, True), _scores(m, make, False)
        assert torch.allclose(cached, whole, atol=1e-5)
        assert torch.equal(cached.argmax(-1), whole.argmax(-1))
    assert not torch.equal(_scores(model, make, True), _scores(chip, make, True))


@pytest.mark.parametrize("make", [_llama, _t5])
def test_noise_of_mvms_follows_their_order_and_repeats(make: Any) -> None:
    """A cache leaves MVMs out, so that the others get other noise; a new ``at`` repeats all."""
    physical = at.program(_converted(make), seed=1)
    cached = [_scores(physical.at("1 day"), make, True) for _ in range(2)]
    assert torch.equal(*cached)
    assert not torch.equal(cached[0], _scores(physical.at("1 day"), make, False))


def test_a_tied_head_is_one_matrix(tmp_path: Path) -> None:
    model = _converted(_llama)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    mapping = at.map_to_chip(model, _batch(_llama))
    assert sum(m.weights == 40 * 16 for m in mapping.matrices) == 1
    at.save(model, tmp_path / "model")
    loaded = at.load(tmp_path / "model", _made(_llama))
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(_logits(loaded, _llama), _logits(model, _llama))
