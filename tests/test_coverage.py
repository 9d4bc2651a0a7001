"""The coverage table: the steps of a user's work on whole models, and its texts."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.coverage import __main__ as coverage
from benchmarks.coverage.nets import Net, nets
from benchmarks.coverage.steps import SKIPPED, cover

STEPS = ["convert", "guard", "calibrate", "map", "cost", "program", "save", "restore"]


@pytest.mark.parametrize(
    "name", ["torchvision ConvNeXt, small", "torchaudio DeepSpeech", "transformers BERT"]
)
def test_every_step_works(name: str) -> None:
    row = cover(name, nets()[name])
    assert (list(row.results), row.failed, row.skipped) == (STEPS, {}, [])
    assert row.share == "100 %"
    assert row.tiles > 0
    assert (
        row.layers
        == {"torchvision ConvNeXt, small": 9, "torchaudio DeepSpeech": 9, "transformers BERT": 14}[
            name
        ]
    )


class Bypass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8)
        self.own = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.a(x) @ self.b.weight @ self.own)


def test_a_step_that_fails_stands_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Net(Bypass, lambda: torch.randn(2, 8))
    fine = Net(lambda: nn.Linear(8, 8), lambda: torch.randn(2, 8))
    monkeypatch.setattr(coverage, "nets", lambda: {"bypass": net, "fine": fine})
    assert coverage.main(["--out", str(tmp_path), "--models", "bypass"]) == 1
    assert coverage.main(["--out", str(tmp_path), "--models", "fine"]) == 0
    header, rule, bypass, good = (tmp_path / "coverage.md").read_text().splitlines()[2:6]
    assert "**guard**: ValueError: guard: 1 of 2 analog layers are bypassed" in bypass
    assert (
        "1 x no analog layer for Bypass, whose own is a matrix of 8 x 8, not a layer (33.3 %)"
        in bypass
    )
    assert good == "| fine | nothing | 72 | 1 | 100 % | 1 | all |"
    assert [row["name"] for row in json.loads((tmp_path / "coverage.json").read_text())] == [
        "bypass",
        "fine",
    ]
    assert header.count("|") == rule.count("|") == bypass.count("|")


def test_what_is_too_large_is_not_programmed() -> None:
    net = Net(lambda: nn.Linear(8, 8), lambda: torch.randn(2, 8))
    row = cover("large", net, largest=10)
    assert (row.results["program"], row.failed) == (SKIPPED, {})
    assert cover("on meta", net, values=10).skipped == ["calibrate", "program", "save"]


def test_models_that_are_not_known_are_refused(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        coverage.main(["--models", "nothing"])
    assert "--models matches none of" in capsys.readouterr().err
