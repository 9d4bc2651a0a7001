"""Options of a run and of its report that cannot be."""

from typing import Any

import pytest

from analogtorch.speech.config import KWSConfig, SweepConfig
from analogtorch.speech.report_config import ReportConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": "soon"}, "soon"),
        ({"num_chips": 0}, "num_chips"),
        ({"clips": 51}, r"report.clips must be an integer in \[0, 50\], got 51"),
        ({"clips": -1}, r"report.clips must be an integer in \[0, 50\], got -1"),
        ({"clips": 2.5}, r"report.clips must be an integer in \[0, 50\], got 2.5"),
        ({"windows_per_second": 0.0}, "windows_per_second"),
        ({"ablation": {"a": {"seed": 1}}}, "report.ablation: a: seed is changed; change options"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReportConfig(**options)


@pytest.mark.parametrize("given", [1.5, True, "2", -1])
@pytest.mark.parametrize(
    ("config", "option"),
    [
        (SweepConfig, "num_chips"), (SweepConfig, "processes"), (ReportConfig, "num_chips"),
        (KWSConfig, "threads"), (KWSConfig, "workers"), (KWSConfig, "devices"), (KWSConfig, "seed"),
    ],
)  # fmt: skip
def test_what_is_counted_is_an_integer(config: Any, option: str, given: Any) -> None:
    with pytest.raises(ValueError, match=f"{option} must be an integer"):
        config(**{option: given})
