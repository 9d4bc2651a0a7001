"""The converters of a chip: DACs on the rows, ADCs on the columns."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from analogtorch.chips.column_errors import column_error
from analogtorch.chips.inl import check_inl, larger
from analogtorch.chips.non_ideality import fewer_bits, fewer_steps, non_ideality, unchanged
from analogtorch.devices import register
from analogtorch.values import checks
from analogtorch.values.sources import Sources, check_sources

BITS = {"least": 2, "most": 16}
"""Smallest and largest number of bits of a converter or a digital unit."""
Rounding = Literal["nearest", "floor"]
Encoding = Literal["amplitude", "pulse_width"]


def levels(bits: int | None) -> int:
    """Return the steps of a converter on each side of zero: ``2^bits - 2`` in all, 0 without bits.

    Integers with a sign, such as weights in slices, have as many.
    """
    return 2 ** (bits - 1) - 1 if bits else 0


@register
@dataclass(frozen=True, kw_only=True)
class DAC:
    """The digital-to-analog converters on the rows.

    Their range belongs to the layer, as its ``input_range``. The first fields are in the order in
    which they act on an input. Kernels take ``gain_std``; with ``inl`` or ``jitter`` products run
    in plain torch.
    """

    bits: int | None = field(metadata=non_ideality("dac", absent=None, grown=fewer_bits))
    """Bits, sign included, 2..16: ``2^bits - 2`` steps over [-range, range]. None: inputs are not
    quantised."""
    inl: tuple[float, ...] | None = field(
        default=None, metadata=non_ideality("dac_inl", absent=None, behind="dac", grown=larger)
    )
    """Integral non-linearity (INL) in LSB, the same for all rows: how far each output lies above
    the straight line. An odd number of values, at least 3, that divide the codes from ``-levels``
    to ``levels`` evenly, with straight lines between. None: 0. It may nowhere fall by more than 1
    LSB per code, where outputs would turn back. Programmed chips have it; training and evaluation
    before do not."""
    gain_std: float = field(default=0.0, metadata=non_ideality("dac_gain", absent=0.0))
    """Standard deviation of the gain of a row's DAC around 1, >= 0. It is drawn once for each row
    of a tile of a manufactured chip, by its seed and physical position. Programmed chips have it;
    training and evaluation before do not."""
    jitter: float = field(
        default=0.0, metadata=non_ideality("dac_jitter", absent=0.0, behind="dac")
    )
    """Standard deviation of the duration of a pulse, in its LSB, >= 0, new for each pulse; needs
    ``encoding="pulse_width"``. An input of 0 has no pulse. Programmed chips and ``train()`` have
    it, as output noise with the variance ``sum_i (w_i x jitter)^2`` over the rows with a pulse,
    which is exact for each column; that the columns of a tile share their pulses is left out."""
    encoding: Encoding | None = None
    """How inputs drive the rows: by the ``amplitude`` of a voltage, or by the duration of a pulse
    (``pulse_width``); None: not stated."""
    split: int | None = None
    """Low bits of the magnitude that are a pulse of their own, 1 to ``bits - 2``; None: one pulse
    has all bits. The pulse of the other bits counts ``2^split`` times as much where both are added
    up, in analog, before the ADC. Split pulses take less time, see ``pulse_steps``, and the jitter
    of the high one counts ``2^split`` times. Needs ``encoding="pulse_width"``; without ``bits`` it
    has no effect."""
    lsb_time: float | None = None
    """Seconds of one LSB of a pulse, > 0; None: unknown."""
    sources: Sources = field(default=Sources(), compare=False)
    """Source of each number, by the name of its field."""

    def __post_init__(self) -> None:
        checks.counts(self, "bits", optional=True, **BITS)
        checks.numbers(self, "gain_std", "jitter", least=0)
        checks.numbers(self, "lsb_time", optional=True, above=0)
        if self.encoding is not None:
            checks.choice("DAC.encoding", self.encoding, get_args(Encoding))
        self._check_pulses()
        if self.inl is not None:
            if self.bits is None:
                raise ValueError(_needs_codes("DAC", "inl", self.inl, None, "bits"))
            checks.settle(self, "inl", check_inl("DAC.inl", self.inl, self.levels, -1.0))
        check_sources(self)

    def _check_pulses(self) -> None:
        """Check the fields that need pulses."""
        for name, absent in (("jitter", 0.0), ("split", None), ("lsb_time", None)):
            value = getattr(self, name)
            if value == absent:
                continue
            if self.encoding != "pulse_width":
                raise ValueError(
                    f"DAC.{name}={checks.shown(value)} is that of pulses: it needs "
                    f"encoding='pulse_width', got {self.encoding!r}"
                )
            if self.bits is None and name == "jitter":
                raise ValueError(_needs_codes("DAC", name, value, absent, "bits"))
        if self.split is not None and self.bits is not None:
            if self.bits < 3:
                raise ValueError(
                    f"DAC.split={self.split!r} needs two bits of magnitude, got bits={self.bits}; "
                    "leave split None"
                )
            checks.counts(self, "split", most=self.bits - 2)

    @property
    def levels(self) -> int:
        """Steps on each side of zero; 0: inputs are not quantised."""
        return levels(self.bits)

    @property
    def pulse_steps(self) -> int:
        """LSBs that the longest input takes: ``2^(bits - 1) - 1``, or the sum of both pulses."""
        if self.split is None or self.bits is None:
            return self.levels
        return 2**self.split - 1 + 2 ** (self.bits - 1 - self.split) - 1


@register
@dataclass(frozen=True, kw_only=True)
class ADC:
    """The analog-to-digital converters on the columns, with the noise before them.

    The first fields are in the order in which they act on a partial sum. ``bits`` or ``steps`` sets
    the resolution, never both. With neither there is no ADC: partial sums are passed on unrounded
    and unclipped.

    The kinds of ADC that chips have are combinations of the fields. A SAR ADC has
    ``capacitor_std``; a ramp that all columns of a tile share has ``slope_std`` and the ``inl`` of
    the ramp, and its comparators ``offset_std``; a counter of an oscillator (CCO) or of clock
    cycles has ``rounding="floor"``. Kernels take ``gain_std``, ``slope_std`` and ``offset_std``;
    chips with the others run in plain torch.
    """

    gain_std: float = field(
        default=0.0,
        metadata=non_ideality("adc_gain", absent=0.0) | column_error("gain", ideal=1.0, least=0.1),
    )
    """Standard deviation of the gain of a column's ADC around 1, >= 0. It is drawn once for each
    column of a manufactured chip, by its seed and physical position. Programmed chips have it;
    training and evaluation before do not."""
    slope_std: float = field(default=0.0, metadata=non_ideality("adc_slope", absent=0.0))
    """Standard deviation of the slope of the ramp that the columns of a tile share, around 1, >= 0:
    a gain of the whole tile beside ``gain_std``, drawn as that is, by seed and tile."""
    offset_std: float = field(
        default=0.0,
        metadata=non_ideality("adc_offset", absent=0.0) | column_error("offset", ideal=0.0),
    )
    """Standard deviation of the offset of a column's ADC around 0, >= 0, in units of ``range``. It
    is drawn as the gain is, and added to every partial sum of the column before the ADC clips and
    rounds it. Gains per column do not take it back; ``analogtorch.correct_columns`` does."""
    noise: float = field(default=0.0, metadata=non_ideality("output_noise", absent=0.0))
    """Output noise: standard deviation of the noise of one partial sum, before rounding, in the
    units of ``range``, >= 0."""
    inl: tuple[float, ...] | None = field(
        default=None, metadata=non_ideality("adc_inl", absent=None, behind="adc", grown=larger)
    )
    """Integral non-linearity (INL) in LSB, the same for all columns: an odd number of values, at
    least 3, that divide the codes from ``-levels`` to ``levels`` evenly, with straight lines
    between; ``2 levels + 1`` values are one for each code. Positive where codes are too large: the
    code transition level lies that far below the ideal one (IEEE Std 1241). None: 0. It may nowhere
    rise by more than 1 LSB per code, where widths of codes would be negative. Programmed chips have
    it; training and evaluation before do not."""
    dnl_std: float = field(default=0.0, metadata=non_ideality("adc_dnl", absent=0.0, behind="adc"))
    """Standard deviation of the differential non-linearity (DNL), in LSB, >= 0: the widths of the
    codes of a column differ independently, and its INL is their sum, with both ends at 0. A width
    ends at 0, where a code is missing. It is drawn as the gain is, for each column and code, and a
    programmed chip keeps ``2 levels`` numbers for each column of each row block: with 8 bits as
    much memory as for 254 weights of it, in float32."""
    capacitor_std: float = field(
        default=0.0, metadata=non_ideality("adc_capacitors", absent=0.0, behind="adc")
    )
    """Standard deviation of the unit capacitor of a SAR ADC, relative to its mean, >= 0. The
    capacitor of a bit consists of ``2^i`` units, so that its own is ``2^(i/2)`` units: the largest
    steps lie where high bits change, above all at 0. Drawn and kept as ``dnl_std``, with ``bits``
    numbers per column. Needs ``bits``, and rounding to the nearest step."""
    bits: int | None = field(
        default=None, metadata=non_ideality("adc", absent=None, grown=fewer_bits)
    )
    """Bits, sign included, 2..16: ``2^bits - 2`` steps over [-range, range]."""
    steps: int | None = field(
        default=None, metadata=non_ideality("adc", absent=None, grown=fewer_steps)
    )
    """Steps on each side of zero, >= 1, of an ADC whose number of steps is no power of two."""
    rounding: Rounding = field(
        default="nearest", metadata=non_ideality("adc", absent="nearest", grown=unchanged)
    )
    """``nearest``: the ADC rounds to the nearest step; a sum in the middle of two goes to either,
    by the last bit of its arithmetic. ``floor``: it counts whole steps of the magnitude, as a
    counter of an oscillator's periods does, so that outputs are rounded toward 0. As resolution,
    it is a part of evaluation and training too."""
    range: float = 12.0
    """ADC range in units of (full-scale input x largest conductance), > 0. The chip fixes it, but a
    layer may have others: see ``analogtorch.calibrate``."""
    separate_phases: bool = False
    """Whether each phase of an MVM, or pass of one sign of the inputs, has its own ADC output.

    Such an output is clipped and rounded alone, with its own output noise, and then added digitally
    with its sign. The chip's ``cost`` defines the phases: with 4 ``phases`` there is one per pair
    of signs of inputs and weights, where each polarity of a cell is read alone; with 2
    ``signed_passes`` one per sign of the inputs, even if no input is negative; else none. It
    multiplies the work, and runs in plain torch, without the kernels: a forward takes 4 to 9 times
    longer with two outputs and 6 to 20 times with four.

    Errors of an MVM as measured by ``python -m benchmarks.phases``, with 256x256 Gaussian weights
    and uniform inputs, one output against separate ones: 1.06 and 1.24 % on ``hermes64`` with exact
    devices, 18.75 and 18.77 % a day after programming; 2.22 and 3.13 %, 19.37 and 19.62 % on
    ``ibm_speech34``, which then has output noise twice. With weights that are uniform in [-1, 1]
    (``--weights uniform``) it decides: the phases of ``hermes64`` add up weights of one sign and
    overflow its ADC, so that 7 % become 97 %, while the passes of ``ibm_speech34`` stay within the
    range that one output leaves: 13 % become 4 %. Phases also read the reference of an
    ``OffsetCell``, and the current of empty devices whose ``g_min`` is above 0, before, in and
    after training. After programming, a chip fits its gains with one ADC output per partial sum in
    either case.
    """
    asymmetry_balance: bool = False
    """Whether each partial sum is read twice, the second time with exchanged polarities (asymmetry
    balance, AB; Ambrogio et al., Nature 620, 768 (2023)).

    In the second read the same sum, with all that acts before the ADC, arrives with the opposite
    sign, while the ADC stays as it is: the output is half the difference of both reads. This
    cancels offsets of columns and the even part of an INL. Each read has its own output noise, read
    noise and jitter, of which ``1 / sqrt(2)`` is left, and is clipped and rounded alone. Each MVM
    takes twice the time and energy.

    Programmed chips and ``train()`` have it; ``eval()`` before programming has nothing that it
    would change. Column calibration and ``least_squares`` compensation read with it; single cells,
    and the reads that programming verifies with, are read once. Chips with it run in plain torch,
    without the kernels. It needs fewer than 4 ``phases``, in which each polarity is read alone."""
    sources: Sources = field(default=Sources(), compare=False)
    """Source of each number, by the name of its field."""

    def __post_init__(self) -> None:
        spreads = ("gain_std", "slope_std", "offset_std", "noise", "dnl_std", "capacitor_std")
        checks.numbers(self, *spreads, least=0)
        checks.counts(self, "bits", optional=True, **BITS)
        checks.counts(self, "steps", optional=True)
        checks.numbers(self, "range", above=0)
        checks.choice("ADC.rounding", self.rounding, get_args(Rounding))
        checks.flag("ADC.separate_phases", self.separate_phases)
        checks.flag("ADC.asymmetry_balance", self.asymmetry_balance)
        if self.bits is not None and self.steps is not None:
            raise ValueError(
                f"ADC takes bits or steps, never both, got bits={self.bits} and "
                f"steps={self.steps}: steps is how fine the ADC is where that is no power of two. "
                "Set the other one to None; bits behind the ADC are Periphery.output_bits"
            )
        self._check_codes()
        check_sources(self)

    def _check_codes(self) -> None:
        """Check the fields that need codes."""
        absent = {"inl": None, "dnl_std": 0.0, "capacitor_std": 0.0, "rounding": "nearest"}
        for name, value in absent.items():
            given = getattr(self, name)
            if given != value and not self.levels:
                raise ValueError(_needs_codes("ADC", name, given, value, "bits and steps"))
        if self.capacitor_std and self.bits is None:
            raise ValueError(
                f"ADC.capacitor_std={self.capacitor_std:g} is that of a capacitor for each bit: "
                f"give bits, got steps={self.steps}; codes of other ADCs differ by dnl_std"
            )
        if self.capacitor_std and self.rounding != "nearest":
            raise ValueError(
                f"ADC.capacitor_std={self.capacitor_std:g} is that of a SAR ADC, which has "
                f"rounding='nearest', got {self.rounding!r}"
            )
        if self.inl is not None:
            checks.settle(self, "inl", check_inl("ADC.inl", self.inl, self.levels, 1.0))

    @property
    def reads(self) -> int:
        """Reads that are averaged to one ADC output: 1, or 2 with ``asymmetry_balance``."""
        return 2 if self.asymmetry_balance else 1

    @property
    def curved(self) -> bool:
        """Whether code transitions lie elsewhere than at the ideal levels."""
        return self.inl is not None or self.dnl_std > 0 or self.capacitor_std > 0

    @property
    def levels(self) -> int:
        """Steps on each side of zero, from ``bits`` or ``steps``; 0: there is no ADC."""
        if self.bits is not None:
            return levels(self.bits)
        return self.steps or 0


def _needs_codes(part: str, name: str, given: object, absent: object, fields: str) -> str:
    """Return the message that a field of a converter without codes deserves."""
    several = " and " in fields
    return (
        f"{part}.{name}={checks.shown(given)} needs codes, but {fields} "
        f"{'are None; give one of them' if several else 'is None; give it'}, or {name}={absent!r}"
    )
