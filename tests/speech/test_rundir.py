"""The folder of a run: what its journal knows of its files while the run goes on."""

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.files import digest_of, write_atomically
from analogtorch.speech import rundir
from analogtorch.speech.config import ChipConfig, KWSConfig
from analogtorch.speech.earlier_run import begun, check
from analogtorch.speech.run_settings import changed
from analogtorch.speech.rundir import RunFolder

NAMES = ("digital.pt", "hwa.pt", "checkpoints/direct.pt")


def _network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return at.convert(nn.Sequential(nn.Linear(4, 3)), at.chips.ideal())


def _opened(path: Path) -> AbstractContextManager[RunFolder]:
    return RunFolder.open(path, KWSConfig(), resume=True)


def _keep(network: nn.Module) -> None:
    """Leave the network as it is, in place of a calibration."""


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    with _opened(tmp_path) as folder:
        folder.begin("sha256:0")
        folder.save("digital", _network(0))
        folder.keep_state("direct", _network(0), _keep)
        folder.save("hwa", _network(1))
        folder.finish()
    return tmp_path


def _check(run: Path) -> None:
    check(run, KWSConfig(), None, {}, NAMES)


def test_a_continued_run_that_fails_keeps_the_digests_of_the_finished_one(finished: Path) -> None:
    before = begun(finished)["digests"]
    assert before == {name: digest_of(finished / name) for name in NAMES}
    direct = finished / "checkpoints/direct.pt"
    whole = direct.read_bytes()
    write_atomically(direct, whole + b"changed")
    for _ in range(2):  # the second one as the first
        with _opened(finished) as folder:
            folder.begin("sha256:0")
            folder.save("digital", _network(0))
            with pytest.raises(ValueError, match=r"direct\.pt is damaged"):
                folder.keep_state("direct", _network(0), _keep)
        assert begun(finished)["digests"] == before
    write_atomically(direct, whole)
    _check(finished)
    (finished / "hwa.pt").write_bytes((finished / "digital.pt").read_bytes())
    with pytest.raises(ValueError, match=r"hwa\.pt is not what the run wrote"):
        _check(finished)


def test_a_file_that_a_continued_run_does_not_write_keeps_its_digest(finished: Path) -> None:
    (finished / "hwa.pt").write_bytes((finished / "digital.pt").read_bytes())
    with _opened(finished) as folder:
        folder.begin("sha256:0")
        folder.finish()
    with pytest.raises(ValueError, match=r"hwa\.pt is not what the run wrote"):
        _check(finished)


def test_a_file_that_is_written_anew_has_no_digest_of_the_one_before(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _opened(finished) as folder:
        folder.begin("sha256:0")
        folder.save("hwa", _network(2))
    _check(finished)  # it has its own, though the run has not finished
    (finished / "checkpoints/direct.pt").unlink()  # to calibrate again
    with _opened(finished) as folder:
        folder.begin("sha256:0")
        folder.keep_state("direct", _network(0), lambda net: nn.init.zeros_(net[0].bias))
        folder.finish()
    _check(finished)
    write = rundir.write_atomically

    def killed(path: Path, data: bytes | str) -> Path:
        written = write(path, data)
        if path.name == "hwa.pt":
            raise KeyboardInterrupt
        return written

    monkeypatch.setattr(rundir, "write_atomically", killed)
    with _opened(finished) as folder:
        folder.begin("sha256:0")
        with pytest.raises(KeyboardInterrupt):
            folder.save("hwa", _network(3))
    monkeypatch.undo()
    _check(finished)  # an old digest would refuse it
    with _opened(finished) as folder:
        folder.begin("sha256:0")
        folder.finish()
    assert begun(finished)["digests"]["hwa.pt"] == digest_of(finished / "hwa.pt")


def test_a_run_begun_anew_has_no_digest_of_the_one_before(finished: Path) -> None:
    with RunFolder.open(finished, KWSConfig(), overwrite=True) as folder:
        folder.begin("sha256:1")
    assert begun(finished)["digests"] == {}


def test_a_file_of_an_earlier_state_is_removed_and_that_of_another_stays(finished: Path) -> None:
    with _opened(finished) as folder:
        folder.begin("sha256:0")
        folder.remove("hwa.pt")
        (finished / "mine.pt").write_text("mine")
        folder.remove("mine.pt")
    assert not (finished / "hwa.pt").exists()
    assert "hwa.pt" not in begun(finished)["files"]
    assert "hwa.pt" not in begun(finished)["digests"]
    assert (finished / "mine.pt").read_text() == "mine"


def test_a_run_that_is_replaced_in_part_is_never_taken_for_the_new_one(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old nets were resumed under the new settings, and reported as theirs."""
    new, unlink = KWSConfig(seed=7), Path.unlink

    def stopped(self: Path, missing_ok: bool = False) -> None:
        if self.suffix == ".pt":
            raise KeyboardInterrupt
        unlink(self, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stopped)
        with (
            pytest.raises(KeyboardInterrupt),
            RunFolder.open(finished, new, overwrite=True) as folder,
        ):
            folder.begin("sha256:1")
    assert (finished / "digital.pt").is_file()
    with (
        pytest.raises(ValueError, match="another configuration: seed"),
        RunFolder.open(finished, new, resume=True),
    ):
        pass
    with RunFolder.open(finished, new, overwrite=True) as folder:
        folder.begin("sha256:1")
    assert not any((finished / name).exists() for name in NAMES)
    assert begun(finished)["config"]["seed"] == 7


def test_a_command_that_repeats_a_run_has_the_variables_of_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another shell they may not be set, or lead to other recordings."""
    monkeypatch.setenv("CLIPS", "/data/my clips")
    monkeypatch.delenv("ELSEWHERE", raising=False)
    for number, root in enumerate(("${CLIPS:-clips}/a", "${CLIPS}/${ELSEWHERE:-b}")):
        config = KWSConfig()
        data = replace(config.data, folder=replace(config.data.folder, root=root))
        config = replace(config, data=data)
        with RunFolder.open(tmp_path / str(number), config, resume=False) as folder:
            folder.begin("sha256:0")
            command = folder.again("kws")
        assert command.startswith("CLIPS='/data/my clips' analogtorch kws --config ")
        assert "ELSEWHERE" not in command


def test_the_file_of_a_chip_may_lie_elsewhere(tmp_path: Path) -> None:
    for name, phases in (("here", 1), ("there", 1), ("other", 4)):
        at.chips.save(at.chips.hermes64(phases=phases), tmp_path / f"{name}.yaml")
    here, there, other = (
        KWSConfig(chip=ChipConfig(name=str(tmp_path / f"{name}.yaml"))).to_dict()
        for name in ("here", "there", "other")
    )
    assert changed(here, there) == ""
    assert "chip.options." in changed(here, other)
    assert "chip.name was" in changed(KWSConfig().to_dict(), here)
