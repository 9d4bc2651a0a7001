"""Words, networks and front ends of the user's, from the command line to the report."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from analogtorch.__main__ import main
from analogtorch.cli.kws import parse
from analogtorch.files import packed
from analogtorch.speech import kws, rehearsal
from analogtorch.speech.config import FeaturesConfig, KWSConfig, ModelConfig
from analogtorch.speech.logits import check_training
from analogtorch.speech.task import prepare

pytestmark = pytest.mark.usefixtures("one_chip_decides")

CODE = """
import torch
from parts_of_my_net import WIDTH
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, input_shape, width=WIDTH):
        super().__init__()
        self.hidden = nn.Linear(input_shape[0], width)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, classes)
    def forward(self, x):
        return self.head(self.norm(self.hidden(x)).relu())

def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(2))

def ten(classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))

def fussy(input_shape):
    return nn.Conv2d(1, 2, 3)

def words(classes):
    return "a net"

net = nn.Linear(3, 2)

class Bands(nn.Module):
    "The power in 16 bands."
    def forward(self, waveforms):
        power = torch.fft.rfft(waveforms)[:, :4000].abs().square()
        return power.view(len(power), 16, -1).mean(2).add(1e-3).log()

def nothing():
    return nn.Linear(3, 2)

def nans():
    return Scaled()

class Projected(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("basis", torch.randn(400, 16))
        self.learnt = nn.Linear(16, 16)
    def forward(self, waveforms):
        return self.learnt(waveforms.view(-1, 40, 400).abs().mean(1) @ self.basis)

class Normed(Bands):
    "Features of silence are NaN."
    def forward(self, waveforms):
        bands = super().forward(waveforms)
        return (bands - bands.mean(1, keepdim=True)) / bands.std(1, keepdim=True)

class Scaled(nn.Module):
    def forward(self, waveforms):
        return (waveforms - 2).log()

class Coupled(Bands):
    def forward(self, waveforms):
        bands = super().forward(waveforms)
        return bands - bands.mean(0)

class Largest(Bands):
    def forward(self, waveforms):
        bands = super().forward(waveforms).exp()
        return bands / bands.max()

class Dithered(Bands):
    def forward(self, waveforms):
        return super().forward(waveforms + 0.01 * torch.randn(waveforms.shape))

class Rounded(Bands):
    "A batch rounds otherwise than a clip, by a thousandth."
    def forward(self, waveforms):
        bands = super().forward(waveforms)
        return bands + 1e-3 * len(bands)

class Dropping(Net):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x))

class Batch(Net):
    def forward(self, x):
        return super().forward(x - x.mean(0) if len(x) > 1 else x)

class Steps(nn.Module):
    def forward(self, waveforms):
        return waveforms.view(-1, 16, 1000)[:, :, :900].abs().amax(2).log()

def broken(classes):
    return nn.Sequential(nn.Linear(16, classes), nn.Softplus(), nn.Threshold(9, float("nan")))

def factory(**options):
    return Net(**options)

class Auxiliary(Net):
    def forward(self, x):
        logits = super().forward(x)
        return (logits, logits) if self.training else logits

class Fewer(Net):
    def forward(self, x):
        return super().forward(x)[:, self.training :]

class Digital(Net):
    "It learns only where its first layer is digital."
    def forward(self, x):
        if self.training and type(self.hidden) is not nn.Linear:
            raise ValueError("it cannot learn so")
        return super().forward(x)

class Ghost(Net):
    "Batch norm of eighths of a batch, and the gradient of an output beside the logits."
    def forward(self, x):
        if not self.training:
            return super().forward(x)
        hidden = self.hidden(x)
        parts = hidden.view(-1, 8 * hidden.shape[1])
        normed = nn.functional.batch_norm(parts, None, None, training=True).view_as(hidden)
        logits = self.head((normed * self.norm.weight + self.norm.bias).relu())
        self.penalty = torch.autograd.grad(logits.square().sum(), self.hidden.weight,
                                           create_graph=True)[0].square().sum()
        return logits
