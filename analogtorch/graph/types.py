"""What a traced model is made of: operations, and the matrices that they apply."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One step of the traced model, in the order in which it runs."""

    name: str
    """Unique; for an analog product the full name of its matrix, with ``#2``, ``#3``, ... where it
    is applied again."""
    kind: str
    """``mvm``, or what is computed digitally: ``activation``, ``norm``, ``attention``, ``pool``,
    ``add``, ..."""
    matrix: str | None
    """Name of the ``Matrix`` that an ``mvm`` applies; None otherwise."""
    vectors: int
    """Input vectors that the matrix meets in one inference (a convolution: one per output place); 0
    if digital."""
    elements: int
    """Numbers that it puts out in one inference."""
    operations: int
    """Digital arithmetic operations of one inference; 0 for an ``mvm``."""
    inputs: tuple[str, ...]
    """Names of the operations whose results it takes."""
    steps: int = 1
    """Parts of it that must run one after another, as each needs the result of the one before: the
    time steps of a recurrent layer. The ``vectors`` are spread evenly over them."""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Weights that are placed together: one layer, or one gate or projection matrix of a larger
    module.
    """

    name: str
    """Unique, for display: the full name of the layer or Parameter, with the range of outputs where
    the matrix holds a part of them, and with ``.T`` where the same weights are applied in another
    form as well."""
    rows: int
    """Inputs: channels times kernel taps, of one group."""
    cols: int
    """Outputs, of all groups."""
    groups: int
    """Groups of a convolution: a block-diagonal matrix of ``rows * groups`` rows; 1 otherwise."""
    kernel: int
    """Kernel taps per channel: rows that a partial sum should keep together; 1 for a linear
    layer."""
    weights: int
    """Numbers that it holds: ``rows * cols``."""
    shape: tuple[int, ...] = ()
    """``(cols, channels / groups, *kernel)``, as ``chips.tiling`` cuts it; () stands for ``(cols,
    rows)``."""
    layer: str = ""
    """Full name of the layer that it is taken from, or of the Parameter if that is not a layer's
    ``weight``; empty for weights that are not all of it and no range of its outputs."""
    outputs: tuple[int, int] | None = None
    """First output of the layer that it holds, and the one after the last; None: all of them."""
    form: int = 0
    """0 for the first way in which the weights are applied; 1, 2, ... for others, such as the
    transpose of a tied weight, which need cells of their own."""
