"""Whether a recording is cut short, of which libsndfile says nothing."""

import functools
import math
import re
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Literal

KNOWN = frozenset(
    ("AIFF", "AU", "CAF", "FLAC", "HTK", "MP3", "NIST", "OGG", "RF64", "SVX", "W64", "WAV", "WAVEX")
)  # fmt: skip
"""Formats, by their names in soundfile, that are not read as if they were whole where they are cut
short: by ``is_cut_short``, or because libsndfile refuses them."""
_MP3_FRAME = 1152
"""Samples of a frame of MP3. Headers count one more or less, with or without their own frame."""
# sizes from here on: a program wrote them because it could not come back to the header
_UNKNOWN_SIZE = 2**31 - 2**16
_UNKNOWN_LONG_SIZE = 2**62
"""The same, of sizes of 64 bits."""


def is_cut_short(audio: Path | bytes, missing: int) -> bool:
    """Return whether a file announces more than it has.

    It goes by the bytes of WAV, AIFF, RF64 and W64, the whole and the chunk of samples, of AU, CAF
    and NIST, the samples of an MP3 with the header of Xing or LAME, and the page of OGG that is
    marked as the last (RFC 3533). An MP3 without that header announces nothing: its length is
    estimated.

    Args:
        audio: the file.
        missing: samples that libsndfile expected and did not find.
    """
    if isinstance(audio, bytes):
        return _ends_early(audio, missing)
    with audio.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as contents:
        return _ends_early(contents, missing)


def _ends_early(audio: bytes | mmap, missing: int) -> bool:
    kind = audio[:4]
    if kind in (b"RIFF", b"RIFX", b"FORM"):
        return any(len(audio) < end < _UNKNOWN_SIZE for end in _of_chunks(audio))
    if kind in (b"RF64", b"riff"):
        ends = _of_rf64(audio) if kind == b"RF64" else _of_w64(audio)
        return any(len(audio) < end < _UNKNOWN_LONG_SIZE for end in ends)
    if kind in (b".snd", b"dns."):
        order: Literal["little", "big"] = "big" if kind == b".snd" else "little"
        start, size = (int.from_bytes(audio[at : at + 4], order) for at in (4, 8))
        return len(audio) < start + size < _UNKNOWN_SIZE
    if kind == b"caff":
        return len(audio) < _of_caf(audio) < _UNKNOWN_LONG_SIZE
    if kind == b"NIST":
        return len(audio) < _of_nist(audio)
    if kind == b"OggS":
        return not _has_last_page(audio)
    return missing > _MP3_FRAME and _has_length(audio)


def _of_chunks(audio: bytes | mmap) -> tuple[int, int]:
    """Return where a WAV or AIFF and its samples end by their headers; 0 if none says it."""
    order: Literal["little", "big"] = "little" if audio[:4] == b"RIFF" else "big"
    start = _samples(audio, order)
    size = int.from_bytes(audio[start + 4 : start + 8], order)
    return 8 + int.from_bytes(audio[4:8], order), start + 8 + size if start else 0


def _samples(audio: bytes | mmap, order: Literal["little", "big"]) -> int:
    """Return where the chunk of samples of a WAV or AIFF begins; 0 if there is none."""
    start = 12
    while (name := audio[start : start + 4]) not in (b"data", b"SSND", b""):
        length = int.from_bytes(audio[start + 4 : start + 8], order)
        start += 8 + length + length % 2
    return start if name else 0


def _of_rf64(audio: bytes | mmap) -> tuple[int, int]:
    """Return what ``_of_chunks`` does of an RF64, by its chunk of long sizes (EBU Tech 3306)."""
    if audio[12:16] != b"ds64":
        return 0, 0
    whole, size = (int.from_bytes(audio[at : at + 8], "little") for at in (20, 28))
    start = _samples(audio, "little")
    return 8 + whole, start + 8 + size if start else 0


def _of_w64(audio: bytes | mmap) -> tuple[int, int]:
    """Return what ``_of_chunks`` does of a W64, whose chunks have names of 16 bytes."""
    start, length = 40, 24
    while (name := audio[start : start + 4]) not in (b"data", b"") and length >= 24:
        length = int.from_bytes(audio[start + 16 : start + 24], "little")
        start += length + -length % 8
    size = int.from_bytes(audio[start + 16 : start + 24], "little")
    return int.from_bytes(audio[16:24], "little"), start + size if name == b"data" else 0


def _of_caf(audio: bytes | mmap) -> int:
    """Return where the samples of a CAF end by its chunk of data; 0 if there is none."""
    start = 8
    while (name := audio[start : start + 4]) not in (b"data", b""):
        start += 12 + int.from_bytes(audio[start + 4 : start + 12], "big")
    return start + 12 + int.from_bytes(audio[start + 4 : start + 12], "big") if name else 0


def _of_nist(audio: bytes | mmap) -> int:
    """Return where a NIST SPHERE file ends by its header; 0 if that does not say it."""
    header = re.match(rb"NIST_1A\s+(\d+)\s", audio[:1024])
    if header is None:
        return 0

    def number(name: str, absent: int) -> int:
        found = re.search(rf"\n{name} -i (\d+)".encode(), audio[:1024])
        return absent if found is None else int(found[1])

    samples = number("sample_count", 0) * number("channel_count", 1)
    return int(header[1]) + samples * number("sample_n_bytes", 1)


def _has_last_page(ogg: bytes | mmap) -> bool:
    """Return whether an OGG ends with a whole page that is marked as the last."""
    page = ogg[ogg.rfind(b"OggS") :]
    flags, segments = page[5:6], page[26:27]
    size = 27 + segments[0] + sum(page[27 : 27 + segments[0]]) if segments else math.inf
    return len(page) >= size and bool(flags[0] & 4)


def _has_length(mp3: bytes | mmap) -> bool:
    """Return whether the first frame of an MP3, after tags of ID3, is a header with its length."""
    start = 0
    if mp3[:3] == b"ID3":
        start = 10 + functools.reduce(lambda size, byte: size << 7 | byte, mp3[6:10], 0)
    frame = mp3[start : start + 64]
    return b"Xing" in frame or b"Info" in frame
