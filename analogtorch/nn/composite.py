"""Modules with several weight matrices, such as recurrent layers: each matrix is an analog layer.

Such a module keeps its Parameters and ``state_dict`` keys. It gets a child for each matrix, which
shares the Parameter and adds the data for the chip: the streams of its noise and a DAC range.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized

from analogtorch.chips import Chip
from analogtorch.nn import converter_state
from analogtorch.nn.execution import Execution
from analogtorch.nn.linear import AnalogLinear
from analogtorch.nn.permanent import no_parameter
from analogtorch.nn.reborn import cut, reborn
from analogtorch.nn.samples import SamplesFirst
from analogtorch.ops import Operands, Plan


@dataclass(frozen=True)
class MatrixNames:
    """The names of a weight matrix in its module, and the runs of its outputs."""

    child: str
    """Name of the child that computes with the matrix."""
    weight: str
    """Name of the Parameter (outputs, inputs)."""
    bias: str | None = None
    """Name of the Parameter that is added to its products, if any."""
    runs: tuple[slice, ...] = ()
    """Runs of its outputs that the module computes separately."""


class AnalogMatrix(AnalogLinear):
    """One weight matrix of a larger module: the Parameters of the module, and a DAC range.

    It adds no keys to a ``state_dict``.
    """

    senses = False  # what it multiplies was computed before
    names: MatrixNames

    @classmethod
    def of(
        cls, owner: "AnalogComposite", names: MatrixNames, chip: Chip, name: str
    ) -> "AnalogMatrix":
        """Return the matrix of ``owner`` with these ``names``."""
        new = cls.__new__(cls)
        nn.Module.__init__(new)
        new.names, new.output_runs = names, names.runs
        new.steps_first = owner.steps_first
        new.share(owner)
        new.out_features, new.in_features = new.weight.shape
        new._attach(chip, name, nn.Linear)
        return new

    def share(self, owner: nn.Module) -> None:
        """Take the owner's current Parameters: moving, loading or tying may replace them."""
        for field, name in (("weight", self.names.weight), ("bias", self.names.bias)):
            if name is None:
                self._parameters[field] = None
            # else it was pruned or parametrized, which the owner refuses
            elif name in owner._parameters:
                self._parameters[field] = owner._parameters[name]

    def parameter_name(self, name: str) -> str:
        """Return the name of the owner's Parameter."""
        return f"{name.removesuffix(self.names.child)}{self.names.weight}"

    def matrix_name(self, name: str) -> str:
        """Return the name of the owner's Parameter."""
        return self.parameter_name(name)

    def forward(
        self,
        input: Tensor,
        keys: Tensor | None = None,
        samples: Tensor | None = None,
        outputs: slice | None = None,
        execution: Execution | None = None,
    ) -> Tensor:
        """Return the analog product of ``input``; the arguments are those of ``analog_forward``."""
        return self.analog_forward(input, keys, samples, outputs, execution)

    def operands(
        self, input: Tensor, keys: Tensor | None, samples: Tensor | None, execution: Execution
    ) -> tuple[Operands, Plan] | None:
        """Return the operands and the plan of ``forward``, for many products with the same keys.

        They differ in input and numbers of the vectors alone. None: they differ in more, or
        something looks at each of them.
        """
        looked_at = any(tap.running is not None or tap.looks for tap in self.taps)
        if looked_at or _has_hooks(self) or not execution.alike:
            return None
        if execution.chip.expansion.on or self._autocasts(input):
            return None
        self._admit(input, execution)
        (plan,) = execution.plans
        limits = self.dac_range() if self.calibrated else self._absmax(input.detach())
        given = input, limits, plan, keys, samples, self.weight.dtype
        return execution.operands(0, self, *given), plan

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        converter_state.save(self, destination, prefix)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing: list,
        unexpected: list,
        errors: list,
    ) -> None:
        if not self.refuses_to_load(errors):
            self._load_converters(state_dict.get(prefix + "input_range"), local_metadata, errors)


def _has_hooks(module: nn.Module) -> bool:
    own = module._forward_hooks, module._forward_pre_hooks
    of_gradients = module._backward_hooks, module._backward_pre_hooks
    return any(own) or any(of_gradients) or nn.modules.module._has_any_global_hook()


class DigitalMatrix:
    """One weight matrix of an analog module that stays digital, called as ``AnalogMatrix`` is."""

    execution: ClassVar[None] = None

    def __init__(self, owner: nn.Module, names: MatrixNames) -> None:
        self.weight = getattr(owner, names.weight)
        self.bias = getattr(owner, names.bias, None) if names.bias else None

    def draw(self, x: Tensor, order: Tensor | None = None) -> None:
        """Return None: there is no noise to draw."""

    def number(self, like: Tensor, vectors: int, batch: int) -> None:
        """Return None: there is no noise to number vectors for."""

    def __call__(
        self,
        input: Tensor,
        keys: None = None,
        samples: None = None,
        outputs: slice | None = None,
        execution: None = None,
    ) -> Tensor:
        """Return the digital product of ``input``."""
        return F.linear(input, cut(self.weight, outputs), cut(self.bias, outputs))


