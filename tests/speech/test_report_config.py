"""Options of a run and of its report that cannot be."""

from pathlib import Path
from typing import Any

import pytest

from analogtorch.cli.kws import parse
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


@pytest.mark.parametrize(("kind", "name"), [("model", "conv"), ("features", "logmel")])
def test_options_of_another_network_in_a_file_are_named(
    kind: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(
        "model: {name: hello_edge_gru, options: {hidden: 100}}\n"
        "features: {name: mfcc, options: {coefficients: 10}}\n"
    )
    given = [f"--config={tmp_path / 'a.yaml'}", f"--{kind}.name={name}"]
    advice = rf"{kind}.options has .* those of --config, .*add --{kind}.options '{{}}' to leave"
    with pytest.raises(ValueError, match=advice):
        parse(given)
    assert getattr(parse([*given, f"--{kind}.options={{}}"]).config, kind).name == name
    with pytest.raises(ValueError, match=rf"{kind}.options has 'x'") as error:
        parse([*given, f"--{kind}.options={{x: 1}}"])
    assert "--config" not in str(error.value)
