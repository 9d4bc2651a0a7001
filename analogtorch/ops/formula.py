"""Formulas: functions of numbers, recorded as instructions that a kernel runs on many numbers.

``record`` calls a function of tensors once, with stand-ins that write down what is done to them.
The physics of a device thus stands once, in its methods, and the kernels compute what those say.
The functions of torch and the methods of tensors that ``_Recorder`` has are known; a function that
uses another one has no formula.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from analogtorch.ops.instructions import Instruction, Node, Op, instructions


@dataclass(frozen=True, kw_only=True)
class Formula:
    """The instructions of a function of some numbers, with some numbers as results."""

    instructions: tuple[Instruction, ...]
    """In order. Registers hold numbers; the first ones hold the arguments."""
    registers: int
    """Number of registers."""
    uses: tuple[bool, ...]
    """Whether each argument is used."""
    results: tuple[int, ...]
    """Registers of the results."""

    def __call__(self, *arguments: Tensor) -> list[Tensor]:
        """Return the results for arguments of one shape, in plain torch."""
        held: list[Any] = [*arguments, *[None] * (self.registers - len(arguments))]
        like = arguments[0]
        for i in self.instructions:
            given = [held[at] for at in i.read]
            held[i.to] = _RUN[i.op](like, given, i.k).clamp(i.k[2], i.k[3])
        return [held[at] for at in self.results]

    def flat(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Return the formula, of two results, as integers and numbers for an operator.

        The integers count instructions and registers, then come ``uses``, ``results`` and, of each
        instruction, operation, register of the result and three that are read. The numbers are
        those of the instructions.
        """
        parts = [len(self.instructions), self.registers, *map(int, self.uses), *self.results]
        for i in self.instructions:
            parts += [int(i.op), i.to, *i.read, *[0] * (3 - len(i.read))]
        return tuple(parts), tuple(k for i in self.instructions for k in i.k)

    @classmethod
    def parse(cls, integers: Sequence[int], numbers: Sequence[float]) -> tuple["Formula", Any]:
        """Return the formula of four arguments that is ``flat``, and what follows it."""
        (count, registers), rest = integers[:2], integers[8:]
        listed = [
            Instruction(Op(op), to, tuple(read), tuple(numbers[4 * i : 4 * i + 4]))  # type: ignore[arg-type]
            for i, (op, to, *read) in enumerate(rest[5 * j : 5 * j + 5] for j in range(count))
        ]
        formula = cls(
            instructions=tuple(listed),
            registers=registers,
            uses=tuple(map(bool, integers[2:6])),
            results=tuple(integers[6:8]),
        )
        return formula, (rest[5 * count :], numbers[4 * count :])


_RUN: dict[Op, Callable[[Tensor, Any, Any], Tensor]] = {
    Op.CONSTANT: lambda like, a, k: torch.full_like(like, k[0]),
    Op.AFFINE: lambda _, a, k: k[0] * a[0] + k[1],
    Op.PRODUCT: lambda _, a, k: k[0] * a[0] * a[1] + k[1],
    Op.SUM: lambda _, a, k: k[0] * a[0] + k[1] * a[1],
    Op.FUSED: lambda _, a, k: k[0] * a[0] * a[1] + k[1] * a[2],
    Op.QUOTIENT: lambda _, a, k: a[0] / a[1],
    Op.RECIPROCAL: lambda _, a, k: k[0] / a[0],
    Op.LOG: lambda _, a, k: a[0].log(),
    Op.EXP: lambda _, a, k: torch.exp(k[0] * a[0] + k[1]),
    Op.ROOT: lambda _, a, k: a[0].sqrt(),
    Op.MAGNITUDE: lambda _, a, k: a[0].abs(),
    Op.LESS: lambda _, a, k: (a[0] < a[1]).to(a[0].dtype),
    Op.LESS_EQUAL: lambda _, a, k: (a[0] <= a[1]).to(a[0].dtype),
    Op.SELECT: lambda _, a, k: torch.where(a[0] != 0, a[1], a[2]),
    Op.BELOW: lambda _, a, k: torch.where(a[0] < k[0], a[1], a[2]),
    Op.ABOVE: lambda _, a, k: torch.where(a[0] > k[0], a[1], a[2]),
}


def record(function: Callable[..., Any], arguments: Sequence[float | None]) -> Formula | None:
    """Return the formula of a function that returns a tuple of tensors.

    Args:
        function: works element by element on tensors of one shape, and changes none of them.
        arguments: for each argument its value, if it always has the same; else None.

    Returns:
        The formula, or None if the function does what no instruction does.
    """
    recorder = _Recorder()
    given = [
        _Traced(recorder, recorder.node("argument", (), (float(i),)) if value is None else value)
        for i, value in enumerate(arguments)
    ]
    try:
        found = [recorder.held(_plain(each)) for each in function(*given)]
    # foreign code that got stand-ins: whatever it raises or returns says that they do not serve it
    except Exception:
        return None
    listed, registers, results = instructions(found, len(arguments))
    uses = tuple(any(i in each.read for each in listed) or i in results for i in range(len(given)))
    return Formula(instructions=listed, registers=registers, uses=uses, results=results)


