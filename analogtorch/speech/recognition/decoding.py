"""What a recogniser writes down: greedily, by beam search, and while it still hears."""

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from analogtorch.speech.recognition.networks import Recordings, State, check_recordings
from analogtorch.speech.recognition.vocabulary import Vocabulary
from analogtorch.values import checks

MOST = 3
"""Tokens that a transducer writes at one code at most."""


@torch.no_grad()
def greedy(network: Any, heard: Recordings) -> list[list[int]]:
    """Return the numbers of the likeliest tokens, code by code, of each recording.

    A recording with fewer frames than one code has none.

    Args:
        network: a ``CTC`` or ``Transducer``, digital, converted or on a programmed chip, in
            evaluation mode.
        heard: the recordings.

    Raises:
        TypeError: ``heard`` is something else.
        ValueError: it has another shape or is not finite, or the network is in training mode.
    """
    _check("greedy", network, heard)
    if not len(heard.lengths):
        return []
    return Stream(network, len(heard.lengths)).hear(heard)


def transcribe(network: Any, vocabulary: Vocabulary, heard: Recordings) -> list[str]:
    """Return the texts of ``greedy``.

    Raises:
        ValueError: ``greedy`` does, or the network has another number of tokens.
    """
    if network.blank != vocabulary.blank:
        raise ValueError(
            f"transcribe: the network has {network.blank} tokens and the vocabulary "
            f"{vocabulary.blank}; pass that with which it was trained"
        )
    return [vocabulary.decode(tokens) for tokens in greedy(network, heard)]


class Stream:
    """A recogniser that hears recordings in chunks and writes down what it has heard.

    The texts of all chunks together are those of the whole recordings, on a digital net exactly;
    on a chip each read has its own noise. Chunks may have any number of frames: those that do not
    fill a code are kept for the next chunk.

    Args:
        network: as ``greedy`` takes it.
        recordings: number of recordings that are heard at once.
    """

    def __init__(self, network: Any, recordings: int = 1) -> None:
        self.network = network
        self.recordings = checks.count("Stream: recordings", recordings)
        self._ended: set[int] = set()  # recordings whose last chunk was heard
        self._kept: Recordings | None = None  # frames that do not fill a code yet
        self._encoder: State | None = None
        self._last: Tensor | None = None  # of CTC, the token or blank of the last code
        self._predicted = torch.empty(0, device="cpu")
        self._prediction: State = []

    @torch.no_grad()
    def hear(self, heard: Recordings) -> list[list[int]]:
        """Return the tokens that a chunk of each recording adds.

        Args:
            heard: the chunks. All but the last of a recording must have as many frames as their
                tensor; those after it have none.

        Raises:
            TypeError: ``heard`` is something else.
            ValueError: ``greedy`` refuses it, there are chunks of another number of recordings, or
                a recording goes on after its last chunk.
        """
        _check("Stream", self.network, heard)
        if len(heard.lengths) != self.recordings:
            raise ValueError(
                f"Stream: {len(heard.lengths)} chunks for {self.recordings} recordings; pass one "
                "of each"
            )
        if late := [i for i in self._ended if heard.lengths[i]]:
            raise ValueError(
                f"Stream: recording {late[0]} goes on after a chunk that was shorter than its "
                "tensor, which ends it; begin another Stream"
            )
        goes_on = (heard.lengths == heard.frames.shape[1]).tolist()
        self._ended |= {i for i, on in enumerate(goes_on) if not on}
        if self._kept is not None:
            frames = torch.cat([self._kept.frames, heard.frames], 1)
            heard = Recordings(frames, self._kept.lengths + heard.lengths)
        stride = self.network.encoder.stride
        used = heard.frames.shape[1] // stride * stride
        self._kept = Recordings(heard.frames[:, used:], (heard.lengths - used).clamp(min=0))
        if not used:
            return [[] for _ in range(self.recordings)]
        codes, lengths, self._encoder = self.network.encoder(heard, self._encoder)
        if hasattr(self.network, "prediction"):
            return self._transduced(codes, lengths)
        return self._collapsed(self.network.head(codes).argmax(-1), lengths)

    def _collapsed(self, path: Tensor, lengths: Tensor) -> list[list[int]]:
        blank = self.network.blank
        if self._last is None:
            self._last = path.new_full((len(path),), blank)
        before = torch.cat([self._last[:, None], path[:, :-1]], 1)
        self._last = path[:, -1]
        new = (path != before) & (path != blank)
        new &= torch.arange(path.shape[1], device=path.device) < lengths[:, None]
        return [row[kept].tolist() for row, kept in zip(path, new, strict=True)]

    def _transduced(self, codes: Tensor, lengths: Tensor) -> list[list[int]]:
        net, rows = self.network, len(codes)
        one = torch.ones(rows, dtype=torch.long, device=codes.device)
        if not self._prediction:
            begin = (one * net.blank)[:, None]
            self._predicted, _, self._prediction = net.predict(begin, one, None)
        found: list[list[int]] = [[] for _ in range(rows)]
        for number, code in enumerate(codes.split(1, 1)):
            going = number < lengths
            for _ in range(MOST):
                token = net.join(code, one, self._predicted, one)[0][:, 0, 0].argmax(-1)
                going = going & (token != net.blank)
                if not going.any():
                    break
                predicted, _, state = net.predict(token[:, None], one, self._prediction)
                for i in going.nonzero().flatten().tolist():
                    found[i].append(int(token[i]))
                kept = going[:, None, None]
                self._predicted = torch.where(kept, predicted, self._predicted)
                self._prediction = [
                    [torch.where(kept, new, old) for new, old in zip(*pair, strict=True)]
                    for pair in zip(state, self._prediction, strict=True)
                ]
        return found


