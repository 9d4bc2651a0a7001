"""The tensors of an analog product as one record, from which all that passes them on follows.

``ops.mvm`` fills it, the operator's schema lists its fields in their order, and the kernels read
it: in C a pointer of the same name in a structure, in Triton an argument of the same name. So an
operand is added by a field here, its formula in ``ops/reference.py``, and by its name where a
kernel computes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from types import NoneType
from typing import Annotated, NamedTuple, get_args, get_type_hints

from torch import Tensor


class Kind(Enum):
    """What the numbers of an operand are."""

    VALUE = "floating point, of the shape that its docstring says"
    ADC = "floating point, one for each ADC: (blocks, outputs)"
    ADC_ERROR = "floating point, one for each kind of error and ADC: (kinds, blocks, outputs)"
    KEY = "int64: a key, or a position in the noise"


@dataclass(frozen=True)
class Role:
    """What an operand is to the operator."""

    kind: Kind
    learns: bool = False
    """Whether gradients reach it."""
    kept: bool = False
    """Whether the gradients are computed with it."""


_VALUE, _ADC, _KEY = Role(Kind.VALUE), Role(Kind.ADC), Role(Kind.KEY)


class Operands(NamedTuple):
    """The tensors of one product."""

    x: Annotated[Tensor, Role(Kind.VALUE, learns=True, kept=True)]
    """(*, inputs) for a linear layer, else (N, channels, *places); floating point."""
    input_range: Annotated[Tensor, Role(Kind.VALUE, learns=True, kept=True)]
    """Full scale of the DAC: (1,); one per row block, (blocks,), of which groups share each; or one
    per vector (linear) or sample (convolution), with the dimensions of ``x``. Its magnitude counts;
    0 gives zeros. Gradients reach the first two. One per row block runs in plain torch on a GPU, or
    if blocks cut a kernel."""
    w: Annotated[Tensor, Role(Kind.VALUE, learns=True, kept=True)]
    """(outputs, channels / groups, *kernel); its type is that of the product and of the result."""
    bias: Annotated[Tensor | None, Role(Kind.VALUE, learns=True)] = None
    """(outputs,), added digitally after the ADC outputs are summed."""
    scale: Annotated[Tensor | None, Role(Kind.ADC, kept=True)] = None
    """Weight at full conductance, (blocks, outputs); None: the largest of the block, by
    ``plan.columns``."""
    gain: Annotated[Tensor | None, Role(Kind.ADC, kept=True)] = None
    """Digital correction of each reading, (blocks, outputs)."""
    key: Annotated[Tensor | None, Role(Kind.KEY, kept=True)] = None
    """() int64, of the weights' noise; needed where ``plan.weight_noise > 0``."""
    output_keys: Annotated[Tensor | None, _KEY] = None
    """(blocks,) int64, of the output noise; needed where ``plan.output_noise > 0``."""
    samples: Annotated[Tensor | None, _KEY] = None
    """(vectors,) int64, place of each vector or sample in the output noise; None: 0, 1, 2, ..."""
    output_bounds: Annotated[Tensor | None, _ADC] = None
    """Of the ADC of each reading, (blocks, outputs), > 0; None: ``plan.output_bound`` for all."""
    output_ranges: Annotated[Tensor | None, _ADC] = None
    """Of what the digital unit passes on, (blocks, outputs), > 0, in the same units; used where
    ``plan.unit_bits`` is set. None: ADC outputs are passed on as they are."""
    negatives: Annotated[Tensor | None, _VALUE] = None
    """What the negative polarity of each weight holds, of the shape of ``w`` and >= 0, so that the
    positive one holds ``w + negatives``; only where ``plan.phases`` is 4. None: each weight has one
    polarity."""
    adc_errors: Annotated[Tensor | None, Role(Kind.ADC_ERROR)] = None
    """Errors of each ADC, (kinds, blocks, outputs), in the order of
    ``analogtorch.chips.ADC_ERRORS``: see ``physics.at_adc``. None: the ADCs have none."""


class Outputs(NamedTuple):
    """What a product gives: ``y``; and what its gradient needs."""

    y: Tensor
    scale: Tensor
    """(blocks, outputs): the one given, or that of the weights."""
    mask: Tensor
    """Which ADC outputs saturated, as ``ops/mask.py`` keeps it; empty where nobody asked or none
    can."""
    saturated: Tensor
    """(blocks,) uint8: whether any did."""


Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""Of x, of the input range, of w, and of the bias."""


def per_block(input_range: Tensor) -> bool:
    """Whether every row block has a range of its own: one per vector has the dimensions of the
    input instead.
    """
    return input_range.dim() == 1 and input_range.numel() > 1


NAMES = Operands._fields
ROLES = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(Operands, include_extras=True).items()
}
LEARNS = tuple(number for number, name in enumerate(NAMES) if ROLES[name].learns)
"""Places of those that gradients reach."""
KEPT = tuple(name for name in NAMES if ROLES[name].kept)
_KEPT_AT, _SCALE = tuple(map(NAMES.index, KEPT)), NAMES.index("scale")
_OPTIONAL = {name for name, hint in get_type_hints(Operands).items() if NoneType in get_args(hint)}


def of_kind(*kinds: Kind) -> tuple[str, ...]:
    """Names of the operands of these kinds."""
    return tuple(name for name in NAMES if ROLES[name].kind in kinds)


def schema() -> str:
    """The operands as arguments of an operator."""
    return _schema(NAMES, _OPTIONAL)


def kept_schema() -> str:
    """Those that the gradients are computed with; they have a scale, given or found."""
    return _schema(KEPT, _OPTIONAL - {"scale"})


def _schema(names: Sequence[str], optional: set[str]) -> str:
    return ", ".join(f"Tensor{'?' if name in optional else ''} {name}" for name in names)


def keep(operands: Operands, scale: Tensor) -> list[Tensor | None]:
    """What ``kept`` takes: the operands of the gradients, with this scale."""
    return [scale if i == _SCALE else operands[i] for i in _KEPT_AT]


def kept(tensors: Sequence[Tensor | None]) -> Operands:
    """The operands that ``keep`` gave; the others are None."""
    found: list[Tensor | None] = [None] * len(NAMES)
    for i, tensor in zip(_KEPT_AT, tensors, strict=True):
        found[i] = tensor
    return Operands._make(found)
