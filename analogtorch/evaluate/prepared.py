"""What a model needs to be converted anew: its digital form, and what stays digital of it."""

from dataclasses import dataclass

from torch import nn

from analogtorch.conversion import analog_layers, to_digital
from analogtorch.conversion.detached import deep_copy
from analogtorch.conversion.patterns import candidates, names_of, units
from analogtorch.conversion.restored import switched
from analogtorch.nn import AnalogEmbedding


@dataclass(frozen=True)
class Prepared:
    """A digital copy of a model, to convert as the model is converted."""

    digital: nn.Module
    """The copy, in evaluation mode."""
    analog: tuple[str, ...]
    """Names of the analog layers of the model."""
    embeddings: bool
    """Whether embeddings are among them."""
    left: tuple[str, ...]
    """Layers that ``convert`` could make analog and that are digital."""
    devices: tuple[int, ...]
    """GPUs of the model, whose random state a conversion may change."""

    @classmethod
    def of(cls, model: nn.Module) -> "Prepared":
        """Return what a model, digital or converted, needs."""
        analog = tuple(name for name, _ in analog_layers(model))
        embeddings = any(isinstance(m, AnalogEmbedding) for m in model.modules())
        could = units(names_of(model), candidates(model, embeddings))
        tensors = (*model.parameters(), *model.buffers())
        return cls(
            digital=switched(to_digital(deep_copy(model))),
            analog=analog,
            embeddings=embeddings,
            left=tuple(name for name in could if name not in analog),
            devices=tuple(sorted({t.device.index for t in tensors if t.device.type == "cuda"})),
        )
