"""What one weight matrix does in every multiply: the part of an analog product that is no
tensor.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache

from analogtorch.chips.tiling import RowBlock, row_block
from analogtorch.devices import Spread


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Row blocks, converters, noise and positions of one matrix; for a linear layer the geometry is
    empty.

    The matrix has a column per output and a row per input channel and kernel tap, flattened in the
    weight's order.
    """

    bounds: tuple[int, ...]
    """Where the row blocks begin among the rows and, last, where they end: blocks + 1 numbers."""
    columns: tuple[int, ...] = ()
    """Bounds of the outputs that share one weight scale, as ``bounds``; empty: every output has its
    own."""
    stride: tuple[int, ...] = ()
    """Of a convolution, a number per spatial dimension."""
    padding: tuple[int, ...] = ()
    """Zeros on both sides of each spatial dimension; none where a row block cuts the kernel."""
    dilation: tuple[int, ...] = ()
    """Of a convolution, a number per spatial dimension."""
    groups: int = 1
    """Groups of a convolution."""
    input_bits: int = 0
    """Of the DAC, 2..16; 0: inputs are neither clipped nor rounded."""
    output_bits: int = 0
    """Of the ADC, 2..16; 0: partial sums are neither clipped nor rounded, unless ``output_steps``
    says how."""
    output_steps: int = 0
    """Steps of the ADC on each side of zero, >= 0; 0: ``2^(output_bits - 1) - 1``."""
    unit_bits: int = 0
    """Of what the digital unit of a tile passes on, 2..16: ADC outputs are rounded once more, after
    their gain, in the ranges that a product is given; 0: they are passed on as they are."""
    output_bound: float = 1.0
    """Of the ADC, > 0, in units of (full-scale input x weight scale), where a product is not given
    one per reading."""
    phases: int = 1
    """ADC outputs that are added up, with their signs, to one partial sum: 1; 2, one per sign of
    the inputs; or 4, one per pair of signs of inputs and weights. Each is clipped and rounded by
    itself and has noise of its own. Only the reference computes more than 1."""
    output_noise: float = 0.0
    """Standard deviation of the noise of an ADC output, >= 0, in the same units."""
    weight_noise: float = 0.0
    """Standard deviation of the noise of a weight, >= 0, in units of (weight scale x
    ``spread``)."""
    spread: Spread = field(default_factory=Spread)
    """How that deviation depends on the weight."""
    first_output: int = 0
    """Position of output 0 in the layer: positions key the noise."""
    total_outputs: int = 0
    """Outputs of the layer; 0: those of this matrix."""
    first_row: int = 0
    """Position of row 0 in the layer."""
    steps: int = field(init=False, repr=False, compare=False)
    """Steps of the ADC on each side of zero; 0: no ADC."""
    ints: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """The integers as an operator takes them; with ``floats``, what ``decode`` reads."""
    floats: tuple[float, ...] = field(init=False, repr=False, compare=False)
    """The numbers as an operator takes them."""

    def __post_init__(self) -> None:
        _check(
            "bounds", self.bounds, len(self.bounds) > 1 and self.bounds[0] == 0, "(0, ..., rows)"
        )
        for name in ("bounds", "columns"):
            pairs = zip(getattr(self, name), getattr(self, name)[1:], strict=False)
            _check(name, getattr(self, name), all(a < b for a, b in pairs), "increasing")
        dims = len(self.stride)
        for name, least in (("stride", 1), ("dilation", 1), ("padding", 0)):
            given = getattr(self, name)
            _check(
                name,
                given,
                len(given) == dims and all(n >= least for n in given),
                f"{dims} integers >= {least}",
            )
        _check("groups", self.groups, self.groups >= 1, "an integer >= 1")
        for name in ("input_bits", "output_bits", "unit_bits"):
            bits = getattr(self, name)
            _check(name, bits, bits == 0 or 2 <= bits <= 16, "from 2 to 16, or 0 for no converter")
        _check("phases", self.phases, self.phases in (1, 2, 4), "1, 2 or 4")
        _check("output_steps", self.output_steps, self.output_steps >= 0, "an integer >= 0")
        steps = self.output_steps or (2 ** (self.output_bits - 1) - 1 if self.output_bits else 0)
        object.__setattr__(self, "steps", steps)
        bound = self.output_bound
        _check("output_bound", bound, bound > 0 and math.isfinite(bound), "a positive number")
        for name in ("output_noise", "weight_noise"):
            std = getattr(self, name)
            _check(name, std, std >= 0 and math.isfinite(std), "a number >= 0")
        # made here and not when asked for: torch.compile reads them
        geometry = (self.dims, *self.stride, *self.padding, *self.dilation, self.groups)
        converters = (
            self.input_bits,
            self.output_bits,
            self.output_steps,
            self.unit_bits,
            self.phases,
        )
        rest = (*converters, self.first_output, self.total_outputs, self.first_row)
        ints = (
            *_counted(self.bounds),
            *_counted(self.columns),
            *geometry,
            *rest,
            self.spread.pieces,
        )
        object.__setattr__(self, "ints", ints)
        s = self.spread
        floats = (
            self.output_bound,
            self.output_noise,
            self.weight_noise,
            s.base,
            s.step,
            s.dip,
            s.rate,
        )
        object.__setattr__(self, "floats", (*floats, *s.coefficients))

    @property
    def blocks(self) -> int:
        """Number of row blocks."""
        return len(self.bounds) - 1

    @property
    def dims(self) -> int:
        """Spatial dimensions; 0 for a linear layer."""
        return len(self.stride)

    @property
    def noisy(self) -> bool:
        """Whether a multiply needs keys."""
        return self.weight_noise > 0 or self.output_noise > 0

    @property
    def exact(self) -> bool:
        """Whether the product is the digital one: no converter, no noise."""
        return not (self.input_bits or self.saturates or self.noisy)

    @property
    def saturates(self) -> bool:
        """Whether a converter may clip an output: the ADC, or the digital unit."""
        return bool(self.steps or self.unit_bits)

    @property
    def shaped(self) -> bool:
        """Whether the noise of a weight depends on the weight."""
        return self.spread != Spread()

    def span(self, block: int, shape: tuple[int, ...]) -> RowBlock:
        """Row block ``block`` as an index into the rows' dimensions ``shape`` = (channels,
        *kernel).
        """
        return row_block(self.bounds[block], self.bounds[block + 1], tuple(shape))


