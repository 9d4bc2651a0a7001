"""The description of a chip: named parts that define noise, programming, drift and converters."""

import math
from dataclasses import dataclass, field
from typing import Any

from analogtorch.chips.array import Array
from analogtorch.chips.change import changed, new_value
from analogtorch.chips.converters import ADC, DAC
from analogtorch.chips.cost import Cost
from analogtorch.chips.expansion import Expansion
from analogtorch.chips.iv_curve import IVCurve, check_iv
from analogtorch.chips.light import Light
from analogtorch.chips.non_idealities import non_idealities, scaled, without
from analogtorch.chips.periphery import Periphery
from analogtorch.chips.read_noise import MVMReadNoise
from analogtorch.chips.slices import Slices, check_slices
from analogtorch.chips.thermal import Thermal
from analogtorch.chips.training import TrainingNoise
from analogtorch.chips.wires import Wires
from analogtorch.devices import Cell, DriftAware, register, seconds
from analogtorch.devices.cell import check_cell, is_paired
from analogtorch.devices.device import beyond
from analogtorch.devices.drift_aware import bare
from analogtorch.values import checks
from analogtorch.values.shown import Shown
from analogtorch.values.sources import Sources, check_sources
from analogtorch.values.warned import warn


@register
@dataclass(frozen=True, kw_only=True)
class Chip(Shown):
    """An analog in-memory-computing chip: tiles of cells with DACs on rows and ADCs on columns.

    Each part holds the source of each of its numbers, such as ``chip.adc.sources["range"]``.
    Presets mark there what they assume. ``print(chip)`` lists values and sources. Chips whose
    numbers are equal are equal, whatever their sources. ``replace`` makes a changed chip.
    """

    name: str
    """Name for reports."""
    array: Array
    """The arrays of unit cells."""
    dac: DAC
    """The converters on the rows."""
    expansion: Expansion = field(default_factory=Expansion)
    """Weight expansion: matrices on more rows than they have inputs; none unless given."""
    light: Light = field(default_factory=Light)
    """The light that the inputs of a sensor are; they are none unless given."""
    slices: Slices = field(default_factory=Slices)
    """How weights and inputs are cut into digits; not at all unless given."""
    cell: Cell
    """The unit cell, which holds one weight or slice; it follows the protocol ``devices.Cell``."""
    iv: IVCurve = field(default_factory=IVCurve)
    """How currents of devices bend over the voltage of the inputs; straight unless given."""
    thermal: Thermal = field(default_factory=Thermal)
    """How conductances depend on temperature; not at all unless given."""
    wires: Wires = field(default_factory=Wires)
    """The wires of a tile; ideal unless given."""
    mvm_read_noise: MVMReadNoise = field(default_factory=MVMReadNoise)
    """The read noise that each device has anew in every MVM; none unless given."""
    adc: ADC
    """The converters on the columns, with the noise before them."""
    periphery: Periphery = field(default_factory=Periphery)
    """The digital unit behind the ADCs."""
    cost: Cost | None = None
    """Time and energy of an MVM; None: unknown, and nothing that needs it can be computed."""
    training: TrainingNoise = field(default_factory=TrainingNoise)
    """Noise of HWA training."""
    sources: Sources = field(default=Sources(), compare=False)
    """Sources of fields that are no parts with sources, such as ``training``. The entry ``name``
    holds sources of the whole description, such as those in files of version 1."""

    def __post_init__(self) -> None:
        checks.text("Chip.name", self.name, "my chip")
        for name, kind in (
            ("array", Array),
            ("dac", DAC),
            ("expansion", Expansion),
            ("light", Light),
            ("slices", Slices),
            ("iv", IVCurve),
            ("thermal", Thermal),
            ("wires", Wires),
            ("mvm_read_noise", MVMReadNoise),
            ("adc", ADC),
            ("periphery", Periphery),
            ("training", TrainingNoise),
        ):
            checks.instance(f"Chip.{name}", getattr(self, name), kind, f"{kind.__name__}(...)")
        check_cell("Chip.cell", self.cell)
        if not (self.wires.ideal or is_paired(self.cell)):
            raise ValueError(
                f"Chip.wires: IR drop is known for cells of one column per polarity, such as "
                f"DifferentialPair; {type(self.cell).__name__} has others. Give "
                "wires=analogtorch.chips.Wires(), without resistance, or another cell"
            )
        if self.cost is not None:
            checks.instance("Chip.cost", self.cost, Cost, "that of hermes64(), or None")
        check_sources(self)
        check_slices(self)
        check_iv(self)
        if self.wires.by_input and self.slices.slicing.on:
            raise ValueError(
                f"Chip.wires: model={self.wires.model!r} is not known for slices, whose gradients "
                "would miss the drop; set wires={'model': 'ladder'}, or slices=Slices()"
            )
        if self.adc.separate_phases:
            _check_phases(self.cost)
        if self.adc.asymmetry_balance and self.phases == 4:
            raise ValueError(
                "ADC.asymmetry_balance=True exchanges the polarities of a partial sum, but each of "
                "the 4 separate phases of this chip is that of one polarity: give "
                "adc={'asymmetry_balance': False} or adc={'separate_phases': False}"
            )
        if self.periphery.output_bits is not None and not self.adc.levels:
            raise ValueError(
                f"Periphery.output_bits={self.periphery.output_bits} needs an ADC before it, but "
                "ADC.bits and ADC.steps are None; give one of them, or output_bits=None"
            )
        if self.training.weight == "device" and self.training.time is not None:
            for time in self.training.times:
                if note := beyond(self.cell.device, seconds(time)):
                    warn(f"{self.name}: TrainingNoise.time={time!r} is {note}")

    @property
    def output_noise(self) -> float:
        """Standard deviation of the noise of one partial sum, in the units of ``adc.range``.

        It is that before the ADC and, of a sensor, that of the dark current of all its rows.
        """
        return math.hypot(self.adc.noise, self.light.dark_std(self.array.rows))

    @property
    def phases(self) -> int:
        """Number of ADC outputs of one partial sum: 1, or with ``adc.separate_phases`` 2 or 4."""
        if not self.adc.separate_phases or self.cost is None:
            return 1
        return self.cost.phases if self.cost.phases > 1 else self.cost.signed_passes

    @property
    def costs(self) -> Cost:
        """``cost``, for what cannot do without it.

        Raises:
            ValueError: there is none.
        """
        if self.cost is None:
            raise ValueError(
                f"chip {self.name!r} has no cost; give it one: chip.replace(cost=...), or take a "
                "preset that has one, such as analogtorch.chips.hermes64()"
            )
        return self.cost

    @property
    def pulses(self) -> int:
        """Number of MVMs of one input: 1, or with ``slices.bits_per_pulse`` one per pulse."""
        return self.slices.slicing.pulses(self.dac.bits or 0)

    @property
    def mvms(self) -> int:
        """Number of MVMs that are charged for one input: each read of the ADC, of each pulse.

        The pulses count once if the energy and time of an MVM cover them (``cost.covers_slices``).
        """
        covered = self.cost is not None and self.cost.covers_slices
        return self.adc.reads * (1 if covered else self.pulses)

    @property
    def capacity(self) -> int:
        """Number of weights that the chip can hold.

        They are its unit cells, fewer with several columns or rows of a weight.
        """
        columns = self.array.columns // self.slices.slicing.columns
        cells = self.array.tiles * self.array.rows * columns
        return int(cells / (self.expansion.factor or 1))

    def replace(self, **changes: Any) -> "Chip":
        """Return the chip with other parts, each given whole or as a mapping of fields to change.

        A changed field loses its source, unless ``sources`` among the fields gives it a new one.
        With other tiles, the energy of an MVM is scaled (``Cost.resized``) and the area is unknown,
        unless a ``cost`` is given. So are time and energy that cover slices and pulses, with others
        of them (``Cost.resliced``).

        Raises:
            ValueError: a part or field does not exist, where the nearest one is named, or refuses
                the value.
            TypeError: a whole part is of another type.

        Example:
            >>> chip = analogtorch.chips.hermes64()
            >>> mine = chip.replace(adc={"steps": None, "bits": 8}, dac={"bits": 6}, name="mine")
            >>> mine.adc.levels
            127
        """
        if self.cost is not None and "cost" not in changes:
            parts = [
                new_value(getattr(self, name), changes.get(name, {}), f"chip.{name}")
                for name in ("array", "dac", "slices")
            ]
            if [type(part) for part in parts] == [Array, DAC, Slices]:  # others are refused below
                changes["cost"] = _carried(self, self.cost, *parts)
        return changed(self, changes, "chip")

    def non_idealities(self) -> tuple[str, ...]:
        """Return the names of the effects that this chip adds to an exact MVM.

        They are in the order of the signal. ``dac``: inputs are clipped and rounded. ``dac_inl``,
        ``dac_gain`` and ``dac_jitter``: the DACs' codes, their rows and their pulses differ.
        ``shot_noise`` and ``dark_current``: electrons of a sensor arrive by chance.
        ``input_pulses``: inputs are applied digit by digit, each with its own ADC output.
        ``iv_curve``: currents are not proportional to voltages.
        ``programming_noise``, ``drift`` and ``read_noise``: effects of the devices; where an error
        grows with time, as that of ReRAM, what time adds counts as drift. ``read_noise`` is the 1/f
        noise that is drawn once per time and stays for all inputs. ``temperature``: conductances
        depend on it. ``ir_drop``: wires have a resistance. ``mvm_read_noise``: each device has
        other noise in every MVM.
        ``adc_gain``, ``adc_slope`` and ``adc_offset``: the ADCs of columns differ, and those of
        tiles. ``output_noise``: partial sums have noise. ``adc_inl``, ``adc_dnl`` and
        ``adc_capacitors``: codes do not lie where they should.
        ``adc``: partial sums are clipped and rounded. ``digital_unit``: it rounds ADC outputs
        again. A programmed chip has them all; ``eval()`` before programming has the converters; for
        ``train()`` see ``TrainingNoise``. Bits of weights (``Slices.weight_bits``, cells of a few
        levels) are how a chip holds them, and are not listed. The fields of the parts declare them
        by ``analogtorch.chips.non_ideality``.

        Example:
            >>> analogtorch.chips.hermes64().non_idealities()
            ('dac', 'programming_noise', 'drift', 'read_noise', 'adc_gain', 'adc', 'digital_unit')
        """
        return non_idealities(self)

    def without(self, *names: str) -> "Chip":
        """Return the chip without these non-idealities, all else unchanged.

        A name that the chip does not have is no error. Without ``adc``, no ``digital_unit`` rounds
        either. Programming noise and drift are drawn from the same normals with and without the
        others, so that two chips of one seed differ in the named effects alone. Where the error of
        programming grows with time, as that of ReRAM, the growth is drift: without
        ``programming_noise`` the variance that time adds stays, drawn from the normals of drift, so
        that the variances of the two add up to that of both.

        Args:
            names: some of the names that ``non_idealities`` may return.

        Raises:
            ValueError: a name is unknown.

        Example:
            >>> chip = analogtorch.chips.hermes64().without("drift", "read_noise")
        """
        return without(self, *names)

    def scaled(self, **factors: float) -> "Chip":
        """Return the chip with these non-idealities times a factor, all else unchanged.

        Draws are the same whatever the factors, so that two chips of one seed differ in size alone.
        What the chip does not have stays absent.

        Args:
            factors: factors >= 0 by the names that ``non_idealities`` may return; 0 switches one
                off, as ``without`` does. Standard deviations are multiplied, that of
                ``programming_noise`` without what time adds to its variance, which is drift;
                ``drift``: the drift exponents; ``dac``, ``adc`` and ``digital_unit``: the step of
                the converter, in powers of two if it is given in bits, else to the nearest number
                of steps.

        Raises:
            ValueError: a name is unknown, a factor is negative, or it leaves a converter no bits.

        Example:
            >>> chip = analogtorch.chips.hermes64().scaled(drift=2.0, adc_gain=0.5)
        """
        return scaled(self, factors)

    def drift_aware(self, time: str | float = "1 day") -> "Chip":
        """Return the chip with targets of its devices that allow for how they will have drifted.

        Small conductances of phase-change memory fall faster than large ones, which bends weights.
        The devices are written so that their mean conductance is right at ``time``; before, weights
        are bent the other way. It is a choice of what is written, and takes no hardware. Where
        conductances fall, larger ones are written. On a tile of ``hermes64`` with 256x256 Gaussian
        weights the MVM error falls from 18.7 to 16.3 % after a day and from 22.9 to 19.6 % after a
        year, with a weight scale per column from 16.8 to 13.7 and from 23.9 to 18.0 %; there fresh
        devices err more, 14.8 % in place of 13.8 (``python -m benchmarks.targets``).

        Args:
            time: seconds after programming, > 0, or a text for ``seconds``.

        Raises:
            ValueError: the time is not after programming, the devices do not drift, the cell is
                ``SignificancePairs``, or no conductance is left at ``time``.

        Example:
            >>> chip = analogtorch.chips.hermes64().drift_aware("1 day")
        """
        if "drift" not in self.non_idealities():
            raise ValueError(
                f"drift_aware: the devices of chip {self.name!r} do not drift, so that targets "
                "that allow for it would change nothing; leave it out"
            )
        return self.replace(cell={"device": DriftAware(device=bare(self.cell.device), time=time)})


