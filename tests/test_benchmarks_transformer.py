"""The benchmark's keyword transformer: its clips, their changes, training, and the row of adapt."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from analogtorch.speech.models import ConvNet, KeywordTransformer
from analogtorch.speech.training import Phase
from benchmarks import transformer
from benchmarks.adapt import subjects


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write noise whose level in dB tells the class: 24 training clips, 12 of the other parts."""
    split = np.repeat(["train", "val", "test"], (24, 12, 12))
    y = np.arange(len(split)) % 12
    x = np.random.default_rng(0).integers(100, 120, (len(split), 49, 40)) + 8 * y[:, None, None]
    (tmp_path / transformer.FILE).parent.mkdir()
    np.savez(tmp_path / transformer.FILE, x=x.astype(np.uint8), y=y, split=split)
    return tmp_path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    phase = {"epochs": 1, "batch_size": 12}
    monkeypatch.setattr(transformer, "TEACHER", Phase(**phase))
    monkeypatch.setattr(transformer, "STUDENT", Phase(**phase, mixup=0.2, distill=0.7))
    monkeypatch.setattr(
        transformer, "teacher_net", lambda: ConvNet(widths=(4, 8), stem_stride=(4, 4))
    )
    monkeypatch.setattr(transformer, "student_net", lambda: KeywordTransformer(depth=1, patch=25))
    monkeypatch.chdir(tmp_path)


def test_clips_are_read_in_decibels_by_split(data: Path) -> None:
    speech = transformer.load_speech(data)
    assert [len(getattr(speech, name)[1]) for name in transformer.SPLITS] == [24, 12, 12]
    with np.load(data / transformer.FILE) as archive:
        x = archive["x"]
    decibels = speech.val[0] * transformer.STD + transformer.MEAN
    torch.testing.assert_close(decibels[3, 0], torch.from_numpy(x[27] / 2 - 100).float())


def test_changes_are_a_pure_function_of_seed_epoch_and_index(data: Path) -> None:
    train = transformer.load_speech(data).train
    change = transformer.Augmented(train, seed=1)
    together, labels = change(torch.tensor([3, 7]), 2)
    alone, _ = change(torch.tensor([7]), 2)
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=0)
    assert labels.tolist() == train[1][[3, 7]].tolist()

    def same(other: Tensor) -> bool:
        return torch.equal(other, alone)

    assert not same(change(torch.tensor([7]), 3)[0])
    assert not same(transformer.Augmented(train, seed=2)(torch.tensor([7]), 2)[0])
    assert not same(train[0][7:8])


def test_the_command_trains_once_and_the_row_of_adapt_takes_the_net(
    data: Path, small: None, capsys: pytest.CaptureFixture
) -> None:
    transformer.main(["--data", str(data)])
    table = capsys.readouterr().out
    assert "KeywordTransformer" in table
    files = list(Path("runs/transformer").glob("*.safetensors"))
    before = {file: file.stat().st_mtime_ns for file in files}
    transformer.main(["--data", str(data)])
    rows = [out.split("\n\n")[0] for out in (table, capsys.readouterr().out)]
    assert rows[0] == rows[1]
    assert len(before) == 2
    assert before == {file: file.stat().st_mtime_ns for file in files}

    subject = subjects.SUBJECTS["KeywordTransformer"](data, 2)
    speech = transformer.load_speech(data)
    assert subject.outputs(subject.model).shape == (6, 12)
    assert 0 <= subject.scored(subject.model) <= 1
    torch.testing.assert_close(torch.cat(subject.batches), speech.test[0][::2])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="benchmarks.transformer: .*logmel_49x40_u8_12kw"):
        transformer.main(["--data", str(tmp_path)])