@torch.no_grad()
def beam(network: Any, heard: Recordings, width: int = 8) -> list[list[int]]:
    """Return the best tokens of each recording that a beam search finds.

    CTC nets are searched by their prefixes (Hannun et al., arXiv:1408.2873, without a language
    model) for the likeliest text. Transducers are searched by torchaudio's ``RNNTBeamSearch`` for
    the largest logarithm of the probability per token, which also favours longer, less likely
    texts. A recording with fewer frames than one code has no tokens.

    Args:
        network: as ``greedy`` takes it.
        heard: the recordings.
        width: number of texts that are followed, >= 1; of a transducer at most its tokens.

    Raises:
        TypeError: ``heard`` is something else.
        ValueError: ``greedy`` refuses it, or the width is out of range.
    """
    checks.count("beam: width", width)
    _check("beam", network, heard)
    if hasattr(network, "prediction"):
        if width > network.blank:
            raise ValueError(
                f"beam: width={width}; a transducer's is at most {network.blank}, its tokens"
            )
        return [
            _searched(network, frames[:length], width)
            for frames, length in zip(heard.frames, heard.lengths.tolist(), strict=True)
        ]
    if heard.frames.shape[1] < network.encoder.stride:
        return [[] for _ in heard.lengths]
    codes, lengths, _ = network.encoder(heard)
    scores = network.head(codes).log_softmax(-1)
    return [
        prefix_search(row[:length], width)
        for row, length in zip(scores, lengths.tolist(), strict=True)
    ]


def _check(caller: str, network: Any, heard: Recordings) -> None:
    """Check a network and what it is to write down."""
    if network.training:
        raise ValueError(
            f"{caller}: the network is in training mode, in which dropout hides parts of what it "
            "hears; write network.eval()"
        )
    check_recordings(heard, network.encoder.mels)
    for row, (frames, length) in enumerate(zip(*heard, strict=True)):
        if not bool(frames[:length].isfinite().all()):
            raise ValueError(f"{caller}: recording {row} holds NaN or infinite features")


def _searched(network: Any, frames: Tensor, width: int) -> list[int]:
    if len(frames) < network.encoder.stride:  # less than one code
        return []
    from torchaudio.models import RNNTBeamSearch  # late, as torchaudio takes seconds to import

    search = RNNTBeamSearch(network, network.blank, step_max_tokens=MOST)
    (tokens, *_), *_ = search(frames, torch.tensor(len(frames), device=frames.device), width)
    return list(tokens)[1:]  # without the blank that begins it


def prefix_search(scores: Tensor, width: int) -> list[int]:
    """Return the likeliest tokens under CTC.

    The probability of a text is the sum over all paths of tokens and blanks that collapse to it.
    It is exact where ``width`` texts are all that there are.

    Args:
        scores: logarithms of probabilities (codes, tokens + 1); the blank is the last.
        width: number of texts that are kept after each code.
    """
    rows = scores.tolist()
    # of each text the logarithm of the probability of the paths that end with a blank, and of those
    # that end with its last token
    texts: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
    for row in rows:
        *tokens, blank = row
        found: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [-math.inf, -math.inf])
        for text, (ended, open_) in texts.items():
            either = _sum(ended, open_)
            found[text][0] = _sum(found[text][0], either + blank)
            for token, score in enumerate(tokens):
                longer = found[(*text, token)]
                if text and token == text[-1]:
                    found[text][1] = _sum(found[text][1], open_ + score)
                    longer[1] = _sum(longer[1], ended + score)
                else:
                    longer[1] = _sum(longer[1], either + score)
        kept = sorted(found, key=lambda text: _sum(*found[text]), reverse=True)[:width]
        texts = {text: (found[text][0], found[text][1]) for text in kept}
    best = max(texts, key=lambda text: _sum(*texts[text]))
    return list(best)


def _sum(a: float, b: float) -> float:
    """Return log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == -math.inf else a + math.log1p(math.exp(b - a))
