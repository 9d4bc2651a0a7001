"""A run that was begun before, for the commands that use what it wrote or go on with it."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from analogtorch.files import digest_of, variables
from analogtorch.speech.run_journal import CONFIG, JOURNAL, check_given, read
from analogtorch.speech.run_settings import changed


class Config(Protocol):
    """The configuration of a run, of which recordings are below ``data``."""

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as JSON gives them."""
        ...


def begun(run: Path) -> dict[str, Any]:
    """Return the journal of a run.

    Raises:
        ValueError: it is damaged or missing.
    """
    unknown = "nothing else tells what the run was made with: copy it back"
    try:
        found = read(run)
    except ValueError as error:
        raise ValueError(f"{error}; {unknown}") from error
    if found is None:
        raise ValueError(f"{run / JOURNAL} is missing, and {unknown}")
    return found


def check(
    run: Path,
    config: Config,
    recordings: str | None,
    code: dict[str, str],
    files: Iterable[str] = (),
) -> None:
    """Raise ValueError unless a run was made with this configuration, recordings and code.

    Args:
        run: its folder.
        config: the configuration that its folder has now.
        recordings: the ``fingerprint`` of the data that there is now; None if none are used.
        code: SHA-256 of each file of code that the configuration names, by its name.
        files: names of files that must be as the run wrote them, as far as its journal knows: those
            of older runs have no digests.
    """
    found = begun(run)
    if differ := changed(found["config"], config.to_dict()):
        raise ValueError(
            f"{run / CONFIG} is not that of the run: {differ}. Write back what it was, or train "
            "another run with it: "
            f"{started('kws', run, Path('another_folder'), allow_code=bool(code))}"
        )
    check_given(run, found, config.to_dict(), recordings, code)
    for name in files:
        if name in found["digests"] and found["digests"][name] != digest_of(run / name):
            raise ValueError(
                f"{run / name} is not what the run wrote: it is damaged, or of another run or "
                f"network{remedy(run, code)}"
            )


def remedy(run: Path, code: dict[str, str]) -> str:
    """Return what to do where a file of a run is another one; ``code`` is that of ``check``."""
    return f"; copy that of the run back, or write it anew with {continued(run, code)}"


def continued(run: Path, code: dict[str, str]) -> str:
    """Return the command that continues a run of ``kws``, or writes what it lacks.

    Args:
        run: its folder.
        code: SHA-256 of each file of code that its configuration names, by its name.
    """
    return f"{started('kws', run, run, allow_code=bool(code))} --resume"


def started(command: str, run: Path, out: Path, *, allow_code: bool) -> str:
    """Return the command that starts a run in ``out`` with the configuration of ``run``.

    Variables in it that are set come first: in another shell they may not be.
    """
    text = (run / CONFIG).read_text() if (run / CONFIG).is_file() else ""
    given = [f"{name}={shlex.quote(value)}" for name, value in variables(text).items()]
    # a path that begins with a hyphen would be an option
    config, into = (f"./{p}" if str(p).startswith("-") else str(p) for p in (run / CONFIG, out))
    options = ["--config", config, *["--allow-code"] * allow_code, "--out", into]
    return " ".join([*given, shlex.join(["analogtorch", command, *options])])
