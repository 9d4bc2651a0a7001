"""One flipped bit of a file gives what was written, or an error that names the file.

It never gives another value.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.mapping import ChipMapping
from analogtorch.speech import cache
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.data import Clips
from analogtorch.speech.labels import LABELS
from analogtorch.speech.rundir import RunFolder
from analogtorch.speech.training import AtomicCheckpoint
from analogtorch.speech.training.checkpoint import packed

FLIPS = 100


def never_silent(file: Path, read: Callable[[], object], name: str | None = None) -> int:
    """Flip `FLIPS` random bits of the file, each alone; how many of them were refused."""
    whole, expected, refused = file.read_bytes(), read(), 0
    draw = random.Random(0)
    for _ in range(FLIPS):
        place = draw.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        file.write_bytes(damaged)
        try:
            found, error = read(), None
        except (ValueError, OSError) as caught:
            found, error = None, str(caught)
            refused += 1
        assert found == expected if error is None else (name or str(file)) in error, (place, error)
    file.write_bytes(whole)
    assert read() == expected
    return refused


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))


def facts(net: nn.Module) -> list[object]:
    layers = [
        (name, layer.chip, layer.layer_name, layer.input_ranges)
        for name, layer in at.analog_layers(net)
    ]
    return [layers, {key: t.tolist() for key, t in net.state_dict().items()}]


@pytest.fixture
def converted() -> nn.Module:
    return at.calibrate(at.convert(model(), at.chips.hermes64()), [torch.randn(16, 6)])


@pytest.mark.parametrize("file", ["analog.json", "weights.safetensors"])
def test_checkpoints(file: str, converted: nn.Module, tmp_path: Path) -> None:
    at.save(converted, tmp_path)
    refused = never_silent(
        tmp_path / file, lambda: facts(at.load(tmp_path, model(1))), name=str(tmp_path)
    )
    # the rest hits white space
    assert refused >= (FLIPS if file == "weights.safetensors" else 0.6 * FLIPS)


@pytest.mark.parametrize("file", ["analog.json", "weights.safetensors"])
def test_programmed_chips(file: str, converted: nn.Module, tmp_path: Path) -> None:
    mapping = at.map_to_chip(converted, torch.zeros(1, 6), chip=at.chips.hermes64())
    at.save(at.program(converted, seed=3, defects=at.Defects(cells=0.1), mapping=mapping), tmp_path)

    def read() -> object:
        physical = at.load(tmp_path, model(1))
        return [
            physical.seed,
            physical.defects,
            physical.mapping,
            physical.at("1 day")(torch.ones(1, 6)).tolist(),
        ]

    assert never_silent(tmp_path / file, read, name=str(tmp_path)) > 0


def test_checkpoints_of_a_training(tmp_path: Path) -> None:
    file, io = tmp_path / "a.ckpt", AtomicCheckpoint()
    io.save_checkpoint({"weight": torch.arange(200.0), "epoch": 3, "names": ["a", "b"]}, file)

    def read() -> object:
        found = io.load_checkpoint(file)
        return [found["weight"].tolist(), found["epoch"], found["names"]]

    assert never_silent(file, read) == FLIPS
    assert torch.load(file, weights_only=True)["epoch"] == 3  # by torch alone too


def test_checkpoints_of_a_training_from_before_checksums(tmp_path: Path) -> None:
    file, io = tmp_path / "a.ckpt", AtomicCheckpoint()
    torch.save({"weight": torch.arange(200.0), "epoch": 3}, file)
    assert io.load_checkpoint(file)["epoch"] == 3
    data = bytearray(file.read_bytes())
    place = data.index(np.arange(200, dtype=np.float32).tobytes())
    data[place + 41] ^= 4
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.ckpt is damaged or cut short"):
        io.load_checkpoint(file)


def test_mappings(converted: nn.Module, tmp_path: Path) -> None:
    mapping = at.map_to_chip(converted, torch.zeros(1, 6), chip=at.chips.hermes64())
    file = tmp_path / "mapping.json"
    file.write_text(mapping.to_json())
    assert (
        never_silent(file, lambda: ChipMapping.from_json(file.read_bytes()), name="mapping: ") > 0
    )
    data = json.loads(mapping.to_json())
    del data["checksum"]
    assert ChipMapping.from_json(json.dumps(data)) == mapping


def test_clips_in_the_cache(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    clips = {
        split: Clips(
            waveforms=torch.randint(-9, 9, (2, 16_000), generator=draw, dtype=torch.int16),
            labels=torch.tensor([0, len(LABELS) - 1]),
            speakers=("", "ann"),
            names=(f"{split}-a", f"{split}-b"),
        )
        for split in ("train", "val", "test")
    }
    made = []

    def make() -> dict[str, Clips]:
        made.append(1)
        return clips

    def read() -> object:
        found = cache.cached(tmp_path, "clips.npz", make)
        return [
            (s, c.waveforms.tolist(), c.labels.tolist(), c.speakers, c.names)
            for s, c in found.items()
        ]

    read()
    assert never_silent(tmp_path / "clips.npz", read) == 0
    assert len(made) == 1 + FLIPS  # each damaged file was made anew


@pytest.mark.parametrize("file", ["sweep.json", "chip-00001.json"])
def test_the_journal_of_a_sweep(file: str, converted: nn.Module, tmp_path: Path) -> None:
    def read() -> object:
        found = at.sweep(
            converted, lambda m: m.training + 0.5, num_chips=2, times=["1 h"], folder=tmp_path
        )
        return found.values.tolist()

    read()
    assert never_silent(tmp_path / file, read, name=str(tmp_path)) > 0


def test_the_journal_of_a_run(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, KWSConfig()) as folder:
        folder.begin("sha256:0")
        folder.save("digital", model())
        folder.finish()

    def read() -> object:
        with RunFolder.open(tmp_path, KWSConfig(), resume=True) as folder:
            return folder._found

    assert never_silent(tmp_path / "journal.json", read) > 0.5 * FLIPS


def test_files_of_torch_keep_their_checksum_to_themselves(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(packed(model().state_dict()))
    model(1).load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True, mmap=True))
