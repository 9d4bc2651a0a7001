import copy
import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.calibration.norm_statistics import digital_statistics, remember_digital
from analogtorch.evaluate.experiment import experiment
from analogtorch.evaluate.identity import options_digest, structure_digest
from analogtorch.evaluate.look import Look
from analogtorch.simulate.compensation import Compensation
from tests.crossbar import crossbar

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


def _moved() -> nn.Module:
    """Return a converted net whose batch norm was moved."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    net(X)
    model = at.calibrate(at.convert(net.eval(), crossbar()), [X])
    at.reestimate_batch_norm(model, [X])
    return model


def _metric(view: nn.Module) -> float:
    return view(X).square().mean().item()


@dataclass(frozen=True)
class _Range:
    low: float
    high: float


def _scaled(by: float, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return by * output


def _with(**options: Any) -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 3))
    for name, value in options.items():
        setattr(model[0], name, value)
    return model


def _hooked(hook: Any) -> nn.Module:
    model = _with()
    model[0].register_forward_hook(hook)
    return model


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (_with(act=lambda x: 2 * x), _with(act=lambda x: 3 * x)),
        (_with(act=functools.partial(pow, exp=2)), _with(act=functools.partial(pow, exp=3))),
        (_with(within=_Range(0, 1)), _with(within=_Range(0, 2))),
        (_with(kept=frozenset({"a", "b"})), _with(kept=frozenset({"a", "c"}))),
        (_hooked(lambda m, i, o: 2 * o), _hooked(lambda m, i, o: 3 * o)),
        (_hooked(functools.partial(_scaled, 2.0)), _hooked(functools.partial(_scaled, 3.0))),
    ],
)  # fmt: skip
def test_options_that_have_no_plain_form_tell_models_apart(
    one: nn.Module, other: nn.Module
) -> None:
    assert options_digest(one) != options_digest(other)
    assert options_digest(one) == options_digest(copy.deepcopy(one))


def test_a_folder_takes_no_values_of_norms_that_start_elsewhere(tmp_path: Path) -> None:
    moved = _moved()
    other = copy.deepcopy(moved)
    remember_digital(other, {"1": (torch.zeros(6), torch.full((6,), 2.0))})
    recovery = at.Recovery(batches=[X], batch_norm=True)

    def values(model: nn.Module, folder: Path | None = None) -> Tensor:
        return at.sweep(
            model, _metric, num_chips=1, times=["1 day"], recovery=recovery, folder=folder
        ).values

    assert not torch.equal(values(moved, tmp_path), values(other))
    with pytest.raises(ValueError, match="structure"):
        values(other, tmp_path)
    assert torch.equal(values(copy.deepcopy(moved), tmp_path), values(moved))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_is_remembered_of_norms_is_digested_as_the_buffers_that_it_lay_in(
    dtype: torch.dtype,
) -> None:
    """Folders of before go on."""
    model = nn.Sequential(nn.Identity(), nn.BatchNorm1d(2), nn.Identity(), nn.BatchNorm1d(2))
    tables = [torch.rand(3), torch.rand(3)]
    model[0].register_buffer("table", tables[0], persistent=False)
    model[2].register_buffer("table", tables[1], persistent=False)
    if dtype == torch.float32:  # of another dtype they become two
        model[2].register_buffer("shared", tables[0], persistent=False)
    digital = torch.rand(2), torch.rand(2)
    with torch.no_grad():
        model[1].running_mean.copy_(torch.rand(2))
    moved = model[1].running_mean.clone(), model[1].running_var.clone()
    remember_digital(model, {"1": digital})

    found = hashlib.sha256()
    for name, module in model.named_modules():
        found.update(f"{name}\n{type(module).__qualname__}\n{module.extra_repr()}\n".encode())
    for name, value in {
        "0.table": tables[0],
        "1._analogtorch_moved_mean": moved[0],
        "1._analogtorch_moved_var": moved[1],
        "1._analogtorch_digital_mean": digital[0],
        "1._analogtorch_digital_var": digital[1],
        "2.table": tables[1],
    }.items():
        found.update(f"{name}\n".encode())
        found.update(value.to(dtype).numpy().tobytes())
    assert structure_digest("sweep", model.to(dtype)) == found.hexdigest()


def test_norms_that_have_no_statistics_any_more_remember_none() -> None:
    model, other = (nn.Sequential(nn.BatchNorm1d(2)) for _ in range(2))
    remember_digital(model, digital_statistics(model))
    assert structure_digest("sweep", model) != structure_digest("sweep", other)
    for norm in (model[0], other[0]):  # as test-time adaptation has them
        norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    assert structure_digest("sweep", model) == structure_digest("sweep", other)


def test_a_sweep_is_of_its_dac_ranges(tmp_path: Path) -> None:
    """On a chip without digital unit nothing else tells them: no key of a state has them."""
    torch.manual_seed(0)
    net, x = nn.Linear(8, 4), torch.randn(32, 8)

    def run(model: nn.Module) -> Tensor:
        options = {"num_chips": 1, "times": ["0 s"], "folder": tmp_path}
        return at.sweep(model, lambda chip: chip(x).square().mean().item(), **options).values

    def calibrated(scale: float) -> nn.Module:
        model = at.convert(copy.deepcopy(net), at.chips.neurram48())
        return at.calibrate(model, [x * scale], effort="ranges")

    first = run(calibrated(1))
    assert torch.equal(run(calibrated(1)), first)
    for other in (calibrated(3), at.convert(copy.deepcopy(net), at.chips.neurram48())):
        with pytest.raises(ValueError, match="another experiment .attributes: input_range"):
            run(other)


class _ByWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.layer.weight, self.layer.bias)


def test_layers_that_run_on_the_chip_since_a_guard_make_another_experiment(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = at.convert(_ByWeight(), crossbar())

    def run(folder: str) -> Tensor:
        options = {"num_chips": 1, "times": ["1 day"], "folder": tmp_path / folder}
        return at.sweep(model, _metric, **options).values

    with pytest.warns(UserWarning, match="1 of 1 analog layers .* did not run: 'layer'"):
        before = run("before")
    at.guard(model, X)
    with pytest.raises(ValueError, match=r"another experiment .routes None there and .*layer"):
        run("before")
    after = run("after")
    assert not torch.equal(after, before)
    assert torch.equal(run("after"), after)


def _scaled(model: nn.Module, x: Tensor, by: float = 1.0) -> Tensor:
    return model(x * by)


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        (lambda net, x: net(x), lambda net, x: net(x * 0.01), "forward code 'cpython"),
        (
            functools.partial(_scaled, by=0.5),
            functools.partial(_scaled, by=0.01),
            "forward settings: keywords: by 0.5 there and 0.01 here",
        ),
        (None, _scaled, "forward None there and '.*_scaled' here"),
    ],
    ids=["lambda", "partial", "named"],
)
def test_what_a_recovery_runs_makes_another_experiment(
    one: Any, other: Any, difference: str, tmp_path: Path
) -> None:
    model = _moved()

    def run(forward: Any) -> Tensor:
        recovery = at.Recovery(batches=[X], rounds=1, forward=forward)
        options: dict[str, Any] = {"num_chips": 1, "times": ["0 s"], "folder": tmp_path}
        return at.sweep(model, _metric, recovery=recovery, **options).values

    expected, head = run(one), tmp_path / "sweep.json"
    with pytest.raises(ValueError, match=f"another experiment .recovery: {difference}"):
        run(other)
    kept = json.loads(head.read_text())
    old = dict(kept["recovery"])
    for name in ("forward settings", "forward code"):  # an earlier version kept neither
        del old[name]
    head.write_text(json.dumps({**kept, "recovery": old}))
    assert torch.equal(run(one), expected)
    assert json.loads(head.read_text()) == kept


def test_where_a_module_without_a_state_is_used_again_makes_another_structure() -> None:
    first, last, act = nn.Linear(8, 8), nn.Linear(8, 8), nn.ReLU()

    def digest(*modules: nn.Module) -> str:
        return structure_digest("sweep", nn.Sequential(*modules))

    once = digest(first, act, last)
    found = {once, digest(first, act, last, act), digest(first, act, act, last)}
    found |= {digest(first, nn.Sequential(act, nn.Tanh()), last, act)}
    assert len(found) == 4
    # the state has all names of what has one: the digest is that of before
    block = nn.Sequential(last, nn.Tanh())
    assert digest(first, act, block, block) == digest(first, act, block)


def test_factors_of_drift_behind_wires_are_of_their_own_version() -> None:
    def identified(chip: at.Chip, compensation: Compensation) -> dict:
        model = at.convert(nn.Sequential(nn.Linear(8, 6)), chip)
        return experiment("sweep", model, 0, Look(compensation=compensation))

    wired = crossbar().replace(wires={"column_resistance": 1.0})
    assert identified(wired, "global")["compensated"] == "behind the wires"
    assert identified(wired, "column")["compensated"] == "behind the wires"
    for chip, compensation in ((wired, "least_squares"), (wired, "none"), (crossbar(), "global")):
        assert "compensated" not in identified(chip, compensation)
