"""Sliding windows, detections, mixtures, false alarms and misses."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from analogtorch.__main__ import main
from analogtorch.cli.listen import _when
from analogtorch.speech.data import Clips
from analogtorch.speech.noise import generate_noise
from analogtorch.speech.streaming import (
    Detector,
    Errors,
    Spoken,
    Stream,
    StreamTest,
    listen,
    mixed,
)

CLASSES = ("_silence_", "_unknown_", "low", "high")


def tone(pitch: float, seconds: float = 1.0) -> Tensor:
    return 0.3 * torch.sin(2 * torch.pi * pitch * torch.arange(int(16_000 * seconds)) / 16_000)


class Ear(torch.nn.Module):
    """Features: the power around 200, 1,000 and 3,000 Hz."""

    def forward(self, waveforms: Tensor) -> Tensor:
        power = torch.fft.rfft(waveforms).abs().square()
        return torch.stack([power[:, f - 50 : f + 50].sum(1) for f in (200, 1_000, 3_000)], 1)


def classify(features: Tensor) -> Tensor:
    """Logits: silence below a power, and else where the power is."""
    loud = features / 1e5
    quiet = 3 - loud.sum(1, keepdim=True)
    return torch.cat([quiet, loud[:, 1:2], loud[:, :1], loud[:, 2:]], 1)


def clips(*words: str) -> Clips:
    """A clip of a tone in its middle for each word."""
    pitches = {"low": 200, "high": 3_000, "_unknown_": 1_000, "_silence_": 0}
    waveforms = torch.zeros(len(words), 16_000)
    for row, word in enumerate(words):
        waveforms[row, 4_000:12_000] = tone(pitches[word], 0.5)
    return Clips(
        waveforms=(waveforms * 32_767).short(),
        labels=torch.tensor([CLASSES.index(word) for word in words]),
        speakers=("",) * len(words),
        names=tuple(f"{word}{row}" for row, word in enumerate(words)),
        classes=CLASSES,
    )


def test_each_window_counts_once_in_an_average() -> None:
    """The first one counted for all that were not there before it."""
    scores = torch.tensor([[0.9], [0.0], [0.0], [0.6]])
    torch.testing.assert_close(
        Detector(average=3).smooth(scores), torch.tensor([[0.9], [0.45], [0.3], [0.2]])
    )


def test_words_are_detected_when_they_are_said() -> None:
    recording = torch.zeros(16_000 * 10)
    recording[32_000:40_000] = tone(200, 0.5)
    recording[96_000:104_000] = tone(3_000, 0.5)
    recording[128_000:136_000] = tone(1_000, 0.5)  # no keyword
    stream = listen(classify, Ear(), recording, CLASSES)
    assert stream.scores.shape == (48, 4)  # two windows end after the recording
    torch.testing.assert_close(stream.scores.sum(1), torch.ones(48))
    assert [found.word for found in stream.detections] == ["low", "high"]
    low, high = stream.detections
    assert 2.5 <= low.time <= 3.0  # after its end, in an average of three windows
    assert 6.5 <= high.time <= 7.0
    assert "low" in str(stream)
    assert "2 words detected in 10.0 s" in str(stream)
    assert stream.to_csv().splitlines()[0] == "seconds,word,score"
    assert len(stream.to_csv().splitlines()) == 3
    assert json.loads(json.dumps(stream.to_dict()))["detections"][1]["word"] == "high"


def test_scores_depend_on_their_window_alone() -> None:
    recording = torch.randn(48_000, generator=torch.Generator().manual_seed(0))
    stream = listen(classify, Ear(), recording, CLASSES, detector=Detector(hop_ms=250))
    alone = classify(Ear()(recording[4_000 * 5 : 4_000 * 5 + 16_000][None])).softmax(-1)
    torch.testing.assert_close(stream.scores[5:6], alone)
    assert stream.detector.end(5) == 2.25


def test_a_detector_averages_and_pauses() -> None:
    scores = torch.zeros(12, 4)
    scores[:, 0] = 0.1
    scores[4:, 2] = 0.9
    detector = Detector(average=2, threshold=0.6, pause=1.0)
    found = detector.detect(scores, CLASSES)
    # one window is 0.45 on average, the second 0.9; then again after a second
    assert [round(f.time, 3) for f in found] == [2.0, 3.0]
    assert found[0].score == pytest.approx(0.9)
    assert [f.time for f in Detector(average=1, pause=0).detect(scores, CLASSES)][:2] == [1.8, 2.0]
    assert not Detector(average=2, threshold=0.95).detect(scores, CLASSES)
    scores[:, 1] = 1.0
    assert not detector.detect(scores, CLASSES)  # another word


@pytest.mark.parametrize("hop_ms", [200.0, 100.0, 10.0])
def test_a_pause_does_not_depend_on_where_it_is(hop_ms: float) -> None:
    detector = Detector(hop_ms=hop_ms, average=1, pause=1.0)
    pause = round(1000 / hop_ms)  # windows
    scores = torch.zeros(2 * pause, 4)
    scores[:, 0], scores[0, 2], scores[pause, 2] = 0.5, 0.9, 0.9
    for start in range(300):
        shifted = torch.cat([torch.full((start, 4), 0.25), scores])
        found = detector.detect(shifted, CLASSES)
        assert [f.time for f in found] == [detector.end(start), detector.end(start + pause)]
    scores[pause - 1, 2], scores[pause, 2] = 0.9, 0.0
    assert len(detector.detect(scores, CLASSES)) == 1


def test_a_short_recording_is_filled() -> None:
    stream = listen(classify, Ear(), tone(200, 0.6), CLASSES, detector=Detector(average=1))
    assert len(stream.scores) == 1
    assert [found.word for found in stream.detections] == ["low"]
    assert stream.seconds == 0.6


def test_a_word_at_the_end_is_heard_as_one_before() -> None:
    word = torch.cat([torch.zeros(48_000), tone(200, 0.4)])  # nothing follows it
    for length in (0, 1_000, 3_199):  # no whole number of windows
        stream = listen(classify, Ear(), torch.cat([torch.zeros(length), word]), CLASSES)
        assert [found.word for found in stream.detections] == ["low"]
        assert stream.detections[0].time <= stream.seconds + 0.6


def test_modules_run_in_evaluation_mode_and_keep_theirs() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Dropout(), torch.nn.Linear(3, 4))
    recording = torch.randn(40_000)
    expected = listen(net.eval(), Ear(), recording, CLASSES).scores
    before = net[0].running_mean.clone()
    found = listen(net.train(), Ear().train(), recording, CLASSES).scores
    assert torch.equal(found, expected)
    assert torch.equal(net[0].running_mean, before)
    assert net.training
    assert net[1].training


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_no_silence(bad: float) -> None:
    def broken(features: Tensor) -> Tensor:
        logits = classify(features)
        logits[features[:, 0] > 1e4, 0] = bad
        return logits

    recording = torch.zeros(16_000 * 20)
    recording[-16_000:] = tone(200)
    with pytest.raises(ValueError, match=r"NaN or infinite logits for the window .* at 19\.2 s"):
        listen(broken, Ear(), recording, CLASSES)
    # a class that is masked
    mask = torch.tensor([-torch.inf, 0.0, 0.0, 0.0])
    assert listen(lambda x: classify(x) + mask, Ear(), recording, CLASSES).detections


def test_a_network_that_knows_words_alone_is_warned_of(caplog) -> None:
    listen(classify, Ear(), tone(200), CLASSES)
    assert caplog.text == ""
    listen(lambda features: classify(features)[:, 2:], Ear(), tone(200), CLASSES[2:])
    assert "the network has no class _silence_ and no class _unknown_" in caplog.text


def test_a_mixture_has_its_words_where_it_says() -> None:
    given = clips("low", "high", "_unknown_", "_silence_")
    made = mixed(given, generate_noise(seed=1, seconds=4), seconds=60, seed=3, snr_db=(20, 30))
    assert made.recording.shape == (960_000,)
    assert len(made.spoken) == 10
    assert {said.word for said in made.spoken} == {"low", "high", "_unknown_"}
    starts = [said.start for said in made.spoken]
    assert all(6 * n <= start <= 6 * n + 5 for n, start in enumerate(starts))
    for said in made.spoken:
        first = round(said.start * 16_000)
        word = made.recording[first + 4_000 : first + 12_000]
        assert int(classify(Ear()(made.recording[first : first + 16_000][None])).argmax()) == (
            CLASSES.index(said.word)
        )
        assert word.square().mean() > 3 * made.recording[first : first + 3_000].square().mean()
    again = mixed(given, generate_noise(seed=1, seconds=4), seconds=60, seed=3, snr_db=(20, 30))
    assert torch.equal(again.recording, made.recording)
    other = mixed(given, generate_noise(seed=1, seconds=4), seconds=60, seed=4)
    assert not torch.equal(other.recording, made.recording)


def test_no_clip_of_a_mixture_comes_again_before_all_have_come() -> None:
    given = clips("low", "high", "_unknown_", "_silence_")
    many = sum(given.classes[y] != "_silence_" for y in given.labels.tolist())
    noise = generate_noise(seed=1, seconds=4)
    made = mixed(given, noise, seconds=7 * many, per_minute=20, seed=3)
    names = [said.name for said in made.spoken]
    turns = [names[i : i + many] for i in range(0, len(names), many)]
    assert len(turns) == 3
    assert all(len(set(turn)) == len(turn) for turn in turns)
    assert set(turns[0]) == set(turns[1])


def test_keywords_from_fewer_recordings_are_said_to_be() -> None:
    found = heard((3, "low"))
    assert (found.errors().words, found.errors().recordings) == (2, 1)
    assert "2 keywords, from 1 recording, among 3 clips in 0.01 h" in str(found)
    assert "if errors come independently; recordings repeat, so that they are too narrow" in (
        str(found)
    )
    assert found.to_dict()["errors"][0]["recordings"] == 1
    other = dataclasses.replace(found, spoken=found.spoken[1:])
    assert "too narrow" not in str(other)


def test_the_background_has_the_level_that_is_asked_for() -> None:
    given = clips("low")
    level = given.floats().square().mean().sqrt()
    made = mixed(
        given, generate_noise(seed=1, seconds=4), seconds=30, per_minute=2, snr_db=(10, 10)
    )
    (said,) = made.spoken
    first = round(said.start * 16_000)
    silent = torch.cat([made.recording[:first], made.recording[first + 16_000 :]])
    assert 20 * torch.log10(level / silent.square().mean().sqrt()) == pytest.approx(10, abs=0.5)


def heard(*times_and_words: tuple[float, str]) -> StreamTest:
    """A test of windows without overlap in 20 s, with low at 2 s and 8 s and another at 14 s."""
    scores = torch.zeros(20, 4)
    scores[:, 0] = 1.0
    for time, word in times_and_words:
        scores[int(time) - 1] = torch.eye(4)[CLASSES.index(word)]
    detector = Detector(hop_ms=1000, average=1, threshold=0.5, pause=0)
    stream = Stream(classes=CLASSES, scores=scores, detector=detector, seconds=20.0)
    said = ((2.0, "low"), (8.0, "low"), (14.0, "_unknown_"))
    return StreamTest(stream=stream, spoken=tuple(Spoken(start=s, word=w, name=w) for s, w in said))


@pytest.mark.parametrize(
    ("found", "misses", "false_alarms"),
    [
        ([(3, "low"), (9, "low")], 0, 0),
        ([], 2, 0),
        ([(3, "high"), (9, "low")], 1, 1),  # another word
        ([(3, "low"), (5, "low"), (9, "low")], 0, 1),  # too late
        ([(2, "low"), (3, "low"), (9, "low")], 0, 1),  # twice
        ([(1, "low"), (9, "low")], 1, 1),  # too early
        ([(3, "low"), (9, "low"), (15, "high")], 0, 1),  # an unknown word
    ],
)
def test_misses_and_false_alarms(
    found: list[tuple[float, str]], misses: int, false_alarms: int
) -> None:
    errors = heard(*found).errors()
    assert errors == Errors(
        threshold=0.5,
        words=2,
        recordings=1,
        misses=misses,
        false_alarms=false_alarms,
        hours=20 / 3600,
    )
    assert errors.miss_rate == misses / 2
    assert errors.false_alarms_per_hour == pytest.approx(180 * false_alarms)


def test_it_is_said_that_the_chip_corrects_itself() -> None:
    test, said = heard((3, "low")), "chips correct gain and offset of their columns digitally"
    corrected = dataclasses.replace(test, stream=dataclasses.replace(test.stream, recovery=said))
    for found in (corrected, corrected.stream):
        assert str(found).splitlines()[-1] == f"before it listens, {said}"
    assert corrected.to_dict()["stream"]["recovery"] == said
    assert "correct" not in str(test) + str(test.to_dict())


def test_errors_are_those_of_a_search_among_all_clips() -> None:
    draw = np.random.default_rng(0)
    starts = np.sort(draw.uniform(0, 400, 150)).round(3).tolist()
    words = [CLASSES[i] for i in draw.integers(1, 4, 150)]
    said = [Spoken(start=s, word=w, name="") for s, w in zip(starts, words, strict=True)]
    scores = torch.softmax(torch.from_numpy(draw.normal(0, 3, (2_000, 4))), 1)
    detector = Detector(average=1, threshold=0.6, pause=0.4)
    stream = Stream(classes=CLASSES, scores=scores, detector=detector, seconds=401.0)
    left, right = [s for s in said if s.word != "_unknown_"], 0
    keywords = len(left)
    for found in stream.detections:
        for s in left:
            if s.word == found.word and s.start <= found.time <= s.end + 0.8:
                left.remove(s)
                right += 1
                break
    assert 20 < right < len(stream.detections)
    draw.shuffle(said)  # in any order
    errors = StreamTest(stream=stream, spoken=tuple(said)).errors()
    assert (errors.words, errors.misses) == (keywords, len(left))
    assert errors.false_alarms == len(stream.detections) - right


def test_a_plot_of_half_a_second_shows_its_word() -> None:
    stream = listen(classify, Ear(), tone(200, 0.5), CLASSES, detector=Detector(average=1))
    (axes,) = stream.plot().axes
    assert "low" in [text.get_text() for text in axes.texts]
    assert axes.get_xlim()[1] >= stream.detections[0].time


def test_a_test_prints_writes_and_draws_its_errors(tmp_path: Path) -> None:
    test = heard((3, "low"), (9, "high"))
    assert "2 keywords, from 1 recording, among 3 clips in 0.01 h" in str(test)
    assert test.to_dict()["errors"][0] == {
        "threshold": 0.3, "words": 2, "recordings": 1, "misses": 1, "false_alarms": 1,
        "hours": 20 / 3600,
        "miss_rate": 0.5, "miss_interval": pytest.approx((0.0126, 0.9874), abs=1e-4),
        "false_alarms_per_hour": pytest.approx(180),
        "false_alarm_interval": pytest.approx((4.557, 1002.9), rel=1e-3),
    }  # fmt: skip
    assert "0.3     50.0 [1.3, 98.7]   180.0 [4.6, 1002.9]" in str(test)
    none = dataclasses.replace(test, spoken=())
    of_none = none.to_dict()["errors"][0]
    assert (of_none["miss_rate"], of_none["miss_interval"]) == (None, None)
    assert "0.3                    - " in str(none)
    assert not none.plot().axes[1].lines[0].get_xdata().size  # no rate to draw
    own = dataclasses.replace(test, stream=test.stream.with_detector(threshold=0.55))
    assert [e.threshold for e in own.curve()][2:4] == [0.5, 0.55]
    assert "\n     0.55  " in str(own)
    said = json.loads(json.dumps(test.to_dict()))["spoken"]
    assert said[0] == {"start": 2.0, "end": 3.0, "word": "low", "name": "low"}
    assert [each["word"] for each in said] == ["low", "low", "_unknown_"]
    assert len(test.to_csv(tmp_path / "a.csv").splitlines()) == 11
    test.plot(tmp_path / "a.png")
    test.stream.plot(tmp_path / "b.svg")
    assert {file.name for file in tmp_path.iterdir()} == {"a.csv", "a.png", "b.svg"}
    with pytest.raises(ValueError, match=r"path must end in \.png"):
        test.plot(tmp_path / "a.txt")


def test_what_cannot_be_used_is_named() -> None:
    good = torch.zeros(16_000)
    with pytest.raises(TypeError, match="recording must be a Tensor"):
        listen(classify, Ear(), "a.wav", CLASSES)  # type: ignore[arg-type]
    for bad in (torch.zeros(0), torch.zeros(2, 16_000), good.short()):
        with pytest.raises(ValueError, match=r"it must be float of \(samples,\)"):
            listen(classify, Ear(), bad, CLASSES)
    with pytest.raises(ValueError, match="NaN or infinite"):
        listen(classify, Ear(), good / 0, CLASSES)
    with pytest.raises(ValueError, match=r"gives \(3, 4\) for 3 windows; it must give \(3, 2\)"):
        listen(classify, Ear(), good, ("low", "high"))
    for field, value in [
        ("hop_ms", 5),
        ("average", 0),
        ("average", 101),
        ("threshold", 0),
        ("pause", -1),
    ]:
        with pytest.raises(ValueError, match=f"Detector.{field} must be"):
            Detector(**{field: value})
    with pytest.raises(ValueError, match="scores depend on hop_ms"):
        heard().stream.with_detector(hop_ms=100)
    noise = generate_noise(seed=0, seconds=2)
    with pytest.raises(ValueError, match="no clips but silence"):
        mixed(clips("_silence_"), noise, seconds=10)
    for field, value in {"seconds": 1, "per_minute": 31, "seed": -1}.items():
        with pytest.raises(ValueError, match=f"{field} must be"):
            mixed(clips("low"), noise, **{field: value})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that tells a low tone from a high one, and silence."""
    root, noise = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    for word, pitch in (("low", 300), ("high", 2_500), ("_silence_", 0)):
        (root / "words" / word).mkdir(parents=True)
        for take in range(20):
            x = np.zeros(16_000)
            at = 2_000 + 400 * take
            x[at : at + 6_000] = 0.3 * np.sin(2 * np.pi * pitch * np.arange(6_000) / 16_000)
            x += 0.01 * noise.standard_normal(16_000)
            soundfile.write(root / "words" / word / f"{take}.wav", x, 16_000)
    given = [
        "--data.source=folder", f"--data.folder.root={root / 'words'}", "--workers=0",
        "--model.options={widths: [4, 8], stem_stride: [4, 4], dropout: 0.0}",
        "--digital.epochs=20", "--digital.batch_size=12", "--digital.learning_rate=0.02",
        "--hwa.epochs=1", "--hwa.batch_size=12", "--hwa.learning_rate=1e-4",
        "--sweep.num_chips=1", "--sweep.times=['1 day']", "--progress=false",
        "--augment.speeds=[1.0]",
    ]  # fmt: skip
    assert main(["kws", *given, f"--out={root / 'out'}"]) == 0
    return root / "out"


