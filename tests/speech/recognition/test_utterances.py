"""Connected words: whose they are, where they are, and that a seed repeats them."""

import dataclasses
from typing import Any

import pytest
import torch

from analogtorch.speech.data import SAMPLE_RATE, Clips
from analogtorch.speech.noise import Noise
from analogtorch.speech.recognition.utterances import ConnectedWords, Joining, word_spans
from analogtorch.speech.recognition.vocabulary import LETTERS, Vocabulary


def test_an_utterance_is_a_function_of_seed_epoch_and_index(clips: Clips) -> None:
    one, other = (ConnectedWords(clips, size=4, seed=3) for _ in range(2))
    other.utterance(1, epoch=5)  # has no effect on what comes later
    assert torch.equal(one[2].samples, other[2].samples)
    assert one[2].said == other[2].said
    texts = {(one.utterance(i, epoch).said) for i in range(4) for epoch in range(4)}
    assert len(texts) > 8


def test_one_speaker_says_all_words_while_there_are_clips(clips: Clips) -> None:
    words = ConnectedWords(clips, Joining(words=(6, 6)), size=20)
    assert all(len(u.speakers) == 1 for u in words)
    assert {u.speakers for u in words} == {("ann",), ("ben",)}
    both = ConnectedWords(clips, Joining(words=(8, 8)), size=5)
    assert all(len(u.speakers) == 2 and len(u.said.split()) == 8 for u in both)


def test_words_are_where_the_spans_say(clips: Clips) -> None:
    joining = Joining(words=(3, 3), pause_s=(0.1, 0.2), speeds=(0.8,))
    utterance = ConnectedWords(clips, joining, size=1)[0]
    outside = torch.ones(len(utterance.samples), dtype=torch.bool)
    for start, end in (utterance.spans * SAMPLE_RATE).long().tolist():
        # 0.4 s of tone and 0.06 s around it, at four fifths of the speed
        assert (end - start) / SAMPLE_RATE == pytest.approx(0.52 / 0.8, abs=0.01)
        outside[start - 50 : end + 50] = False
    assert utterance.samples[outside].abs().max() < 1e-3
    assert utterance.samples[~outside].abs().max() > 0.2


def test_the_span_of_a_clip_is_its_word_with_a_margin(clips: Clips) -> None:
    start, end = (word_spans(clips.waveforms)[0] / SAMPLE_RATE).tolist()
    assert (start, end) == (pytest.approx(0.24), pytest.approx(0.76))


def test_noise_is_below_the_words_by_the_ratio(clips: Clips) -> None:
    noise = Noise(recordings=(torch.randn(20_000, generator=torch.Generator().manual_seed(0)),))
    joining = Joining(words=(3, 3), snr_db=(20.0, 20.0))
    clean, noisy = (ConnectedWords(clips, joining, size=1, noise=n)[0] for n in (None, noise))
    added = noisy.samples - clean.samples
    loud = clean.samples[clean.samples != 0].square().mean()
    assert 10 * torch.log10(loud / added.square().mean()) == pytest.approx(20, abs=0.1)


def test_silent_clips_stay_silent(clips: Clips) -> None:
    silence = dataclasses.replace(clips, waveforms=torch.zeros_like(clips.waveforms))
    noise = Noise(recordings=(torch.randn(20_000),))
    joining = Joining(noise_probability=1.0)
    assert not ConnectedWords(silence, joining, size=1, noise=noise)[0].samples.any()


def test_a_stretch_of_noise_begins_anew_at_its_end() -> None:
    noise = Noise(recordings=(torch.arange(16_000.0), -torch.arange(16_000.0)))
    assert noise.stretch(0.25, 9000)[[0, 7999, 8000]].tolist() == [8000, 15_999, 0]
    assert noise.stretch(0.75, 20_000)[[0, 8000]].tolist() == [-8000, 0]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"words": (3, 2)}, "least, most"),
        ({"words": (0, 2)}, "words"),
        ({"pause_s": (-1, 2)}, "pause_s"),
        ({"speeds": ()}, "speeds is empty"),
        ({"speeds": (9,)}, "speeds"),
        ({"noise_probability": 2}, "noise_probability"),
        ({"snr_db": (9, 1)}, "snr_db"),
    ],
)
def test_settings_out_of_range_are_refused(options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Joining(**options)


def test_more_words_than_clips_are_refused(clips: Clips) -> None:
    with pytest.raises(ValueError, match="12 clips of words are too few for utterances of 13"):
        ConnectedWords(clips, Joining(words=(1, 13)), size=1)
    with pytest.raises(IndexError, match="utterance 2 of 2"):
        ConnectedWords(clips, size=2)[2]


def test_a_vocabulary_of_words_or_letters_reads_what_it_writes() -> None:
    words = Vocabulary(tokens=("yes", "no"))
    assert words.decode(words.encode("no yes no")) == "no yes no"
    assert LETTERS.decode(LETTERS.encode("don't stop")) == "don't stop"
    assert (words.blank, LETTERS.blank) == (2, 28)
    with pytest.raises(ValueError, match="'maybe', which is no token"):
        words.encode("yes maybe")
    with pytest.raises(ValueError, match="two or more different texts"):
        Vocabulary(tokens=("yes", "yes"))
