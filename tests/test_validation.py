"""The page of the validation: what the command prints, and that every row states its bar."""

import dataclasses

import pytest

from benchmarks.validation import __main__ as command
from benchmarks.validation import figures, hermes, page, published, two_step
from benchmarks.validation.published import Reference
from benchmarks.validation.row import HEADINGS, MEAN, MVM_ERROR, SPREAD, Outcome, Row

DOCS = command.DOCS
ROWS = [row for group in page.GROUPS for row in group.rows()]
QUICK = [row for row in ROWS if row.quick]


def _written() -> dict[str, list[str]]:
    """Return the cells of the rows of the page, by quantity and where they hold."""
    lines = (DOCS / "validation.md").read_text().splitlines()
    cells = [line[2:-2].split(" | ") for line in lines if line.startswith("| ")]
    return {f"{row[0]} {row[1]}": row for row in cells if tuple(row) != HEADINGS}


@pytest.mark.parametrize("row", QUICK, ids=lambda row: row.quantity)
def test_the_page_has_what_the_library_gives(row: Row) -> None:
    outcome = row.run()
    assert outcome.meets
    cells = list(outcome.cells())
    assert _written()[f"{cells[0]} {cells[1]}"] == cells


def test_the_page_has_every_row_with_its_bar() -> None:
    written = _written()
    assert len(written) == len(ROWS)
    assert len(QUICK) > 30
    for row in ROWS:
        cells = written[f"{row.quantity} {' / '.join(row.reference.values)}"]
        assert cells[5] == row.bar.shown(row.bar.limit)
        assert cells[6] in ("yes", "**no**")
        assert cells[7] == f"{row.reference.source}, {row.reference.kind}"
    failed = sum(cells[6] != "yes" for cells in written.values())
    assert f"{len(ROWS) - failed} of {len(ROWS)} rows meet" in (DOCS / "validation.md").read_text()


def _row(values: dict[str, float], found: list[float], bar=MEAN) -> Outcome:
    reference = Reference(values, "Joshi 2020")
    return Row(quantity="q", reference=reference, found=lambda: found, bar=bar).run()


def test_the_worst_value_decides() -> None:
    good = _row({"a": 100.0, "b": 10.0}, [100.5, 9.95])
    assert good.meets
    bad = _row({"a": 100.0, "b": 10.0}, [100.5, 9.8])
    assert not bad.meets
    assert bad.worst == pytest.approx(-0.02)
    assert bad.cells()[4:7] == ("-2 %", "1 %", "**no**")
    assert _row({"a": 10.0}, [10.29], SPREAD).meets
    assert not _row({"a": 10.0}, [10.31], MVM_ERROR).meets
    broken = _row({"a": 10.0, "b": 1.0}, [10.0, float("nan")])
    assert not broken.meets
    assert broken.cells()[4] == "nan %"
    assert "1 of 2 rows meet their bar. Not met: q" in page.summary([good, bad])


def test_the_command(tmp_path, monkeypatch, capsys) -> None:
    few = [
        dataclasses.replace(group, rows=lambda g=group: (r for r in g.rows() if r.quick))
        for group in page.GROUPS
    ]
    monkeypatch.setattr(page, "GROUPS", few)
    monkeypatch.setattr(command, "GROUPS", few)
    monkeypatch.setattr(command, "FIGURES", {"validation_devices.png": figures.device_figure})
    assert command.main(["--check", "--out", str(tmp_path)]) == 0
    assert not list(tmp_path.iterdir())
    assert command.main(["--out", str(tmp_path)]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"validation.md", "validation_devices.png"}
    assert (tmp_path / "validation_devices.png").stat().st_size < 60_000
    assert "rows meet their bar" in capsys.readouterr().out


def test_every_figure_of_the_page_is_there_and_small() -> None:
    pictures = {group.picture for group in page.GROUPS if group.picture}
    assert pictures == set(figures.FIGURES)
    for name in pictures:
        assert (DOCS / name).stat().st_size < 60_000


def test_a_reference_names_its_source() -> None:
    with pytest.raises(AssertionError, match="nobody"):
        Reference({"a": 1.0}, "nobody")
    with pytest.raises(AssertionError, match="guessed"):
        Reference({"a": 1.0}, "Joshi 2020", "guessed")
    assert {row.reference.source for row in ROWS} <= set(published.SOURCES)


def test_the_noise_that_the_error_of_the_hermes_core_leaves() -> None:
    # as docs/chips.md says
    assert hermes.residual_noise(hermes.mvm_error()) == 0
    assert hermes.residual_noise(hermes.mvm_error(zeros=0.5)) == pytest.approx(0.31, abs=0.005)
    assert hermes.residual_noise(hermes.mvm_error(clip=9.0)) == pytest.approx(0.41, abs=0.005)


@pytest.mark.parametrize("rows", [hermes.rows, two_step.rows], ids=["hermes", "aihwkit"])
def test_figures_of_chips_and_of_another_program(rows) -> None:
    outcomes = [row.run() for row in rows()]
    assert [each.row.quantity for each in outcomes if not each.meets] == []
