"""The HERMES Project Chip: 64 cores of 256x256 phase-change-memory cells (Le Gallo et al. 2023)."""

from typing import Literal, get_args

from analogtorch.chips.anchors import SPLIT, assumed, digital, network
from analogtorch.chips.array import Array
from analogtorch.chips.chip import Chip
from analogtorch.chips.converters import ADC, DAC
from analogtorch.chips.cost import Cost, Figure, Published
from analogtorch.chips.periphery import Periphery, WeightScale
from analogtorch.chips.training import TrainingNoise
from analogtorch.devices import DifferentialPair, hermes_one_device, hermes_two_device, pcm_like
from analogtorch.values import checks
from analogtorch.values.sources import Sources

Device = Literal["two_device", "one_device", "two_equal", "two_sequential", "pcm_like"]
Range = Literal["measured", "notebook"]

_PAPER = "Le Gallo et al., Nat. Electron. 6, 680 (2023)"
_CHIP = f"{_PAPER}, arXiv 2212.02872"
_ADC = "Khaddam-Aljameh et al., JSSC 57, 1027 (2022)"
_IBM = "IBM's configuration for ResNet on this chip in aihwkit"
_STEPS = f"DERIVED. At most 3.3 GHz ({_ADC}) for 128 ns are 422 counts of either sign"
_FULL_CURRENT = 3300 / (2.48 / 0.0709)
"""Largest current of a column, uA: 3.3 GHz by the gain of the ADC, of which 2.48 MHz/uA are 7.09 %
(Khaddam-Aljameh et al. 2022)."""
_READ_VOLTAGE = 0.4005
"""Read voltage, V: that of IBM's time-resolved model of this tile in aihwkit."""
_RANGE = (
    f"DERIVED. A gain spread of 2.48 MHz/uA that is 7.09 % of the gain ({_ADC}) makes the gain 35 "
    f"MHz/uA, and 3.3 GHz are {_FULL_CURRENT:.1f} uA; a cell of the largest conductance carries "
    f"{_READ_VOLTAGE} V times that, the read voltage of IBM's model of this tile in aihwkit"
)
_NOISE = (
    f"{_IBM} sets 0; the noise of a single MVM of this chip is not published. 0.04 is the standard "
    "crossbar model of Rasch et al., Nat. Commun. 14, 5282 (2023), of 512 rows and a range of 10"
)
_PULSES = f"pulses of up to 128 ns, 1 ns per LSB: {_CHIP}"
_TRAINING = (
    "devices a month old: nets trained on them lose less after a day and after ten years than "
    "nets trained with twice the programming noise (Le Gallo 2023, Methods): benchmarks.hwa"
)
_UNIT = f"local digital processing unit of each core: {_CHIP}"
_FUNCTIONS = (
    "ReLU, batch norm, bias and partial sums in the local units; sigmoid, tanh and LSTM cells in 8 "
    f"global units; pooling, embeddings and routing off the chip: {_CHIP}. ASSUMED: hard sigmoid, "
    "GRU and RNN cells and other pointwise arithmetic by the same units"
)
_DEVICES = "the same chip, coefficients as published in aihwkit (PCM presets of the HERMES chip)"
_MVM_ONLY = "digital units, network, idle power: it covers crossbar, ADC and PWM"
# TOPS of 64 tiles and TOPS/W by phases, 8-bit inputs and outputs
_PEAK = {1: (63.1, 9.76), 4: (16.1, 2.48)}


