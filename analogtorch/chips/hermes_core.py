"""One HERMES core: a tile of 256x256 phase-change-memory cells (Khaddam-Aljameh et al. 2022)."""

import dataclasses

from analogtorch.chips.anchors import SPLIT, assumed, digital, network
from analogtorch.chips.array import Array
from analogtorch.chips.chip import Chip
from analogtorch.chips.cost import Cost, Figure, Published
from analogtorch.chips.hermes64 import Device, Range, hermes64
from analogtorch.chips.periphery import WeightScale
from analogtorch.chips.training import TrainingNoise
from analogtorch.devices import DifferentialPair
from analogtorch.values.sources import Sources

_PAPER = "Khaddam-Aljameh et al., JSSC 57, 1027 (2022)"
_AS_CHIP = "ASSUMED: as in hermes64, a chip of 64 such cores"
_TOPS, _TOPS_PER_WATT = 1.008, 10.5
_OPERATIONS = 2 * 256 * 256  # of one MVM
_EXCLUDED = (
    "everything off the core, idle power; the sources used do not say whether it covers the "
    "digital unit of the core"
)


def hermes_core(
    *,
    device: Device = "two_device",
    output_noise: float = 0.0,
    weight_scale: WeightScale = "block",
    adc_range: Range = "measured",
    training: TrainingNoise | None = None,
) -> Chip:
    """Return one HERMES core (14 nm): a tile of 256x256 PCM cells with 8-bit I/O.

    The HERMES Project Chip (``hermes64``) has 64 of these cores, and the devices, ADCs and digital
    unit here are those of that preset. Time and energy are those of the single core, whose MVM is
    one step of 130 ns.

    Args:
        device: the device of a polarity, as ``hermes64`` takes it.
        output_noise: standard deviation of the noise of one partial sum, >= 0, in units of
            (full-scale input x largest conductance); 0 by default, as in ``hermes64``.
        weight_scale: unit that has one weight scale, ``block`` (default) or ``column``.
        adc_range: what the ADC range is, as ``hermes64`` takes it.
        training: noise of HWA training; by default that of devices a month old or, where their
            targets allow for drift, at random as old as these allow for
            (``TrainingNoise.weight`` "device").

    Raises:
        ValueError: ``device``, ``weight_scale`` or ``adc_range`` is unknown, or the noise is
            negative.
    """
    chip = hermes64(
        device=device,
        output_noise=output_noise,
        weight_scale=weight_scale,
        adc_range=adc_range,
        training=training,
    )
    cell = chip.cell
    assert isinstance(cell, DifferentialPair)
    return dataclasses.replace(
        chip,
        name=chip.name.replace("hermes64", "hermes_core"),
        array=Array(
            rows=256,
            columns=256,
            tiles=1,
            sources=Sources(rows=_PAPER, columns=_PAPER, tiles=f"one core: {_PAPER}"),
        ),
        dac=dataclasses.replace(
            chip.dac, sources=Sources(**{**_as_chip(chip.dac.sources), "bits": _PAPER})
        ),
        cell=dataclasses.replace(cell, sources=_as_chip(cell.sources)),
        adc=dataclasses.replace(chip.adc, sources=_as_chip(chip.adc.sources)),
        periphery=dataclasses.replace(chip.periphery, sources=_as_chip(chip.periphery.sources)),
        cost=_cost(),
    )


def _as_chip(sources: Sources) -> Sources:
    """Return sources of ``hermes64``, of which all but those on the core itself are assumed."""
    return Sources(
        **{
            name: source if _PAPER in source else f"{_AS_CHIP}. There: {source}"
            for name, source in sources.items()
        }
    )


def _cost() -> Cost:
    return Cost(
        phases=1,
        precision="8-bit inputs, 8-bit outputs",
        mvm_time=Figure(
            value=_OPERATIONS / (_TOPS * 1e12),
            kind="derived",
            source=f"{_OPERATIONS:,} operations / {_TOPS} TOPS, {_PAPER}: 130 ns",
        ),
        mvm_energy=Figure(
            value=_OPERATIONS / (_TOPS_PER_WATT * 1e12),
            kind="derived",
            source=f"{_OPERATIONS:,} operations / {_TOPS_PER_WATT} TOPS/W, {_PAPER}: 12.5 nJ",
        ),
        excluded=_EXCLUDED,
        shares=SPLIT,
        network=network(
            grid_columns=1, link_rate=assumed(4e9, "4 GB/s per tile in ALPINE, a simulator's model")
        ),
        on_chip=digital(
            rate=assumed(1e9, "one operation per cycle of the 1 GHz clock"),
            kinds=("relu", "batch_norm", "add"),
            source="those of the local unit of a core of hermes64 (Le Gallo et al. 2023): ReLU, "
            "batch norm, bias and partial sums. ASSUMED: other pointwise arithmetic by the same",
        ),
        host=digital(rate=assumed(1e9, "as on the core")),
        published=(
            Published(
                scope="tile",
                tops_per_watt=Figure(value=_TOPS_PER_WATT, kind="measured", source=_PAPER),
                excluded=_EXCLUDED,
            ),
        ),
        area=Figure(
            value=_TOPS / 1.59,
            kind="derived",
            source=f"the core alone: {_TOPS} TOPS / 1.59 TOPS/mm2, {_PAPER}",
        ),
    )
