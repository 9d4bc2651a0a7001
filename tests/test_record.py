"""The record of the package's numbers: an equal one passes, a changed one is shown by name."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import analogtorch as at
from analogtorch.nn.kinds import kinds
from benchmarks.record import __main__ as record
from benchmarks.record import api
from benchmarks.record.digest import differences, entries
from benchmarks.record.nets import KINDS, Net

ONLY = ["--only", "product/*/normals"]


@pytest.fixture
def before(tmp_path: Path) -> str:
    path = str(tmp_path / "runs" / "record.json")
    assert record.main(["--out", path, *ONLY]) == 0
    return path


def test_an_equal_record_passes(before: str, capsys: pytest.CaptureFixture) -> None:
    assert record.main(["--compare", before, *ONLY]) == 0
    assert "every number is as before" in capsys.readouterr().out


def test_a_change_of_one_bit_is_shown_by_name(
    before: str, monkeypatch, capsys: pytest.CaptureFixture
) -> None:
    normals = api.normals

    def nudged(seed: int, name: str, rows: int, columns: int) -> torch.Tensor:
        found = normals(seed, name, rows, columns)
        if rows == 7:
            found[3, 5] = torch.nextafter(found[3, 5], torch.tensor(9.0))
        return found

    monkeypatch.setattr(api, "normals", nudged)
    assert record.main(["--compare", before, *ONLY]) == 1
    printed = capsys.readouterr().out
    assert "2 entries differ" in printed
    assert "product/kernels/normals/normals/7x255" in printed
    assert "same statistics" in printed
    assert "64x33" not in printed


def test_an_error_and_what_is_missing_since_are_differences(
    before: str, monkeypatch, capsys
) -> None:
    def broken() -> Iterator[tuple[str, float]]:
        yield "new", 1.0
        raise RuntimeError("no such name")

    monkeypatch.setitem(record.CASES, "product/plain/normals", broken)
    assert record.main(["--compare", before, *ONLY]) == 1
    printed = capsys.readouterr().out
    assert "product/plain/normals/error: RuntimeError: no such name" in printed
    lines = [
        line.split() for line in printed.splitlines() if line.startswith("product/plain/normals/n")
    ]
    assert [(line[0].rsplit("/", 1)[1], line[-1]) for line in lines if "missing" in line] == [
        ("7x255", "missing"),
        ("64x33", "missing"),
        ("new", "1.0"),
    ]


def test_a_record_of_another_machine_is_said(before: str, capsys: pytest.CaptureFixture) -> None:
    path = Path(before)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"facts": {"torch": "1.0"}}))
    assert record.main(["--compare", before, *ONLY]) == 0
    assert "made otherwise: {'torch': '1.0'} before" in capsys.readouterr().out


def test_entries_name_what_they_hold_and_tell_signs_and_types_apart() -> None:
    found = dict(entries("a", {"b": [torch.tensor([1.0, 3.0]), "text"], "c": None}))
    assert list(found) == ["a/b/0", "a/b/1", "a/c"]
    assert found["a/b/0"]["mean"] == "2"
    for x, y in (
        (0.0, -0.0),
        (torch.zeros(2), -torch.zeros(2)),
        (torch.zeros(2), torch.zeros(2, 1)),
        (1, 1.0),
    ):
        assert len(differences(dict(entries("a", x)), dict(entries("a", y)))) == 1
    with pytest.raises(TypeError, match="a: a record holds tensors, numbers and texts, got object"):
        list(entries("a", object()))


def test_the_battery_has_every_kind_of_layer() -> None:
    chip, met = at.chips.hermes64(), set[type]()
    for kind in KINDS.values():
        met.update(map(type, at.convert(Net(kind), chip, embeddings=True).modules()))
    assert met.issuperset(kinds())


@pytest.mark.parametrize(
    ("options", "message"),
    [([], "give --out FILE"), (["--out", "x", "--only", "layer/lstn*"], "no case matches")],
)
def test_what_it_cannot_do_is_said(
    options: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        record.main(options)
    assert message in capsys.readouterr().err
