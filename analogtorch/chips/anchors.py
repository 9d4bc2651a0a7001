"""Costs that no chip of the presets has published: figures of other chips, marked as assumed."""

from analogtorch.chips.cost import Digital, Figure, Network, Shares
from analogtorch.values.sources import Sources


def assumed(value: float, source: str) -> Figure:
    """Return a figure that stands in for an unpublished one."""
    return Figure(value=value, kind="assumed", source=f"ASSUMED: {source}")


_SINGH = (
    "the tile split of Singh et al., Nat. Electron. (2025): output encoding 60-70 %, array 15-20 %"
)

SPLIT = Shares(
    control=assumed(
        0.05, "the part of input encoding that no unused row saves; nothing is published"
    ),
    dac=assumed(0.125, f"{_SINGH}, the rest input encoding, of which 5 % control"),
    array=assumed(0.175, _SINGH),
    adc=assumed(0.65, _SINGH),
)
"""Shares of the energy of a full tile, for chips of which only the sum is published."""

_ISAAC = "ISAAC, Shafiee et al., ISCA 2016, 32 nm"


def network(*, grid_columns: int, link_rate: Figure | None) -> Network:
    """Return a mesh of tiles with the energies of ISAAC, for elements of 8 bits.

    Ports carry 4e9 elements per second in and out.
    """
    return Network(
        grid_columns=grid_columns,
        hop_energy=assumed(20.74e-12 / 32, f"{_ISAAC}: a router takes 20.74 pJ per 256 bit"),
        link_rate=link_rate,
        chip_energy=assumed(26e-12 / 16, f"{_ISAAC}: chip to chip 26 pJ per 128 bit"),
        chip_rate=assumed(
            4e9, "as much as ALPINE, a simulator's model of the HERMES core, gives to one tile"
        ),
    )


RELU_ALONE = "ASSUMED: ReLU alone, as a bound of the ADC outputs; the sources used name no others"
"""Source of the kinds of operations of a chip of which none are published."""


def digital(
    *,
    rate: Figure,
    kinds: tuple[str, ...] = (),
    source: str = "",
    efficiency: float = 6.0,
) -> Digital:
    """Return digital operations at ``efficiency`` TOPS/W.

    The default is IBM's figure for the digital part in 14 nm.

    Args:
        rate: arithmetic operations per second.
        kinds: kinds of operations that run here, as ``Digital`` has them.
        source: the source of the kinds; "" if there are none.
        efficiency: 1e12 operations per joule.
    """
    sources = Sources(kinds=source) if source else Sources()
    text = f"{efficiency:g} TOPS/W"
    if efficiency == 6.0:
        text += ", the middle of the 5-7 TOPS/W of Chen et al., Nat. Commun. 16, 8661 (2025)"
    energy = assumed(1e-12 / efficiency, text)
    return Digital(energy=energy, rate=rate, kinds=kinds, sources=sources)