"""


def test_a_front_end_that_has_no_features_of_silence_listens(folder: Path, capsys) -> None:
    options = [*SMALL, "--features.name=my_net.py:Normed", "--digital.epochs=1", "--out=normed"]
    assert main(["kws", *options]) == 0
    assert (folder / "normed" / "correcting.pt").is_file()
    assert main(["listen", "normed", "words/low/ann_0.wav", "--allow-code"]) == 0
    assert "in 1.0 s" in capsys.readouterr().out


SMALL = [
    "--data.source=folder", "--data.folder.root=words", "--data.folder.speaker=^([^_]+)_",
    "--model.name=my_net.py:Net", "--features.name=my_net.py:Bands", "--workers=1",
    "--progress=false", "--digital.epochs=8", "--digital.batch_size=8",
    "--digital.learning_rate=0.05", "--hwa.epochs=1", "--hwa.batch_size=8", "--sweep.num_chips=1",
    "--sweep.times=['1 day']",
]  # fmt: skip


UNTRAINED = ["--model.name=my_net.py:Digital", "--chip.digital=[hidden]"]
GHOST = ["--model.name=my_net.py:Ghost", "--digital.batch_size=16", "--hwa.batch_size=16"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write low and high tones of six people, and the code."""
    root, noise = tmp_path_factory.mktemp("mine"), np.random.default_rng(0)
    (root / "my_net.py").write_text(CODE)
    (root / "parts_of_my_net.py").write_text("WIDTH = 8\n")
    t = np.arange(16_000) / 16_000
    for word, pitch in (("low", 200), ("high", 2_000)):
        (root / "words" / word).mkdir(parents=True)
        for number, who in enumerate(("ann", "bob", "cy", "dee", "eve", "flo")):
            for take in range(3):
                tone = 0.3 * np.sin(2 * np.pi * pitch * (1 + 0.1 * number) * t)
                file = root / "words" / word / f"{who}_{take}.wav"
                soundfile.write(file, tone + 0.01 * noise.standard_normal(16_000), 16_000)
    return root


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["kws", *SMALL, "--out=run"]) == 0
    return folder / "run"


