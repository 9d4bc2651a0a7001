"""Your own labelled clips: a folder or a tar archive, with a manifest or a folder for each word."""

import logging
from collections import Counter, defaultdict
from collections.abc import Container, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import torch

from analogtorch.files import expanded
from analogtorch.speech.audio import Fit, check_fit, read_clips
from analogtorch.speech.clip_files import MANIFEST, ClipFiles, Row, open_archive
from analogtorch.speech.clip_rows import read_manifest, speaker_pattern, walked
from analogtorch.speech.data import SPLITS, Clips, check_partition, check_recordings
from analogtorch.speech.draws import uniform
from analogtorch.speech.labels import (
    LABELS,
    SILENCE,
    UNKNOWN,
    Preset,
    alike,
    classes_of,
    composed,
    label_index,
    settle_labels,
)
from analogtorch.speech.named import option
from analogtorch.values import checks

logger = logging.getLogger("analogtorch")

_DRAWS = 1000
"""Draws of speakers' splits: one suffices unless a class has few speakers. Of a class with three of
many speakers, one draw in 12 puts one into each split."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Clips of one second at 16 kHz, in a folder or a tar archive.

    With a manifest: a CSV file with the columns path, label, speaker and split. `path` is a file
    below `root` or a member of an archive; archives are read without being unpacked. `split` is
    train, val or test; `speaker` may be empty for `_silence_` only. Other columns are ignored. A
    path is listed once.

    Without one, folders say it: `low/1.wav` is a clip of the class low. `low/ann/1.wav` is spoken
    by ann; otherwise the pattern `speaker` says who speaks, from the folders and the name below the
    word, and must if there are several folders. Splits are the folders `train/low/1.wav`, `val/...`
    and `test/...`; without those, speakers are assigned to splits at random, and clips of unknown
    speakers one by one. Hidden files and folders, `__MACOSX`, `_background_noise_` and files that
    are no audio are left out; a folder without a clip, also one of hidden files alone, and audio of
    a kind that is not read, such as .m4a, are errors.

    No clip is a link or lies outside `root`. The same recording under two names belongs to one
    label and one split, and a speaker to one split.

    Raises:
        ValueError: a field has a value that is not allowed.
        TypeError: `archives` is a text instead of a list of them.
    """

    root: str
    """Folder with the clips, the archives and the manifest, or one tar archive with all of it. `~`,
    `${NAME}` and `${NAME:-default}` are replaced as in a shell."""
    manifest: str | None = None
    """The CSV file, relative to `root`, as its paths are. null means manifest.csv if there is one,
    also in the folder in which all clips lie, as in a tar archive of a folder; then its paths are
    relative to that folder."""
    labels: Preset | tuple[str, ...] | None = None
    """The classes in their order: a preset or words such as [low, high], of which each but
    `_silence_` and `_unknown_` must have a clip; null takes those that the clips have, each of
    which must be in all three splits."""
    speaker: str | None = None
    """Without a manifest: regular expression whose first group is the speaker, searched in the
    clip's path below the folder of its word, such as "^([^_]+)_" for low/ann_1.wav. null: a folder
    between word and clip, or what stands before _nohash_, as in Speech Commands."""
    val_percent: float = 10.0
    """Without a manifest or folders of splits: percentage of clips in "val"; 1 to 40."""
    test_percent: float = 20.0
    """Without a manifest or folders of splits: percentage of clips in "test"; 1 to 40."""
    seed: int = 0
    """Seed of the choice of the splits; 0 or more. Without ``labels``, speakers are drawn anew, up
    to a thousand times, while a split lacks a class."""
    archives: tuple[str, ...] | None = None
    """Uncompressed tar archives of clips, relative to `root`; null means every *.tar in it, but
    hidden ones."""
    resample: bool = False
    """Convert clips of another sampling rate instead of refusing them."""
    fit: Fit = "error"
    """Clips of another length: "error" refuses them, "pad_or_trim" adds zeros at their end or keeps
    their loudest second."""

    def __post_init__(self) -> None:
        checks.text("Folder.root", self.root, "data")
        if self.manifest is not None:
            checks.text("Folder.manifest", self.manifest, MANIFEST)
        if self.labels is not None:
            settle_labels(self)
        if self.speaker is not None:
            speaker_pattern(self.speaker)
        checks.numbers(self, "val_percent", "test_percent", least=1, most=40)
        checks.counts(self, "seed", least=0, largest=checks.UINT64)
        if self.archives is not None:
            archives = checks.items("Folder.archives", self.archives, "('clips.tar',)")
            names = tuple(checks.text("Folder.archives", a, "clips.tar") for a in archives)
            checks.settle(self, "archives", names)
        checks.flag("Folder.resample", self.resample)
        check_fit(self.fit)

    def load(self, progress: bool = False) -> dict[str, Clips]:
        """Return the clips of the three splits, in the order of the manifest or of their paths.

        All rows are checked before any clip is read.

        Raises:
            FileNotFoundError: the folder, the manifest, an archive or a clip does not exist.
            ValueError: a row, clip or split cannot be used; the message has the file, its line and
                the remedy.
        """
        root = expanded(self.root)
        with ExitStack() as stack:
            files = self._files(root, stack)
            manifest = self.manifest or files.find_manifest()
            source, drawn = str(root / (manifest or "")), False
            if manifest is None:
                said = walked(files, self.speaker)
                rows = self._assigned(said)
                drawn = rows != said
            else:
                rows = read_manifest(source, files.manifest(manifest))
                if self.manifest is None:  # it may lie in the folder that was packed
                    inside = PurePosixPath(manifest).parent
                    rows = [replace(row, path=str(inside / row.path)) for row in rows]
            rows = self._listed(rows)
            classes = self._classes(rows, source)
            check_partition(
                ((row.split, row.label, row.speaker, row.path) for row in rows),
                source=source,
                named=manifest is not None,
            )
            _check_once(rows)
            if self.labels is None:
                _check_everywhere(rows, classes, source, self.seed if drawn else None)
            for row in rows:
                files.check(row)
            splits = {
                split: self._clips(
                    split, [r for r in rows if r.split == split], classes, files, progress
                )
                for split in SPLITS
            }
        check_recordings(splits, source=source)
        return splits

    def _files(self, root: Path, stack: ExitStack) -> ClipFiles:
        if root.is_file():
            return ClipFiles(root, [stack.enter_context(open_archive(root))])
        if not root.is_dir():
            raise FileNotFoundError(
                f"{root}: no such folder or tar archive; it holds clips in a folder for each word, "
                f"or clips and a manifest ({MANIFEST})"
            )
        names = self.archives
        if names is None:
            names = tuple(sorted(a.name for a in root.glob("[!.]*.tar")))  # no hidden ones
        return ClipFiles(root, [stack.enter_context(open_archive(root / name)) for name in names])

    def _listed(self, rows: list[Row]) -> list[Row]:
        """Return the rows with their classes as ``labels`` spells them, if it lists them.

        Raises:
            ValueError: one has a class that is not listed.
        """
        if self.labels is None:
            return rows
        classes = classes_of("Folder.labels", self.labels)
        numbers = (label_index(row.label, where=row.where, classes=classes) for row in rows)
        return [replace(r, label=classes[n]) for r, n in zip(rows, numbers, strict=True)]

    def _classes(self, rows: list[Row], source: str) -> tuple[str, ...]:
        if self.labels is not None:
            classes = classes_of("Folder.labels", self.labels)
            self._check_said(rows, classes, source)
            return classes
        found = {row.label for row in rows}
        if not found:
            raise ValueError(
                f"{source}: there is no clip; a folder for each word is needed, or a manifest with "
                "a row for each clip"
            )
        _check_case(rows, source)
        if found == set(LABELS):
            return LABELS
        if len(found) < 2:
            raise ValueError(
                f"{source}: the clips have {len(found)} classes ({', '.join(found)}); two or more "
                "are needed: a folder for each, or a column label"
            )
        return tuple(sorted(found))

    def _check_said(self, rows: list[Row], classes: tuple[str, ...], source: str) -> None:
        """Raise ValueError if a listed word has no clip; log it if a preset lists it.

        A preset is the outputs of published networks, of which a folder may have some.
        """
        said = {row.label for row in rows}
        unsaid = [c for c in classes if c not in said and c not in (SILENCE, UNKNOWN)]
        if not unsaid:
            return
        if isinstance(self.labels, str):
            logger.warning(
                "%s: no clips of %s, which labels=%r lists", source, ", ".join(unsaid), self.labels
            )
            return
        raise ValueError(
            f"{source}: labels lists {', '.join(unsaid)}, of which there is no clip; add clips, or "
            "leave it out of labels"
        )

    def _assigned(self, rows: list[Row]) -> list[Row]:
        """Return rows that all have a split."""
        given = [bool(row.split) for row in rows]
        if all(given):
            return rows
        if any(given):
            one, other = rows[given.index(True)], rows[given.index(False)]
            raise ValueError(
                f"{other.where} lies in no folder of a split, but {one.where} does; put all clips "
                f"into {', '.join(SPLITS)}, or none"
            )
        spelt: dict[str, str] = {}  # the first spelling of a speaker stands for all
        named = [
            replace(row, speaker=spelt.setdefault(alike(row.speaker), row.speaker))
            for row in rows
            if row.speaker
        ]
        apart: dict[str, list[str]] = defaultdict(list)  # paths of each class
        for row in rows:
            if not row.speaker:
                apart[row.label].append(row.path)
        split, draw = {}, 0
        if named:
            speakers, draw = self._of_speakers(named, apart)
            split = {row.path: speakers[row.speaker] for row in named}
        for label, paths in apart.items():
            split |= self._cut(paths, f"clips of {label!r}")
        by = "speaker" if not apart else "speaker and clip" if named else "clip"
        counts = Counter(split.values())
        shares = ", ".join(f"{counts[name]:,} {name}" for name in SPLITS)
        again = f", at draw {draw + 1}: a split of those before lacks a class" if draw else ""
        logger.info("splits were drawn by %s, with seed %d%s: %s", by, self.seed, again, shares)
        for name, asked in (("val", self.val_percent), ("test", self.test_percent)):
            if named and abs((got := 100 * counts[name] / len(rows)) - asked) > 10:  # points
                logger.warning(
                    "%s has %.0f %% of the clips in place of %g %%, as speakers are whole; another "
                    "seed of the folder draws others, and a manifest says which", name, got, asked,
                )  # fmt: skip
        return [replace(row, split=split[row.path]) for row in rows]

    def _of_speakers(self, rows: list[Row], apart: Container[str]) -> tuple[dict[str, str], int]:
        """Return a split for each speaker, and the number of the draw, from 0.

        It is the first draw that leaves no class out of a split; if there is none, or if the
        classes are listed and may be left out, the first one.

        Args:
            rows: those whose speakers are known.
            apart: classes that are in all splits by their other clips.
        """
        keys, what = [row.speaker for row in rows], "speakers, named by file or folder"
        first = self._cut(keys, what)
        whose: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            if row.label not in apart:
                whose[row.label].add(row.speaker)
        rarest = sorted(whose.values(), key=len)  # fail first
        if self.labels is not None or any(len(own) < len(SPLITS) for own in rarest):
            return first, 0
        for draw in range(_DRAWS):
            split = self._cut(keys, what, draw) if draw else first
            if all(len({split[speaker] for speaker in own}) == len(SPLITS) for own in rarest):
                return split, draw
        return first, 0

    def _cut(self, keys: list[str], what: str, draw: int = 0) -> dict[str, str]:
        """Return a split for each key, so that the parts hold about their shares of the list.

        A key with more than twice the largest share of it is in "train", and the others are cut as
        if it were not there: otherwise the clips of one speaker would be most of a test.
        """
        again = (draw,) if draw else ()  # runs that needed one draw keep their splits
        order = sorted(
            set(keys), key=lambda key: float(uniform(self.seed, "split", key, *again)[0])
        )
        if len(order) < 3:
            raise ValueError(
                f"{self.root}: {len(order)} {what}; at least 3 are needed to draw three splits. "
                f"Add some, or say which is which by folders {', '.join(SPLITS)} or a manifest"
            )
        sizes, split = Counter(keys), dict.fromkeys(order, "train")
        most = 2 * max(self.val_percent, self.test_percent) / 100 * len(keys)
        small = [key for key in order if sizes[key] <= most]
        if len(small) > 1:
            order = small
        total, left = sum(sizes[key] for key in order), int(len(order) == len(sizes))
        parts = ("test", self.test_percent, left + 1), ("val", self.val_percent, left)
        for name, percent, keep in parts:
            count, wanted = 0, round(total * percent / 100)
            while not count or (count < wanted and len(order) > keep):
                key = order.pop()
                split[key] = name
                count += sizes[key]
        return split

    def _clips(
        self,
        split: str,
        rows: list[Row],
        classes: tuple[str, ...],
        files: ClipFiles,
        progress: bool,
    ) -> Clips:
        audio = ((row.clip, files.get(row.path)) for row in rows)
        waveforms, recorded = read_clips(
            audio,
            len(rows),
            resample=self.resample,
            fit=self.fit,
            progress=progress,
            title=f"reading {split}",
        )
        return Clips(
            waveforms=waveforms,
            recorded=recorded,
            labels=torch.tensor([classes.index(row.label) for row in rows], device="cpu"),
            speakers=tuple(row.speaker for row in rows),
            names=tuple(row.path for row in rows),
            classes=classes,
        )


