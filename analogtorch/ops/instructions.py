"""The instructions of a formula: one operation on registers, its factors, and a clamp."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum


class Op(IntEnum):
    """What an instruction does with ``a``, ``b``, ``c`` and its numbers ``k``: see ``formula.h``.

    Every result is clamped to ``[k2, k3]``.
    """

    CONSTANT = 0
    AFFINE = 1
    PRODUCT = 2
    SUM = 3
    FUSED = 4
    QUOTIENT = 5
    RECIPROCAL = 6
    LOG = 7
    EXP = 8
    ROOT = 9
    MAGNITUDE = 10
    LESS = 11
    LESS_EQUAL = 12
    SELECT = 13
    BELOW = 14
    ABOVE = 15


@dataclass(frozen=True)
class Instruction:
    """One operation of a formula."""

    op: Op
    to: int
    """Register of the result."""
    read: tuple[int, ...]
    """Registers of ``a``, ``b`` and ``c``, as many as the operation reads."""
    k: tuple[float, float, float, float]
    """Its numbers."""


@dataclass(frozen=True, eq=False)
class Node:
    """One computation of a formula."""

    op: str
    """``argument``, ``clamp``, or the name of an ``Op`` in small letters."""
    args: tuple["Node", ...]
    numbers: tuple[float, ...]
    order: int
    """Number of nodes that were made before."""


@dataclass(eq=False)
class _Step:
    """An instruction whose registers are not known yet."""

    op: Op
    args: list[Node]
    k: list[float] = field(default_factory=lambda: [1.0, 0.0, -math.inf, math.inf])

    @property
    def clamped(self) -> bool:
        return self.k[2] > -math.inf or self.k[3] < math.inf


def instructions(
    results: Sequence[Node], arguments: int
) -> tuple[tuple[Instruction, ...], int, tuple[int, ...]]:
    """Return the instructions of nodes, the number of registers, and those of the results.

    Arguments lie in the first registers, and stay there.
    """
    needed = _needed(results)
    uses = {node: 0 for node in needed}
    for node in (*results, *(arg for each in needed for arg in each.args)):
        uses[node] += 1
    steps: dict[Node, _Step] = {}
    for node in needed:
        if node.op != "argument":
            steps[node] = _step(node, steps, uses)
    return _placed(steps, results, arguments)


def _needed(results: Sequence[Node]) -> list[Node]:
    found: set[Node] = set()
    waiting = list(results)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(node.args)
    return sorted(found, key=lambda node: node.order)


def _step(node: Node, steps: dict[Node, _Step], uses: dict[Node, int]) -> _Step:
    """Return the step of a node; the steps of arguments that it takes up are removed."""
    own = [arg for arg in node.args if uses[arg] == 1 and arg in steps]
    if node.op == "clamp":
        if own and not steps[own[0]].clamped:
            step = steps.pop(own[0])
        else:
            step = _Step(Op.AFFINE, [*node.args])
        step.k[2:] = node.numbers
        return step
    products = [arg for arg in own if _is_product(steps[arg])]
    if node.op == "affine" and products:
        step = steps.pop(products[0])
        step.k[:2] = step.k[0] * node.numbers[0], node.numbers[1]
        return step
    if node.op == "sum" and products and node.args[0] is not node.args[1]:
        step = steps.pop(products[0])
        at = node.args.index(products[0])
        step.op, step.args = Op.FUSED, [*step.args, node.args[1 - at]]
        step.k[:2] = step.k[0] * node.numbers[at], node.numbers[1 - at]
        return step
    if node.op == "select" and node.args[0] in own:
        chosen = _at_a_number(node, steps)
        if chosen is not None:
            return chosen
    if node.op == "exp" and own and steps[own[0]].op == Op.AFFINE and not steps[own[0]].clamped:
        step = steps.pop(own[0])
        step.op = Op.EXP
        return step
    step = _Step(Op[node.op.upper()], [*node.args])
    step.k[: len(node.numbers)] = node.numbers
    return step


def _at_a_number(node: Node, steps: dict[Node, _Step]) -> _Step | None:
    """Return the step of a choice by a comparison with a number, or None."""
    condition, *chosen = node.args
    if condition.op != "less":
        return None
    for op, (number, other) in ((Op.ABOVE, condition.args), (Op.BELOW, condition.args[::-1])):
        if number.op == "constant":
            del steps[condition]
            return _Step(op, [other, *chosen], [number.numbers[0], 0.0, -math.inf, math.inf])
    return None


def _is_product(step: _Step) -> bool:
    return step.op == Op.PRODUCT and not step.clamped and step.k[1] == 0


def _placed(
    steps: dict[Node, _Step], results: Sequence[Node], arguments: int
) -> tuple[tuple[Instruction, ...], int, tuple[int, ...]]:
    """Give each node a register until it is read for the last time."""
    read_by_any = {*results, *(arg for step in steps.values() for arg in step.args)}
    steps = {node: step for node, step in steps.items() if node in read_by_any}
    last = {arg: at for at, step in enumerate(steps.values()) for arg in step.args}
    last |= dict.fromkeys(results, len(steps))
    register: dict[Node, int] = {}
    free: list[int] = []
    count, listed = arguments, []

    def where(node: Node) -> int:
        return int(node.numbers[0]) if node.op == "argument" else register[node]

    for at, (node, step) in enumerate(steps.items()):
        read = tuple(map(where, step.args))
        free += sorted({register[arg] for arg in step.args if arg in register and last[arg] == at})
        if free:
            register[node] = free.pop()
        else:
            register[node], count = count, count + 1
        a, b, c, d = step.k
        listed.append(Instruction(step.op, register[node], read, (a, b, c, d)))
    return tuple(listed), count, tuple(map(where, results))