def test_ones_own_words_network_and_features_up_to_the_report(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    assert report["data"]["classes"] == ["high", "low"]
    assert sum(report["data"][split] for split in ("train", "val", "test")) == 36
    assert report["digital"]["accuracy"] == 1.0
    assert report["hwa"]["1 day"]["mean"] == 1.0
    weights = torch.load(finished / "hwa.pt", weights_only=True)
    assert weights["hidden.weight"].shape == (8, 16)
    assert weights["head.weight"].shape == (2, 8)
    assert "name no speaker" not in (finished / "report.md").read_text()


def test_clips_without_speakers_are_a_caveat_in_the_report(folder: Path, caplog) -> None:
    anonymous = [option for option in SMALL if "speaker" not in option]
    assert main(["kws", *anonymous, "--digital.epochs=1", "--out=anonymous"]) == 0
    note = "36 of 36 clips name no speaker: the same voices may be in training and test"
    assert note in (folder / "anonymous/report.md").read_text()
    assert note in caplog.text


def test_code_that_only_a_file_names_is_not_run(finished: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(kws, "run", lambda *_, **__: pytest.fail("it runs"))
    config = f"--config={finished / 'config.json'}"
    assert main(["kws", config]) == 2
    printed = "a file names code to run, features.name='my_net.py:Bands': add --allow-code, if you"
    assert printed in capsys.readouterr().err
    assert main(["kws", config, "--features.name=my_net.py:Bands"]) == 2
    assert "code to run, model.name='my_net.py:Net'" in capsys.readouterr().err
    assert main(["kws", "--model", str(written(finished.parent / "model.json"))]) == 2
    assert "a file names code to run, model.name='my_net.py:Net'" in capsys.readouterr().err
    assert main(["budget", str(finished)]) == 2
    assert "a file names code to run" in capsys.readouterr().err


def written(path: Path) -> Path:
    path.write_text('{"name": "my_net.py:Net"}')
    return path


def test_code_that_the_command_line_allows_is_run(finished: Path, tmp_path: Path, capsys) -> None:
    config = [f"--config={finished / 'config.json'}", f"--out={finished}", "--resume"]
    assert main(["kws", *config, "--allow-code"]) == 0
    command = ["budget", str(finished), "--allow-code", "--num-chips=1"]
    assert main([*command, f"--folder={tmp_path}"]) == 0
    assert "all together" in capsys.readouterr().out
    assert {path.name for path in tmp_path.glob("*.json")} == {"budget.json", "chip-00000.json"}


@pytest.mark.parametrize(
    "command", [["budget"], ["compare"], ["listen", "a.wav"]], ids=lambda command: command[0]
)
def test_a_command_elsewhere_says_where_the_code_of_a_run_is_found(
    command: list[str], finished: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    monkeypatch.chdir(tmp_path)
    assert main([command[0], str(finished), *command[1:], "--allow-code"]) == 2
    printed = capsys.readouterr().err
    assert f"{command[0]}: cannot go on with {finished}: features.name: there is no file" in printed
    assert f"start {command[0]} in the one where the run was started" in printed


def test_the_command_of_the_report_finds_code_and_recordings_of_relative_paths(
    finished: Path,
) -> None:
    command = shlex.split(json.loads((finished / "report.json").read_text())["command"])
    assert command[:2] == ["analogtorch", "kws"]
    given = parse(command[2:])  # with --allow-code, in the folder where the run was started
    assert given.config == parse([*SMALL]).config
    assert Path(given.config.data.folder.root).is_dir()
    assert not given.out.exists()
    assert given.out.parent.resolve() == finished.resolve()


@pytest.mark.parametrize(
    ("name", "held", "message"),
    [
        ("hwa.pt", packed({}), "is not what the run wrote"),
        ("hwa.pt", None, "is missing: the run has not finished"),
        ("config.json", b"", "is not that of the run: seed was 0 and is 7"),
    ],
)
def test_commands_that_errors_advise_work_as_they_are(
    name: str, held: bytes | None, message: str, finished: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    out = tmp_path / "my runs"
    shutil.copytree(finished, out)
    if name == "config.json":
        config = json.loads((out / name).read_text())
        (out / name).write_text(json.dumps(config | {"seed": 7}))
    elif held is None:
        (out / name).unlink()
    else:
        (out / name).write_bytes(held)
    assert main(["budget", str(out), "--allow-code"]) == 2
    error = capsys.readouterr().err
    assert f"{out / name} {message}" in error
    command = shlex.split(error[error.rindex("analogtorch kws") :])
    monkeypatch.setattr(kws, "train_digital", stop)
    assert main(command[1:]) == 2
    assert "training begins" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "changed", "named"),
    [
        (["kws", *SMALL, "--out=run", "--resume"], "my_net.py", "my_net.py:Bands"),
        (["budget", "run", "--allow-code"], "my_net.py", "my_net.py:Bands"),
        (["budget", "run", "--allow-code"], "parts_of_my_net.py", "parts_of_my_net"),
    ],
)
def test_a_run_does_not_go_on_with_other_code(
    command, changed: str, named: str, finished: Path, folder: Path, capsys
) -> None:
    before = (folder / changed).read_text()
    (folder / changed).write_text(before + "# another version\n")
    try:
        assert main(command) == 2
    finally:
        (folder / changed).write_text(before)
    assert f"was begun with another version of {named}: give that" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["budget"], ["listen", "--mix=2"], ["compare"]])
