"""Order and content of batches are a function of (seed, epoch)."""

import pytest
import torch

from analogtorch.speech.training import Batches


def make(index, epoch):
    return index.float() + 1000 * epoch, index


def test_an_epoch_holds_each_sample_at_most_once() -> None:
    batches = Batches(make, 23, batch_size=5, seed=0)
    order = torch.cat([y for _, y in batches.epoch(3)])
    assert len(batches) == 4
    assert len(order) == len(set(order.tolist())) == 20
    assert torch.equal(order, batches.indices(3).flatten())


def test_seed_and_epoch_decide_and_nothing_else() -> None:
    a = Batches(make, 50, batch_size=10, seed=0)
    torch.manual_seed(1)
    first = [x for x, _ in a.epoch(2)]
    torch.manual_seed(2)
    again = [x for x, _ in Batches(make, 50, batch_size=10, seed=0, workers=2).epoch(2)]
    assert all(map(torch.equal, first, again))
    assert not torch.equal(a.indices(2), a.indices(3))
    assert not torch.equal(a.indices(2), Batches(make, 50, batch_size=10, seed=1).indices(2))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"batch_size=10 is more than the 9 training samples"):
        Batches(make, 9, batch_size=10, seed=0)
    with pytest.raises(ValueError, match="workers=-1"):
        Batches(make, 9, batch_size=3, seed=0, workers=-1)
