import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import analogtorch as at
from tests.crossbar import crossbar


def _linear(*sizes: int) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
    return at.convert(nn.Sequential(*layers), crossbar())


def test_clips_each_layer_at_its_own_sigma() -> None:
    torch.manual_seed(0)
    model = at.convert(
        nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8), nn.LayerNorm(8)), crossbar()
    )
    nn.init.normal_(model[0].weight, std=3.0)
    bounds = [2.0 * layer.weight.std(correction=0).item() for _, layer in at.analog_layers(model)]
    at.hwa.clip_weights_(model, sigma=2.0)
    assert model[0].weight.abs().max().item() == pytest.approx(bounds[0])
    assert model[1].weight.abs().max().item() <= bounds[1] + 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_any_precision_are_clipped(dtype: torch.dtype) -> None:
    model, wanted = _linear(64, 8).to(dtype), _linear(64, 8)
    at.hwa.clip_weights_(model, 1.0)
    at.hwa.clip_weights_(wanted, 1.0)
    assert model[0].weight.dtype == dtype
    torch.testing.assert_close(model[0].weight.float(), wanted[0].weight, rtol=2**-7, atol=0)


def test_clips_at_a_bound_in_the_units_of_the_weights() -> None:
    model = _linear(64, 64, 8)
    before = [p.clone() for p in model.parameters()]
    at.hwa.clip_weights_(model, bound=0.05)
    for p, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, old.clamp(-0.05, 0.05) if p.dim() > 1 else old)


@pytest.mark.parametrize(
    ("layer", "outputs_first"),
    [
        (nn.Linear(64, 6), lambda w: w),
        (nn.Conv2d(4, 6, 3, groups=2), lambda w: w.flatten(1)),
        (nn.LSTM(16, 6, proj_size=4), lambda w: w),
    ],
    ids=["linear", "grouped convolution", "lstm"],
)
def test_clips_each_channel_at_its_own_sigma(
    layer: nn.Module, outputs_first: Callable[[Tensor], Tensor]
) -> None:
    model = at.convert(nn.Sequential(layer), crossbar())
    weights = [p for name, p in layer.named_parameters() if "weight" in name]
    for weight in weights:
        with torch.no_grad():
            weight.normal_(generator=torch.Generator().manual_seed(0))
            # channels differ
            weight.mul_(torch.arange(1, len(weight) + 1.0).view(-1, *[1] * (weight.dim() - 1)))
    before = [outputs_first(weight.detach().clone()) for weight in weights]
    at.hwa.clip_weights_(model, 1.5, per_channel=True)
    for weight, old in zip(weights, before, strict=True):
        limit = 1.5 * old.square().mean(1, keepdim=True).sqrt()
        assert torch.allclose(outputs_first(weight), old.clamp(-limit, limit))
        assert not torch.equal(outputs_first(weight), old)


def test_a_turned_weight_is_clipped_by_its_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _linear(64, 64)
    with torch.no_grad():
        model[0].weight.mul_(torch.arange(1.0, 65.0))
    old = model[0].weight.detach().clone()
    monkeypatch.setattr(type(model[0]), "as_matrix", lambda self, weight: weight.T)
    at.hwa.clip_weights_(model, 2.0, per_channel=True)
    limit = 2.0 * old.square().mean(0).sqrt()
    assert torch.allclose(model[0].weight, old.clamp(-limit, limit))


def test_a_channel_whose_weights_hardly_differ_keeps_them() -> None:
    model = at.convert(nn.Sequential(nn.Conv2d(2, 2, 3, groups=2)), crossbar())
    with torch.no_grad():
        model[0].weight.normal_(1.0, 0.01, generator=torch.Generator().manual_seed(0))
    before = model[0].weight.clone()
    for _ in range(3):
        at.hwa.clip_weights_(model, per_channel=True)
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan")])
def test_bad_sigma_is_refused(sigma: float) -> None:
    model = _linear(2, 2)
    with pytest.raises(ValueError, match="sigma must be a positive number"):
        at.hwa.clip_weights_(model, sigma)
    with pytest.raises(ValueError, match="bound must be a positive number"):
        at.hwa.clip_weights_(model, bound=sigma)


def test_options_that_do_not_go_together_are_refused() -> None:
    model = _linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for call in (
        at.hwa.clip_weights_,
        lambda *args, **kwargs: at.hwa.clip_after_step(optimizer, *args, **kwargs),
    ):
        with pytest.raises(ValueError, match=r"sigma=2.5 and bound=0.1 exclude each other"):
            call(model, 2.5, bound=0.1)
        with pytest.raises(ValueError, match="per_channel needs sigma; bound=0.1 is the same"):
            call(model, bound=0.1, per_channel=True)


