"""Recognisers of connected words: a CTC net, and a transducer of the shape of MLPerf's RNN-T.

Nothing in them looks into the future: a recording can be heard in chunks, with the state of one
handed to the next.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.speech.data import MELS
from analogtorch.values import checks

State = list[list[Tensor]]
"""Of each stateful layer its tensors, of which the batch is the first dimension."""


class Recordings(NamedTuple):
    """A batch of recordings."""

    frames: Tensor
    """Features (B, frames, mels); those past the end of a recording do not matter."""
    lengths: Tensor
    """Number of frames of each recording, int64, (B,)."""


class Transcripts(NamedTuple):
    """What is said in a batch of recordings."""

    tokens: Tensor
    """Numbers of tokens, int64, (B, most); those past the end of a text are 0."""
    lengths: Tensor
    """Number of tokens of each text, int64, (B,)."""


def check_recordings(heard: Any, mels: int) -> None:
    """Check the shapes of a batch of recordings.

    Raises:
        TypeError: it is something else.
        ValueError: frames or lengths have other shapes, or a length is larger than the tensor.
    """
    checks.instance("heard", heard, Recordings, "Recordings(frames, lengths)")
    frames, lengths = heard
    if frames.dim() != 3 or frames.shape[2] != mels or lengths.shape != frames.shape[:1]:
        raise ValueError(
            f"heard has frames of shape {tuple(frames.shape)} and lengths of "
            f"{tuple(lengths.shape)}; it must have (B, frames, {mels}) and (B,)"
        )
    if not len(lengths):
        return
    if lengths.dtype == torch.bool or lengths.is_floating_point() or lengths.is_complex():
        raise ValueError(f"heard has lengths of {lengths.dtype}; they must be int64")
    if not 0 <= int(lengths.min()) <= int(lengths.max()) <= frames.shape[1]:
        raise ValueError(
            f"heard has lengths from {int(lengths.min())} to {int(lengths.max())}; its recordings "
            f"have 0 to {frames.shape[1]} frames"
        )


class Encoder(nn.Module):
    """Codes of frames: causal convolutions of stride 2, then LSTMs with codes stacked between.

    As in MLPerf's RNN-T, the first LSTMs take shorter steps than the last.

    Args:
        mels: numbers of a frame.
        channels: channels of each convolution; each halves the number of codes.
        kernel: width of the convolutions.
        before: sizes of the LSTMs before the stacking.
        stack: codes that are stacked.
        after: sizes of the LSTMs after it.
        dropout: share of the numbers of a code that training leaves out.
    """

    def __init__(
        self,
        *,
        mels: int = MELS,
        channels: tuple[int, ...] = (96, 96),
        kernel: int = 5,
        before: tuple[int, ...] = (128,),
        stack: int = 2,
        after: tuple[int, ...] = (160,),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if not after:
            raise ValueError("Encoder: after=() has no LSTM; give the size of one, such as (160,)")
        self.mels = checks.count("Encoder: mels", mels)
        self.kernel = checks.count("Encoder: kernel", kernel, least=2)
        self.stack = checks.count("Encoder: stack", stack)
        self.stride = 2 ** len(channels) * stack
        """Frames of one code."""
        self.size = after[-1]
        """Numbers of one code."""
        widths = [mels, *channels]
        self.convolutions = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(a, b, kernel, stride=2, bias=False), nn.BatchNorm1d(b), nn.ReLU()
            )
            for a, b in zip(widths, widths[1:], strict=False)
        )
        self.before = _lstms(widths[-1], before)
        self.after = _lstms(stack * [*widths, *before][-1], after)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, heard: Recordings, state: State | None = None
    ) -> tuple[Tensor, Tensor, State]:
        """Return codes (B, frames // stride, size), their numbers (B,), and the last state.

        The state is that after the last frame of the batch: hand it on if all lengths are equal
        and multiples of the stride.

        Raises:
            ValueError: the frames are fewer than those of one code.
        """
        codes = heard.frames.shape[1] // self.stride
        if not codes:
            raise ValueError(
                f"{heard.frames.shape[1]} frames are fewer than the {self.stride} of one code; "
                "pass more"
            )
        given, last = iter(() if state is None else state), State()
        x = heard.frames[:, : codes * self.stride].transpose(1, 2)
        for convolution in self.convolutions:
            (past,) = next(given, [x.new_zeros(*x.shape[:2], self.kernel - 1)])
            x = torch.cat([past, x], 2)
            last.append([x[:, :, 1 - self.kernel :]])
            x = convolution(x)
        x = x.transpose(1, 2)
        for lstm in self.before:
            x, after = run(lstm, self.dropout(x), next(given, None))
            last.append(after)
        x = x.unflatten(1, (codes, self.stack)).flatten(2)
        for lstm in self.after:
            x, after = run(lstm, self.dropout(x), next(given, None))
            last.append(after)
        return self.dropout(x), heard.lengths // self.stride, last

    def counted(self, heard: Recordings) -> Tensor:
        """Return which codes are those of a recording, not of what fills it up, (B, codes)."""
        return _before(heard.lengths // self.stride, heard.frames.shape[1] // self.stride)


def check_codes(codes: Tensor, said: Transcripts, first: int = 0) -> None:
    """Check that CTC can write each text down: a code for each token, a blank between equal ones.

    Args:
        codes: number of codes of each recording, int64, (B,).
        said: the texts.
        first: number of the first recording, for messages.

    Raises:
        ValueError: a recording has fewer codes than that, so that no path gives its text.
    """
    equal = (said.tokens[:, 1:] == said.tokens[:, :-1]).cumsum(1)
    repeats = F.pad(equal, (1, 0)).gather(1, (said.lengths[:, None] - 1).clamp(min=0))[:, 0]
    needed = said.lengths + repeats
    if short := (codes < needed).nonzero().flatten().tolist():
        i = short[0]
        raise ValueError(
            f"CTC: recording {first + i} has {int(codes[i])} codes for {int(said.lengths[i])} "
            f"tokens, of which {int(repeats[i])} repeat the one before; {int(needed[i])} codes or "
            "more are needed. Take a smaller stride of the net or shorter texts"
        )


class CTC(nn.Module):
    """An encoder with a linear head, for connectionist temporal classification (CTC).

    Args:
        tokens: number of tokens; the blank is the last output.
        options: those of ``Encoder``.
    """

    def __init__(self, tokens: int, **options: Any) -> None:
        super().__init__()
        self.blank = checks.count("CTC: tokens", tokens)
        self.encoder = Encoder(**options)
        self.head = nn.Linear(self.encoder.size, tokens + 1)

    def forward(self, heard: Recordings, said: Transcripts | None = None) -> Tensor:
        """Return logits (B, codes, tokens + 1); ``said`` has no effect on them."""
        return self.head(self.encoder(heard)[0])

    def counted(self, heard: Recordings, said: Any) -> Tensor:
        """Return which logits are those of a recording, not of what fills it up, (B, codes)."""
        return self.encoder.counted(heard)

    def loss(self, logits: Tensor, heard: Recordings, said: Transcripts) -> Tensor:
        """Return the loss per token of each recording, averaged over recordings, as torch does.

        Raises:
            ValueError: a text needs more codes than its recording has.
        """
        codes = heard.lengths // self.encoder.stride
        check_codes(codes, said)
        return F.ctc_loss(
            logits.log_softmax(-1).transpose(0, 1),
            said.tokens,
            codes,
            said.lengths,
            blank=self.blank,
        )


class Transducer(nn.Module):
    """A recurrent transducer (RNN-T): encoder, prediction net and a digital joint net.

    Its methods ``transcribe``, ``predict`` and ``join`` are those of torchaudio's ``RNNT``, so that
    torchaudio's ``RNNTBeamSearch`` takes it. Keep ``joint.*`` digital: ``convert(model, chip,
    exclude=["joint.*"])``.

    Args:
        tokens: number of tokens; the blank is the last output.
        embedding: numbers that the prediction net hears of a token.
        hidden: size of the prediction net's LSTM.
        joint: size of the joint net.
        options: those of ``Encoder``.
    """

    def __init__(
        self, tokens: int, *, embedding: int = 32, hidden: int = 64, joint: int = 96, **options: Any
    ) -> None:
        super().__init__()
        self.blank = checks.count("Transducer: tokens", tokens)
        self.encoder = Encoder(**options)
        self.embedding = nn.Embedding(tokens + 1, embedding)  # the blank begins a text
        self.prediction = nn.LSTM(embedding, hidden, batch_first=True)
        self.joint = nn.Sequential(
            nn.Linear(self.encoder.size + hidden, joint), nn.ReLU(), nn.Linear(joint, tokens + 1)
        )

    def forward(self, heard: Recordings, said: Transcripts) -> Tensor:
        """Return the logits of the lattice, (B, codes, tokens + 1, outputs)."""
        codes, lengths, _ = self.encoder(heard)
        begun = F.pad(said.tokens, (1, 0), value=self.blank)
        predicted, _, _ = self.predict(begun, said.lengths + 1, None)
        return self.join(codes, lengths, predicted, said.lengths + 1)[0]

    def counted(self, heard: Recordings, said: Transcripts) -> Tensor:
        """Return which logits are those of a recording and its text, (B, codes, tokens + 1)."""
        of_text = _before(said.lengths + 1, said.tokens.shape[1] + 1)
        return self.encoder.counted(heard)[:, :, None] & of_text[:, None]

    def loss(self, logits: Tensor, heard: Recordings, said: Transcripts) -> Tensor:
        """Return the mean loss of a token; without any token, the sum of the recordings' losses."""
        from torchaudio.functional import rnnt_loss  # late, as torchaudio takes seconds to import

        total: Tensor = rnnt_loss(
            logits,
            said.tokens.int(),
            (heard.lengths // self.encoder.stride).int(),
            said.lengths.int(),
            blank=self.blank,
            reduction="sum",
        )
        return total / said.lengths.sum().clamp(min=1)

    def transcribe(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes and their numbers."""
        codes, lengths, _ = self.encoder(Recordings(frames, lengths))
        return codes, lengths

    def transcribe_streaming(
        self, frames: Tensor, lengths: Tensor, state: State | None
    ) -> tuple[Tensor, Tensor, State]:
        """Return codes of a chunk, their numbers, and the state for the next chunk."""
        return self.encoder(Recordings(frames, lengths), state)

    def predict(
        self, tokens: Tensor, lengths: Tensor, state: State | None
    ) -> tuple[Tensor, Tensor, State]:
        """Return what the prediction net makes of tokens (B, U): (B, U, hidden), and its state."""
        y, last = run(self.prediction, self.embedding(tokens), None if state is None else state[0])
        return y, lengths, [last]

    def join(
        self, codes: Tensor, lengths: Tensor, predicted: Tensor, numbers: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, codes, U, outputs) of codes (B, codes, size) and (B, U, hidden)."""
        rows = max(len(codes), len(predicted))
        shape = rows, codes.shape[1], predicted.shape[1], -1
        pair = codes[:, :, None].expand(shape), predicted[:, None].expand(shape)
        return self.joint(torch.cat(pair, -1)), lengths, numbers


def run(lstm: Any, x: Tensor, state: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
    """Return the outputs (B, steps, hidden) of an LSTM and its state after the last step."""
    given = None if state is None else tuple(s.transpose(0, 1).contiguous() for s in state)
    y, last = lstm(x, given)
    return y, [s.transpose(0, 1) for s in last]


def _before(ends: Tensor, size: int) -> Tensor:
    """Return which of ``size`` places lie before each end, (B, size)."""
    return torch.arange(size, device=ends.device) < ends[:, None]


def _lstms(width: int, sizes: tuple[int, ...]) -> nn.ModuleList:
    layers = []
    for inputs, size in zip([width, *sizes], sizes, strict=False):
        lstm = nn.LSTM(inputs, size, batch_first=True)
        with torch.no_grad():
            # forget gates begin open (Jozefowicz et al., ICML 2015), so that little is lost
            lstm.get_parameter("bias_ih_l0")[size : 2 * size].fill_(1.0)
        layers.append(lstm)
    return nn.ModuleList(layers)
