"""A tiny Whisper with random weights, in the files of CTranslate2."""

import json
import struct
from pathlib import Path

import torch
from torch import Tensor

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>")
WIDTH = 64


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def model_file(*tensors: tuple[str, Tensor], version: int = 6, kind: int = 4) -> bytes:
    """Return a file with a setting and these tensors."""
    data = struct.pack("<I", version) + text("WhisperSpec")
    data += struct.pack("<II", 3, len(tensors) + 1)
    data += text("decoder/activation") + struct.pack("<BBIB", 0, 1, 1, 0)
    for name, value in tensors:
        content = value.half().numpy().tobytes()
        data += text(name) + struct.pack(f"<B{value.dim()}I", value.dim(), *value.shape)
        data += struct.pack("<BI", kind, len(content)) + content
    return data


def _attention(where: str, fused: int, draw) -> dict[str, Tensor]:
    sizes = {1: (3, 1), 0: (1, 2, 1)}[fused]
    found = {f"{where}/layer_norm/gamma": torch.ones(WIDTH)}
    found[f"{where}/layer_norm/beta"] = torch.zeros(WIDTH)
    for i, parts in enumerate(sizes):
        found[f"{where}/linear_{i}/weight"] = draw(parts * WIDTH, WIDTH)
        found[f"{where}/linear_{i}/bias"] = torch.zeros(parts * WIDTH)
    return found


def weights(vocabulary: int) -> dict[str, Tensor]:
    """Return the weights by the names of CTranslate2."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / 8

    found = {
        "encoder/conv1/weight": draw(WIDTH, 80, 3),
        "encoder/conv1/bias": torch.zeros(WIDTH),
        "encoder/conv2/weight": draw(WIDTH, WIDTH, 3),
        "encoder/conv2/bias": torch.zeros(WIDTH),
        "encoder/position_encodings/encodings": draw(1500, WIDTH),
        "decoder/position_encodings/encodings": draw(448, WIDTH),
        "decoder/embeddings/weight": draw(vocabulary, WIDTH),
    }
    for side in ("encoder", "decoder"):
        layer = f"{side}/layer_0"
        found |= _attention(f"{layer}/self_attention", 1, draw)
        if side == "decoder":
            found |= _attention(f"{layer}/attention", 0, draw)
        for where in (f"{layer}/ffn/layer_norm", f"{side}/layer_norm"):
            found |= {f"{where}/gamma": torch.ones(WIDTH), f"{where}/beta": torch.zeros(WIDTH)}
        found |= {
            f"{layer}/ffn/linear_0/weight": draw(32, WIDTH),
            f"{layer}/ffn/linear_0/bias": torch.zeros(32),
            f"{layer}/ffn/linear_1/weight": draw(WIDTH, 32),
            f"{layer}/ffn/linear_1/bias": torch.zeros(WIDTH),
        }
    return found


def write(folder: Path) -> Path:
    """Write the files of a tiny Whisper and return their folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: i for i, word in enumerate((*WORDS, *SPECIAL))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="go"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "model.bin").write_bytes(model_file(*weights(len(words)).items()))
    settings = {
        "suppress_ids": [words[name] for name in ("go", *SPECIAL)],
        "suppress_ids_begin": [words["<|endoftext|>"]],
    }
    (folder / "config.json").write_text(json.dumps(settings))
    return folder