def test_a_finished_run_does_not_go_on_with_other_recordings(
    command, finished: Path, folder: Path, capsys
) -> None:
    clip = folder / "words/low/ann_0.wav"
    before = clip.read_bytes()
    clip.write_bytes((folder / "words/low/ann_1.wav").read_bytes())
    try:
        assert main([command[0], "run", *command[1:], "--allow-code"]) == 2
    finally:
        clip.write_bytes(before)
    assert f"{command[0]}: the run in run was begun with other recordings: give those" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.name=my_net.py:lazy"], None),
        (["--model.name=my_net.py:ten"],
         r"the network my_net.py:ten gives (2, 10) for features of shape (2, 16); it must give "
         "(2, 2), a logit for each class: high, low."),
        (["--model.name=my_net.py:fussy"],
         "the network my_net.py:fussy cannot take features of shape (2, 16): RuntimeError: "),
        (["--model.name=my_net.py:words"], "model: my_net.py:words gives a str, not a torch.nn."),
        (["--model.name=my_net.py:net"], "is an object of type Linear; name a class, or a func"),
        (["--model.name=my_net.py:torch"], "is an object of type module; name a class"),
        (["--model.options={wdth: 3}"], "'wdth'; Net takes width, did you mean 'width'?"),
        (["--model.options={width: x}"], "model: my_net.py:Net cannot be made with {'classes': 2"),
        (["--model.name=cnv"], "nets:Net, did you mean 'conv'?"),
        (["--model.name=conv"],
         "input_shape must be (1, frames, filters) such as (1, 49, 40), got (16,)"),
        (["--features.name=my_net.py:nothing"],
         "the front end Linear cannot take waveforms of shape (2, 16000)"),
        (["--features.name=my_net.py:nans"],
         "the front end Scaled gives numbers that are not finite for "),
        (["--features.name=my_net.py:Coupled"],
         "the front end Coupled gives other features for the clip 'high/"),
        (["--features.name=my_net.py:Coupled"],
         ".wav' in a batch with another clip than alone: they are "),
        (["--features.name=my_net.py:Largest"], "never over dimension 0"),
        (["--features.name=my_net.py:Dithered"],
         "at each call: they are "),
        (["--features.name=my_net.py:Dithered"],
         "In evaluation features must not be random, nor depend on earlier calls: draw random"),
        (["--features.name=my_net.py:Rounded"], None),
        (["--model.name=my_net.py:Dropping"],
         "the network my_net.py:Dropping gives other logits for clip 1 of 2 at each call: they "),
        (["--model.name=my_net.py:Batch"],
         "Batch gives other logits for clip 1 of 2 in a batch with another clip than alone: "),
        (["--features.name=my_net.py:Steps", "--augment.shift_ms=150"],
         "such as the training clip, augmented, '"),  # silence is shifted in
        (["--model.name=my_net.py:broken"],
         "the network my_net.py:broken gives NaN or infinite logits before any training"),
        (["--model.name=my_net.py:Auxiliary"],
         "the network my_net.py:Auxiliary, in training, gives tuple for features of shape (8, 16)"),
        (["--model.name=my_net.py:Fewer"], "Fewer, in training, gives (8, 1) for features of shap"),
        ([*GHOST, "--hwa.batch_size=12"],
         "Ghost, in training, cannot take features of shape (12, 16): RuntimeError: shape"),
        ([*GHOST, "--report.ablation={x: {hwa.batch_size: 12}}"],
         "report.ablation: x: the network my_net.py:Ghost, in training, cannot take features"),
        (["--model.name=my_net.py:Digital"],
         "the network my_net.py:Digital on the chip, in training, cannot take features of"),
        ([*UNTRAINED, "--report.ablation={x: {chip.digital: []}}"],
         "report.ablation: x: the network my_net.py:Digital on the chip, in training, cannot take"),
        ([*UNTRAINED], None),
        (["--model.name=my_net.py:factory", "--model.options={width: 3}"], None),
        (["--model.name=my_net.py:factory", "--model.options={wdth: 3}"],
         "model: my_net.py:factory cannot be made with {'classes': 2"),
        (["--features.name=mfcc", "--features.options={coefficients: 99}"], "must be an integer"),
        (["--augment.time_masks=1"], "set time_masks and frequency_masks to 0"),
        (["--data.folder.labels=[low, mid]"], "unknown class 'high'; allowed are low, mid"),
    ],
    ids=lambda value: "".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_mistakes_are_named_before_any_training(
    options: list[str], message: str | None, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(kws, "train_digital", stop)
    assert main(["kws", *SMALL, *options, f"--out={tmp_path / 'out'}"]) == 2
    printed = capsys.readouterr().err.splitlines()[-1]
    assert (message or "training begins") in printed
    if message:
        assert not list((tmp_path / "out").glob("*"))


def test_a_network_that_needs_a_batch_of_its_training_runs_and_is_measured_later(
    folder: Path, tmp_path: Path, monkeypatch
) -> None:
    out = tmp_path / "out"
    assert main(["kws", *SMALL, *GHOST, "--digital.epochs=1", f"--out={out}"]) == 0
    monkeypatch.setattr(rehearsal, "check_training", stop)  # a finished run is trained no more
    assert main(["compare", str(out), "--num-chips=1", "--allow-code"]) == 0
    assert main(["listen", str(out), "words/low/ann_0.wav", "--allow-code"]) == 0


def test_a_try_of_the_training_leaves_the_network_and_the_random_state() -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Dropout(), torch.nn.Flatten())
    features = torch.randn(4, 3) + 2
    state, random = {k: v.clone() for k, v in network.state_dict().items()}, torch.get_rng_state()
    check_training("the network", network.eval(), ("a", "b", "c"), features)
    assert torch.equal(torch.get_rng_state(), random)
    assert not network.training
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())


