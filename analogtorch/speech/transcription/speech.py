"""Recordings as a recogniser hears them, and what it writes down."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from analogtorch.evaluate import metrics
from analogtorch.evaluate.task_metric import TaskMetric
from analogtorch.speech.transcription.recordings import Recording, pieces
from analogtorch.speech.transcription.whisper import Whisper
from analogtorch.values import checks


@dataclass(frozen=True, kw_only=True, eq=False)
class Speech:
    """Recordings, cut to the windows of a recogniser, with their features.

    Make it by ``Speech.of``.
    """

    recordings: tuple[Recording, ...]
    owners: tuple[int, ...]
    """Number of the recording of each window, in order."""
    features: tuple[Tensor, ...]
    """Features of the windows, in batches."""

    @classmethod
    def of(
        cls, whisper: Whisper, recordings: Sequence[Recording], batch_size: int = 16
    ) -> "Speech":
        """Return the recordings as ``whisper`` hears them.

        Raises:
            ValueError: there is no recording, or ``batch_size`` is below 1.
        """
        size = checks.count("Speech: batch_size", batch_size)
        if not recordings:
            raise ValueError("Speech: recordings is empty; pass at least one")
        cut = [
            (number, piece)
            for number, recording in enumerate(recordings)
            for piece in pieces(recording.samples, whisper.seconds)
        ]
        batches = (cut[i : i + size] for i in range(0, len(cut), size))
        return cls(
            recordings=tuple(recordings),
            owners=tuple(number for number, _ in cut),
            features=tuple(whisper.features([piece for _, piece in b]) for b in batches),
        )

    @property
    def seconds(self) -> float:
        """Length of all recordings, s."""
        return sum(recording.seconds for recording in self.recordings)

    def texts(self, whisper: Whisper, model: nn.Module) -> list[str]:
        """Return what ``model`` writes down for each recording; of silence an empty text."""
        found: list[list[str]] = [[] for _ in self.recordings]
        written = (text for x in self.features for text in whisper.transcribe(model, x))
        for owner, text in zip(self.owners, written, strict=True):
            found[owner].append(text)
        return [" ".join(part for part in parts if part) for parts in found]

    def batches(self, whisper: Whisper) -> list[dict[str, Tensor]]:
        """Return what the digital net reads, in batches, to calibrate on or to learn from."""
        return [whisper.batch(whisper.model, x) for x in self.features]

    def wer(self, whisper: Whisper) -> TaskMetric:
        """Return the word error rate as a metric, of the recordings that have a reference.

        Raises:
            ImportError: jiwer is not installed.
            ValueError: no recording has a reference.
        """
        if all(recording.said is None for recording in self.recordings):
            raise ValueError("Speech.wer: no recording has a reference")
        known, said = _known(self.recordings)

        def transcribe(model: nn.Module, speech: Speech) -> list[str]:
            texts = speech.texts(whisper, model)
            return [texts[i] for i in known]

        return metrics.wer([(self, said)], transcribe)


def error_rate(recordings: Sequence[Recording], texts: Sequence[str]) -> float:
    """Return the word error rate of the texts of recordings, of those that have a reference.

    Raises:
        ImportError: jiwer is not installed.
        ValueError: no recording has a reference.
    """
    known, said = _known(recordings)
    heard = [texts[i] for i in known]
    return metrics.wer([(heard, said)], lambda model, x: x)(nn.Identity())


def _known(recordings: Sequence[Recording]) -> tuple[list[int], list[str]]:
    """Return number and reference of the recordings that have one."""
    pairs = [(i, r.said) for i, r in enumerate(recordings) if r.said is not None]
    return [i for i, _ in pairs], [said for _, said in pairs]
