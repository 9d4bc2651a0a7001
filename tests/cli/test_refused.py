"""Calls of the command line that cannot work end with code 2 and one line of error."""

from pathlib import Path

import pytest

import analogtorch.__main__ as cli
from analogtorch.speech import kws

OPTIONS = [
    "--config", "--config=", "--config=d", "--config=bad.yaml", "--config=list.yaml",
    "--config=empty.yaml", "--config=loop.yaml", "--config=num.yaml", "--config=date.yaml",
    "--config=nan.yaml", "--config=none.yaml", "--seed=1e400", "--seed=nan", "--seed=true",
    "--seed=1.5", "--seed=-1", "--seed=9223372036854775808", f"--seed={'9' * 5000}", "--seed=",
    f"--digital={'[' * 4000}", f"--model.options={'[' * 4000}", "--digital={epochs: 3",
    "--digital.epochs=0", "--digital.epochs=1.5", "--digital.epochs=1e3", "--digital.batch_size=1",
    "--hwa.learning_rate=nan", "--hwa.learning_rate=inf", "--hwa.learning_rate=0",
    "--hwa.temperature=-1", "--hwa.warmup=1", "--hwa.mixup=-1", "--hwa.distill=2",
    "--hwa.clip_sigma=0", "--digital.label_smoothing=1", "--model.options.widths=[0]",
    "--model.options.widths=[-1,2]", "--model.options.widths=[true]", "--model.options.widths=4",
    "--model.options.stem_stride=[1]", "--model.options.stem_stride=[1,2,3]",
    "--model.options.stem_stride=[0,1]", "--model.options={hiden: []}", "--model.options=3",
    "--model.options.dropout=.nan", "--model.name=rnn", "--model.name=", "--model.name=:",
    "--model.name=mynet.py:Nett", "--model.name=nowhere.py:Net", "--model.name=mynet.py:nothing",
    "--model.name=nosuch:Net", "--model.name=nosyntax.py:Net", "--model.name=noimport.py:Net",
    "--model.name=torch.nn:Linear", "--features.name=mel", "--features.options={hop: 3}",
    "--features.name=mynet.py:nothing", "--config=code.yaml", "--model=code.json",
    "--data.folder.labels=[low]", "--data.folder.labels=[low,low]", "--data.folder.labels=words",
    "--data.folder.speaker=(", "--data.folder.speaker=a", "--data.folder.val_percent=0",
    "--chip.name=", "--chip.options=[1]",
    "--chip.options={x: y}", "--chip.options={phases: '7'}", "--chip.training.scale=-1",
    "--chip.training.scale=nan", "--chip.training.weight=foo", "--chip.training.time=soon",
    "--chip.defects.stuck_on=2", "--chip.defects.stuck_onn=0", "--chip.defects=[1]",
    "--chip.defects={stuck_on: 0.6, stuck_off: 0.6}", "--chip.compensation=some",
    "--sweep.times=['1 parsec']", "--sweep.times=['-1 s']",
    "--sweep.times=['nan s']", "--sweep.times=['inf s']", "--sweep.times=1 day",
    "--sweep.times=[null]", "--sweep.num_chips=-1", "--sweep.num_chips=1.5",
    "--sweep.num_chips=true", "--augment.speeds=[]", "--augment.speeds=[0]",
    "--augment.snr_db=[5,1]", "--augment.snr_db=[nan,1]", "--augment.time_masks=-1",
    "--augment.gain_db=nan", "--augment.shift_ms=501", "--threads=x", "--workers=-1",
    "--report.ablation={a: {hwa.distill: 0}, a: {hwa.distill: 1}}",
    "--model.options={dropout: 0.1, dropout: 0.2}", "--model.options={widths: [{a: 1, a: 2}]}",
    "--progress=maybe", "--resume=1", "--out", "--out=", "--out=   ", "--out=f", "--out=f/x",
    "--out=\0", f"--out={'a' * 300}", "--out=/dev/null", "--data.folder.fit=x",
    "--data.synthetic.snr_db=[1]", "--data.synthetic.seed=-1", "--data.synthetic.workers=0",
    "--data.synthetic.val_percent=50", "x", "--", "-x", "--print_config=x",
    "--see=1", "--resum",
]  # fmt: skip
SOURCES = [
    "--data.folder.root=", "--data.folder.root=f", "--data.folder.root=\0",
    "--data.folder.root=${UNSET_HERE}", "--data.folder.root=nowhere", "--data.folder.manifest=",
    "--data.folder.manifest=nowhere.csv", "--data.folder.manifest=f", "--data.folder.manifest=d",
]  # fmt: skip
MODELS = [
    [], ["--model"], ["--model", ""], ["--model", "x"], ["--model", "."], ["--model", ".."],
    ["--model", "a."], ["--model", "torch.nn.Linear"], ["--model", "torch.zzz"],
    ["--model", "nosuch.Net"], ["--model", "mynet.key"], ["--model", "mynet.zero"],
    ["--model", "mynet.nothing"], ["--model", "mynet.Forward"], ["--model", "nosyntax.Net"],
    ["--model", "noimport.Net"], ["--model", "mynet.Good", "--chip", "x"],
    ["--model", "mynet.Good", "--chip", "f.yaml"], ["--model", "mynet.Good", "--chip", "bad.json"],
    ["--model", "mynet.Good", "--chips", "0"], ["--model", "mynet.Good", "--chips", "x"],
    ["--model", "mynet.Good", "--input", "x"], ["--model", "mynet.Good", "--input", "1,3"],
    ["--model", "mynet.Good", "--input", "1,4:nn"], ["--model", "mynet.Good", "--duplicate", "x"],
    ["--model", "mynet.Good", "--duplicate", "x=0"], ["--model", "mynet.Good", "--exclude", "zzz"],
    ["--model", "mynet.Good", "--exclude", "re:["], ["--model", "mynet.Good", "--json", "f/x.json"],
    ["--model", "mynet.Good", "--html", "d"],
]  # fmt: skip
NET = """
import torch

def key(): raise KeyError("x")
def zero(): return 1 / 0
nothing = None

class Good(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)
    def forward(self, x):
        return self.layer(x)

class Forward(Good):
    def forward(self, x): raise IndexError("inside")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, importable, with files that are wrong.

    Calls that reach the training stop there.
    """
    files = {
        "f": b"x", "bad.yaml": b"\xff\xfe\0", "list.yaml": b"- 1\n", "empty.yaml": b"",
        "loop.yaml": b"a: &a [*a]\n", "num.yaml": b"3\n", "date.yaml": b"seed: 2020-01-01\n",
        "nan.yaml": b"hwa: {learning_rate: .nan}\n", "bad.json": b"[[[", "mynet.py": NET.encode(),
        "code.yaml": b"model: {name: mynet.py:Good}\n", "code.json": b'{"name": "mynet.py:Good"}',
        "nosyntax.py": b"def (\n", "noimport.py": b"import zzz_none\n",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "d").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(kws, "train_digital", lambda *_, **__: pytest.fail("training began"))
    return tmp_path