def test_models_without_weights_to_clip_are_refused() -> None:
    with pytest.raises(ValueError, match="no analog layer"):
        at.hwa.clip_weights_(nn.Linear(2, 2))
    model = _linear(2, 2, 2)
    parametrizations.orthogonal(model[1])
    before = model[0].weight.clone()
    with pytest.raises(ValueError, match="layer '1': its weight is not a plain Parameter"):
        at.hwa.clip_weights_(model, bound=1e-3)
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("per_channel", [False, True])
def test_weights_that_are_all_equal_are_left_alone_and_a_tied_weight_is_clipped_once(
    per_channel: bool,
) -> None:
    model = at.convert(nn.Sequential(nn.Linear(1, 1), nn.Linear(8, 8), nn.Linear(8, 8)), crossbar())
    model[2].weight = model[1].weight
    before = model[0].weight.clone()
    weight = model[1].weight.detach().clone()
    limit = (
        weight.square().mean(1, keepdim=True).sqrt() if per_channel else weight.std(correction=0)
    )
    at.hwa.clip_weights_(model, sigma=1.0, per_channel=per_channel)
    assert torch.equal(model[0].weight, before)
    assert torch.allclose(model[1].weight, weight.clamp(-limit, limit))


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_step_of_any_optimizer_is_clipped(name: str) -> None:
    model = _linear(8, 8, 4)
    optimizer = OPTIMIZERS[name](model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.5, total_steps=10, cycle_momentum=False
    )
    handle = at.hwa.clip_after_step(optimizer, model, bound=0.1)
    for _ in range(4):
        model(torch.randn(16, 8)).square().sum().backward()
        optimizer.step()
        schedule.step()
        assert max(layer.weight.abs().max() for layer in model) <= 0.1
    state = copy.deepcopy(optimizer.state_dict())
    assert set(state) == {"state", "param_groups"}
    optimizer.load_state_dict(state)
    handle.remove()
    optimizer.step()
    assert max(layer.weight.abs().max() for layer in model) > 0.1


def test_frozen_weights_are_clipped_by_hand_alone() -> None:
    model = _linear(8, 8, 4)
    model[1].weight.requires_grad_(False)
    before = model[1].weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    at.hwa.clip_after_step(optimizer, model, sigma=1.0)
    model(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    assert torch.equal(model[1].weight, before)
    at.hwa.clip_weights_(model, sigma=1.0)
    assert not torch.equal(model[1].weight, before)


def _heavy_tailed() -> nn.Module:
    model = _linear(64, 64)
    with torch.no_grad():
        model[0].weight.copy_(torch.distributions.StudentT(4.0).sample((64, 64)))
    return model


def _steps(model: nn.Module, number: int, **clip: float) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    handle = at.hwa.clip_after_step(optimizer, model, **clip)
    _go_on(model, optimizer, number)
    handle.remove()


def _go_on(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    for _ in range(number):
        model(torch.ones(1, 64)).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_heavy_tailed_layer_keeps_its_deviation_over_many_steps(per_channel: bool) -> None:
    once, often = _heavy_tailed(), _heavy_tailed()
    before = once[0].weight.detach().clone()
    _steps(once, 1, sigma=2.0, per_channel=per_channel)
    _steps(often, 50, sigma=2.0, per_channel=per_channel)
    torch.testing.assert_close(often[0].weight, once[0].weight, rtol=0, atol=1e-4)
    # a Gaussian of variance 1 exceeds 2 by a mean square of 0.01154; of channels, each has its own
    lost = (often[0].weight - before).square().sum() / before.square().sum()
    assert 0.01 < lost < 0.02
    assert often[0].weight.std() > 0.93 * before.std()


def test_a_weight_that_comes_later_is_clipped_by_its_own_deviation() -> None:
    """Also one of another shape, one that was frozen, and one that was zero at the call."""
    model = at.convert(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), crossbar())
    model[1].weight.requires_grad_(False).zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    at.hwa.clip_after_step(optimizer, model, sigma=2.0, per_channel=True)
    _go_on(model, optimizer, 1)
    assert not model[1].weight.any()
    torch.manual_seed(0)
    model[0].weight = nn.Parameter(1e-3 * torch.randn(64, 64))
    with torch.no_grad():
        model[1].weight.requires_grad_(True).normal_(0, 1e-3)
    before = [layer.weight.detach().clone() for layer in model]
    _go_on(model, optimizer, 3)
    for layer, old in zip(model, before, strict=True):
        lost = (layer.weight - old).square().sum() / old.square().sum()
        assert 0.005 < lost < 0.013  # a Gaussian of variance 1 exceeds 2 by 0.01154


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_clips_nothing(fused: bool) -> None:
    model = _linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    at.hwa.clip_after_step(optimizer, model, bound=1e-3)
    scaler = torch.amp.GradScaler("cpu")
    before = model[0].weight.clone()
    for infinite in (True, False):
        loss = model(torch.randn(2, 8)).sum()
        scaler.scale(loss).backward()
        if infinite:
            model[0].weight.grad[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(model[0].weight, before) == infinite
        optimizer.zero_grad()


def test_what_cannot_be_hooked_is_refused() -> None:
    model = _linear(8, 4)
    with pytest.raises(TypeError, match="must be a torch.optim.Optimizer, not a wrapper of one"):
        at.hwa.clip_after_step(model, model)
    other = torch.optim.SGD(copy.deepcopy(model).parameters(), lr=0.1)
    with pytest.raises(ValueError, match="trains no weight of an analog layer of this model"):
        at.hwa.clip_after_step(other, model)


def test_the_scale_of_the_weights_follows_at_once() -> None:
    chip = crossbar(dac={"bits": None}, adc={"noise": 0.0, "bits": None})
    torch.manual_seed(0)
    layer = at.convert(nn.Linear(64, 64, bias=False), chip)
    noise = []
    for _ in range(2):
        with at.noise(1):
            noise.append((layer(torch.eye(64)).T - layer.weight).std().item())
        full = layer.weight.abs().max().item()
        at.hwa.clip_weights_(layer, bound=full / 4)
    assert noise[1] < 0.4 * noise[0]
