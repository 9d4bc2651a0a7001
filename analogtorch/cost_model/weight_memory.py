"""The memory that holds the weights of digital layers, which ``cost`` does not charge.

Each digital weight is one byte (int8) and is read once per inference: it serves all vectors of its
layer while it is at hand. The multiply-accumulates (MACs) themselves are operations of the unit
``Cost.host``, two each, as ``cost`` charges them.
"""

from dataclasses import dataclass

from analogtorch.chips import Figure
from analogtorch.chips.anchors import assumed
from analogtorch.values import checks

_EDRAM = assumed(
    20.45e-12 / 32, "ISAAC, Shafiee et al., ISCA 2016, 32 nm: 20.45 pJ per 256 bit of a 64 KB eDRAM"
)
_DRAM = assumed(700e-12 / 8, "700 pJ per 64 bit, as ZigZag's model of an analog accelerator has it")
_DDR3 = assumed(12.8e9, "1,600 million transfers of 8 bytes per second, DDR3-1600 (JEDEC JESD79-3)")


@dataclass(frozen=True, kw_only=True)
class WeightMemory:
    """A memory beside the digital unit, and a DRAM for the weights that it cannot hold.

    No chip of the presets has published its own, so that all defaults are assumed: give what yours
    has.
    """

    capacity: int = 2**20
    """Bytes of the memory beside the digital unit, >= 0. ASSUMED: 1 MiB."""
    energy: Figure = _EDRAM
    """J per byte read from it. Its reads take no time of their own."""
    dram_energy: Figure = _DRAM
    """J per byte read from the DRAM."""
    dram_rate: Figure = _DDR3
    """Bytes per second that the DRAM gives, > 0."""

    def __post_init__(self) -> None:
        checks.counts(self, "capacity", least=0, largest=checks.INT64)
        for name in ("energy", "dram_energy", "dram_rate"):
            figure = getattr(self, name)
            checks.instance(
                f"WeightMemory.{name}", figure, Figure, "Figure(value=..., kind=..., source=...)"
            )
        checks.number("WeightMemory.dram_rate", self.dram_rate.value, above=0)

    def read(self, weights: int) -> tuple[float, float]:
        """Return the energy, J, and the time, s, of reading that many weights once."""
        beyond = max(weights - self.capacity, 0)
        energy = (weights - beyond) * self.energy.value + beyond * self.dram_energy.value
        return energy, beyond / self.dram_rate.value
