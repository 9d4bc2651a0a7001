"""Your own labelled clips: a folder with a manifest, and with tar archives if you like."""

import csv
import tarfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

from analogtorch.files import expanded
from analogtorch.speech.audio import Fit, check_fit, read_clips
from analogtorch.speech.data import SPLITS, Clips, check_partition, check_recordings
from analogtorch.speech.labels import LABELS, label_index
from analogtorch.values import checks

_LARGEST = 2**26
"""Most bytes of a clip in an archive."""
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
    """Clips of one second at 16 kHz in a folder, listed by a manifest.

    The manifest is a CSV file with the columns path, label, speaker and split. `path` is a file
    below `root` or a member of an archive; archives are read without being unpacked. `label` is one
    of `LABELS`; `split` is train, val or test; `speaker` may be empty for `_silence_` only. Other
    columns are ignored. A path is listed once and stays inside `root`, without links. The same
    recording under two names belongs to one label and one split.

    Raises:
        ValueError: a field has a value that is not allowed.
        TypeError: `archives` is a text instead of a list of them.
    """

    root: str
    """Folder with the clips, the archives and the manifest. `~`, `${NAME}` and `${NAME:-default}`
    are replaced as in a shell."""
    manifest: str = "manifest.csv"
    """The CSV file, relative to `root`."""
    archives: tuple[str, ...] | None = None
    """Uncompressed tar archives of clips, relative to `root`; null means every *.tar in it."""
    resample: bool = False
    """Convert clips of another sampling rate instead of refusing them."""
    fit: Fit = "error"
    """Clips of another length: "error" refuses them, "pad_or_trim" adds zeros at their end or cuts
    their end."""

    def __post_init__(self) -> None:
        checks.text("Folder.root", self.root, "data")
        checks.text("Folder.manifest", self.manifest, "manifest.csv")
        if self.archives is not None:
            archives = checks.items("Folder.archives", self.archives, "('clips.tar',)")
            names = tuple(checks.text("Folder.archives", a, "clips.tar") for a in archives)
            checks.settle(self, "archives", names)
        checks.flag("Folder.resample", self.resample)
        check_fit(self.fit)

    def load(self, progress: bool = False) -> dict[str, Clips]:
        """Return the clips of the three splits, in the order of the manifest.

        The manifest is checked before any clip is read.

        Raises:
            FileNotFoundError: the folder, the manifest, an archive or a clip does not exist.
            ValueError: a row, clip or split cannot be used; the message has the file, its line and
                the remedy.
        """
        root = expanded(self.root)
        rows = _read_manifest(root / self.manifest)
        source = str(root / self.manifest)
        check_partition(
            ((row.split, row.label, row.speaker, row.path) for row in rows), source=source
        )
        _check_once(rows)
        names = self.archives
        if names is None:
            names = tuple(sorted(a.name for a in root.glob("*.tar")))
        with ExitStack() as stack:
            files = _Files(root, [stack.enter_context(_open(root / name)) for name in names])
            for row in rows:
                files.check(row)
            splits = {
                split: self._clips(split, [r for r in rows if r.split == split], files, progress)
                for split in SPLITS
            }
        check_recordings(splits, source=source)
        return splits

    def _clips(self, split: str, rows: list[_Row], files: "_Files", progress: bool) -> Clips:
        audio = ((f"{row.where} ({row.path})", files.get(row.path)) for row in rows)
        return Clips(
            waveforms=read_clips(
                audio,
                len(rows),
                resample=self.resample,
                fit=self.fit,
                progress=progress,
                title=f"reading {split}",
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
            for member in _members(archive):
                path = str(PurePosixPath(member.name))  # drops the "./" that `tar -c .` writes
                if path in self.members:
                    raise ValueError(
                        f"{path!r} is twice in the archives: {self.members[path][0].name!r}, "
                        f"{archive.name!r}"
                    )
                self.members[path] = archive, member

    def check(self, row: _Row) -> None:
        """Raise an error unless the row's clip is a regular file.

        It is FileNotFoundError if there is no such clip, and ValueError if it is a link or no clip.
        """
        if row.path in self.members:
            archive, member = self.members[row.path]
            if not member.isreg() or member.issparse() or member.size > _LARGEST:
                raise ValueError(
                    f"{row.where}: {row.path!r} in {archive.name!r} is a link, a sparse file or "
                    f"larger than {_LARGEST:,} bytes; put the recording itself into the archive"
                )
            return
        file = self.root
        for part in PurePosixPath(row.path).parts:
            file /= part
            if file.is_symlink():
                raise ValueError(
                    f"{row.where}: {file} is a link; put the recording itself into {self.root}"
                )
        if not file.is_file():
            looked = ", ".join([str(self.root), *(repr(archive.name) for archive in self.archives)])
            raise FileNotFoundError(
                f"{row.where}: there is no {row.path!r} in {looked}. Correct `path` or add the "
                "file."
            )

    def get(self, path: str) -> Path | bytes:
        """Return the file, or the contents of the archive's member."""
        if path not in self.members:
            return self.root / path
        archive, member = self.members[path]
        try:
            file = archive.extractfile(member)
            assert file is not None  # `check` has seen that it is a regular one
            return file.read()
        except tarfile.TarError as error:
            raise ValueError(
                f"{archive.name!r}: damaged or cut short at {path!r} ({error})"
            ) from error


def _members(archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """Return everything in the archive but folders.

    Raises:
        ValueError: the archive is damaged or cut short.
    """
    try:
        return [member for member in archive if not member.isdir()]
    except tarfile.TarError as error:
        raise ValueError(f"{archive.name!r}: damaged or cut short ({error})") from error


def _open(archive: Path) -> tarfile.TarFile:
    if not archive.is_file():
        raise FileNotFoundError(f"{archive}: no such archive")
    try:
        return tarfile.open(archive, "r:")
    except tarfile.TarError as error:
        raise ValueError(
            f"{archive}: compressed, damaged, or no tar archive ({error}); an uncompressed one is "
            "needed"
        ) from error


def _read_manifest(path: Path) -> list[_Row]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such manifest; it is a CSV file with the columns {', '.join(COLUMNS)}"
        )
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
        raise ValueError(
            f"{where}: the row has an empty path or too few cells: {list(cells.values())}"
        )
    if split not in SPLITS:
        raise ValueError(f"{where}: unknown split {split!r}; allowed are {', '.join(SPLITS)}")
    if "\0" in path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError(
            f"{where}: the path {path!r} leaves the folder; write it relative to root, without '..'"
        )
    return _Row(where, str(PurePosixPath(path)), label_index(label, where=where), speaker, split)


def _check_once(rows: list[_Row]) -> None:
    """Raise ValueError if a path is listed twice."""
    seen: dict[str, _Row] = {}
    for row in rows:
        first = seen.setdefault(row.path, row)
        if first is not row:
            raise ValueError(
                f"{row.where}: {row.path!r} is listed already, as {LABELS[first.label]} in "
                f"{first.split!r} ({first.where}); list each recording once"
            )
