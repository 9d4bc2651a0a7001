"""The features and tokens of utterances, computed once, and the batches of training."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from analogtorch.calibration.padding import IGNORED
from analogtorch.speech.data import SAMPLE_RATE
from analogtorch.speech.draws import uniform
from analogtorch.speech.features import LogMel
from analogtorch.speech.recognition.networks import Recordings, Transcripts, check_codes
from analogtorch.speech.recognition.utterances import Utterance
from analogtorch.speech.recognition.vocabulary import Vocabulary
from analogtorch.values import checks

_HOP = SAMPLE_RATE // 50
"""Samples between two frames of ``LogMel``."""


@dataclass(frozen=True, kw_only=True)
class Masks:
    """Parts of the features that training sets to 0, their mean (SpecAugment, arXiv:1904.08779)."""

    times: int = 2
    """Stretches of frames, >= 0."""
    frames: int = 6
    """Longest stretch, in frames of 20 ms; a word has some 30."""
    bands: int = 1
    """Bands of filters, >= 0."""
    filters: int = 6
    """Widest band, in filters."""

    def __post_init__(self) -> None:
        checks.counts(self, "times", "frames", "bands", "filters", least=0)


class Examples:
    """Utterances as a recogniser hears them.

    Args:
        utterances: what is said, once through.
        vocabulary: the tokens of the texts.
        masks: what training hides; None: nothing.
        seed: seed of the masks; 0 or more.
        stride: of a CTC net that is trained on them, its frames of a code: a text that it cannot
            write down is found here instead of in the middle of training. None: not checked.

    Raises:
        ValueError: there is no utterance, or a text holds something else than tokens, or has more
            of them than the net has codes.
    """

    def __init__(
        self,
        utterances: Iterable[Utterance],
        vocabulary: Vocabulary,
        *,
        masks: Masks | None = None,
        seed: int = 0,
        stride: int | None = None,
    ) -> None:
        self.vocabulary, self.masks = vocabulary, masks
        self.seed = checks.count("Examples: seed", seed, least=0, largest=checks.UINT64)
        self.texts: list[str] = []
        self._frames: list[Tensor] = []
        self._tokens: list[Tensor] = []
        self._spans: list[Tensor] = []
        if stride is not None:
            checks.count("Examples: stride", stride)
        features = LogMel()
        for number, utterance in enumerate(utterances):
            found = features.of_any_length(utterance.samples[None])[0]
            # half the memory; 1e-3 of a feature is 0.02 dB
            self._frames.append(found.half())
            tokens = torch.tensor(vocabulary.encode(utterance.said), dtype=torch.long, device="cpu")
            if stride is not None:
                said = Transcripts(tokens[None], torch.tensor([len(tokens)], device="cpu"))
                check_codes(torch.tensor([len(found) // stride], device="cpu"), said, number)
            self._tokens.append(tokens)
            self._spans.append(utterance.spans)
            self.texts.append(utterance.said)
        if not self.texts:
            raise ValueError("Examples: utterances is empty; pass at least one")

    def __len__(self) -> int:
        return len(self.texts)

    def heard(self, index: Iterable[int]) -> Recordings:
        """Return the features of the utterances at ``index``."""
        frames = [self._frames[i].float() for i in index]
        return Recordings(
            pad_sequence(frames, batch_first=True), torch.tensor([*map(len, frames)], device="cpu")
        )

    def said(self, index: Iterable[int]) -> Transcripts:
        """Return their tokens."""
        tokens = [self._tokens[i] for i in index]
        return Transcripts(
            pad_sequence(tokens, batch_first=True), torch.tensor([*map(len, tokens)], device="cpu")
        )

    def make(self, index: Tensor, epoch: int) -> tuple[Recordings, Transcripts]:
        """Return a training batch, with masks; ``training.Batches`` calls it."""
        rows = index.tolist()
        return self._masked(self.heard(rows), index, epoch), self.said(rows)

    def aligned(self, stride: int) -> "Aligned":
        """Return the same utterances with a label for each code of ``stride`` frames."""
        return Aligned(self, stride)

    def labels(self, index: Iterable[int], stride: int) -> Tensor:
        """Return the label of each code, int64, (B, codes): of the second half of a word its token.

        It is the blank elsewhere, and ``IGNORED`` past the end of a recording.

        Raises:
            ValueError: it is not known when the words of an utterance are said.
        """
        found = []
        for i in index:
            if len(self._spans[i]) != len(self._tokens[i]):
                raise ValueError(
                    f"utterance {i}: it is not known when words are said; train on batches of "
                    "``make`` alone"
                )
            codes = len(self._frames[i]) // stride
            row = torch.full((codes,), self.vocabulary.blank, device="cpu")
            in_codes = self._spans[i] * SAMPLE_RATE / (_HOP * stride)
            for token, (start, end) in zip(self._tokens[i], in_codes.tolist(), strict=True):
                row[int((start + end) / 2) : int(end) + 1] = token
            found.append(row)
        return pad_sequence(found, batch_first=True, padding_value=IGNORED)

    def batches(self, size: int = 100) -> list[tuple[Recordings, list[str]]]:
        """Return all features and texts in batches, for ``metrics.wer``."""
        parts = [range(len(self))[i : i + size] for i in range(0, len(self), size)]
        return [(self.heard(part), [self.texts[i] for i in part]) for part in parts]

    def _masked(self, heard: Recordings, index: Tensor, epoch: int) -> Recordings:
        if self.masks is None:
            return heard
        x, key = heard.frames, (self.seed, epoch, index.numpy())
        rows, frames, filters = x.shape
        for what, number, widest, size in (
            ("time", self.masks.times, self.masks.frames, frames),
            ("band", self.masks.bands, self.masks.filters, filters),
        ):
            hidden = torch.zeros(rows, size, dtype=torch.bool, device="cpu")
            limits = heard.lengths.numpy() if what == "time" else np.full(rows, filters)
            for i in range(number):
                width = np.floor(uniform(*key, what, "width", i) * (widest + 1))
                start = np.floor(uniform(*key, what, "start", i) * np.maximum(limits - width, 1))
                first = torch.from_numpy(start)[:, None]
                place = torch.arange(size, device="cpu")
                hidden |= (place >= first) & (place < first + torch.from_numpy(width)[:, None])
            x = x.masked_fill(hidden[:, :, None] if what == "time" else hidden[:, None], 0.0)
        return Recordings(x, heard.lengths)


class Aligned:
    """Examples whose texts are labels of codes: they teach a net which word sounds how.

    CTC from random weights finds first where words are, and much later which.
    """

    def __init__(self, examples: Examples, stride: int) -> None:
        self.examples, self.stride = examples, stride

    def make(self, index: Tensor, epoch: int) -> tuple[Recordings, Tensor]:
        """Return a training batch; ``training.Batches`` calls it."""
        heard, _ = self.examples.make(index, epoch)
        return heard, self.examples.labels(index.tolist(), self.stride)
