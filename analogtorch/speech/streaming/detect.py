"""Sliding windows over a recording, and the words that a network detects in them."""

import contextlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.conversion.restored import evaluating
from analogtorch.evaluate.conditions import listed
from analogtorch.files import comma_separated
from analogtorch.files.figures import draw
from analogtorch.speech.data import SAMPLE_RATE, SAMPLES
from analogtorch.speech.labels import SILENCE, UNKNOWN, classes_of
from analogtorch.values import checks
from analogtorch.values.progress import Progress

logger = logging.getLogger("analogtorch")

_AT_ONCE = 64
"""Windows that are classified at once; they fit into the caches."""


@dataclass(frozen=True, kw_only=True)
class Detector:
    """When a word counts as detected.

    The probabilities of a class are averaged over the last windows, as posteriors are smoothed by
    Chen, Parada and Heigold, ICASSP 2014. A word is detected where its average is the highest of
    all classes and reaches the threshold, and then no word for a while.

    Raises:
        ValueError: a field is out of range.
    """

    hop_ms: float = 200.0
    """Time between windows of one second, 10 to 1,000 ms."""
    average: int = 3
    """Windows that are averaged, 1 to 100."""
    threshold: float = 0.7
    """Average probability that detects a word, above 0 to 1."""
    pause: float = 1.0
    """Time after a detection without another, s, >= 0."""

    def __post_init__(self) -> None:
        checks.numbers(self, "hop_ms", least=10, most=1000)
        checks.counts(self, "average", most=100)
        checks.numbers(self, "threshold", above=0, most=1)
        checks.numbers(self, "pause", least=0)

    @property
    def hop(self) -> int:
        """Samples between windows."""
        return round(self.hop_ms * SAMPLE_RATE / 1000)

    def detect(self, scores: Tensor, classes: tuple[str, ...]) -> tuple["Detection", ...]:
        """Return the words detected in the scores of windows, in the order of time.

        Args:
            scores: probabilities of each class in each window, (windows, classes).
            classes: the classes in their order; `_silence_` and `_unknown_` are not detected.
        """
        smooth = self.smooth(scores)
        highest, which = smooth.max(1)
        words = torch.tensor([label not in (SILENCE, UNKNOWN) for label in classes], device="cpu")
        # the pause in whole windows: differences of times in float64 are off by a rounding
        pause = math.ceil(round(self.pause * SAMPLE_RATE) / self.hop)
        found: list[Detection] = []
        last = -pause
        for row in ((highest >= self.threshold) & words[which]).nonzero().flatten().tolist():
            if row - last >= pause:
                found.append(
                    Detection(
                        time=self.end(row), word=classes[which[row]], score=float(highest[row])
                    )
                )
                last = row
        return tuple(found)

    def smooth(self, scores: Tensor) -> Tensor:
        """Return the averages over each window and those before it, (windows, classes).

        They are over fewer windows at the start of a recording, as there are no others.
        """
        sums = F.pad(scores, (0, 0, self.average - 1, 0)).unfold(0, self.average, 1).sum(-1)
        counts = torch.arange(1, len(scores) + 1, device=scores.device).clamp(max=self.average)
        return sums / counts.unsqueeze(1)

    def end(self, window: int) -> float:
        """Return when a window ends, in s from the start of the recording."""
        return (window * self.hop + SAMPLES) / SAMPLE_RATE


