"""The parts of a traced model: operations, and the matrices that they apply."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ROUNDING = "rounding"
"""Kind of the operations that round the inputs of a digital layer to int8."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of the traced model, in the order in which it runs.

    What the model is given and what it returns are operations too, which compute nothing.
    """

    name: str
    """Unique name. For an analog product it is the full name of its matrix, with ``#2``, ``#3``,
    ... where it is applied again."""
    kind: str
    """``mvm``; the kind of a digital operation, as ``chips.Digital.kinds`` lists them;
    ``rounding``, of the inputs of a layer by ``quantise_digital``;
    ``input``, a tensor that the host has; or ``output``, what the host gets."""
    matrix: str | None
    """Name of the ``Matrix`` that an ``mvm`` applies; None otherwise."""
    vectors: int
    """Number of input vectors of the matrix in one inference (a convolution has one per output
    position); 0 if digital."""
    elements: int
    """Number of elements of its output in one inference."""
    operations: int
    """Number of digital arithmetic operations in one inference; 0 for an ``mvm``."""
    inputs: tuple[str, ...]
    """Names of the operations whose results it takes."""
    taken: tuple[int, ...] = ()
    """Number of elements that it takes of each of these; (): all of them. Of a result that it only
    waits for, it takes none."""
    steps: int = 1
    """Number of parts that must run one after another, as each needs the result of the one before:
    the time steps of a recurrent layer. The ``vectors`` are spread evenly over them."""
    one_hot: bool = False
    """Whether the vectors are one-hot, as those of an embedding: each drives one row, so that only
    the block that holds it computes. The tokens are taken to be spread evenly over the rows."""

    @classmethod
    def given(cls, name: str, elements: int, after: Iterable[str] = ()) -> "Operation":
        """Return an operation that stands for a tensor that the host has.

        It has it once the operations ``after`` are done, of whose results it takes none.
        """
        return cls._of_host(name, "input", elements, dict.fromkeys(after, 0))

    @classmethod
    def returned(cls, taken: Mapping[str, int]) -> "Operation":
        """Return the operation that stands for what the host gets: numbers of elements, by name."""
        return cls._of_host("(output)", "output", sum(taken.values()), taken)

    @classmethod
    def _of_host(cls, name: str, kind: str, elements: int, taken: Mapping[str, int]) -> "Operation":
        return cls(
            name=name,
            kind=kind,
            matrix=None,
            vectors=0,
            elements=elements,
            operations=0,
            inputs=tuple(taken),
            taken=tuple(taken.values()),
        )

    def takes(self, elements: Mapping[str, int]) -> dict[str, int]:
        """Return how many elements it takes of each input, by the size of all results."""
        taken = self.taken or [elements[name] for name in self.inputs]
        return dict(zip(self.inputs, taken, strict=True))


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Weights that are mapped together: a layer, or a gate or projection matrix of a larger one."""

    name: str
    """Unique name for display: the full name of the layer or Parameter, with the range of outputs
    if the matrix has not all of them, and with ``.T`` if the same weights are applied in another
    form as well."""
    rows: int
    """Number of inputs of one group: channels times kernel taps; or the rows of its expansion, if
    the chip has weight expansion."""
    cols: int
    """Number of outputs of all groups."""
    groups: int
    """Number of groups of a convolution: a block-diagonal matrix of ``rows * groups`` rows; 1
    otherwise."""
    kernel: int
    """Kernel taps per channel, which a partial sum should keep together; 1 for a linear layer."""
    weights: int
    """Number of weights: ``cols`` times the inputs of one group."""
    shape: tuple[int, ...] = ()
    """Shape ``(cols, channels / groups, *kernel)``, as ``chips.tiling`` cuts it; () stands for
    ``(cols, rows)``."""
    layer: str = ""
    """Full name of its layer, or of the Parameter if that is not a layer's ``weight``; empty for
    weights that are neither all of it nor a range of its outputs."""
    outputs: tuple[int, int] | None = None
    """First output of the layer that it holds, and the one after the last; None: all of them."""
    form: int = 0
    """0 for the first way in which the weights are applied; 1, 2, ... for others, such as the
    transpose of it in ``x @ layer.weight``, which need cells of their own."""
    cells: int = 1
    """Number of unit cells that hold one weight together: this many copies multiply every vector,
    and their results are added."""

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], groups: int, **rest: Any) -> "Matrix":
        """Return the matrix of a weight of this ``shape``; ``rest`` are the other fields."""
        cols, *rows = shape
        return cls(
            name=name,
            rows=math.prod(rows),
            cols=cols,
            groups=groups,
            kernel=math.prod(rows[1:]),
            weights=math.prod(shape),
            shape=shape,
            **rest,
        )

    def macs(self, op: Operation) -> int:
        """Return the multiply-accumulates of ``op``, which applies this matrix.

        Reading the row of a one-hot vector counts as one for each output.
        """
        return op.vectors * (self.cols if op.one_hot else self.weights)
