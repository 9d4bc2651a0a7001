"""The cost benchmark (registry, one row, bars, settings of libraries) and tables of the others."""

import csv
import dataclasses
import importlib
import json
import math
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import analogtorch as at
import benchmarks
from analogtorch.ops import native, recurrence
from analogtorch.report import Result
from analogtorch.speech.data import Clips
from analogtorch.speech.labels import LABELS
from analogtorch.speech.models import NETWORKS
from analogtorch.speech.noise import generate_noise
from analogtorch.speech.pretrained import PretrainedKWS
from analogtorch.speech.transcription.whisper import Whisper, load_whisper
from benchmarks import (
    connected,
    devices,
    mvm,
    networks,
    peers,
    picture,
    plan,
    recovery,
    recurrent,
    rnnt,
    sweep,
    transcribe,
    vad,
)
from benchmarks.adapt import __main__ as adapt
from benchmarks.adapt import runs, silero, subjects, whisper
from benchmarks.adapt.report import gains, of_nets, of_rows
from benchmarks.convert import __main__ as convert
from benchmarks.convert import efforts, language
from benchmarks.convert.clipping import clipped
from benchmarks.hwa import __main__ as hwa
from benchmarks.hwa.recipes import CONFIGURED
from benchmarks.pretrained import correcting_clips
from benchmarks.registry import SHAPES, Shape, chip
from benchmarks.subject import Subject, agreement
from tests.speech.transcription import tiny

TINY = Shape(layer=lambda: nn.Linear(16, 4), input=(3, 16), train_bar=1.5, rows=8)


BENCHMARKS = Path(benchmarks.__path__[0])
COMMANDS = sorted(
    f"benchmarks.{path.relative_to(BENCHMARKS).with_suffix('')}".replace("/", ".")
    for path in BENCHMARKS.rglob("*.py")
    if "\ndef main(" in path.read_text("utf-8")
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_its_help(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [command, "--help"])
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(command).main()
    assert "--help" in capsys.readouterr().out


@pytest.mark.parametrize("name", SHAPES)
def test_every_registered_layer_takes_its_input_and_a_chip(name: str) -> None:
    shape = SHAPES[name]
    layer = shape.layer()
    assert isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)
    assert shape.input[1] == (
        layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    )
    assert isinstance(chip(shape), at.Chip)
    assert shape.train or shape.train_bar is None
    assert shape.train_bar is None or shape.train_bar > 1
    assert shape.eval_bar is None or shape.eval_bar > 1


def test_the_bars() -> None:
    bars = {n: (s.train_bar, s.eval_bar) for n, s in SHAPES.items() if s.train_bar or s.eval_bar}
    assert bars == {
        "linear_512": (1.35, 1.3),
        "linear_1024": (1.2, 1.2),
        "linear_2048": (1.3, 1.25),
        "linear_1024_no_adc": (1.15, None),
        "conv2d_64_128": (1.25, 1.4),
        "linear_1024_by_tile": (1.2, 1.2),
        "linear_512_read_noise": (2.2, 1.8),
        "linear_1024_slices": (1.3 * 4 * 1.2, 1.3 * 4 * 1.2),
        "linear_1024_pulses": (1.3 * 8 * 1.2, 1.3 * 8 * 1.2),
        "conv2d_64_128_read_noise": (2.2, 1.8),
        "linear_512_device_noise": (4.0, None),
        "conv2d_64_128_device_noise": (4.0, None),
        "linear_512_ir_drop": (2.5, 2.0),
    }


LAYERS = {
    "linear": TINY,
    "conv1d": dataclasses.replace(
        TINY, layer=lambda: nn.Conv1d(4, 4, 3, padding=1), input=(2, 4, 5)
    ),
    "conv2d": dataclasses.replace(
        TINY, layer=lambda: nn.Conv2d(4, 4, 3, groups=4), input=(2, 4, 5, 5)
    ),
    "autocast": dataclasses.replace(TINY, autocast=torch.bfloat16),
    "preset": dataclasses.replace(TINY, preset=True),
    "by_tile": dataclasses.replace(TINY, by_tile=True),
    "read_noise": dataclasses.replace(TINY, read_noise=True),
    "device_noise": dataclasses.replace(TINY, device_noise=True),
    "ir_drop": dataclasses.replace(TINY, wires="pulses"),
    "slices": dataclasses.replace(TINY, slices={"weight_bits": 8, "bits_per_pulse": 4}),
}


@pytest.mark.parametrize("shape", LAYERS.values(), ids=LAYERS)
def test_a_row_has_every_column(shape: Shape) -> None:
    row = mvm.measure("tiny", shape, rounds=2)
    assert tuple(row) == mvm.COLUMNS
    empty = {c for c in mvm.COLUMNS if row[c] is None}
    others = {c for c in mvm.COLUMNS if c.startswith(tuple(peers.PEERS))}
    assert empty == others | {"peak_digital", "peak_analog", "eval_bar", "facts"}
    assert row["train_ratio"] == pytest.approx(row["train_ms"] / row["train_digital_ms"])
    assert row["eval_ratio"] == pytest.approx(row["eval_ms"] / row["eval_digital_ms"])
    # as if measured on a machine where nothing else runs: a ratio of four digits moves the columns
    usual = row | {name: 1.0 for name, value in row.items() if isinstance(value, float)}
    assert mvm.line(usual, peers.PEERS).startswith("tiny")
    assert len(mvm.line(usual, peers.PEERS)) == len(mvm.header(peers.PEERS))


