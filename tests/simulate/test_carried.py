"""Corrections that are carried over to another time: what is refused, counted and undone."""

import copy

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.calibration.norm_statistics import statistics_before
from tests.crossbar import crossbar

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


def _net(*more: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3), *more)
    for _ in range(5):
        net(X)
    return at.convert(net.eval(), crossbar())


def test_the_layer_that_one_of_both_lacks_is_named() -> None:
    longer = at.program(_net(nn.Linear(3, 2)), seed=1).at("1 day")
    shorter = at.program(_net(), seed=1)
    with pytest.raises(ValueError, match="other analog layers than this chip: .* lacks '4'"):
        shorter.at("2 days", corrected=longer)


def test_a_failed_recovery_leaves_the_norms_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    physical = at.program(_net(), seed=1)
    once = at.Recovery(batches=[X], batch_norm=True).correct(physical.at("1 day"))
    view = physical.at("30 days", corrected=once)
    for start in (view, physical.at("30 days")):
        before, digital = copy.deepcopy(start[1].state_dict()), statistics_before(start)
        assert list(digital) == (["1"] if start is view else [])

        def fail(*given: object, **options: object) -> None:
            raise ValueError("no")

        monkeypatch.setattr("analogtorch.simulate.recovery.correct_columns", fail)
        with pytest.raises(ValueError, match="no"):
            at.Recovery(batches=[X], batch_norm=True).correct(start)
        after = start[1].state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        remembered = statistics_before(start)
        assert remembered.keys() == digital.keys()
        for name, pair in digital.items():
            assert all(map(torch.equal, remembered[name], pair))


class _Adapter(nn.Module):
    """A layer, and a small product beside it, which alone learns."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.base_layer, self.down, self.up = layer, nn.Linear(8, 2), nn.Linear(2, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.up(self.down(x))


def _learning(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad]


def test_what_learns_on_a_chip_learns_on_at_a_later_time() -> None:
    physical = at.program(_net(), seed=1)
    early = physical.at("1 day")
    assert _learning(early) == []
    early[0] = _Adapter(early[0])
    early[0].base_layer.weight.requires_grad_(True)  # a cell, which does not
    early(X).square().mean().backward()
    later = physical.at("1 year", corrected=early)
    adapter = [f"0.{name}" for name in ("down.weight", "down.bias", "up.weight", "up.bias")]
    assert _learning(later) == adapter
    assert all(p.grad is None for p in later.parameters())
    before, exact = early[0].up.weight.clone(), later[0].base_layer.programmed.weights
    later(X).square().mean().backward()
    torch.optim.SGD((p for p in later.parameters() if p.requires_grad), lr=1.0).step()
    assert not torch.equal(later[0].up.weight, before)
    assert torch.equal(early[0].up.weight, before)
    assert all(map(torch.equal, later[0].base_layer.programmed.weights, exact))
    assert _learning(physical.at("2 years", corrected=later)) == adapter
    # a recovery, as sweeps correct their chips, lets nothing learn
    recovered = at.Recovery(batches=[X], batch_norm=True).correct(physical.at("1 day"))
    assert _learning(physical.at("1 year", corrected=recovered)) == []


def test_each_pulse_of_an_input_is_an_mvm_of_a_recovery() -> None:
    recovery = at.Recovery(batches=[X], rounds=1, target="layer")

    def mvms(pulses: dict[str, int]) -> int:
        # no noise of MVMs, so that each is taken once
        chip = at.chips.hermes64(phases=1).replace(
            adc={"noise": 0.0}, periphery={"output_bits": None}, slices=pulses
        )
        model = at.convert(nn.Sequential(nn.Linear(8, 3)), chip)
        physical = at.program(model, seed=1)
        alone, both = (
            physical.recalibration_cost("global", recovery=given) for given in (None, recovery)
        )
        return both.mvms - alone.mvms

    assert mvms({}) == 64
    assert mvms({"bits_per_pulse": 1}) == 7 * 64


def test_an_unknown_compensation_is_refused_before_the_chip_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    physical = at.program(_net(), seed=1)
    monkeypatch.setattr(physical, "at", lambda *given, **options: pytest.fail("was read"))
    with pytest.raises(ValueError, match="compensation must be one of"):
        physical.recalibration_cost("none at all", recovery=at.Recovery(batches=[X]))  # type: ignore[arg-type]


def test_the_registers_of_another_chip_or_a_later_time_are_refused() -> None:
    model, recovery = _net(), at.Recovery(batches=[X])
    physical = at.program(model, seed=7)
    other = at.program(model, seed=8).at("30 days")
    with pytest.raises(ValueError, match="another chip, of seed 8, not 7"):
        physical.at("59 days", corrected=recovery.correct(other))
    broken = at.program(model, seed=7, defects=at.Defects(cells=0.1)).at("30 days")
    with pytest.raises(ValueError, match="another chip, with another method or other defects"):
        physical.at("59 days", corrected=broken)
    late = copy.deepcopy(recovery.correct(physical.at("1 year"))).double()
    with pytest.raises(ValueError, match="the chip at 3.1536e.07 s, .* asked for at 86400 s"):
        physical.at("1 day", corrected=late)
    with pytest.raises(ValueError, match="the chip at 0 s, .* asked for as programmed"):
        physical.at("programmed", corrected=physical.at("0 s"))
    carried = physical.at("2 years", corrected=physical.at("1 year"))
    with pytest.raises(ValueError, match="the chip at 6.3072e.07 s"):
        physical.at("1 year", corrected=carried)
    again = at.program(model, seed=7).at("1 year")  # the same chip
    assert torch.equal(carried(X), physical.at("2 years", corrected=again)(X))
