"""Features, labels, masks and training of recognisers; LibriSpeech."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

import analogtorch as at
from analogtorch.speech.data import SAMPLE_RATE
from analogtorch.speech.features import LogMel
from analogtorch.speech.recognition.decoding import transcribe
from analogtorch.speech.recognition.examples import IGNORED, Examples, Masks
from analogtorch.speech.recognition.learner import Recogniser
from analogtorch.speech.recognition.librispeech import LibriSpeech
from analogtorch.speech.recognition.networks import CTC, Recordings, Transcripts, Transducer
from analogtorch.speech.recognition.utterances import ConnectedWords
from analogtorch.speech.recognition.vocabulary import LETTERS
from analogtorch.speech.training import Batches, Phase, fit

PHASE = Phase(epochs=1, batch_size=3, label_smoothing=0.0)


def test_features_of_a_second_are_those_of_a_clip(words: ConnectedWords) -> None:
    features = LogMel()
    samples = words[0].samples[None]
    second = features(samples[:, :16_000])[:, 0]
    assert torch.allclose(features.of_any_length(samples)[:, :49], second, atol=1e-5)
    assert features.of_any_length(samples[:, :640]).shape == (1, 1, 40)
    with pytest.raises(ValueError, match="640 samples or more"):
        features.of_any_length(samples[:, :639])


def test_batches_hold_features_tokens_and_lengths(examples: Examples, words: Any) -> None:
    heard, said = examples.make(torch.tensor([4, 1]), 0)
    for row, index in enumerate((4, 1)):
        utterance = words[index]
        frames = LogMel().of_any_length(utterance.samples[None])[0]
        assert heard.lengths[row] == len(frames)
        assert torch.allclose(heard.frames[row, : len(frames)], frames, atol=5e-3)
        tokens = said.tokens[row, : said.lengths[row]]
        assert examples.vocabulary.decode(tokens.tolist()) == utterance.said


def test_masks_are_a_function_of_seed_epoch_and_index(words: ConnectedWords) -> None:
    plain = Examples(words, words.vocabulary)
    masks = Masks(times=1, frames=6, bands=1, filters=6)
    masked = Examples(words, words.vocabulary, masks=masks, seed=7)
    (x, _), _ = masked.make(torch.tensor([0, 3]), 2)
    (alone, _), _ = masked.make(torch.tensor([3]), 2)
    assert torch.equal(x[1, : alone.shape[1]], alone[0])
    assert not torch.equal(masked.make(torch.tensor([3]), 3)[0].frames, alone)
    changed = plain.heard([3]).frames[0] != alone[0]
    assert (alone[0][changed] == 0).all()
    whole = changed.all(0).sum() <= 6 and changed.all(1).sum() <= 6
    assert whole
    assert changed.any()


def test_labels_stand_in_the_second_half_of_a_word(examples: Examples, words: Any) -> None:
    stride, blank = 4, examples.vocabulary.blank
    labels = examples.labels(range(len(examples)), stride)
    for row, utterance in zip(labels, words, strict=True):
        tokens = examples.vocabulary.encode(utterance.said)
        for token, (start, end) in zip(tokens, utterance.spans.tolist(), strict=True):
            early, late = (
                int(t * SAMPLE_RATE / (320 * stride)) for t in (start + (end - start) / 4, end)
            )
            assert (row[early], row[late]) == (blank, token)
    assert (labels == IGNORED).any()
    assert (labels == blank).any()


def test_a_word_without_a_token_is_refused(words: ConnectedWords) -> None:
    with pytest.raises(ValueError, match="which is no token"):
        Examples(words, dataclasses.replace(words.vocabulary, tokens=("low", "loud")))
    with pytest.raises(ValueError, match="utterances is empty"):
        Examples([], words.vocabulary)


@pytest.mark.filterwarnings("ignore:calibrate. the fixed range of the ADC:UserWarning")
def test_lightning_trains_both_for_a_chip(
    network: CTC | Transducer, examples: Examples, tmp_path: Path
) -> None:
    exclude = ["joint.*"] if isinstance(network, Transducer) else []
    batches = Batches(examples.make, len(examples), batch_size=3, seed=0)
    options: dict[str, Any] = {"seed": 0, "learner": Recogniser}
    before = {name: p.clone() for name, p in network.named_parameters()}
    fit(network, batches, PHASE, checkpoint=tmp_path / "digital", **options)
    assert all(not torch.equal(p, before[name]) for name, p in network.named_parameters())
    model = at.convert(copy.deepcopy(network), at.chips.hermes64(), exclude=exclude)
    given = [(examples.heard([0, 1]), examples.said([0, 1]))]
    at.calibrate(model, given, effort="ranges", forward=lambda m, x: m(*x))
    phase = dataclasses.replace(PHASE, distill=0.5, clip_sigma=2.0)
    hwa = fit(model, batches, phase, checkpoint=tmp_path / "hwa", teacher=network, **options)
    texts = transcribe(at.program(hwa, seed=0).at("1 day"), examples.vocabulary, given[0][0])
    assert len(texts) == 2


def test_labels_teach_which_word_sounds_how(examples: Examples, tmp_path: Path) -> None:
    network = CTC(2, channels=(8, 8), before=(), after=(8,), dropout=0.0)
    aligned = examples.aligned(network.encoder.stride)
    batches = Batches(aligned.make, len(examples), batch_size=3, seed=0)
    phase = dataclasses.replace(PHASE, epochs=15, learning_rate=0.03)
    fit(network, batches, phase, seed=0, checkpoint=tmp_path / "a", learner=Recogniser)
    metric = at.metrics.wer(
        examples.batches(), lambda model, heard: transcribe(model, examples.vocabulary, heard)
    )
    assert metric(network) < 0.3


@pytest.mark.filterwarnings("ignore:You are trying to `self.log:UserWarning")
def test_what_follows_a_recording_or_a_text_teaches_nothing(
    network: CTC | Transducer, examples: Examples
) -> None:
    heard, said = examples.make(torch.tensor([0, 1, 2]), 0)
    assert len(set(heard.lengths.tolist())) > 1
    frames, tokens = heard.frames.clone(), said.tokens.clone()
    for i in range(3):
        frames[i, heard.lengths[i] :] = 3.0
        tokens[i, said.lengths[i] :] = 1
    teacher = copy.deepcopy(network)
    with torch.no_grad():
        for p in teacher.parameters():
            p.mul_(1.5)
    phase = dataclasses.replace(PHASE, distill=1.0)
    learner = Recogniser(network, phase, steps=1, teacher=teacher)
    losses = [
        learner.training_step((Recordings(x, heard.lengths), Transcripts(t, said.lengths)), 0)
        for x, t in ((heard.frames, said.tokens), (frames, tokens))
    ]
    assert losses[0] == losses[1] > 0


@pytest.mark.parametrize("name", ["mixup", "label_smoothing"])
def test_settings_of_classifiers_are_refused(network: CTC | Transducer, name: str) -> None:
    phase = dataclasses.replace(PHASE, **{name: 0.1})
    with pytest.raises(ValueError, match=f"{name}=0.1 is not for recognisers; write {name}=0"):
        Recogniser(network, phase, steps=1)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "LibriSpeech" / "dev-clean" / "84" / "121123"
    folder.mkdir(parents=True)
    noise = torch.randn(3, 8000, generator=torch.Generator().manual_seed(0)) / 10
    for i, samples in enumerate(noise):
        soundfile.write(folder / f"84-121123-{i:04}.flac", samples.numpy(), SAMPLE_RATE)
    lines = [f"84-121123-{i:04} {text}" for i, text in enumerate(("GO ON", "DON'T", "OH"))]
    (folder / "84-121123.trans.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_librispeech_is_read_where_it_is(corpus: Path) -> None:
    found = LibriSpeech(corpus, "dev-clean")
    assert [u.said for u in found] == ["go on", "don't", "oh"]
    assert found[0].samples.shape == (8000,)
    assert found[0].speakers == ("84",)
    examples = Examples(found, LETTERS)
    assert examples.said([1]).tokens.tolist() == [LETTERS.encode("don't")]
    with pytest.raises(ValueError, match="not known when words are said"):
        examples.labels([1], 4)


def test_a_text_with_more_letters_than_codes_is_found_before_training(corpus: Path) -> None:
    found = LibriSpeech(corpus, "dev-clean")  # half a second each: 24 frames
    Examples(found, LETTERS, stride=4)
    with pytest.raises(ValueError, match="recording 0 has 3 codes for 5 tokens"):
        Examples(found, LETTERS, stride=8)


def test_librispeech_that_is_not_there_is_named(corpus: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no LibriSpeech/test-clean"):
        LibriSpeech(corpus, "test-clean")
    with pytest.raises(ValueError, match="part"):
        LibriSpeech(corpus, "clean")
    (corpus / "LibriSpeech" / "test-other").mkdir()
    with pytest.raises(ValueError, match="holds no <speaker>"):
        LibriSpeech(corpus, "test-other")


def test_labels_of_codes_are_for_ctc_and_for_its_stride(
    examples: Examples, network: CTC | Transducer
) -> None:
    learner = Recogniser(network, PHASE, steps=1)
    index = torch.arange(2)
    whole = examples.aligned(network.encoder.stride).make(index, 0)
    if isinstance(network, Transducer):
        with pytest.raises(ValueError, match="are for CTC, and a Transducer takes"):
            learner.training_step(whole, 0)
        return
    with pytest.raises(ValueError, match=r"labels for the \d+ codes.*network\.encoder\.stride"):
        learner.training_step(examples.aligned(2).make(index, 0), 0)