def _check(name: str, value: object, ok: bool, allowed: str) -> None:
    if not ok:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def _counted(numbers: tuple[int, ...]) -> tuple[int, ...]:
    return (len(numbers), *numbers)


@lru_cache(maxsize=4096)
def decode(ints: tuple[int, ...], floats: tuple[float, ...]) -> Plan:
    """The plan whose ``ints`` and ``floats`` these are.

    Raises:
        ValueError: they are no plan's.
    """
    try:
        plan = _decoded(ints, floats)
    except (IndexError, ValueError) as error:
        raise ValueError(
            f"ints {ints} and floats {floats} are not those of a Plan: {error}"
        ) from error
    if (plan.ints, plan.floats) != (ints, floats):
        raise ValueError(
            f"ints {ints} and floats {floats} are not those of a Plan, such as {plan.ints}, "
            f"{plan.floats}"
        )
    return plan


def _decoded(ints: tuple[int, ...], floats: tuple[float, ...]) -> Plan:
    rest = list(ints)

    def take(count: int) -> tuple[int, ...]:
        taken = tuple(rest[:count])
        del rest[:count]
        return taken

    bounds = take(take(1)[0])
    columns = take(take(1)[0])
    (dims,) = take(1)
    stride, padding, dilation = take(dims), take(dims), take(dims)
    groups, input_bits, output_bits, output_steps, unit_bits, phases, *where, pieces = rest
    first_output, total_outputs, first_row = where
    bound, output_noise, weight_noise, base, step, dip, rate, *c = floats
    return Plan(
        bounds=bounds,
        columns=columns,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        input_bits=input_bits,
        output_bits=output_bits,
        output_steps=output_steps,
        unit_bits=unit_bits,
        phases=phases,
        output_bound=bound,
        output_noise=output_noise,
        weight_noise=weight_noise,
        spread=Spread(
            coefficients=tuple(c),  # type: ignore[arg-type]
            base=base,
            step=step,
            pieces=pieces,
            dip=dip,
            rate=rate,
        ),
        first_output=first_output,
        total_outputs=total_outputs,
        first_row=first_row,
    )
