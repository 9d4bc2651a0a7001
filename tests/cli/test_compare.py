"""``analogtorch compare`` of any model; that of a run is in tests/speech/test_kws.py."""

import csv
import errno
import json
from pathlib import Path

import pytest

import analogtorch as at
from analogtorch.__main__ import main

MODEL = ["compare", "--model", "tests.mapping.nets.Residual", "--input", "1,3,6,6"]


def test_a_model_on_chips_by_name_and_from_a_file(tmp_path: Path, capsys, monkeypatch) -> None:
    mine, files = (
        tmp_path / "mine.json",
        [tmp_path / "c.json", tmp_path / "c.csv", tmp_path / "c.png"],
    )
    at.chips.save(at.chips.hermes64(phases=1), mine)
    options = ["--json", str(files[0]), "--csv", str(files[1]), "--plot", str(files[2])]
    assert main([*MODEL, "--chips", "hermes64", "ideal", str(mine), *options]) == 0
    printed = capsys.readouterr().out
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main([*MODEL, "--chips", "hermes64", "ideal", "~/mine.json"]) == 0
    assert capsys.readouterr().out == printed
    assert printed.splitlines()[0].split() == ["hermes64", "ideal", "mine"]
    assert "simulated" not in printed  # its weights are random: no metric is measured
    found = json.loads(files[0].read_text())
    assert list(found["chips"]) == ["hermes64", "ideal", "mine"]
    quantities = {row["quantity"] for row in csv.DictReader(files[1].read_text().splitlines())}
    assert {"energy, tile", "latency", "tiles", "area"} <= quantities
    assert files[2].stat().st_size > 1000


def test_chips_whose_files_have_one_name_stand_under_their_paths(tmp_path: Path, capsys) -> None:
    mine, other = tmp_path / "hermes64.json", tmp_path / "b" / "hermes64.json"
    other.parent.mkdir()
    for path, phases in ((mine, 1), (other, 4)):
        at.chips.save(at.chips.hermes64(phases=phases), path)
    saved, given = tmp_path / "c.json", ["hermes64", str(mine), str(other)]
    assert main([*MODEL, "--chips", *given, "ideal", "--json", str(saved)]) == 0
    found = json.loads(saved.read_text())["chips"]
    assert list(found) == [*given, "ideal"]
    assert main([*MODEL, "--chips", *given, f"{tmp_path}/b/../hermes64.json"]) == 2
    assert "--chips: each chip once, got" in capsys.readouterr().err


def test_the_table_is_printed_if_a_file_cannot_be_written(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(at.Comparison, "to_csv", full)
    files = [tmp_path / "new" / "c.json", tmp_path / "c.csv"]
    options = ["--chips", "ideal", "--json", str(files[0]), "--csv", str(files[1])]
    assert main([*MODEL, *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.endswith(f"analogtorch: no space left; written is {files[0]}\n")
    assert "tiles" in captured.out
    assert files[0].is_file()


def test_chips_are_separated_by_spaces_or_commas(tmp_path: Path, capsys) -> None:
    of_both = tmp_path / "a,b.json"
    at.chips.save(at.chips.ideal(), of_both)
    for given in (
        ["ideal,hermes64"],
        ["ideal,", "hermes64"],
        ["ideal, ,hermes64"],
        [str(of_both), "hermes64"],
    ):
        assert main([*MODEL, "--chips", *given]) == 0
    tables = capsys.readouterr().out
    assert tables.count("hermes64") >= 4
    assert "a,b" in tables


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare"], "takes the folder of a run of analogtorch kws, such as runs/kws, or --model"),
        ([*MODEL, "runs/kws"], "or --model; give one of them"),
        ([*MODEL, "--chips", "hermes46"], "--chips: unknown chip 'hermes46', did you mean 'hermes"),
        ([*MODEL, "--chips", "ideal", "ideal"], "--chips: each chip once, got ideal ideal"),
        ([*MODEL, "--chips", "ideal,ideal"], "--chips: each chip once, got ideal ideal"),
        ([*MODEL, "--chips", "hermes64,neurram84"], "unknown chip 'neurram84', did you mean"),
        ([*MODEL, "--chips", ","], "unknown chip ','"),
        ([*MODEL, "--plot", "x.txt"], "must end in .png"),
        ([*MODEL[:3], "--chips", "ideal"], "its input is not known; add --input with its shape"),
        ([*MODEL, "--cells", "65"], "--cells must be an integer in [1, 64], got 65"),
        ([*MODEL, "--times", "1 day"], "--times has no effect with --model; leave it out"),
        ([*MODEL, "--processes", "0"], "--processes has no effect with --model; leave it out"),
        ([*MODEL, "--num-chips", "3"], "--num-chips has no effect with --model; leave it out"),
        (["compare", "runs/kws", "--input", "1,4"], "--input has no effect on a run; leave it out"),
    ],
)
def test_what_cannot_be_compared_is_an_error(arguments: list[str], message: str, capsys) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
