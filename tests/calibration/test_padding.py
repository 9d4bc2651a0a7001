"""Positions that nobody reads do not count."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.calibration.padding import IGNORED, at_positions, read_positions
from tests.crossbar import crossbar

MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])
LABELS = torch.tensor([[4, 4, IGNORED], [4, 4, IGNORED]])
WITH_DECODER = nn.Module()
WITH_DECODER.decoder = nn.Linear(2, 2)
WITH_DECODER.config = SimpleNamespace(is_encoder_decoder=True)


@pytest.mark.parametrize(
    ("model", "batch", "expected"),
    [
        (nn.Linear(2, 2), {}, MASK.bool()),
        (nn.Linear(2, 2), {"labels": LABELS}, MASK.bool()),
        (nn.Sequential(WITH_DECODER), {}, None),
        (WITH_DECODER, {"labels": LABELS}, LABELS == 4),
        (WITH_DECODER, {"labels": LABELS, "decoder_attention_mask": MASK.flip(0)}, MASK.flip(0)),
        (nn.Linear(2, 2), {"decoder_input_ids": torch.ones(2, 3)}, None),
        (nn.Linear(2, 2), {"attention_mask": torch.tensor([[0.0, 0], [0, -1e9]])}, None),
        (nn.Linear(2, 2), {"attention_mask": torch.ones(2, 3)}, None),
        (nn.Linear(2, 2), {"attention_mask": torch.zeros(2, 3)}, None),
    ],
    ids=[
        "of a mask", "beside labels", "of the encoder", "labels of a decoder", "of the decoder",
        "inputs of a decoder", "added", "all", "none",
    ],
)  # fmt: skip
def test_which_positions_are_read(
    model: nn.Module, batch: dict[str, Tensor], expected: Tensor | None
) -> None:
    read = read_positions(model, {"attention_mask": MASK} | batch)
    if expected is None:
        assert read is None
    else:
        assert read is not None
        assert torch.equal(read, expected.bool())


def test_outputs_that_are_none_of_positions_stay() -> None:
    read = MASK.bool()
    assert at_positions(torch.ones(2, 3, 8), read).shape == (1, 4, 8)
    for y in (torch.ones(2, 8), torch.ones(2, 4, 8), torch.ones(2, 3, 8, 8)):
        assert at_positions(y, read) is y


class _Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize("options", [{"target": "layer"}, {"steps": 0}, {"steps": 3}])
def test_columns_are_fitted_to_what_is_read(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    digital, x = _Positions(), torch.randn(8, 12, 40)
    mask = (torch.arange(12) < 4).long().expand(8, 12)
    model = at.convert(copy.deepcopy(digital), crossbar())

    def batches(padding: Tensor) -> list[dict[str, Tensor]]:
        given = x.where(mask.bool().unsqueeze(-1), padding)
        pairs = zip(given.split(4), mask.split(4), strict=True)
        return [{"x": a, "attention_mask": b} for a, b in pairs]

    at.calibrate(model, batches(x), effort="ranges", method="absmax")
    found = []
    for padding in (x, x.sign()):
        view = at.correct_columns(
            at.program(model, seed=1).at("1 day"), batches(padding), **options
        )
        found.append(view.net(x).detach())
    assert torch.equal(*found)
