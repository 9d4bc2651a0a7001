"""The files of labelled clips: in a folder or in tar archives, which are read without unpacking."""

import functools
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from analogtorch.speech.audio import SUFFIXES, audio_files

_LARGEST = 2**26
"""Most bytes of a clip in an archive."""
COLUMNS = ("path", "label", "speaker", "split")
MANIFEST = "manifest.csv"
NOISE = "_background_noise_"
_OF_MAC = "__MACOSX"
"""The folder that a Mac adds to what it packs, with hidden files alone."""


@dataclass(frozen=True)
class Row:
    """A labelled clip; the split may be empty until one is drawn."""

    where: str
    """File and line, for messages."""
    path: str
    label: str
    speaker: str
    split: str

    @property
    def clip(self) -> str:
        """Name of the clip in messages."""
        return self.path if self.where == self.path else f"{self.where} ({self.path})"


class ClipFiles:
    """Clips by their path, in a folder or in archives.

    Args:
        root: the folder, or the one archive.
        archives: the open archives.
    """

    def __init__(self, root: Path, archives: list[tarfile.TarFile]) -> None:
        self.root, self.archives = root, archives
        self.members: dict[str, tuple[tarfile.TarFile, tarfile.TarInfo]] = {}
        for archive in archives:
            for member in _members(archive):
                path = _plain(member.name)
                if ".." in PurePosixPath(path).parts:
                    raise ValueError(
                        f"{archive.name!r}: {member.name!r} leads out of the archive; pack it from "
                        f"inside the folder of the clips: tar -cf {Path(str(archive.name)).name} ."
                    )
                if path in self.members:
                    raise ValueError(
                        f"{path!r} is twice in the archives: {self.members[path][0].name!r}, "
                        f"{archive.name!r}"
                    )
                self.members[path] = archive, member

    def holds(self, path: str) -> bool:
        """Return whether there is such a file."""
        return path in self.members or (self.root / path).is_file()

    def find_manifest(self) -> str | None:
        """Return the path of the manifest: at the top, or in the folder that all clips lie in.

        Raises:
            ValueError: it lies elsewhere, there are several, or a folder is a link.
        """
        if self.holds(MANIFEST):
            return MANIFEST
        names, _ = self._tree
        seen = [path for path in map(PurePosixPath, names) if _is_seen(path)]
        found = sorted(path for path in seen if path.name == MANIFEST)
        if not found:
            return None
        if len(found) == 1 and all(found[0].parent in path.parents for path in audio_files(seen)):
            return str(found[0])
        raise ValueError(
            f"{self.root}: the manifest {str(found[0])!r} lies neither at the top nor in the one "
            "folder that all clips lie in; name it with manifest, relative to root as its paths, "
            "or move it there"
        )

    @functools.cached_property
    def _tree(self) -> tuple[set[str], set[PurePosixPath]]:
        """The paths of all files, and the folders that are not in an archive."""
        found, folders = set(self.members), set[PurePosixPath]()
        for folder, below, names in os.walk(self.root):
            for name in below:
                if os.path.islink(link := os.path.join(folder, name)) and name[0] != ".":
                    raise ValueError(
                        f"{link} is a link; put the recordings themselves into {self.root}"
                    )
            inside = Path(folder).relative_to(self.root)
            found |= {(inside / name).as_posix() for name in names}
            folders.add(PurePosixPath(inside))
        return found, folders

    def manifest(self, path: str) -> bytes:
        """Return the contents of the manifest.

        Raises:
            FileNotFoundError: there is none.
        """
        path = _plain(path)
        if not self.holds(path):
            raise FileNotFoundError(
                f"{self.root / path}: no such manifest; it is a CSV file with the columns "
                f"{', '.join(COLUMNS)}"
            )
        found = self.get(path)
        return found if isinstance(found, bytes) else found.read_bytes()

    def clips(self) -> list[str]:
        """Return the paths of all audio files, hidden ones and background noise left out.

        Raises:
            ValueError: a folder is a link, or there is no clip in it, or a file is audio of a kind
                that is not read.
        """
        found, folders = self._tree
        paths = sorted(map(PurePosixPath, found))
        seen = list(filter(_is_seen, paths))
        clips = audio_files(seen)
        folders = folders | _above(paths)
        full = {PurePosixPath()} | _above(clips)
        if bare := sorted(folder for folder in folders - full if _is_seen(folder)):
            held = sorted({path.suffix or path.name for path in seen if bare[0] in path.parents})
            if not held and bare[0] in _above(paths):
                held = ["only hidden files or background noise"]
            raise ValueError(
                f"{self.root}: there is no clip in the folder {str(bare[0])!r}, which "
                f"{'holds ' + ', '.join(held) if held else 'is empty'}; clips are "
                f"{', '.join(SUFFIXES)}. Convert its files, or move it elsewhere"
            )
        return sorted(map(str, clips))

    def check(self, row: Row) -> None:
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
            looked = str(self.root)
            if self.root.is_dir():
                looked = ", ".join([looked, *(repr(archive.name) for archive in self.archives)])
            remedy = (
                "Write / instead of \\" if "\\" in row.path else "Correct `path` or add the file"
            )
            raise FileNotFoundError(f"{row.where}: there is no {row.path!r} in {looked}. {remedy}.")

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


def _plain(path: str) -> str:
    """Return the path without the ``./`` that ``tar -c .`` writes."""
    return str(PurePosixPath(path))


def _is_seen(path: PurePosixPath) -> bool:
    """Return whether nothing in a path is hidden or background noise."""
    return not any(part[0] == "." or part in (NOISE, _OF_MAC) for part in path.parts)


def _above(paths: Iterable[PurePosixPath]) -> set[PurePosixPath]:
    """Return all folders that the paths lie in."""
    return {folder for path in paths for folder in path.parents}


def _members(archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """Return everything in the archive but folders.

    Raises:
        ValueError: the archive is damaged or cut short.
    """
    try:
        found = [member for member in archive if not member.isdir()]
    except tarfile.TarError as error:
        raise ValueError(f"{archive.name!r}: damaged or cut short ({error})") from error
    if not _has_end(archive):
        last = repr(archive.getmembers()[-1].name) if archive.getmembers() else "its beginning"
        raise ValueError(
            f"{archive.name!r}: cut short after {last}: a tar archive ends with blocks of zeros, "
            "and this one has none. Copy or download it again, or pack it anew"
        )
    return found


def _has_end(archive: tarfile.TarFile) -> bool:
    """Return whether a block of zeros follows the last member, which tarfile does not ask for.

    Without it, an archive that was cut off between two members would be read as if it were whole.
    """
    file = archive.fileobj
    assert file is not None  # it is open
    file.seek(archive.offset)  # where the next header would be
    return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def open_archive(archive: Path) -> tarfile.TarFile:
    """Return an uncompressed tar archive, open to be read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is compressed, damaged or no tar archive.
    """
    if not archive.is_file():
        raise FileNotFoundError(f"{archive}: no such archive")
    try:
        return tarfile.open(archive, "r:")
    except tarfile.TarError as error:
        raise ValueError(
            f"{archive}: compressed, damaged, or no tar archive ({error}); an uncompressed one is "
            "needed"
        ) from error
