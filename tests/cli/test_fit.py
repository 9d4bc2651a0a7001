"""``analogtorch fit``: what is written where not all can be."""

import errno
from pathlib import Path

import pytest

from analogtorch.__main__ import main
from analogtorch.cli import fit


def test_a_plot_that_cannot_be_written_leaves_a_device_that_the_error_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "could not write the plot")

    measured, device = tmp_path / "m.csv", tmp_path / "device.yaml"
    rows = [f"{g},{g * (1 + 0.01 * d)},20" for g in (1, 5, 10, 20) for d in range(-12, 13)]
    measured.write_text("\n".join(["target,measured,time", *rows]))
    monkeypatch.setattr(fit, "write_figure", full)
    assert main(["fit", str(measured), "--out", str(device), "--bootstrap", "20"]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"analogtorch: could not write the plot; written is {device}\n"
    assert captured.out
    assert device.is_file()
