"""Bit slices: weights held digit by digit in several columns, inputs applied pulse by pulse."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch

from analogtorch.chips.converters import levels
from analogtorch.chips.non_ideality import non_ideality
from analogtorch.devices import register
from analogtorch.devices.cell import conductances_as_written, is_signed
from analogtorch.values import checks
from analogtorch.values.sources import Sources, check_sources

Signs = Literal["magnitude", "complement"]


@dataclass(frozen=True, kw_only=True)
class Slicing:
    """The digits of weights and inputs as numbers: ``Slices`` in the form that an operator takes.

    A weight of full scale is the integer ``weight_steps``. A slice holds a digit of it, from the
    least significant on, and a column of full digits counts ``slice_factors`` times.
    """

    weight_bits: int = 0
    """Bits of a weight, sign included; 0: a weight lies in one column, as it is."""
    bits_per_slice: int = 1
    """Bits of a digit of a weight."""
    complement: int = 0
    """1: two's complement, whose sign bit has a slice of its own; 0: digits with a sign."""
    bits_per_pulse: int = 0
    """Bits of a digit of an input; 0: an input is applied at once."""

    @property
    def on(self) -> bool:
        """Whether weights or inputs are cut into digits."""
        return bool(self.weight_bits or self.bits_per_pulse)

    @property
    def weight_steps(self) -> int:
        """Steps of a weight on each side of zero; 0 without slices of weights."""
        return levels(self.weight_bits)

    @property
    def full_digit(self) -> int:
        """The largest digit of a slice, which takes the full conductance."""
        return 2**self.bits_per_slice - 1

    @property
    def digits(self) -> int:
        """Slices that hold the magnitude, or the bits below the sign bit."""
        return -(-(self.weight_bits - 1) // self.bits_per_slice)

    @property
    def columns(self) -> int:
        """Columns that hold a weight; 1 without slices."""
        return self.digits + self.complement if self.weight_bits else 1

    @property
    def slice_factors(self) -> tuple[float, ...]:
        """What each column of a weight counts for in units of the weight at full scale."""
        if not self.weight_bits:
            return (1.0,)
        steps = self.weight_steps
        found = [
            self.full_digit * 2 ** (self.bits_per_slice * i) / steps for i in range(self.digits)
        ]
        return (*found, *[-(2 ** (self.weight_bits - 1)) / steps] * self.complement)

    def pulses(self, input_bits: int) -> int:
        """Return the number of pulses of an input from a DAC of this many bits."""
        if not self.bits_per_pulse:
            return 1
        return -(-(input_bits - 1) // self.bits_per_pulse)

    def pulse_factors(self, input_bits: int) -> tuple[float, ...]:
        """Return what each pulse counts for in units of the input at full scale."""
        count = self.pulses(input_bits)
        if count == 1:
            return (1.0,)
        full, steps = 2**self.bits_per_pulse - 1, levels(input_bits)
        return tuple(full * 2 ** (self.bits_per_pulse * i) / steps for i in range(count))


def _no_more(bits: int, factor: float) -> int:
    """Refuse: pulses are there or not."""
    raise ValueError(
        f"input pulses of {bits} bits have no size to change by {factor:g}; leave them out, or "
        "give other slices.bits_per_pulse"
    )


@register
@dataclass(frozen=True, kw_only=True)
class Slices:
    """How weights and inputs are cut into digits, which the digital unit shifts and adds.

    Each column and each pulse has its own ADC output, with its rounding and its noise. The digital
    unit multiplies them by powers of two and adds them up, so that cost and computing time grow
    with the number of columns of a weight times the pulses of an input. Source: Shafiee et al.,
    ISCA 2016.
    """

    weight_bits: int | None = None
    """Bits of a weight, sign included, 2..16: ``2^bits - 2`` steps over the range of its block or
    column. None: each weight lies in one column, and its conductance is not quantised."""
    bits_per_slice: int = 1
    """Bits of a weight that one column holds, 1..8; 1: binary cells."""
    signs: Signs = "magnitude"
    """``magnitude``: the digits of the magnitude, each with the sign of the weight, so that 8 bits
    are 7 columns of 1 bit or 4 of 2; the unit cell holds the sign. ``complement``: the bits of the
    two's complement, of which the sign bit has a column of its own, so that 8 bits are 8 columns of
    1 bit; no cell holds a negative digit."""
    bits_per_pulse: int | None = field(
        default=None,
        metadata=non_ideality("input_pulses", absent=None, behind="dac", grown=_no_more),
    )
    """Bits of the magnitude of an input that one MVM takes, 1..8: a DAC of 8 bits (``DAC.bits``,
    sign included) and 1 bit per pulse take 7 MVMs per input, each with the sign of the input. None:
    the DAC applies an input at once."""
    sources: Sources = field(default=Sources(), compare=False)
    """Source of each number, by the name of its field."""

    def __post_init__(self) -> None:
        checks.counts(self, "weight_bits", optional=True, least=2, most=16)
        checks.counts(self, "bits_per_slice", least=1, most=8)
        checks.choice("Slices.signs", self.signs, get_args(Signs))
        checks.counts(self, "bits_per_pulse", optional=True, least=1, most=8)
        if self.weight_bits is None:
            slices = "slices of the weights: give weight_bits, such as 8"
            checks.idle(self, "bits_per_slice", "signs", without=slices)
        elif self.bits_per_slice > self.weight_bits - 1:
            raise ValueError(
                f"Slices.bits_per_slice={self.bits_per_slice} is more than the magnitude of "
                f"weight_bits={self.weight_bits}; give at most {self.weight_bits - 1}"
            )
        check_sources(self)

    @property
    def slicing(self) -> Slicing:
        """The digits in the form that the operator takes."""
        return Slicing(
            weight_bits=self.weight_bits or 0,
            bits_per_slice=self.bits_per_slice if self.weight_bits else 1,
            complement=int(bool(self.weight_bits) and self.signs == "complement"),
            bits_per_pulse=self.bits_per_pulse or 0,
        )


def check_slices(chip: Any) -> None:
    """Raise ValueError unless the parts of ``chip`` fit its slices."""
    slices = chip.slices.slicing
    if slices.bits_per_pulse and chip.dac.bits is None:
        raise ValueError(
            f"Slices.bits_per_pulse={slices.bits_per_pulse} needs a DAC whose bits it divides, but "
            "DAC.bits is None; give it bits, such as dac={'bits': 8}, or bits_per_pulse=None"
        )
    for name, absent in (("inl", None), ("jitter", 0.0), ("split", None)):
        given = getattr(chip.dac, name)
        if slices.bits_per_pulse and given != absent:
            raise ValueError(
                f"DAC.{name}={checks.shown(given)} is that of inputs applied at once; with "
                f"Slices.bits_per_pulse={slices.bits_per_pulse} give dac={{{name!r}: {absent!r}}}"
            )
    if slices.on and chip.periphery.output_bits is not None:
        raise ValueError(
            f"Periphery.output_bits={chip.periphery.output_bits} rounds each ADC output before "
            "slices and pulses are shifted and added, which would lose their low digits; give "
            "periphery={'output_bits': None} to a chip with slices"
        )
    if slices.columns > chip.array.columns:
        raise ValueError(
            f"Slices: a weight takes {slices.columns} columns, and Array.columns is "
            f"{chip.array.columns}; give fewer weight_bits or more bits_per_slice"
        )
    if not ((slices.weight_bits and slices.complement) or is_signed(chip.cell)):
        raise ValueError(
            f"Chip.cell: {type(chip.cell).__name__} holds no negative weights; hold them in two's "
            "complement, slices={'weight_bits': 8, 'signs': 'complement'}, or give another cell, "
            "such as DifferentialPair"
        )
    if slices.weight_bits:
        _check_digits(chip, slices)


def _check_digits(chip: Any, slices: Slicing) -> None:
    """Raise ValueError unless the cell holds each digit of a slice."""
    full = slices.full_digit
    least = 0 if slices.complement else -full
    # whatever the default device and mode are
    with torch.inference_mode(False), torch.no_grad():
        digits = torch.arange(least, full + 1, dtype=torch.float64, device="cpu")
        held = chip.cell.weights(conductances_as_written(chip.cell, digits / full)) * full
    wrong = (held - digits).abs() > 0.25
    if wrong.any():
        digit = int(digits[wrong][0])
        raise ValueError(
            f"Slices: a column of {slices.bits_per_slice} bits holds the digits {least} to {full}, "
            f"and {type(chip.cell).__name__} would hold {held[wrong][0].item():.3g} in place of "
            f"{digit}; give another cell, bits_per_slice=1 for cells of two states, or "
            "signs='complement' for cells without a sign"
        )
