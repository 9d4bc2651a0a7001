"""The models: classifiers and detectors of torchvision, models of torchaudio and transformers.

Weights are random. The models of torchaudio and transformers, and some of torchvision's, are built
small: the kinds of layers decide what becomes analog, not their number.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchaudio.models as audio
import torchvision.models as vision
import transformers
from torch import nn
from torchvision.models import convnext, maxvit, swin_transformer, vision_transformer
from torchvision.models import detection as detectors


@dataclass(frozen=True)
class Net:
    """One model."""

    build: Callable[[], nn.Module]
    """Makes it, in evaluation mode."""
    example: Callable[[], Any]
    """Its input: a tensor, a tuple of arguments or a dictionary of keyword arguments."""
    exclude: tuple[str, ...] = ()
    """Patterns of layers that it does not call: it computes with their weights in ways of its
    own."""
    generates: bool = False
    """Whether it generates text from the example, with its cache."""


def nets() -> dict[str, Net]:
    """Return all models, by name."""
    return {**_classifiers(), **_small(), **_detectors(), **_audio(), **_transformers()}


def _classifiers() -> dict[str, Net]:
    found = {}
    for name in vision.list_models(module=vision):
        extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        size = 224 if name.startswith(("vit", "maxvit")) else 75 if name == "inception_v3" else 64
        size = 518 if name == "vit_h_14_518" else size
        build = functools.partial(vision.get_model, name, weights=None, **extra)
        found[f"torchvision {name}"] = Net(build, functools.partial(torch.randn, 1, 3, size, size))
    return found


def _small() -> dict[str, Net]:
    """Return small models of torchvision's families whose smallest named model is large."""
    block = convnext.CNBlockConfig
    builds: dict[str, Callable[[], nn.Module]] = {
        "ConvNeXt": lambda: convnext.ConvNeXt([block(16, 32, 1), block(32, None, 1)]),
        "MaxVit": lambda: maxvit.MaxVit((64, 64), 16, 2, [16, 32], [1, 1], 16, 0.0),
        "SwinTransformer": lambda: swin_transformer.SwinTransformer(
            [4, 4], 16, [2, 2], [2, 4], [4, 4]
        ),
        "SwinTransformer v2": lambda: swin_transformer.SwinTransformer(
            *([4, 4], 16, [2, 2], [2, 4], [4, 4]),
            block=swin_transformer.SwinTransformerBlockV2,
            downsample_layer=swin_transformer.PatchMergingV2,
        ),
        "VisionTransformer": lambda: vision_transformer.VisionTransformer(64, 16, 2, 2, 32, 64),
    }
    image = functools.partial(torch.randn, 1, 3, 64, 64)
    return {f"torchvision {name}, small": Net(build, image) for name, build in builds.items()}


def _detectors() -> dict[str, Net]:
    found = {}
    for name in vision.list_models(module=detectors):
        sizes = {} if name.startswith("ssd") else {"min_size": 64, "max_size": 64}
        build = functools.partial(
            vision.get_model, name, weights=None, weights_backbone=None, **sizes
        )
        found[f"torchvision {name}"] = Net(build, lambda: ([torch.rand(3, 64, 64)],))
    return found


