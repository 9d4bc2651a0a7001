"""A 4 Mb macro of binary ReRAM in 22 nm with bit-sliced weights (Hung et al. 2021)."""

from typing import Literal, get_args

from analogtorch import devices
from analogtorch.chips.anchors import RELU_ALONE, SPLIT, assumed, digital, network
from analogtorch.chips.array import Array
from analogtorch.chips.chip import Chip
from analogtorch.chips.converters import ADC, DAC
from analogtorch.chips.cost import Cost, Figure, Published
from analogtorch.chips.periphery import Periphery
from analogtorch.chips.slices import Slices
from analogtorch.chips.training import TrainingNoise
from analogtorch.values import checks
from analogtorch.values.listed import counted
from analogtorch.values.sources import Sources

Precision = Literal[1, 2, 4, 8]

_PAPER = "Hung et al., Nat. Electron. 4, 921 (2021)"
_ROWS, _COLUMNS, _TILES = 128, 512, 64
_SIZE = f"ASSUMED: 64 tiles of 128x512 cells; 4 Mb in all: {_PAPER}"
_NOT_THERE = "the abstract of the paper does not say"
_NANOSECONDS = {1: 5.2, 8: 15.2}
_TOPS_PER_WATT = {1: 194.4, 8: 15.6}
_EXCLUDED = "not stated in the sources used, the abstract of the paper"
_TRAINING = "ASSUMED: twice the programming noise, as in Le Gallo 2023, Methods"


def reram_4mb(*, precision: Precision = 8, training: TrainingNoise | None = None) -> Chip:
    """Return a 4 Mb macro of binary ReRAM in 22 nm, whose weights and inputs are cut into bits.

    Measured are 5.2 ns and 194.4 TOPS/W with binary inputs and weights, 15.2 ns and 15.6 TOPS/W
    with 8 bits of both. In between, the energy of an operation is interpolated linearly in the
    product of the bits, and time in the bits of the inputs: ASSUMED. Both figures hold for all
    pulses of an input and the addition of the slices, and for a full tile.

    The sources used say neither how the 4 Mb are organised, nor how fine the ADCs are or how much
    cells differ: tiles, pulses, ADCs and spread are assumptions. A weight lies in two's complement,
    one bit in each cell.

    Args:
        precision: bits of inputs and weights, sign included: 8 (default), 4 or 2; or 1: one bit and
            a sign, so that weights and inputs are -1, 0 or 1.
        training: noise of HWA training; by default twice the cell's programming noise.

    Raises:
        ValueError: ``precision`` is another number.
    """
    checks.choice("reram_4mb: precision", precision, get_args(Precision))
    bits = max(precision, 2)  # one bit has a sign beside it
    return Chip(
        name="reram_4mb" + (f"[{counted(precision, 'bit')}]" if precision != 8 else ""),
        array=Array(
            rows=_ROWS,
            columns=_COLUMNS,
            tiles=_TILES,
            sources=Sources(rows=_SIZE, columns=_SIZE, tiles=_SIZE),
        ),
        dac=DAC(bits=bits, sources=Sources(bits=f"binary to 8 bits: {_PAPER}")),
        slices=_slices(bits),
        cell=devices.SingleEndedCell(
            device=devices.rram_binary(),
            sources=Sources(
                device=f"binary cells: {_PAPER}. Conductances and spread ILLUSTRATIVE, NOT FITTED "
                "TO THIS CHIP",
                devices_per_weight="ASSUMED: one cell per bit",
            ),
        ),
        adc=ADC(
            steps=_ROWS * (3 if bits > 2 else 1),
            range=float(_ROWS),
            sources=Sources(
                steps=f"ASSUMED: one for each input count and cell, so that exact cells add up "
                f"without an error; {_NOT_THERE}",
                range=f"ASSUMED: all rows at full input; {_NOT_THERE}",
                noise=f"ASSUMED: none; {_NOT_THERE}",
            ),
        ),
        periphery=Periphery(sources=Sources(weight_scale="ASSUMED: one per block on a tile")),
        cost=_cost(precision, bits),
        training=training or TrainingNoise(),
        sources=Sources() if training else Sources(training=_TRAINING),
    )


def _slices(bits: int) -> Slices:
    return Slices(
        weight_bits=bits,
        signs="complement",
        bits_per_pulse=2 if bits > 2 else None,
        sources=Sources(
            weight_bits=f"binary to 8 bits: {_PAPER}",
            bits_per_slice=f"binary cells: {_PAPER}",
            signs=f"ASSUMED: planes of the two's complement; {_NOT_THERE}",
            bits_per_pulse=f"ASSUMED: groups of 2 bits; {_NOT_THERE}",
        ),
    )


def _cost(precision: int, bits: int) -> Cost:
    slices = _slices(bits).slicing.columns
    operations = 2 * _ROWS * (_COLUMNS // slices)
    ends = {1: 1e-12 / _TOPS_PER_WATT[1], 8: 1e-12 / _TOPS_PER_WATT[8]}
    share = (precision**2 - 1) / 63
    joules = operations * (ends[1] + share * (ends[8] - ends[1]))
    of_full = f"{operations:,} operations of a full tile"
    if precision in ends:
        energy = Figure(
            value=joules,
            kind="assumed",
            source=f"{of_full} / {_TOPS_PER_WATT[precision]} TOPS/W, {_PAPER}; rows and columns of "
            "a tile ASSUMED",
        )
        time = Figure(
            value=1e-9 * _NANOSECONDS[precision],
            kind="assumed",
            source=f"{_PAPER}; ASSUMED to be that of all rows and columns of a tile",
        )
    else:
        energy = assumed(
            joules, f"{of_full}, each linear in the product of the bits between binary and 8 bits"
        )
        between = _NANOSECONDS[1] + (precision - 1) / 7 * (_NANOSECONDS[8] - _NANOSECONDS[1])
        time = assumed(1e-9 * between, "linear in the bits of inputs between binary and 8 bits")
    return Cost(
        phases=1,
        precision=f"{precision}-bit inputs and weights",
        mvm_time=time,
        mvm_energy=energy,
        excluded=_EXCLUDED,
        covers_slices=True,
        shares=SPLIT,
        network=network(grid_columns=8, link_rate=assumed(4e9, "as for the HERMES core")),
        on_chip=digital(
            rate=assumed(64e9, "one operation per tile and nanosecond"),
            kinds=("relu",),
            source=RELU_ALONE,
        ),
        host=digital(rate=assumed(64e9, "as on the chip")),
        published=_published(precision),
    )


def _published(precision: int) -> tuple[Published, ...]:
    if precision not in _TOPS_PER_WATT:
        return ()
    figure = Figure(value=_TOPS_PER_WATT[precision], kind="measured", source=_PAPER)
    return (Published(scope="tile", tops_per_watt=figure, excluded=_EXCLUDED),)
