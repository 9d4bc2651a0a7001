import csv
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import analogtorch as at
import analogtorch.__main__ as cli
from analogtorch.cli.transcribe import parse
from analogtorch.evaluate import Sweep
from analogtorch.files import parse_json, signed
from analogtorch.report.transcribed import Transcribed
from analogtorch.speech.run_journal import JOURNAL
from analogtorch.speech.transcription import pipeline
from analogtorch.speech.transcription.config import TranscribeConfig
from analogtorch.speech.transcription.speech import Speech

CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "transcribe").glob("*.yaml"))
NOISE = np.random.default_rng(0).normal(size=8_000).astype(np.float32) / 10


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """A folder with two recordings, of one of which it is known what is said, and silence."""
    root = tmp_path / "audio"
    root.mkdir()
    soundfile.write(root / "a.wav", NOISE, 16_000)
    soundfile.write(root / "b.wav", NOISE[::-1].copy(), 16_000)
    soundfile.write(root / "c.wav", np.zeros(4_000, np.float32), 16_000)
    (root / "a.txt").write_text("yes no")
    return root


def _config(audio: Path, folder: Path, **changes: Any) -> TranscribeConfig:
    options = {
        "data.audio": str(audio), "whisper.folder": str(folder), "whisper.seconds": 1,
        "sweep.num_chips": 1, "sweep.times": '["0 s"]', **changes,
    }  # fmt: skip
    return parse([f"--{name}={value}" for name, value in options.items()]).config


