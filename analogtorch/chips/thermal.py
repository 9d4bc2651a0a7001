"""How the conductances of a chip depend on temperature."""

from dataclasses import dataclass, field

from torch import Tensor

from analogtorch.chips.non_ideality import non_ideality
from analogtorch.devices import register
from analogtorch.devices.thermal import ROOM, kelvin, thermal_factor
from analogtorch.values import checks
from analogtorch.values.sources import Sources, check_sources


@register
@dataclass(frozen=True, kw_only=True)
class Thermal:
    """Thermally activated conduction of the devices, by ``analogtorch.devices.thermal``.

    ``ProgrammedChip.at`` takes the temperature at which the chip is read. Off by default: no preset
    has an activation energy, because none is published for its devices. Drift goes on as at the
    reference temperature: the conductance of the moment depends on temperature, not its history.
    """

    activation_energy: float = field(default=0.0, metadata=non_ideality("temperature", absent=0.0))
    """Activation energy of the reset state (conductance 0), eV, >= 0, <= 1. It falls to 0 at the
    largest conductance. ILLUSTRATIVE: give that of your devices, with its source. 0: temperature
    changes nothing."""
    reference: float = ROOM
    """Temperature at which the device model holds, K, from 200 to 600; 25 °C ASSUMED."""
    sources: Sources = field(default=Sources(), compare=False)
    """Source of each number, by the name of its field."""

    def __post_init__(self) -> None:
        checks.numbers(self, "activation_energy", least=0, most=1)
        checks.settle(self, "reference", kelvin(self.reference))
        check_sources(self)

    def factor(self, programmed: Tensor, g_max: float, temperature: float) -> Tensor:
        """Return what conductances are multiplied by at ``temperature``, K.

        ``programmed`` are the conductances as programmed, uS, of any shape, and ``g_max`` is the
        largest.
        """
        r = programmed / g_max
        return thermal_factor(r, self.activation_energy, temperature, self.reference)
