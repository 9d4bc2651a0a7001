"""Whisper tiny.en, which writes down connected words, as a subject of adaptation."""

import torch
from torch import Tensor, nn

from analogtorch.evaluate import metrics
from analogtorch.speech.data import Clips
from analogtorch.speech.transcription.recordings import joined
from analogtorch.speech.transcription.speech import Speech
from analogtorch.speech.transcription.whisper import load_whisper, logits
from benchmarks.subject import Subject

LEARNT, MEASURED = 256, 48
"""Recordings of six words to learn from and to measure on."""
BATCH = 4
"""Recordings of a training step."""


def subject(splits: dict[str, Clips], every: int) -> Subject:
    """Return Whisper tiny.en: its score is the word error rate on other speakers.

    It learns with the tokens that the digital model hears.
    """
    whisper = load_whisper()
    learnt = Speech.of(whisper, joined(splits["train"], LEARNT), BATCH)
    measured = joined(splits["test"], MEASURED)[::every]
    speech = Speech.of(whisper, measured, BATCH)
    longest = 8 * whisper.seconds

    def read(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        tokens = whisper.tokens(model, batch["input_features"])
        room = longest - tokens.shape[1]
        return torch.nn.functional.pad(tokens, (0, room), value=whisper.end)

    def score(tokens: Tensor) -> float:
        said = [str(recording.said) for recording in measured]
        return metrics.wer([(tokens, said)], lambda model, x: whisper.texts(x))(nn.Identity())

    return Subject(
        name="Whisper tiny.en",
        measure="WER",
        lower_is_better=True,
        model=whisper.model,
        calibration=learnt.batches(whisper),
        forward=logits,
        batches=speech.batches(whisper),
        score=score,
        read=read,
        chip={"weight_scale": "column"},
        # a look at a chip takes as long as several steps, and few steps must not lead far away
        recipe={"looks": 3, "learning_rate": 0.001},
        adapt={"num_chips": 1, "times": ("1 day", "1 month")},
    )
