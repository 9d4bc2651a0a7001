"""Digital layers that only see the features are computed once."""

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.speech.once import Once


class Net(nn.Module):
    """A pooling layer in front of an analog one, and another one behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.hidden = nn.AdaptiveAvgPool2d(4), nn.Linear(16, 16)
        self.after, self.head = nn.AvgPool1d(2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.hidden(self.pool(x).flatten(1))))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    calls: list[type] = []
    for kind in (nn.AdaptiveAvgPool2d, nn.AvgPool1d):

        def forward(self: nn.Module, x: Tensor, whole=kind.forward) -> Tensor:
            calls.append(type(self))
            return whole(self, x)

        monkeypatch.setattr(kind, "forward", forward)
    return calls


def test_pools_before_the_first_analog_layer_are_computed_once_bit_by_bit(counted) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 1, 8, 8)
    batches = [(part, torch.tensor([0, 1, 2])) for part in x.split(3)]
    model = at.calibrate(at.convert(Net(), at.chips.hermes64()), [x], effort="ranges")
    once = Once([part for part, _ in batches])
    given = {"num_chips": 2, "times": ["0 s", "1 year"]}

    def outputs(view: nn.Module) -> Tensor:
        return torch.stack([view(part) for part, _ in batches])

    found: dict[str, list[Tensor]] = {"once": [], "each time": []}

    def spared(view: nn.Module) -> float:
        with once.on(view):
            found["once"].append(outputs(view))
        return 0.0

    def whole(view: nn.Module) -> float:
        found["each time"].append(outputs(view))
        return 0.0

    counted.clear()
    at.sweep(model, spared, **given)
    assert counted.count(nn.AdaptiveAvgPool2d) == 2  # one for each batch
    assert counted.count(nn.AvgPool1d) == 2 * 4
    at.sweep(model, whole, **given)
    assert all(map(torch.equal, found["once"], found["each time"]))
    assert counted.count(nn.AdaptiveAvgPool2d) == 2 + 2 * 4  # nothing stays behind


def test_features_that_change_are_computed_anew() -> None:
    net, x = Net().eval(), torch.randn(2, 1, 8, 8)
    once = Once([x])
    with torch.no_grad(), once.on(net):
        before = net.pool(x)
        assert net.pool(x) is before
        x.mul_(2)
        assert torch.equal(net.pool(x), before * 2)
        net.pool(x).zero_()
        assert net.pool(x).any()
    assert "forward" not in vars(net.pool)
