"""The execution of a layer in hardware-aware training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from analogtorch.devices.fluctuation import Fluctuations
from analogtorch.nn.corrected import Plans, corrected, enough, measured, warn_of_few
from analogtorch.nn.drawn import drawn, keys_by_sample, read_variances
from analogtorch.nn.execution import Execution
from analogtorch.nn.kept import cell_weights
from analogtorch.nn.polarities import negatives
from analogtorch.nn.reborn import cut
from analogtorch.nn.wired import wired
from analogtorch.ops import Operands, draw_keys, number_samples
from analogtorch.ops.device_noise import DeviceNoise

if TYPE_CHECKING:
    from analogtorch.nn.base import AnalogLayer


@dataclass(frozen=True, kw_only=True, eq=False)
class Training(Execution):
    """The product with the noise of hardware-aware training, drawn anew in every forward."""

    streams: tuple[int, ...]
    """Streams of the noise: that of the weights, then that of the ADC outputs of each row block."""
    fraction: float
    """Share of the chip's training noise, in [0, 1]."""
    in_torch: bool
    """Whether the weights are drawn before the product: for a cell or a kind of noise that its
    kernels do not have."""
    devices: DeviceNoise | None
    """The noise of the devices, if it is drawn device by device and has an operator."""
    wired: bool
    """Whether the wires of the chip have a resistance."""
    fluctuations: Fluctuations | None
    """The read noise of every MVM; None: there is none."""
    moments: tuple[float | None, ...]
    """Those of ``chip.training``, parsed in advance, as torch.compile cannot trace the parsing."""
    corrects: Mapping[tuple[int, int] | None, tuple[Plans, ...]]
    """What outputs are corrected by (``TrainingNoise.corrected``), per section, by the run of
    outputs that is computed alone, None for all; empty: they are not."""

    @property
    def noisy(self) -> bool:
        """True: training always draws noise."""
        return True

    @property
    def alike(self) -> bool:
        """Also not if outputs are corrected, by what the products before have shown."""
        return super().alike and not self.corrects

    def draw(self, like: Tensor, batch: int, order: Tensor | None = None) -> Tensor | None:
        """Return the keys of one forward, per sample if the chip asks for it."""
        keys = draw_keys(like, self.streams)
        varied = self.in_torch or self.plans[0].weight_noise > 0
        if not (varied and self.chip.training.per_sample):
            return keys
        return keys_by_sample(keys, like, batch, order)

    def number(self, layer: "AnalogLayer", like: Tensor, vectors: int, batch: int) -> Tensor | None:
        """Return the numbers of the vectors in the output noise.

        They count from the first sample of the ``analogtorch.noise`` scope.
        """
        if not self.plans[0].noisy_sums:
            return None
        return number_samples(like, vectors, vectors // max(batch, 1))

    def weights(
        self,
        layer: "AnalogLayer",
        index: int,
        keys: Tensor | None,
        samples: Tensor | None,
        dtype: torch.dtype,
        outputs: slice | None,
    ) -> dict[str, Any]:
        """Return the operands of the weights with their noise."""
        assert keys is not None
        section = self.sections[index]
        weight = cell_weights(self, index, layer)
        noise: dict[str, Any] = {"output_keys": keys[1:], "samples": samples}
        if self.fluctuations is not None:
            phases = self.plans[index].phases
            found = read_variances(weight, section, self.fluctuations, phases)
            noise["read_variances"] = cut(found, outputs, 1)
        if not self.in_torch:
            noise["key"] = keys[0]
        if not (self.in_torch or self.wired):
            return noise | self._run_of(weight, section, dtype, outputs)
        known: dict[str, Tensor] = {}
        if self.in_torch:
            how = self.chip, keys[0], self.fraction, self.moments, self.devices
            weight, known = drawn(weight, section, *how)
        minus: Tensor | None = None
        if self.wired:
            how_far = self.chip, self.fraction, self.negatives
            weight, known, minus, drop = wired(weight, known, section, *how_far)
            if drop is not None:
                its_minus = None if minus is None else cut(drop.negatives, outputs).to(dtype)
                noise["drop"] = drop._replace(lost=cut(drop.lost, outputs), negatives=its_minus)
        elif self.negatives:
            minus = negatives(weight, known["scale"], section.bounds, self.chip.cell)
        if minus is not None:
            noise["negatives"] = cut(minus, outputs).to(dtype)
        known = {name: cut(t, outputs, 1) for name, t in known.items()}
        return noise | {"w": cut(weight, outputs).to(dtype)} | known

    def corrected(
        self, layer: "AnalogLayer", index: int, operands: Operands, outputs: slice | None
    ) -> Operands:
        """Return the operands with the gains and offsets that fit outputs to the exact ones.

        The steps of a recurrent layer share their weights, and so what they show: it is measured at
        the first, second, fourth, eighth step and so on.
        """
        if not self.corrects:
            return operands
        run = None if outputs is None else (outputs.start, outputs.stop)
        calls, found = 0, None
        if self.shared is not None:
            so_far = self.shared.setdefault(("corrected", index, run), {"calls": 0, "found": None})
            calls, found = so_far["calls"], so_far["found"]
        if (calls + 1).bit_count() == 1:
            section = self.sections[index]
            weight = section.weight(layer.placed_matrix(layer.weight.detach(), self.chip))
            found = measured(operands, cut(weight, outputs), self.corrects[run][index], found)
        if self.shared is not None:
            so_far |= {"calls": calls + 1, "found": found}
        if enough(found):
            return corrected(operands, found, self.plans[index])
        if self.shared is None and operands.x.numel():  # later steps may show enough
            warn_of_few()
        return operands
