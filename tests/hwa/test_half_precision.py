"""Models in half precision learn: their steps are far below the distance of their numbers."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.hwa.half_precision import HalfPrecisionAdam
from analogtorch.hwa.schedule import relative_adam
from tests.crossbar import crossbar

RECIPE = at.hwa.Recipe(looks=6, patience=None)
HALF = (torch.bfloat16, torch.float16)


def _net(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 5)).to(dtype).eval()


def _target(dtype: torch.dtype, steps: int = 50) -> tuple[nn.Module, torch.optim.Adam]:
    """Return a layer that has learnt to move by a fixed sum of steps, and its optimizer."""
    net = at.convert(_net(dtype), crossbar())
    optimizer = relative_adam(net, RECIPE)
    _step(net, optimizer, steps)
    return net, optimizer


def _step(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        for p in net.parameters():
            p.grad = torch.ones_like(p) if p.requires_grad else None
        optimizer.step()


@pytest.mark.parametrize("dtype", HALF)
def test_every_weight_moves_as_in_single_precision(dtype: torch.dtype) -> None:
    net, optimizer = _target(dtype)
    given = _net(dtype)[0].weight.detach().float()
    size = given.square().mean().sqrt()
    moved = given - net[0].weight.detach().float()
    # 50 steps of 0.002: a tenth of the root mean square, to the rounding of one number
    near = (moved - 0.1 * size).abs() <= torch.finfo(dtype).eps * given.abs() + 0.002 * size
    assert bool(near.all())
    assert isinstance(optimizer, HalfPrecisionAdam)


def test_single_precision_has_the_optimizer_of_torch() -> None:
    for dtype in (torch.float32, torch.float64):
        assert type(relative_adam(_net(dtype), RECIPE)) is torch.optim.Adam


def test_parameters_in_single_precision_step_as_ever_beside_others() -> None:
    mixed, plain = _net(torch.float32), _net(torch.float32)
    mixed[2].to(torch.bfloat16)
    for net in (mixed, plain):
        _step(net, relative_adam(net, RECIPE), 5)
    assert torch.equal(mixed[0].weight, plain[0].weight)
    assert mixed[2].weight.dtype == torch.bfloat16
    assert not torch.equal(mixed[2].weight, _net(torch.bfloat16)[2].weight)


def test_a_weight_that_was_changed_between_steps_goes_on_from_there() -> None:
    """As clipping changes it after each step, and loading a state."""
    net, optimizer = _target(torch.bfloat16, steps=3)
    with torch.no_grad():
        net[0].weight.clamp_(-0.01, 0.01)
        before = net[0].weight.clone()
    _step(net, optimizer, 1)
    assert (net[0].weight - before).abs().max() < 0.001


@pytest.mark.parametrize("dtype", HALF)
def test_a_state_that_is_loaded_goes_on_bit_for_bit(dtype: torch.dtype) -> None:
    net, optimizer = _target(dtype, steps=3)
    state = copy.deepcopy(optimizer.state_dict())
    other = copy.deepcopy(net)
    resumed = relative_adam(other, RECIPE)
    resumed.load_state_dict(state)
    for group, rate in zip(resumed.param_groups, optimizer.param_groups, strict=True):
        group["lr"] = rate["lr"]
    _step(net, optimizer, 20)
    _step(other, resumed, 20)
    assert all(map(torch.equal, net.parameters(), other.parameters()))


def test_a_closure_gives_the_loss() -> None:
    net = _net(torch.bfloat16)
    optimizer = relative_adam(net, RECIPE)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = net(torch.ones(2, 12, dtype=torch.bfloat16)).square().sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(30)]
    assert losses[-1] < losses[0]


def test_adapt_in_half_precision_resumes_bit_for_bit(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    class Writer:
        def add_scalar(self, tag: str, value: float, step: int) -> None:
            if step == 11:
                raise Stop

    batches = list(torch.randn(8, 16, 12).bfloat16())
    options: dict[str, Any] = {"chip": crossbar(device="one_device"), "steps": 18, "num_chips": 1}
    options |= {"recipe": RECIPE, "times": ["1 day"], "calibration": {"effort": "ranges"}}
    whole = at.hwa.adapt(_net(torch.bfloat16), batches, **options)
    options["folder"] = tmp_path / "run"
    with pytest.raises(Stop):
        at.hwa.adapt(_net(torch.bfloat16), batches, writer=Writer(), **options)
    resumed = at.hwa.adapt(_net(torch.bfloat16), batches, **options)
    assert [vars(s) for s in whole.steps] == [vars(s) for s in resumed.steps]
    assert all(map(torch.equal, whole.model.parameters(), resumed.model.parameters()))


def test_parameters_that_are_not_contiguous_step_as_others() -> None:
    weights = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).bfloat16().t()
    apart = torch.zeros(6, 16, dtype=torch.bfloat16)[:, ::2]
    moved = []
    for p in (weights.contiguous(), weights, apart.copy_(weights)):
        p = nn.Parameter(p)
        optimizer = HalfPrecisionAdam([p], lr=1e-2)
        for step in range(3):
            p.grad = torch.randn(6, 8, generator=torch.Generator().manual_seed(step)).bfloat16()
            optimizer.step()
        moved.append(p.detach())
    assert torch.equal(moved[0], moved[1])
    assert torch.equal(moved[0], moved[2])
