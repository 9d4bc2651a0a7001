"""A capacitance instead of a conductance: memory that multiplies charge."""

import math

from analogtorch.devices.curves import Polynomial
from analogtorch.devices.timed import TimedDevice


def memcapacitor() -> TimedDevice:
    """Return a charge-shielding memcapacitor.

    Source: Demasius, Kirschen, Parkin, Nat. Electron. 4, 748 (2021). Its state is a capacitance,
    which the library's conductances stand for: ``g_max`` 1 is the largest. ``g_min`` is ``g_max /
    60``, the dynamic range of about 1:60. A cell conducts no static current: an MVM moves charge
    once, so no voltage drop along the wires lasts.

    MODELLED, not measured: the paper models 6 to 8 bits of precision. The programming spread here
    is that of levels of 7 bits, ``1 / (2^7 sqrt(12))`` of the range (ILLUSTRATIVE). No drift and no
    read noise are known; every time after programming is beyond the data.
    """
    g_max, g_min = 1.0, 1.0 / 60.0
    spread = (g_max - g_min) / 2**7 / math.sqrt(12)
    return TimedDevice(
        name="charge-domain memcapacitor (Demasius 2021, modelled)",
        g_max=g_max,
        g_reference=g_max,
        g_min=g_min,
        times=(0.0,),
        stds=(Polynomial(coefficients=(spread,)),),
    )
