"""What results say of chips that are not as by default."""

import copy

import torch

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
    budget = at.budget(model, error, growth=None, names=["drift"], **given)
    assert f"on the chips, {text}" in str(budget)
    assert budget.to_dict()["conditions"] == [text]
    compared = at.compare(digital, ["ideal"], error, example=x[:1], prepare=lambda _: None, **given)
    assert f"on the chips, {text}" in str(compared)
    assert text in compared["ideal"].entries()[0].scope
    assert "conditions" not in at.sensitivity(model, error, num_chips=1).to_dict()
