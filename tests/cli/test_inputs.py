"""No command writes over what it reads."""

import json
import os
from pathlib import Path

import pytest

from analogtorch.__main__ import main

NET = ["--model", "net.py:make", "--input", "1,4"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with files that commands read."""
    for place in ("noise", "clips", "run"):
        (tmp_path / place).mkdir()
    for name in ("a.wav", "noise/n.wav", "clips/c.flac", "m.csv", "chip.yaml", "net.py", "b.yaml"):
        (tmp_path / name).write_text(name)
    (tmp_path / "clips" / "manifest.csv").write_text("file,label,split,speaker")
    for earlier in ("before.json", "words.tsv"):
        (tmp_path / "noise" / earlier).write_text("{}")
    os.link(tmp_path / "a.wav", tmp_path / "hard.json")
    (tmp_path / "soft.json").symlink_to(tmp_path / "a.wav")
    config = {"data": {"folder": {"root": "clips"}}, "model": {"name": "net.py:make"}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HERE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("command", "option", "named"),
    [
        (["listen", "run", "a.wav"], "json=a.wav", "audio: a.wav"),
        (["listen", "run", "a.wav"], "csv=a.wav", "audio: a.wav"),
        (["listen", "run", "noise/../a.wav"], "json=hard.json", "audio: noise/../a.wav"),
        (["listen", "run", "a.wav"], "json=soft.json", "audio: a.wav"),
        (["listen", "run", "--mix=60", "--noise=noise"], "json=noise/n.wav", "noise: noise"),
        (["listen", "run", "--mix=60"], "json=clips/c.flac", "run/config.json: clips"),
        (["budget", "run"], "json=net.py", "run/config.json: net.py:make"),
        (["budget", "run"], "json=clips/manifest.csv", "run/config.json: clips"),
        (["listen", "run", "--mix=9", "--noise=${HERE}/noise"], "json=noise/n.wav", "noise: ${HER"),
        (["compare", "run"], "csv=clips/c.flac", "run/config.json: clips"),
        (["compare", *NET, "--chips", "ideal,chip.yaml"], "json=chip.yaml", "ideal,chip.yaml"),
        (["compare", *NET, "--chips", "ideal", "b.yaml"], "csv=b.yaml", "chips: b.yaml"),
        (["map", *NET], "html=net.py", "model: net.py:make"),
        (["map", *NET, "--chip", "chip.yaml"], "json=chip.yaml", "chip: chip.yaml"),
        (["fit", "b.yaml"], "out=b.yaml", "measurements: b.yaml"),
    ],
)
def test_a_file_to_read_is_not_written_over(
    command: list[str], option: str, named: str, folder: Path, capsys
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main([*command, f"--{option}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    name, file = option.split("=")
    assert f"--{name}: {file} would replace what the command reads (" in line
    assert named in line
    assert f"name another file, such as {Path(file).with_suffix('')}_result." in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_plot_of_a_fit_has_a_name_of_its_own(folder: Path, capsys) -> None:
    (folder / "m.csv").rename(folder / "m.png")
    assert main(["fit", "m.png", "--out", "m.json"]) == 2
    assert "--plot: m.png would replace what the command reads" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    ["json=noise/before.json", "json=noise/new.json", "json=a.json", "csv=noise/words.tsv"],
)
def test_results_beside_what_is_read_are_none_of_it(option: str, capsys) -> None:
    assert main(["listen", "run", "--mix=60", "--noise=noise", f"--{option}"]) == 2
    assert "would replace" not in capsys.readouterr().err
