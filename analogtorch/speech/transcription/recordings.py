"""Recordings to write down, with what is said in them where that is known."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from analogtorch.evaluate.metrics import plain
from analogtorch.files import expanded
from analogtorch.speech import espeak
from analogtorch.speech.audio import SUFFIXES, audio_files, read_recording, resampled
from analogtorch.speech.clip_rows import table_of
from analogtorch.speech.data import SAMPLE_RATE, Clips
from analogtorch.speech.draws import uniform
from analogtorch.values import checks

TABLE, LIBRISPEECH = "references.csv", ".trans.txt"
"""Files of references: a table with the columns path and text, and those of LibriSpeech."""
_QUIET = 10 ** (-60 / 20)
"""Root mean square, of full scale, of the loudest 30 ms of what counts as silence: -60 dB."""
_FRAME = SAMPLE_RATE * 30 // 1000
_FILLED = 2 / 3
"""Share of a window that is filled at most, and of that share which a piece has at least. Whisper
repeats what is said if a window has no silence at its end."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """One recording."""

    name: str
    """Its name in tables and messages."""
    samples: Tensor
    """Float samples (n,) in [-1, 1] at 16 kHz."""
    said: str | None = None
    """What is said; None: nobody has written it down."""

    @property
    def seconds(self) -> float:
        """Its length, s."""
        return len(self.samples) / SAMPLE_RATE


def read_recordings(path: str | Path, references: str | Path | None = None) -> list[Recording]:
    """Return the recordings of a file or a folder, in the order of their paths.

    Other sampling rates are converted, and channels are averaged. What is said stands in a file of
    the same name that ends with .txt, in ``*.trans.txt`` as LibriSpeech has it, or in
    references.csv in the folder, a table with the columns path and text.

    Args:
        path: an audio file, or a folder with some (.wav, .flac, .ogg, .mp3), also below it. Files
            and folders whose names begin with a dot are left out.
        references: a table like references.csv elsewhere, or for one recording its text file.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: no audio is there, or some of another kind, or a folder is a link; a recording
            is damaged, empty or not finite; a reference has no word or is there twice; or a row of
            a table names no recording or has other cells than its first line. All is read before
            anything is returned.
    """
    path = expanded(str(checks.path("path", path)))
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such audio file or folder")
    if path.is_file():
        found, root = [path], path.parent
    else:
        found, root = audio_files(_seen(path)), path
    if not found:
        raise ValueError(
            f"{path} holds no audio file; put some there that end with {', '.join(SUFFIXES)}"
        )
    said = _said(found, root, path.is_dir(), references)
    return [
        Recording(
            name=file.relative_to(root).as_posix(),
            samples=read_recording(file, resample=True),
            said=said.get(file),
        )
        for file in found
    ]


def _seen(root: Path) -> list[Path]:
    """Return the files of a folder, also below it, in the order of their paths, but hidden ones.

    Raises:
        ValueError: a folder is a link.
    """
    found = []
    for path in sorted(root.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        if path.is_dir() and path.is_symlink():
            raise ValueError(f"{path} is a link; put the recordings themselves into {root}")
        if not path.is_dir():
            found.append(path)
    return found


def _said(
    files: Sequence[Path], root: Path, several: bool, references: str | Path | None
) -> dict[Path, str]:
    """Return the texts of the files that have one."""
    pairs: list[tuple[Path, str, Path]] = []  # of a recording, its text, where that stands
    if references is not None:
        given = expanded(str(checks.path("references", references)))
        if not given.is_file():
            raise FileNotFoundError(f"{given}: no such file of references")
        if given.suffix.lower() == ".csv":
            pairs += _of_table(given, root, files, several)
            if not pairs:
                raise ValueError(
                    f"{given}: has a reference for none of the recordings; add a row with path and "
                    "text"
                )
        elif several:
            raise ValueError(f"{given}: references of a folder are a table that ends with .csv")
        else:
            pairs.append((files[0], _text(given), given))
    else:
        if (root / TABLE).is_file():
            pairs += _of_table(root / TABLE, root, files, several)
        for file in files:
            if (beside := file.with_suffix(".txt")).is_file():
                pairs.append((file, _text(beside), beside))
        for folder in dict.fromkeys(file.parent for file in files):
            for lines in sorted(folder.glob(f"[!.]*{LIBRISPEECH}")):
                pairs += _of_librispeech(lines, [f for f in files if f.parent == folder])
    found: dict[Path, str] = {}
    for file, text, where in pairs:
        if file in found:
            raise ValueError(f"{where}: {file} has a reference already; leave one of them")
        if not plain(text):
            raise ValueError(
                f"{where}: the reference of {file.name} has no word; write what is said, or leave "
                "it out"
            )
        found[file] = " ".join(text.split())
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no text in UTF-8: {error}") from error


def _of_table(
    table: Path, root: Path, files: Sequence[Path], several: bool
) -> Iterator[tuple[Path, str, Path]]:
    """Yield the texts of a table; for one recording its own, whatever else the table has."""
    of = {os.path.abspath(file): file for file in files}
    rows = table_of(str(table), _text(table), skipinitialspace=True)
    if missing := {"path", "text"} - set(rows.fieldnames or ()):
        raise ValueError(
            f"{table}: lacks the columns {', '.join(sorted(missing))}; its first line must name "
            "path and text"
        )
    for row in rows:
        if None in row:  # what csv calls the cells that are too many
            raise ValueError(
                f"{table}:{rows.line_num}: the row has more cells than the first line; put a text "
                "with commas into quotation marks"
            )
        path = (row["path"] or "").strip()
        file = of.get(os.path.abspath(root / path))
        if file is not None:
            yield file, row["text"] or "", table
        elif several:
            raise ValueError(f"{table}:{rows.line_num}: there is no recording {path!r} in {root}")


def _of_librispeech(lines: Path, files: Sequence[Path]) -> Iterator[tuple[Path, str, Path]]:
    """Yield the texts of a file whose lines are the name of a recording, a space and its text."""
    of = {file.stem: file for file in files}
    for line in _text(lines).splitlines():
        name, _, text = line.strip().partition(" ")
        if name in of:
            yield of[name], text, lines


SENTENCES = (
    "The little boat went down the river in the morning.",
    "She put the letter on the table and left the house.",
    "We will meet our friends at the station after lunch.",
    "The teacher asked the children to open the window.",
    "It has been raining in the mountains for seven days.",
    "My brother bought some bread and a bottle of milk.",
    "The old man told us a story about the sea.",
    "Please turn off the light when you leave the room.",
    "They walked along the beach until the sun went down.",
    "The train to the city leaves in twenty minutes.",
    "He could not find the key to the garden door.",
    "The doctor said that she should stay in bed today.",
    "A black cat was sleeping under the kitchen table.",
    "I would like a cup of coffee with a little sugar.",
    "The young girl plays the piano every evening.",
    "There is a small shop at the end of the street.",
)
"""What ``spoken`` says by default."""
_VOICES = ("gmw/en-US", "gmw/en-GB-x-rp", "gmw/en-US+m3", "gmw/en-GB-x-rp+f2")


def spoken(sentences: Sequence[str] = SENTENCES) -> list[Recording]:
    """Return sentences spoken by eSpeak NG, in four voices in turn.

    It needs the extra ``synthetic``. The same sentences give the same recordings. They show that
    everything works; they say nothing about error rates on people.

    Raises:
        ImportError: espeakng-loader is not installed.
        ValueError: a sentence has no word.
    """
    for text in sentences:
        if not plain(text):
            raise ValueError(f"spoken: {text!r} has no word")
    utterances = [
        espeak.Utterance(text=text, voice=_VOICES[i % len(_VOICES)], rate=140)
        for i, text in enumerate(sentences)
    ]
    found = []
    for number, (text, speech) in enumerate(
        zip(sentences, espeak.synthesise(utterances, workers=1), strict=True)
    ):
        samples = torch.frombuffer(speech, dtype=torch.int16).float() / 32_768
        found.append(
            Recording(
                name=f"sentence {number + 1}",
                samples=resampled(samples, espeak.SAMPLE_RATE),
                said=text,
            )
        )
    return found


def joined(
    clips: Clips, count: int, *, words: int = 6, pause: float = 0.1, seed: int = 0
) -> list[Recording]:
    """Return recordings of several words each, joined from clips of one speaker.

    Args:
        clips: clips of single words; classes in underscores, such as ``_silence_``, are left out.
        count: number of recordings.
        words: clips in each, of which none is there twice.
        pause: silence between clips, s; clips of Speech Commands begin and end with some.
        seed: seed of the choice of speakers and clips.

    Raises:
        ValueError: no speaker has this many clips, or a number is not allowed.
    """
    checks.count("joined: count", count)
    checks.count("joined: words", words)
    checks.number("joined: pause", pause, least=0)
    own: dict[str, list[int]] = {}
    for i, (speaker, label) in enumerate(zip(clips.speakers, clips.labels.tolist(), strict=True)):
        if speaker and not clips.classes[label].startswith("_"):
            own.setdefault(speaker, []).append(i)
    speakers = sorted(speaker for speaker, of in own.items() if len(of) >= words)
    if not speakers:
        raise ValueError(f"joined: no speaker has {words} clips of words; use fewer words")
    between = torch.zeros(round(pause * SAMPLE_RATE), dtype=torch.float32, device="cpu")
    found = []
    for number in range(count):
        # every speaker speaks as often as the others
        turn = sorted(speakers, key=lambda s: float(uniform(seed, number // len(speakers), s)[0]))
        speaker = turn[number % len(speakers)]
        chosen = sorted(own[speaker], key=lambda i: float(uniform(seed, number, "clip", i)[0]))
        parts = [part for i in chosen[:words] for part in (clips.waveforms[i] / 32_768, between)]
        found.append(
            Recording(
                name=f"{number}, speaker {speaker}",
                samples=torch.cat(parts),
                said=" ".join(clips.classes[int(clips.labels[i])] for i in chosen[:words]),
            )
        )
    return found


def pieces(samples: Tensor, seconds: float) -> list[Tensor]:
    """Return the parts of a recording that fit into windows of ``seconds``, without silent ones.

    A long recording is cut where it is quietest. Nothing is returned for silence: whose loudest 30
    ms are below -60 dB of full scale.
    """
    most = round(_FILLED * seconds * SAMPLE_RATE) // _FRAME
    loud = _loudness(samples)
    found, start = [], 0
    while start < len(loud):
        end = min(start + most, len(loud))
        if end < len(loud):
            first = start + round(_FILLED * most)
            end = first + int(loud[first:end].argmin()) + 1
        if float(loud[start:end].max()) > _QUIET:
            found.append(samples[start * _FRAME : end * _FRAME])
        start = end
    return found


def _loudness(samples: Tensor) -> Tensor:
    """Return the root mean square of each 30 ms (frames,); the last frame is filled up.

    What a recording has throughout, an offset, is not heard.
    """
    padded = torch.nn.functional.pad(samples - samples.mean(), (0, -len(samples) % _FRAME))
    return padded.unflatten(0, (-1, _FRAME)).square().mean(1).sqrt()
