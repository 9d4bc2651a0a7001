"""The model files of CTranslate2, of which packages of Whisper models are made."""

import re
import struct
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

VERSION = 6
"""Of the file format."""
_FLOATS = {0: "<f4", 4: "<f2"}
"""Types of numbers by their code in the file: float32 and float16."""


def variables(data: bytes) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value, in float32, of the tensors of floats of a model file.

    The file is a version, name and revision of the kind of model, and the number of variables, then
    for each its name, shape, type and values, in little endian. Single numbers, which are settings,
    are left out.

    Raises:
        ValueError: the file has another version, is cut short, or holds quantised weights.
    """
    place = 0

    def take(size: int) -> bytes:
        nonlocal place
        if place + size > len(data):
            raise ValueError("model.bin is cut short; install its package or copy the file again")
        place += size
        return data[place - size : place]

    def number(code: str) -> int:
        return int(struct.unpack(f"<{code}", take(struct.calcsize(code)))[0])

    def text() -> str:
        return take(number("H"))[:-1].decode()

    if (version := number("I")) != VERSION:
        raise ValueError(f"model.bin has version {version} of its format; {VERSION} is known")
    text(), number("I")  # the kind of model and its revision
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        kind = number("B")
        values = take(number("I"))
        if not shape:  # a setting
            continue
        if kind in _FLOATS:
            array = np.frombuffer(values, _FLOATS[kind]).reshape(shape)
            yield name, torch.from_numpy(array.astype(np.float32))
        else:
            raise ValueError(
                f"model.bin holds {name} as numbers of type {kind}; convert the model with float16 "
                "or float32 weights (--quantization float16)"
            )


_RENAMED = {
    r"(encoder|decoder)/embeddings/weight": r"\1.embed_tokens.weight",
    r"(encoder|decoder)/position_encodings/encodings": r"\1.embed_positions.weight",
    r"encoder/(conv\d)/(weight|bias)": r"encoder.\1.\2",
    r"(encoder|decoder)/layer_norm/(\w+)": r"\1.layer_norm.\2",
    r"(\w+)/layer_(\d+)/self_attention/layer_norm/(\w+)": r"\1.layers.\2.self_attn_layer_norm.\3",
    r"(\w+)/layer_(\d+)/attention/layer_norm/(\w+)": r"\1.layers.\2.encoder_attn_layer_norm.\3",
    r"(\w+)/layer_(\d+)/ffn/layer_norm/(\w+)": r"\1.layers.\2.final_layer_norm.\3",
    r"(\w+)/layer_(\d+)/ffn/linear_0/(\w+)": r"\1.layers.\2.fc1.\3",
    r"(\w+)/layer_(\d+)/ffn/linear_1/(\w+)": r"\1.layers.\2.fc2.\3",
}
"""Names of transformers by those of CTranslate2, attention left out."""
_ATTENTION = re.compile(r"(\w+)/layer_(\d+)/(self_)?attention/linear_(\d)/(\w+)")
_PROJECTIONS = {
    "self_": (("q_proj", "k_proj", "v_proj"), ("out_proj",)),
    None: (("q_proj",), ("k_proj", "v_proj"), ("out_proj",)),
}
"""The projections that each linear layer of an attention holds, by the kind of attention."""


def whisper_weights(data: bytes) -> dict[str, Tensor]:
    """Return the weights of a Whisper model file by the names of transformers' ``WhisperModel``.

    Raises:
        ValueError: ``variables`` refuses the file, or it is that of another model.
    """
    found: dict[str, Tensor] = {}
    for name, value in variables(data):
        found.update(renamed(name, value))
    return found


def renamed(name: str, value: Tensor) -> dict[str, Tensor]:
    """Return what a tensor of CTranslate2 holds, by the names of transformers.

    The biases of keys are left out: transformers has none.

    Raises:
        ValueError: Whisper has no such tensor.
    """
    if attention := _ATTENTION.fullmatch(name):
        side, layer, kind, linear, what = attention.groups()
        where = f"{side}.layers.{layer}.{'self_attn' if kind else 'encoder_attn'}"
        parts = _PROJECTIONS[kind][int(linear)]
        # of keys a bias moves all scores of a query alike, so that it has no effect: it is zero
        return {
            f"{where}.{part}.{what}": each
            for part, each in zip(parts, value.chunk(len(parts)), strict=True)
            if (part, what) != ("k_proj", "bias")
        }
    for pattern, new in _RENAMED.items():
        if re.fullmatch(pattern, name):
            full = re.sub(pattern, new, name)
            return {full.replace(".gamma", ".weight").replace(".beta", ".bias"): value}
    raise ValueError(f"model.bin holds {name!r}, which no Whisper model has")
