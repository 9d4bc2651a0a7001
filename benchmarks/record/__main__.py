"""Checksums of what the package computes, and a comparison of two records.

    # before a change that must change no number
    python -m benchmarks.record --out runs/record.json
    # after it: exit code 1 and a table if one has changed
    python -m benchmarks.record --compare runs/record.json

The battery runs on one thread, in one to two minutes. Make both records on one machine: on another
processor, or with another version or number of threads of torch, numbers differ in their last bits;
``--compare`` says so.
"""

import argparse
import contextlib
import fnmatch
import io
import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.record import api
from benchmarks.record.cases import CASES
from benchmarks.record.digest import Entry, differences, entries
from benchmarks.record.runs import one_thread
from benchmarks.tables import as_text, positive

_SHOWN = 60
"""Most differences that the table shows."""
_WIDTH = 70
"""Most characters of a cell in the table."""


def chosen(only: str) -> list[str]:
    """Return the names of the cases that the glob matches."""
    return [name for name in CASES if fnmatch.fnmatchcase(name, only)]


def record(only: str = "*", threads: int = 1) -> dict[str, Any]:
    """Run the cases and return facts about the machine, the entries and the seconds per case."""
    names = chosen(only)
    if not names:
        raise ValueError(
            f"no case matches {only!r}; there are, among others: {', '.join(list(CASES)[::40])}"
        )
    found: dict[str, Entry] = {}
    seconds: dict[str, float] = {}
    for name in tqdm(names, desc="record", unit="case", disable=not sys.stderr.isatty()):
        start = time.perf_counter()
        with one_thread(threads), _alone():
            found |= _entries_of(name)
        seconds[name] = round(time.perf_counter() - start, 2)
    cpu = torch.backends.cpu.get_cpu_capability()
    facts = {"torch": torch.__version__, "cpu": cpu, "kernels": api.kernels(), "threads": threads}
    return {"facts": facts, "only": only, "entries": found, "seconds": seconds}


def _entries_of(name: str) -> dict[str, Entry]:
    """Return the entries of one case; an error is an entry too."""
    found: dict[str, Entry] = {}
    try:
        for part, value in CASES[name]():
            found |= entries(f"{name}/{part}", value)
    except Exception as error:
        found |= entries(f"{name}/error", f"{type(error).__name__}: {error}")
    return found


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Start torch's generator anew and hide warnings while the context lasts."""
    with (
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        torch.manual_seed(0)
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable()
        try:
            yield
        finally:
            logging.disable(before)


def compared(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return what differs, of the cases that ``after`` has run."""
    ran = tuple(f"{name}/" for name in chosen(after["only"]))
    known = {
        name: entry
        for name, entry in before["entries"].items()
        if name.startswith(ran) or after["only"] == "*"
    }
    return differences(known, after["entries"])


def table(found: Sequence[tuple[str, str, str]]) -> str:
    """Return the differences, each with both values."""
    rows = [["entry", "before", "now"]]
    rows += [
        [cell if len(cell) <= _WIDTH else f"{cell[: _WIDTH - 3]}..." for cell in row]
        for row in found[:_SHOWN]
    ]
    more = f"\n... and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return as_text(rows, left=3) + more


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.record",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="write the record to this file")
    parser.add_argument("--compare", type=Path, help="compare with the record in this file")
    parser.add_argument(
        "--only", default="*", help="glob of the cases to run, such as 'layer/lstm*' (default: all)"
    )
    parser.add_argument(
        "--threads", type=positive, default=1, help="threads of torch and the kernels (default: 1)"
    )
    given = parser.parse_args(arguments)
    if given.out is None and given.compare is None:
        parser.error("give --out FILE to write a record, or --compare FILE to compare with one")
    before = None if given.compare is None else json.loads(given.compare.read_text())
    try:
        now = record(given.only, given.threads)
    except ValueError as error:
        parser.error(f"--only: {error}")
    print(
        f"{len(now['entries']):,} entries of {len(now['seconds'])} cases in "
        f"{sum(now['seconds'].values()):.0f} s"
    )
    errors = [name for name in now["entries"] if name.endswith("/error")]
    for name in errors:
        print(f"{name}: {' '.join(now['entries'][name]['begins'])}")
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(now, indent=1) + "\n")
        print(f"written to {given.out}")
    found = [] if before is None else compared(before, now)
    if before is not None and before["facts"] != now["facts"]:
        print(
            f"made otherwise: {before['facts']} before, {now['facts']} now; the last bits may "
            "differ by that alone"
        )
    if found:
        print(f"{len(found):,} entries differ:\n\n{table(found)}")
    elif before is not None:
        print("every number is as before")
    return 1 if found or errors else 0


if __name__ == "__main__":
    sys.exit(main())