Value = Node | float

_OF_CONDITIONS = ("and", "mul", "where", "masked_fill")
"""What is known of conditions: sums of them are conditions in torch, and differences errors."""


class _Traced:
    """Stand-in for a tensor of float32 on the CPU."""

    dtype, device, shape = torch.float32, torch.device("cpu"), ()

    def __init__(self, recorder: "_Recorder", value: Value) -> None:
        self.recorder, self.value = recorder, value

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = next(a for a in _flat((*args, *(kwargs or {}).values())) if isinstance(a, _Traced))
        return found._apply(func.__name__, *args, **(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(_Recorder, name):
            raise AttributeError(f"no instruction does {name}")
        return partial(self._apply, name, self)

    def __bool__(self) -> bool:
        raise TypeError("what a function does may not depend on the numbers")

    def where(self, condition: Any, other: Any) -> Any:
        return self._apply("where", condition, self, other)

    def _apply(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if name not in _OF_CONDITIONS and any(isinstance(a, _Condition) for a in args):
            raise TypeError(f"no instruction does {name} of conditions")
        rule = getattr(self.recorder, name)
        found = rule(*map(_plain, args), **{key: _plain(a) for key, a in kwargs.items()})
        if isinstance(found, tuple):
            return _Stack(_Traced(self.recorder, each) for each in found)
        return (_Condition if name in _COMPARISONS else _Traced)(self.recorder, found)


class _Condition(_Traced):
    """Stand-in for what a comparison gives."""


class _Stack(tuple[_Traced, ...]):
    """Stand-in for stacked tensors. Nothing is computed of them together, as a tuple would."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Stack(found) if isinstance(at, slice) else found

    def _refuse(self, *_: Any) -> Any:
        raise TypeError("no instruction computes with stacked numbers")

    __add__ = __radd__ = __mul__ = __rmul__ = __eq__ = __ne__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __contains__ = _refuse
    __hash__ = None  # type: ignore[assignment]


def _flat(values: Sequence[Any]) -> list[Any]:
    return [each for v in values for each in (v if isinstance(v, tuple | list) else (v,))]


def _plain(value: Any) -> Any:
    """Return the value that a stand-in holds, or a number."""
    if isinstance(value, tuple | list):
        return tuple(map(_plain, value))
    if isinstance(value, _Traced):
        return value.value
    if value is None or isinstance(value, bool | int | float):
        return value
    raise TypeError(f"no instruction takes {type(value).__name__}")


def _operator(name: str, swapped: bool) -> Callable[[Any, Any], Any]:
    def run(self: _Traced, other: Any) -> Any:
        return self._apply(name, *((other, self) if swapped else (self, other)))

    return run


for _name in ("add", "sub", "mul", "truediv", "pow", "and"):
    setattr(_Traced, f"__{_name}__", _operator(_name, swapped=False))
    setattr(_Traced, f"__r{_name}__", _operator(_name, swapped=True))
_COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
for _name in _COMPARISONS:
    setattr(_Traced, f"__{_name}__", _operator(_name, swapped=False))
for _name in ("neg", "abs"):
    setattr(_Traced, f"__{_name}__", lambda self, name=_name: self._apply(name, self))


class _Recorder:
    """The nodes of a formula, each computation once; its public methods are torch's functions."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[Any, ...], Node] = {}

    def node(self, op: str, args: tuple[Node, ...], numbers: tuple[float, ...] = ()) -> Node:
        key = (op, *map(id, args), numbers)
        if key not in self._nodes:
            self._nodes[key] = Node(op, args, numbers, len(self._nodes))
        return self._nodes[key]

    def held(self, value: Value) -> Node:
        return value if isinstance(value, Node) else self.node("constant", (), (float(value),))

    def _affine(self, a: Value, factor: float, offset: float) -> Value:
        if not isinstance(a, Node):
            return factor * a + offset
        if a.op == "affine":
            return self._affine(a.args[0], factor * a.numbers[0], factor * a.numbers[1] + offset)
        if factor == 0:
            return offset
        return a if (factor, offset) == (1, 0) else self.node("affine", (a,), (factor, offset))

    def _factor(self, a: Node) -> tuple[float, Node]:
        """Return ``a`` as a number times a node."""
        pure = a.op == "affine" and a.numbers[1] == 0
        return (a.numbers[0], a.args[0]) if pure else (1.0, a)

    def _one(self, op: str, a: Value, of_number: Callable[[float], float]) -> Value:
        return self.node(op, (a,)) if isinstance(a, Node) else of_number(a)

    def add(self, a: Value, b: Value, *, alpha: float = 1) -> Value:
        if not isinstance(b, Node):
            return self._affine(a, 1.0, alpha * b)
        if not isinstance(a, Node):
            return self._affine(b, alpha, a)
        (p, a), (q, b) = self._factor(a), self._factor(b)
        return self.node("sum", (a, b), (p, alpha * q))

    def sub(self, a: Value, b: Value, *, alpha: float = 1) -> Value:
        return self.add(a, b, alpha=-alpha)

    def mul(self, a: Value, b: Value) -> Value:
        if not isinstance(b, Node):
            return self._affine(a, b, 0.0)
        if not isinstance(a, Node):
            return self._affine(b, a, 0.0)
        (p, a), (q, b) = self._factor(a), self._factor(b)
        return self._affine(self.node("product", (a, b)), p * q, 0.0)

    def div(self, a: Value, b: Value) -> Value:
        if not isinstance(b, Node):
            return self._affine(a, 1 / b, 0.0)
        return self.node("quotient", (a, b)) if isinstance(a, Node) else self._over(a, b)

    def _over(self, a: float, b: Node) -> Value:
        return self.node("reciprocal", (b,), (a,))

    def pow(self, a: Value, exponent: Value) -> Value:
        if isinstance(exponent, Node):
            return self.exp(self.mul(exponent, self.log(a)))
        if not isinstance(a, Node):
            return float(a**exponent)
        if exponent == 0.5:
            return self.sqrt(a)
        if exponent in (0, 1, 2, 3, 4):
            found: Value = 1.0
            for _ in range(int(exponent)):
                found = self.mul(found, a)
            return found
        if exponent == round(exponent):
            raise TypeError("no instruction does this power of negative numbers")
        return self.exp(self.mul(exponent, self.log(a)))

    def clamp(self, a: Value, min: float | None = None, max: float | None = None) -> Value:
        low, high = -math.inf if min is None else min, math.inf if max is None else max
        if isinstance(low, Node) or isinstance(high, Node):
            raise TypeError("no instruction clamps to numbers that vary")
        if low > high:
            raise TypeError("no instruction clamps to bounds in the other order")
        if not isinstance(a, Node):
            return sorted((low, float(a), high))[1]
        return self.node("clamp", (a,), (low, high))

    def clamp_min(self, a: Value, min: float) -> Value:
        return self.clamp(a, min)

    def clamp_max(self, a: Value, max: float) -> Value:
        return self.clamp(a, None, max)

    def where(self, condition: Value, a: Value, b: Value) -> Value:
        if not isinstance(condition, Node):
            return a if condition else b
        return self.node("select", (condition, self.held(a), self.held(b)))

    def masked_fill(self, a: Value, mask: Value, value: Value) -> Value:
        return self.where(mask, value, a)

    def lt(self, a: Value, b: Value) -> Value:
        return self._compared("less", a, b)

    def le(self, a: Value, b: Value) -> Value:
        return self._compared("less_equal", a, b)

    def gt(self, a: Value, b: Value) -> Value:
        return self.lt(b, a)

    def ge(self, a: Value, b: Value) -> Value:
        return self.le(b, a)

    def eq(self, a: Value, b: Value) -> Value:
        return self.mul(self.le(a, b), self.le(b, a))

    def ne(self, a: Value, b: Value) -> Value:
        return self.sub(1.0, self.eq(a, b))

    def _compared(self, op: str, a: Value, b: Value) -> Value:
        if isinstance(a, Node) or isinstance(b, Node):
            return self.node(op, (self.held(a), self.held(b)))
        return float(a < b if op == "less" else a <= b)

    def lerp(self, a: Value, b: Value, weight: Value) -> Value:
        return self.add(a, self.mul(weight, self.sub(b, a)))

    def neg(self, a: Value) -> Value:
        return self._affine(a, -1.0, 0.0)

    def abs(self, a: Value) -> Value:
        return self._one("magnitude", a, abs)

    def exp(self, a: Value) -> Value:
        return self._one("exp", a, math.exp)

    def expm1(self, a: Value) -> Value:
        if not isinstance(a, Node):
            return math.expm1(a)
        series: Value = 1.0  # where exp would leave few digits: its terms up to the 8th
        for n in range(8, 1, -1):
            series = self.add(1.0, self.mul(series, self.mul(a, 1 / n)))
        far = self.sub(self.exp(a), 1.0)
        return self.where(self.lt(self.abs(a), 0.5), self.mul(a, series), far)

    def log(self, a: Value) -> Value:
        return self._one("log", a, lambda x: math.log(x) if x else -math.inf)

    def sqrt(self, a: Value) -> Value:
        return self._one("root", a, math.sqrt)

    def square(self, a: Value) -> Value:
        return self.mul(a, a)

    def full_like(self, a: Value, value: float) -> Value:
        return float(value)

    def zeros_like(self, a: Value) -> Value:
        return 0.0

    def ones_like(self, a: Value) -> Value:
        return 1.0

    def new_full(self, a: Value, size: tuple[()], value: float) -> Value:
        return float(value)

    def new_zeros(self, a: Value, size: tuple[()]) -> Value:
        return 0.0

    def stack(self, parts: tuple[Value, ...]) -> tuple[Value, ...]:
        return parts

    # the names of Python's operators, and what torch calls some of its own
    truediv = true_divide = div
    subtract, multiply, divide, absolute, negative = sub, mul, div, abs, neg

    def _and(self, a: Value, b: Value) -> Value:
        return self.mul(a, b)


setattr(_Recorder, "and", _Recorder._and)