def _audio() -> dict[str, Net]:
    def waves(*shape: int) -> Callable[[], torch.Tensor]:
        return functools.partial(torch.randn, *shape)

    lengths = torch.tensor([16])
    wav2vec = (
        *("group_norm", [(16, 10, 5), (16, 3, 2)], False, 16, 0.0, 16, 4, 2, 2, 0.0, 32, 0.0, 0.0),
        *(False, 0.0),
    )
    masks = 0.65, "static", 0.0, 10, False, 1, 0.0, "static", 0.0, 10, False, 1, False, False
    rnnt = {
        **{
            "input_dim": 8,
            "encoding_dim": 16,
            "num_symbols": 12,
            "segment_length": 16,
            "right_context_length": 4,
        },
        **{"time_reduction_input_dim": 8, "time_reduction_stride": 4, "transformer_num_heads": 2},
        **{"transformer_ffn_dim": 16, "transformer_num_layers": 1, "transformer_dropout": 0.0},
        **{
            "transformer_activation": "gelu",
            "transformer_left_context_length": 4,
            "transformer_max_memory_size": 0,
        },
        **{"transformer_weight_init_scale_strategy": "depthwise", "transformer_tanh_on_mem": True},
        **{"symbol_embedding_dim": 8, "num_lstm_layers": 1, "lstm_layer_norm": True},
        **{"lstm_layer_norm_epsilon": 1e-3, "lstm_dropout": 0.0},
    }
    tacotron = {
        **{"n_mels": 8, "n_symbol": 12, "symbol_embedding_dim": 16, "encoder_embedding_dim": 16},
        **{
            "decoder_rnn_dim": 16,
            "attention_rnn_dim": 16,
            "attention_hidden_dim": 8,
            "prenet_dim": 8,
        },
        **{
            "attention_location_n_filter": 4,
            "attention_location_kernel_size": 5,
            "postnet_embedding_dim": 16,
        },
    }
    listed = {
        "Conformer": Net(
            lambda: audio.Conformer(16, 2, 32, 1, 3), lambda: (torch.randn(1, 16, 16), lengths)
        ),
        "ConvTasNet": Net(lambda: audio.ConvTasNet(2, 16, 16, 3, 8, 16, 2, 1), waves(1, 1, 800)),
        "DeepSpeech": Net(lambda: audio.DeepSpeech(16, 32, 10), waves(1, 1, 12, 16)),
        "Emformer": Net(
            lambda: audio.Emformer(16, 2, 32, 1, 8, right_context_length=4),
            lambda: (torch.randn(1, 20, 16), lengths),
        ),
        "HDemucs": Net(lambda: audio.HDemucs(["a", "b"], channels=4), waves(1, 2, 44100)),
        "HuBERTPretrainModel": Net(
            lambda: audio.hubert_pretrain_model(
                *wav2vec, *masks, num_classes=20, final_dim=16, feature_grad_mult=None
            ),
            lambda: (
                torch.randn(1, 3200),
                torch.zeros(1, 319, dtype=torch.int64),
                torch.tensor([3200]),
            ),
        ),
        "RNNT": Net(
            lambda: _rnnt(rnnt),
            lambda: (
                torch.randn(1, 20, 8),
                torch.tensor([16]),
                torch.ones(1, 4, dtype=torch.int32),
                torch.tensor([4]),
            ),
        ),
        "SquimObjective": Net(
            lambda: audio.squim_objective_model(8, 16, 8, 2, 8, 1, "LSTM", 9), waves(1, 1600)
        ),
        "SquimSubjective": Net(
            lambda: _squim(audio.wav2vec2_model(*wav2vec, None)),
            lambda: (torch.randn(1, 1600), torch.randn(1, 1600)),
        ),
        "Tacotron2": Net(
            lambda: audio.Tacotron2(**tacotron),
            lambda: (
                *(
                    torch.randint(12, (1, 6)),
                    torch.tensor([6]),
                    torch.randn(1, 8, 5),
                    torch.tensor([5]),
                ),
            ),
        ),
        "Wav2Letter": Net(lambda: audio.Wav2Letter(10, "mfcc", 8), waves(1, 8, 60)),
        "Wav2Vec2Model": Net(lambda: audio.wav2vec2_model(*wav2vec, 10), waves(1, 1600)),
        "WaveRNN": Net(
            lambda: audio.WaveRNN(
                [2, 2], 8, 4, n_res_block=1, n_rnn=16, n_fc=16, n_freq=8, n_hidden=8, n_output=8
            ),
            lambda: (torch.randn(1, 1, 24), torch.randn(1, 1, 8, 10)),
        ),
    }
    return {f"torchaudio {name}": net for name, net in listed.items()}


