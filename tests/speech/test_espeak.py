"""eSpeak NG by way of processes: the same bits each time, and errors that say what is wrong."""

import hashlib
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

from analogtorch.speech import espeak
from analogtorch.speech.espeak import Utterance, synthesise

pytest.importorskip("espeakng_loader", reason='needs pip install "analogtorch[synthetic]"')

WORDS = [
    Utterance(text=text, voice=f"gmw/en+{voice}")
    for text in ("yes", "stop")
    for voice in ("f1", "whisper", "m3")
]


def digest(utterances: list[Utterance], workers: int = 1) -> list[str]:
    return [
        hashlib.sha256(speech.tobytes()).hexdigest()
        for speech in synthesise(utterances, workers=workers)
    ]


def test_speech_depends_on_the_utterance_alone() -> None:
    once = digest(WORDS)
    assert len(set(once)) == len(WORDS)
    assert digest(WORDS, workers=2) == once
    assert digest(WORDS[::-1]) == once[::-1]


def test_whispering_does_not_depend_on_the_clock() -> None:
    whisper = [WORDS[1]]
    once = digest(whisper)
    time.sleep(1.01 - time.time() % 1)  # the library would seed itself from the full second
    assert digest(whisper) == once


def test_speech_is_audible_and_of_a_words_length() -> None:
    for speech in synthesise(WORDS):
        assert 0.15 < len(speech) / espeak.SAMPLE_RATE < 1
        assert max(speech) > 1_000


def test_rate_and_pitch_matter() -> None:
    slow, fast, high = synthesise(
        [
            Utterance(text="seven", voice="gmw/en-US", rate=120),
            Utterance(text="seven", voice="gmw/en-US", rate=240),
            Utterance(text="seven", voice="gmw/en-US", rate=240, pitch=90),
        ]
    )
    assert len(slow) > 1.5 * len(fast)
    assert high != fast


@pytest.mark.parametrize(
    ("voice", "message"),
    [
        ("gmw/en+nobody", "there is no voice variant 'nobody'"),
        ("gmw/xx", "there is no voice 'gmw/xx'"),
    ],
)
def test_unknown_voices_are_errors(voice: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        list(synthesise([Utterance(text="yes", voice=voice)]))


def test_nothing_to_say() -> None:
    with pytest.raises(RuntimeError, match=r"text=''.*: it made no sound"):
        list(synthesise([Utterance(text="", voice="gmw/en")]))
    assert list(synthesise([])) == []


def test_the_extra_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "analogtorch\[synthetic\]"'):
        next(synthesise(WORDS))


def test_missing_voices_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library, _ = espeak._library()
    monkeypatch.setattr(espeak, "_library", lambda: (library, str(tmp_path / "no-voices")))
    with pytest.raises(RuntimeError, match=r"it found no voices in .*no-voices"):
        next(synthesise(WORDS))


def test_a_process_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match=r"ended with code 1 before Utterance\(text='yes'"):
        next(synthesise(WORDS))


def test_stopping_early_ends_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen] = []
    original = subprocess.Popen

    def remember(*args: object, **kwargs: object) -> subprocess.Popen:
        started.append(original(*args, **kwargs))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", remember)
    speech = synthesise(WORDS * 50)
    next(speech)
    speech.close()  # type: ignore[attr-defined]
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)
