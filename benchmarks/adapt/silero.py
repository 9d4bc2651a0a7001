"""silero-vad, a detector of speech, with its trained weights."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analogtorch.speech.data import Clips
from analogtorch.speech.labels import LABELS
from benchmarks.subject import Subject

FRAME, CONTEXT = 512, 64
"""Samples of a frame, 32 ms at 16 kHz, and those before it that are heard with it."""
CLIPS = 4
"""Clips of one second that make up a recording."""
LEARNT, MEASURED = 256, 100
"""Recordings to learn from and to measure on."""
BATCH = 8
"""Recordings of a training step."""


class SileroVAD(nn.Module):
    """Speech or none, by frame: spectrum, four convolutions, an LSTM over the frames.

    It is the net of silero-vad 6.2 for 16 kHz (Silero Team, MIT), whose package has it frame by
    frame. The spectrum is a convolution with fixed weights, whose magnitude has no finite gradient
    where it is silent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False).requires_grad_(False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm = nn.LSTM(128, 128, batch_first=True)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of speech (recordings, frames, 1) of recordings (recordings, samples).

        Samples are in [-1, 1]; zeros are added to full frames.
        """
        x = F.pad(x, (CONTEXT, -x.shape[1] % FRAME))
        frames = x.unfold(1, CONTEXT + FRAME, FRAME)
        y = F.pad(frames.flatten(0, 1), (0, 64), mode="reflect").unsqueeze(1)
        real, imaginary = self.stft_conv(y).chunk(2, 1)
        y = (real.square() + imaginary.square()).sqrt()
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            y = conv(y).relu()
        y, _ = self.lstm(y.squeeze(-1).unflatten(0, frames.shape[:2]))
        return self.final_conv(y.relu().mT).mT


def silero_vad() -> SileroVAD:
    """Return the net with its weights, from the package silero-vad.

    Raises:
        ImportError: the package is not installed.
    """
    # not imported: that would import onnxruntime
    found = importlib.util.find_spec("silero_vad")
    if found is None or found.origin is None:
        raise ImportError("silero-vad needs its weights: pip install --no-deps silero-vad")
    from safetensors.torch import load_file

    weights = load_file(Path(found.origin).parent / "data" / "silero_vad_16k.safetensors")
    model = SileroVAD()
    model.load_state_dict({
        f"{name.replace('lstm_cell.', 'lstm.')}{'_l0' if name.startswith('lstm_cell') else ''}": w
        for name, w in weights.items()
    })  # fmt: skip
    return model.eval()


def recordings(clips: Clips, count: int, seed: int) -> Tensor:
    """Return recordings of 4 s (count, samples): two words and two clips of noise, shuffled."""
    generator = torch.Generator().manual_seed(seed)
    noise = clips.labels == LABELS.index("_silence_")
    chosen = torch.cat([
        of[torch.randint(len(of), (count, CLIPS // 2), generator=generator)]
        for of in (noise.nonzero().flatten(), (~noise).nonzero().flatten())
    ], 1)  # fmt: skip
    order = torch.rand(count, CLIPS, generator=generator).argsort(1)
    return clips.waveforms[chosen.gather(1, order)].flatten(1).float() / 32768


def decisions(exact: Tensor) -> Callable[[Tensor], float]:
    """Return how many frames are decided as by the exact logits: speech from probability 0.5.

    It is the mean of the shares among the frames of speech and among the others, so that a net that
    never hears speech has 0.5, whatever their numbers.
    """
    speech = exact > 0

    def score(y: Tensor) -> float:
        same = ((y > 0) == speech).float()
        return (same[speech].mean().item() + same[~speech].mean().item()) / 2

    return score


def subject(splits: dict[str, Clips], every: int) -> Subject:
    """Return silero-vad: it learns from recordings of other speakers than it is measured on.

    Two layers have a column of weights 30 times as large as the others, so that it takes a weight
    scale for each column.
    """
    model = silero_vad()
    batches: Sequence[Tensor] = recordings(splits["test"], MEASURED, 1)[::every].split(BATCH)
    with torch.no_grad():
        exact = torch.cat([model(batch) for batch in batches])
    return Subject(
        name="silero-vad",
        measure="agreement",
        model=model,
        calibration=list(recordings(splits["train"], LEARNT, 0).split(BATCH)),
        batches=list(batches),
        score=decisions(exact),
        where=lambda name, layer: name != "stft_conv",
        chip={"weight_scale": "column"},
    )