def stop(*_: object, **__: object) -> None:
    raise ValueError("training begins")


def test_options_of_the_package_are_stated_in_full() -> None:
    config = KWSConfig(model=ModelConfig(options={"widths": (4, 8)}))
    assert config.model.options == {"widths": [4, 8]}
    stated = config.to_dict()
    expected = {"widths": [4, 8], "stem_stride": [1, 2], "dropout": 0.2}
    assert stated["model"] == {"name": "conv", "options": expected}
    assert stated["features"]["options"]["hop_ms"] == 20
    assert config.features.build()(torch.zeros(1, 16_000)).shape == (1, 1, 49, 40)
    mfcc = FeaturesConfig(name="mfcc", options={"hop_ms": 10, "window_ms": 30, "coefficients": 13})
    assert mfcc.build()(torch.zeros(1, 16_000)).shape == (1, 1, 98, 13)
    assert config.model.build(classes=3, input_shape=(1, 98, 13)).head.out_features == 3


def test_the_random_state_of_a_front_end_is_that_of_the_seed() -> None:
    features = FeaturesConfig(name="my_net.py:Projected")
    waveforms = torch.linspace(-1, 1, 16_000)[None]
    found = {}
    for seed in (0, 0, 1):
        torch.rand(1)  # what a process drew before has no effect
        before = torch.get_rng_state()
        given = KWSConfig(seed=seed, features=features).front_end()(waveforms)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(given, found.setdefault(seed, given))
    assert not torch.equal(found[0], found[1])


def test_a_clip_whose_features_are_not_finite_is_named(folder: Path) -> None:
    config = parse([*SMALL, "--features.name=my_net.py:Steps"]).config
    splits = config.data.selected.load()
    test = splits["test"]
    test.waveforms[1] = 0
    with pytest.raises(ValueError, match=f"1 of [0-9]+ clips, such as the clip '{test.names[1]}'"):
        prepare(splits, config.augment, seed=0, features=config.features.build())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("seed: null", "seed"),
        ("sweep: {num_chips: }", "sweep.num_chips"),
        ("data: {source: null}", "data.source"),
        ("out: null", "out"),
        ("chip: {options: null}", "chip.options"),
        ("report: {budget: null}", "report.budget"),
    ],
)
def test_null_is_no_value_of_most_options(text: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"^{name} is null or empty; give a value, or leave it"):
        parse(["--config", str(file)])
    file.write_text("hwa: {clip_sigma: null}\nprogress: null")
    assert parse(["--config", str(file)]).config.hwa.clip_sigma is None
