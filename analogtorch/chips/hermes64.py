"""The HERMES Project Chip: 64 cores of 256x256 phase-change-memory cells (Le Gallo et al. 2023)."""

from typing import Literal, get_args

from analogtorch import checks
from analogtorch.chips.anchors import SPLIT, assumed, digital, network
from analogtorch.chips.chip import Chip, TrainingNoise
from analogtorch.chips.cost import Cost, Figure, Published
from analogtorch.devices import UnitCell, hermes_one_device, hermes_two_device, pcm_like

Device = Literal["two_device", "one_device", "two_equal", "two_sequential", "pcm_like"]

_SOURCES = (
    "tiles, rows, cols, 8-bit inputs and outputs, digital bias and affine scale per column, weights scaled by the"
    " largest of a core: Le Gallo et al., Nat. Electron. 6, 680-693 (2023), arXiv 2212.02872",
    "device models: the same chip, coefficients as published in aihwkit (PCM presets of the HERMES chip)",
    "output_bound 12: aihwkit's configuration for ResNet on this chip",
    "output_noise 0.04: ASSUMED, the standard crossbar model of Rasch et al., Nat. Commun. 14, 5282 (2023); the"
    " noise of a single MVM of this chip is not published",
    "training noise, twice the programming noise: Le Gallo 2023, Methods",
    "cost: throughput and efficiency as published for 64 tiles, their split ASSUMED; network and digital part ASSUMED",
)
_PAPER = "Le Gallo et al., Nat. Electron. 6, 680 (2023)"
_MVM_ONLY = "digital units, network, idle power: it covers crossbar, ADC and PWM"
_PEAK = {1: (63.1, 9.76), 4: (16.1, 2.48)}  # TOPS of 64 tiles and TOPS/W by phases, 8-bit inputs and outputs


def hermes64(*, device: Device = "two_device", phases: int = 4, training: TrainingNoise | None = None) -> Chip:
    """The 64-tile PCM chip of IBM (HERMES Project Chip, 14 nm): 64 tiles of 256x256, 8-bit I/O, 4 PCM per cell.

    Not the chip of "12.4 TOPS/W": that is the 34-tile speech chip of Ambrogio et al., Nature 620, 768 (2023).

    Args:
        device: what holds a polarity. ``two_device`` (default): the chip's pair as one effective device;
            ``one_device``: the denser, noisier mode; ``two_equal`` and ``two_sequential``: two one-device cells in
            equal split or filled in sequence; ``pcm_like``: the statistical model of Joshi et al. 2020.
        phases: reads per MVM, which cost time and energy only: 4 (default), one per pair of signs, in which all
            accuracies were published; or 1.
        training: noise of hardware-aware training; by default twice the cell's programming noise.

    Raises:
        ValueError: an unknown ``device`` or number of phases.
    """
    cells = {
        "two_device": lambda: UnitCell(device=hermes_two_device()),
        "one_device": lambda: UnitCell(device=hermes_one_device()),
        "two_equal": lambda: UnitCell(device=hermes_one_device(), devices_per_polarity=2, split="equal"),
        "two_sequential": lambda: UnitCell(device=hermes_one_device(), devices_per_polarity=2, split="sequential"),
        "pcm_like": lambda: UnitCell(device=pcm_like()),
    }
    checks.choice("hermes64: device", device, get_args(Device))
    checks.choice("hermes64: phases", phases, (4, 1))
    options = ([device] if device != "two_device" else []) + (["1-phase"] if phases == 1 else [])
    return Chip(
        name="hermes64" + (f"[{', '.join(options)}]" if options else ""),
        tiles=64,
        rows=256,
        cols=256,
        cell=cells[device](),
        input_bits=8,
        output_bits=8,
        output_bound=12.0,
        output_noise=0.04,
        training=training or TrainingNoise(),
        sources=_SOURCES,
        cost=_cost(phases),
    )


def _cost(phases: int) -> Cost:
    tops, tops_per_watt = _PEAK[phases]
    operations = 2 * 256 * 256  # of one MVM of a full tile
    return Cost(
        phases=phases,
        precision="8-bit inputs, 8-bit outputs",
        mvm_time=Figure(
            value=64 * operations / (tops * 1e12),
            kind="derived",
            source=f"{64 * operations:,} operations / {tops} TOPS, {_PAPER}",
        ),
        mvm_energy=Figure(
            value=operations / (tops_per_watt * 1e12),
            kind="derived",
            source=f"{operations:,} operations / {tops_per_watt} TOPS/W, {_PAPER}",
        ),
        excluded=_MVM_ONLY,
        shares=SPLIT,
        network=network(grid_columns=8, link_rate=assumed(4e9, "4 GB/s per tile in ALPINE, a simulator's model")),
        on_chip=digital(
            rate=assumed(64e9, "one operation per tile and cycle of the 1 GHz clock"),
            kinds=("activation", "norm", "add"),
        ),
        host=digital(rate=assumed(64e9, "as on the chip; in the published experiments an FPGA")),
        published=(
            Published(
                scope="tile",
                tops_per_watt=Figure(value=tops_per_watt, kind="measured", source=f"{_PAPER}, {phases}-phase"),
                excluded=_MVM_ONLY,
            ),
        ),
    )
