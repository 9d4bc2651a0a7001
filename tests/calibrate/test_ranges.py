import dataclasses

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.ops import rounded

CHIP = at.chips.hermes64()


def _model() -> nn.Module:
    torch.manual_seed(0)
    return at.convert(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 4)), CHIP)


def _batches(count: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(64, 16, generator=generator) for _ in range(count)]


def _ranges(model: nn.Module) -> list[float]:
    return [layer.input_range.item() for _, layer in at.analog_layers(model)]


def test_absmax_is_the_largest_magnitude() -> None:
    model = at.calibrate(_model(), _batches(), method="absmax")
    assert _ranges(model)[0] == torch.cat(_batches()).abs().max().item()


@pytest.mark.parametrize("percent", [50.0, 90.0, 99.9, 100.0])
def test_percentile_is_right_to_the_bin_width(percent: float) -> None:
    model = at.calibrate(_model(), _batches(20), method="percentile", percentile=percent)
    exact = torch.quantile(torch.cat(_batches(20)).abs(), percent / 100).item()
    assert _ranges(model)[0] == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_mse_finds_the_least_error(bits: int) -> None:
    model = at.convert(nn.Linear(16, 4), dataclasses.replace(CHIP, input_bits=bits))
    x = torch.cat(_batches(20))
    at.calibrate(model, [x])

    def error(bound: float) -> float:
        return (rounded(x, torch.tensor([bound]), bits) - x).square().mean().item()

    best = min(error(b) for b in torch.linspace(0.3, 5, 300).tolist())
    assert error(_ranges(model)[0]) <= best * 1.03


def test_state_of_the_model_is_as_before_and_the_result_repeats() -> None:
    model = _model().train()
    model[2].eval()
    state = torch.get_rng_state()
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    at.calibrate(model, _batches())
    first = _ranges(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model] == [True, True, False, True]
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    at.calibrate(model, _batches()[:1], method="absmax")
    at.calibrate(model, _batches())
    assert _ranges(model) == first


def test_kinds_of_batches() -> None:
    expected = _ranges(at.calibrate(_model(), _batches()))
    for batches in ([(x, None) for x in _batches()], [[x] for x in _batches()], [{"input": x} for x in _batches()]):
        assert _ranges(at.calibrate(_model(), iter(batches))) == expected
    model = at.calibrate(_model(), [{"audio": x} for x in _batches()], forward=lambda m, b: m(b["audio"]))
    assert _ranges(model) == expected


class Bypassed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) @ self.second.weight.T


@pytest.mark.parametrize(
    ("batches", "kwargs", "message"),
    [
        ([], {}, "batches is empty"),
        ([torch.full((2, 16), float("nan"))], {}, "input of layer '0' has NaN or infinite"),
        ([torch.full((2, 16), float("inf"))], {}, "input of layer '0' has NaN or infinite"),
        ([torch.zeros(2, 16)], {}, "layer '0' met only zeros"),
        (_batches(), {"method": "median"}, "method must be one of"),
        (_batches(), {"method": "percentile", "percentile": 0.0}, "percentile must lie in"),
    ],
)
def test_bad_calls_are_refused_and_change_nothing(batches: list, kwargs: dict, message: str) -> None:
    model = _model()
    with pytest.raises(ValueError, match=message):
        at.calibrate(model, batches, **kwargs)
    assert not any(layer.calibrated for _, layer in at.analog_layers(model))
    assert model.training
    assert not any(layer._forward_pre_hooks for _, layer in at.analog_layers(model))


def test_a_layer_that_is_bypassed_is_found() -> None:
    model = at.convert(Bypassed(), CHIP)
    with pytest.raises(ValueError, match=r"1 of 2 analog layers never ran: 'second'.*exclude"):
        at.calibrate(model, _batches())


def test_wrong_batch_type_and_digital_model_are_refused() -> None:
    with pytest.raises(TypeError, match="a batch must be a tensor"):
        at.calibrate(_model(), [3])
    with pytest.raises(ValueError, match="no analog layer"):
        at.calibrate(nn.Linear(2, 2), _batches())


def test_progress_shows_a_bar(capsys: pytest.CaptureFixture) -> None:
    at.calibrate(_model(), _batches(), progress=True)
    assert "calibrate" in capsys.readouterr().err
