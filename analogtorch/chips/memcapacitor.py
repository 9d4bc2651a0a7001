"""A crossbar of charge-shielding memcapacitors, as modelled by Demasius et al. (2021)."""

from typing import Literal, get_args

from analogtorch import devices
from analogtorch.chips.anchors import RELU_ALONE, assumed, digital, network
from analogtorch.chips.array import Array
from analogtorch.chips.chip import Chip
from analogtorch.chips.converters import ADC, DAC
from analogtorch.chips.cost import Cost, Figure, Published, Shares
from analogtorch.chips.training import TrainingNoise
from analogtorch.values import checks
from analogtorch.values.sources import Sources

Bits = Literal[6, 7, 8]

_PAPER = "Demasius, Kirschen, Parkin, Nat. Electron. 4, 748 (2021)"
_SIZE = (
    "ASSUMED: the tile of hermes64, for comparison; 156 devices of micrometre size were "
    f"fabricated: {_PAPER}"
)
_CROSSBAR = "ASSUMED, the standard crossbar model of Rasch et al., Nat. Commun. 14, 5282 (2023)"
_TRAINING = "ASSUMED: twice the programming noise, as in Le Gallo 2023, Methods"
_TOPS_PER_WATT = 29_600.0
_OPERATIONS = 2 * 256 * 256  # of one MVM of a full tile
_EXCLUDED = (
    "not stated in the sources used; at 4.4 pJ per MVM it can cover no ADCs of the kind known "
    "today, of which 256 conversions of 8 bits take about 430 pJ (ISAAC, ISCA 2016, 32 nm)"
)


def memcapacitor(*, bits: Bits = 7, training: TrainingNoise | None = None) -> Chip:
    """Return a crossbar of charge-shielding memcapacitors, which is a model and was never measured.

    29,600 TOPS/W at a precision of 6 to 8 bits are MODELLED by the authors, who fabricated 156
    devices of micrometre size and tell three letters apart with them. Tile, converters and time of
    an MVM are assumptions, and the efficiency leaves out the ADCs. So compare the array with that
    of other chips, never a system with a system.

    Args:
        bits: bits of inputs and outputs, sign included: 6, 7 (default) or 8, the modelled
            precision. The programming spread of the device stays that of 7 bits.
        training: noise of HWA training; by default twice the cell's programming noise.

    Raises:
        ValueError: ``bits`` is another number.
    """
    checks.choice("memcapacitor: bits", bits, get_args(Bits))
    precision = f"precision of 6 to 8 bits, modelled: {_PAPER}"
    return Chip(
        name="memcapacitor" + (f"[{bits} bits]" if bits != 7 else ""),
        array=Array(
            rows=256,
            columns=256,
            tiles=1,
            sources=Sources(rows=_SIZE, columns=_SIZE, tiles="ASSUMED: one crossbar"),
        ),
        dac=DAC(bits=bits, sources=Sources(bits=precision)),
        cell=devices.DifferentialPair(
            device=devices.memcapacitor(),
            sources=Sources(
                device=f"dynamic range of {_PAPER}; spread ILLUSTRATIVE",
                devices_per_polarity="ASSUMED: one device per polarity",
            ),
        ),
        adc=ADC(
            bits=bits,
            range=10.0,
            sources=Sources(
                bits=precision, range=_CROSSBAR, noise="ASSUMED: none; nothing is published"
            ),
        ),
        cost=_cost(bits),
        training=training or TrainingNoise(),
        sources=Sources() if training else Sources(training=_TRAINING),
    )


def _cost(bits: int) -> Cost:
    return Cost(
        phases=1,
        precision=f"{bits}-bit inputs, {bits}-bit outputs",
        mvm_time=assumed(130e-9, "as the HERMES core; no time is in the sources used"),
        mvm_energy=Figure(
            value=_OPERATIONS / (_TOPS_PER_WATT * 1e12),
            kind="modelled",
            source=f"{_OPERATIONS:,} operations / {_TOPS_PER_WATT:,.0f} TOPS/W, MODELLED, never "
            f"measured: {_PAPER}",
        ),
        excluded=_EXCLUDED,
        shares=Shares(
            control=assumed(0.0, "not published apart"),
            dac=assumed(0.0, "not published apart"),
            array=assumed(
                1.0, "charging the cells alone; the figure is too small to cover converters"
            ),
            adc=assumed(0.0, "not covered by the figure"),
        ),
        network=network(grid_columns=1, link_rate=assumed(4e9, "as for the HERMES core")),
        on_chip=digital(
            rate=assumed(1e9, "one operation per nanosecond"), kinds=("relu",), source=RELU_ALONE
        ),
        host=digital(rate=assumed(1e9, "as on the chip")),
        published=(
            Published(
                scope="tile",
                tops_per_watt=Figure(
                    value=_TOPS_PER_WATT,
                    kind="modelled",
                    source=f"{_PAPER}, MODELLED, never measured",
                ),
                excluded=_EXCLUDED,
            ),
        ),
    )
