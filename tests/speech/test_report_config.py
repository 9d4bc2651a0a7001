"""Options of the report that cannot be."""

import pytest

from analogtorch.speech.report_config import ReportConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": "soon"}, "soon"),
        ({"num_chips": 0}, "num_chips"),
        ({"clips": 51}, "report.clips=51; use 0 to 50"),
        ({"clips": -1}, "report.clips=-1; use 0 to 50"),
        ({"windows_per_second": 0.0}, "windows_per_second"),
        ({"ablation": {"a": {"seed": 1}}}, "report.ablation: a: seed is changed; change options"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReportConfig(**options)
