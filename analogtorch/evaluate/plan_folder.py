"""The folder of a plan, before anything is measured."""

from pathlib import Path

from analogtorch.evaluate.journal import others
from analogtorch.evaluate.plan_bench import PREFIX
from analogtorch.files import check_writable, made


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be one of a plan; what is tried leaves nothing.

    Raises:
        ValueError: a plan would begin in a folder that holds something else.
        OSError: the folder cannot be made, or no file written in it.
    """
    own = ("sensitivity", "sensitivity.json")
    there = [path.name for path in others(folder)] if folder.is_dir() else []
    if there and not any(name in own or name.startswith(PREFIX) for name in there):
        raise ValueError(
            f"plan: {folder} holds {there[0]} and nothing of a plan; give a new or an empty folder"
        )
    try:
        with made(folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"plan: {error.strerror}; name another folder") from error
    check_writable(folder / "plan")
