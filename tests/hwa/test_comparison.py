"""Which outputs are compared as scores, and along which dimension."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from tests.crossbar import crossbar

CHIP = crossbar(device="one_device")


class _Net(nn.Module):
    """One layer, whose outputs a function arranges."""

    def __init__(self, layer: nn.Module, arrange: Callable[[Tensor], Any] = lambda y: y) -> None:
        super().__init__()
        self.layer, self.arrange = layer, arrange

    def forward(self, x: Tensor) -> Any:
        return self.arrange(self.layer(x))


def _twin(net: nn.Module, x: Any, recipe: at.hwa.Recipe | None = None) -> at.hwa.Twin:
    net = net.eval()
    twin = at.hwa.Twin(at.convert(copy.deepcopy(net), CHIP), net, recipe)
    twin.exact(x)
    return twin


def _shifts(twin: at.hwa.Twin, y: Tensor, dim: int) -> tuple[float, float]:
    """Return the losses of a shift of all numbers along ``dim``, and of one class there."""
    one = y.clone()
    one.select(dim, 1).add_(5)
    return twin.compare(y + 5, y).item(), twin.compare(one, y).item()


def _seen(twin: at.hwa.Twin, y: Tensor, dim: int) -> bool:
    """Return whether a shift of all numbers is an error, as it is none of scores."""
    of_all, of_one = _shifts(twin, y, dim)
    assert of_one > 0.1
    assert of_all > 1 or of_all == pytest.approx(0, abs=1e-5)
    return of_all > 1


def test_images_are_compared_number_by_number_and_logits_of_pixels_by_class() -> None:
    x = torch.randn(4, 2, 8, 8)
    net = nn.Conv2d(2, 5, 3, padding=1)
    plain = _twin(net, x)
    assert plain.compared == "error"
    assert _seen(plain, net(x), 1)
    logits = _twin(_Net(net, lambda y: {"logits": y}), x)
    assert logits.compared == "divergence"
    assert not _seen(logits, net(x), 1)
    chosen = _twin(net, x, at.hwa.Recipe(outputs="divergence"))
    assert not _seen(chosen, net(x), 1)
    depth = nn.Conv2d(2, 1, 3, padding=1)
    regressed = _twin(depth, x, at.hwa.Recipe(outputs="divergence"))
    assert regressed.compare(depth(x) + 5, depth(x)).item() > 1


def test_of_a_sequence_the_dimension_that_is_as_long_as_an_input_counts_no_classes() -> None:
    x = torch.randn(4, 2, 11)
    net = nn.Conv1d(2, 5, 3, padding=1)
    assert net(x).shape == (4, 5, 11)
    twin = _twin(net, x)
    assert twin.compared == "divergence"
    assert not _seen(twin, net(x), 1)
    strided = nn.Conv1d(2, 5, 3, stride=2)
    assert _twin(strided, x).compared == "error"  # nothing tells steps from classes
    by_step = nn.Linear(2, 5)
    twin = _twin(by_step, x.mT)
    assert twin.compared == "divergence"
    assert not _seen(twin, by_step(x.mT), 2)
    tokens = torch.randint(7, (4, 11))
    language = nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 9))
    assert not _seen(_twin(language, tokens), language(tokens), 2)


@pytest.mark.parametrize(
    ("arrange", "compared"),
    [
        (lambda y: (y, y[:, 1:5], y[:, :4]), ["divergence", "error", "error"]),
        (lambda y: (y[:, :6], y[:, 1:5], y[:, :4]), ["error"] * 3),  # an autoencoder's
        (lambda y: (y[:, :1], y), ["error"] * 2),
    ],
)
def test_the_first_output_alone_can_be_scores(
    arrange: Callable[[Tensor], Any], compared: list[str]
) -> None:
    net, x = _Net(nn.Linear(6, 8), arrange), torch.randn(20, 6)
    twin = _twin(net, x)
    losses = [twin.compare(y + 5, y, which).item() for which, y in enumerate(net(x))]
    assert ["error" if loss > 1 else "divergence" for loss in losses] == compared
    assert twin.compared == ("divergence" if "divergence" in compared else "error")
    chosen = _twin(net, x, at.hwa.Recipe(outputs="divergence"))
    of_many = [(which, y) for which, y in enumerate(net(x)) if y.shape[-1] > 2]
    losses = [chosen.compare(y + 5, y, which).item() for which, y in of_many]
    assert losses == pytest.approx([0] * len(losses), abs=1e-5)


def test_the_agreement_of_images_is_that_of_their_pixels() -> None:
    torch.manual_seed(0)
    net, batches = nn.Conv2d(2, 5, 3, padding=1), list(torch.randn(8, 4, 2, 8, 8))
    found = at.hwa.adapt(net, batches, chip=CHIP, steps=1, num_chips=1)
    assert found.compared == "error"
    shares = found.stages[-1].reading.agreement
    assert shares.min() > 0.7  # of 320 numbers of a sample the largest is hardly where it was
    pixels = shares.flatten() * 2 * 4 * 64
    torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-6)
