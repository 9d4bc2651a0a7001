"""Digests of batches, by which a folder of results knows them from all others."""

import enum
import hashlib
import re
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import date, time, timedelta
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from analogtorch.calibration.batches import named
from analogtorch.values import checks

PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, range, slice),
    *(PurePath, date, time, timedelta, torch.dtype, torch.device),
)
"""Values that their type and their ``repr`` tell from all others."""
_COMPRESSED = {
    **dict.fromkeys((torch.sparse_csr, torch.sparse_bsr), ("crow_indices", "col_indices")),
    **dict.fromkeys((torch.sparse_csc, torch.sparse_bsc), ("ccol_indices", "row_indices")),
}
_DIGITS = 64
"""Those of a SHA-256."""


def batches_digest(batches: Iterable[Any], name: str = "batches") -> str:
    """Return a digest of all that the batches hold: values, types, keys and structure.

    Of tensors and texts in lists, tuples and mappings with texts as keys it is the SHA-256 of
    those, which is all that earlier versions kept, with a digest of the structure behind it.

    Args:
        batches: the batches.
        name: what messages call them.

    Raises:
        TypeError: a part has no digest.
    """
    found = _Digest()
    for number, batch in enumerate(batches):
        found.add(batch, f"{name}[{number}]")
    values, form = found.values.hexdigest(), found.form.hexdigest()
    if found.simple:
        return f"{values}-{form[:16]}"
    return hashlib.sha256(f"{values}{form}".encode()).hexdigest()


def with_structure(kept: Any, wanted: Any) -> Any:
    """Return what a folder has ``kept`` of an experiment, with digests in their present form.

    Where an earlier version kept that of the tensors and texts alone, and they are those of
    ``wanted``, so is their structure.
    """
    if isinstance(kept, dict) and isinstance(wanted, dict):
        return {name: with_structure(value, wanted.get(name)) for name, value in kept.items()}
    if isinstance(kept, str) and isinstance(wanted, str) and len(kept) == _DIGITS:
        return wanted if wanted.startswith(f"{kept}-") else kept
    return kept


def without_address(text: str) -> str:
    """Return what ``repr`` gave without addresses in memory, which differ from run to run."""
    return re.sub("0x[0-9a-f]+", "", text)


class _Digest:
    """Two hashes: of the tensors and texts of batches, and of all that is around them."""

    def __init__(self) -> None:
        self.values, self.form = hashlib.sha256(), hashlib.sha256()
        self.simple = True
        """Whether there are but tensors and texts in lists, tuples and mappings with texts as
        keys."""

    def add(self, value: Any, where: str) -> None:
        """Add a part of the batches, which messages call ``where``."""
        kind = type(value).__qualname__  # a script's classes have another module once imported
        if isinstance(value, Tensor):
            self._add_tensor(value, where)
        elif type(value) is str:
            self._begin("text")
            self.values.update(f"{value!r}\n".encode())
        elif isinstance(value, list | tuple):
            self._add_all(kind, dict(enumerate(value)), where)
        elif isinstance(value, Mapping) and all(type(key) is str for key in value):
            self._add_all(f"{kind} {list(value)!r}", {k: value[k] for k in value}, where)
        else:
            self.simple = False
            self._add_other(value, kind, where)

    def _add_other(self, value: Any, kind: str, where: str) -> None:
        if isinstance(value, enum.Enum):
            self._begin(f"{kind} {value.name}")
        elif isinstance(value, PLAIN):
            self._begin(f"{kind} {value!r}")
        elif isinstance(value, np.generic) or type(value) in (np.ndarray, np.memmap):
            self._add_array(np.asarray(value), kind, where)
        elif isinstance(value, deque):
            self._add_all(kind, dict(enumerate(value)), where)
        elif isinstance(value, Mapping):
            keys = list(value)
            self._add_all(f"{kind} keys", dict(enumerate(keys)), f"{where}: key")
            self._add_all("values", {key: value[key] for key in keys}, where)
        elif (parts := named(value)) is not None:  # a dataclass
            self._add_all(kind, parts, where)
        else:
            raise _refused(value, where)

    def _begin(self, what: str) -> None:
        self.form.update(f"{len(what)} {what}\n".encode())

    def _add_all(self, kind: str, parts: Mapping[Any, Any], where: str) -> None:
        self._begin(f"{kind} of {len(parts)}")
        for key, part in parts.items():
            self.add(part, f"{where}[{key!r}]")

    def _add_array(self, value: np.ndarray, kind: str, where: str) -> None:
        self._begin(f"{kind} {value.dtype!r} {value.shape}")
        if value.dtype.hasobject:
            self.add(value.tolist(), where)
        else:
            self.form.update(value.tobytes())

    def _add_tensor(self, value: Tensor, where: str) -> None:
        try:
            parts = _parts(value)
            if parts is None:
                self._begin("tensor")
                self.values.update(f"{value.dtype} {tuple(value.shape)}\n".encode())
                self.values.update(_bytes(value))
                return
        except (RuntimeError, TypeError) as error:  # on the meta device, or masked
            raise _refused(value, where) from error
        self.simple = False
        self._add_all(f"{type(value).__qualname__} {value.dtype} {value.layout}", parts, where)


def _parts(value: Tensor) -> dict[str, Any] | None:
    """Return what a tensor is made of; None: it is a plain one, with bytes of its own."""
    if value.is_nested:
        return {"parts": list(value.unbind())}
    if hasattr(value, "__tensor_flatten__"):  # of integers and scales, as torchao has them
        names, rules = value.__tensor_flatten__()
        return {"rules": without_address(repr(rules)), **{n: getattr(value, n) for n in names}}
    if type(value) not in (Tensor, nn.Parameter):  # with attributes, as torchvision has them
        return {"data": value.as_subclass(Tensor), "attributes": dict(vars(value))}
    if value.is_quantized:
        return {"integers": value.int_repr(), **_scales(value)}
    if value.layout is torch.sparse_coo:
        whole = value.coalesce()
        shape = list(value.shape)
        return {"shape": shape, "indices": whole.indices(), "values": whole.values()}
    if value.layout in _COMPRESSED:
        parts = {n: getattr(value, n)() for n in (*_COMPRESSED[value.layout], "values")}
        return {"shape": list(value.shape), **parts}
    return None if value.layout is torch.strided else {"dense": value.to_dense()}


def _scales(value: Tensor) -> dict[str, Any]:
    """Return what the integers of a quantised tensor stand for."""
    if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return {"scale": value.q_scale(), "zero": value.q_zero_point()}
    return {
        "scales": value.q_per_channel_scales(),
        "zeros": value.q_per_channel_zero_points(),
        "axis": value.q_per_channel_axis(),
    }


def _bytes(value: Tensor) -> bytes:
    flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def _refused(value: Any, where: str) -> TypeError:
    return TypeError(
        f"{where} is {checks.shown(value)}, which has no digest by which a folder could know it "
        "again; give numbers, texts, None, tensors, arrays of NumPy, and lists, tuples, mappings "
        "and dataclasses of them, or no folder"
    )
