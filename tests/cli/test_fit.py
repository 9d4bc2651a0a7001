"""``analogtorch fit``: what is written where not all can be."""

import errno
from pathlib import Path

import pytest

from analogtorch.__main__ import main
from analogtorch.cli import fit


def _measurements(folder: Path) -> Path:
    rows = [f"{g},{g * (1 + 0.01 * d)},20" for g in (1, 5, 10, 20) for d in range(-12, 13)]
    (folder / "m.csv").write_text("\n".join(["target,measured,time", *rows]))
    return folder / "m.csv"


def test_a_plot_that_cannot_be_written_leaves_a_device_that_the_error_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "could not write the plot")

    measured, device = _measurements(tmp_path), tmp_path / "device.yaml"
    monkeypatch.setattr(fit, "write_figure", full)
    assert main(["fit", str(measured), "--out", str(device), "--bootstrap", "20"]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"analogtorch: could not write the plot; written is {device}\n"
    assert captured.out
    assert device.is_file()


def test_a_picture_that_nobody_named_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, picture = tmp_path / "mine.yaml", tmp_path / "mine.png"
    picture.write_bytes(b"a picture of mine")
    command = ["fit", str(_measurements(tmp_path)), "--out", str(out), "--bootstrap", "20"]
    assert main(command) == 2
    assert f"{picture}, the plot beside {out}, is there already" in capsys.readouterr().err
    assert picture.read_bytes() == b"a picture of mine"
    assert not out.exists()
    for more in (["--plot", str(picture)], []):  # named, and then that of an earlier fit
        assert main([*command, *more]) == 0
        assert picture.read_bytes().startswith(b"\x89PNG")
        picture.write_bytes(b"")
