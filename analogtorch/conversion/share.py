"""The share of a model's multiplying weights that is analog."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from analogtorch.conversion.kinds import added, analog_layers, left_digital, makers
from analogtorch.conversion.multiplied import multiplied, no_factors
from analogtorch.conversion.not_parameters import not_parameters
from analogtorch.nn import AnalogComposite, AnalogLayer
from analogtorch.nn.kinds import kind_of

_LOOKED_UP = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)
"""Modules whose weights of two dimensions are looked up or multiplied element by element."""


@dataclass(frozen=True)
class Share:
    """The weights that multiply inputs, analog and digital.

    Analog layers that share a Parameter have cells of their own, and each counts. A digital layer
    counts beside an analog one that it shares its weight with; of several digital ones, the first.

    A Parameter that is not of the layer's kind, or is of a module that AnalogTorch does not know,
    counts if it is one matrix or several, until a run that is watched, as by ``guard``, shows that
    the model only adds it, as it does tables of positions; the last such run decides. So the analog
    share is a lower bound before such a run, and where modules scale their Parameters or compute
    other weights from them.
    Weights of embeddings, buffers and other tensors that are no weight of a layer, and weights that
    the model computes from such tensors, count once ``guard`` has seen that the model multiplies by
    them; computed ones count in place of what they come from, if that has fewer numbers.
    """

    analog: int
    """Number of weights of the analog layers."""
    digital: dict[str, int] = field(default_factory=dict)
    """Number of weights that multiply digitally, by the name of the module that holds them, or by
    what they are computed from."""

    @property
    def total(self) -> int:
        """Number of all weights that multiply."""
        return self.analog + sum(self.digital.values())

    def percent(self, weights: int) -> str:
        """Return the share of ``weights`` in all multiplying weights, as text."""
        if 0 < weights < self.total:  # never rounded to nothing or all
            return f"{min(max(100 * weights / self.total, 0.1), 99.9):.1f} %"
        return "100 %" if weights else "0 %"

    def __str__(self) -> str:
        share = self.percent(self.analog)
        return f"{self.analog:,} of {self.total:,} weights that multiply are on the chip ({share})."


def share(model: nn.Module) -> Share:
    """Return the weights that multiply in ``model``, analog and digital."""
    without = no_factors(model)
    found = {
        name: left
        for name, of in known(model).items()
        if (left := [t for t in of if id(t) not in without])
    }
    seen = {id(t) for of in found.values() for t in of}
    counts = {name: sum(t.numel() for t in of) for name, of in found.items()}
    for name, t, _, count in multiplied(model):
        if t is None or id(t) not in seen:
            counts[name] = counts.get(name, 0) + count
            seen.add(id(t))
    return Share(sum(layer.weight.numel() for _, layer in analog_layers(model)), counts)


def known(model: nn.Module) -> dict[str, list[Tensor]]:
    """Return the weights that multiply digitally as far as the layers show it, without a run.

    They are by the names in ``Share.digital``.
    """
    analog = {id(layer.weight) for _, layer in analog_layers(model)}
    found: dict[str, list[Tensor]] = {}
    seen = set[int]()

    def count(name: str, tensors: Iterable[Tensor], without: Set[int] = frozenset()) -> None:
        if new := {id(t): t for t in tensors if id(t) not in seen | without}:
            found[name or "(root)"] = list(new.values())
            seen.update(new)

    for name, p in left_digital(model):
        count(name, [p])
    for name, _, p in added(model):
        count(name, [p] if _is_matrix(p) else [], analog)
    made, others = makers(model), not_parameters(model)
    for name, module in model.named_modules():
        if not isinstance(module, AnalogLayer | AnalogComposite) and module not in made:
            # whether a module that is not known uses an analog weight cannot be seen
            unknown = kind_of(module) is None
            weights = matrices(module, others.get(module, {}))
            count(name, weights.values(), analog if unknown else frozenset())
    return found


def matrices(module: nn.Module, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a digital module alone that may multiply its input, by name.

    Those of its children do not count. ``others`` are those that are no Parameters.
    """
    held: dict[str, Tensor] = {
        name: p for name, p in module._parameters.items() if p is not None and not is_lazy(p)
    }
    # the direction of a weight norm, not its length
    if isinstance(module, ParametrizationList) and held:
        return dict([max(held.items(), key=lambda item: item[1].numel())])
    kind = kind_of(module)
    names = () if kind is None else kind.weight_names(module)
    looked_up = {"weight", "bias"} if isinstance(module, _LOOKED_UP) else set[str]()
    return {
        name: t
        for name, t in {**held, **others}.items()
        if name not in looked_up and (name in names or name in others or _is_matrix(t))
    }


def _is_matrix(p: Tensor) -> bool:
    """Return whether a Parameter has rows and columns.

    One that begins with a dimension of 1 is added to every sample, as positions are.
    """
    return p.dim() > 1 and p.shape[0] > 1 and sum(size > 1 for size in p.shape) > 1