def test_the_bytes_that_must_move_count_each_tensor_once() -> None:
    row = mvm.measure("tiny", TINY, rounds=2)
    x, w, y = 3 * 16, 16 * 4, 3 * 4
    assert row["eval_bytes"] == 4 * (x + w + y)
    assert row["train_bytes"] == 4 * 2 * (x + w + y)
    assert row["train_gb_s"] == pytest.approx(row["train_bytes"] / (row["train_ms"] * 1e-3) / 1e9)


def test_evaluation_alone() -> None:
    row = mvm.measure("tiny", dataclasses.replace(TINY, train=False, train_bar=None), rounds=2)
    assert row["eval_ratio"] > 0
    assert row["train_ratio"] is row["train_bytes"] is row["saved_analog"] is None
    assert mvm.missed([row]) == []


def test_saved_bytes_are_what_autograd_keeps() -> None:
    layer, x = nn.Sequential(nn.Linear(16, 4), nn.Sigmoid()), torch.randn(3, 16)
    # the sigmoid's output; input and weight are there anyway
    assert mvm.saved_bytes(layer, TINY, x) == 3 * 4 * 4
    assert not x.requires_grad


def test_peak_of_a_step_is_that_of_its_gradients() -> None:
    side = 2048
    peak = mvm.step_peak(Shape(layer=lambda: nn.Linear(side, side), input=(8, side)), "digital")
    if peak is None:
        pytest.skip("this system does not tell the peak of a process's memory")
    # at most the weight's gradient, and little beside it; less, if this process keeps memory from
    # before
    assert 0 <= peak < 1.5 * 4 * side * side


class _Lying(peers.Library):
    """A library that builds for another setting than it was asked for."""

    def __init__(self, **lie) -> None:
        super().__init__(
            "analogtorch", lambda layer, shape, limit: self._lie(layer, shape, limit, lie)
        )

    @staticmethod
    def _lie(layer, shape, limit, lie):
        converted = at.convert(layer, chip(shape).replace(**lie))
        converted.set_input_range(limit)
        return converted


SETTING = Shape(layer=lambda: nn.Linear(8, 4), input=(3, 8), rows=256)


@pytest.mark.parametrize("adc", [True, False])
def test_our_own_layer_keeps_to_the_setting(adc: bool) -> None:
    peers.verify(peers.OURS, dataclasses.replace(SETTING, adc=adc))


LIES = [
    ("inputs", {"dac": {"bits": 10}}),
    ("inputs", {"dac": {"bits": 6}}),
    ("outputs are rounded", {"adc": {"bits": None}}),
    ("weight noise", {"training": at.TrainingNoise(weight="none")}),
    ("weight noise", {"training": at.TrainingNoise(weight="gaussian", scale=0.1)}),
    ("two tiles", {"array": {"rows": 512}}),
]


@pytest.mark.parametrize(("claim", "lie"), LIES)
def test_a_library_that_does_other_work_is_found_out(claim: str, lie: dict) -> None:
    with pytest.raises(peers.OtherSetting, match=claim):
        peers.verify(_Lying(**lie), SETTING)


def test_a_peer_that_refuses_a_layer_is_noted_and_the_rest_is_measured(monkeypatch) -> None:
    def refuse(layer, shape, limit):
        raise ValueError("no groups")

    monkeypatch.setitem(peers.PEERS, "aihwkit_torch", peers.Library("aihwkit", refuse))
    row = mvm.measure("tiny", TINY, rounds=2, peers=["aihwkit_torch"])
    assert row["aihwkit_torch_note"] == "ValueError: no groups"
    assert row["aihwkit_torch_train_ratio"] is None
    assert row["train_ratio"] > 0


def test_a_peer_takes_turns(monkeypatch) -> None:
    monkeypatch.setitem(peers.PEERS, "aihwkit_torch", peers.Library("aihwkit", peers.OURS.build))
    row = mvm.measure("tiny", TINY, rounds=2, peers=["aihwkit_torch"])
    assert row["aihwkit_torch_note"] is None
    assert row["aihwkit_torch_train_ratio"] > 0
    assert row["aihwkit_torch_eval_ratio"] > 0
    assert row["aihwkit_torch_saved"] == row["saved_analog"]


def _row(**values) -> mvm.Row:
    return dict.fromkeys(mvm.COLUMNS) | {"shape": "made_up"} | values


def test_missed_bars() -> None:
    # 1.20 at the two decimals that are printed
    good = _row(train_ratio=1.204, train_bar=1.2, eval_ratio=9.0)
    bad = _row(train_ratio=1.21, train_bar=1.2, eval_ratio=1.3, eval_bar=1.3)
    unmeasured = _row(eval_bar=1.3)
    assert mvm.missed([good]) == []
    assert mvm.missed([good, bad, unmeasured]) == [
        "made_up train: 1.21, bar 1.20",
        "made_up eval: not measured, bar 1.30",
    ]


