"""The light of a sensor that computes: its inputs are photons, which arrive at random."""

import math
from dataclasses import dataclass, field

from analogtorch.chips.non_ideality import non_ideality
from analogtorch.devices import register
from analogtorch.values import checks
from analogtorch.values.sources import Sources, check_sources


def _more_dark(dark: float, factor: float) -> float:
    """Return the dark current whose noise is ``factor`` times as large."""
    return dark * factor**2


@register
@dataclass(frozen=True, kw_only=True)
class Light:
    """What the inputs of a sensor are: light of an illuminance, for the time of an exposure.

    An input at full scale (the DAC range) is light of that illuminance, of which a photodiode of
    the largest responsivity collects ``N = illuminance x exposure x electrons``. Each electron
    arrives by chance, of the signal as of the dark current, so that a sum of currents ``p`` has the
    variance, in units of (full-scale input x largest weight),

        (sum of |w| x over the rows) / N + rows x dark x exposure / N^2

    with all rows of the array. The mean of the dark current is subtracted, as of a dark frame.
    Programmed chips and ``train()`` have the noise; ``eval()`` before, which draws none, does not.
    """

    illuminance: float | None = None
    """Illuminance on the sensor of an input at full scale, lux, > 0; None: inputs are no light."""
    exposure: float = 1e-3
    """Time in which light is collected, s, > 0. An MVM takes it, in place of ``Cost.mvm_time``."""
    electrons: float = 2e5
    """Electrons per lux and second of a diode of the largest responsivity, > 0."""
    shot_noise: float = field(default=0.0, metadata=non_ideality("shot_noise", absent=0.0))
    """Multiple of the standard deviation of the shot noise, >= 0: 1 is that of Poisson's law."""
    dark: float = field(
        default=0.0, metadata=non_ideality("dark_current", absent=0.0, grown=_more_dark)
    )
    """Dark current of a diode, electrons per second, >= 0."""
    sources: Sources = field(default=Sources(), compare=False)
    """Source of each number, by the name of its field."""

    def __post_init__(self) -> None:
        remedy = "light is never negative, and a sensor sees nothing without it"
        checks.numbers(self, "illuminance", optional=True, above=0, remedy=remedy)
        checks.numbers(self, "exposure", "electrons", above=0)
        checks.numbers(self, "shot_noise", "dark", least=0)
        if self.illuminance is None and (self.shot_noise or self.dark):
            raise ValueError(
                "Light.shot_noise and Light.dark are noise of light: give its illuminance in lux, "
                "such as light={'illuminance': 100.0}"
            )
        if not self.on:
            light = "light: give illuminance in lux, such as 100.0"
            checks.idle(self, "exposure", "electrons", without=light)
        check_sources(self)

    @property
    def on(self) -> bool:
        """Whether inputs are light."""
        return self.illuminance is not None

    @property
    def full(self) -> float:
        """Electrons of an input at full scale by a diode of the largest responsivity."""
        return math.inf if self.illuminance is None else self.illuminance * self._per_lux

    @property
    def _per_lux(self) -> float:
        return self.exposure * self.electrons

    @property
    def shot_variance(self) -> float:
        """Variance of a sum, in units of the sum, where both are in units of full scale."""
        return self.shot_noise**2 / self.full

    def dark_std(self, rows: int) -> float:
        """Standard deviation of the dark current of this many diodes, in units of full scale."""
        return math.sqrt(rows * self.dark * self.exposure) / self.full