def test_recordings_become_texts_and_a_report(audio: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = pipeline.run(_config(audio, folder), out)
    assert [t.name for t in found.transcripts] == ["a.wav", "b.wav", "c.wav"]
    assert found.transcripts[2].digital == ""
    assert found.transcripts[2].chips == (("",),)
    assert found.transcripts[0].digital
    assert found.wer is not None
    assert not found.wer.higher_is_better
    assert found.wer.values.shape == (1, 1)
    assert "(100 %)" in found.share
    written = json.loads((out / "report.json").read_text())
    assert written["recordings"][0]["chips"] == [list(found.transcripts[0].chips[0])]
    assert written["digital"] == found.digital
    rows = list(csv.DictReader((out / "transcripts.csv").read_text().splitlines()))
    assert [(r["recording"], r["chip"], r["time"]) for r in rows[:2]] == [
        ("a.wav", "digital", ""),
        ("a.wav", "0", "0 s"),
    ]
    assert written["continued"] is False
    page = (out / "report.html").read_text()
    assert "since it was continued" not in page
    for part in ("Speech to text on an analog chip", "1 of 3 recordings have a reference", "c.wav"):
        assert part in page
    rows = re.findall(r'<th scope="row">(\w\.wav)</th>\s*<td[^>]*>([^<]+)</td>', page)
    names = [("a.wav", "reference"), ("a.wav", "digital"), ("a.wav", "0 s")]
    assert rows[:3] == names
    assert '<th scope="row"></th>' not in page
    assert (out / "wer.png").read_bytes()[1:4] == b"PNG"
    assert "![Word error rate" in (out / "report.md").read_text()


def test_chips_correct_their_columns_unless_told_not_to(
    audio: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrected: list[int] = []
    correct = at.Recovery.correct

    def seen(self: at.Recovery, view: Any) -> Any:
        corrected.append(len(self.batches))
        return correct(self, view)

    monkeypatch.setattr(at.Recovery, "correct", seen)
    options = {"sweep.times": '["0 s", "1 day"]'}
    pipeline.run(_config(audio, folder, **options), tmp_path / "default")
    assert corrected == [1, 1]  # both sounds are one batch, at each of the times
    pipeline.run(_config(audio, folder, **options | {"chip.correct": "false"}), tmp_path / "plain")
    assert len(corrected) == 2
    # a finished run has no chip to correct, and does not hear the recordings for it again
    monkeypatch.setattr(Speech, "batches", None)
    pipeline.run(_config(audio, folder, **options), tmp_path / "default", resume=True)
    # silence has nothing to correct by
    (audio / "a.wav").unlink()
    (audio / "a.txt").unlink()
    (audio / "b.wav").unlink()
    pipeline.run(_config(audio, folder), tmp_path / "silent")
    assert len(corrected) == 2


def test_several_unit_cells_may_hold_each_weight(audio: Path, folder: Path, tmp_path: Path) -> None:
    one = pipeline.run(_config(audio, folder), tmp_path / "one")
    two = pipeline.run(_config(audio, folder, **{"chip.cells": "2"}), tmp_path / "two")
    assert {matrix.cells for matrix in two.mapping.matrices} == {2}
    assert two.mapping.cells == 2 * one.mapping.cells
    assert two.mapping.chip == one.mapping.chip
    assert two.cost.energy.tile > one.cost.energy.tile
    assert "On the chips, 2 unit cells hold each weight (chip.cells)." in two.notes
    assert two.wer.conditions == ("2 unit cells hold each weight",)
    assert one.wer.conditions == ()
    with pytest.raises(ValueError, match="chip.cells was 1 and is 2"):
        pipeline.run(_config(audio, folder, **{"chip.cells": "2"}), tmp_path / "one", resume=True)


def test_a_run_of_an_earlier_version_goes_on_as_it_was(
    audio: Path, folder: Path, tmp_path: Path
) -> None:
    plain = {"chip.correct": "false", "chip.drift_aware": "null"}
    first = pipeline.run(_config(audio, folder, **plain), tmp_path / "out")
    journal = parse_json((tmp_path / "out" / JOURNAL).read_bytes())
    for name in ("correct", "drift_aware", "cells"):
        del journal["config"]["chip"][name]
    journal.pop("checksum", None)
    (tmp_path / "out" / JOURNAL).write_text(json.dumps(signed(journal)))
    kept = tmp_path / "out" / "texts" / "0.json"
    texts = json.loads(kept.read_text())
    texts["run"]["config"] = journal["config"]
    del texts["checksum"]
    kept.write_text(json.dumps(signed(texts)))
    again = pipeline.run(_config(audio, folder, **plain), tmp_path / "out", resume=True)
    assert again.transcripts == first.transcripts
    with pytest.raises(ValueError, match="chip.drift_aware was None and is '1 day'"):
        pipeline.run(_config(audio, folder), tmp_path / "out", resume=True)


@pytest.mark.slow
def test_a_run_goes_on_with_other_times_and_keeps_its_texts(
    audio: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    first = pipeline.run(_config(audio / "b.wav", folder), out)
    texts, calls = Speech.texts, []

    def counted(self: Speech, *given: Any) -> list[str]:
        calls.append(given)
        return texts(self, *given)

    monkeypatch.setattr(Speech, "texts", counted)
    more = _config(audio / "b.wav", folder, **{"sweep.times": '["0 s", "1 day"]'})
    with pytest.raises(ValueError, match="holds a finished run"):
        pipeline.run(more, out)
    again = pipeline.run(more, out, resume=True)
    assert len(calls) == 1  # that of the new time
    assert again.transcripts[0].chips[0][0] == first.transcripts[0].chips[0][0]
    kept = out / "texts" / "0.json"
    whole = kept.read_text()
    kept.write_text(whole[:-4])
    with pytest.raises(ValueError, match=r"texts/0\.json: .*remove the file, and resume"):
        pipeline.run(more, out, resume=True)
    edited = json.loads(whole)
    edited["texts"]["0 s"] = ["what no chip has written"]
    kept.write_text(json.dumps(edited))
    with pytest.raises(ValueError, match=r"texts/0\.json: its 'checksum' does not belong to"):
        pipeline.run(more, out, resume=True)
    kept.write_text((out / "texts" / "digital.json").read_text())
    with pytest.raises(ValueError, match=r"0\.json: .* of another chip, of seed None in place of"):
        pipeline.run(more, out, resume=True)
    calls.clear()
    kept.write_text(json.dumps(json.loads(whole)["texts"]))  # as earlier versions wrote it
    assert pipeline.run(more, out, resume=True).transcripts == again.transcripts
    assert not calls
    kept.write_text('{"0 s": [5], "1 day": [5]}')  # no texts
    assert pipeline.run(more, out, resume=True).transcripts == again.transcripts
    with pytest.raises(ValueError, match=r"whisper.batch_size was 16 and is 2"):
        pipeline.run(
            _config(audio / "b.wav", folder, **{"whisper.batch_size": 2}), out, resume=True
        )
    soundfile.write(audio / "b.wav", NOISE, 16_000)
    with pytest.raises(ValueError, match="begun with other recordings"):
        pipeline.run(more, out, resume=True)
    soundfile.write(audio / "b.wav", NOISE[::-1].copy(), 16_000)
    file = folder / "tokenizer.json"
    before = file.read_bytes()
    file.write_bytes(before + b"\n")
    with pytest.raises(ValueError, match="begun with another version of tokenizer.json: give that"):
        pipeline.run(more, out, resume=True)
    file.write_bytes(before)
    assert pipeline.run(more, out, resume=True).transcripts == again.transcripts
    soundfile.write(audio / "b.wav", NOISE, 16_000)
    other = pipeline.run(more, out, overwrite=True)
    assert other.transcripts[0].said is None


@pytest.mark.slow
def test_texts_of_another_run_are_refused(audio: Path, folder: Path, tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    config = _config(audio, folder, **{"whisper.batch_size": 2})
    first = pipeline.run(config, mine)
    kept = mine / "texts" / "0.json"
    whole = kept.read_bytes()

    def resumed() -> Transcribed:
        return pipeline.run(config, mine, resume=True)

    settings = {"chip.correct": "false", "chip.compensation": "none"}
    pipeline.run(_config(audio, folder, **{"whisper.batch_size": 2}, **settings), other)
    kept.write_bytes((other / "texts" / "0.json").read_bytes())
    found = "holds the texts of another run .*chip.correct was False and is True.* copy that of"
    with pytest.raises(ValueError, match=rf"texts/0\.json: {found}.* remove the file, and resume"):
        resumed()
    soundfile.write(audio / "b.wav", NOISE / 2, 16_000)
    pipeline.run(config, other, overwrite=True)
    soundfile.write(audio / "b.wav", NOISE[::-1].copy(), 16_000)
    kept.write_bytes((other / "texts" / "0.json").read_bytes())
    with pytest.raises(ValueError, match="another run .*other recordings"):
        resumed()
    file = folder / "tokenizer.json"
    before = file.read_bytes()
    file.write_bytes(before + b"\n")
    pipeline.run(config, other, overwrite=True)
    file.write_bytes(before)
    kept.write_bytes((other / "texts" / "0.json").read_bytes())
    with pytest.raises(ValueError, match="another run .*another version of tokenizer.json"):
        resumed()
    # of the same run elsewhere, or of an earlier version, which kept no run
    pipeline.run(config, other, overwrite=True)
    kept.write_bytes((other / "texts" / "0.json").read_bytes())
    assert resumed().transcripts == first.transcripts
    earlier = json.loads(whole)
    for name in ("run", "checksum"):
        del earlier[name]
    kept.write_text(json.dumps(signed(earlier)))
    assert resumed().transcripts == first.transcripts
    kept.write_text(json.dumps(signed(earlier | {"run": "mine"})))
    with pytest.raises(ValueError, match="holds the texts of another run"):
        resumed()


def test_texts_are_kept_where_their_page_fails(
    audio: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def failing(*given: Any, **options: Any) -> None:
        raise RuntimeError("no page")

    for page in ("html", "markdown"):
        monkeypatch.setattr(pipeline, page, failing)
    monkeypatch.setattr(Sweep, "plot", failing)
    with pytest.raises(RuntimeError, match="no page"):
        pipeline.run(_config(audio, folder), out)
    rows = list(csv.DictReader((out / "transcripts.csv").read_text().splitlines()))
    assert len(rows) == 6  # three recordings, digitally and on a chip
    assert len(json.loads((out / "report.json").read_text())["recordings"]) == 3


def test_without_references_there_is_no_error_rate(
    audio: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = ["--whisper.folder", str(folder), "--whisper.seconds", "1", "--sweep.num_chips", "1",
               "--sweep.times", '["0 s"]', "--chip.calibrate", "true"]  # fmt: skip
    out = tmp_path / "out"
    assert cli.main(["transcribe", str(audio / "b.wav"), *options, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "b.wav, 0.5 s" in printed
    assert "error rate" not in printed
    assert "report.html, report.md, report.json, transcripts.csv\n" in printed
    assert not (out / "wer.png").exists()
    assert "Word error rate" not in (out / "report.md").read_text()


def test_a_continued_run_has_nothing_of_an_earlier_state(
    audio: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    config = _config(audio, folder)
    pipeline.run(config, out)
    plot, page = (out / "wer.png").read_bytes(), (out / "report.html").read_text()
    assert " s since it was continued" not in page
    (audio / "a.txt").rename(tmp_path / "a.txt")
    found = pipeline.run(config, out, resume=True)
    assert found.wer is None
    assert not (out / "wer.png").exists()
    assert "wer.png" not in parse_json((out / JOURNAL).read_bytes())["files"]
    # the time is that of this part alone
    assert json.loads((out / "report.json").read_text())["continued"] is True
    for name in ("report.html", "report.md"):
        assert " s since it was continued" in (out / name).read_text()
    (out / "wer.png").write_text("mine")
    pipeline.run(config, out, resume=True)
    assert (out / "wer.png").read_text() == "mine"
    (out / "wer.png").unlink()
    (tmp_path / "a.txt").rename(audio / "a.txt")
    pipeline.run(config, out, resume=True)
    assert (out / "wer.png").read_bytes() == plot


def test_silence_alone_is_written_down_as_nothing(
    audio: Path, folder: Path, tmp_path: Path
) -> None:
    found = pipeline.run(_config(audio / "c.wav", folder), tmp_path / "out")
    assert found.transcripts[0].chips == (("",),)
    assert found.mapping is None
    with pytest.raises(ValueError, match="chip.calibrate needs sound"):
        pipeline.run(
            _config(audio / "c.wav", folder, **{"chip.calibrate": "true"}), tmp_path / "other"
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not readable as audio"),
        (b"no audio at all", "not readable as audio"),
    ],
)
def test_bad_audio_is_an_error_before_anything_is_written(
    audio: Path, folder: Path, tmp_path: Path, content: bytes, message: str, capsys
) -> None:
    (audio / "b.wav").write_bytes(content)
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=message):
        pipeline.run(_config(audio, folder), out)
    (audio / "b.wav").unlink()
    (audio / "a.txt").write_text("...")
    assert cli.main(["transcribe", str(audio), f"--out={out}"]) == 2
    assert "has no word" in capsys.readouterr().err
    assert cli.main(["transcribe", str(tmp_path / "none.wav"), f"--out={out}"]) == 2
    assert "no such audio file or folder" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--whisper.seconds", "31"], r"whisper.seconds must be an integer in \[1, 30\], got 31"),
        (["--whisper.batch_size", "0"], "whisper.batch_size must be an integer >= 1"),
        (["--sweep.processes", "2"], "transcribe has one process"),
        (["--data.references", "a.csv"], "give data.audio too"),
        (["--data.sentences", "17"], r"data.sentences must be an integer in \[1, 16\]"),
        (["--chip.name", "hermes46"], "hermes46"),
        (["--chip.cells", "0"], r"chip.cells must be an integer in \[1, 64\], got 0"),
        (["--chip.calibrate", "often"], "chip.calibrate"),
        (
            ["--chip.options", "{training: {weight: none}}"],
            "chip.options has training, .* leave it out; .* transcribe trains nothing",
        ),
        (["--threads", "0"], "threads must be"),
        (["--sweep.times", "[]"], "sweep: times is empty"),
        (["--beam", "4"], "beam"),
        (["a.wav", "b.wav"], "takes one recording or folder, got 2: a.wav, b.wav; put them into"),
        (["a.wav", "--data.references"], "expected one argument"),
    ],
)
def test_wrong_options_are_refused(options: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(options)


def test_two_recordings_are_refused() -> None:
    for given in (["a.wav", "b.wav"], ["a.wav", "--data.audio", "b.wav"]):
        with pytest.raises(ValueError, match="takes one recording or folder, got"):
            parse(given)


def test_the_recording_may_stand_anywhere() -> None:
    options = ["--sweep.seed", "-1", "--out=x", "--overwrite", "--threads", "2"]
    for place in (0, 2, 3, 4, 6):
        given = parse([*options[:place], "a.wav", *options[place:]])
        assert given.config.data.audio == "a.wav"
        assert (given.config.sweep.seed, given.config.threads, given.overwrite) == (-1, 2, True)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configurations_are_read(path: Path) -> None:
    given = parse(["--config", str(path)])
    published = at.chips.hermes64(weight_scale="column")
    assert given.config.chip.build() == published.drift_aware("1 day")
    assert given.config.sweep.times == ("0 s", "1 day", "1 month")


def test_the_chip_of_a_file_has_the_targets_of_the_file(tmp_path: Path) -> None:
    chip = at.chips.hermes64(weight_scale="column")
    for name, mine in (("plain", chip), ("month", chip.drift_aware("1 month"))):
        file = at.chips.save(mine, tmp_path / f"{name}.yaml")
        assert parse([f"--chip.name={file}"]).config.chip.build() == mine
    given = parse([f"--chip.name={file}", "--chip.drift_aware=1 day"]).config
    assert given.chip.build() == chip.drift_aware("1 day")


def test_every_chip_is_taken_by_its_name() -> None:
    for name in at.chips.names():
        given = parse([f"--chip.name={name}"]).config.chip
        assert given.build().name.startswith(name)
        periphery = given.build().periphery
        assert (periphery.weight_scale == "column") == periphery.scales_columns
        offered = periphery.offers_scales
        assert given.all_options == ({"weight_scale": "column"} if offered else {})
    plain = parse(["--chip.options={}", "--chip.drift_aware=null"]).config.chip
    assert plain.build() == at.chips.hermes64()


def test_a_configuration_is_that_of_its_file(tmp_path: Path) -> None:
    config = TranscribeConfig()
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.to_dict()))
    assert parse(["--config", str(file)]).config.to_dict() == config.to_dict()
    assert dataclasses.asdict(config)["sweep"]["num_chips"] == 3