def hermes64(
    *,
    device: Device = "two_device",
    phases: int = 4,
    output_noise: float = 0.0,
    weight_scale: WeightScale = "block",
    adc_range: Range = "measured",
    training: TrainingNoise | None = None,
) -> Chip:
    """Return IBM's HERMES Project Chip (14 nm): 64 tiles of 256x256 cells with 8-bit I/O.

    A cell has 4 PCM devices. The ADCs count 422 steps on each side of zero; the digital unit of a
    tile scales each column and then rounds to the 8 bits that leave the tile. So the 8 bits need
    not cover the ADC range: ``analogtorch.calibrate`` finds the range of each column. The gains of
    the ADCs differ by 7.09 %, which the digital unit corrects after programming (``chip.replace``
    with ``adc={"gain_std": 0.0}`` or ``periphery={"column_calibration": False}`` switches either
    off).

    This is not the chip of "12.4 TOPS/W": that is the 34-tile speech chip of Ambrogio et al.,
    Nature 620, 768 (2023).

    Args:
        device: the device of a polarity. ``two_device`` (default): the chip's pair as one effective
            device. ``one_device``: the denser, noisier mode. ``two_equal`` and ``two_sequential``:
            two devices in equal split or filled in sequence. ``pcm_like``: the statistical model of
            Joshi et al. 2020.
        phases: number of phases of an MVM, which affect time and energy only, unless the chip has
            ``adc.separate_phases``: 4 (default), one per pair of signs, with which all accuracies
            were published; or 1.
        output_noise: standard deviation of the noise of one partial sum, >= 0, in units of
            (full-scale input x largest conductance). 0 (default) is IBM's configuration of this
            chip; 0.04, which is often assumed, is that of a generic crossbar of 512 rows (Rasch et
            al. 2023), and the largest error of all if it is on.
        weight_scale: unit that has one weight scale. ``block`` (default): all weights of a tile, as
            in the published experiments. ``column``: each column, which the digital unit offers,
            and which transformers and language models need.
        adc_range: what the ADC range is. ``measured`` (default): the largest current that the ADC
            was measured to count, 94 uA, which is 11.4 times that of a cell of the largest
            conductance, and more of ``one_device``, whose largest conductance is half as large.
            ``notebook``: 12 for every device, as in IBM's configuration in aihwkit.
        training: noise of HWA training; by default that of devices a month old or, where their
            targets allow for drift, at random as old as these allow for
            (``TrainingNoise.weight`` "device").

    Raises:
        ValueError: ``device``, ``weight_scale``, ``adc_range`` or the number of phases is unknown,
            or the noise is negative.
    """
    checks.choice("hermes64: device", device, get_args(Device))
    checks.choice("hermes64: phases", phases, (4, 1))
    checks.choice("hermes64: weight_scale", weight_scale, get_args(WeightScale))
    checks.choice("hermes64: adc_range", adc_range, get_args(Range))
    options = ([device] if device != "two_device" else []) + (["1-phase"] if phases == 1 else [])
    options += ["column scales"] if weight_scale == "column" else []
    options += [f"output noise {output_noise:g}"] if output_noise else []
    options += ["notebook range"] if adc_range == "notebook" else []
    cell = _cell(device)
    return Chip(
        name="hermes64" + (f"[{', '.join(options)}]" if options else ""),
        array=Array(
            rows=256,
            columns=256,
            tiles=64,
            sources=Sources(rows=_CHIP, columns=_CHIP, tiles=_CHIP),
        ),
        dac=DAC(
            bits=8,
            encoding="pulse_width",
            lsb_time=1e-9,
            sources=Sources(bits=_CHIP, encoding=_PULSES, lsb_time=_PULSES),
        ),
        cell=cell,
        adc=_adc(output_noise, None if adc_range == "notebook" else cell.g_total),
        periphery=_periphery(weight_scale),
        cost=_cost(phases),
        training=training or TrainingNoise(weight="device"),
        sources=Sources() if training else Sources(training=_TRAINING),
    )


def _cell(device: Device) -> DifferentialPair:
    if device == "pcm_like":
        other = "ASSUMED: the statistical model of Joshi et al., Nat. Commun. 11, 2473 (2020)"
        return DifferentialPair(device=pcm_like(), sources=Sources(device=other))
    if device in ("two_device", "one_device"):
        as_one = "4 PCM per cell, the two of a polarity as one effective device"
        one = "2 PCM per cell: the denser mode"
        return DifferentialPair(
            device=hermes_two_device() if device == "two_device" else hermes_one_device(),
            sources=Sources(
                device=_DEVICES,
                devices_per_polarity=f"{as_one if device == 'two_device' else one}, {_CHIP}",
            ),
        )
    return DifferentialPair(
        device=hermes_one_device(),
        devices_per_polarity=2,
        split="equal" if device == "two_equal" else "sequential",
        sources=Sources(
            device=_DEVICES,
            devices_per_polarity=f"4 PCM per cell: {_CHIP}",
            split="ASSUMED: how the chip splits a weight over two devices is an option here",
        ),
    )


def _adc(noise: float, full: float | None) -> ADC:
    """Return the ADCs of cells of at most ``full`` uS; None: with the range of the notebook."""
    return ADC(
        gain_std=0.0709,
        noise=noise,
        steps=422,
        range=12.0 if full is None else _FULL_CURRENT / (_READ_VOLTAGE * full),
        sources=Sources(
            gain_std=f"residual after calibration of the converters: {_ADC}",
            noise=_NOISE,
            steps=_STEPS,
            range=_IBM if full is None else _RANGE,
        ),
    )


def _periphery(weight_scale: WeightScale) -> Periphery:
    scales = {"block": f"largest weight of a core: {_CHIP}", "column": _UNIT}
    return Periphery(
        output_bits=8,
        column_calibration=True,
        weight_scale=weight_scale,
        sources=Sources(
            output_bits=f"8-bit outputs behind the scale of each column: {_UNIT}",
            column_calibration=f"digital affine scale of each column: {_UNIT}",
            weight_scale=scales[weight_scale],
        ),
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
            kinds=("relu", "sigmoid", "gates", "batch_norm", "add"),
            source=_FUNCTIONS,
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
        area=Figure(value=144.0, kind="measured", source=f"the whole chip, {_PAPER}"),
    )
