"""Devices in files: YAML or JSON, which users may write by hand."""

from pathlib import Path
from typing import Any

from analogtorch.devices.device import Device, check_device
from analogtorch.devices.serial import decode, encode
from analogtorch.files.description import read_description, write_description
from analogtorch.values import checks

_VERSION = 1
"""Raised whenever a field changes its meaning."""


def save(device: Device, path: str | Path) -> Path:
    """Write a device to a ``.yaml``, ``.yml`` or ``.json`` file.

    The file appears whole or not at all.

    Raises:
        TypeError: it is no device, or a part of it has no form in a file, such as a curve that is a
            function.
        ValueError: the suffix is another.
        ImportError: the file is YAML and PyYAML is not installed.
        OSError: the file could not be written.

    Example:
        >>> at.devices.save(at.devices.sonos(), "sonos.yaml")
    """
    check_device("device", device)
    return write_description(path, {"version": _VERSION, **encode(device, "device")}, "a device")


def load(path: str | Path) -> Device:
    """Return the device in a ``.yaml``, ``.yml`` or ``.json`` file, such as ``save`` writes.

    Raises:
        ValueError: the suffix is another; the file is no YAML or JSON; a key is unknown (the
            nearest known one is named) or missing; or a field refuses its value.
        ImportError: the file is YAML and PyYAML is not installed.
        OSError: the file could not be read.
    """
    return read_description(path, _device, "a device")


def _device(data: Any) -> Device:
    if not isinstance(data, dict):
        raise ValueError(f"a device is described by a mapping, got {checks.shown(data)}")
    version = data.get("version")
    if type(version) is not int or version != _VERSION:
        raise ValueError(f"version {version!r} of devices; this AnalogTorch reads {_VERSION}")
    device = decode({k: v for k, v in data.items() if k != "version"}, "device")
    try:
        check_device("device", device)
    except TypeError as error:
        raise ValueError(str(error)) from error
    found: Device = device
    return found