def test_a_programmed_chip_listens_to_a_file(run: Path, tmp_path: Path, capsys) -> None:
    noise = np.random.default_rng(1).standard_normal(16_000 * 8)
    x = 0.01 * noise
    x[40_000:46_000] += 0.3 * np.sin(2 * np.pi * 300 * np.arange(6_000) / 16_000)
    x[88_000:94_000] += 0.3 * np.sin(2 * np.pi * 2_500 * np.arange(6_000) / 16_000)
    soundfile.write(tmp_path / "a.wav", x, 16_000)
    files = [f"--{kind}={tmp_path / 'a'}.{kind}" for kind in ("json", "csv")]
    options = [*files, f"--plot={tmp_path / 'a.png'}", "--threshold=0.5"]
    assert main(["listen", str(run), str(tmp_path / "a.wav"), *options]) == 0
    assert "words detected in 8.0 s" in capsys.readouterr().out
    found = json.loads((tmp_path / "a.json").read_text())
    assert [d["word"] for d in found["detections"]] == ["low", "high"]
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 3


def test_a_recording_without_high_frequencies_is_warned_of(run: Path, tmp_path, capsys) -> None:
    for rate, warned in ((8_000, True), (44_100, False)):
        soundfile.write(tmp_path / "a.wav", 0.1 * np.sin(np.arange(2 * rate) / 9), rate)
        assert main(["listen", str(run), str(tmp_path / "a.wav")]) == 0
        printed = capsys.readouterr().err
        assert ("is sampled at 8,000 Hz, so that it holds nothing above 4,000 Hz" in printed) == (
            warned
        )


