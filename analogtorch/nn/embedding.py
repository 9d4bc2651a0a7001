"""nn.Embedding on an analog chip: a one-hot input reads one row of the stored weights.

Token i drives row i at full scale and nothing else, so only the row block that holds it is read. No
one-hot matrix is built: the cells of the tokens are gathered, with the noise that a product over
the whole matrix would give them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.chips import Chip
from analogtorch.nn import converter_state
from analogtorch.nn.base import AnalogLayer
from analogtorch.nn.converters import COLUMN_RANGES
from analogtorch.nn.drawn import each_sample
from analogtorch.nn.traced import Proxy, whole
from analogtorch.ops import Plan, block_scales, normal
from analogtorch.ops.physics import adc_outputs, digital_unit, noisy, phase_keys, phases, wide

_REFUSED = {
    "max_norm": "rescales stored rows in every forward, "
    "which cells that are written once cannot follow",
    "sparse": "asks for sparse gradients; an analog embedding has dense ones",
    "scale_grad_by_freq": "divides gradients by how often a token occurs, "
    "which an analog embedding does not",
}


class AnalogEmbedding(AnalogLayer, nn.Embedding):
    """``nn.Embedding`` whose rows lie on a chip: made by ``convert(..., embeddings=True)``, or with
    ``chip``.

    Input: token numbers of any shape, output ``(*, embedding_dim)``; each token costs one ADC
    reading per output. The one-hot drives the DAC's full scale, so there is no range to calibrate.
    A head whose weight is tied to it is a layer of its own, with cells of its own.
    """

    channel_dim = -1
    digital = nn.Embedding
    takes_range = False
    on_request = True

    @classmethod
    def refuses(cls, layer: Any) -> str | None:
        """For an option of the digital layer that cells cannot follow."""
        asked = (
            name
            for name in _REFUSED
            if getattr(layer, name) is not None and getattr(layer, name) is not False
        )
        return next((f"its {name} {_REFUSED[name]}" for name in asked), None)

    def _attach(self, chip: Chip, name: str, digital_class: type[nn.Module]) -> None:
        if why := self.refuses(self):
            raise ValueError(f"layer {name!r} cannot be analog: {why}")
        super()._attach(chip, name, digital_class)
        self.calibrated = True
        self.set_input_range(1.0)

    def set_input_range(self, value: float | Sequence[float]) -> None:
        """The range is that of the one-hot.

        Raises:
            ValueError: ``value`` is not 1.
        """
        if value != 1:
            raise ValueError(
                f"input range of {self.layer_name!r} is 1, as a one-hot drives full scale; got "
                f"{value}"
            )
        super().set_input_range(1.0)

    def _load_converters(self, value: Any, local_metadata: dict, errors: list) -> None:
        converter_state.load_column_ranges(self, local_metadata, errors)
        # nothing to be read, but weights may have been assigned to a layer on meta
        self.set_input_range(1.0)

    def as_matrix(self, weight: Tensor) -> Tensor:
        """(embedding_dim, num_embeddings): an output per dimension, a row per token."""
        return weight.T

    def forward(self, input: Tensor) -> Tensor:
        """The readings of the rows of the tokens ``input``, int64 or int32 of any shape."""
        if isinstance(input, Proxy):
            return whole(self, input)
        return self.analog_forward(input)

    def analog_forward(
        self,
        x: Tensor,
        keys: Tensor | None = None,
        samples: Tensor | None = None,
        outputs: slice | None = None,
    ) -> Tensor:
        """As of every analog layer, for tokens ``x``."""
        vectors, _ = self._admit(x)
        if self.exact:
            return self._digital(x, self.weight, None)
        # tokens of one dimension are samples
        keys, samples = self._drawn(x.unsqueeze(-1), vectors, keys, samples)
        if keys is not None and keys.dim() == 2:
            return each_sample(self._one, x.unsqueeze(-1), self.input_range, keys, samples)
        held, tokens = self.programmed, x.flatten().long()
        plan = self.plans[held is not None, self.training][0]
        cells, scale, gain = self._cells(tokens, keys)
        with torch.no_grad():
            # a row has no kernel: all blocks but the last are as tall as the first
            block = tokens // plan.bounds[1]
            full = scale.index_select(0, block)
            gain = None if gain is None else gain.to(full.dtype).index_select(0, block)
            limits = self._limits(plan, 0, None)
            own, ranges = (limits.get(name) for name in COLUMN_RANGES)
            bound = full * (
                plan.output_bound if own is None else own.to(full.dtype).index_select(0, block)
            )
            v = self._noisy(cells, full, tokens, keys, plan).to(full.dtype)
            v, saturated = self._read(v, tokens, full, bound, keys, samples, plan)
            v = v if gain is None else v * gain
            if ranges is not None:
                limit = full * ranges.to(full.dtype).index_select(0, block)
                v, beyond = digital_unit(v, limit, plan.unit_bits)
                saturated = saturated | beyond
        # where nothing has changed them, these are the cells themselves
        y = v.detach().to(cells.dtype)
        if cells.requires_grad:  # straight-through: the difference is 0 and carries the gradient
            passed = cells.masked_fill(saturated, 0.0) if plan.saturates else cells
            passed = passed if gain is None else (passed * gain).to(y.dtype)
            y = y + (passed - passed.detach())
        return y.view(*x.shape, self.embedding_dim)

    def _one(self, x: Tensor, input_range: Tensor, keys: Tensor, samples: Tensor | None) -> Tensor:
        """The readings of one sample's tokens ``x`` (1, ..., 1)."""
        return self.analog_forward(x.squeeze(-1), keys, samples)

    def _cells(self, tokens: Tensor, keys: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the cells of each token hold, without the noise that ``_noisy`` adds; scale and gain
        by block.
        """
        held = self.programmed
        if held is not None:
            cells = held.weights[0].T.index_select(0, tokens)
            return cells, held.scales[0].to(wide(self.weight.dtype)), held.gains[0]
        matrix, section = self.as_matrix(self.weight), self.sections[0]
        # all of them, as the correction of drift is one of whole blocks
        if keys is not None and self.noise_in_torch:
            drawn, known = self.drawn(matrix, section, keys[0])
            cells = F.embedding(tokens, drawn.T.to(self.weight.dtype), self.padding_idx)
            return cells, known["scale"], known.get("gain")
        scale = block_scales(matrix, section.bounds, section.shared_columns(self.chip))
        return F.embedding(tokens, self.weight, self.padding_idx), scale, None

    def _noisy(
        self, cells: Tensor, full: Tensor, tokens: Tensor, keys: Tensor | None, plan: Plan
    ) -> Tensor:
        """The ``cells`` (tokens, outputs) with the noise of a training step, as
        ``ops.reference.noisy_weight``.
        """
        if keys is None or plan.weight_noise == 0:
            return cells
        shape = cells.shape
        outputs = torch.arange(shape[1], device=cells.device).expand(shape).flatten()
        rows = tokens.unsqueeze(1).expand(shape).flatten()
        return noisy(
            cells,
            full,
            normal(keys[0], outputs, rows, 1).view(shape),
            plan.weight_noise,
            plan.spread,
        )

    def _read(
        self,
        cells: Tensor,
        tokens: Tensor,
        full: Tensor,
        bound: Tensor,
        keys: Tensor | None,
        samples: Tensor | None,
        plan: Plan,
    ) -> tuple[Tensor, Tensor]:
        """What the ADC makes of the ``cells`` (tokens, outputs), all phases added up; and what it
        clipped in any.
        """
        held = self.programmed
        negatives = (
            None
            if held is None or held.negatives is None
            else held.negatives[0].T.index_select(0, tokens)
        )

        def normals(number: int) -> Tensor:
            # a token is read in one block: one stream serves all blocks
            key = held.keys[0] if held is not None else None if keys is None else keys[1]
            assert key is not None
            assert samples is not None
            return normal(
                phase_keys(key, number, plan.phases),
                samples,
                torch.zeros_like(samples),
                cells.shape[1],
            )

        read = phases(cells.new_ones(1), cells, negatives, plan.phases)
        sums, signs = [phase.x * phase.w for phase in read], [phase.sign for phase in read]
        v, clipped = adc_outputs(sums, signs, full, bound, plan.steps, plan.output_noise, normals)
        # + 0.0: what is read as -0 is 0
        return v + 0.0, torch.stack(clipped).any(0) if clipped else torch.zeros_like(
            v, dtype=torch.bool
        )

    def _digital(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.embedding(x, weight, self.padding_idx)

    def _autocasts(self, x: Tensor) -> bool:
        if x.dtype not in (torch.int64, torch.int32):
            raise TypeError(
                f"layer {self.layer_name!r} takes token numbers of type int64 or int32, got "
                f"{x.dtype}"
            )
        return False  # nor does the digital layer

    def _vectors(self, x: Tensor) -> int:
        return x.numel()
