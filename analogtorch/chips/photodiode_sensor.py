"""A sensor of 3x3 gate-programmed photodiodes, which convolves light (Jang et al. 2022)."""

from analogtorch import devices
from analogtorch.chips.anchors import assumed, digital
from analogtorch.chips.array import Array
from analogtorch.chips.chip import Chip
from analogtorch.chips.converters import ADC, DAC
from analogtorch.chips.cost import Cost, Network, Shares
from analogtorch.chips.light import Light
from analogtorch.chips.training import TrainingNoise
from analogtorch.values.sources import Sources

_PAPER = "Jang et al., Nat. Electron. 5, 519 (2022)"
_LIGHT = "inputs are light, which no converter makes"
_ISAAC = "ISAAC, Shafiee et al., ISCA 2016, 32 nm"
_TRAINING = "ASSUMED: twice the programming noise, as in Le Gallo 2023, Methods"
_EXCLUDED = (
    "the light, the drivers of the gates, and what moves the outputs on; a sensor has no inputs to "
    "move"
)

FILTERS = {
    "identity": (0, 0, 0, 0, 1, 0, 0, 0, 0),
    "box blur": (1, 1, 1, 1, 1, 1, 1, 1, 1),
    "Gaussian blur": (1, 2, 1, 2, 4, 2, 1, 2, 1),
    "sharpen": (0, -1, 0, -1, 5, -1, 0, -1, 0),
    "Laplacian": (0, 1, 0, 1, -4, 1, 0, 1, 0),
    "vertical edges": (1, 0, -1, 2, 0, -2, 1, 0, -1),
    "horizontal edges": (1, 2, 1, 0, 0, 0, -1, -2, -1),
}
"""Seven common 3x3 filters, row by row. ASSUMED: the paper ran seven different ones on its network,
but their values are not in the sources used."""


def photodiode_sensor(
    *,
    spread: float = 0.01,
    illuminance: float = 1000.0,
    exposure: float = 1e-3,
    training: TrainingNoise | None = None,
) -> Chip:
    """Return networks of 3x3 photodiodes, each of which convolves light with one filter.

    Jang et al. fabricated thousands of the diodes, and ran seven filters on a network of nine, one
    after the other. Their responsivities are the weights, the currents of all diodes add up on one
    wire, and nothing is converted or moved before. Time, ADC and energy are assumptions: the energy
    is that of one ADC output, as the diodes need no bias. A network computes one output per
    exposure, so that a layer takes as many networks as it has filters, or exposures one after
    another. Layers of several channels, such as colours, take a network for each. Inputs are light
    from 0 to 1, where 1 is ``illuminance``.

    Args:
        spread: standard deviation of a responsivity relative to itself, >= 0 (ILLUSTRATIVE).
        illuminance: illuminance on the sensor of an input at full scale, lux, > 0 (ASSUMED).
        exposure: time in which light is collected, s, > 0 (ASSUMED).
        training: noise of HWA training; by default twice the cell's programming noise.

    Raises:
        ValueError: ``spread`` is negative, or light is not positive.

    Example:
        >>> chip = at.chips.photodiode_sensor()
        >>> edges = at.chips.FILTERS["Laplacian"]
    """
    device = devices.photodiode(spread=spread)
    return Chip(
        name="photodiode_sensor" + (f"[spread {spread:g}]" if spread != 0.01 else ""),
        array=Array(
            rows=9,
            columns=1,
            tiles=1024,
            sources=Sources(
                rows=f"a network of 3x3 photodiodes: {_PAPER}",
                columns=f"the photocurrents add up on one wire: {_PAPER}",
                tiles=f"ASSUMED: 9,216 diodes, where thousands were fabricated: {_PAPER}",
            ),
        ),
        dac=DAC(bits=None, sources=Sources(bits=_LIGHT)),
        light=Light(
            illuminance=illuminance,
            exposure=exposure,
            electrons=2e5,
            shot_noise=1.0,
            dark=6e3,
            sources=Sources(
                illuminance="ASSUMED: full daylight behind a lens; not in the sources used",
                exposure="ASSUMED: a millisecond",
                electrons=f"ASSUMED: 100 um2, half of all photons of 555 nm; not in: {_PAPER}",
                shot_noise="Poisson's law",
                dark=f"ASSUMED: 1 nA/cm2 of silicon on 100 um2; not in: {_PAPER}",
            ),
        ),
        cell=devices.DifferentialPair(
            device=device,
            sources=Sources(
                device=f"{_PAPER}; spread ILLUSTRATIVE",
                devices_per_polarity="one diode of either sign, as a pair of which one is dark",
            ),
        ),
        adc=ADC(
            bits=8,
            range=9.0,
            sources=Sources(
                bits="ASSUMED: as of other chips; the paper measures currents",
                range="ASSUMED: all nine diodes at full light, so that nothing saturates",
                noise="ASSUMED: none but that of the light",
            ),
        ),
        cost=_cost(exposure),
        training=training or TrainingNoise(),
        sources=Sources() if training else Sources(training=_TRAINING),
    )


def _cost(exposure: float) -> Cost:
    nothing = "a sensor has no inputs to convert or to move"
    return Cost(
        phases=1,
        precision="light, 8-bit outputs",
        mvm_time=assumed(exposure, "the exposure"),
        mvm_energy=assumed(1.667e-12, f"one 8-bit ADC output, {_ISAAC}"),
        excluded=_EXCLUDED,
        shares=Shares(
            control=assumed(0.0, "gates hold their voltages"),
            dac=assumed(0.0, nothing),
            array=assumed(0.0, f"diodes at zero bias take no power: {_PAPER}"),
            adc=assumed(1.0, "the ADC alone"),
        ),
        network=Network(
            grid_columns=1,
            hop_energy=assumed(0.0, nothing),
            link_rate=None,
            chip_energy=assumed(0.0, nothing),
            chip_rate=assumed(4e9, "as much as ALPINE, a simulator, gives to one tile"),
        ),
        on_chip=digital(rate=assumed(1e9, "one operation per nanosecond"), kinds=()),
        host=digital(rate=assumed(1e9, "one operation per nanosecond")),
    )
