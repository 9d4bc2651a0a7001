"""The HERMES Project Chip: 64 cores of 256x256 phase-change-memory cells (Le Gallo et al. 2023)."""

from typing import Literal, get_args

from analogtorch.chips.anchors import SPLIT, assumed, digital, network
from analogtorch.chips.chip import Chip, TrainingNoise, WeightScale
from analogtorch.chips.cost import Cost, Figure, Published
from analogtorch.devices import UnitCell, hermes_one_device, hermes_two_device, pcm_like
from analogtorch.values import checks

Device = Literal["two_device", "one_device", "two_equal", "two_sequential", "pcm_like"]

_SOURCES = (
    "tiles, rows, cols, 8-bit inputs and outputs, digital bias and affine scale per column, "
    "weights scaled by the largest of a core: Le Gallo et al., Nat. Electron. 6, 680-693 (2023), "
    "arXiv 2212.02872",
    "device models: the same chip, coefficients as published in aihwkit (PCM presets of the HERMES "
    "chip)",
    "output_bound 12: IBM's configuration for ResNet on this chip in aihwkit, which sets "
    "output_noise 0; the noise of a single MVM of this chip is not published. 0.04 is the standard "
    "crossbar model of Rasch et al., Nat. Commun. 14, 5282 (2023), of 512 rows and a bound of 10",
    "adc_steps 422: DERIVED. A gain spread of 2.48 MHz/uA that is 7.09 % of the gain "
    "(Khaddam-Aljameh et al., JSSC 57, 1027 (2022)) makes the gain 35 MHz/uA; at most 3.3 GHz for "
    "128 ns are 422 counts of either sign; a read voltage of 0.4 V, ASSUMED, makes that range 11.4 "
    "in the units of output_bound",
    "8-bit outputs behind the scale of each column: Le Gallo 2023, local digital processing unit "
    "of each core",
    "adc_gain_std 0.0709: residual after calibration of the converters, Khaddam-Aljameh 2022",
    "training noise, twice the programming noise: Le Gallo 2023, Methods",
    "cost: throughput and efficiency as published for 64 tiles, their split ASSUMED; network and "
    "digital part ASSUMED",
)
_PAPER = "Le Gallo et al., Nat. Electron. 6, 680 (2023)"
_MVM_ONLY = "digital units, network, idle power: it covers crossbar, ADC and PWM"
# TOPS of 64 tiles and TOPS/W by phases, 8-bit inputs and outputs
_PEAK = {1: (63.1, 9.76), 4: (16.1, 2.48)}


def hermes64(
    *,
    device: Device = "two_device",
    phases: int = 4,
    output_noise: float = 0.0,
    weight_scale: WeightScale = "block",
    training: TrainingNoise | None = None,
) -> Chip:
    """The 64-tile PCM chip of IBM (HERMES Project Chip, 14 nm): 64 tiles of 256x256, 8-bit I/O, 4
    PCM per cell.

    Its ADCs count 422 steps on each side of zero; the digital unit of a tile scales each column,
    and then rounds to the 8 bits that leave the tile. So the 8 bits need not cover the range of the
    ADC: ``analogtorch.calibrate`` finds the range of each column. The gains of the ADCs differ by
    7.09 %, which the digital unit corrects after programming (``adc_gain_std=0.0`` and
    ``column_calibration=False`` by ``dataclasses.replace`` switch either off).

    Not the chip of "12.4 TOPS/W": that is the 34-tile speech chip of Ambrogio et al., Nature 620,
    768 (2023).

    Args:
        device: what holds a polarity. ``two_device`` (default): the chip's pair as one effective
            device; ``one_device``: the denser, noisier mode; ``two_equal`` and ``two_sequential``:
            two one-device cells in equal split or filled in sequence; ``pcm_like``: the statistical
            model of Joshi et al. 2020.
        phases: reads per MVM, which cost time and energy only, unless the chip has
            ``separate_phases``: 4 (default), one per pair of signs, in which all accuracies were
            published; or 1.
        output_noise: standard deviation of the noise of one partial sum, >= 0, in units of
            (full-scale input x largest conductance). 0 (default) as in IBM's own configuration for
            this chip; 0.04, which is often assumed, is that of a generic crossbar of 512 rows
            (Rasch et al. 2023), and the largest error of all where it is on.
        weight_scale: what shares one scale of weights to conductances. ``block`` (default): all
            weights of a tile, as the chip was programmed in the published experiments; ``column``:
            each column its own, which its digital unit offers, and which transformers and language
            models need.
        training: noise of hardware-aware training; by default twice the cell's programming noise.

    Raises:
        ValueError: an unknown ``device``, ``weight_scale`` or number of phases, or a negative
            noise.
    """
    cells = {
        "two_device": lambda: UnitCell(device=hermes_two_device()),
        "one_device": lambda: UnitCell(device=hermes_one_device()),
        "two_equal": lambda: UnitCell(
            device=hermes_one_device(), devices_per_polarity=2, split="equal"
        ),
        "two_sequential": lambda: UnitCell(
            device=hermes_one_device(), devices_per_polarity=2, split="sequential"
        ),
        "pcm_like": lambda: UnitCell(device=pcm_like()),
    }
    checks.choice("hermes64: device", device, get_args(Device))
    checks.choice("hermes64: phases", phases, (4, 1))
    checks.choice("hermes64: weight_scale", weight_scale, get_args(WeightScale))
    options = ([device] if device != "two_device" else []) + (["1-phase"] if phases == 1 else [])
    options += ["column scales"] if weight_scale == "column" else []
    options += [f"output noise {output_noise:g}"] if output_noise else []
    return Chip(
        name="hermes64" + (f"[{', '.join(options)}]" if options else ""),
        tiles=64,
        rows=256,
        cols=256,
        cell=cells[device](),
        input_bits=8,
        output_bits=8,
        adc_steps=422,
        output_bound=12.0,
        output_noise=output_noise,
        weight_scale=weight_scale,
        adc_gain_std=0.0709,
        column_calibration=True,
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
        network=network(
            grid_columns=8, link_rate=assumed(4e9, "4 GB/s per tile in ALPINE, a simulator's model")
        ),
        on_chip=digital(
            rate=assumed(64e9, "one operation per tile and cycle of the 1 GHz clock"),
            kinds=("activation", "norm", "add"),
        ),
        host=digital(rate=assumed(64e9, "as on the chip; in the published experiments an FPGA")),
        published=(
            Published(
                scope="tile",
                tops_per_watt=Figure(
                    value=tops_per_watt, kind="measured", source=f"{_PAPER}, {phases}-phase"
                ),
                excluded=_MVM_ONLY,
            ),
        ),
    )