def _carried(chip: Chip, cost: Cost, array: Array, dac: DAC, slices: Slices) -> Cost:
    """Return the cost of the chip with parts other than those of its figures."""
    old = chip.array
    if (array.rows, array.columns) != (old.rows, old.columns):
        cost = cost.resized(array.rows / old.rows, array.columns / old.columns)
    if array.tiles != old.tiles:
        cost = cost.of_tiles(old.tiles, array.tiles)
    new, pulses = slices.slicing, slices.slicing.pulses(dac.bits or 0)
    if not cost.covers_slices or (new, pulses) == (chip.slices.slicing, chip.pulses):
        return cost
    if not pulses:  # slices that such a DAC cannot serve, which the new chip refuses
        return cost
    bits = ("analog" if each is None else f"{each}-bit" for each in (dac.bits, slices.weight_bits))
    return cost.resliced(
        pulses / chip.pulses,
        f"for {new.columns} column(s) of a weight and {pulses} pulse(s) of an input",
        "{} inputs, {} weights".format(*bits),
    )


def _check_phases(cost: Cost | None) -> None:
    if cost is None:
        raise ValueError(
            "ADC.separate_phases=True needs cost, whose phases and signed_passes say what is "
            "separate; got cost=None"
        )
    if cost.phases not in (1, 4):
        raise ValueError(
            "ADC.separate_phases=True needs a cost of 4 phases, one per pair of signs of inputs "
            f"and weights, or of 1; the {cost.phases} phases of this chip are bits, or anything "
            "but signs: leave separate_phases False"
        )
