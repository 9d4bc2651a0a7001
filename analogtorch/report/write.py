"""The folder that holds the whole report of a run."""

import json
from pathlib import Path

from analogtorch.files import write_atomically
from analogtorch.report.page.run import html, markdown
from analogtorch.report.plot import plot
from analogtorch.report.result import Result

PLOT = "accuracy.png"
TABLE = "accuracy.csv"
FILES = (PLOT, "report.html", "report.md", "report.json", TABLE)
"""The files that ``write`` writes."""


def write(result: Result, folder: str | Path) -> tuple[Path, ...]:
    """Write report.html, report.md, report.json, accuracy.csv and accuracy.png into ``folder``.

    Each file appears whole or not at all.

    Returns:
        Paths of the files.

    Raises:
        ImportError: matplotlib or jinja2 is not installed.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    return (
        write_atomically(folder / PLOT, plot(result)),
        write_atomically(folder / "report.html", html(result)),
        write_atomically(folder / "report.md", markdown(result, plot=PLOT)),
        write_atomically(folder / "report.json", json.dumps(result.to_dict(), indent=2) + "\n"),
        write_atomically(folder / TABLE, result.to_csv()),
    )