def refused(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    before = sorted(p for p in folder.rglob("*") if "__pycache__" not in p.parts)
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    line = captured.err.splitlines()[-1]
    assert line.startswith("analogtorch: ")
    assert len(line) > len("analogtorch: ") + 10
    assert captured.out == ""
    assert "Traceback" not in captured.err
    after = sorted(p for p in folder.rglob("*") if "__pycache__" not in p.parts)
    # but for an empty folder
    assert [p for p in after if p.name != "runs" and p.parent.name != "runs"] == before
    return line


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option[:30])
def test_options_of_kws(option: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["kws", "--data.source=folder", option], folder, capsys)
    assert "manifest" not in line, (
        "the option was accepted: what is missing is the folder of recordings"
    )


@pytest.mark.parametrize("option", SOURCES)
def test_sources_of_kws(option: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "training began" not in refused(["kws", "--data.source=folder", option], folder, capsys)


@pytest.mark.parametrize("arguments", MODELS, ids=" ".join)
def test_options_of_map(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = ["--input", "1,4"] if "mynet" in str(arguments) and "--input" not in arguments else []
    refused(["map", *arguments, *mine], folder, capsys)


@pytest.mark.parametrize("growth", ["1", "2", "-0.1", "nan"])
def test_an_accuracy_has_no_more_than_all_to_lose(
    growth: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(["budget", "d", f"--growth={growth}"], folder, capsys)
    assert "--growth must be a number in [0, 1), got " in line
    assert "the share of the accuracy to lose, such as 0.01" in line


def test_the_noise_of_training_is_no_option_of_a_preset(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option = "--chip.options={training: {weight: none}}"
    line = refused(["kws", "--data.source=folder", option], folder, capsys)
    assert "such as --chip.training.weight=none" in line
