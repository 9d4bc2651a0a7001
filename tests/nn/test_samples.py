"""Which dimension of a layer's input counts the samples: noise follows no split of the batch."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from tests.crossbar import crossbar

TOKENS = torch.arange(20).view(5, 4) % 7
"""(L, N)"""


class Tagger(nn.Module):
    """A tagger of words in the layout of ``nn.LSTM``, (L, N, ...)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = nn.Embedding(7, 6), nn.LSTM(6, 8), nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(tokens))[0])


def _analog(*, sequence_first: bool = True, **noise: bool) -> nn.Module:
    torch.manual_seed(0)
    chip = crossbar(training=at.TrainingNoise(**noise), array={"rows": 24, "columns": 16})
    model = at.convert(Tagger().eval(), chip, embeddings=True)
    model.embed.sequence_first = model.head.sequence_first = sequence_first
    return model


def _differs(model: nn.Module, programmed: bool = True) -> bool:
    """Return whether samples in parts get other noise than the whole batch."""
    if programmed:
        physical = at.program(model, seed=1)
        whole, view = physical.at("1 day")(TOKENS), physical.at("1 day")
        parts = [view(part) for part in TOKENS.split(2, dim=1)]
    else:
        model.train()
        with at.noise(seed=1, step=0):
            whole = model(TOKENS)
        parts = []
        for first in (0, 2):
            with at.noise(seed=1, step=0, first_sample=first):
                parts.append(model(TOKENS[:, first : first + 2]))
        model.eval()
    return not torch.allclose(torch.cat(parts, 1), whole, atol=1e-6)


@pytest.mark.parametrize(
    "run",
    [
        lambda **set: _differs(_analog(**set)),
        lambda **set: _differs(_analog(**set), programmed=False),
        lambda **set: _differs(_analog(per_sample=True, **set), programmed=False),
    ],
    ids=["programmed", "training", "per_sample"],
)
def test_sequence_first_layers_have_the_same_noise_whatever_the_batch_split(
    run: Callable[..., bool],
) -> None:
    assert run(sequence_first=False)
    assert not run(sequence_first=True)


def test_a_sample_keeps_its_chip_for_all_time_steps() -> None:
    torch.manual_seed(0)
    chip = crossbar(training=at.TrainingNoise(per_sample=True, output=False))
    for layer, x in (
        (nn.Linear(8, 4), torch.randn(1, 1, 8).expand(5, 3, 8)),
        (nn.Embedding(7, 4), torch.zeros(5, 3, dtype=torch.int64)),
    ):
        analog = at.convert(layer, chip, embeddings=True).train()
        analog.sequence_first = True
        y = analog(x)
        assert torch.equal(y, y[:1].expand_as(y))
        assert not torch.allclose(y[:, 0], y[:, 1])


def test_copies_checkpoints_and_mappings_keep_it(tmp_path: Path) -> None:
    model = _analog()
    for kept in (
        copy.deepcopy(model),
        at.load(at.save(model, tmp_path / "model"), Tagger().eval()),
        at.program(model, seed=1).at("1 day"),
        at.load(at.save(at.program(model, seed=1), tmp_path / "chip"), Tagger()).at("1 day"),
    ):
        assert kept.embed.sequence_first
        assert kept.head.sequence_first
    assert not _differs(at.load(tmp_path / "model", Tagger().eval()))
    without = _analog(sequence_first=False)
    digital = at.map_to_chip(without, TOKENS)
    assert str(at.map_to_chip(model, TOKENS)) == str(digital)
    plain = at.to_digital(model)
    assert not any("sequence_first" in vars(m) for m in plain.modules())
    assert not at.convert(plain, at.chips.hermes64()).head.sequence_first


def test_files_state_it_where_it_is_set(tmp_path: Path) -> None:
    file = at.save(_analog(sequence_first=False), tmp_path) / "analog.json"
    assert "sequence_first" not in file.read_text()
    file = at.save(_analog(), tmp_path) / "analog.json"
    content = json.loads(file.read_text())
    stated = [layer.get("sequence_first") for layer in content["layers"]]
    assert stated == [True, None, None, True]
    content["layers"][0]["sequence_first"] = 1
    del content["checksum"]
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="'embed': sequence_first must be True or False, got 1"):
        at.load(tmp_path, Tagger())


@pytest.mark.parametrize("layer", [nn.Conv1d(2, 2, 3), nn.LSTM(3, 3), nn.MultiheadAttention(4, 2)])
def test_layers_that_cannot_have_it_refuse_it(layer: nn.Module) -> None:
    analog = at.convert(nn.Sequential(layer), at.chips.hermes64())[0]
    with pytest.raises(ValueError, match=r"layer '0': sequence_first is for AnalogLinear and "):
        analog.sequence_first = True
    analog.sequence_first = False
    assert not analog.sequence_first
