"""Plans: everything of an analog product except its tensors."""

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache

from analogtorch.chips.converters import levels
from analogtorch.chips.slices import Slicing
from analogtorch.chips.tiling import Layout
from analogtorch.devices import Spread
from analogtorch.ops.encoding import decode, encode
from analogtorch.ops.operands import Operands


@dataclass(frozen=True, kw_only=True)
class Plan(Layout):
    """A layout with the geometry, the converters and the noise of its product.

    For a linear layer the geometry is empty.
    """

    stride: tuple[int, ...] = ()
    """Stride of a convolution, a number per spatial dimension."""
    padding: tuple[int, ...] = ()
    """Zeros on both sides of each spatial dimension; none if a row block cuts the kernel."""
    dilation: tuple[int, ...] = ()
    """Dilation of a convolution, a number per spatial dimension."""
    input_bits: int = 0
    """Bits of the DAC, 2..16; 0: inputs are neither clipped nor rounded."""
    split: int = 0
    """Low bits of an input's magnitude that are a pulse of their own; 0: one pulse has all."""
    jitter: float = 0.0
    """Standard deviation of the duration of a pulse, in steps of the DAC, >= 0. Only the reference
    computes it."""
    shot: float = 0.0
    """Variance of a partial sum of light in units of the sum of its magnitudes, both relative to
    (full-scale input x weight scale), >= 0. Only the reference computes it."""
    output_bits: int = 0
    """Bits of the ADC, 2..16; 0: partial sums are neither clipped nor rounded, unless
    ``output_steps`` is set."""
    output_steps: int = 0
    """Steps of the ADC on each side of zero, >= 0; 0: ``2^(output_bits - 1) - 1``."""
    floors: int = 0
    """1: the ADC rounds toward zero, as one that counts whole steps does; 0: to the nearest step.
    Only the reference computes 1."""
    unit_bits: int = 0
    """Bits of a tile's digital unit, 2..16: ADC outputs are rounded once more, after their gain, in
    the ranges that the product is given; 0: they are not."""
    adc_range: float = 1.0
    """ADC range, > 0, in units of (full-scale input x weight scale), if the product is given none
    per output."""
    phases: int = 1
    """ADC outputs that are added up, with their signs, to one partial sum: 1; 2, one per sign of
    the inputs; or 4, one per pair of signs of inputs and weights. Each is clipped and rounded
    separately and has separate noise. Only the reference computes more than 1."""
    balanced: int = 0
    """1: each phase is read twice, the second time with the opposite sign at the ADC, and half the
    difference of both is its output; each read has its own noise. Only the reference computes 1."""
    output_noise: float = 0.0
    """Standard deviation of the noise of an ADC output, >= 0, in the same units."""
    read_noise: float = 0.0
    """Multiple of the standard deviation of the read noise of every MVM, >= 0; the variances of the
    weights are an operand."""
    weight_noise: float = 0.0
    """Standard deviation of the noise of a weight, >= 0, in units of (weight scale x
    ``spread``)."""
    spread: Spread = field(default_factory=Spread)
    """Dependence of that deviation on the weight."""
    steps: int = field(init=False, repr=False, compare=False)
    """Steps of the ADC on each side of zero; 0: no ADC."""
    noisy_sums: bool = field(init=False, repr=False, compare=False)
    """Whether partial sums have noise: output, read, shot noise, or that of pulses."""
    noisy: bool = field(init=False, repr=False, compare=False)
    """Whether an MVM needs keys."""
    ints: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """The integers as an operator takes them; ``plan_of`` reads them with ``floats``."""
    floats: tuple[float, ...] = field(init=False, repr=False, compare=False)
    """The numbers as an operator takes them."""
    _hash: int = field(init=False, repr=False, compare=False)
    unsliced: "Plan" = field(init=False, repr=False, compare=False)
    """The plan of the product of all pulses and columns: this one, unless there are slices."""
    at_once: "Plan" = field(init=False, repr=False, compare=False)
    """The plan of the product of all columns with inputs that are applied at once."""

    def __post_init__(self) -> None:
        from_0 = len(self.bounds) > 1 and self.bounds[0] == 0
        _check("bounds", self.bounds, from_0, "(0, ..., rows)")
        for name in ("bounds", "columns"):
            pairs = zip(getattr(self, name), getattr(self, name)[1:], strict=False)
            _check(name, getattr(self, name), all(a < b for a, b in pairs), "increasing")
        dims = len(self.stride)
        for name, least in (("stride", 1), ("dilation", 1), ("padding", 0)):
            given = getattr(self, name)
            fits = len(given) == dims and all(n >= least for n in given)
            _check(name, given, fits, f"{dims} integers >= {least}")
        _check("groups", self.groups, self.groups >= 1, "an integer >= 1")
        for name in ("input_bits", "output_bits", "unit_bits"):
            bits = getattr(self, name)
            _check(name, bits, bits == 0 or 2 <= bits <= 16, "from 2 to 16, or 0 for no converter")
        _check("floors", self.floors, self.floors in (0, 1), "0 or 1")
        _check("balanced", self.balanced, self.balanced in (0, 1), "0 or 1")
        _check("phases", self.phases, self.phases in (1, 2, 4), "1, 2 or 4")
        _check("output_steps", self.output_steps, self.output_steps >= 0, "an integer >= 0")
        steps = self.output_steps or levels(self.output_bits)
        object.__setattr__(self, "steps", steps)
        value = self.adc_range
        _check("adc_range", value, value > 0 and math.isfinite(value), "a positive number")
        fits = self.split == 0 or 0 < self.split < self.input_bits - 1
        _check("split", self.split, fits, "0, or from 1 to input_bits - 2")
        for name in ("output_noise", "read_noise", "weight_noise", "jitter", "shot"):
            std = getattr(self, name)
            _check(name, std, std >= 0 and math.isfinite(std), "a number >= 0")
        no_pulses = self.jitter > 0 and not self.input_bits
        _check("jitter", self.jitter, not no_pulses, "0 without input_bits")
        # made here and not when asked for: torch.compile reads them, and every call does
        noisy_sums = max(self.output_noise, self.read_noise, self.jitter, self.shot) > 0
        object.__setattr__(self, "noisy_sums", noisy_sums)
        object.__setattr__(self, "noisy", self.weight_noise > 0 or noisy_sums)
        ints, floats = encode(self)
        object.__setattr__(self, "ints", ints)
        object.__setattr__(self, "floats", floats)
        object.__setattr__(self, "_hash", hash((ints, floats)))
        at_once = unsliced = replace(self, slicing=Slicing()) if self.slicing.on else self
        if self.slicing.pulses(self.input_bits) > 1:
            unsliced = replace(at_once, input_bits=0)
        object.__setattr__(self, "at_once", at_once)
        object.__setattr__(self, "unsliced", unsliced)

    def __hash__(self) -> int:
        return self._hash

    @property
    def dims(self) -> int:
        """Spatial dimensions; 0 for a linear layer."""
        return len(self.stride)

    @property
    def reads(self) -> int:
        """Reads of each partial sum: the phases, twice if ``balanced``."""
        return self.phases * (1 + self.balanced)

    @property
    def signs(self) -> tuple[float, ...]:
        """Sign of each phase in the partial sum."""
        return (1.0, -1.0, -1.0, 1.0)[: self.phases]

    @property
    def exact(self) -> bool:
        """Whether the product is the digital one: no converter, no noise."""
        return not (self.input_bits or self.saturates or self.noisy or self.slicing.on)

    def noiseless(self) -> "Plan":
        """Return the plan without the noise of MVMs."""
        return replace(self, output_noise=0.0, read_noise=0.0, jitter=0.0, shot=0.0)

    def unconverted(self) -> "Plan":
        """Return the plan without the noise of MVMs, ADCs and digital unit."""
        return replace(self.noiseless(), output_bits=0, output_steps=0, floors=0, unit_bits=0)

    def digital(self) -> "Plan":
        """Return the plan of exact weights behind the same DACs: the target of corrections."""
        exact = replace(self.unconverted(), columns=(), slicing=Slicing(), phases=1, balanced=0)
        return replace(exact, first_output=0, total_outputs=0, weight_noise=0.0)

    @property
    def saturates(self) -> bool:
        """Whether a converter may clip an output: the ADC, or the digital unit."""
        return bool(self.steps or self.unit_bits)

    @property
    def shaped(self) -> bool:
        """Whether the noise of a weight depends on the weight."""
        return self.spread != Spread()


def _check(name: str, value: object, ok: bool, allowed: str) -> None:
    if not ok:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


@lru_cache(maxsize=4096)
def plan_of(ints: tuple[int, ...], floats: tuple[float, ...]) -> Plan:
    """Return the plan with these ``ints`` and ``floats``.

    Raises:
        ValueError: no plan has these numbers.
    """
    return decode(Plan, ints, floats)


def needs_reference(inputs: Operands, plan: Plan) -> bool:
    """Return whether no kernel computes this product, of whatever device.

    Kernels know neither several reads of a sum nor jitter or shot noise, no ADC that rounds toward
    zero, no converter with an INL, and no curvatures.
    """
    bent = inputs.adc_inl is not None or inputs.dac_inl is not None or inputs.curvatures is not None
    return bent or plan.reads > 1 or plan.floors > 0 or plan.jitter > 0 or plan.shot > 0
