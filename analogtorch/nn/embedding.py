"""nn.Embedding on an analog chip: a one-hot input reads one row of the stored weights.

Token i drives row i at full scale and nothing else, so only the row block that holds it is read. No
one-hot matrix is built: the cells of the tokens are gathered, with the same noise as in a product
with the whole matrix. One pulse applies it, whatever ``Slices.bits_per_pulse`` is.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.chips import Chip
from analogtorch.chips.converters import levels
from analogtorch.nn import converter_state
from analogtorch.nn.base import AnalogLayer
from analogtorch.nn.drawn import each_sample
from analogtorch.nn.execution import Execution
from analogtorch.nn.traced import Proxy, whole
from analogtorch.ops import Plan, block_scales, normal, vector_numbers
from analogtorch.ops.converters import adc, adc_outputs, digital_unit, pulses
from analogtorch.ops.input_drop import InputDrop, one_row
from analogtorch.ops.physics import (
    noisy,
    phase_keys,
    phase_variances,
    phases,
    read_std,
    relative,
    rounded_square,
    wide,
)
from analogtorch.ops.slices import shifted

_REFUSED = {
    "max_norm": (
        "rescales stored rows in every forward, which cells that are written once cannot follow"
    ),
    "sparse": "asks for sparse gradients; an analog embedding has dense ones",
    "scale_grad_by_freq": (
        "divides gradients by how often a token occurs, which an analog embedding does not"
    ),
}


class AnalogEmbedding(AnalogLayer, nn.Embedding):
    """``nn.Embedding`` whose rows lie on a chip; ``convert(..., embeddings=True)`` makes it.

    The input holds token numbers in any shape, the output is ``(*, embedding_dim)``. Each token
    costs one ADC output per dimension. The one-hot drives the DAC at full scale, so there is no
    DAC range to calibrate; where the chip's digital unit rounds, ``calibrate`` finds its ranges
    from all rows. A tied head is a separate layer with separate cells.
    """

    channel_dim = -1
    digital = nn.Embedding
    takes_range = False
    on_request = True
    sequence_first: bool = False
    """Whether inputs of two dimensions are (L, N): see ``AnalogLinear.sequence_first``."""

    @classmethod
    def refuses(cls, layer: Any) -> str | None:
        """Return the option of the digital layer that cells cannot follow; None: there is none."""
        given = ((name, getattr(layer, name)) for name in _REFUSED)
        asked = (name for name, value in given if value is not None and value is not False)
        return next((f"its {name} {_REFUSED[name]}" for name in asked), None)

    def _attach(self, chip: Chip, name: str, digital_class: type[nn.Module]) -> None:
        if why := self.refuses(self):
            raise ValueError(f"layer {name!r} cannot be analog: {why}")
        super()._attach(chip, name, digital_class)
        self._fix_range()

    def set_input_range(self, value: float | Sequence[float] | Tensor) -> None:
        """Check that ``value`` is 1, the range of a one-hot.

        Raises:
            ValueError: ``value`` is not 1.
        """
        if self.checked_ranges(value) != [1]:
            raise ValueError(
                f"DAC range of {self.layer_name!r} is 1, as a one-hot drives full scale; got "
                f"{value}"
            )
        super().set_input_range(1.0)

    def _load_converters(self, value: Any, local_metadata: dict, errors: list) -> None:
        converter_state.load_column_ranges(self, local_metadata, errors)
        # there is no range to load, but weights may have been assigned to a layer on meta
        self.set_input_range(1.0)

    def as_matrix(self, weight: Tensor) -> Tensor:
        """Return the weight as (embedding_dim, num_embeddings): one row per token."""
        return weight.T

    def forward(self, input: Tensor) -> Tensor:
        """Return the ADC outputs of the tokens' rows; ``input``: int64 or int32 of any shape."""
        if isinstance(input, Proxy):
            return whole(self, input)
        if self.sequence_first and input.dim() == 2:
            return self.analog_forward(input.T).transpose(0, 1)
        return self.analog_forward(input)

    def _digital_product(self, x: Tensor, outputs: slice | None) -> Tensor:
        return F.embedding(x, self.weight, self.padding_idx)

    def _analog_product(
        self,
        execution: Execution,
        x: Tensor,
        keys: Tensor | None,
        samples: Tensor | None,
        outputs: slice | None,
    ) -> Tensor:
        if keys is None or keys.dim() == 1:
            return self._read(execution, x, keys, samples)

        def one(x: Tensor, _: Tensor, keys: Tensor, samples: Tensor | None) -> Tensor:
            return self._read(execution, x.squeeze(-1), keys, samples)

        return each_sample(one, x.unsqueeze(-1), self.input_range, keys, samples)

    def _read(
        self, execution: Execution, x: Tensor, keys: Tensor | None, samples: Tensor | None
    ) -> Tensor:
        """Return the output of the chip for the tokens ``x`` of any shape."""
        tokens, plan = x.flatten().long(), execution.plans[0]
        samples = None if samples is None else vector_numbers(samples, tokens.numel())
        held = execution.weights(self, 0, keys, samples, self.weight.dtype, None)
        cells, scale = F.embedding(tokens, held["w"].T, self.padding_idx), held.get("scale")
        if scale is None:
            scale = block_scales(held["w"], plan.bounds, plan.columns)
        if (drop := held.pop("drop", None)) is not None:
            cells = cells - self._lost(cells, tokens, scale, drop, plan)
        with torch.no_grad():
            # a row has no kernel: all blocks but the last are as tall as the first
            block = tokens // plan.bounds[1]
            full, gain = scale.to(wide(cells.dtype)).index_select(0, block), held.get("gain")
            gain = None if gain is None else gain.to(full.dtype).index_select(0, block)
            adcs = execution.converters(self, 0, plan, None)
            ranges = adcs.get("output_ranges")
            v = self._noisy(cells, full, tokens, held.get("key"), plan).to(full.dtype)
            v, saturated = self._adc(v, tokens, full, held | adcs, plan)
            v = v if gain is None else v * gain
            if ranges is not None:
                limit = full * ranges.to(full.dtype).index_select(0, block)
                v, beyond = digital_unit(v, limit, plan.unit_bits)
                saturated = saturated | beyond
        # the cells themselves if nothing has changed them
        y = shifted(v, plan.slicing).detach().to(cells.dtype)
        if cells.requires_grad:  # straight-through: the difference is 0 and carries the gradient
            passed = cells.masked_fill(saturated, 0.0) if plan.saturates else cells
            passed = passed if gain is None else (passed * gain).to(y.dtype)
            passed = shifted(passed, plan.slicing)
            y = y + (passed - passed.detach())
        return y.view(*x.shape, self.embedding_dim)

    def _lost(
        self, cells: Tensor, tokens: Tensor, scale: Tensor, drop: InputDrop, plan: Plan
    ) -> Tensor:
        """Return what IR drop takes from ``cells`` (tokens, outputs), each row driven alone.

        Where polarities are read separately, the positive one loses all of it.
        """
        block, bounds = tokens // plan.bounds[1], torch.tensor(plan.bounds, device=tokens.device)
        rows = bounds.diff()[block].unsqueeze(1)
        full = scale.to(cells.dtype).index_select(0, block)
        lost = F.embedding(tokens, drop.lost.to(cells.dtype).T, self.padding_idx)
        return one_row(relative(cells, full), drop._replace(lost=lost), rows)

    def _noisy(
        self, cells: Tensor, full: Tensor, tokens: Tensor, key: Tensor | None, plan: Plan
    ) -> Tensor:
        """Return ``cells`` (tokens, outputs) with noise, as ``ops.reference.noisy_weight``."""
        if key is None or plan.weight_noise == 0:
            return cells
        shape = cells.shape
        outputs = torch.arange(shape[1], device=cells.device).expand(shape).flatten()
        rows = tokens.unsqueeze(1).expand(shape).flatten()
        z = normal(key, outputs, rows, 1).view(shape)
        return noisy(cells, full, z, plan.weight_noise, plan.spread)

    def _adc(
        self,
        cells: Tensor,
        tokens: Tensor,
        full: Tensor,
        held: dict[str, Any],
        plan: Plan,
    ) -> tuple[Tensor, Tensor]:
        """Return the ADC outputs of ``cells`` (tokens, outputs), and which of them were clipped.

        All phases are added up. ``held`` has the operands by name.
        """
        negatives, samples = held.get("negatives"), held.get("samples")
        if negatives is not None:
            negatives = negatives.T.index_select(0, tokens)
        block = tokens // plan.bounds[1]
        bounds, errors = held.get("adc_ranges"), held.get("adc_errors")
        bound = plan.adc_range
        if bounds is not None:
            bound = bounds.to(full.dtype).index_select(0, block)
        if errors is not None:
            errors = errors.to(full.dtype).index_select(1, block)

        def normals(number: int) -> Tensor:
            # a token is read in one block: one stream serves all blocks
            key = phase_keys(held["output_keys"][0], number, plan.reads)
            assert samples is not None
            return normal(key, samples, torch.zeros_like(samples), cells.shape[1])

        drive, inl = cells.new_ones(1), held.get("dac_inl")
        if inl is not None:  # of the largest code
            drive = drive + inl[-1:].to(drive) / levels(plan.input_bits)
        read = phases(drive, cells, negatives, plan.phases)
        sums, signs = [phase.x * phase.w for phase in read], [phase.sign for phase in read]
        if (bends := held.get("curvatures")) is not None:  # of inputs of full scale
            bend = bends.sum(0).T.index_select(0, tokens)
            sums = [v + phase.x * bend for v, phase in zip(sums, read, strict=True)]
        noise = plan.output_noise
        variances, stds = held.get("read_variances"), []
        if variances is not None and plan.read_noise > 0:
            each = phase_variances(variances.index_select(2, tokens).mT, plan.phases)
            each = [
                rounded_square(phase.x.to(full.dtype)) * v
                for phase, v in zip(read, each, strict=True)
            ]
            stds = [read_std(full, noise, full, plan.read_noise, v) for v in each]
        if plan.jitter:
            stds = _with_jitter(sums, stds, full, plan)
        convert = _converting(plan, held.get("adc_inl"), block)
        rest = (errors, stds, convert, bool(plan.balanced))
        v, clipped = adc_outputs(sums, signs, full, bound, plan.steps, noise, normals, *rest)
        saturated = torch.zeros_like(v, dtype=torch.bool)
        if clipped:
            saturated = torch.stack(clipped).any(0)
        return v + 0.0, saturated  # + 0.0 turns -0 into 0

    def _check_type(self, x: Tensor) -> None:
        if x.dtype not in (torch.int64, torch.int32):
            raise TypeError(
                f"layer {self.layer_name!r} takes token numbers of type int64 or int32, got "
                f"{x.dtype}"
            )

    def _batch(self, x: Tensor) -> int:
        return x.shape[0] if x.dim() else 1  # tokens of one dimension are samples

    def _vectors(self, x: Tensor) -> int:
        return x.numel()


