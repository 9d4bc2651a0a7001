"""A macro of SONOS charge-trap flash in 40 nm (Xiao et al. 2022, Agrawal et al. 2022)."""

import math

from analogtorch.chips.anchors import RELU_ALONE, SPLIT, assumed, digital, network
from analogtorch.chips.array import Array
from analogtorch.chips.chip import Chip
from analogtorch.chips.converters import ADC, DAC
from analogtorch.chips.cost import Cost, Figure, Published
from analogtorch.chips.training import TrainingNoise
from analogtorch.devices import DifferentialPair, sonos
from analogtorch.values.sources import Sources

_PAPER = "Xiao et al., TCAS-I 69, 1480 (2022)"
_DEVICES = "Agrawal et al., IEDM 2022, 21.7"
_BITS = (
    "Bennett et al., IRPS 2020, find ADCs of 5 to 8 bits enough for arrays of SONOS cells; the "
    "bits of this macro are not in the sources used"
)
_RANGE = (
    "ASSUMED: 10 sqrt(1024 / 512), which scales the range of the standard crossbar model of Rasch "
    "et al., Nat. Commun. 14, 5282 (2023), from its 512 rows to 1024"
)
_TRAINING = "ASSUMED: twice the programming noise, as in Le Gallo 2023, Methods"
_TOPS_PER_WATT = 20.0
_OPERATIONS = 2 * 1024 * 512  # of one MVM of a full tile


def sonos40(*, training: TrainingNoise | None = None) -> Chip:
    """Return one macro of SONOS charge-trap flash (40 nm), read below threshold.

    The devices are measured, on a test chip whose array this is. The efficiency of 20 TOPS/W is
    modelled: that of an inference architecture of such arrays on ResNet-50. It holds here for a
    full tile, so that the energy of a tile contains that of the whole architecture, and energies
    are upper bounds; the paper of the test chip projects more than 50 TOPS/W. Bits, ADC range and
    time of an MVM are assumptions.

    The devices are characterised for 5 days. They are precise at small currents, so networks with
    many small weights lose little.

    Args:
        training: noise of HWA training; by default twice the cell's programming noise.
    """
    return Chip(
        name="sonos40",
        array=Array(
            rows=1024,
            columns=512,
            tiles=1,
            sources=Sources(
                rows=f"test chip of 1024x1024 cells: {_DEVICES}",
                columns="ASSUMED: two columns of cells for each column of signed weights, of the "
                f"1024 of the test chip: {_DEVICES}",
                tiles=f"ASSUMED: the one array of the test chip: {_DEVICES}",
            ),
        ),
        dac=DAC(bits=8, sources=Sources(bits=f"ASSUMED, as many as the ADC. {_BITS}")),
        cell=DifferentialPair(
            device=sonos(),
            sources=Sources(
                device=f"fits at 0 to 5 days to 128 K devices: {_DEVICES}, published in CrossSim",
                devices_per_polarity=f"differential, without bit slices: {_PAPER}",
            ),
        ),
        adc=ADC(
            bits=8,
            range=10.0 * math.sqrt(2.0),
            sources=Sources(
                bits=f"ASSUMED. {_BITS}",
                range=_RANGE,
                noise="ASSUMED: none beside the read noise of the devices; nothing is published",
            ),
        ),
        cost=_cost(),
        training=training or TrainingNoise(),
        sources=Sources() if training else Sources(training=_TRAINING),
    )


def _cost() -> Cost:
    return Cost(
        phases=1,
        precision="8-bit inputs, 8-bit outputs (assumed)",
        mvm_time=assumed(
            1e-6,
            "8 bits of the inputs one after the other, each about as long as an MVM of the HERMES "
            "core; no time of this macro is in the sources used",
        ),
        mvm_energy=Figure(
            value=_OPERATIONS / (_TOPS_PER_WATT * 1e12),
            kind="modelled",
            source=f"{_OPERATIONS:,} operations / {_TOPS_PER_WATT:g} TOPS/W of the architecture on "
            f"ResNet-50, {_PAPER}: an upper bound for a tile",
        ),
        excluded="nothing stated (a model of an inference architecture on ResNet-50)",
        shares=SPLIT,
        network=network(grid_columns=1, link_rate=assumed(4e9, "as for the HERMES core")),
        on_chip=digital(
            rate=assumed(1e9, "one operation per nanosecond"),
            kinds=("relu",),
            source=RELU_ALONE,
            efficiency=1,
        ),
        host=digital(rate=assumed(1e9, "as on the chip"), efficiency=1),
        published=(
            Published(
                scope="chip",
                tops_per_watt=Figure(
                    value=_TOPS_PER_WATT,
                    kind="modelled",
                    source=f"{_PAPER}: an inference architecture, on ResNet-50",
                ),
                excluded="nothing stated",
            ),
        ),
    )
