"""``benchmarks.connected``: its table, its journal and, slowly, a whole run."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from analogtorch.speech.data import Clips
from analogtorch.speech.noise import generate_noise
from benchmarks import connected
from tests.speech.recognition import conftest

TIMES = ["1 day", "1 month"]


def result(control: float, hwa: float) -> dict[str, Any]:
    return {
        "seed": 0,
        "digital": 0.1,
        "control": control,
        "beam": {"greedy": 0.1, "beam": 0.09},
        "on chip": {"control": [[0.3, 0.5], [0.6, 0.6]], "hwa": [[hwa, hwa], [hwa, hwa + 0.02]]},
        "weights": 1000,
        "tiles": 3,
        "seconds": 9,
    }


def test_the_table_pairs_seeds_and_judges_by_the_bars() -> None:
    table = connected.rows([result(0.1, 0.102), result(0.12, 0.128)], TIMES)
    found = {row[0]: row[1:] for row in table[1:]}
    assert found["digital control"][1] == "10.00 12.00"
    assert found["1 day: control mapped directly"][1] == "40.00 40.00"
    assert found["1 day: HWA - digital control"][1:] == [
        "0.20 0.80",
        "<= 0.5: mean met, not settled",
    ]
    assert found["1 month: HWA - digital control"][1:] == [
        "1.20 1.80",
        "<= 1.5: mean met, not settled",
    ]
    assert found["1 month: HWA - mapped directly"][1] == "-48.80 -46.20"
    missed = connected.rows([result(0.1, 0.11)], TIMES)
    assert [row[3] for row in missed if "1 day: HWA - digital" in row[0]] == [
        "<= 0.5: mean MISSED, not settled"
    ]


class FakeExamples:
    texts = ("yes no",)

    def __len__(self) -> int:
        return 1


class FakeData:
    measured = FakeExamples()


def test_finished_seeds_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    made = []
    monkeypatch.setattr(connected.Data, "read", lambda folder, split: FakeData())
    monkeypatch.setattr(
        connected.Seed, "result", lambda self: made.append(self.seed) or result(0.1, 0.1)
    )
    options = ["--out", str(tmp_path), "--times", *TIMES, "--seeds"]
    connected.main([*options, "1"])
    connected.main([*options, "3"])
    assert made == [0, 1, 2]
    assert "1 day: HWA - digital control" in capsys.readouterr().out
    assert "greedy 10.00 %, beam 9.00 %" in (tmp_path / "ctc.md").read_text()
    with pytest.raises(SystemExit, match=r"test.json is of another recipe; give another folder"):
        connected.main([*options, "1", "--chips", "3"])


@pytest.mark.slow
@pytest.mark.parametrize("model", ["ctc", "rnnt"])
def test_a_whole_run(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clips: Clips
) -> None:
    splits = dict.fromkeys(("train", "val", "test"), clips)
    monkeypatch.setattr(connected.Folder, "load", lambda self: splits)
    monkeypatch.setattr(connected, "read_noise", lambda folder: generate_noise(seed=0, seconds=20))
    monkeypatch.setattr(connected, "SIZES", {"train": 64, "val": 4, "test": 4})
    short = {name: dataclasses.replace(p, epochs=1) for name, p in connected.PHASES.items()}
    monkeypatch.setattr(connected, "PHASES", short)
    monkeypatch.setattr(connected, "FURTHER", dataclasses.replace(connected.FURTHER, epochs=1))
    (tmp_path / connected.MANIFEST).parent.mkdir()
    options = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--beams", "2"]
    connected.main([*options, "--model", model, "--seeds", "1", "--chips", "1", "--times", "0 s"])
    kept = json.loads((tmp_path / "out" / model / "seed-0" / "test.json").read_text())
    assert torch.tensor(kept["on chip"]["hwa"]).shape == (1, 1)
    assert (
        f"| 0 s: HWA | {100 * kept['on chip']['hwa'][0][0]:.2f} |"
        in (tmp_path / "out" / f"{model}.md").read_text()
    )


clips = conftest.clips
