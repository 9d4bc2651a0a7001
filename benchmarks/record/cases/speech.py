"""Keyword spotting: features, networks, and a complete run of a few steps on tones."""

import json
import tempfile
import wave
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from benchmarks.record import api
from benchmarks.record.nets import random
from benchmarks.record.runs import Case, Found, evaluated, everything

_OPTIONS = [
    "--data.source=folder", "--model.options={widths: [4, 8], stem_stride: [4, 4]}", "--workers=0",
    "--progress=false", "--digital.epochs=1", "--digital.batch_size=12",
    "--digital.learning_rate=0.01", "--digital.mixup=0.2", "--hwa.epochs=1", "--hwa.batch_size=12",
    "--hwa.distill=0.7", "--hwa.clip_sigma=1.5", "--sweep.num_chips=1",
    "--sweep.times=['0 s', '1 year']",
]  # fmt: skip


def write_tones(root: Path, counts: Mapping[str, int]) -> None:
    """Write a tone for each class, with noise, and a manifest.

    ``counts`` gives the number of clips of a class, by split.
    """
    noise, rows = np.random.default_rng(0), ["path,label,speaker,split"]
    for number, label in enumerate(api.kws_labels()):
        for split, count in counts.items():
            for clip in range(count):
                t = np.arange(16_000) / 16_000
                x = 0.3 * np.sin(2 * np.pi * 300 * (1 + number) * t) + 0.01 * noise.standard_normal(
                    16_000
                )
                name = f"{label}-{split}-{clip}.wav"
                with wave.open(str(root / name), "wb") as file:
                    file.setparams((1, 2, 16_000, 16_000, "NONE", ""))
                    file.writeframes((x * 32_767).astype("<i2").tobytes())
                rows.append(f"{name},{label},{split}-speaker,{split}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")


def _run() -> Found:
    with tempfile.TemporaryDirectory() as data, tempfile.TemporaryDirectory() as out:
        write_tones(Path(data), {"train": 2, "val": 1, "test": 1})
        yield "exit code", api.kws([*_OPTIONS, f"--data.folder.root={data}", f"--out={out}/run"])
        for name in ("digital", "hwa"):
            yield name, dict(torch.load(Path(out) / "run" / f"{name}.pt", weights_only=True))
        report = json.loads((Path(out) / "run" / "report.json").read_text())
        yield "accuracies", {name: report[name] for name in ("digital", "direct", "hwa", "tiles")}


def _features() -> Found:
    yield "log-mel", api.kws_features(0.1 * random(2, 16_000))


def _net(name: str) -> Found:
    torch.manual_seed(0)
    net = api.kws_nets()[name].eval()
    yield "digital", evaluated(net, [random(4, 1, 49, 40)])
    model = api.convert(net, api.hermes64())
    yield from everything(model, lambda seed: [random(4, 1, 49, 40, seed=seed)])


CASES: dict[str, Case] = {
    "speech/features": _features,
    "speech/ConvNet": lambda: _net("ConvNet"),
    "speech/FullyConnected": lambda: _net("FullyConnected"),
    "speech/run": _run,
}
