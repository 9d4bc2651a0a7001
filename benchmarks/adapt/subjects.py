"""The nets of the table. A further one is a function that returns a ``Subject``, and its name."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from analogtorch.speech.data import Clips
from analogtorch.speech.folder import Folder
from analogtorch.speech.pretrained import MANIFEST, load_pretrained
from benchmarks.adapt import silero, whisper
from benchmarks.convert.chip import language, rank_correlation
from benchmarks.convert.nets import efficientnet_lite, minilm
from benchmarks.subject import Subject, agreement
from benchmarks.transformer import load_speech, transformer

BATCH = 128
"""Clips of a training step."""
WORDS, SENTENCES, PICTURES = 32, 16, 16
"""Clips of the transformer, sentences and pictures of a training step."""
CROPS, LEARNT = 200, 3_000
"""Pictures to measure on, and others to learn from, which take 1.8 GB."""
TOKENS = 256
"""Tokens to measure on."""
PIECES = 100
"""Pieces of 128 tokens to learn from."""
SPLIT = 4
"""Seed of the split into clips to learn from and clips to measure on."""

Make = Callable[[Path, int], Subject]
"""Returns the net, given the data folder and ``every``: measure on each ``every``-th input."""


def not_depthwise(name: str, layer: nn.Module) -> bool:
    """Return whether a layer is no grouped convolution."""
    return getattr(layer, "groups", 1) == 1


def keywords(net: str, data: Path, every: int, depthwise: bool = True) -> Subject:
    """Return a keyword spotter: it learns from half of the clips of the test set.

    Args:
        net: name of the pretrained net.
        data: the data folder.
        every: measure on each ``every``-th of the other clips.
        depthwise: whether depthwise layers become analog.
    """
    found = load_pretrained(net, data)
    order = torch.randperm(len(found.labels), generator=torch.Generator().manual_seed(SPLIT))
    half = len(order) // 2
    learn, measure = order[:half], order[half::every]
    labels = found.labels[measure]
    return Subject(
        name=net,
        measure="accuracy",
        model=found.model.eval(),
        calibration=list(found.features[learn].split(BATCH))[: half // BATCH],
        batches=list(found.features[measure].split(64)),
        score=lambda y: (y.argmax(1) == labels).float().mean().item(),
        where=None if depthwise else not_depthwise,
    )


def sentences(data: Path, every: int) -> Subject:
    """Return MiniLM: it learns from other sentences than those whose cosines are compared."""
    net = minilm(calibration=None, size=SENTENCES)
    batch = {key: value[::every] for key, value in net.batch.items()}
    with torch.no_grad():
        exact = net.forward(net.model, batch)
    return Subject(
        name=net.name,
        measure="Spearman",
        model=net.model,
        calibration=net.calibration,
        forward=net.forward,
        batches=[batch],
        score=rank_correlation(exact),
    )


def pictures(data: Path, every: int, depthwise: bool = True) -> Subject:
    """Return EfficientNet-Lite0: it learns from other crops of the two photographs.

    Of the crops to measure on, the first are taken: those of the two photographs alternate.
    """
    net = efficientnet_lite(inputs=CROPS, learn=LEARNT)
    batches = list(net.batch[: CROPS // every].split(PICTURES))
    with torch.no_grad():
        exact = torch.cat([net.model(batch) for batch in batches])
    return Subject(
        name=net.name,
        measure="agreement",
        model=net.model,
        calibration=[x for batch in net.calibration for x in batch.split(PICTURES)],
        batches=batches,
        score=agreement(exact),
        norms=True,
        where=None if depthwise else not_depthwise,
    )


def keyword_transformer(data: Path, every: int) -> Subject:
    """Return the keyword transformer: it learns from the clips that it was trained on.

    It is measured on the test clips, of other speakers. It is trained first, unless that was done.
    """
    speech = load_speech(data)
    _, model = transformer(speech)
    clips, _ = speech.train
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(SPLIT))
    features, labels = (part[::every] for part in speech.test)
    return Subject(
        name="KeywordTransformer",
        measure="accuracy",
        model=model,
        calibration=list(clips[order].split(WORDS))[: len(order) // WORDS],
        batches=list(features.split(64)),
        score=lambda y: (y.argmax(1) == labels).float().mean().item(),
    )


def tokens(data: Path, every: int) -> Subject:
    """Return SmolLM2: it learns from other tokens of the text, one piece a step."""
    subject = language(max(2, TOKENS // every), PIECES)
    return dataclasses.replace(subject, chip={"weight_scale": "column"})


@functools.lru_cache(maxsize=1)
def clips(data: Path) -> dict[str, Clips]:
    """Return the recordings of the Speech Commands test set, in three splits by speaker."""
    folder = data / Path(MANIFEST).parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist; give the folder of the data by --data")
    return Folder(root=str(folder)).load()


def detector(data: Path, every: int) -> Subject:
    """Return silero-vad; see ``silero.subject``."""
    return silero.subject(clips(data), every)


def transcriber(data: Path, every: int) -> Subject:
    """Return Whisper tiny.en; see ``whisper.subject``."""
    return whisper.subject(clips(data), every)


SUBJECTS: dict[str, Make] = {
    **{name: functools.partial(keywords, name) for name in ("DNN_L", "CNN_L", "LSTM_L", "DS-CNN")},
    "DS-CNN, depthwise digital": functools.partial(keywords, "DS-CNN", depthwise=False),
    "KeywordTransformer": keyword_transformer,
    "MiniLM": sentences,
    "EfficientNet-Lite0": pictures,
    "EfficientNet-Lite0, depthwise digital": functools.partial(pictures, depthwise=False),
    "SmolLM2-135M": tokens,
    "silero-vad": detector,
    "Whisper tiny.en": transcriber,
}
"""The nets by the names that ``--nets`` takes."""
