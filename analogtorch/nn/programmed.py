"""The state of a layer on a programmed chip, and the execution that computes with it."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from analogtorch.nn.execution import Execution
from analogtorch.nn.reborn import cut
from analogtorch.ops import Plan
from analogtorch.ops.input_drop import InputDrop, unit_load
from analogtorch.values.thread_lock import ThreadLock

if TYPE_CHECKING:
    from analogtorch.nn.base import AnalogLayer

_COUNTING = ThreadLock()
"""Held while a layer counts. It belongs to no layer, because a lock cannot be copied."""


@dataclass(frozen=True)
class Origin:
    """The chip that a state is of, and when."""

    seed: int
    """Seed of the chip."""
    written: tuple[Any, ...]
    """What else decides its devices: method and defects."""
    time: float
    """Seconds after programming; -infinity: as programmed."""


@dataclass(frozen=True)
class Programmed:
    """The state of one layer on a programmed chip at one time: see ``analogtorch.program``."""

    weights: tuple[Tensor, ...]
    """Per section: the weights that its conductances stand for, in the section's shape."""
    scales: tuple[Tensor, ...]
    """Per section: weight at full conductance, (row blocks, outputs)."""
    gains: tuple[Tensor, ...]
    """Per section: digital correction of each block's ADC outputs, (row blocks, outputs)."""
    keys: Tensor
    """Keys of the output noise, (row blocks,) int64."""
    adc_errors: tuple[Tensor, ...] | None = None
    """Per section: errors of the ADC of each column, (kinds, row blocks, outputs), in the order of
    ``analogtorch.chips.ADC_ERRORS``; None: no errors. ``gains`` contains their digital factor."""
    offset: Tensor | None = None
    """Added digitally to each output beside the bias, (outputs,): see
    ``analogtorch.correct_columns``."""
    negatives: tuple[Tensor, ...] | None = None
    """Per section: the part of ``weights`` that the negative polarity holds, >= 0; None: the
    polarities are not read separately."""
    read_variances: tuple[Tensor, ...] | None = None
    """Per section: ``Operands.read_variances``, those of the conductances; None: MVMs have no read
    noise."""
    adc_inl: tuple[Tensor, ...] | None = None
    """Per section: ``Operands.adc_inl``; None: ADCs are linear."""
    dac_inl: Tensor | None = None
    """``Operands.dac_inl``; None: DACs are linear."""
    curvatures: tuple[Tensor, ...] | None = None
    """Per section: ``Operands.curvatures``; None: currents are straight."""
    lost: tuple[Tensor, ...] | None = None
    """Per section: ``InputDrop.lost``; None: IR drop does not depend on the inputs."""
    lost_negatives: tuple[Tensor, ...] | None = None
    """Per section: the part of ``lost`` in the negative polarity, as ``negatives``."""
    origin: Origin | None = None
    """The chip and the time; None: not known."""

    def map(self, fn: Callable[[Tensor], Tensor]) -> "Programmed":
        """Return the same with ``fn`` applied to every tensor."""

        def mapped(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(fn, value))
            return fn(value) if isinstance(value, Tensor) else value

        return Programmed(**{f.name: mapped(getattr(self, f.name)) for f in fields(self)})


class ProgrammedMixin(nn.Module):
    """The part of an analog layer that belongs to a programmed chip."""

    programmed: Programmed | None
    """The state on the chip; None: the layer is not programmed."""
    has_run: bool = False
    """Whether the layer has multiplied anything since it was converted or programmed; compiled
    calls, and calls with a tap that has another execution, do not count."""
    excess: float = 0.0
    """For a programmed layer: median magnitude of its first inputs but 0, in units of the DAC
    range, if that is fixed."""
    vectors_read: Tensor
    """For a programmed layer: number of input vectors (linear) or samples (convolution) it has
    multiplied, (1,) int64. It numbers them for the output noise: each MVM has its own, and batches
    of any size get the same, unless a forward calls the layer more than once."""

    weight: Any
    layer_name: str

    def hold(self, programmed: Programmed) -> None:
        """Become the layer of a programmed chip; its count of vectors restarts at 0."""
        self.programmed, self.has_run, self.excess = programmed, False, 0.0
        self.keep_target()
        # a buffer, so that torch.export and torch.compile carry on the count
        with torch.inference_mode(False):  # it must be able to count outside too
            count = torch.zeros(1, dtype=torch.int64, device=programmed.keys.device)
        others = dict(self._buffers)
        self._buffers.clear()
        self.register_buffer("vectors_read", count, persistent=False)
        # behind it: torch.export of a bare layer counts buffers that are None as if they were there
        self._buffers.update(others | dict(self._buffers))

    def count_on(self, vectors: int) -> Tensor:
        """Count ``vectors`` and return the number of the first in the output noise, (1,) int64.

        Threads that share a layer never get the same numbers; the order of their calls decides
        which.

        Raises:
            RuntimeError: the call is inside a backward, so that it repeats one that has been
                counted.
        """
        if torch.compiler.is_compiling():  # which cannot trace a lock
            return self._counted_on(vectors)
        if torch._C._current_graph_task_id() != -1:
            raise RuntimeError(
                f"layer {self.layer_name!r} belongs to a programmed chip whose MVMs have noise, "
                "which has passed: activation checkpointing would compute it again with other "
                "noise, and wrong gradients. Do without checkpointing, or program the model on "
                "chip.without('output_noise', 'mvm_read_noise', 'dac_jitter', 'shot_noise')"
            )
        with _COUNTING:
            return self._counted_on(vectors)

    def _counted_on(self, vectors: int) -> Tensor:
        count = self.vectors_read
        first = count.clone()
        count.add_(vectors)
        return first

    def keep_target(self) -> None:
        """Take the present weight for that of the cells, from which the layer may not part."""
        weight = self.weight
        vars(self)["target"] = weight  # as an attribute it would be one more Parameter
        vars(self)["target_version"] = _version(weight)

    def count_changes_anew(self, was_parted: bool) -> None:
        """Take the weight of a copy, whose changes torch counts anew, for as it is now."""
        if (weight := self._parameters.get("weight")) is not None:
            vars(self)["target_version"] = -1 if was_parted else _version(weight)

    @property
    def parted(self) -> bool:
        """Whether the weight is another than that of the cells, which computes nothing.

        Also one that was changed in place, but for changes by ``weight.data``.
        """
        # the weight comes last: that of a parametrized layer is computed, perhaps at random
        if self.programmed is None or (target := vars(self).get("target")) is None:
            return False
        if (weight := self.weight) is target:
            return _version(weight) > vars(self).get("target_version", 0)
        return not _same(weight, target)

    def refuse_parted(self) -> None:
        """Raise RuntimeError if a programmed layer was given another weight."""
        if not torch.compiler.is_compiling() and self.parted:
            raise RuntimeError(
                f"layer {self.layer_name!r} belongs to a programmed chip, whose cells only program "
                "changes, and its weight was changed, replaced, pruned, parametrized or tied to "
                "one that has learnt, which would change nothing; change the model that it was "
                "programmed from, and program that again"
            )

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        parted = self.parted
        super()._apply(fn, recurse)
        if self.programmed is not None:
            self.programmed = self.programmed.map(fn)
            if not parted:  # torch may have made another Parameter
                self.keep_target()
        return self


