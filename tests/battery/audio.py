"""Speech: recordings, folders and archives of them, manifests, augmentation, noise and features."""

import functools
import io
import math
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from analogtorch.speech.audio import read_clip, read_recording
from analogtorch.speech.augment import Augment, Augmenter
from analogtorch.speech.data import Clips, check_splits
from analogtorch.speech.features import LogMel, Mfcc
from analogtorch.speech.folder import Folder
from analogtorch.speech.labels import label_index
from analogtorch.speech.noise import Noise, generate_noise, read_noise
from analogtorch.speech.speech_commands import SpeechCommands
from analogtorch.speech.synthetic import Synthetic
from tests.battery.calls import NO_FLAG, NO_INTEGER, NO_NUMBER, NO_TEXT, Bad, every, fields
from tests.battery.files import written

EITHER = (TypeError, ValueError)
NO_TENSOR = (None, 3, "wave", [0.0] * 16_000, np.zeros((1, 16_000), np.float32), torch.Tensor)
SECOND = torch.zeros(2, 16_000)
HEADER = "path,label,speaker,split"
ROWS = ("a.wav,yes,ann,train", "b.wav,go,bob,val", "c.wav,_silence_,,test")


def wav(samples: Any, rate: int = 16_000, subtype: str = "PCM_16") -> bytes:
    """The contents of a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype=subtype)
    return file.getvalue()


def clip(value: int = 0, samples: int = 16_000) -> bytes:
    """One second of a constant."""
    return wav(np.full(samples, value, np.int16))


def folder(rows: tuple[str, ...] = ROWS, header: str = HEADER, **files: bytes) -> Path:
    """Write a folder with a manifest and the clips of ``ROWS``, or with others instead."""
    root = Path(tempfile.mkdtemp())
    (root / "manifest.csv").write_text("\n".join((header, *rows)) + "\n")
    for value, name in enumerate("abc"):
        (root / f"{name}.wav").write_bytes(files.get(name, clip(value)))
    return root


def calls() -> Iterator[Bad]:
    """All of them."""
    yield from _recordings()
    yield from _folders()
    yield from _archives()
    yield from _clips()
    yield from _features()
    yield from _augmentation()
    yield from _noise()
    yield from _sources()


def _recordings() -> Iterator[Bad]:
    for read in (read_recording, read_clip):
        name = read.__name__
        yield from every(
            name, read, [None, 3, True, [1], SECOND], "audio must be a path such as", TypeError
        )
        yield from every(
            name,
            read,
            ["nowhere.wav", Path("nowhere"), ""],
            "no such audio file",
            FileNotFoundError,
        )
        yield Bad(
            f"{name} folder",
            lambda read=read: read(Path("/")),
            FileNotFoundError,
            "/: no such audio file",
        )
        yield from every(
            f"{name} resample",
            lambda v, read=read: read(clip(), resample=v),
            NO_FLAG,
            "resample must be True or",
        )
    odd = {
        "not readable as audio.*Replace": (
            b"",
            b"RIFF",
            b"RIFF\0\0\0\0WAVE",
            b"text",
            b"fLaC",
            b"OggS",
            bytes(100),
        ),
        "holds no samples": (wav(np.zeros(0, np.int16)),),
        "cut short": (clip()[:20_000], clip()[:-1], wav(np.zeros((9, 2)))[:60]),
        "holds NaN or infinite samples": tuple(
            wav(np.array([0.0, bad] * 8_000), subtype="FLOAT")
            for bad in (math.nan, math.inf, -math.inf)
        ),
        "sampled at (8000|1|44100) Hz; 16000 Hz is needed. Write resample": tuple(
            wav(np.zeros(rate, np.int16), rate) for rate in (8_000, 44_100, 1)
        ),
    }
    for message, contents in odd.items():
        for number, data in enumerate(contents):
            for form, given in (("bytes", data), ("file", written("odd.wav", data))):
                where = "audio in memory: " if form == "bytes" else r"odd\.wav: "
                yield Bad(
                    f"{message[:15]} {number} {form}",
                    functools.partial(read_clip, given, fit="pad_or_trim"),
                    ValueError,
                    where + message,
                )
    channels = bytearray(clip())
    channels[22:24] = b"\0\0"
    yield Bad(
        "no channels", lambda: read_recording(bytes(channels)), ValueError, "not readable as audio"
    )
    for samples in (1, 15_999, 16_001):
        yield Bad(
            f"{samples} samples",
            lambda n=samples: read_clip(clip(samples=n)),
            ValueError,
            f"{samples} samples at 16000 Hz; one clip is 16000.*fit='pad_or_trim'",
        )
    yield from every(
        "fit",
        lambda v: read_clip(clip(), fit=v),
        [None, "", "pad", True, 3, ["error"]],
        "fit must be one of",
    )


def _folders() -> Iterator[Bad]:
    yield from fields(lambda: Folder(root="data"), "root", NO_TEXT, "must be a text such as")
    some = [value for value in NO_TEXT if value is not None]
    yield from fields(
        lambda: Folder(root="data"), "manifest speaker", some, "must be a text such as"
    )
    yield from fields(
        lambda: Folder(root="data"),
        "archives",
        ["clips.tar", 3],
        "must be a list such as",
        TypeError,
    )
    yield from fields(
        lambda: Folder(root="data"), "archives", [[None], [3], [""]], "must be a text such as"
    )
    yield from fields(lambda: Folder(root="data"), "resample", NO_FLAG, "must be True or False")
    yield from every(
        "fit", lambda v: Folder(root="data", fit=v), [None, "crop", 3], "fit must be one of"
    )
    yield Bad(
        "absent",
        lambda: Folder(root="/nowhere").load(),
        FileNotFoundError,
        "no such folder or tar archive; it holds",
    )
    yield Bad(
        "variable",
        lambda: Folder(root="${NOWHERE_SET}").load(),
        ValueError,
        "NOWHERE_SET is not set",
    )
    rows = {
        "a.wav,yes,ann": "too few cells",
        ",yes,ann,train": "empty path",
        "a.wav,Yes,ann,train": "unknown class 'Yes'; allowed are",
        "a.wav,,ann,train": "the row has an empty path or label, or too few cells",
        "a.wav,yes,ann,dev": "unknown split 'dev'; allowed are train, val, test",
        "a.wav,yes,ann,": "unknown split ''; allowed are",
        "a.wav,yes,,train": "names no speaker",
        "a.wav,yes,bob,train": "speaker 'bob' is in two splits",
        "/a.wav,yes,ann,train": "leaves the folder",
        "../a.wav,yes,ann,train": "leaves the folder",
        "b.wav,go,ann,train": "is listed already",
        "z.wav,yes,ann,train": "there is no 'z.wav' in",
        ".,yes,ann,train": r"there is no '\.' in",
        '"a.wav,yes,ann,train': "close each quotation mark",
    }
    for row, message in rows.items():
        yield Bad(
            f"row {row}",
            lambda row=row: _load(folder((row, *ROWS[1:]))),
            (ValueError, OSError),
            message,
        )
    yield from every(
        "header",
        lambda v: _load(folder(header=v)),
        ["", "a,b", HEADER.upper(), "path;label"],
        "no column 'path'",
    )
    for split in range(3):
        left = ROWS[:split] + ROWS[split + 1 :]
        yield Bad(
            f"no {ROWS[split]}",
            lambda left=left: _load(folder(left)),
            ValueError,
            "the split '.*' is empty",
        )
    clips = {
        "empty": (b"", "not readable as audio"),
        "truncated": (clip()[:999], "cut short"),
        "rate": (wav(np.zeros(8_000, np.int16), 8_000), "sampled at 8000 Hz"),
        "NaN": (wav(np.full(16_000, math.nan), subtype="FLOAT"), "holds NaN"),
        "short": (clip(samples=9), "9 samples at 16000 Hz"),
        "again": (wav(np.arange(16_000, dtype=np.int16)), "are the same recording"),
    }
    for name, (data, message) in clips.items():
        other = {"c": data} if name == "again" else {}
        yield Bad(
            f"clip {name}", lambda d=data, o=other: _load(folder(b=d, **o)), ValueError, message
        )
    for name, data in {"binary": b"\xff\xfe\x00", "zeros": bytes(9)}.items():
        yield Bad(
            f"manifest {name}",
            lambda d=data: _load(written("manifest.csv", d).parent),
            ValueError,
            r"manifest\.csv",
        )


def _load(root: Path) -> Any:
    return Folder(root=str(root), labels="speech_commands_12").load()


def _archives() -> Iterator[Bad]:
    def packed(
        data: bytes, *, mode: str = "w", kind: bytes = tarfile.REGTYPE, keep: float = 1.0
    ) -> Path:
        """Write a folder whose only clip besides ``b.wav`` and ``c.wav`` is in an archive.

        ``keep`` is the part of the archive that is left.
        """
        root, file = folder(), io.BytesIO()
        (root / "a.wav").unlink()
        with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
            member = tarfile.TarInfo("a.wav")
            member.type, member.linkname, member.size = (
                kind,
                "b.wav",
                len(data) if kind == tarfile.REGTYPE else 0,
            )
            archive.addfile(member, io.BytesIO(data))
        whole = file.getvalue()
        (root / "clips.tar").write_bytes(whole[: int(keep * len(whole))])
        return root

    bad: dict[str, tuple[dict[str, Any], str]] = {
        "compressed": ({"mode": "w:gz"}, r"clips\.tar: compressed, damaged, or no tar archive"),
        "link": ({"kind": tarfile.SYMTYPE}, "is a link, a sparse file or larger"),
        "device": ({"kind": tarfile.CHRTYPE}, "is a link, a sparse file or larger"),
        "cut short": ({"keep": 0.3}, "damaged or cut short|cut short"),
        "empty": ({"keep": 0}, "compressed, damaged, or no tar archive"),
    }
    for name, (how, message) in bad.items():
        yield Bad(
            f"archive {name}", lambda how=how: _load(packed(clip(), **how)), ValueError, message
        )
    yield Bad(
        "clip in an archive", lambda: _load(packed(clip()[:99])), ValueError, "a.wav.*cut short"
    )
    yield Bad(
        "text",
        lambda: _load(written("x.tar", "text").parent),
        ValueError,
        "no tar archive",
    )
    yield Bad(
        "absent archive",
        lambda: Folder(root=str(folder()), archives=("other.tar",)).load(),
        FileNotFoundError,
        r"other\.tar: no such archive",
    )


def _clips() -> Iterator[Bad]:
    def clips(**changed: Any) -> Clips:
        good = {
            "waveforms": SECOND.short(),
            "labels": torch.tensor([2, 3]),
            "speakers": ("a", "b"),
            "names": ("1", "2"),
        }
        return Clips(**(good | changed))

    for field in ("waveforms", "labels"):
        yield from every(
            f"Clips.{field}",
            lambda v, f=field: clips(**{f: v}),
            NO_TENSOR,
            f"Clips.{field} must be a Tensor",
            TypeError,
        )
    yield from every(
        "Clips",
        lambda v: clips(waveforms=v),
        [SECOND, SECOND.long()],
        "it must be torch.int16",
        TypeError,
    )
    yield from every(
        "Clips",
        lambda v: clips(labels=v),
        [torch.ones(2), torch.ones(2) > 0],
        "be torch.int64",
        TypeError,
    )
    shapes = [SECOND.short()[0], SECOND.short()[:, :9], SECOND.short()[:1], SECOND.short()[None]]
    yield from every(
        "Clips", lambda v: clips(waveforms=v), shapes, r"must be \(N, 16000\) and \(N,\)"
    )
    yield from every(
        "Clips",
        lambda v: clips(labels=v),
        [torch.tensor(2), torch.tensor([[2, 3]])],
        r"\(N, 16000\)",
    )
    yield from every(
        "Clips",
        lambda v: clips(labels=torch.tensor([2, v])),
        [-1, 12],
        r"labels spans .*use 0\.\.11",
    )
    for field in ("speakers", "names"):
        yield from every(
            f"Clips.{field}",
            lambda v, f=field: clips(**{f: v}),
            [None, "ab", (1, 2), 3],
            "must be a tuple of",
            TypeError,
        )
        yield Bad(f"Clips.{field} ()", lambda f=field: clips(**{f: ()}), ValueError, "2 labels, ")
    one = clips()
    yield from every(
        "splits",
        lambda v: check_splits(v, source="mine"),
        [None, 3, [one]],
        "must give a dict",
        TypeError,
    )
    names = [{}, {"train": one}, {"train": one, "val": one, "dev": one}, {1: one, "val": one}]
    yield from every(
        "splits",
        lambda v: check_splits(v, source="mine"),
        names,
        "mine gives the splits .*must give",
    )
    none = dict.fromkeys(("train", "val", "test"))
    yield Bad(
        "splits None",
        lambda: check_splits(none, source="mine"),
        TypeError,
        "'train' must be a Clips",
    )
    same = dict.fromkeys(("train", "val", "test"), one)
    yield Bad(
        "splits same",
        lambda: check_splits(same, source="mine"),
        ValueError,
        "speaker 'a' is in two splits",
    )
    yield from every(
        "label",
        lambda v: label_index(v, where="row 3"),
        [None, 3, "", "Yes"],
        "row 3: unknown class",
    )


def _features() -> Iterator[Bad]:
    yield from every(
        "LogMel mean", lambda v: LogMel(mean=v), NO_NUMBER, "mean must be a finite number"
    )
    yield from every(
        "LogMel std", lambda v: LogMel(std=v), [*NO_NUMBER, 0, -1], "std must be a positive number"
    )
    yield from every(
        "Mfcc",
        lambda v: Mfcc(coefficients=v),
        [*NO_INTEGER, 0, 41],
        r"coefficients must be an integer in \[1, 40\]",
    )
    for module in (LogMel(), Mfcc()):
        name = type(module).__name__
        yield from every(name, module, NO_TENSOR, "waveforms must be a Tensor such as", TypeError)
        shapes = [
            SECOND[0],
            SECOND[:, :8_000],
            SECOND[None],
            torch.zeros(0),
            torch.zeros(16_000, 2),
        ]
        yield from every(name, module, shapes, r"waveforms of shape .*need \(B, 16000\)")
        yield from every(
            name, module, [SECOND.short(), SECOND.cfloat(), SECOND > 0], "need float in", TypeError
        )
        types = [SECOND.double(), SECOND.half(), SECOND.bfloat16()]
        yield from every(
            name, module, types, r"the features torch\.float32; convert one of them", TypeError
        )


def _augmentation() -> Iterator[Bad]:
    yield from fields(
        Augment,
        "shift_ms gain_db noise_probability",
        [*NO_NUMBER, -1, 501],
        r"must be a number in \[0",
    )
    yield from fields(
        Augment, "time_masks time_mask_frames", [*NO_INTEGER, -1, 50], r"must be an integer in \[0"
    )
    yield from fields(
        Augment,
        "frequency_masks frequency_mask_bins",
        [*NO_INTEGER, 41],
        r"must be an integer in \[0",
    )
    yield from fields(Augment, "speeds", [(), None, 1.0, "1", {1.0}], "must be a tuple such as")
    yield from fields(
        Augment, "speeds", [(0.4,), (1, 3), ("1",), (math.nan,)], r"must be a number in \[0\.5, 2\]"
    )
    yield from fields(Augment, "noise", [3, "", ["a"]], "must be a text such as")
    for owner in (Augment, Synthetic):
        yield from fields(
            owner,
            "snr_db",
            [None, 5.0, (), (5.0,), "ab", (9.0, 3.0)],
            r"must be \(lowest, highest\)",
        )
        yield from fields(
            owner,
            "snr_db",
            [(math.nan, 5), (0, 101), ("0", 1)],
            r"must be a number in \[-20, 100\]",
        )
    yield from every(
        "Augmenter",
        lambda v: Augmenter(v, seed=0),
        [None, Augment, {}],
        "config must be an Augm",
        TypeError,
    )
    yield from every(
        "Augmenter",
        lambda v: Augmenter(Augment(), seed=v),
        [*NO_INTEGER, -1],
        "seed must be an integer >= 0",
    )
    yield Bad(
        "noise",
        lambda: Augmenter(Augment(noise="/nowhere"), seed=0),
        FileNotFoundError,
        "/nowhere: no such fol",
    )
    augmenter, index = Augmenter(Augment(), seed=0), torch.arange(2)
    for name, change, batch in (
        ("waveforms", augmenter.waveforms, SECOND),
        ("features", augmenter.features, torch.zeros(2, 1, 49, 40)),
    ):

        def call(x: Any, index: Any = index, epoch: Any = 0, change: Any = change) -> Any:
            return change(x, index, epoch=epoch)

        yield from every(name, call, NO_TENSOR, f"{name} must be a Tensor", TypeError)
        yield from every(
            name,
            call,
            [batch.short(), batch[0], batch[None], torch.zeros(2)],
            f"{name} (of|are)",
            EITHER,
        )
        yield from every(
            f"{name} index",
            functools.partial(call, batch),
            [None, 3, [0, 1]],
            "index must be a Tensor",
            TypeError,
        )
        wrong = [index[:1], index.float(), index > 0, index[None]]
        yield from every(
            f"{name} index",
            functools.partial(call, batch),
            wrong,
            r"index .* must be \(2,\) integers",
        )
        yield from every(
            f"{name} epoch",
            functools.partial(call, batch, index),
            [*NO_INTEGER, -1],
            "epoch must be an integer >= 0",
        )


def _noise() -> Iterator[Bad]:
    yield from every(
        "Noise",
        lambda v: Noise(recordings=v),
        [None, 3, "noise"],
        "must be a list such as",
        TypeError,
    )
    yield Bad("Noise ()", lambda: Noise(recordings=()), ValueError, "Noise.recordings is empty")
    long = torch.zeros(160_000)
    yield from every(
        "Noise",
        lambda v: Noise(recordings=(v,)),
        [None, [0.0]],
        "must be a Tensor such as",
        TypeError,
    )
    yield from every(
        "Noise",
        lambda v: Noise(recordings=(v,)),
        [long.double(), long.short()],
        "be torch.fl",
        TypeError,
    )
    yield from every(
        "Noise",
        lambda v: Noise(recordings=(v,)),
        [long[:9], long[None], long[0]],
        "has shape .* must be",
    )
    yield Bad("Noise NaN", lambda: Noise(recordings=(long * math.nan,)), ValueError, "holds NaN")
    noise = Noise(recordings=(long,))
    yield from every(
        "part",
        lambda v: noise.part(v, 1.0),
        [*NO_NUMBER, -0.1, 1.1],
        r"start must be a number in \[0, 1\]",
    )
    yield from every(
        "part",
        lambda v: noise.part(0.5, v),
        [*NO_NUMBER, 0.5, 0.4, 1.1],
        "stop must be a number in",
    )
    yield Bad("part short", lambda: noise.part(0.0, 0.01), ValueError, "is too short to cut")
    yield from every(
        "seed", lambda v: generate_noise(seed=v), [*NO_INTEGER, -1], "seed must be an integer >= 0"
    )
    yield from every(
        "seconds",
        lambda v: generate_noise(seed=0, seconds=v),
        [*NO_INTEGER, 0],
        "seconds must be an integer >= 1",
    )
    yield from every(
        "colours",
        lambda v: generate_noise(seed=0, seconds=1, colours=(v,)),
        [*NO_NUMBER, -1],
        r"colours\[0\] must be",
    )
    yield from every("read_noise", read_noise, [None, 3, b"x"], "folder must be a path", TypeError)
    yield from every(
        "read_noise",
        read_noise,
        ["/nowhere", Path(tempfile.mkdtemp())],
        "no such fold",
        FileNotFoundError,
    )
    for message, data in {
        "9 samples; noise must last": clip(samples=9),
        "not readable": b"text",
        "sampled at 8000 Hz": wav(np.zeros(16_000, np.int16), 8_000),
    }.items():
        yield Bad(
            f"read_noise {message}",
            lambda d=data: read_noise(written("n.wav", d).parent),
            ValueError,
            rf"n\.wav: {message}",
        )


def _sources() -> Iterator[Bad]:
    yield from fields(Synthetic, "per_class", [*NO_INTEGER, 9], "must be an integer >= 10")
    yield from fields(
        Synthetic,
        "val_percent test_percent",
        [*NO_NUMBER, 9, 41],
        r"must be a number in \[10, 40\]",
    )
    yield from fields(Synthetic, "seed", [*NO_INTEGER, -1], "must be an integer >= 0")
    yield from fields(Synthetic, "workers", [*NO_INTEGER, 0], "must be an integer >= 1")
    yield from fields(Synthetic, "cache", [3, "", ["a"]], "must be a text such as")

    def corpus() -> SpeechCommands:
        return SpeechCommands(root="data")

    yield from fields(corpus, "root", NO_TEXT, "must be a text such as")
    yield from fields(corpus, "download", NO_FLAG, "must be True or False")
    yield from fields(
        corpus,
        "unknown_percent silence_percent",
        [*NO_NUMBER, -1, 101],
        r"must be a number in \[0, 100\]",
    )
    yield from fields(corpus, "seed", [*NO_INTEGER, -1], "must be an integer >= 0")
    yield Bad(
        "absent",
        lambda: SpeechCommands(root="/nowhere").load(),
        FileNotFoundError,
        "holds no SpeechCommands/",
    )
