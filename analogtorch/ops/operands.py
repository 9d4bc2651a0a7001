"""The tensors of an analog product as one record, which defines the operator and its kernels.

``ops.mvm`` fills it, the operator's schema lists its fields in their order, and the kernels read
it: in C a pointer of the same name in a structure, in Triton an argument of the same name. So a new
operand needs a field here, its formula in ``ops/reference.py``, and its name in the kernels that
compute it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from types import NoneType
from typing import Annotated, NamedTuple, get_args, get_type_hints

import torch
from torch import Tensor


class Kind(Enum):
    """The numbers of an operand."""

    VALUE = "floating point, of the shape that its docstring says"
    VARIANCE = "bfloat16, of the shape that its docstring says"
    ADC = "floating point, one for each ADC: (blocks, outputs)"
    ADC_ERROR = "floating point, one for each kind of error and ADC: (kinds, blocks, outputs)"
    ADC_CODE = "floating point, one for each ADC and transition between its codes"
    DAC_CODE = "floating point, one for each code of the DACs"
    KEY = "int64: a key, or a position in the noise"


@dataclass(frozen=True)
class Role:
    """The role of an operand in the operator."""

    kind: Kind
    learns: bool = False
    """Whether gradients reach it."""
    kept: bool = False
    """Whether the gradients are computed with it."""


_VALUE, _ADC, _KEY = Role(Kind.VALUE), Role(Kind.ADC), Role(Kind.KEY)


class Operands(NamedTuple):
    """The tensors of one product."""

    x: Annotated[Tensor, Role(Kind.VALUE, learns=True, kept=True)]
    """(*, inputs) for a linear layer, else (N, channels, *sizes); floating point."""
    input_range: Annotated[Tensor, Role(Kind.VALUE, learns=True, kept=True)]
    """Full scale of the DAC: (1,); one per row block, (blocks,), which groups share; or one per
    vector (linear) or sample (convolution), with the dimensions of ``x``. Its magnitude counts; 0
    gives zeros. Gradients reach the first two. One per row block runs in plain torch on a GPU, or
    if blocks cut a kernel."""
    w: Annotated[Tensor, Role(Kind.VALUE, learns=True, kept=True)]
    """(outputs, channels / groups, *kernel); its type is that of the product and of the result."""
    bias: Annotated[Tensor | None, Role(Kind.VALUE, learns=True)] = None
    """(outputs,), added digitally after the ADC outputs are summed."""
    scale: Annotated[Tensor | None, Role(Kind.ADC, kept=True)] = None
    """Weight at full conductance, (blocks, outputs); None: the largest of the block, by
    ``plan.columns``."""
    gain: Annotated[Tensor | None, Role(Kind.ADC, kept=True)] = None
    """Digital correction of each ADC output, (blocks, outputs)."""
    key: Annotated[Tensor | None, Role(Kind.KEY, kept=True)] = None
    """() int64, of the weight noise; needed if ``plan.weight_noise > 0``."""
    output_keys: Annotated[Tensor | None, _KEY] = None
    """(blocks,) int64, of the noise of partial sums; needed if ``plan.noisy_sums``."""
    samples: Annotated[Tensor | None, _KEY] = None
    """(vectors,) int64, number of each vector or sample in that noise; or (1,), that of the first,
    from which the others count on. None: 0, 1, 2, ..."""
    adc_ranges: Annotated[Tensor | None, _ADC] = None
    """ADC range of each output, (blocks, outputs), > 0; None: ``plan.adc_range`` for all."""
    output_ranges: Annotated[Tensor | None, _ADC] = None
    """Range of each output of the digital unit, (blocks, outputs), > 0, in the same units; used if
    ``plan.unit_bits`` is set. None: ADC outputs are not rounded again."""
    negatives: Annotated[Tensor | None, _VALUE] = None
    """Part of each weight in its negative polarity, of the shape of ``w`` and >= 0, so that the
    positive one holds ``w + negatives``; only if ``plan.phases`` is 4. None: each weight has one
    polarity."""
    adc_errors: Annotated[Tensor | None, Role(Kind.ADC_ERROR)] = None
    """Errors of each ADC, (kinds, blocks, outputs), in the order of
    ``analogtorch.chips.ADC_ERRORS``: see ``converters.at_adc``. None: no errors."""
    read_variances: Annotated[Tensor | None, Role(Kind.VARIANCE)] = None
    """Variances of the weights from one MVM to the next, >= 0, in units of the weight scale
    squared: (1, *shape of ``w``), or if ``plan.phases`` is 4 (2, *shape of ``w``), those of the
    positive polarity first; in bfloat16, to which the squared inputs are rounded too. Needed if
    ``plan.read_noise > 0``. They count as constants: no gradient reaches them."""
    adc_inl: Annotated[Tensor | None, Role(Kind.ADC_CODE)] = None
    """Integral non-linearity of each ADC at the transitions between its codes, in steps, (blocks,
    outputs, 2 steps), ascending: see ``ops/transfer.py``. 1 in place of blocks and outputs: all
    ADCs have the same. None: 0. Only the reference computes it."""
    dac_inl: Annotated[Tensor | None, Role(Kind.DAC_CODE)] = None
    """Integral non-linearity of the DACs at each code, in steps, (2^input_bits - 1,), ascending.
    None: 0. Only the reference computes it. The gradient of ``w`` is that of linear DACs."""
    curvatures: Annotated[Tensor | None, _VALUE] = None
    """Weights of the square and of the cube of the inputs relative to the DAC range, times that
    range, (2, *shape of ``w``), in ``w``'s type. None: 0. Only the reference computes them, in
    plans of fewer than 4 phases. They count as constants, and no gradient goes through them."""
    drops: Annotated[Tensor | None, Role(Kind.VALUE, learns=True)] = None
    """IR drop of each partial sum, which is subtracted from it, (phases, blocks, *shape of the
    product); None: there is none, or the weights contain it. See ``input_drop.drops``."""


class Outputs(NamedTuple):
    """The result of a product: ``y``, and the data for its gradient."""

    y: Tensor
    scale: Tensor
    """(blocks, outputs): the given scale, or that of the weights."""
    mask: Tensor
    """Saturated ADC outputs, in the form of ``ops/mask.py``; empty if none can saturate or the mask
    is not needed."""
    saturated: Tensor
    """(blocks,) uint8: whether any output saturated."""


Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""Gradients of x, of the input range, of w, and of the bias. That of ``drops`` follows from the
mask alone."""


