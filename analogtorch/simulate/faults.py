"""The faults of devices, cells, lines and tiles: what each is, and where the seed puts it."""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from analogtorch.ops import fold, normal, seed_tensor, stream

Part = Literal["device", "cell", "row", "column", "tile"]
_ALL = 1 - 1e-9
"""Share from which everything is broken; sums of shares round."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A way in which a part of a chip is broken."""

    field: str
    """Field of ``Defects`` that holds its share."""
    part: Part
    """What is broken; a share counts these."""
    title: str
    """Name in tables and plots."""

    @property
    def state(self) -> str:
        """What is wrong with the part: the title without the part."""
        return self.title.removesuffix(self.part).strip()


FAULTS = (
    Fault(field="stuck_off", part="device", title="stuck off"),
    Fault(field="stuck_on", part="device", title="stuck on"),
    Fault(field="open_devices", part="device", title="open device"),
    Fault(field="short_devices", part="device", title="short device"),
    Fault(field="cells", part="cell", title="failed cell"),
    Fault(field="open_rows", part="row", title="open row"),
    Fault(field="short_rows", part="row", title="short row"),
    Fault(field="columns", part="column", title="failed column"),
    Fault(field="open_columns", part="column", title="open column"),
    Fault(field="short_columns", part="column", title="short column"),
    Fault(field="tiles", part="tile", title="failed tile"),
)
"""All faults. The code of a fault is its position here, from 1; 0 is the code of what works. Of
several faults of a device, the last counts."""
CODES = {fault.field: code for code, fault in enumerate(FAULTS, 1)}
"""The code of each fault by its field."""


def fields_of(*parts: Part) -> tuple[str, ...]:
    """Return the fields of the faults of these parts, in the order of their codes."""
    return tuple(fault.field for fault in FAULTS if fault.part in parts)


def title(code: int) -> str:
    """Return the name of a fault in tables and plots; ``works`` for 0."""
    return FAULTS[code - 1].title if code else "works"


def normals(seed: int, kind: str, position: int, rows: int, columns: int) -> Tensor:
    """Return standard normals (rows, columns) of one tile.

    ``position`` counts the tiles that the seed made; each ``kind`` has its own. The numbers of row
    ``r`` are those at ``position * rows + r``, so that tiles with more rows have them at a larger
    ``position`` (``tiles.consecutive``).
    """
    key = fold(seed_tensor(seed), stream("defect", kind))
    first = torch.zeros(rows, dtype=torch.int64, device="cpu")
    return normal(
        key, torch.arange(position * rows, (position + 1) * rows, device="cpu"), first, columns
    )


def uniform(z: Tensor) -> Tensor:
    """Return uniform numbers in (0, 1) from standard normals; large normals become small."""
    return 0.5 * torch.erfc(z / math.sqrt(2))


def chosen(z: Tensor, shares: dict[str, float]) -> Tensor:
    """Return the code of the fault of each element, uint8 of ``z``'s shape.

    Args:
        z: standard normals, which decide.
        shares: share of each fault by its field; their sum is at most 1.
    """
    found, u = torch.zeros(z.shape, dtype=torch.uint8, device="cpu"), uniform(z)
    ends = zip(shares, itertools.accumulate(shares.values()), strict=True)
    for field, end in reversed([*ends]):  # the faults before overwrite what lies below their end
        if shares[field] > 0:
            found[u <= end if end < _ALL else slice(None)] = CODES[field]
    return found


def of_devices(
    seed: int, position: int, size: tuple[int, int, int], shares: dict[str, float]
) -> Tensor:
    """Return the codes of the faults of devices, uint8 of ``size``: (devices, rows, columns).

    One draw decides which devices are broken, and another how. More faults of the same kinds
    therefore break the same devices and others.
    """
    total = math.fsum(shares.values())
    found = torch.zeros(size, dtype=torch.uint8, device="cpu")
    if total == 0:
        return found
    of_broken = {field: share / total for field, share in shares.items()}
    for device, codes in enumerate(found):
        broken = normals(seed, f"device {device}", position, *size[1:])
        kinds = normals(seed, f"device {device} fault", position, *size[1:])
        is_broken = chosen(broken, {FAULTS[0].field: total}) > 0
        codes.copy_(torch.where(is_broken, chosen(kinds, of_broken), codes))
    return found
