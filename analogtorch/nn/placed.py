"""The blocks of a layer's weight on its chip, and the executions that multiply them."""

import math
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from analogtorch.chips import Chip
from analogtorch.chips.tiling import Section, sections
from analogtorch.devices import Spread
from analogtorch.devices.cell import conducts_twice
from analogtorch.nn.converters import ConvertersMixin
from analogtorch.nn.corrected import Plans
from analogtorch.nn.drawn import needs_torch
from analogtorch.nn.execution import Exact, Execution, Quantised
from analogtorch.nn.programmed import OnChip
from analogtorch.nn.training import Training
from analogtorch.ops import Noise, Plan, stream
from analogtorch.ops.device_noise import device_noise_of
from analogtorch.ops.expansion import expanded
from analogtorch.values.warned import warn


class Executions(NamedTuple):
    """The executions of a layer on one chip."""

    evaluation: Execution
    training: Execution
    programmed: OnChip


class PlacedMixin(ConvertersMixin):
    """The part of an analog layer that follows from its chip and the shape of its weight."""

    _chip: Chip
    _given_chip: Chip
    executions: Executions
    """The executions on its chip, of which ``execution`` chooses one."""
    sections: tuple[Section, ...]
    placed_shape: tuple[int, ...]
    """Shape of the weight for which ``sections`` were made."""
    output_runs: tuple[slice, ...] = ()
    """Runs of its outputs that a layer of one section may compute alone."""
    senses: ClassVar[bool] = False
    """Whether this kind of layer can be that of a sensor, whose inputs are light."""
    noise_fraction: float = 1.0
    """Share of the chip's training noise, in [0, 1]: see ``analogtorch.hwa.training_noise_``."""

    @property
    def chip(self) -> Chip:
        """The chip of the layer; another may be assigned, and is its ``given_chip`` then.

        Ranges stay, with a warning if calibration found them on a chip of another name.
        """
        return self._chip

    @chip.setter
    def chip(self, chip: Chip) -> None:
        before = vars(self).get("_chip")
        self.put_on(chip, given=chip)
        if before is not None and before.name != chip.name and self.ranged:
            warn(
                f"layer {self.layer_name!r} was calibrated on {before.name!r}, and is put on "
                f"{chip.name!r}: it keeps the ranges, and neither targets nor weight scale that "
                "calibration chose; call analogtorch.calibrate to find its own"
            )

    @property
    def given_chip(self) -> Chip:
        """The chip that ``convert`` gave the layer, or that was assigned since.

        ``calibrate`` may change targets and weight scale of ``chip``; it starts from this one.
        """
        return vars(self).get("_given_chip", self._chip)  # pickles of earlier versions lack it

    def put_on(self, chip: Chip, given: Chip | None = None) -> None:
        """Let a layer compute on ``chip``, whose ranges are of that chip or are set next.

        ``given_chip`` stays unless another is ``given``.
        """
        if self.programmed is not None:
            raise RuntimeError(
                f"layer {self.layer_name!r} belongs to a programmed chip, which cannot become "
                "another"
            )
        self._refuse_chip(chip)
        self._given_chip = given or self.given_chip
        self._chip = chip
        self.replan()
        if chip.light.on and not self.calibrated:
            self._fix_range()

    def replan(self) -> None:
        """Make the executions anew, after a change that they depend on.

        They depend on the chip, the shape of the weight, ``layer_name``, which keys the noise, and
        ``noise_fraction``.
        """
        self.placed_shape = tuple(self.weight.shape)
        self.executions = self.executions_on(self.chip)
        self.sections = self.executions.evaluation.sections

    def set_noise_fraction(self, fraction: float) -> None:
        """Train with this share of the chip's training noise, in [0, 1], from now on."""
        self.noise_fraction = fraction
        self.replan()

    def executions_on(self, chip: Chip) -> Executions:
        """Return the executions that the layer would have on ``chip``; nothing changes.

        Raises:
            ValueError: the chip expands weights or senses light, and this layer cannot.
        """
        self._refuse_chip(chip)
        shape = chip.expansion.shape(tuple(self._meta_matrix.shape))
        placed = sections(shape, getattr(self, "groups", 1), chip)
        evaluation = self._plans(placed, chip)
        programmed = self._plans(
            placed,
            chip,
            output_noise=chip.output_noise,
            jitter=chip.dac.jitter,
            shot=chip.light.shot_variance,
            read_noise=float(chip.mvm_read_noise.std is not None),
            balanced=int(chip.adc.asymmetry_balance),
        )
        return Executions(
            self._noiseless(chip, placed, evaluation),
            self._training(chip, placed),
            OnChip(**self._planned(chip, placed, programmed)),
        )

    def _refuse_chip(self, chip: Chip) -> None:
        """Raise ValueError if the chip expands weights or senses light, and the layer cannot."""
        if chip.light.on:
            self._refuse_sensor(chip)
        if chip.expansion.on and not self.expands:
            name = self.layer_name or "(root)"
            raise ValueError(
                f"layer {name!r}: {self.digital.__name__} has no weight expansion, which chip "
                f"{chip.name!r} asks for (Expansion.factor={chip.expansion.factor:g}); linear and "
                "recurrent layers and attention have it. Give this layer a chip without it, "
                f"convert(..., per_layer={{{name!r}: {{'expansion': {{'factor': None}}}}}}), or "
                f"leave it digital, convert(..., exclude=[{name!r}])"
            )

    def _refuse_sensor(self, chip: Chip) -> None:
        name, rows = self.layer_name or "(root)", chip.array.rows
        if not self.senses:
            raise ValueError(
                f"layer {name!r}: {self.digital.__name__} has no light to sense: chip "
                f"{chip.name!r} is a sensor, which computes the first layer of a model. "
                "Convert that alone, convert(model, hermes64(), sensor='conv1')"
            )
        taps = math.prod(self._meta_matrix.shape[2:])
        if taps > rows:
            kernel = "x".join(map(str, self._meta_matrix.shape[2:]))
            raise ValueError(
                f"layer {name!r}: a kernel of {kernel} is {taps} photodiodes, and a network of "
                f"chip {chip.name!r} has {rows}; give chip.replace(array={{'rows': {taps}}}), or "
                "leave the layer digital"
            )

    @property
    def row_blocks(self) -> int:  # type: ignore[override]
        """Row blocks of the matrix: ADC outputs that are summed for each output."""
        return _row_blocks(self.sections)

    def _noiseless(
        self, chip: Chip, placed: tuple[Section, ...], plans: tuple[Plan, ...]
    ) -> Execution:
        kind = Exact if len(plans) == 1 and plans[0].exact else Quantised
        return kind(**self._planned(chip, placed, plans))

    def _training(self, chip: Chip, placed: tuple[Section, ...]) -> Execution:
        noise, fraction = chip.training, self.noise_fraction
        in_torch = needs_torch(chip, fraction)
        spread = Spread() if noise.weight == "gaussian" else chip.cell.spread
        drawn = noise.weight != "none" and spread is not None and not in_torch
        # two reads without noise, of ADCs without errors, are one
        differ = chip.adc.asymmetry_balance and fraction * noise.output > 0
        plans = self._plans(
            placed,
            chip,
            balanced=int(differ),
            output_noise=fraction * chip.output_noise * noise.output,
            shot=fraction**2 * noise.output * chip.light.shot_variance,
            jitter=fraction * chip.dac.jitter * noise.output,
            read_noise=fraction * noise.output * float(chip.mvm_read_noise.std is not None),
            weight_noise=fraction * noise.strength if drawn else 0.0,
            spread=spread if drawn and spread is not None else Spread(),
        )
        resistive = fraction > 0 and not chip.wires.ideal
        if not (plans[0].noisy or in_torch or resistive):
            return self._noiseless(chip, placed, plans)
        placing = self._planned(chip, placed, plans)
        corrects: dict[tuple[int, int] | None, tuple[Plans, ...]] = {}
        if noise.corrected and (drawn or in_torch or resistive):
            runs = {None: plans, **placing["run_plans"]}
            corrects = {run: tuple(map(Plans.of, of_run)) for run, of_run in runs.items()}
        moments = noise.moments(chip.cell.device)
        # hashed here, because torch.compile cannot trace a hash
        adcs = (stream(Noise.OUTPUT, self.layer_name, i) for i in range(_row_blocks(placed)))
        return Training(
            **placing,
            corrects=corrects,
            streams=(stream(Noise.TRAINING, self.layer_name), *adcs),
            fraction=fraction,
            in_torch=in_torch,
            devices=device_noise_of(chip.cell, moments, chip.periphery.column_calibration)
            if noise.weight == "device"
            else None,
            wired=resistive,
            fluctuations=chip.mvm_read_noise.of(chip.cell) if plans[0].read_noise > 0 else None,
            moments=moments,
        )

    def _planned(
        self, chip: Chip, placed: tuple[Section, ...], plans: tuple[Plan, ...]
    ) -> dict[str, Any]:
        """Return the fields that every execution has."""
        runs: dict[tuple[int, int], tuple[Plan, ...]] = {}
        for run in self.output_runs:
            first = plans[0].first_output + placed[0].slicing.columns * run.start
            runs[run.start, run.stop] = (replace(plans[0], columns=(), first_output=first),)
        apart = chip.phases == 4 and conducts_twice(chip.cell)
        fields = {"chip": chip, "sections": placed, "plans": plans, "run_plans": runs}
        return fields | {"negatives": apart}

    def _plans(self, placed: tuple[Section, ...], chip: Chip, **noise: Any) -> tuple[Plan, ...]:
        """Return the plan of each section; ``noise``: fields of the plans."""
        geometry: dict[str, Any] = self._geometry(placed, chip)
        return tuple(
            Plan(
                **section.layout,
                input_bits=chip.dac.bits or 0,
                split=chip.dac.split or 0 if chip.dac.bits else 0,
                output_steps=chip.adc.levels,
                floors=int(chip.adc.rounding == "floor"),
                unit_bits=chip.periphery.output_bits or 0,
                phases=chip.phases,
                adc_range=chip.adc.range,
                **geometry,
                **noise,
            )
            for section in placed
        )

    # what a kind of layer defines

    def as_matrix(self, weight: Tensor) -> Tensor:
        """Return a weight of the layer's shape as (outputs, inputs of one group, *kernel)."""
        return weight

    digital: ClassVar[type[nn.Module]]
    """The digital layer of the same kind."""
    expands: ClassVar[bool] = False
    """Whether this kind of layer has weight expansion, ``Chip.expansion``."""

    @property
    def _meta_matrix(self) -> Tensor:
        return self.as_matrix(self.weight.detach().to("meta"))

    @property
    def matrix_shape(self) -> tuple[int, ...]:
        """Shape of the matrix that cells hold: (outputs, inputs of one group, *kernel).

        With weight expansion it is (outputs, rows).
        """
        return self.chip.expansion.shape(tuple(self._meta_matrix.shape))

    def placed_matrix(self, weight: Tensor, chip: Chip | None = None) -> Tensor:
        """Return ``as_matrix`` of a weight as cells hold it, expanded if the chip asks for it.

        ``chip`` is that of the layer unless given.
        """
        return expanded(self.as_matrix(weight), (chip or self.chip).expansion)

    def _geometry(self, placed: tuple[Section, ...], chip: Chip) -> dict[str, tuple[int, ...]]:
        """Return stride, padding and dilation of the product, by name."""
        return {}


def _row_blocks(placed: tuple[Section, ...]) -> int:
    return max(section.blocks for section in placed)