def vector_numbers(samples: Tensor, vectors: int) -> Tensor:
    """Return the number of each vector, (vectors,), from ``Operands.samples``."""
    if samples.numel() == vectors:
        return samples
    return samples + torch.arange(vectors, device=samples.device)


def per_block(input_range: Tensor) -> bool:
    """Return whether every row block has its own range.

    A range per vector has the dimensions of the input instead.
    """
    return input_range.dim() == 1 and input_range.numel() > 1


NAMES = Operands._fields
ROLES = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(Operands, include_extras=True).items()
}
LEARNS = tuple(number for number, name in enumerate(NAMES) if ROLES[name].learns)
"""Indices of the operands that gradients reach."""
KEPT = tuple(name for name in NAMES if ROLES[name].kept)
_KEPT_AT, _SCALE = tuple(map(NAMES.index, KEPT)), NAMES.index("scale")
_OPTIONAL = {name for name, hint in get_type_hints(Operands).items() if NoneType in get_args(hint)}


def of_kind(*kinds: Kind) -> tuple[str, ...]:
    """Return the names of the operands of these kinds."""
    return tuple(name for name in NAMES if ROLES[name].kind in kinds)


def schema() -> str:
    """Return the operands as arguments of an operator."""
    return _schema(NAMES, _OPTIONAL)


def kept_schema() -> str:
    """Return the operands for the gradients as arguments; their scale is never None."""
    return _schema(KEPT, _OPTIONAL - {"scale"})


def _schema(names: Sequence[str], optional: set[str]) -> str:
    return ", ".join(f"Tensor{'?' if name in optional else ''} {name}" for name in names)


def keep(operands: Operands, scale: Tensor) -> list[Tensor | None]:
    """Return the operands for the gradients, with this scale: the argument of ``kept``."""
    return [scale if i == _SCALE else operands[i] for i in _KEPT_AT]


def kept(tensors: Sequence[Tensor | None]) -> Operands:
    """Return the operands from the list of ``keep``; the others are None."""
    found: list[Tensor | None] = [None] * len(NAMES)
    for i, tensor in zip(_KEPT_AT, tensors, strict=True):
        found[i] = tensor
    return Operands._make(found)
