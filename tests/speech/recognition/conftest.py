"""Two speakers of two words, which are tones, and tiny recognisers."""

import math

import pytest
import torch

from analogtorch.speech.data import SAMPLE_RATE, SAMPLES, Clips
from analogtorch.speech.recognition.examples import Examples
from analogtorch.speech.recognition.networks import CTC, Transducer
from analogtorch.speech.recognition.utterances import ConnectedWords, Joining

CLASSES = ("_unknown_", "low", "high")
SMALL = {"channels": (8,), "before": (6,), "stack": 2, "after": (6,)}


def tone(hertz: float) -> torch.Tensor:
    """Return a clip with a tone from 0.3 to 0.7 s."""
    time = torch.arange(SAMPLES) / SAMPLE_RATE
    sound = (time >= 0.3) & (time < 0.7)
    return (8000 * torch.sin(2 * math.pi * hertz * time) * sound).to(torch.int16)


@pytest.fixture
def clips() -> Clips:
    pitches = [3000, 300, 310, 320, 1500, 1550, 1600] * 2
    return Clips(
        waveforms=torch.stack([tone(pitch) for pitch in pitches]),
        labels=torch.tensor([0, 1, 1, 1, 2, 2, 2] * 2),
        speakers=("ann",) * 7 + ("ben",) * 7,
        names=tuple(f"{i}.wav" for i in range(14)),
        classes=CLASSES,
    )


@pytest.fixture
def words(clips: Clips) -> ConnectedWords:
    return ConnectedWords(clips, Joining(words=(2, 4)), size=6, seed=3)


@pytest.fixture
def examples(words: ConnectedWords) -> Examples:
    return Examples(words, words.vocabulary)


@pytest.fixture(params=[CTC, Transducer])
def network(request: pytest.FixtureRequest) -> CTC | Transducer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = request.param(2, **SMALL).eval()
        with torch.no_grad():
            for p in found.parameters():
                p.mul_(2.0)  # so that it writes something down
        return found
