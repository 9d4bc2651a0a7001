"""Errors that name what an object lacks of a protocol."""

from typing import Any


def members(protocol: type) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the methods and of the attributes that a protocol lists."""
    listed = {name: value for name, value in vars(protocol).items() if not name.startswith("_")}
    attributes = tuple(name for name, value in listed.items() if isinstance(value, property))
    return tuple(name for name in listed if name not in attributes), attributes


def check_protocol(owner: str, value: Any, protocol: type, what: str, example: str) -> None:
    """Raise an error unless ``value`` has all that the protocol lists.

    Args:
        owner: the field or argument that holds the value.
        value: the value to check.
        protocol: a protocol of ``analogtorch.devices``.
        what: the noun that the message uses, such as ``device``.
        example: a call that makes one.

    Raises:
        TypeError: it lacks methods or attributes, which the message names.
    """
    methods, attributes = members(protocol)
    address = f"analogtorch.devices.{protocol.__name__}"
    if isinstance(value, type) or not any(hasattr(value, name) for name in methods):
        hint = "; call it" if callable(value) else ""
        raise TypeError(
            f"{owner} must be a {what} such as {example}, got {value!r}{hint}. A {what} of your "
            f"own has what {address} lists"
        )
    lacks = [name for name in methods if not callable(getattr(value, name, None))]
    # the class is asked first: a property may fail because of a wrong field, an error of its own
    known = (type(value), value)
    lacks += [name for name in attributes if not any(hasattr(each, name) for each in known)]
    if lacks:
        raise TypeError(
            f"{owner}: {type(value).__name__} lacks {', '.join(lacks)}, which every {what} has: "
            f"see {address}"
        )
