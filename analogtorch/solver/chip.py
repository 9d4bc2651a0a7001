"""What a solver chip is: an inverse circuit, bit-sliced MVMs, a cell and costs, as frozen parts."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from analogtorch.chips.change import changed
from analogtorch.chips.cost import Figure
from analogtorch.devices import Cell, register
from analogtorch.devices.cell import check_cell, is_signed
from analogtorch.values import checks
from analogtorch.values.shown import Shown
from analogtorch.values.sources import Sources, check_sources

Circuit = Literal["inverse", "least_squares"]
Schur = Literal["digital", "analog"]
Multiplies = Literal["solution", "correction"]
Corrections = Literal["combined", "added"]

MOST_BITS = 48
"""Of an element of the matrix, and of an input, in the MVMs."""


@register
@dataclass(frozen=True, kw_only=True)
class InverseCircuit:
    """Arrays in the feedback of operational amplifiers, which settle at ``inv(A0) b``.

    ``A0`` is the matrix as the arrays hold it, with few levels. With the gain-bandwidth product
    ``f`` of the amplifiers, and ``U`` the diagonal matrix that divides each row by 1 + the sum of
    its magnitudes, outputs follow ``dx/dt = 2 pi f U (b - A0 x)`` from 0 on (Sun et al., TED 67,
    2945 (2020)). They settle only if all eigenvalues of ``U A0`` have positive real parts.
    """

    size: int | None = 8
    """Rows and columns of an array; larger systems are cut into blocks (BlockAMC). None: any."""
    bits: int | None = 3
    """Bits of the magnitude of a matrix element in one array, 1..8; None: exact."""
    slices: int = 1
    """Arrays whose currents add up to one matrix, each with ``bits`` of its elements; bits x slices
    may be 24 at most."""
    circuit: Circuit = "inverse"
    """``inverse``: one array, one stage of amplifiers. ``least_squares``: two arrays with the same
    matrix, one of them transposed, and two stages; it settles for every matrix that has an inverse,
    with the eigenvalues of the product of both (Sun et al., Sci. Adv. 6, eaay2378 (2020))."""
    schur: Schur = "digital"
    """How Schur complements of blocks are found before they are programmed: ``digital``, exactly,
    at about the cost of a digital LU; or ``analog``, column by column, by the inverse circuit of
    the block before and an MVM behind it, with their converters."""
    input_bits: int | None = 4
    """Bits of the DACs at the inputs, sign included, 2..16; None: exact."""
    output_bits: int | None = 8
    """Bits of the ADCs at the outputs, sign included, 2..16; None: exact."""
    bandwidth: float = 100e6
    """Gain-bandwidth product of the amplifiers, Hz, > 0."""
    settling_time: float | None = 200e-9
    """Seconds from the inputs to the ADCs, > 0; None: outputs have settled, whatever it takes."""
    sources: Sources = field(default=Sources(), compare=False)
    """Source of each number, by the name of its field."""

    def __post_init__(self) -> None:
        checks.counts(self, "size", optional=True)
        checks.counts(self, "bits", optional=True, least=1, most=8)
        checks.counts(self, "slices", least=1, most=24 // (self.bits or 1))
        checks.choice("InverseCircuit.circuit", self.circuit, get_args(Circuit))
        checks.choice("InverseCircuit.schur", self.schur, get_args(Schur))
        checks.counts(self, "input_bits", "output_bits", optional=True, least=2, most=16)
        checks.numbers(self, "bandwidth", above=0)
        checks.numbers(self, "settling_time", optional=True, above=0)
        check_sources(self)

    @property
    def arrays(self) -> int:
        """Arrays of the circuit of one block."""
        return self.slices * (2 if self.circuit == "least_squares" else 1)


@register
@dataclass(frozen=True, kw_only=True)
class SlicedMVM:
    """Bit-sliced MVMs: arrays that each hold one digit of the matrix, driven digit by digit.

    The ADC of each column counts: its steps are one unit of the digits apart, so that errors of the
    cells below half a unit vanish. The counts are shifted and added digitally.
    """

    bits: int | None = 24
    """Bits of the magnitude of a matrix element, in fixed point below the largest of the matrix,
    1..48; None: exact."""
    bits_per_slice: int = 3
    """Bits of a matrix element that one array holds, 1..8."""
    input_bits: int = 32
    """Bits of the magnitude of an input, in fixed point, 1..48. They hold the solution, so they are
    more than the bits of the matrix by those of its condition number."""
    bits_per_pulse: int = 1
    """Bits of an input that one pulse applies, 1..8."""
    rows: int = 8
    """Rows whose currents one ADC output adds up, >= 1; sums of more rows are added digitally."""
    multiplies: Multiplies = "solution"
    """What a pass multiplies by the matrix. ``solution``: the whole solution, ``r = b - A x``.
    ``correction``: the last correction alone, ``r = r - A d``, whose ``output_bits - 1`` bits take
    far fewer pulses; a wrong count then stays in the residual, which the digital check finds."""
    noise: float = 0.0
    """Standard deviation of a column's sum before its ADC, in counts, >= 0, new in each MVM, of the
    passes of a solution as of products; by the seed, so that a solution repeats."""
    sources: Sources = field(default=Sources(), compare=False)
    """Source of each number, by the name of its field."""

    def __post_init__(self) -> None:
        checks.counts(self, "bits", optional=True, least=1, most=MOST_BITS)
        checks.counts(self, "bits_per_slice", "bits_per_pulse", least=1, most=8)
        checks.counts(self, "input_bits", least=1, most=MOST_BITS)
        checks.counts(self, "rows")
        checks.choice("SlicedMVM.multiplies", self.multiplies, get_args(Multiplies))
        checks.numbers(self, "noise", least=0)
        check_sources(self)

    @property
    def slices(self) -> int:
        """Arrays that hold one matrix element; 1 where the matrix is exact."""
        return 1 if self.bits is None else -(-self.bits // self.bits_per_slice)

    def pulses(self, bits: int) -> int:
        """Return the MVMs of one vector of this many bits; 1 where the matrix is exact."""
        return 1 if self.bits is None else -(-bits // self.bits_per_pulse)

    @property
    def full_count(self) -> int:
        """The largest sum of a column, in counts."""
        return self.rows * (2**self.bits_per_slice - 1) * (2**self.bits_per_pulse - 1)


@register
@dataclass(frozen=True, kw_only=True)
class SolverCost:
    """Time and energy of the parts of a solver chip, and of the digital unit that it is set beside.

    What it leaves out: programming the arrays, registers, control and leakage.
    """

    mvm_time: Figure
    """Seconds of one pulse through an array, with its ADC."""
    amplifier_power: Figure
    """W of one operational amplifier, while its circuit settles."""
    read_power: Figure
    """W of one device at half its largest conductance, while its row is driven."""
    drive_energy: Figure
    """J of one pulse on one row of one array."""
    dac_energy: Figure
    """J of one input of an inverse circuit."""
    count_energy: Figure
    """J of one ADC output of a column of a bit-sliced MVM."""
    adc_energy: Figure
    """J of one ADC output of an inverse circuit."""
    add_energy: Figure
    """J of shifting and adding one count."""
    digital_energy: Figure
    """J of one digital multiplication and addition of 32 bits."""
    digital_rate: Figure
    """Digital multiplications and additions per second, > 0."""

    def __post_init__(self) -> None:
        for each in fields(self):
            name = f"SolverCost.{each.name}"
            example = "Figure(value=1e-12, kind='assumed', source='an estimate')"
            checks.instance(name, getattr(self, each.name), Figure, example)
        if self.digital_rate.value == 0:
            raise ValueError("SolverCost.digital_rate must be above 0, got 0.0")


@register
@dataclass(frozen=True, kw_only=True)
class SolverChip(Shown):
    """A chip that solves matrix equations: a rough analog inverse, refined with precise MVMs.

    Each part holds the source of each of its numbers, such as ``chip.inverse.sources["bits"]``;
    presets mark there what they assume. ``replace`` makes a changed chip.
    """

    name: str
    """Name for reports."""
    cell: Cell
    """The unit cell, of both signs; it follows the protocol ``devices.Cell``."""
    inverse: InverseCircuit = field(default_factory=InverseCircuit)
    """The rough analog inverse."""
    mvm: SlicedMVM = field(default_factory=SlicedMVM)
    """The precise MVMs of the residual."""
    corrections: Corrections = "combined"
    """What becomes of the correction of each pass. ``combined``: with those of the passes before
    it, digitally, so that the residual is the least that all can leave together. ``added``: to the
    solution, which converges if the spectral radius of ``I - A M`` is below 1."""
    cells: int | None = None
    """Devices on the chip, >= 1, which bound the size of a system; None: no bound."""
    cost: SolverCost | None = None
    """Time and energy; None: unknown, and solutions have none."""
    sources: Sources = field(default=Sources(), compare=False)
    """Sources of the fields that are no parts with sources."""

    def __post_init__(self) -> None:
        checks.text("SolverChip.name", self.name, "my chip")
        check_cell("SolverChip.cell", self.cell)
        if not is_signed(self.cell):
            raise ValueError(
                f"SolverChip.cell: {type(self.cell).__name__} holds no negative matrix elements; "
                "give another cell, such as DifferentialPair"
            )
        checks.instance("SolverChip.inverse", self.inverse, InverseCircuit, "InverseCircuit()")
        checks.instance("SolverChip.mvm", self.mvm, SlicedMVM, "SlicedMVM()")
        checks.choice("SolverChip.corrections", self.corrections, get_args(Corrections))
        checks.counts(self, "cells", optional=True, largest=checks.INT64)
        if self.mvm.multiplies == "correction" and self.inverse.output_bits is None:
            raise ValueError(
                "SlicedMVM.multiplies='correction' takes the bits of the inverse circuit's ADCs: "
                "give inverse={'output_bits': 8}, or mvm={'multiplies': 'solution'}"
            )
        if self.cost is not None:
            checks.instance("SolverChip.cost", self.cost, SolverCost, "that of rram_solver()")
        check_sources(self)

    @property
    def pulses(self) -> int:
        """MVMs of one vector in a pass; 1 where the matrix is exact."""
        if self.mvm.multiplies == "solution" or self.inverse.output_bits is None:
            return self.mvm.pulses(self.mvm.input_bits)
        return self.mvm.pulses(self.inverse.output_bits - 1)

    def replace(self, **changes: Any) -> "SolverChip":
        """Return the chip with other parts, each given whole or as a mapping of fields to change.

        A changed field loses its source, unless ``sources`` among the fields gives it a new one.

        Raises:
            ValueError: a part or field does not exist, where the nearest one is named, or refuses
                the value.
            TypeError: a whole part is of another type.

        Example:
            >>> chip = at.solver.rram_solver().replace(inverse={"slices": 2})
        """
        return changed(self, changes, "chip")
