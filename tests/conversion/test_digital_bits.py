"""Digital layers in int8: what is rounded, and what is left."""

import copy

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.conversion.digital_bits import LEVELS, rounded
from tests.crossbar import crossbar

CHIP = crossbar()


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(6, 4), torch.randn(5, 6)),
        (nn.Conv2d(4, 6, 3, groups=2), torch.randn(2, 4, 5, 5)),
        (nn.ConvTranspose1d(3, 5, 2), torch.randn(2, 3, 4)),
        (nn.LSTM(6, 4), torch.randn(3, 2, 6)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_int8_rounds_weights_by_output_and_inputs_by_vector_or_sample(
    layer: nn.Module, x: Tensor
) -> None:
    exact = copy.deepcopy(layer)
    model = nn.Sequential(layer)
    at.quantise_digital(at.quantise_digital(model))  # the second call changes nothing
    out, true = _first(model(x)), _first(exact(x))
    assert 0 < (out - true).abs().max() < 0.03 * true.abs().max()
    name = "weight_ih_l0" if isinstance(layer, nn.LSTM) else "weight"
    weight = getattr(layer, name).detach()
    by_output = weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose1d) else weight
    for row in by_output:
        codes = row / row.abs().max() * LEVELS
        assert torch.allclose(codes, codes.round(), atol=1e-3)
    batch = 1 if isinstance(layer, nn.LSTM) else 0
    parts = torch.cat([_first(model(part)) for part in x.split(1, batch)], batch)
    assert torch.allclose(parts, out, atol=1e-6)  # no sample knows the others


def _first(value: Tensor | tuple[Tensor, object]) -> Tensor:
    return value if isinstance(value, Tensor) else value[0]


def test_int8_leaves_zeros_and_analog_weights() -> None:
    assert torch.equal(rounded(torch.zeros(2, 3), (-1,)), torch.zeros(2, 3))
    model = at.convert(
        nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)), CHIP, exclude="2"
    )
    before = copy.deepcopy(model.state_dict())
    at.quantise_digital(model)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"2.weight"}
