"""What results say of chips that are not as by default."""

import copy

import torch
from torch import nn

import analogtorch as at
from analogtorch.evaluate.conditions import conditions


def test_defects_writing_and_compensation_are_in_words() -> None:
    assert conditions(None, at.Defects(), "least_squares") == {}
    defects = at.Defects(cells=0.02, worst_tile=0.3, stuck_on=0.01, open_rows=0.005, tile_gain=0.1)
    assert conditions(at.ProgramAndVerify(rounds=10), defects, "none") == {
        "defects": "broken are 1 % of the devices (stuck on), 2 % of the cells (failed), 0.5 % of "
        "the rows (open), 30 % of the cells of one tile (failed); gains of tiles have a standard "
        "deviation of 0.1",
        "method": "cells are written by program-and-verify, in 10 rounds",
        "compensation": "drift is not compensated",
    }
    assert "by gradient descent" in conditions(at.GradientDescent(), None, "global")["method"]


def test_temperature_and_reads_of_drift_are_in_words() -> None:
    monthly = at.Recalibration(every="30 days", times=["1 h"], temperature="27 C")
    found = conditions(None, None, "least_squares", temperature="60 C", recalibration=monthly)
    assert found == {
        "temperature": "the temperature is 333.15 K",
        "recalibration": "drift is read at 0 s and at 1 h and every 30 days, each at 300.15 K",
    }


def test_reads_without_drift_compensation_are_those_of_corrections() -> None:
    found = conditions(None, None, "none", recalibration=at.Recalibration(every="30 days"))
    assert found == {
        "compensation": "drift is not compensated",
        "recalibration": "corrections are fitted at 0 s and every 30 days",
    }


def test_results_name_the_conditions_of_their_chips() -> None:
    torch.manual_seed(0)
    x, digital = torch.randn(8, 4), torch.nn.Sequential(torch.nn.Linear(4, 3))
    exact = digital(x)
    model = at.calibrate(at.convert(copy.deepcopy(digital), at.chips.hermes64()), [x], report=None)

    def error(view: torch.nn.Module) -> float:
        return float((view(x) - exact).square().mean().detach())

    given = {"num_chips": 1, "defects": at.Defects(cells=0.1), "higher_is_better": False}
    text = "broken are 10 % of the cells (failed)"
    found = at.sensitivity(model, error, **given)
    assert f"in noise (0 s) and drift (1 year), {text}" in str(found)
    assert found.to_dict()["conditions"] == [text]
    recovery = at.Recovery(batches=[x])
    corrected = at.sensitivity(model, error, effects="drift", recovery=recovery, **given)
    assert f"in drift (1 year), {recovery.summary}" in str(corrected)
    assert corrected.to_dict()["recovery"] == recovery.summary
    assert "recovery" not in found.to_dict()
    budget = at.budget(model, error, growth=None, names=["drift"], **given)
    assert f"on the chips, {text}" in str(budget)
    assert budget.to_dict()["conditions"] == [text]
    compared = at.compare(digital, ["ideal"], error, example=x[:1], prepare=lambda _: None, **given)
    assert f"on the chips, {text}" in str(compared)
    assert text in compared["ideal"].entries()[0].scope
    assert "conditions" not in at.sensitivity(model, error, num_chips=1).to_dict()
    swept = at.sweep(model, error, times=["1 day"], **given)
    assert swept.conditions == (text,)
    assert f"on the chips, {text}" in str(swept)
    assert f"on the chips, {text}" in swept._repr_html_()
    once = at.Recalibration()
    lasted = at.lifetime(
        model,
        error,
        limit=1e9,
        recalibration=once,
        longest="2 days",
        compensation="global",
        **given,
    )
    assert lasted.to_dict()["conditions"] == [text, lasted.conditions[1]]
    assert lasted.conditions[1].startswith("drift is compensated by one factor per block")
    assert f"on the chips, {text}" in str(lasted)
    often = at.recalibration_interval(
        model, error, limit=1e9, life="2 days", compensation="column", **given
    )
    assert often.conditions[1].startswith("drift is compensated by one factor per column")
    assert often.to_dict()["conditions"] == [*often.conditions]
    assert f"on the chips, {text}" in str(often)


def test_differences_of_sweeps_keep_what_both_share() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 4)
    model = at.convert(torch.nn.Sequential(torch.nn.Linear(4, 3)), at.chips.hermes64())
    at.calibrate(model, [x], report=None)

    def mean(view: torch.nn.Module) -> float:
        return float(view(x).mean().detach())

    given = {"num_chips": 2, "times": ["1 day"], "compensation": "none"}
    plain = at.sweep(model, mean, **given)
    broken = at.sweep(model, mean, defects=at.Defects(cells=0.1), **given)
    corrected = at.sweep(model, mean, recovery=at.Recovery(batches=[x]), **given)
    assert broken.minus(plain).conditions == ("drift is not compensated",)
    assert corrected.minus(plain).recovery == ""
    text = "in the field, chips correct gain and offset of their columns digitally, from"
    assert text in str(corrected)
    assert text in str(corrected.minus(corrected))


def test_a_result_says_that_outputs_are_not_rounded() -> None:
    chips = {
        f"{bits} bits": at.chips.hermes64().replace(periphery={"output_bits": bits})
        for bits in (8, 2, None)
    }
    x = torch.randn(64, 16)

    def size(chip: nn.Module) -> float:
        return float(chip(x).square().mean())

    def made(chip: at.Chip) -> nn.Module:
        torch.manual_seed(0)
        return at.convert(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)), chip)

    found = at.sweep(made(chips["2 bits"]), size, num_chips=1, times=["0 s"])
    text = "outputs of 2 of 2 layers (0, 2) are not rounded to 2 bits: calibrate finds the ranges"
    assert found.conditions == (text,)
    assert f"on the chips, {text}" in str(found)
    assert at.sweep(made(chips["None bits"]), size, num_chips=1, times=["0 s"]).conditions == ()
    model = at.calibrate(made(chips["8 bits"]), [x], effort="ranges")
    assert at.sweep(model, size, num_chips=1, times=["0 s"]).conditions == ()
    net = at.to_digital(made(chips["2 bits"]))
    compared = at.compare(net, chips, size, example=x[:1], num_chips=1, times=["0 s"])
    assert compared.conditions == tuple(
        f"{text.replace('2 bits', f'{bits} bits')} ({bits} bits)" for bits in (8, 2)
    )
