"""The numbers that Python, C and Triton share are written once."""

import re
from pathlib import Path

import numpy as np

import analogtorch as at
from analogtorch.ops import constants

_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|\d+\.\d*(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+")


def _shared() -> set[float]:
    values = [value for name, value in vars(constants).items() if name.isupper()]
    return {
        number
        for value in values
        for number in (map(abs, value) if isinstance(value, tuple) else (abs(value),))
    }


def _numbers(text: str) -> set[float]:
    return {
        int(word, 16) if word[:2].lower() == "0x" else float(word) for word in _NUMBER.findall(text)
    }


def test_no_other_file_has_a_copy() -> None:
    """Only numbers with one meaning count: 1e-30 and 0.35 occur in other formulas."""
    package, own = (
        Path(at.__file__).parent,
        _shared() - {constants.LEAST_BOUND, constants.LOG_OFFSET},
    )
    files = [path for kind in ("py", "c", "h") for path in package.rglob(f"*.{kind}")]
    copies = {str(path.relative_to(package)): _numbers(path.read_text()) & own for path in files}
    assert {name: numbers for name, numbers in copies.items() if numbers} == {
        "ops/constants.py": own - {constants.LEAST_SCALE}  # which is written as a power of two
    }
    kernels = [path for path in files if path.suffix in (".c", ".h") or path.parent.name == "gpu"]
    assert not any({1e-30, 0.35} & _numbers(path.read_text()) for path in kernels)


def test_the_header_of_c_has_them_all() -> None:
    found: dict[str, list[str]] = {}
    for line in constants.c_header().splitlines()[1:]:
        _, name, rest = line.split(" ", 2)
        found[name] = rest.split(", ")
    assert found.keys() == {name for name in vars(constants) if name.isupper()}
    assert found["MIX32_2"] == ["0xd35a2d97u"]
    assert found["GOLDEN"] == ["0x9e3779b97f4a7c15ull"]
    inverse = [np.float32(word.removesuffix("f")) for word in found["INVERSE"]]
    assert inverse == [np.float32(value) for value in constants.INVERSE]
