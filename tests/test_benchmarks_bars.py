"""What benchmarks say of means over training seeds: no gain by rounding, no verdict of few."""

from typing import Any

import pytest
import torch

from benchmarks.bars import by_seed, paired, percent, verdict
from benchmarks.hwa import __main__ as hwa
from benchmarks.hwa.recipes import CONFIGURED

TIME = "1 year"


def result(control: float, direct: float, *recipes: float) -> dict[str, Any]:
    """The result of a seed with the accuracies of these nets, each recipe's on its chips."""
    chips = [{"on_chip": {TIME: {"mean": mean}}, "validation": mean} for mean in (direct, *recipes)]
    named = dict(zip((CONFIGURED, "other"), chips[1:], strict=False))
    return {"digital": control, "control": control, **chips[0], "recipes": named}


ROUNDED = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).mean().item()
"""A mean over chips that differs from 0.2 in the last bit."""


@pytest.mark.parametrize(
    ("trained", "direct"), [(0.2, 0.2), (0.2, ROUNDED), (ROUNDED, 0.2)], ids=str
)
def test_equal_accuracies_gain_nothing_whatever_their_rounding(
    trained: float, direct: float
) -> None:
    results = [result(0.5, direct, trained, direct), result(0.5, trained, trained, trained)]
    found = hwa.differences(results)
    rows = {name: row for name, *row in hwa.rows(found, hwa.bars("conv"))}
    gain = f"gain of {CONFIGURED} at {TIME}"
    assert rows[gain] == ["0.00", "0.00 0.00", "> 0: mean MISSED, not settled"]
    assert "±" not in rows[f"loss of {CONFIGURED} at {TIME}"][0]
    *_, other = hwa.ablation(results)
    assert other[1].endswith(" (+0.00)")


def test_verdicts_are_of_the_mean_and_say_where_the_interval_spans_the_bar() -> None:
    assert verdict([0.1, 0.2, 0.15], "<=", 0.5) == "<= 0.5: met"
    assert verdict([0.8, 0.9, 0.85], "<=", 0.5) == "<= 0.5: MISSED"
    assert verdict([10.41, 3.12], "<=", 1.5) == "<= 1.5: mean MISSED, not settled"
    assert verdict([0.02, -0.04, 0.19, 1.25, 0.23], "<=", 0.5) == "<= 0.5: mean met, not settled"
    assert verdict([-0.07, 0.17, 0.2, 1.53, -0.24], "<=", 1.5) == "<= 1.5: met"
    assert verdict([0.1], ">", 0.0) == "> 0: mean met, not settled"  # one seed has no interval
    # values that are all alike show no spread
    assert verdict([93.0] * 25, ">=", 92.0) == ">= 92: mean met, not settled"


def test_a_mean_at_the_bar_is_not_beyond_it_by_rounding() -> None:
    values = [percent(share) for share in (0.57, 0.58, 0.56)]
    assert verdict(values, "<=", 57.0).startswith("<= 57: mean met")
    assert verdict(values, ">=", 57.0).startswith(">= 57: mean met")
    losses = paired([0.1, 0.3, 1.1], [0.0] * 3)
    assert verdict(losses, "<=", 0.5).startswith("<= 0.5: mean met")


def test_cells_of_seeds_have_no_negative_zero() -> None:
    assert by_seed([-0.001, *paired([1.0], [1.0 + 1e-15]), -0.006]) == "0.00 0.00 -0.01"
