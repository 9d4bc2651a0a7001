"""Kernel ridge regression and K-FAC, with systems that a solver chip solves."""

import copy

import pytest
import torch
from torch.testing import assert_close

import analogtorch as at
from benchmarks.solver import kfac, ridge

CHIP = at.solver.rram_solver(slices=3)


def test_ridge_regression_on_the_chip_equals_the_digital_one() -> None:
    g = torch.Generator().manual_seed(0)
    f, y = torch.rand(200, 16, generator=g).double(), torch.randint(3, (200,), generator=g)
    digital, _ = ridge.fitted(f, y, None, 0)
    analog, passes = ridge.fitted(f, y, CHIP, 0)
    assert passes > 0
    assert_close(analog, digital, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_random_features_of_hermes_keep_the_accuracy() -> None:
    pytest.importorskip("sklearn")
    data = ridge.load("breast_cancer")
    found = {}
    for name, chip in (("digital", None), ("hermes64", at.chips.hermes64())):
        f = ridge.features(data, 0, chip)
        w, _ = ridge.fitted(f(data.x), data.y, None, 0)
        found[name] = ridge.accuracy(f(data.test_x), w, data.test_y)
    assert found["digital"] > 0.94
    assert abs(found["hermes64"] - found["digital"]) < 0.01


def test_a_step_of_kfac_is_that_of_its_formula_and_runs_on_the_chip() -> None:
    torch.manual_seed(0)
    x, y, model = torch.randn(64, 5), torch.randint(3, (64,)), kfac.network(5, 3, seed=0)
    stepped = {}
    solvers = {"digital": kfac.digital, "chip": kfac.OnChip(CHIP, tolerance=2.0**-20)}
    for name, solve in solvers.items():
        net = copy.deepcopy(model)
        optimiser = kfac.KFAC(net, solve)
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimiser.observe()
        optimiser.step()
        stepped[name] = net[0].weight.detach()
    assert_close(stepped["chip"], stepped["digital"], rtol=0, atol=1e-5)
    a, g = optimiser.factors[0]
    share = float(((a.trace() / 6) / (g.trace() / 32)).sqrt())
    damped_a = a + kfac.DAMPING**0.5 * share * torch.eye(6)
    damped_g = g + kfac.DAMPING**0.5 / share * torch.eye(32)
    gradient = torch.cat((net[0].weight.grad, net[0].bias.grad.unsqueeze(1)), 1).double()
    change = torch.linalg.inv(damped_g) @ gradient @ torch.linalg.inv(damped_a)
    expected = model[0].weight - kfac.RATE * change[:, :-1].float()
    assert_close(stepped["digital"], expected.detach(), rtol=0, atol=1e-6)


def test_kfac_trains_faster_than_gradient_descent() -> None:
    data = ridge.load("digits")
    x = data.x.float()
    first, second = (kfac.trained(x, data.y, 0, s, 10)[1][-1] for s in (None, kfac.digital))
    assert second < 0.5 * first