class AnalogComposite(SamplesFirst, nn.Module):
    """Mixin of the analog modules with several matrices; the other base is the digital module."""

    digital: ClassVar[type[nn.Module]]
    """The digital module of the same kind."""
    on_request: ClassVar[bool] = False
    """Whether ``convert`` converts this kind only if asked."""
    steps_first: ClassVar[bool] = False
    """``AnalogLayer.steps_first`` of its matrices."""
    digital_class: type[nn.Module]
    layer_name: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        digital = f"nn.{self.digital.__name__}"
        raise TypeError(
            f"{type(self).__name__} is made from a digital layer: "
            f"analogtorch.convert({digital}(...), chip)"
        )

    @classmethod
    def from_digital(
        cls, layer: nn.Module, chip: Chip | Mapping[str, Chip], name: str
    ) -> "AnalogComposite":
        """Return an analog module in place of ``layer``.

        It has the same Parameter objects, children, hooks and attributes.

        ``chip`` is the chip of all matrices, or of each that becomes analog, by the name of its
        child.
        """
        new = reborn(layer, cls)
        new._modules = dict(layer._modules)
        new.digital_class, new.layer_name = type(layer), name
        for names in new.all_matrices():
            of_matrix = chip if isinstance(chip, Chip) else chip.get(names.child)
            if of_matrix is not None:
                full_name = f"{name}.{names.child}" if name else names.child
                child = AnalogMatrix.of(new, names, of_matrix, full_name)
                new.add_module(names.child, child.train(layer.training))
        return new

    def all_matrices(self) -> Iterator[MatrixNames]:
        """Yield every weight matrix, also of a digital module."""
        raise NotImplementedError

    @classmethod
    def weight_names(cls, layer: Any) -> tuple[str, ...]:
        """Return the Parameters of the digital ``layer`` that would go on the chip."""
        return tuple(names.weight for names in cls.all_matrices(layer))

    @classmethod
    def refuses(cls, layer: nn.Module) -> str | None:
        """Return why the digital ``layer`` cannot become this kind; None if it can."""
        return None

    def matrix(self, child: str) -> Any:
        """Return the ``AnalogMatrix`` or ``DigitalMatrix`` that computes for ``child``."""
        if (analog := self._modules.get(child)) is not None:
            return analog
        return DigitalMatrix(self, next(m for m in self.all_matrices() if m.child == child))

    def matrices(self) -> list[AnalogMatrix]:
        """Return the children that compute on the chip."""
        return [m for m in self._modules.values() if isinstance(m, AnalogMatrix)]

    def to_digital(self) -> nn.Module:
        """Return the digital module of ``from_digital``, with the current Parameters."""
        old = reborn(self, self.digital_class)
        old._modules = {
            name: m for name, m in self._modules.items() if not isinstance(m, AnalogMatrix)
        }
        for name in ("digital_class", "layer_name"):
            old.__dict__.pop(name, None)
        return old

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Set a Parameter, also for ``module.name = Parameter``; the matrices take it."""
        super().register_parameter(name, param)
        self._share()

    def _share(self) -> None:
        for matrix in self.matrices():
            matrix.share(self)

    def refuse_changed(self, biases: bool = True) -> None:
        """Raise RuntimeError if a Parameter was pruned or parametrized since the conversion.

        Its matrix would not see the change. ``biases`` is False if a bias may be another tensor,
        unless it is parametrized.
        """
        for matrix in self.matrices():
            for field, name in (("weight", matrix.names.weight), ("bias", matrix.names.bias)):
                if is_parametrized(matrix, field) or f"{field}_orig" in matrix._parameters:
                    raise RuntimeError(
                        f"matrix {matrix.layer_name!r} was pruned or parametrized after the "
                        "conversion, which neither state_dict nor to_digital keeps: change "
                        f"{name!r} of the digital layer, before convert"
                    )
                if name is None or matrix._parameters.get(field) is None:
                    continue
                looked_at = biases or field == "weight" or is_parametrized(self, name)
                if name not in self._parameters and looked_at:
                    raise RuntimeError(
                        f"layer {self.layer_name!r} was changed after the conversion, which the "
                        f"chip does not see: {no_parameter(self, name)}"
                    )

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        kept = [matrix for matrix in self.matrices() if not matrix.parted]
        super()._apply(fn, recurse)
        self._share()
        for matrix in kept:  # torch may have made other Parameters
            matrix.keep_target()
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        converter_state.save_matrices(self.matrices(), destination, prefix)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: dict, *rest: Any
    ) -> None:
        ranged = any(matrix.ranged for matrix in self.matrices())
        # its matrices have no metadata in a digital one either
        lacking = converter_state.lacks_ranges(self, ranged, state_dict, prefix, local_metadata)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)
        self._share()
        if lacking and not any(key.endswith(".input_range") for key in state_dict):
            converter_state.warn_of_lost_ranges(any(m.calibrated for m in self.matrices()))
