"""A photodiode whose responsivity is a weight: light is multiplied where it is sensed."""

from analogtorch.devices.curves import Polynomial
from analogtorch.devices.timed import TimedDevice
from analogtorch.values import checks


def photodiode(*, spread: float = 0.01) -> TimedDevice:
    """Return a dual-gate silicon p-i-n photodiode, the weight of a convolution in the sensor.

    Source: Jang et al., Nat. Electron. 5, 519 (2022). Two gates dope the silicon electrostatically
    and set sign and size of the photocurrent per light, at zero bias. Responsivities are not in the
    sources used, so ``g_max`` 1 stands for the largest. The gates hold the weight by their
    voltages: nothing drifts, and every time after programming is beyond the data.

    Args:
        spread: standard deviation of a responsivity relative to itself, >= 0, from diode to diode.
            ILLUSTRATIVE: no spread is in the sources used.

    Raises:
        ValueError: ``spread`` is negative or no number.
    """
    spread = checks.number("photodiode: spread", spread, least=0)
    return TimedDevice(
        name="gate-programmed photodiode (Jang 2022, spread illustrative)",
        g_max=1.0,
        g_reference=1.0,
        times=(0.0,),
        stds=(Polynomial(coefficients=(0.0, spread)),),
    )
