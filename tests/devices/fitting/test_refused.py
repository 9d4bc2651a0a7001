"""Measurements that cannot be fitted: what is wrong, where, and what to do."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from analogtorch import devices
from analogtorch.__main__ import main
from tests.devices.fitting.campaign import measured

HEADINGS = ("target [uS]", "measured [uS]", "time [s]", "cycle")
DATA = measured(devices.rram_wan(), devices=120, times=(1.0, 3600.0))
NAMES = ("target", "measured", "time", "cycle")


def _rows() -> list[list[float]]:
    return [list(row) for row in zip(*(DATA[name].tolist() for name in NAMES), strict=True)]


def _write(path: Path, rows: list[list[float]], headings: tuple[str, ...] = HEADINGS) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(headings)
        writer.writerows(rows)
    return path


def _with(line: int, column: int, value: object):
    """The rows with one cell changed; lines count from 1, which holds the headings."""
    rows = _rows()
    rows[line - 2][column] = value  # type: ignore[call-overload]
    return rows, HEADINGS


def _headed(target: str = HEADINGS[0], read: str = HEADINGS[1], time: str = HEADINGS[2]):
    """The rows under other headings."""
    return _rows(), (target, read, time, "cycle")


FEW = "few measurements: {} devices at {} s; a fit needs 50 at the first time and 20 at each other"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (_with(17, 1, "abc"), "line 17: measured is 'abc', which is no finite number"),
        (_with(18, 1, "nan"), "line 18: measured is 'nan', which is no finite number"),
        (_with(19, 2, 0), "line 19: time is 0; it must be > 0, seconds after programming"),
        (_with(19, 2, -5), "line 19: time is -5; it must be > 0"),
        (_with(20, 0, -1), "line 20: target is -1; it must be >= 0"),
        (([*_rows(), [1, 2]], HEADINGS), "line 242: 2 cells, where line 1 has 4 headings"),
        (_headed(read="read"), "line 1: column 'measured' is missing; a table has target"),
        (_headed(read="measure"), "column 'measured' is missing, did you mean 'measure'?"),
        (_headed("target [us]"), "column 'target': unknown unit 'us', did you mean 'uS'?"),
        (_headed("target / us"), "column 'target': unknown unit 'us', did you mean 'uS'?"),
        (_headed(time="time [hours ago]"), "unknown unit 'hours ago'"),
        (_headed(read="measured [nA]"), "nA is a current, which needs the read voltage"),
        (_headed(read="measured [nA @ 0 V]"), "write the voltage as in 'measured"),
        ((_rows(), ("target", "measured", "time", "target")), "two columns are called 'target'"),
        ((_rows()[:30] + _rows()[120:150], HEADINGS), FEW.format(30, 1)),
        ((_rows()[:130], HEADINGS), FEW.format(10, 3600)),
        (([], HEADINGS), "holds no measurement"),
        (([["5;5;1;0"]], (";".join(HEADINGS),)), "line 1: its cells are separated by semicolons"),
        (([["5\t5\t1\t0"]], ("\t".join(HEADINGS),)), "line 1: its cells are separated by tabs"),
    ],
)
def test_a_file_is_refused_by_line(table, message: str, tmp_path, capsys) -> None:
    path = _write(tmp_path / "measurements.csv", *table)
    with pytest.raises(ValueError, match="measurements.csv: ") as error:
        devices.fit(path)
    assert message in str(error.value)
    before = sorted(tmp_path.iterdir())
    assert main(["fit", str(path), "--out", str(tmp_path / "mine.yaml")]) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before  # nothing was written


def test_a_file_without_a_table_is_refused(tmp_path) -> None:
    path = tmp_path / "empty.csv"
    path.write_text("# a comment\n\n")
    with pytest.raises(ValueError, match="holds no table; the first line has the headings"):
        devices.fit(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="no text in UTF-8"):
        devices.fit(path)
    path.write_text('target,measured,time\n"1,2,3\n')
    with pytest.raises(ValueError, match="line "):
        devices.fit(path)
    with pytest.raises(FileNotFoundError):
        devices.fit(tmp_path / "absent.csv")


def test_conductances_must_rise_with_their_targets(tmp_path) -> None:
    rows = _rows()
    for row in rows:
        row[1] = 40 - row[1]
    path = _write(tmp_path / "falling.csv", sorted(rows, key=lambda row: (row[2], row[0])))
    with pytest.raises(
        ValueError,
        match=r"must rise with their targets: targets of .*lines 26 to 37.*lines 38 to 49.*mixed",
    ) as error:
        devices.fit(path)
    assert "falling.csv" in str(error.value)


def test_a_device_has_one_target_and_each_read_stands_there_once() -> None:
    twice = {k: torch.cat((v, v[:1])) for k, v in DATA.items()}
    twice["cycle"] = twice["cycle"] + 1
    with pytest.raises(
        ValueError, match="row 240: device 0, time 1 s, cycle 1 stands in row 0 already"
    ):
        devices.fit(twice)
    other = {**DATA, "target": DATA["target"].clone()}
    other["target"][125] = 3.0
    with pytest.raises(
        ValueError, match=r"row 125: device 5 has the target 3 uS, and .* uS in row 5"
    ):
        devices.fit(other)


@pytest.mark.parametrize("name", ["device", "cycle"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 0.4, 1e300, 2.0**53])
def test_devices_and_cycles_have_whole_numbers(name: str, value: float) -> None:
    wrong = {**DATA, name: DATA[name].double().clone()}
    wrong[name][5:7] = value
    with pytest.raises(
        ValueError,
        match=f"row 5: {name} is .*, and 1 more like it; it must be a whole .* leave the column",
    ):
        devices.fit(wrong)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda reads: 0 * reads, "rise by 0 uS for each uS of the target, .*the array not work"),
        (lambda reads: reads.roll(7), "rise by .* with a standard error of"),
        (lambda reads: _one(reads, 1e300), "row 5: measured is 1e\\+300; .* within 3.*e.07"),
        (lambda reads: _one(reads, 1e6), "must rise with .* farthest .* is row 5, 1e\\+06 uS"),
    ],
)
def test_reads_that_say_nothing_of_their_targets_are_refused(changed, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        devices.fit({**DATA, "measured": changed(DATA["measured"])})


@pytest.mark.parametrize(
    ("read", "factor", "message"),
    [
        (
            "measured [nA @ 0.2 V]",
            1.0,
            r"are 0.005\d* of their targets at the first time, 1 s .*target in uS and measured in "
            r"nA @ 0.2 V, .*such as by the heading 'measured \[uS\]'",
        ),
        ("measured [uS]", 1e3, r"measured in uS, .* by the heading 'measured \[nS\]'"),
        ("measured [uS]", 200.0, r"by the heading 'measured \[nA @ 0.2 V\]'"),
        ("measured [S]", 5.2e-6, "are 5.2.*the unit that is wrong, or give the g_max"),
        ("measured [S]", 1.9e-7, "are 0.19.*the unit that is wrong, or give the g_max"),
    ],
)
def test_conductances_that_are_far_from_their_targets_are_in_another_unit(
    read: str, factor: float, message: str, tmp_path: Path
) -> None:
    rows = [[t, m * factor, s] for t, m, s, _ in _rows()]
    path = _write(tmp_path / "m.csv", rows, ("target [uS]", read, "time [s]"))
    with pytest.raises(ValueError, match=f"m.csv: measured conductances .*{message}"):
        devices.fit(path)


def test_too_few_devices_in_the_range_of_the_weights_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"too few measurements: \d+ devices with targets from 0 to 10 uS \(g_min and g_max\)",
    ):
        devices.fit(DATA, g_max=10.0)


def _one(reads: torch.Tensor, value: float) -> torch.Tensor:
    reads = reads.clone()
    reads[5] = value
    return reads


def test_devices_that_all_fall_to_0_have_no_power_law() -> None:
    data = measured(devices.pcm_like(), devices=120, times=(0.0, 60.0, 3600.0), offset=20.0)
    data["measured"][240:] = 0.0
    with pytest.raises(ValueError, match="0 devices .* and never as 0, at least 50 are needed"):
        devices.fit(data, law="power")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": 3}, "data must be a path such as"),
        ({"data": {"target": [1.0], "measured": [1.0]}}, "column 'time' is missing"),
        ({"data": {**DATA, "time": DATA["time"][:5]}}, "columns must be of one length"),
        ({"data": {**DATA, "time": DATA["time"].view(2, -1)}}, "time' must have one dimension"),
        ({"data": {**DATA, "time": ["a"] * 240}}, "time' must be a tensor, an array or a list"),
        ({"data": {**DATA, "target": torch.full((240,), 20.0)}}, "all targets are 20 uS"),
        ({"unit": "furlong"}, "unknown unit 'furlong'"),
        ({"unit": "nA"}, "give volt=0.2"),
        ({"volt": -1}, "fit: volt must be a positive number"),
        ({"law": "powr"}, "fit: law must be one of"),
        ({"law": "power"}, "law='power' needs more: 0 devices of targets from .* at three times"),
        ({"g_max": 80.0}, "a fit says nothing of a device from 0 to 80 uS"),
        ({"g_min": 50.0}, "fit: g_min must be a number"),
        ({"t_read": 0}, "fit: t_read must be a positive number"),
        ({"t_read": 1.0}, "t_read must be shorter than the first time .* 1 s, got 1 s; give the l"),
        ({"t_read": 2.0, "law": "times"}, "t_read must be shorter than the first time"),
        ({"bootstrap": 5}, "fit: bootstrap must be an integer >= 20"),
        ({"name": ""}, "fit: name must be"),
    ],
)  # fmt: skip
def test_bad_calls_are_refused(changes: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        devices.fit(**{"data": DATA, **changes})


@pytest.mark.parametrize(
    ("headings", "options", "message"),
    [
        (NAMES, {"volt": 0.2}, "volt=0.2 has no effect, as no column holds a current"),
        (HEADINGS, {"volt": 0.2}, "volt=0.2 has no effect"),
        (HEADINGS, {"unit": "nS"}, "unit='nS' has no effect, as the headings of target and meas"),
        (HEADINGS, {"unit": "nA", "volt": 0.2}, "unit='nA' has no effect"),
        (
            ("target", "measured [nA @ 0.1 V]", "time", "cycle"),
            {"volt": 0.2},
            "column 'measured': its heading states 0.1 V, and volt=0.2; leave volt out, or corr",
        ),
        (("target", "measured [furlong]", "time"), {"volt": 0.2}, "unknown unit 'furlong'"),
    ],
)
def test_units_and_voltages_without_effect_are_refused(
    tmp_path, headings, options: dict, message: str
) -> None:
    rows = [row[: len(headings)] for row in _rows()]
    path = _write(tmp_path / "m.csv", rows, headings)
    columns = dict(zip(headings, map(list, zip(*rows, strict=True)), strict=True))
    for data in (path, columns):
        with pytest.raises(ValueError, match=message):
            devices.fit(data, **options)


def test_a_voltage_that_agrees_with_the_heading_is_taken(tmp_path) -> None:
    rows = [[t, m * 100, s] for t, m, s, _ in _rows()]
    path = _write(tmp_path / "m.csv", rows, ("target [uS]", "measured [nA @ 100 mV]", "time"))
    given = devices.fit(path, volt=0.1, bootstrap=20).device
    assert given == devices.fit(path, bootstrap=20).device


def test_units_and_kinds_of_columns_make_no_difference(tmp_path) -> None:
    whole = devices.fit(DATA, bootstrap=20).device
    scaled = {
        "Target [S]": [x * 1e-6 for x in DATA["target"].tolist()],
        "measured_nA": (DATA["measured"] * 200).numpy().astype(np.float64),
        "time [h]": DATA["time"] / 3600,
    }
    found = devices.fit(scaled, volt=0.2, bootstrap=20).device
    g = torch.linspace(1, 39, 9, dtype=torch.float64)
    torch.testing.assert_close(found.sigma(g, 3600.0), whole.sigma(g, 3600.0), rtol=1e-6, atol=1e-6)
    rows = [[t, m * 0.1, s] for t, m, s, _ in _rows()]
    path = _write(tmp_path / "my devices.csv", rows, ("target", "measured (uA @ 100 mV)", "time"))
    read = devices.fit(path, bootstrap=20).device
    assert read.name == "my devices"
    torch.testing.assert_close(read.sigma(g, 3600.0), whole.sigma(g, 3600.0), rtol=1e-6, atol=1e-6)


def test_the_command_writes_the_device_and_the_plot(tmp_path, capsys) -> None:
    path, out = _write(tmp_path / "measurements.csv", _rows()), tmp_path / "out" / "mine.yaml"
    assert (
        main(["fit", str(path), "--out", str(out), "--name", "my ReRAM", "--bootstrap", "20"]) == 0
    )
    printed = capsys.readouterr().out
    assert "my ReRAM: TimedDevice" in printed
    assert f"Written: {out}, {out.with_suffix('.png')}" in printed
    assert devices.load(out) == devices.fit(path, name="my ReRAM", bootstrap=20).device
    more = ["--out", str(tmp_path / "a.json"), "--plot", "none", "--bootstrap", "20"]
    assert main(["fit", str(path), *more]) == 0
    assert not (tmp_path / "a.png").exists()
    for wrong in (
        ["--out", "mine.txt"],
        ["--out", "a.yaml", "--plot", "a.gif"],
        ["--law", "x"],
        ["--out", "a.yaml", "--volt", "0.2"],
        ["--out", "a.yaml", "--unit", "nS"],
        ["--out", "a.yaml", "--t-read", "1"],
        [],
    ):
        assert main(["fit", str(path), *wrong]) == 2