def _rnnt(options: dict[str, Any]) -> nn.Module:
    from torchaudio.models.rnnt import emformer_rnnt_model

    return emformer_rnnt_model(**options)


def _squim(encoder: nn.Module) -> nn.Module:
    from torchaudio.models.squim.subjective import Predictor, SquimSubjective

    return SquimSubjective(encoder, nn.Linear(16, 8), Predictor(16, 8))


def _transformers() -> dict[str, Net]:
    t = transformers
    heads = {"num_attention_heads": 2, "num_hidden_layers": 2, "hidden_size": 32}
    text = {**heads, "vocab_size": 64, "intermediate_size": 64}
    grouped = {**text, "num_key_value_heads": 1, "max_position_embeddings": 64}
    layers = {
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
    }
    vision = {**heads, "intermediate_size": 64, "image_size": 32, "patch_size": 8}
    wav = {
        **heads,
        "intermediate_size": 64,
        "vocab_size": 32,
        "conv_dim": (16, 16),
        "conv_kernel": (10, 3),
    }
    wav |= {
        "conv_stride": (5, 2),
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    }
    wav |= {"num_feat_extract_layers": 2}
    tokens = torch.arange(3, 11)[None]
    image = {"pixel_values": torch.randn(1, 3, 32, 32)}
    whisper = t.WhisperConfig(
        **layers, d_model=32, encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=64, num_mel_bins=8,
        max_source_positions=16, max_target_positions=32, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    clip = t.CLIPConfig(
        text_config={**text, "max_position_embeddings": 16, "eos_token_id": 2},
        vision_config=vision,
        projection_dim=16,
    )
    mamba = {
        "hidden_size": 32,
        "state_size": 4,
        "time_step_rank": 4,
        "num_hidden_layers": 2,
        "vocab_size": 64,
    }
    words = {"input_ids": tokens}
    t5 = {"vocab_size": 64, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    answer = {"decoder_input_ids": tokens[:, :4]}
    spoken = {"input_features": torch.randn(1, 8, 32)} | answer
    written: dict[str, tuple[Any, Any, dict[str, Any], bool]] = {
        "GPT-2": (
            t.GPT2LMHeadModel,
            t.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2),
            words,
            True,
        ),
        "Llama": (t.LlamaForCausalLM, t.LlamaConfig(**grouped), words, True),
        "Mistral": (t.MistralForCausalLM, t.MistralConfig(**grouped), words, True),
        "Qwen2": (t.Qwen2ForCausalLM, t.Qwen2Config(**grouped), words, True),
        "Mixtral": (
            t.MixtralForCausalLM,
            t.MixtralConfig(**grouped, num_local_experts=4),
            words,
            True,
        ),
        "Mamba, conv1d and dt_proj excluded": (
            t.MambaForCausalLM,
            t.MambaConfig(**mamba),
            words,
            True,
        ),
        "T5": (
            t.T5ForConditionalGeneration,
            t.T5Config(**t5, decoder_start_token_id=0),
            words | answer,
            True,
        ),
        "Whisper": (t.WhisperForConditionalGeneration, whisper, spoken, True),
        "BERT": (t.BertForMaskedLM, t.BertConfig(**text), words, False),
        "ViT": (t.ViTForImageClassification, t.ViTConfig(**vision), image, False),
        "Wav2Vec2": (
            t.Wav2Vec2ForCTC,
            t.Wav2Vec2Config(**wav),
            {"input_values": torch.randn(1, 1600)},
            False,
        ),
        "CLIP": (t.CLIPModel, clip, words | image, False),
    }
    return {
        f"transformers {name}": Net(
            functools.partial(model, config),
            lambda given=given: given,
            ("*.conv1d", "*.dt_proj") if name.startswith("Mamba") else (),
            generates,
        )
        for name, (model, config, given, generates) in written.items()
    }
