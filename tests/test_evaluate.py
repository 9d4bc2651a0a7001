import pytest
import torch
from torch import nn

import analogtorch as at

X = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))


def _model() -> nn.Module:
    torch.manual_seed(0)
    return at.convert(nn.Linear(12, 4), at.chips.hermes64())


def _metric(model: nn.Module) -> float:
    return model(X).square().mean().item()


def test_same_seed_same_numbers_and_every_chip_can_be_made_again() -> None:
    a, b = (at.sweep(_model(), _metric, chips=3, times=["0 s", "1 day"], seed=4) for _ in range(2))
    assert torch.equal(a.values, b.values)
    assert a.values.shape == (3, 2)
    assert len(set(a.values.flatten().tolist())) == 6
    again = at.program(_model(), seed=a.seeds[1]).at("1 day")
    assert _metric(again) == a.values[1, 1].item()


def test_experiments_with_neighbouring_seeds_share_no_chip() -> None:
    seeds = [at.sweep(_model(), _metric, chips=4, times=["0 s"], seed=s).seeds for s in (0, 1, 2)]
    assert len({seed for group in seeds for seed in group}) == 12


def test_mean_spread_and_table() -> None:
    result = at.sweep(_model(), _metric, chips=4, times=["0 s", 60.0])
    assert result.times == ("0 s", "60 s")
    row = result.to_dict()["60 s"]
    assert row["chips"] == 4
    assert row["mean"] == pytest.approx(result.values[:, 1].mean().item())
    assert row["std"] == pytest.approx(result.values[:, 1].std().item())
    assert "60 s" in str(result)
    assert at.sweep(_model(), _metric, chips=1).std.tolist() == [0.0] * 5


def test_accuracy_counts_and_restores_the_mode() -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.Linear(12, 4)).train()
    y = model.eval()(X).argmax(-1)
    model.train()
    y[:16] = (y[:16] + 1) % 4
    assert at.accuracy(model, [(X[:40], y[:40]), (X[40:], y[40:])]) == 0.75
    assert model.training
    assert model[0].training


def test_bad_calls_are_refused_before_anything_runs() -> None:
    def never(model: nn.Module) -> float:
        raise AssertionError

    with pytest.raises(ValueError, match="chips must be >= 1"):
        at.sweep(_model(), never, chips=0)
    with pytest.raises(ValueError, match="times is empty"):
        at.sweep(_model(), never, times=[])
    with pytest.raises(ValueError, match="'1 eon' is not understood"):
        at.sweep(_model(), never, times=["0 s", "1 eon"])
    with pytest.raises(ValueError, match="times must differ"):
        at.sweep(_model(), never, times=["60 s", 60])
    with pytest.raises(ValueError, match=r"labels of shape \(64,\), the batch has \(64, 1\)"):
        at.accuracy(_model(), [(X, torch.zeros(64, 1))])
    with pytest.raises(ValueError, match="holds no sample"):
        at.accuracy(_model(), [])


def test_progress_shows_a_bar(capsys: pytest.CaptureFixture) -> None:
    at.sweep(_model(), _metric, chips=1, progress=True)
    assert "chips x times" in capsys.readouterr().err
