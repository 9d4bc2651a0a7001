"""The devices that ship, as the table of docs/devices.md.

    python -m benchmarks.devices

spread: standard deviation of the programmed conductance, at the target of a weight of 0, 0.25, 0.5
and 1 in units of the largest. A day: change of the mean of full conductance, and standard deviation
of half of it, a day after programming and with read noise; the same after ten years. All in percent
of g_max - g_min, from 200,000 devices. Where the data of a device end before, the time is marked.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch import devices
from analogtorch.devices.device import extrapolates
from analogtorch.devices.time import duration

DEVICES = 200_000
DAY, TEN_YEARS = 86_400.0, 315_360_000.0
SHARES = (0.0, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Row:
    """A device and the paper that it comes from."""

    call: str
    """What makes it, in ``at.devices``."""
    source: str

    @property
    def device(self) -> devices.Device:
        """The device."""
        made: devices.Device = eval(f"devices.{self.call}", {"devices": devices})
        return made


ROWS = (
    Row("pcm_like()", "PCM, 90 nm: Nandakumar 2019, Joshi 2020"),
    Row("hermes_one_device()", "PCM, 14 nm: Le Gallo 2023"),
    Row("hermes_two_device()", "two PCM as one: Le Gallo 2023"),
    Row("pcm_afm()", "PCM: Analog Foundation Models 2025"),
    Row("pcm_projected()", "projected PCM, ILLUSTRATIVE: Li 2023"),
    Row("state_independent()", "no device: default of aihwkit"),
    Row("rram_wan()", "RRAM, 130 nm: Wan 2022"),
    Row("rram_cmo()", "CMO/HfOx ReRAM, acceptance 0.2 %: Falcone 2025"),
    Row("rram_cmo(acceptance=2)", "CMO/HfOx ReRAM, acceptance 2 %: Falcone 2025"),
    Row("rram_milo()", "HfO2 ReRAM: Milo 2021"),
    Row("rram_binary()", "two states, ILLUSTRATIVE spreads"),
    Row("sonos()", "SONOS, 40 nm: Agrawal 2022"),
    Row("sonos(drift_until=1400)", "the same without the steep end of its drift"),
    Row("memcapacitor()", "capacitance, MODELLED: Demasius 2021"),
    Row("photodiode()", "photodiode, ILLUSTRATIVE spread: Jang 2022"),
    Row("ecram()", "lithium ECRAM: Tang 2018"),
    Row("ecram_metal_oxide()", "metal-oxide ECRAM: Kim 2019"),
    Row("capacitor()", "capacitor cell: Li 2018"),
)
HEADINGS = (
    "`at.devices.`",
    "device and source",
    "range, uS",
    "data until",
    "spread at 0 / 0.25 / 0.5 / 1, %",
    "a day: mean of 1, spread of 0.5, %",
    "ten years, %",
)


def drawn(device: devices.Device, share: float, t: float) -> tuple[Tensor, Tensor]:
    """Conductances of devices of one target, and as they are read at ``t`` seconds, uS."""
    target = device.g_min + share * (device.g_max - device.g_min)
    g = torch.full((DEVICES,), target, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, DEVICES, generator=generator, dtype=torch.float64)
    programmed = device.program(g, z[0])
    drifted = device.drift(programmed, device.drift_coefficient(g, z[1]), t)
    return programmed, device.read(programmed, drifted, t, z[2])


def cells(row: Row) -> tuple[str, ...]:
    """The cells of a row of the table."""
    device = row.device
    span = device.g_max - device.g_min
    life = {share: drawn(device, share, DAY) for share in SHARES}
    spreads = " / ".join(number(100 * float(life[s][0].std()) / span) for s in SHARES)
    last = "no end" if math.isinf(device.valid_until) else duration(device.valid_until)
    limits = f"{number(device.g_min)} to {device.g_max:.4g}"
    limits += " (normalised)" if device.g_max == 1 else ""
    day, years = aged(device, DAY), aged(device, TEN_YEARS)
    return f"`{row.call}`", row.source, limits, last, spreads, day, years


def aged(device: devices.Device, t: float) -> str:
    """How far the mean of full conductance has moved at ``t``, and the spread of half of it."""
    span = device.g_max - device.g_min
    before, after = drawn(device, 1.0, t)
    moved = 100 * float((after - before).mean()) / span
    later = 100 * float(drawn(device, 0.5, t)[1].std()) / span
    mark = ""
    if device.valid_until < t:
        mark = " (extrapolated)" if extrapolates(device) else " (held)"
    return f"{moved:.1f}, {number(later)}{mark}".replace("-0.0,", "0.0,")


def number(value: float) -> str:
    """A number in three digits; what is hardly above 0 as 0."""
    return "0" if abs(value) < 1e-3 else f"{value:.3g}"


def table() -> str:
    """The table in Markdown."""
    rows = [HEADINGS, *(cells(row) for row in ROWS)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(HEADINGS) + "|", *lines[1:]])


if __name__ == "__main__":
    print(table())
