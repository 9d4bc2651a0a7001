"""Results as entries of a record, and the differences of two records."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Entry = dict[str, Any]


def entries(name: str, value: Any) -> Iterator[tuple[str, Entry]]:
    """Yield an entry for every tensor, number and text in ``value``, named by its position."""
    if isinstance(value, Tensor):
        yield name, _of_tensor(value)
    elif isinstance(value, str | bytes):
        yield name, _of_text(value)
    elif value is None or isinstance(value, bool | int | float):
        yield name, {"kind": "number", "sha256": _sha(repr(value).encode()), "value": repr(value)}
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from entries(f"{name}/{key}", each)
    elif isinstance(value, tuple | list):
        for number, each in enumerate(value):
            yield from entries(f"{name}/{number}", each)
    else:
        raise TypeError(
            f"{name}: a record holds tensors, numbers and texts, got {type(value).__name__}"
        )


def differences(
    before: Mapping[str, Entry], after: Mapping[str, Entry]
) -> list[tuple[str, str, str]]:
    """Return name and both values of every entry that differs."""
    names = [*before, *(name for name in after if name not in before)]
    return [
        (name, *_shown(before.get(name), after.get(name)))
        for name in names
        if before.get(name, {}).get("sha256") != after.get(name, {}).get("sha256")
    ]


def _of_tensor(t: Tensor) -> Entry:
    t = t.detach().cpu().contiguous()
    shape, dtype = tuple(t.shape), str(t.dtype).removeprefix("torch.")
    head = f"{dtype} {list(shape)} ".encode()
    raw = t.reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b""
    flat = t.reshape(-1).double()
    shown = [flat[i].item() for i in (0, t.numel() // 2, t.numel() - 1)] if t.numel() else []
    return {
        "kind": "tensor",
        "sha256": _sha(head + raw),
        "shape": list(shape),
        "dtype": dtype,
        "mean": _short(flat.mean().item()) if t.numel() else None,
        "std": _short(flat.std(correction=0).item()) if t.numel() else None,
        "first, middle, last": [repr(value) for value in shown],
    }


def _of_text(text: str | bytes) -> Entry:
    raw = text.encode() if isinstance(text, str) else text
    lines = raw.decode(errors="replace").splitlines()
    return {
        "kind": "text",
        "sha256": _sha(raw),
        "bytes": len(raw),
        "lines": len(lines),
        "begins": lines[:1],
    }


def _shown(before: Entry | None, after: Entry | None) -> tuple[str, str]:
    """Return both values in words: what differs, or all if one is missing or of another kind."""
    if before is None or after is None or before["kind"] != after["kind"]:
        return _words(before, None), _words(after, None)
    fields = [f for f in before if f not in ("kind", "sha256") and before[f] != after.get(f)]
    return _words(before, fields), _words(after, fields)


def _words(entry: Entry | None, fields: list[str] | None) -> str:
    if entry is None:
        return "missing"
    if fields == []:
        return f"{entry['sha256'][:12]}, same statistics"
    kept = {
        f: v
        for f, v in entry.items()
        if f not in ("kind", "sha256") and (fields is None or f in fields)
    }
    return ", ".join(f"{field} {_plain(value)}" for field, value in kept.items())


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _short(value: float) -> str:
    """Return enough digits to judge by, or a text, as JSON has no NaN."""
    return f"{value:.6g}" if math.isfinite(value) else str(value)


def _sha(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
