"""The structures of the kernels' arguments, read from the C sources that define them."""

import ctypes
import re
from pathlib import Path
from typing import Any

_TYPES: dict[str, Any] = {"float": ctypes.c_float, "int64_t": ctypes.c_int64}
_COMMENT, _FIELD = re.compile(r"/\*.*?\*/", re.DOTALL), re.compile(r"(\*?)(\w+)(?:\[(\d+)\])?")


def _text(file: str) -> str:
    return _COMMENT.sub(" ", (Path(__file__).parent / file).read_text(encoding="utf-8"))


def _structure(file: str, name: str) -> Any:
    """Return ``typedef struct {...} name;`` of a C source as a ctypes structure.

    Its fields are of ``_TYPES``, arrays of them, and pointers to anything.
    """
    text = _text(file)
    found = re.search(rf"typedef struct \{{([^}}]*)\}} {name};", text)
    assert found is not None, f"{file} has no structure {name}"
    fields: list[tuple[str, Any]] = []
    for declaration in filter(None, map(str.strip, found[1].split(";"))):
        kind, names = declaration.removeprefix("const ").split(None, 1)
        for each in names.split(","):
            parts = _FIELD.fullmatch(each.strip())
            assert parts is not None, f"{file}: {declaration}"
            star, field, count = parts.groups()
            type_ = ctypes.c_void_p if star else _TYPES[kind]
            fields.append((field, type_ * int(count) if count else type_))
    return type(name, (ctypes.Structure,), {"_fields_": fields})


WeightNoise = _TYPES["weight_noise"] = _structure("weights.h", "weight_noise")
Adc = _TYPES["adc"] = _structure("converters.h", "adc")
Formula = _TYPES["formula"] = _structure("formula.h", "formula")
DeviceNoise = _structure("devices.c", "device_noise")
Elementwise = _structure("elementwise.c", "elementwise")
KnownReads = _structure("reads.c", "known_reads")
Gates = _structure("gates.c", "gates")
Linear = _structure("linear.c", "linear")
Convolution = _structure("conv.c", "convolution")
PARTS = {"": Linear, "noise": WeightNoise, "adc": Adc}
"""The structures that point to operands, by their field in the matrix; "" is the matrix."""


def _enumeration(file: str, name: str) -> tuple[str, ...]:
    """Return the names of ``enum name {...}`` of a C source without the last, their number."""
    found = re.search(rf"enum {name} \{{([^}}]*)\}};", _text(file))
    assert found is not None, f"{file} has no enumeration {name}"
    return tuple(map(str.strip, found[1].split(",")))[:-1]


def pointers(structure: Any) -> tuple[str, ...]:
    """Return the names of its fields that are pointers."""
    return tuple(name for name, kind in structure._fields_ if kind is ctypes.c_void_p)


OPERATIONS = _enumeration("formula.h", "operation")
"""Operations of a formula that the kernels know, by their numbers."""
ADC_ERRORS = tuple(
    name.removeprefix("ADC_").lower() for name in _enumeration("converters.h", "adc_error")
)
"""Kinds of ADC errors that the kernels compute, in the order in which they read them."""
