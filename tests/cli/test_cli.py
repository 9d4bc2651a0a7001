"""The command line: info, help, configurations, and errors in one line."""

import contextlib
import dataclasses
import errno
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import analogtorch as at
import analogtorch.__main__ as cli
from analogtorch.cli import transcribe
from analogtorch.cli.kws import parse
from analogtorch.files import expanded
from analogtorch.ops import gpu, native
from analogtorch.report.presets import side_by_side
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.models import NETWORKS
from analogtorch.speech.synthetic import Synthetic

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "kws").glob("*.yaml"))


def test_info_lists_versions_extras_and_chips(capsys) -> None:
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    chips = ("chip hermes64: 64 tiles of 256x256", "chip ideal")
    kernels = (native.status(), gpu.status(), "CPU kernels: ", "GPU kernels: ")
    for expected in ("torch 2.", *kernels, "[speech] torchaudio 2.", *chips):
        assert expected in printed
    assert "chip reram_4mb: " in printed
    assert "None" not in printed
    project = tomllib.loads((CONFIGS[0].parents[2] / "pyproject.toml").read_text("utf-8"))
    assert set(cli.OPTIONAL) == set(project["project"]["optional-dependencies"])


def test_info_compares_all_chips_with_their_sources(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert cli.main(["info", "--chips"]) == 0
    printed = capsys.readouterr().out
    table, sources = printed.split("\nSources\n")
    heads, rule, *lines = table.splitlines()
    assert tuple(heads.split()) == at.chips.names()
    assert len(rule) < 300
    (efficiencies,) = [line for line in lines if line.startswith("TOPS/W, full tile")]
    assert re.findall(r"[\d,.]+ \(\w+\)", efficiencies) == [
        "2.48 (measured)",
        "10.5 (measured)",
        "20 (measured)",
        "15.95 (measured)",
        "15.6 (measured)",
        "20 (modelled)",
        "29,600 (modelled)",
        "10.798 (assumed)",
    ]
    for row in ("array", "cell", "device", "DAC", "ADC", "time per MVM", "energy per MVM"):
        assert any(line.startswith(row) for line in lines), row
    assert "256x256 (assumed)" in table
    for name in at.chips.names():
        chip = at.chips.get(name)
        assert f"\n{name}\n" in sources
        for rung in chip.cost.published if chip.cost else ():
            assert " ".join(rung.tops_per_watt.source.split()) in " ".join(sources.split())


@pytest.mark.parametrize("width", [1, 60, 100])
def test_chips_that_do_not_fit_follow_in_another_table(width: int) -> None:
    chips = {name: at.chips.get(name) for name in at.chips.names()}
    printed = side_by_side(chips, width=width)
    assert printed.count("time per MVM  ") >= len(chips) / max(1, (width - 17) // 26)
    assert max(map(len, printed.splitlines())) <= max(width, 60)
    mine = {"mine": at.chips.hermes64().replace(adc={"noise": 0.1}, cost=None)}
    assert "none" in side_by_side(mine)


def test_info_names_the_extra_of_absent_packages(capsys, monkeypatch) -> None:
    monkeypatch.setattr(cli, "_version", lambda name: None if name == "espeakng-loader" else "1.0")
    monkeypatch.setattr(cli, "version", lambda name: "1.0")
    assert cli.main(["info"]) == 0
    assert (
        'espeakng-loader absent  (pip install "analogtorch[synthetic]")' in capsys.readouterr().out
    )


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_usage(arguments: list[str], capsys) -> None:
    assert cli.main(arguments) == 0
    assert "kws" in capsys.readouterr().out


def _options(config: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _options(value, f"{prefix}{field.name}.")
        else:
            yield f"--{prefix}{field.name}"


@pytest.mark.parametrize(
    "command", ["kws", "budget", "listen", "transcribe", "map", "compare", "fit"]
)
def test_help_lists_debug_and_no_default_that_is_none(command: str, capsys) -> None:
    with contextlib.suppress(SystemExit):
        cli.main([command, "--help"])
    shown = capsys.readouterr().out
    assert f"usage: analogtorch {command}" in shown
    assert "--debug" in shown
    assert "default: None" not in shown
    assert "(required" not in shown  # none is: sources that are not chosen need no folder


def test_help_explains_every_option(capsys) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(["kws", "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    explained = text[text.index("options:") :]
    for option in (
        "--config",
        "--out",
        "--resume",
        "--overwrite",
        "--progress",
        "--debug",
        *_options(KWSConfig()),
    ):
        # the option, its metavar, and then words of its own before "(type"
        assert re.search(rf"\n  {re.escape(option)} [^\n]*\s+[^(\s]", explained), option
        assert not re.search(rf"\n  {re.escape(option)} \S+\s+\((type|required)", explained), option


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_configuration_parses_and_says_how_to_launch_it(path: Path) -> None:
    arguments = parse(["--config", str(path)])
    assert isinstance(arguments.config, KWSConfig)
    assert arguments.out.parts[0] == "runs"
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"analogtorch kws --config configs/kws/{path.name}" in line for line in head)


def test_there_is_a_configuration_for_each_source_and_network_of_a_chip() -> None:
    configs = {path.stem: parse(["--config", str(path)]).config for path in CONFIGS}
    sources = {name: config.data.source for name, config in configs.items()}
    others = {"speech_commands": "speech_commands", "synthetic": "synthetic"}
    assert sources == dict.fromkeys(configs, "folder") | others
    named = {"conv", *(c.model.name for c in configs.values())}
    # of these two, Arm's trained weights are measured instead
    assert named == set(NETWORKS) - {"hello_edge_dnn", "hello_edge_cnn"}
    for name, config in configs.items():
        shape = tuple(config.features.build()(torch.zeros(1, 16_000)).shape[1:])
        with torch.no_grad():
            assert config.model.build(input_shape=shape)(torch.zeros(2, *shape)).shape == (2, 12), (
                name
            )


def test_a_configuration_with_earlier_names_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("seed: 5\nsweep: {chips: 3, seed: 2}\n")
    config = parse(["--config", str(file)]).config
    assert (config.seed, config.sweep.num_chips, config.sweep.seed) == (5, 3, 2)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "seed: 5\nhwa: {epochs: 3, learning_rate: 1e-4}\nchip: {options: {device: one_device}}\n"
    )
    arguments = parse(["--config", str(file), "--seed", "7", "--out", "x"])
    assert (
        arguments.config.seed,
        arguments.config.hwa.epochs,
        arguments.config.hwa.learning_rate,
    ) == (7, 3, 1e-4)
    assert arguments.config.hwa.clip_sigma == KWSConfig().hwa.clip_sigma
    assert arguments.config.chip.build().name == "hermes64[one_device]"
    assert arguments.out == Path("x")
    assert parse(["--seed", "7", f"--config={file}"]).config.seed == 7


def test_a_recording_stands_before_or_after_the_file_of_options(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("data: {audio: null}\n")
    file = ["--config", str(tmp_path / "a.yaml")]
    for given in (["a.wav", *file], [*file, "a.wav"]):
        assert str(transcribe.parse(given).config.data.audio) == "a.wav"


@pytest.mark.parametrize("name", ["kws", "transcribe"])
def test_options_of_a_chip_that_are_no_text_are_taken(name: str) -> None:
    given = ["--chip.options={phases: 1}", "--chip.drift_aware=null"]
    parsed = {"kws": parse, "transcribe": transcribe.parse}[name](given)
    assert parsed.config.chip.build() == at.chips.hermes64(phases=1)


@pytest.mark.parametrize("name", ["kws", "transcribe"])
def test_a_chip_may_be_in_a_file(name: str, tmp_path: Path) -> None:
    mine, kept = tmp_path / "mine.yaml", tmp_path / "config.json"
    at.chips.save(at.chips.hermes64(phases=1), mine)
    given = [f"--chip.name={mine}"]
    reader = {"kws": parse, "transcribe": transcribe.parse}[name]
    parsed = reader(given).config
    assert parsed.chip.build() == at.chips.hermes64(phases=1)
    kept.write_text(json.dumps(parsed.to_dict()))
    mine.unlink()  # a configuration has the whole chip
    assert reader([f"--config={kept}"]).config.to_dict() == parsed.to_dict()
    with pytest.raises(ValueError, match="are all that is in it: leave them out"):
        reader([*given, "--chip.options={phases: 1}"])


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_no_file_of_options_allows_code(suffix: str, capsys, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    name = json.dumps(f"{tmp_path / 'evil.py'}:Net")
    file = tmp_path / f"a.{suffix}"
    for more in ("", '"allow_code": true, '):
        file.write_text("{" + more + f'"model": {{"name": {name}}}' + "}")
        assert cli.main(["kws", "--config", str(file), "--out", str(tmp_path / "out")]) == 2
        assert "--allow-code" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_what_print_config_writes_is_a_file_of_options(capsys, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        cli.main(["kws", "--hwa.epochs", "3", "--print_config"])
    printed = capsys.readouterr().out
    assert "allow_code: false" in printed
    file = tmp_path / "a.yaml"
    file.write_text(printed)
    assert parse(["--config", str(file)]).config == parse(["--hwa.epochs", "3"]).config


def test_options_beside_the_name_of_a_network_are_refused_unless_an_earlier_version_put_them(
    capsys, tmp_path: Path
) -> None:
    file = tmp_path / "a.yaml"
    for model in ("name: ds_cnn, dropout: 0.9", "name: conv, widths: [8, 8], hidden: [3]"):
        file.write_text(f"model: {{{model}}}\n")
        assert cli.main(["kws", "--config", str(file)]) == 2
        assert "is no option" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bogus"], "unknown command 'bogus'"),
        (["info", "x"], "info takes no option but --chips, got x"),
        (["kws", "--bogus", "1"], "unrecognized arguments: --bogus"),
        (["kws", "--digital.epoch", "3"], "--digital.epoch 3, did you mean '--digital.epochs'?"),
        (
            ["kws", "--sweep.times", "1 day"],
            """sweep.times takes a list: --sweep.times '["1 day"]'""",
        ),
        (["kws", "--seed", "x"], "seed"),
        (["kws", "--seed=-1"], "seed must be an integer"),
        (["kws", "--config", "nope.yaml"], "nope.yaml"),
        (["kws", "--data.source", "radio"], "speech_commands"),
        (
            ["kws", "--data.synthetic.per_class", "5"],
            "Synthetic.per_class must be an integer >= 10, got 5",
        ),
        (["kws", "--chip.name", "hermes6"], "did you mean 'hermes64'?"),
        (["kws", '--chip.options={"device": "foo"}'], "two_device"),
        (["kws", "--sweep.num_chips", "0"], "sweep.num_chips must be an integer >= 1, got 0"),
        (["kws", "--sweep.times=[soon]"], "'soon' is not understood"),
        (["kws", "--model.options={widths: []}"], "widths must hold one or more integers >= 1"),
        (["kws", "--model.options={widths: [8, 4]}"], "do not let widths decrease"),
        (["kws", "--model.options.dropout=1"], "dropout must be a number in [0, 1), got 1"),
        (["kws", "--digital.distill=0.5"], "digital training has no teacher"),
        (["kws", "--digital.clip_sigma=2"], "only analog layers are clipped"),
        (
            ["kws", "--data.folder.labels", "[no, yes]"],
            "data.folder.labels holds values that are no words, [False, True]: YAML reads yes, no, "
            "on and off as booleans, and digits as numbers. Quote the words, as in "
            """--data.folder.labels '["no", "yes"]'""",
        ),
        (["kws", "--accelerator=tpu"], "Expected"),
        (["kws", "--threads=0"], "threads must be an integer >= 1, got 0"),
        (
            ["budget", "runs/kws", "--json", "."],
            "--json: . cannot be written: it is a folder",
        ),
        (
            ["listen", "runs/kws", "a.wav", "--csv", "/proc/x/x.csv"],
            "--csv: /proc/x/x.csv cannot",
        ),
        (
            ["compare", "runs/kws", "--plot", "/proc/x.png"],
            "--plot: /proc/x.png cannot be",
        ),
        (
            ["map", "--model=m.py:M", "--html", "/dev/null/a"],
            "--html: /dev/null/a cannot be",
        ),
        (["fit", "m.csv", "--out", "."], "--out: . cannot be written: it is a folder"),
        (["fit", "m.csv", "--out=a.yaml", "--plot=/proc/a.png"], "--plot: /proc/a.png cannot"),
        (["kws", "--out=/proc/x"], "could not make the folder /proc/x"),
        (
            ["kws", "--data.source=folder", "--data.folder.root=/nowhere"],
            "/nowhere: no such folder or tar archive",
        ),
        (
            ["kws", "--data.source=speech_commands", "--data.speech_commands.root=/nowhere"],
            "'/nowhere' holds no",
        ),
    ],
)
def test_wrong_input_is_one_line_and_code_2(
    arguments: list[str], message: str, capsys, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err.splitlines()[-1]
    assert line.startswith("analogtorch: ")
    assert message in line


def test_words_that_yaml_takes_for_booleans_are_named_in_a_file_and_taken_in_quotes(
    capsys, tmp_path: Path
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("data: {folder: {labels: [no, yes]}}\n")
    assert cli.main(["kws", "--config", str(file)]) == 2
    assert "data.folder.labels holds values that are no words, [False" in capsys.readouterr().err
    quoted = parse(["--data.folder.labels", '["no", "yes"]']).config.data.folder
    assert quoted.labels == ("no", "yes")


def test_a_folder_of_another_command_is_named(capsys, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"data": {"audio": "x"}}')
    assert cli.main(["budget", str(tmp_path)]) == 2
    file = tmp_path / "config.json"
    message = f"budget: cannot go on with {tmp_path}: {file}: data.audio is no option; there are"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {sauce: x}", "data.sauce is no option, did you mean 'source'?; there are source"),
        ("hwaa: {}", "hwaa is no option, did you mean 'hwa'?; there are out, resume"),
        ("chip: {preset: {}}", "chip.preset is no option; there are name, options"),
        ("print_config: true", "print_config is no option"),
        ("hwa: 3", "hwa is a group of options, such as hwa.epochs, got 3"),
        ("hwa:", "hwa is a group of options, such as hwa.epochs, got None"),
        ("sweep: []", "sweep is a group of options, such as sweep.num_chips, got []"),
        ("data: {folder: x}", "data.folder is a group of options, such as data.folder.root, got"),
        ("", "a configuration holds options, such as out, got None"),
        ("- 1", "a configuration holds options, such as out, got [1]"),
        ("seed: 1\nhwa: {epochs: 1}\nseed: 2", "gives 'seed' twice; leave one of them out"),
        ("hwa: {epochs: 1, epochs: 2}", "gives 'epochs' twice; leave one of them out"),
        ("overwrite: 'no'", "overwrite must be true or false, without quotes, got 'no'"),
        ("resume: 1", "resume must be true or false, without quotes, got 1"),
    ],
)
def test_wrong_keys_in_a_file(text: str, message: str, capsys, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text + "\n")
    assert cli.main(["kws", "--config", str(tmp_path / "a.yaml")]) == 2
    assert f"a.yaml: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: [" + "[" * 3000, "nested more than 50 levels deep"),
        (
            "a: &a0 [x]\n" + "".join(f"b{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 40)),
            "values once",
        ),
        ("a: {b", "safely: expected ',' or '}', but got '<stream end>' in line 1, column 6"),
        ("\0", "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML that can be loaded safely"),
    ],
    ids=["deep", "bomb", "broken", "zero", "code"],
)
def test_configurations_are_read_within_limits(
    text: str, message: str, capsys, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert cli.main(["kws", "--config", str(tmp_path / "a.yaml")]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'a.yaml'}: " in error
    assert message in error
    assert error.count("\n") == 1


def test_a_configuration_in_another_encoding_is_named(capsys, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("seed: 1\n", encoding="utf-16")
    assert cli.main(["kws", "--config", str(file)]) == 2
    assert f"{file} is not in UTF-8; save it in that encoding" in capsys.readouterr().err


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_configurations_honour_the_variable_of_the_data(
    path: Path, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ANALOGTORCH_DATA", str(tmp_path / "data"))
    source = parse(["--config", str(path)]).config.data.selected
    if isinstance(source, Synthetic):
        return  # needs no data
    assert expanded(source.root).is_relative_to(tmp_path / "data")
    assert cli.main(["kws", "--config", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "ANALOGTORCH_DATA" in path.read_text().split("out:")[0]


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(ValueError, match="unknown command"):
        cli.main(["bogus", "--debug"])


@pytest.mark.parametrize(
    "command",
    [
        ["map", "--model", "torch.nn.Linear", "--input", "1,4", "--json", "mine.json"],
        ["fit", "{}/m.csv", "--out", "mine.yaml", "--plot", "none"],
        ["kws", "--out", "mine"],
    ],
    ids=lambda command: command[0],
)
def test_a_current_folder_that_was_removed_is_named(
    command: list[str], tmp_path: Path, capsys, monkeypatch
) -> None:
    (tmp_path / "m.csv").write_text("target,measured,time\n1,1,20\n")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli.main([part.format(tmp_path) for part in command]) == 2
    error = capsys.readouterr().err
    assert error.endswith(
        "No such file or directory; the current folder no longer exists: change to one that does\n"
    )
    monkeypatch.chdir(tmp_path)
    assert cli.main(["fit", "none.csv", "--out", "mine.yaml"]) == 2
    assert "current folder" not in capsys.readouterr().err


@pytest.mark.parametrize(("option", "unbuffered"), [("--version", "1"), ("fit --help", "")])
def test_a_closed_pipe_ends_a_command_quietly_and_a_full_disk_is_named(
    option: str, unbuffered: str
) -> None:
    command = [sys.executable, "-m", "analogtorch", *option.split()]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    gone, closed = os.pipe()
    os.close(gone)
    with open(closed, "wb") as pipe, open("/dev/full", "wb") as full:
        quiet, named = (
            subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, env=environment)
            for out in (pipe, full)
        )
    assert (quiet.returncode, quiet.stderr) == (141, "")
    said = "analogtorch: could not write to stdout: No space left on device\n"
    assert (named.returncode, named.stderr) == (2, said)


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_letters_that_stdout_cannot_encode_are_escapes(errors: str, monkeypatch) -> None:
    def result(_: object) -> int:
        print("0.5 \N{PLUS-MINUS SIGN} 0.1")
        return 0

    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="ascii", errors=errors)
    monkeypatch.setattr(cli, "info", result)
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(["info"]) == 0
    assert written.getvalue() == b"0.5 \\xb1 0.1\n"
    assert stream.errors == errors


def test_a_wrong_input_is_named_though_nobody_reads_what_was_printed(capsys, monkeypatch) -> None:
    def wrong(_: object) -> int:
        print("half")
        raise ValueError("wrong")

    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(cli, "info", wrong)
    monkeypatch.setattr(sys, "stdout", Closed())
    assert cli.main(["info"]) == 2
    assert capsys.readouterr().err == "analogtorch: wrong\n"


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["kws"], "; continue a run with --resume"),
        (["transcribe", "--debug"], "; continue a run with --resume"),
        (["compare", "run", "--folder=f"], "; the same command goes on with what f holds"),
        (["budget", "--folder", "f", "run"], "; the same command goes on with what f holds"),
        (["budget", "run"], "; nothing was kept: with --folder each measurement is"),
        (["compare", "run"], "; nothing was kept: with --folder each measurement is"),
        (["compare", "--model=net.py:Net"], ""),
        (["listen", "run", "a.wav"], ""),
        (["map"], ""),
        (["fit"], ""),
        (["info"], ""),
    ],
)
def test_ctrl_c_says_how_to_go_on_where_that_is_possible(
    arguments: list[str], remedy: str, capsys, monkeypatch
) -> None:
    def stop(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, {"map": "map_model"}.get(arguments[0], arguments[0]), stop)
    assert cli.main(arguments) == 130
    assert capsys.readouterr().err == f"analogtorch: interrupted{remedy}\n"


@pytest.mark.parametrize(
    ("missing", "arguments", "remedy"),
    [
        (
            "lightning",
            ["kws", "--help"],
            'kws needs lightning; run: pip install "analogtorch[speech]"',
        ),
        ("espeakng_loader", ["kws"], 'pip install "analogtorch[speech,synthetic]"'),
    ],
)
def test_missing_extras_name_the_remedy(
    missing: str, arguments: list[str], remedy: str, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(cli, "_found", lambda name: name != missing)
    assert cli.main(arguments) == 2
    assert remedy in capsys.readouterr().err


@pytest.mark.parametrize(("name", "parse"), [("kws", parse), ("transcribe", transcribe.parse)])
def test_the_configuration_of_a_run_is_resumed_in_its_folder(
    name: str, parse: Any, tmp_path: Path
) -> None:
    """Without --out it began another run in the default folder, and said nothing."""
    file = tmp_path / "config.json"
    file.write_text("{}")
    assert parse(["--config", str(file), "--resume"]).out == Path("runs", name)
    (tmp_path / "journal.json").write_text("{}")
    for given in (["--config", str(file)], [f"--config={file}"]):
        with pytest.raises(ValueError, match=re.escape(f"write --out {tmp_path}")):
            parse([*given, "--resume"])
        assert parse([*given, "--resume", "--out", str(tmp_path)]).out == tmp_path
        assert parse([*given, "--out", "x"]).out == Path("x")