@pytest.mark.parametrize(
    ("ratio", "flags", "code"), [(1.0, ["--check"], 0), (2.0, ["--check"], 1), (2.0, [], 0)]
)
def test_the_command(
    ratio: float, flags: list[str], code: int, tmp_path, monkeypatch, capsys
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(
        mvm,
        "measure",
        lambda name, shape, rounds, peers: _row(shape=name, train_ratio=ratio, train_bar=1.2),
    )
    monkeypatch.setattr(
        mvm, "peaks", lambda name, threads: {"peak_digital": 1, "peak_analog": 2_000_000}
    )
    monkeypatch.setattr(mvm, "usable", lambda shapes: [])
    arguments = [
        "--rounds",
        "1",
        "--shapes",
        "linear_512",
        "--out",
        str(tmp_path),
        "--threads",
        str(threads),
    ]
    assert mvm.main([*arguments, *flags]) == code
    printed = capsys.readouterr()
    assert ("every bar is met" in printed.out) == (ratio < 1.2)
    assert "torch 2." in printed.out
    assert "[1/1] linear_512" in printed.err
    with (tmp_path / "mvm.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == mvm.COLUMNS
    assert (row["shape"], row["train_bar"], row["peak_analog"]) == ("linear_512", "1.2", "2000000")
    assert "analogtorch" in row["facts"]
    assert row["eval_ratio"] == ""


@pytest.mark.parametrize("flags", [[], ["--one-by-one"]])
def test_recurrent_layers_beside_torchs(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    small = {"GRU": (nn.GRU, (3, 4), (5, 2)), "LSTM": (nn.LSTM, (3, 4), (5, 1))}
    monkeypatch.setattr(recurrent, "LAYERS", small)
    at_once, run, turns = list[int](), recurrence.run, recurrent.turns

    def counted(*given: Any) -> Any:
        at_once.append(1)
        return run(*given)

    def timed(*given: Any) -> Any:
        at_once.clear()  # of the calibration
        return turns(*given)

    monkeypatch.setattr(recurrence, "run", counted)
    monkeypatch.setattr(recurrent, "turns", timed)
    recurrent.main(["--rounds", "1", *flags])
    assert bool(at_once) == (native.available() and not flags)
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[-3:] == ["train", "eval", "chip"]
    assert [row.split()[0] for row in rows] == ["GRU", "LSTM"]
    assert all(float(ratio) > 0 for row in rows for ratio in row.split()[-3:])


def test_the_table_of_whole_networks(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    convert.main(["--table", "vision", "--models", "transformer", "--out", str(tmp_path)])
    assert "nn.Transformer" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "vision.json").read_text())["rows"]
    assert row["guard"] == "ok"
    assert row["share"] == 1.0
    assert row["cosines"]["DAC alone"] > 0.999
    assert "| nn.Transformer | ok |" in (tmp_path / "vision.md").read_text()


def _little_llama(tokens: int, steps: int) -> tuple[nn.Module, language.Text]:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config).eval()
        ids = torch.randint(40, (3 + steps, 1, tokens))
    measured, calibration, training = list(ids[0]), list(ids[1:3]), list(ids[3:])
    return model, language.Text(
        measured=measured, calibration=calibration, correction=calibration, training=training
    )


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_table_of_a_language_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(language, "smollm2_text", _little_llama)
    # a net this small clips nowhere
    monkeypatch.setattr(language, "clipped", lambda *_: ["model.layers.0.mlp.down_proj"])
    options = ["--tokens", "8", "--steps", "4", "--rank", "2", "--times", "1 day", "--kinds"]
    designs = ["--designs", "calibrated", "mixed", "--program", "mixed"]
    convert.main(["--table", "language", *options, *designs, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    (found,) = json.loads((tmp_path / "language.json").read_text())["rows"]
    model, text = _little_llama(8, 4)
    assert found["digital"] == language.perplexity(model, text.measured)
    kinds = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
    assert list(found["kinds"]) == [*kinds, "lm_head"]
    assert found["digital"] not in found["kinds"].values()
    calibrated, mixed = found["rows"]
    assert list(calibrated["seconds"]) == ["convert", "calibrate", "map"]
    assert list(mixed["seconds"]) == ["convert", "map", "program"]
    assert (list(calibrated["times"]), list(mixed["times"])) == ([], ["1 day"])
    assert [point["steps"] for point in found["curve"]] == [1, 2, 3, 4]
    assert found["curve"][-1]["perplexity"] != mixed["corrected"] != mixed["times"]["1 day"]
    # (inputs + outputs) of the seven projections, times the rank
    adapters = 2 * (2 * (16 + 16) + 2 * (16 + 8) + 3 * (16 + 24))
    assert found["share"] == adapters / sum(p.numel() for p in model.parameters())
    assert f"| digital | {found['digital']:.2f} | - |" in (tmp_path / "language.md").read_text()
    assert "columns corrected" in printed


def test_layers_whose_sums_expansion_makes_too_large_are_found() -> None:
    net = nn.Sequential(nn.Linear(256, 8, bias=False), nn.Linear(8, 4, bias=False))
    with torch.no_grad():
        net[0].weight[0] = 0.01
        net[0].weight[0, 5] = 3.0
    x = 0.01 * torch.ones(1, 256)
    x[0, 5] = 100.0  # one channel meets one weight
    mixing = at.chips.hermes64(weight_scale="column").replace(expansion={"factor": 1.0})
    run = lambda model, batch: model(batch)  # noqa: E731
    assert clipped(net, mixing, [x], run) == ["0"]
    assert clipped(net, at.chips.hermes64(weight_scale="column"), [x], run) == []


def test_the_perplexity_counts_every_predicted_token_alike() -> None:
    model, text = _little_llama(8, 0)
    (ids,) = text.measured
    whole = language.perplexity(model, [ids])
    # a last piece of one token predicts none
    assert language.perplexity(model, [ids, ids[:1]]) == whole
    short = language.perplexity(model, [ids[:4]])
    both = math.exp((7 * math.log(whole) + 3 * math.log(short)) / 10)
    assert language.perplexity(model, [ids, ids[:4]]) == pytest.approx(both, rel=1e-5)


def _keywords(name: str, folder: Path) -> PretrainedKWS:
    """A net of few weights with clips that it knows, in place of one that others trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, x = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(160, 12)
    return PretrainedKWS(
        name=name,
        model=net.eval(),
        features=x,
        labels=net(x).argmax(1),
        classes=tuple("abcd"),
        accuracy=1.0,
    )


def test_the_table_of_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(plan, "load_pretrained", _keywords)
    options = ["--floor", "0.5", "--chips", "1", "--plans", "12", "--also", "2", "--confirm", "2"]
    plan.main([*options, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "least energy: " in printed
    assert "on 2 further chips, " in printed
    assert "least digital_macs: all analog" in printed
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert files == {f"energy.{kind}" for kind in ("txt", "json", "csv", "png")}
    found = json.loads((tmp_path / "energy.json").read_text())
    assert ["2"] in [point["digital"] for point in found["points"]]
    assert (tmp_path / "energy.txt").read_text() in printed


def test_a_plan_of_another_net_calibrates_and_corrects_by_its_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    net, seen = _keywords("any", Path()), []
    batches = list(net.features.split(16))

    def forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return model(x)

    pictures = Subject(
        name="pictures",
        measure="agreement",
        model=net.model,
        calibration=batches,
        forward=forward,
        batches=batches[:1],
        score=lambda y: (y.argmax(1) == net.labels[:16]).double().mean().item(),
    )
    monkeypatch.setitem(plan.SUBJECTS, "EfficientNet-Lite0", lambda data, every: pictures)
    options = ["--net", "EfficientNet-Lite0", "--floor", "0.5", "--chips", "1", "--plans", "12"]
    plan.main([*options, "--confirm", "0", "--correct", "6", "--out", str(tmp_path)])
    assert "digital metric 1;" in capsys.readouterr().out
    found = [any(torch.equal(x, batch) for x in seen) for batch in batches]
    assert found == [True] * 6 + [False] * 4  # four of the ten calibrate, six correct


@pytest.mark.parametrize("batches", [1, 2, 4])
def test_clips_that_correct_are_of_all_classes(batches: int) -> None:
    sorted_by_class = torch.arange(4890) * 12 // 4890
    net = dataclasses.replace(
        _keywords("any", Path()), features=sorted_by_class, labels=sorted_by_class
    )
    found = correcting_clips(net, batches)
    assert [len(batch) for batch in found] == [64] * batches
    assert all(len(batch.unique()) == 12 for batch in found)


def test_the_table_of_recovery(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(recovery, "load_pretrained", _keywords)
    times = ["--life", "30 days", "--schedule", "10 days", "--early", "1 h"]
    recovery.main([*times, "--intervals", "30 days", "--floor", "0.5", "--chips", "1"])
    printed = capsys.readouterr().out
    # 160 clips: every 19th corrects, and every fourth from the second on is measured but for these
    assert "DNN_L, 38 clips, floor 0.5000; a recovery takes 9 clips" in printed
    assert "with recovery" in printed
    assert "every 30 days keeps all chips" in printed


def test_the_table_of_adapt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(subjects, "load_pretrained", _keywords)
    monkeypatch.setattr(subjects, "BATCH", 16)

    def no_package(data: Path, every: int) -> Subject:
        raise ImportError("it needs the package weights")

    monkeypatch.setitem(subjects.SUBJECTS, "MiniLM", no_package)
    options = ["--nets", "DNN_L", "MiniLM", "--seeds", "0", "--steps", "2", "--chips", "1"]
    options += ["--times", "0 s", "1 day", "--correct", "2", "--out", str(tmp_path)]
    adapt.main(options)
    printed = capsys.readouterr().out
    names = [f"DNN_L-{row}-0.json" for row in sorted(adapt.ROWS)]
    assert sorted(path.name for path in tmp_path.glob("*.json")) == sorted(
        [*names, "DNN_L-hardware.json"]
    )
    rows = [json.loads((tmp_path / name).read_text()) for name in names]
    for found in rows:
        assert torch.tensor([found["chips"], found["corrected"]]).shape == (2, 1, 2)
    # of 80 clips, of which chips may get as many right by chance
    assert any(found["chips"] != found["corrected"] for found in rows)
    hardware = json.loads((tmp_path / "DNN_L-hardware.json").read_text())
    assert hardware["digital"] == hardware["ideal"] == 1.0
    assert (hardware["chips"], hardware["tiles"]) == (1, 1)
    assert 0 < hardware["digital energy"] < hardware["energy"]
    page = (tmp_path / "adapt.md").read_text()
    assert " | adapted: 8-bit I/O / 0 s / 1 day | " in page
    row = next(line for line in page.splitlines() if line.startswith("| DNN_L | accuracy | "))
    cells = row.split(" | ")
    assert cells[2:5] == ["hermes64", "100.0", "100.0"]
    assert all(cell.count(" / ") == 2 for cell in cells[5 : 5 + len(adapt.ROWS)])
    assert cells[5 + len(adapt.ROWS) :][:2] == ["1", "1"]
    assert "| DNN_L | control | " in page
    assert "| DNN_L | adapted, columns corrected | " in page
    assert "| net | adapted minus | 0 s | 1 day |" in page
    assert "± inf" not in page  # one seed has no interval
    assert "- Not measured: MiniLM. it needs the package weights" in page
    assert "2 steps without labels at most" in printed
    monkeypatch.setattr(runs.at.hwa, "adapt", None)  # finished runs are kept
    adapt.main(options)
    assert (tmp_path / "adapt.md").read_text() == page
    adapt.main([*options, "--rows", "mapped", "--cells", "2"])
    assert "two devices per polarity and 2 unit cells per weight." in capsys.readouterr().out
    larger = [json.loads((tmp_path / f"DNN_L-{name}.json").read_text()) for name in (
        "hardware", "mapped-0")]  # fmt: skip
    assert [found["asked"]["cells"] for found in larger] == [2, 2]
    assert larger[0]["energy"] > hardware["energy"]
    with pytest.raises(SystemExit, match=r"benchmarks.adapt: Not measured: MiniLM\."):
        adapt.main(["--nets", "MiniLM", "--out", str(tmp_path)])

    def asked_for(*_: object, recipe: at.hwa.Recipe, **__: object) -> None:
        raise ValueError(f"asked for {recipe.learning_rate} and {recipe.attention}")

    monkeypatch.setattr(runs.at.hwa, "adapt", asked_for)
    with pytest.raises(SystemExit, match=r"asked for 0\.125 and 0\.5"):
        adapt.main([*options, "--learning-rate", "0.125", "--attention", "0.5"])


def test_adapt_passes_the_steps_of_columns_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(subjects, "load_pretrained", _keywords)
    monkeypatch.setattr(subjects, "BATCH", 16)
    given, recovery = [], at.Recovery

    def kept(**options: Any) -> at.Recovery:
        given.append(options["steps"])
        return recovery(**options)

    monkeypatch.setattr(runs.at, "Recovery", kept)
    options = ["--nets", "DNN_L", "--rows", "mapped", "--chips", "1", "--times", "1 day"]
    options += ["--out", str(tmp_path), "--correct", "2"]
    for more in ([], ["--correct-steps", "3"], ["--correct-steps", "3"]):
        adapt.main([*options, *more])
    assert given == [None, 3], "rows of other steps are measured anew, others are kept"
    with pytest.raises(SystemExit):
        adapt.main(["--correct-steps", "3"])
    assert "of --correct" in capsys.readouterr().err


ROWS = ("mapped", "control", "adapted")


def test_scores_are_printed_in_their_units_and_gains_are_paired() -> None:
    nets = {"a": {"measure": "agreement"}, "b": {"measure": "perplexity"}}

    def seeds(*means: float) -> list[dict]:
        return [{"io": m, "chips": [[m - 0.01], [m + 0.01]], "seconds": 1.0} for m in means]

    rows = {
        (net, row): seeds(*means)
        for net in nets
        for row, means in zip(ROWS, ([0.5], [0.5, 0.7], [0.6, 0.8]), strict=True)
    }
    assert of_rows(rows, nets, ["0 s"])[1] == ["a", "mapped", "50.0", "50.0 ± 1.4", "1"]
    assert of_rows(rows, nets, ["0 s"])[4] == ["b", "mapped", "0.500", "0.500 ± 0.014", "1"]
    hardware = {name: 1 for name in ("digital", "ideal", "chips", "tiles", "energy", "latency")}
    hardware |= {"digital energy": 1, "options": {}, "lower is better": False}
    whole = {net: nets[net] | hardware for net in nets}
    table = of_nets(whole, {k: v for k, v in rows.items() if k != ("b", "mapped")}, ["0 s"])
    assert table[0][5:9] == [*(f"{row}: 8-bit I/O / 0 s" for row in ROWS), "chips"]
    assert table[1][5:8] == ["50.0 / 50.0", "60.0 / 60.0", "70.0 / 70.0"]
    assert table[2][5:8] == ["", "0.600 / 0.600", "0.700 / 0.700"]
    assert of_nets(whole, {}, ["0 s"])[1][3:7] == ["100.0", "100.0", "1", "1"]
    table = gains(rows, nets, ["0 s"])
    # means of both seeds and Student's 12.706 s / sqrt(2); the mapped net is the same for both
    assert table[1:3] == [["a", "mapped", "+20.00 ± 127.06"], ["a", "control", "+10.00 ± 0.00"]]
    assert table[4] == ["b", "control", "+0.1000 ± 0.0000"]


def _clips(count: int) -> Clips:
    """Noise of growing loudness, under the labels in turn."""
    loud = torch.arange(1, count + 1)[:, None]
    noise = torch.randn(count, 16_000, generator=torch.Generator().manual_seed(0))
    return Clips(
        waveforms=(100 * loud * noise).to(torch.int16),
        labels=torch.arange(count) % len(LABELS),
        speakers=("",) * count,
        names=tuple(map(str, range(count))),
    )


@torch.no_grad()
def test_silero_vad_learns_from_silence() -> None:
    """Where the spectrum learnt, too, its gradient was NaN, and adapt undid the training."""
    net = silero.SileroVAD()
    with torch.enable_grad():
        net(torch.zeros(1, 4 * 512)).sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)


def test_silero_vad_hears_a_recording_as_frame_by_frame() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, x = silero.SileroVAD(), torch.randn(2, 3 * 512 - 100)
    assert net(x).shape == (2, 3, 1)
    padded, state = nn.functional.pad(x, (64, 100)), None
    for frame in range(3):  # as tinygrad_model.py of the package computes
        y = nn.functional.pad(padded[:, 512 * frame : 512 * frame + 576], (0, 64), mode="reflect")
        y = net.stft_conv(y[:, None])
        y = (y[:, :129] ** 2 + y[:, 129:] ** 2).sqrt()
        for conv in (net.conv1, net.conv2, net.conv3, net.conv4):
            y = conv(y).relu()
        h, state = net.lstm(y.mT, state)
        torch.testing.assert_close(net.final_conv(h.mT.relu())[:, :, 0], net(x)[:, frame])


def test_a_recording_has_as_many_words_as_noises(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = _clips(24)
    found = silero.recordings(clips, 6, seed=0)
    assert found.shape == (6, 64_000)
    of_clip = {tuple(c[:3].tolist()): i for i, c in enumerate(clips.waveforms.float() / 32768)}
    silence = LABELS.index("_silence_")
    for recording in found:
        parts = [of_clip[tuple(part[:3].tolist())] for part in recording.split(16_000)]
        assert sum(int(clips.labels[i]) == silence for i in parts) == 2
    assert torch.equal(found, silero.recordings(clips, 6, seed=0))
    net = silero.SileroVAD().eval()
    with torch.no_grad():  # the logits have both signs
        net.final_conv.bias -= net(found).mean()
    monkeypatch.setattr(silero, "silero_vad", lambda: net)
    subject = silero.subject({"train": clips, "test": clips}, every=50)
    assert subject.scored(net) == 1.0


def test_words_are_mixed_into_noise_with_their_frames(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    clips, noise = _clips(24), generate_noise(seed=0, seconds=2)
    x, y = vad.recordings(clips, noise, 6, seed=3)
    assert (x.shape, y.shape) == ((6, 64_000), (6, 125, 1))
    # two words of steady loudness: a second each, of four
    assert ((y.sum(1) >= 62) & (y.sum(1) <= 66)).all()
    loud = x.unfold(1, 512, 512).square().mean(-1, keepdim=True)
    power = [(loud * part).sum(1) / part.sum(1) for part in (y, ~y)]
    ratio = 10 * (power[0] / power[1] - 1).log10()  # of the words to the noise
    assert ((ratio > -8) & (ratio < 18)).all()
    assert torch.equal(x, vad.recordings(clips, noise, 6, seed=3)[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = silero.SileroVAD().eval()
    bench = vad.Bench(net, {"train": clips, "test": clips}, noise, 2)
    bench.learnt = [bench.learnt[0][:1]]
    options = ["--chips", "1", "--times", "0 s", "--out", str(tmp_path)]
    vad.main(options, make=lambda given: bench)
    printed = capsys.readouterr().out
    exact = 100 * at.metrics.auc(bench.pairs)(net)
    assert f"Digital: AUC {exact:.2f} %, ideal chip {exact:.2f} %" in printed
    assert "| EER | columns corrected |" in (tmp_path / "vad.md").read_text()


def test_a_detector_that_never_hears_speech_scores_half() -> None:
    exact = torch.tensor([2.0, -1.0, -3.0, -0.5])
    score = silero.decisions(exact)
    assert score(exact) == 1.0
    assert score(-exact.abs()) == score(exact.abs()) == 0.5
    assert score(-exact) == 0.0


def test_the_transducer_of_the_paper_on_five_chips(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rnnt.main(["--seconds", "1", "--out", str(tmp_path)], runs=lambda seconds, mappings: ["run"])
    printed = capsys.readouterr().out
    assert "44,564,480 weights, 153 M devices" in printed
    assert "4 with 4 (126 tiles) and 1 with 2 (48 tiles)" in printed
    assert "is 8.377 %" in printed
    table = [line.split() for line in printed.splitlines()[2:5]]
    assert [(row[0], float(row[-1])) for row in table] == list(rnnt.PUBLISHED.items())
    assert all(float(row[2]) < float(row[3]) for row in table)  # a second pass costs
    assert float(table[0][3]) == pytest.approx(20, rel=0.1)  # few tiles are used in part
    assert "| tile | " in (tmp_path / "rnnt.md").read_text()


def test_balance_and_expansion_of_the_transducer() -> None:
    tile, host = [], []
    for options in ((), (True,), (False, 1.0)):
        energies = [at.cost(m).energy for m in rnnt.mapped(1, *rnnt.chips(*options))]
        tile.append(sum(energy.tile for energy in energies[:2]))
        host.append(energies[2].host_digital)
    assert tile[1] == pytest.approx(2 * tile[0])  # each MVM is read twice
    assert tile[2] == pytest.approx(tile[0])
    assert host[2] > 5 * host[0] == 5 * host[1]  # inputs are multiplied by a random matrix


def test_a_transducer_writes_the_likeliest_symbols() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with torch.device("meta"):
            net = rnnt.RNNT()
        net.before, net.after = nn.LSTM(240, 4, 2), nn.LSTM(8, 4, 3)
        net.embedding, net.prediction = nn.Embedding(29, 320), nn.LSTM(320, 320, 2)
        net.joint = nn.Sequential(nn.Linear(324, 8), nn.ReLU(), nn.Linear(8, 29))
        frames = torch.randn(6, 1, 240)
    net.joint[2].bias.data[rnnt.BLANK] = 9.0
    assert net.greedy(frames) == []
    net.joint[2].bias.data[rnnt.BLANK] = -9.0
    found = net.greedy(frames, most=2)
    assert len(found) == 6  # two for each of three codes
    assert net(frames, torch.tensor(found)[:, None]).shape == (3, 6, 1, 29)
    # the prediction net has read zeros and all symbols before
    read = torch.cat([torch.zeros(1, 1, 320), net.embedding(torch.tensor(found)[:, None])])
    y, codes = net.prediction(read)[0], net.encode(frames)
    for i, symbol in enumerate(found):
        assert int(net.joint(torch.cat([codes[i // 2], y[i]], -1)).argmax()) == symbol


@pytest.fixture
def recogniser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Whisper:
    """A tiny Whisper for all benchmarks."""
    found = load_whisper(tiny.write(tmp_path), seconds=15)
    for module in (transcribe, whisper):
        monkeypatch.setattr(module, "load_whisper", lambda: found)
    return found


def _spoken(count: int) -> Clips:
    return dataclasses.replace(_clips(count), speakers=("ann",) * count)


def test_whisper_is_scored_by_its_word_error_rate(
    recogniser: Whisper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whisper, "LEARNT", 2)
    monkeypatch.setattr(whisper, "MEASURED", 4)
    splits = {"train": _spoken(24), "test": _spoken(24)}
    subject = whisper.subject(splits, every=2)
    assert [len(batch["input_features"]) for batch in subject.batches] == [2]
    assert subject.scored(subject.model) == pytest.approx(1.0, abs=0.2)  # it knows no word
    assert subject.forward(subject.model, subject.calibration[0]).shape[::2] == (2, 13)


def test_the_table_of_whisper(
    recogniser: Whisper,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(transcribe, "LEARNT", 1)
    clips = {"train": _spoken(24), "test": _spoken(24)}
    monkeypatch.setattr(transcribe.Folder, "load", lambda self: clips)
    (tmp_path / transcribe.MANIFEST).parent.mkdir()
    rows = ["head digital, corrected"]
    options = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--recordings", "1"]
    transcribe.main([*options, "--chips", "1", "--times", "0 s", "--rows", *rows])
    printed = capsys.readouterr().out
    assert "1 recordings of 0.1 min with 6 words; digital" in printed
    assert "ideal chip: 1 of 1 texts as the digital net" in printed
    assert "weights that multiply are on the chip (100 %)" in printed
    page = (tmp_path / "out" / "transcribe.md").read_text()
    assert "| row | 8-bit I/O | 0 s | s |" in page
    assert "| head digital, corrected | " in page


@pytest.mark.parametrize("command", [adapt, connected, plan, recovery, transcribe, vad])
def test_a_missing_file_is_named(command: types.ModuleType, tmp_path: Path) -> None:
    options, name = ["--data", str(tmp_path)], command.__name__.removesuffix(".__main__")
    if command is not recovery:
        options += ["--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=rf"{name}: .* does not exist; give the folder"):
        command.main(options)
    assert not (tmp_path / "out").exists()


def _small(epochs: int, data: Path) -> dict[str, Callable[[], Subject]]:
    torch.manual_seed(0)
    x, net = torch.randn(60, 12), nn.Linear(12, 4)
    subject = Subject(
        name="small",
        measure="accuracy",
        model=net.eval(),
        calibration=list(x.split(15)),
        batches=[x],
        score=agreement(net(x)),
    )
    return {"small": lambda: subject}


def test_the_table_of_efforts(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(efforts, "nets", _small)
    options = ["--table", "efforts", "--chips", "2", "--out", str(tmp_path)]
    convert.main([*options, "--data", str(tmp_path / "speech")])
    assert "search" in capsys.readouterr().out
    rows = json.loads((tmp_path / "efforts.json").read_text())["rows"]
    assert [row["effort"] for row in rows] == ["uncalibrated", "ranges", "default", "search"]
    assert [len(row["on_chip"]) for row in rows] == [2, 2, 2, 2]
    assert rows[-1]["found"]["kept"] in ("search", "default", "uncalibrated")
    assert str(tmp_path / "speech") not in (tmp_path / "efforts.json").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--table", "language", "--tokens", "1"], "--tokens: must be an integer >= 2, got 1"),
        (["--table", "language", "--steps", "-1"], "--steps: must be an integer >= 1, got -1"),
        (["--models", "lstm"], "of --table chip are minilm, digits, smollm2, got lstm"),
        (["--chips", "0"], ">= 1, got 0"),
    ],
)
def test_what_the_tables_cannot_do_is_said(
    options: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        convert.main(options)
    assert message in capsys.readouterr().err


def test_the_picture_has_both_plots_and_stays_small() -> None:
    sweep = at.Sweep(
        times=("0 s", "1 day"), values=torch.tensor([[0.9, 0.8], [0.95, 0.85]]), seeds=(1, 2)
    )
    result = Result(
        digital=0.97,
        direct=sweep,
        hwa=sweep,
        chip="hermes64",
        tiles=3,
        data={"source": "pictures"},
        seed=0,
        seconds=1.0,
        versions={},
    )
    mapping = at.map_to_chip(nn.Linear(300, 300), torch.zeros(1, 300), chip=at.chips.hermes64())
    made = picture.picture(result, mapping)
    assert made.startswith(b"\x89PNG")
    assert 20_000 < len(made) < 200_000


def test_the_table_of_devices_is_the_one_of_the_documentation() -> None:
    page = Path(__file__).parents[1] / "docs" / "devices.md"
    assert devices.table() in page.read_text()
    calls = {row.call.partition("(")[0] for row in devices.ROWS}
    others = (
        "fit",
        "ideal_device",
        "load",
        "milo_current",
        "milo_curves",
        "register",
        "registered",
        "save",
        "seconds",
    )
    assert calls == {name for name in at.devices.__all__ if name.islower()} - set(others)


def test_the_table_of_networks_has_what_a_configuration_takes_of_its_chip() -> None:
    (found,) = networks.rows_of(networks.CONFIGS / "hello_edge_lstm.yaml")
    (larger,) = networks.rows_of(networks.CONFIGS / "hello_edge_lstm.yaml", cells=2)
    assert larger[:7] == found[:7]
    assert float(larger[-2]) > 1.5 * float(found[-2])
    name, network, features, *sizes = found
    assert (name, network, features) == ("hello_edge_lstm", "hello_edge_lstm", "mfcc 1x49x10")
    # weights: 4 * 118 * (10 + 118) of the gates, each read at 49 frames, and 118 * 12
    assert sizes[:5] == ["62,788", "61,832", "2,961,800", "hermes64", "1"]
    page = (Path(__file__).parents[1] / "docs/speech.md").read_text()
    assert " | ".join(sizes[:5]) in page


def test_networks_that_keep_layers_digital_have_a_row_with_all_on_the_chip() -> None:
    page = (Path(__file__).parents[1] / "docs/speech.md").read_text()
    own, analog = networks.rows_of(networks.CONFIGS / "ds_cnn.yaml")
    assert (own[0], analog[0]) == ("ds_cnn", "ds_cnn, all analog")
    # 4 depthwise layers of 64 3x3 kernels at 25 x 5 places
    assert int(analog[4].replace(",", "")) - int(own[4].replace(",", "")) == 4 * 64 * 9
    assert int(analog[5].replace(",", "")) - int(own[5].replace(",", "")) == 4 * 64 * 9 * 25 * 5
    for row in (own, analog):
        assert " | ".join(row[3:9]) in page


def test_the_cost_of_a_sweep_is_that_of_its_parts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [(torch.randn(8, 16), torch.zeros(8, dtype=torch.int64)) for _ in range(2)]
    monkeypatch.setattr(sweep, "NETS", {"tiny": lambda *_: (nn.Linear(16, 4), batches)})
    digital, whole, *parts = sweep.costs(nn.Linear(16, 4), batches, chips=2, rounds=1)
    assert digital > 0
    assert whole == pytest.approx(sum(parts))
    sweep.main(["--nets", "tiny", "--chips", "2", "--rounds", "1", "--processes", "2"])
    header, _, row, *_ = capsys.readouterr().out.splitlines()
    assert len(header.split()) == len(row.split()) - 1  # a unit
    assert row.split()[:3] == ["tiny", "64", "64"]  # weights, and clips of a batch


def test_what_passes_before_the_first_analog_layer_is_a_share() -> None:
    name, whole, share, of_sweep, once = sweep.before(
        sweep.CONFIGS / "fully_connected.yaml", rounds=1
    )
    assert name == "fully_connected"
    assert 0 < float(of_sweep.rstrip("%")) < float(share.rstrip("%")) < 100
    assert all(float(each.split()[0]) > 0 for each in (whole, once))


def test_recurrent_and_depthwise_networks_have_bars_of_their_own() -> None:
    found = {"digital accuracy": [92.0, 92.01], f"loss of {CONFIGURED} at 1 day": [0.8, 0.81]}
    verdicts = {
        network: [row[-1] for row in hwa.rows(found, hwa.bars(network))[1:]]
        for network in ("conv", "ds_cnn")
    }
    assert verdicts["conv"] == [">= 93: MISSED", "<= 0.5: MISSED"]
    assert verdicts["ds_cnn"] == [">= 93: MISSED", "<= 1: met"]
    assert set(hwa.HARD) < set(NETWORKS)
