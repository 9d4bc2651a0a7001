"""Measurements of devices that are known: what a fit must find again."""

from collections.abc import Sequence

import torch
from torch import Tensor

from analogtorch.devices import Device


def measured(
    device: Device,
    *,
    devices: int,
    times: Sequence[float],
    cycles: int = 1,
    offset: float = 0.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Columns as ``fit`` takes them.

    Args:
        device: what is measured, at targets uniform over its range.
        devices: how many of them.
        times: of the device, s.
        cycles: reads of each device at each time.
        offset: what the time of the measurement is ahead of that of the device, s.
        seed: of the devices.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return torch.randn(devices, generator=generator, dtype=torch.float64)

    share = torch.rand(devices, generator=generator, dtype=torch.float64)
    target = device.g_min + share * (device.g_max - device.g_min)
    programmed = device.program(target, draw())
    nu = device.drift_coefficient(target, draw())
    rows = []
    for time in times:
        drifted = device.drift(programmed, nu, time)
        for cycle in range(cycles):
            read = device.read(programmed, drifted, time, draw())
            rows.append((target, read, torch.full_like(read, time + offset), cycle))
    return {
        "target": torch.cat([row[0] for row in rows]),
        "measured": torch.cat([row[1] for row in rows]),
        "time": torch.cat([row[2] for row in rows]),
        "cycle": torch.cat([torch.full((devices,), row[3]) for row in rows]),
        "device": torch.arange(devices).repeat(len(rows)),
    }