def _version(weight: Tensor) -> int:
    """Return how often a weight was changed in place; 0 where torch does not count."""
    return 0 if weight.is_inference() else weight._version


def _same(weight: Tensor, target: Tensor) -> bool:
    """Return whether a weight has the values of another one, as one that was tied again has."""
    if torch._C._functorch.is_batchedtensor(weight):
        return False
    # torch.func.functional_call may be given the same memory
    return weight.is_set_to(target) or (
        weight.shape == target.shape
        and (weight.dtype, weight.device) == (target.dtype, target.device)
        and torch.equal(weight, target)
    )


class OnChip(Execution):
    """The product with the conductances of a programmed chip."""

    @property
    def noisy(self) -> bool:
        """Whether the chip has noise that is new in every MVM."""
        return self.plans[0].noisy

    def number(self, layer: "AnalogLayer", like: Tensor, vectors: int, batch: int) -> Tensor | None:
        """Return the number of the first vector, (1,): the layer counts them."""
        return layer.count_on(vectors) if self.noisy else None

    def bias(self, layer: "AnalogLayer") -> Tensor | None:
        """Return the bias with the offset of ``correct_columns``."""
        bias, offset = layer.analog_bias(), _programmed(layer).offset
        return bias if offset is None else offset if bias is None else bias + offset

    def weights(
        self,
        layer: "AnalogLayer",
        index: int,
        keys: Tensor | None,
        samples: Tensor | None,
        dtype: torch.dtype,
        outputs: slice | None,
    ) -> dict[str, Any]:
        """Return the weights of the chip's conductances, and its digital gains."""
        programmed = _programmed(layer)
        found = {
            "w": cut(programmed.weights[index], outputs).to(dtype),
            "scale": cut(programmed.scales[index], outputs, 1),
            "gain": cut(programmed.gains[index], outputs, 1),
            "output_keys": programmed.keys,
            "samples": samples,
        }
        if programmed.negatives is not None:
            found["negatives"] = cut(programmed.negatives[index], outputs).to(dtype)
        if programmed.read_variances is not None:
            variances = cut(programmed.read_variances[index], outputs, 1)
            found["read_variances"] = variances.bfloat16()  # which .double() has widened
        if programmed.curvatures is not None:
            found["curvatures"] = cut(programmed.curvatures[index], outputs, 1).to(dtype)
        if programmed.lost is not None:
            negatives = programmed.lost_negatives
            found["drop"] = InputDrop(
                self.chip.wires.model,
                cut(programmed.lost[index], outputs),
                None if negatives is None else cut(negatives[index], outputs).to(dtype),
                unit_load(self.chip.wires, self.chip.cell),
            )
        return found

    def converters(
        self, layer: "AnalogLayer", index: int, plan: Plan, outputs: slice | None
    ) -> dict[str, Tensor | None]:
        """Return the operands of every execution, with the errors of each ADC."""
        found = super().converters(layer, index, plan, outputs)
        errors, inl = _programmed(layer).adc_errors, _programmed(layer).adc_inl
        if errors is not None:
            found["adc_errors"] = cut(errors[index], outputs, 2)
        if inl is not None:
            each = inl[index]
            found["adc_inl"] = each if each.shape[1] == 1 else cut(each, outputs, 1)
        found["dac_inl"] = _programmed(layer).dac_inl
        return found


def _programmed(layer: "AnalogLayer") -> Programmed:
    assert layer.programmed is not None
    return layer.programmed