def _check_once(rows: Iterable[Row]) -> None:
    """Raise ValueError if a path is listed twice."""
    seen: dict[str, Row] = {}
    for row in rows:
        first = seen.setdefault(row.path, row)
        if first is not row:
            raise ValueError(
                f"{row.where}: {row.path!r} is listed already, as {first.label} in "
                f"{first.split!r} ({first.where}); list each recording once"
            )


def _check_case(rows: Iterable[Row], source: str) -> None:
    """Raise ValueError if two labels, which nobody has listed, are one word spelt in two ways."""
    seen: dict[str, Row] = {}
    for row in rows:
        first = seen.setdefault(alike(row.label), row)
        if first.label != row.label:
            same = composed(first.label).strip() == composed(row.label).strip()
            what = "spaces around them or the encoding of accents" if same else "case"
            raise ValueError(
                f"{source}: the classes {first.label!a} ({first.where}) and "
                f"{row.label!a} ({row.where}) differ in {what} alone; write both alike, or "
                "list the classes with labels"
            )


def _check_everywhere(
    rows: list[Row], classes: tuple[str, ...], source: str, seed: int | None
) -> None:
    """Raise ValueError if a split lacks a class that nobody has listed, such as a misspelt one.

    Args:
        rows: all of them.
        classes: those of the rows.
        source: name of the source for messages.
        seed: that with which the splits were drawn; None: they are given.
    """
    seen, sizes = {(row.split, row.label) for row in rows}, Counter(row.label for row in rows)
    for label in sorted(classes, key=sizes.__getitem__):  # a misspelt one is rare
        for split in SPLITS:
            if (split, label) not in seen:
                own = [row for row in rows if row.label == label]
                by = sorted({row.speaker for row in own if row.speaker})
                said = f", by {', '.join(map(repr, by[:5]))}{', ...' * (len(by) > 5)}" if by else ""
                other = ""
                if seed is not None and len(by) >= len(SPLITS):
                    other = f" Or draw other splits, such as those of {option('seed', seed + 1)}:"
                    other += f" all {_DRAWS:,} draws with {option('seed', seed)} lack a class."
                near = checks.nearest(label, [name for name in classes if name != label])
                raise ValueError(
                    f"{source}: the class {label!r} ({own[0].where}) has no clip in "
                    f"{split!r}{near or '.'} It has {len(own):,}{said}. Add clips"
                    f"{' by other speakers' if by else ''}, correct the label, or list the classes "
                    f"with labels.{other}"
                )
