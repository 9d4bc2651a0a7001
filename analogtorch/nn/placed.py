"""How a layer lies on its chip: the blocks of its weight, and the plans by which they are
multiplied.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor

from analogtorch.chips import Chip
from analogtorch.chips.tiling import Section, sections
from analogtorch.devices import Spread
from analogtorch.nn.converters import ConvertersMixin
from analogtorch.nn.drawn import needs_torch
from analogtorch.ops import Noise, Plan, stream


class PlacedLayer(ConvertersMixin):
    """The part of an analog layer that follows from its chip and the shape of its weight."""

    _chip: Chip
    sections: tuple[Section, ...]
    placed_shape: tuple[int, ...]
    """Shape of the weight that ``sections`` are of."""
    plans: dict[tuple[bool, bool], tuple[Plan, ...]]
    """Per section, by (programmed, training)."""
    output_runs: tuple[slice, ...] = ()
    """Runs of its outputs that a layer of one section may be asked for alone."""
    run_plans: dict[tuple[bool, bool, int, int], tuple[Plan, ...]]
    """That of each run, by (programmed, training, first output, end)."""
    noise_in_torch: bool
    """Whether training draws its weights in plain torch: for a cell, or an option of noise, that no
    kernel knows."""
    noise_fraction: float = 1.0
    """How much of the chip's training noise there is, in [0, 1]: see
    ``analogtorch.hwa.training_noise_``."""
    noise_time: float | None
    """Of the devices in training, s: ``TrainingNoise.time``, parsed here because torch.compile
    cannot trace that."""
    streams: tuple[int, ...]
    """Of the noise: that of the weights, then that of each row block's readings."""

    @property
    def chip(self) -> Chip:
        """The chip that the layer runs on; another may be assigned."""
        return self._chip

    @chip.setter
    def chip(self, chip: Chip) -> None:
        if self.programmed is not None:
            raise RuntimeError(
                f"layer {self.layer_name!r} belongs to a programmed chip, which cannot become "
                "another"
            )
        self._chip, self.placed_shape = chip, tuple(self.weight.shape)
        self.sections = sections(self.matrix_shape, getattr(self, "groups", 1), chip)
        # hashed here, because torch.compile cannot trace a hash
        blocks = self.row_blocks
        name = self.layer_name
        self.streams = (
            stream(Noise.TRAINING, name),
            *(stream(Noise.OUTPUT, name, i) for i in range(blocks)),
        )
        self.noise_in_torch, self.noise_time = (
            needs_torch(chip, self.noise_fraction),
            chip.training.seconds,
        )
        self.plans = {
            (held, training): tuple(
                self._plan(section, held, training) for section in self.sections
            )
            for held, training in ((False, False), (False, True), (True, False))
        }
        self.run_plans = {
            (*key, run.start, run.stop): (
                replace(plan, columns=(), first_output=plan.first_output + run.start),
            )
            for key, (plan, *_) in self.plans.items()
            for run in self.output_runs
        }

    @property
    def row_blocks(self) -> int:  # type: ignore[override]
        """Row blocks of the matrix: readings that are summed for each output."""
        return max(len(section.bounds) for section in self.sections) - 1

    def _plan(self, section: Section, held: bool, training: bool) -> Plan:
        chip, noise, fraction = self.chip, self.chip.training, self.noise_fraction
        spread = Spread() if noise.weight == "gaussian" else chip.cell.spread
        geometry: dict[str, Any] = self._geometry()
        noisy_weight = (
            training and noise.weight != "none" and spread is not None and not self.noise_in_torch
        )
        return Plan(
            bounds=section.bounds,
            columns=section.shared_columns(chip),
            groups=section.groups,
            input_bits=chip.input_bits or 0,
            output_steps=chip.output_steps,
            unit_bits=chip.unit_bits,
            phases=chip.phases,
            output_bound=chip.output_bound,
            output_noise=chip.output_noise
            if held
            else fraction * chip.output_noise * (training and noise.output),
            weight_noise=fraction * noise.strength if noisy_weight else 0.0,
            spread=spread if noisy_weight and spread is not None else Spread(),
            first_output=section.outputs.start,
            total_outputs=self.sections[-1].outputs.stop,
            first_row=section.first_row,
            **geometry,
        )

    # what a kind of layer defines

    def as_matrix(self, weight: Tensor) -> Tensor:
        """A weight of the layer's shape as the chip holds it: (outputs, inputs of one group,
        *kernel).
        """
        return weight

    @property
    def matrix_shape(self) -> tuple[int, ...]:
        """Shape of the matrix: (outputs, inputs of one group, *kernel)."""
        return tuple(self.as_matrix(self.weight.detach().to("meta")).shape)

    def _geometry(self) -> dict[str, tuple[int, ...]]:
        """Stride, padding and dilation of the product, by name."""
        return {}
