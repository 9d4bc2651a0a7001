"""The protocol that every device model follows: ``PCM``, ``TimedDevice``, or one of your own."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from analogtorch.devices.curves import Curve
from analogtorch.devices.protocol import check_protocol
from analogtorch.devices.time import duration
from analogtorch.values import checks


@runtime_checkable
class Device(Protocol):
    """The physics of one device, as pure functions of conductance, time and standard-normal draws.

    Conductances are in microsiemens, times in seconds after programming. All methods work element
    by element on tensors of any shape, and the same draws give the same device.
    """

    @property
    def name(self) -> str:
        """What the model describes, for reports."""
        ...

    @property
    def g_max(self) -> float:
        """Largest conductance that weights are mapped to, uS, > 0."""
        ...

    @property
    def g_min(self) -> float:
        """Smallest conductance that weights are mapped to, uS, >= 0; an empty polarity holds it."""
        ...

    @property
    def valid_until(self) -> float:
        """Last time, s, that the data of the model cover; ``math.inf`` for a law without an end."""
        ...

    def programming_sigma(self, g: Tensor) -> Tensor:
        """Return the standard deviation, uS, of programming ``g``, before the clamp at 0."""
        ...

    def program(self, g: Tensor, z: Tensor) -> Tensor:
        """Return the conductance, uS, programmed for the target ``g``: ``max(g + sigma z, 0)``."""
        ...

    def drift_coefficient(self, g: Tensor, z: Tensor) -> Tensor:
        """Return what ``drift`` must know of devices with target ``g`` and normals ``z``."""
        ...

    def drift(self, g_programmed: Tensor, nu: Tensor, t: float) -> Tensor:
        """Return the conductance, uS, at time ``t``; ``nu`` comes from ``drift_coefficient``."""
        ...

    def read(self, g_programmed: Tensor, g_drifted: Tensor, t: float, z: Tensor) -> Tensor:
        """Return the conductance, uS, that a read at time ``t`` gives with the normals ``z``."""
        ...


@runtime_checkable
class Fitted(Device, Protocol):
    """A device whose programming noise is a fitted curve.

    ``programming_sigma(g)`` is ``programming_scale * g_max / g_reference * programming_std(r)``
    with ``r = g / g_max``, at least 0. Kernels can draw it where the curve is a ``Polynomial`` of
    at most four coefficients.
    """

    @property
    def g_reference(self) -> float:
        """``g_max`` of the devices that the curve was fitted on, uS, > 0."""
        ...

    @property
    def programming_std(self) -> Curve:
        """Standard deviation of the programmed conductance, uS, as a function of ``r``."""
        ...

    @property
    def programming_scale(self) -> float:
        """Multiplies it, >= 0."""
        ...


@runtime_checkable
class Growing(Device, Protocol):
    """A device whose error of programming grows with time, which counts as drift.

    ``drift`` makes a deviation from the target larger by a factor, and so cannot give the growth
    beside an error that ``Chip.scaled``, ``Chip.without("programming_noise")`` or a writing method
    makes larger, smaller or 0; this method does.
    """

    def drift_of(self, g_programmed: Tensor, nu: Tensor, t: float, scale: float) -> Tensor:
        """Return the conductance, uS, at time ``t`` of devices with another error of programming.

        Its standard deviation is ``scale`` times that of the device. Targets, uS, and the normals
        of drift are ``nu``, stacked.
        """
        ...


def check_device(owner: str, device: Any) -> None:
    """Raise an error unless ``device`` follows the protocol ``Device``.

    Raises:
        TypeError: it lacks methods or attributes, which the message names.
    """
    check_protocol(owner, device, Device, "device", "analogtorch.devices.pcm_like()")


def beyond(device: Device, t: float | None) -> str:
    """Return a note that ``t`` seconds lie beyond the device's data; empty if they do not.

    A hundredth more is within: data of a day end a little before, as clocks start at the first
    read.
    """
    last = device.valid_until
    if t is None or t <= 1.01 * last:
        return ""
    held = "extrapolated" if extrapolates(device) else "held at its last value"
    return f"beyond the device's data ({duration(last)}, {device.name}): {held}"


def extrapolates(device: Device) -> bool:
    """Return whether the model continues by its law beyond ``valid_until``.

    Most devices end with their data, and need not say so by an attribute of that name.
    """
    return bool(getattr(device, "extrapolates", False))


class Around:
    """What a device that changes another has of it: conductances, and how far its data reach."""

    device: Device
    """The device as it is."""

    @property
    def g_max(self) -> float:
        """Largest conductance, uS."""
        return self.device.g_max

    @property
    def g_min(self) -> float:
        """Smallest conductance, uS."""
        return self.device.g_min

    @property
    def extrapolates(self) -> bool:
        """Whether the model of the device continues beyond ``valid_until``."""
        return extrapolates(self.device)

    @property
    def valid_until(self) -> float:
        """Last time, s, that the data of the device cover."""
        return self.device.valid_until


def check_conductances(device: Any) -> None:
    """Check and settle ``g_min``, ``g_max`` and ``g_reference`` of a device that is being made.

    Raises:
        ValueError: one is no positive number, or ``g_min`` is not below ``g_max``.
    """
    owner = type(device).__name__
    checks.numbers(device, "g_max", above=0)
    if hasattr(device, "g_reference"):
        checks.numbers(device, "g_reference", above=0)
    checks.numbers(device, "g_min", least=0)
    if device.g_min >= device.g_max:
        raise ValueError(
            f"{owner}.g_min must be below g_max, got {device.g_min} and {device.g_max} uS"
        )