@dataclass(frozen=True, kw_only=True)
class Detection:
    """A word that was detected."""

    time: float
    """When it was known: the end of the last window, s from the start of the recording."""
    word: str
    """The class."""
    score: float
    """Average probability, 0 to 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """What a network heard in a recording: scores of each window, and detections over time."""

    classes: tuple[str, ...]
    """The classes in their order."""
    scores: Tensor
    """Probabilities of each class in each window, (windows, classes)."""
    detector: Detector
    """When a word counts as detected."""
    seconds: float
    """Length of the recording, s."""
    chip: str = ""
    """The chip that the network is on, and its age, in words; empty: not known, or there is
    none."""
    conditions: tuple[str, ...] = ()
    """What of the chip is not as by default, such as its defects
    (``analogtorch.evaluate.conditions``); empty: nothing."""
    recovery: str = ""
    """What the chip corrects of itself before it listens (``Recovery.summary``); empty: nothing
    beside drift, or there is no chip."""

    @property
    def detections(self) -> tuple[Detection, ...]:
        """The detected words, in the order of time."""
        return self.detector.detect(self.scores, self.classes)

    def with_detector(self, **changes: Any) -> "Stream":
        """Return the same scores with another threshold, average or pause.

        Raises:
            ValueError: ``hop_ms`` is changed, on which the scores depend, or a value is out of
                range.
        """
        if "hop_ms" in changes:
            raise ValueError("with_detector: scores depend on hop_ms; listen again with another")
        return replace(self, detector=replace(self.detector, **changes))

    def __str__(self) -> str:
        found = self.detections
        lines = [f"{d.time:9.2f} s  {d.word:<12}  {d.score:.2f}" for d in found]
        counted = f"{len(found)} words detected in {self.seconds:,.1f} s"
        return "\n".join([*lines, counted, *self.remarks()])

    def remarks(self) -> list[str]:
        """Return what a reader must know beside the numbers: the chip, and what it corrects."""
        return [
            *[f"heard on {self.chip}"] * bool(self.chip),
            *(f"on the chip, {text}" for text in self.conditions),
            *[f"before it listens, {self.recovery}"] * bool(self.recovery),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the detections and settings, for JSON."""
        return {
            "seconds": self.seconds,
            "windows": len(self.scores),
            **({"chip": self.chip} if self.chip else {}),
            **listed(self.conditions),
            **({"recovery": self.recovery} if self.recovery else {}),
            "detector": vars(self.detector).copy(),
            "detections": [vars(found).copy() for found in self.detections],
        }

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return a line for each detection: time in s, word and score; write it to ``path``."""
        rows = [(f"{d.time:.3f}", d.word, f"{d.score:.4f}") for d in self.detections]
        return comma_separated([("seconds", "word", "score"), *rows], path)

    def plot(self, path: str | Path | None = None) -> Any:
        """Return a figure of scores and detections over time, and write it to ``path``.

        Raises:
            ValueError: ``path`` does not end in .png, .svg or .pdf.
            ImportError: matplotlib is not installed.
        """
        return draw(self, path)


@torch.no_grad()
def listen(
    network: Callable[[Tensor], Tensor],
    features: nn.Module,
    recording: Tensor,
    classes: tuple[str, ...],
    *,
    detector: Detector | None = None,
    progress: bool = False,
) -> Stream:
    """Classify sliding windows of a recording.

    Modules run in evaluation mode; their modes are restored afterwards. Silence follows the
    recording, until the window in which it ends has as many after it as are averaged, and half a
    second of them, so that a word at the end is detected like another: a little after the end. A
    network without the classes `_silence_` and `_unknown_` is logged as a warning.

    Args:
        network: from features to logits (B, classes): a module, or a programmed chip at a time,
            ``at.program(model, seed=0).at("1 day")``.
        features: the front end, from waveforms (B, 16000) to features.
        recording: float in [-1, 1] at 16 kHz, (samples,), as ``read_recording`` returns it. One
            shorter than a second gets zeros at its end.
        classes: the classes in the order of the logits.
        detector: windows, and when a word counts as detected; None takes ``Detector()``.
        progress: if True, show a progress bar on stderr.

    Returns:
        The scores of all windows, with the detections.

    Raises:
        TypeError: ``recording`` is no tensor of floats.
        ValueError: ``recording`` has another shape, is empty or not finite, or the network does not
            give a logit for each class, or gives NaN.
    """
    checks.instance("recording", recording, Tensor, "read_recording('a.wav')")
    classes = classes_of("classes", classes)
    if recording.ndim != 1 or not len(recording) or not recording.is_floating_point():
        raise ValueError(
            f"recording is {recording.dtype} of shape {tuple(recording.shape)}; it must be float "
            "of (samples,)"
        )
    if not bool(recording.isfinite().all()):
        raise ValueError("recording holds NaN or infinite samples; leave them out")
    if absent := [label for label in (SILENCE, UNKNOWN) if label not in classes]:
        logger.warning(
            "listen: the network has no class %s: it hears one of its words in what is none; "
            "train it with clips of such classes, too",
            " and no class ".join(absent),
        )
    detector = Detector() if detector is None else detector
    seconds = len(recording) / SAMPLE_RATE
    left = len(recording) - SAMPLES
    last = -left % detector.hop if left > 0 else -left  # zeros that the last window takes
    more = max(detector.average - 1, (SAMPLES // 2 - last) // detector.hop)
    recording = F.pad(recording, (0, last + more * detector.hop))
    windows = recording.unfold(0, SAMPLES, detector.hop)
    parts: list[Tensor] = []
    bar = Progress(total=len(windows), desc="listening", unit="window", disable=not progress)
    with bar, contextlib.ExitStack() as modes:
        for module in (network, features):
            if isinstance(module, nn.Module):
                modes.enter_context(evaluating(module))
        for part in windows.split(_AT_ONCE):
            logits = network(features(part))
            if logits.shape != (len(part), len(classes)):
                raise ValueError(
                    f"the network gives {tuple(logits.shape)} for {len(part)} windows; it must "
                    f"give {(len(part), len(classes))}, a logit for each of {', '.join(classes)}"
                )
            scores = logits.softmax(-1)
            if bool(scores.isnan().any()):  # no threshold would be reached, as in silence
                row = len(parts) * _AT_ONCE + int(scores.isnan().any(1).nonzero()[0])
                raise ValueError(
                    f"the network gives NaN or infinite logits for the window that ends at "
                    f"{detector.end(row):g} s; check its weights and the features"
                )
            parts.append(scores)
            bar.update(len(part))
    return Stream(classes=classes, scores=torch.cat(parts), detector=detector, seconds=seconds)