def _with_jitter(sums: list[Tensor], stds: list[Tensor], full: Tensor, plan: Plan) -> list[Tensor]:
    """Return the noise of each phase, with the jitter of the longest pulse.

    ``stds`` is that of read noise and output noise; empty: output noise alone.
    """
    one = full.new_ones(1)
    lsb = plan.jitter / levels(plan.input_bits)
    each = lsb**2 * pulses(one, one, plan.input_bits, plan.split)
    noise = stds or [full * plan.output_noise] * len(sums)
    return [
        (std.square() + each * v.square()).sqrt().expand_as(v)
        for std, v in zip(noise, sums, strict=True)
    ]


def _converting(
    plan: Plan, inl: Tensor | None, block: Tensor
) -> Callable[[Tensor, Tensor, int], Tensor]:
    """Return ``converters.adc`` with the INL of the row block of each token."""
    floors = bool(plan.floors)
    if inl is None or len(inl) == 1:
        return functools.partial(adc, floors=floors, inl=None if inl is None else inl[0])

    def convert(v: Tensor, bound: Tensor, steps: int) -> Tensor:
        found, bound = torch.empty_like(v), bound.expand_as(v)
        for number, each in enumerate(inl):
            here = block == number
            found[here] = adc(v[here], bound[here], steps, floors, each)
        return found

    return convert