def test_a_recording_needs_no_clips_of_the_training(run: Path, tmp_path: Path, capsys) -> None:
    soundfile.write(tmp_path / "a.wav", tone(300).numpy(), 16_000)
    away = tmp_path / "away"
    shutil.copytree(run, away)
    config = json.loads((away / "config.json").read_text())
    config["data"]["folder"]["root"] = str(tmp_path / "nowhere")
    (away / "config.json").write_text(json.dumps(config))
    for folder in (run, away):
        options = [str(tmp_path / "a.wav"), f"--json={tmp_path / folder.name}.json"]
        assert main(["listen", str(folder), *options]) == 0
    assert (tmp_path / "out.json").read_text() == (tmp_path / "away.json").read_text()
    (away / "report.json").write_text("{}")
    assert main(["listen", str(away), options[0]]) == 2
    assert "report.json does not name the classes" in capsys.readouterr().err


def test_a_programmed_chip_listens_to_a_mixture(run: Path, tmp_path: Path, capsys) -> None:
    options = ["--mix=60", f"--json={tmp_path / 'a.json'}", "--threshold=0.5"]
    assert main(["listen", str(run), *options]) == 0
    first = capsys.readouterr().out
    assert "10 keywords, from 8 recordings, among 10 clips in 0.02 h" in first
    assert "heard on one chip (seed 0), 1 day after programming" in first
    assert first.splitlines()[-1].startswith("before it listens, chips correct gain and offset")
    errors = json.loads((tmp_path / "a.json").read_text())["errors"]
    assert min(row["misses"] for row in errors) <= 3
    assert main(["listen", str(run), *options]) == 0
    assert capsys.readouterr().out == first
    spoken = json.loads((tmp_path / "a.json").read_text())["spoken"]
    assert main(["listen", str(run), *options, "--seed=1"]) == 0  # another chip hears the same
    assert json.loads((tmp_path / "a.json").read_text())["spoken"] == spoken


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "listen takes one of: a recording such as a.wav, --microphone SECONDS, or --mix"),
        (["a.wav", "--mix=60"], "listen takes one of"),
        (["nowhere.wav"], "nowhere.wav: no such audio file"),
        (["--allow-code", "nowhere.wav"], "nowhere.wav: no such audio file"),
        (["--seed", "3", "nowhere.wav", "--hop-ms=100"], "nowhere.wav: no such audio file"),
        (["--", "-nowhere.wav"], "-nowhere.wav: no such audio file"),
        (["a.wav", "--allow-code", "b.wav"], "unrecognized arguments: b.wav; see analogtorch"),
        (["--allow-cod", "a.wav"], "unrecognized arguments: --allow-cod"),
        (["--mix=60", "--noise=nowhere"], "nowhere: no such folder"),
        (["--microphone=0"], "--microphone must be a number of seconds >= 0.001, got 0"),
        (["--microphone=inf"], "--microphone must be a number of seconds >= 0.001, got inf"),
        (["--mix=60", "--threshold=2"], "Detector.threshold must be"),
        (["--mix=60", "--plot=a.txt"], "must end in .png"),
        (["--mix=x"], "see analogtorch listen --help"),
        (["--mix=1"], "--mix must be an integer >= 2, got 1"),
        (["--mix=60", "--per-minute=31"], "--per-minute must be a number in (0, 30], got 31"),
        (["--mix=60", "--time=soon"], "time 'soon' is not understood"),
        (["--mix=60"], "nothing holds no run of analogtorch kws"),
    ],
)
def test_wrong_options_are_named(
    arguments: list[str], message: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["listen", "nothing", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_nothing_is_recorded_for_a_run_that_is_none(monkeypatch, capsys) -> None:
    def rec(*_: object, **__: object) -> None:
        pytest.fail("it records")

    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(rec=rec))
    assert main(["listen", "nothing", "--microphone=1"]) == 2
    assert "nothing holds no run of analogtorch kws" in capsys.readouterr().err


def test_a_recording_shorter_than_a_window_is_drawn(tmp_path: Path) -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 3)

    classes = ("yes", "_silence_", "_unknown_")
    stream = listen(Constant(), nn.Identity(), torch.zeros(8_000), classes)
    StreamTest(stream=stream, spoken=()).plot(tmp_path / "short.png")
    assert (tmp_path / "short.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("hop_ms", "average", "windows"), [(200, 3, 3), (200, 5, 5), (100, 3, 6), (50, 1, 11)]
)
def test_half_a_second_of_silence_follows_a_recording_at_least(
    hop_ms: int, average: int, windows: int
) -> None:
    detector = Detector(hop_ms=hop_ms, average=average)
    classes = ("yes", "_silence_", "_unknown_")
    network = nn.AdaptiveAvgPool1d(3)
    found = listen(network, nn.Identity(), torch.zeros(16_000), classes, detector=detector)
    assert len(found.scores) == windows


def test_a_missing_library_of_the_microphone_is_named(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert main(["listen", "nothing", "--microphone=1"]) == 2
    assert "--microphone needs sounddevice and PortAudio" in capsys.readouterr().err


def test_a_time_in_seconds_has_its_unit() -> None:
    assert _when("5") == "5 s after programming"
    assert _when("1 month") == "1 month after programming"
    assert _when("programmed") == "as programmed"
