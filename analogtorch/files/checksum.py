"""Checksums over whole files, so that a damaged file is an error and never another value.

JSON documents carry theirs in the field ``checksum``. Zip archives (``torch.save``,
``numpy.savez``) carry it in the comment of the archive, which other readers of zip files ignore.
Files of older versions have no checksum; they are still read.
"""

import hashlib
import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

_FIELD = "checksum"
_PREFIX = "sha256:"
# signature of a zip archive's last record, which has 22 bytes and then the comment
_END = b"PK\x05\x06"
_END_BYTES = 22
_COMMENT_BYTES = len(_PREFIX) + 64

_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError,
)  # fmt: skip


def signed(document: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON-ready ``document`` with a checksum of all its fields."""
    return document | {_FIELD: _of_document(document)}


def checked(document: Any) -> Any:
    """Return the document that ``signed`` was given, after checking its checksum.

    A document without a checksum is returned as it is.

    Raises:
        ValueError: the checksum does not belong to the other fields.
    """
    if not isinstance(document, dict) or _FIELD not in document:
        return document
    rest = {name: value for name, value in document.items() if name != _FIELD}
    if document[_FIELD] != _of_document(rest):
        raise ValueError(
            f"its {_FIELD!r} does not belong to what it holds: the file is damaged, or was edited; "
            f"restore it, or remove the field {_FIELD!r} if the edit is meant"
        )
    return rest


def seal(archive: bytes) -> bytes:
    """Return the zip ``archive`` with the checksum of its bytes as its comment.

    The archive must have no comment yet.
    """
    assert archive[-_END_BYTES:].startswith(_END)
    assert archive.endswith(b"\0\0")
    comment = (_PREFIX + hashlib.sha256(archive).hexdigest()).encode()
    return archive[:-2] + len(comment).to_bytes(2, "little") + comment


def sealed_bytes(path: str | Path) -> bytes:
    """Return the zip archive that ``seal`` was given, from the file at ``path``.

    The file is read once. An archive without a checksum, from an older version, is accepted if the
    CRC-32 of each of its entries is right.

    Raises:
        ValueError: the file is no archive, is cut short or is damaged. The message names the file.
        OSError: it cannot be read.
    """
    data = Path(path).read_bytes()
    archive = data[: -_COMMENT_BYTES - 2] + b"\0\0"
    comment = data[-_COMMENT_BYTES:]
    has_comment = data[:-_COMMENT_BYTES].endswith(bytes([_COMMENT_BYTES, 0]))
    if has_comment and archive[-_END_BYTES:].startswith(_END):
        if comment == (_PREFIX + hashlib.sha256(archive).hexdigest()).encode():
            return archive
    elif data[-_END_BYTES:].startswith(_END) and _entries_are_whole(data):
        return data
    raise ValueError(
        f"{path} is damaged or cut short: its checksum does not belong to its contents"
    )


def _entries_are_whole(archive: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as file:
            return file.testzip() is None
    except _UNREADABLE:
        return False


def _of_document(document: dict[str, Any]) -> str:
    as_read = json.loads(json.dumps(document))  # tuples are lists then, and all keys are text
    canonical = json.dumps(as_read, sort_keys=True, separators=(",", ":"))
    return _PREFIX + hashlib.sha256(canonical.encode()).hexdigest()
