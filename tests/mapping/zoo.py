"""Tiny nets of other libraries, whose forwards take caches, lengths and images of any size."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

Made = tuple[nn.Module, Any]
"""A model and its example."""
TOKENS = torch.arange(7)[None]
_DECODER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 33,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _transformers() -> Any:
    return pytest.importorskip("transformers")


def _torchaudio() -> Any:
    return pytest.importorskip("torchaudio").models


def gpt2() -> Made:
    library = _transformers()
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    config = library.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, vocab_size=33, n_positions=16, **ends
    )
    return library.GPT2LMHeadModel(config), {"input_ids": TOKENS, "use_cache": True}


def gpt2_next_token() -> Made:
    """Call GPT-2 as ``generate`` does: one token, with the keys and values of those before."""
    model, example = gpt2()
    with torch.no_grad():
        cache = model.eval()(**example).past_key_values
    return model, {"input_ids": TOKENS[:, :1], "past_key_values": cache, "use_cache": True}


def llama() -> Made:
    library = _transformers()
    example = {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS), "use_cache": True}
    return library.LlamaForCausalLM(library.LlamaConfig(**_DECODER)), example


def mixtral() -> Made:
    library = _transformers()
    config = library.MixtralConfig(**_DECODER, num_local_experts=4)
    return library.MixtralForCausalLM(config), {"input_ids": TOKENS, "use_cache": True}


def t5() -> Made:
    library = _transformers()
    config = library.T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=33)
    example = {"input_ids": TOKENS, "decoder_input_ids": TOKENS, "use_cache": True}
    return library.T5ForConditionalGeneration(config), example


def whisper() -> Made:
    library = _transformers()
    sizes = {
        f"{part}_{name}": 2
        for part in ("encoder", "decoder")
        for name in ("layers", "attention_heads")
    }
    sizes |= {
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_source_positions": 10,
        "max_target_positions": 12,
    }
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = library.WhisperConfig(d_model=16, vocab_size=64, num_mel_bins=8, **sizes, **ends)
    example = {
        "input_features": torch.zeros(1, 8, 20),
        "decoder_input_ids": TOKENS,
        "use_cache": True,
    }
    return library.WhisperForConditionalGeneration(config), example


def conformer() -> Made:
    return _torchaudio().Conformer(16, 2, 32, 2, 5), (torch.zeros(2, 12, 16), torch.tensor([12, 9]))


def emformer() -> Made:
    model = _torchaudio().Emformer(16, 2, 32, 2, 4, right_context_length=1)
    return model, (torch.zeros(2, 9, 16), torch.tensor([8, 5]))


def emformer_rnnt() -> Made:
    _torchaudio()
    from torchaudio.models.rnnt import emformer_rnnt_model

    transformer = {
        "num_heads": 2,
        "ffn_dim": 16,
        "num_layers": 2,
        "dropout": 0.0,
        "activation": "gelu",
        "left_context_length": 4,
        "max_memory_size": 0,
        "weight_init_scale_strategy": "depthwise",
        "tanh_on_mem": True,
    }
    model = emformer_rnnt_model(
        input_dim=8,
        encoding_dim=16,
        num_symbols=11,
        segment_length=4,
        right_context_length=2,
        time_reduction_input_dim=4,
        time_reduction_stride=2,
        symbol_embedding_dim=8,
        num_lstm_layers=2,
        lstm_layer_norm=True,
        lstm_layer_norm_epsilon=1e-3,
        lstm_dropout=0.0,
        **{f"transformer_{name}": value for name, value in transformer.items()},
    )
    numbers = {"dtype": torch.int32}
    targets = torch.zeros(2, 3, **numbers), torch.tensor([3, 2], **numbers)
    return model, (torch.zeros(2, 14, 8), torch.tensor([12, 8]), *targets)


def tacotron2() -> Made:
    sizes = {
        "n_mels": 8,
        "n_symbol": 20,
        "symbol_embedding_dim": 16,
        "encoder_embedding_dim": 16,
        "encoder_n_convolution": 1,
        "decoder_rnn_dim": 16,
        "attention_rnn_dim": 16,
        "prenet_dim": 8,
        "attention_hidden_dim": 8,
        "attention_location_n_filter": 4,
        "attention_location_kernel_size": 3,
        "postnet_n_convolution": 2,
        "postnet_embedding_dim": 8,
    }
    text = torch.zeros(2, 6, dtype=torch.long), torch.tensor([6, 4])
    return _torchaudio().Tacotron2(**sizes), (*text, torch.zeros(2, 8, 5), torch.tensor([5, 4]))


def detector() -> Made:
    """Chooses boxes by their scores: only a real run shows how many."""
    detection = pytest.importorskip("torchvision").models.detection
    sizes = {
        "weights": None,
        "weights_backbone": None,
        "num_classes": 3,
        "min_size": 64,
        "max_size": 64,
    }
    return detection.fasterrcnn_mobilenet_v3_large_320_fpn(**sizes), ([torch.rand(3, 64, 64)],)


NETS: dict[str, Callable[[], Made]] = {
    make.__name__: make
    for make in (
        gpt2,
        gpt2_next_token,
        llama,
        mixtral,
        t5,
        whisper,
        conformer,
        emformer,
        emformer_rnnt,
        tacotron2,
        detector,
    )
}
