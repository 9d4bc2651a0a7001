"""Labelled clips of your own: a folder, with or without tar archives in it, and a manifest that says what is what."""

import csv
import tarfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

from analogtorch.speech.audio import Fit, check_fit, read_clips
from analogtorch.speech.data import SPLITS, Clips, check_partition
from analogtorch.speech.labels import label_index

COLUMNS = ("path", "label", "speaker", "split")


@dataclass(frozen=True)
class _Row:
    where: str  # file and line, for messages
    path: str
    label: int
    speaker: str
    split: str


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Clips of one second at 16 kHz with a manifest: a CSV file with the columns path, label, speaker and split.

    `path` is a file below `root` or a member of an archive; archives are read without being unpacked. `label` is one
    of `LABELS`; `split` is train, val or test; `speaker` may be empty for `_silence_` only. Other columns are ignored.

    Raises:
        ValueError: `fit` outside its values.
    """

    root: str
    """Folder that holds the clips, the archives and the manifest."""
    manifest: str = "manifest.csv"
    """The CSV file, relative to `root`."""
    archives: tuple[str, ...] | None = None
    """Uncompressed tar archives of clips, relative to `root`; null means every *.tar in it."""
    resample: bool = False
    """Convert clips of another sampling rate instead of refusing them."""
    fit: Fit = "error"
    """Clips of another length: "error" refuses them, "pad_or_trim" adds zeros at their end or cuts their end."""

    def __post_init__(self) -> None:
        check_fit(self.fit)

    def load(self, progress: bool = False) -> dict[str, Clips]:
        """The clips of the three splits, in the manifest's order. The manifest is checked before any clip is read.

        Raises:
            FileNotFoundError: no folder, manifest, archive or clip of that name.
            ValueError: a row, clip or split that cannot be used, with the file, its line and the remedy.
        """
        root = Path(self.root).expanduser()
        rows = _read_manifest(root / self.manifest)
        source = str(root / self.manifest)
        check_partition(((row.split, row.label, row.speaker, row.path) for row in rows), source=source)
        names = sorted(a.name for a in root.glob("*.tar")) if self.archives is None else self.archives
        with ExitStack() as stack:
            files = _Files(root, [stack.enter_context(_open(root / name)) for name in names])
            for row in rows:
                files.check(row)
            return {
                split: self._clips(split, [r for r in rows if r.split == split], files, progress) for split in SPLITS
            }

    def _clips(self, split: str, rows: list[_Row], files: "_Files", progress: bool) -> Clips:
        audio = ((f"{row.where} ({row.path})", files.get(row.path)) for row in rows)
        return Clips(
            waveforms=read_clips(
                audio, len(rows), resample=self.resample, fit=self.fit, progress=progress, title=f"reading {split}"
            ),
            labels=torch.tensor([row.label for row in rows]),
            speakers=tuple(row.speaker for row in rows),
            names=tuple(row.path for row in rows),
        )


class _Files:
    """Clips by their path, in a folder or in archives."""

    def __init__(self, root: Path, archives: list[tarfile.TarFile]) -> None:
        self.root, self.archives = root, archives
        self.members: dict[str, tuple[tarfile.TarFile, tarfile.TarInfo]] = {}
        for archive in archives:
            for member in filter(tarfile.TarInfo.isfile, archive):
                path = str(PurePosixPath(member.name))  # drops the "./" that `tar -c .` writes
                if path in self.members:
                    raise ValueError(
                        f"{path!r} is twice in the archives: {self.members[path][0].name!r}, {archive.name!r}"
                    )
                self.members[path] = archive, member

    def check(self, row: _Row) -> None:
        """Raise FileNotFoundError if the row's clip is nowhere."""
        if row.path not in self.members and not (self.root / row.path).is_file():
            looked = ", ".join([str(self.root), *(repr(archive.name) for archive in self.archives)])
            raise FileNotFoundError(
                f"{row.where}: there is no {row.path!r} in {looked}. Correct `path` or add the file."
            )

    def get(self, path: str) -> Path | bytes:
        """The file, or the contents of the archive's member."""
        if path not in self.members:
            return self.root / path
        archive, member = self.members[path]
        file = archive.extractfile(member)
        assert file is not None  # only regular files were taken
        return file.read()


def _open(archive: Path) -> tarfile.TarFile:
    if not archive.is_file():
        raise FileNotFoundError(f"{archive}: no such archive")
    try:
        return tarfile.open(archive, "r:")
    except tarfile.ReadError as error:
        raise ValueError(
            f"{archive}: compressed, damaged, or no tar archive ({error}); an uncompressed one is needed"
        ) from error


def _read_manifest(path: Path) -> list[_Row]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such manifest; it is a CSV file with the columns {', '.join(COLUMNS)}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
                raise ValueError(
                    f"{path}: no column {missing[0]!r} (its first line: {reader.fieldnames}); "
                    f"a manifest needs {', '.join(COLUMNS)}"
                )
            return [_row(f"{path}:{reader.line_num}", cells) for cells in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8 ({error})") from error


def _row(where: str, cells: dict[str, str | None]) -> _Row:
    path, label, speaker, split = (cells[column] for column in COLUMNS)
    if path is None or label is None or speaker is None or split is None or not path:
        raise ValueError(f"{where}: the row has an empty path or too few cells: {list(cells.values())}")
    if split not in SPLITS:
        raise ValueError(f"{where}: unknown split {split!r}; allowed are {', '.join(SPLITS)}")
    return _Row(where, str(PurePosixPath(path)), label_index(label, where=where), speaker, split)
