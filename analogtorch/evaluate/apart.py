"""A model of which one layer at a time is on the chip, and what a metric gives for it."""

import functools
from collections.abc import Callable, Collection, Iterable

import torch
from torch import Tensor, nn

from analogtorch.calibration.passes import exact_execution
from analogtorch.conversion.kinds import analog_layers
from analogtorch.conversion.restored import switched
from analogtorch.conversion.unread import quiet
from analogtorch.evaluate.journal import Journal, Unkept
from analogtorch.evaluate.metric import Metric, finite, measure
from analogtorch.nn import AnalogLayer, Tap, tapped
from analogtorch.nn.programmed import Programmed
from analogtorch.ops.slices import cells
from analogtorch.simulate.copied import copied


class Kept:
    """The values of one chip in a journal; each that is missing is measured, and stored at once."""

    def __init__(
        self, journal: Journal | Unkept, number: int, seed: int, step: Callable[[], object]
    ) -> None:
        self.journal, self.number, self.seed, self.step = journal, number, seed, step
        self.values = journal.read(number, seed)

    def value(self, name: str, measured: Callable[[], float]) -> float:
        """Return the value of this name."""
        if name not in self.values:
            self.journal.check_writable()
            self.values[name] = measured()
            self.journal.write(self.number, self.seed, self.values)
        self.step()
        return self.values[name]


class Apart:
    """A model of which one layer at a time is on the chip.

    Args:
        names: the names of its analog layers.
        made: gives the model, of its own; it is called once, when something is to be measured.
        metric: what is measured.
        kept: where values are kept.
        exact_weights: whether what a chip holds of the layers becomes exact.
    """

    def __init__(
        self,
        names: Iterable[str],
        made: Callable[[], nn.Module],
        metric: Metric,
        kept: Kept,
        *,
        exact_weights: bool = False,
    ) -> None:
        self.names, self.made, self.metric, self.kept = tuple(names), made, metric, kept
        self.exact_weights = exact_weights

    @property
    def idle(self) -> set[str]:
        """Layers that did not run while they were measured on the chip, now or before."""
        return {name for name in self.names if _idle(name) in self.kept.values}

    def each(self, key: str, effect: str) -> list[float]:
        """Return the metric with all layers on the chip, then with each layer alone.

        Args:
            key: the name of the effect where values are kept.
            effect: that of messages.
        """
        everything = f"with all layers on the chip ({effect})"
        values = [self._value(f"{key}, all layers", everything, self.names)]
        for name in self.names:
            what = f"with only layer {name or '(root)'!r} on the chip ({effect})"
            values.append(self._value(f"{key}, layer {name!r}", what, [name]))
        return values

    def exact(self) -> float:
        """Return the metric with no layer on the chip."""
        return self._value("exact", "with all layers exact", [])

    def _value(self, key: str, what: str, on_chip: Collection[str]) -> float:
        return self.kept.value(key, functools.partial(self._measure, what, on_chip))

    @functools.cached_property
    def _model(self) -> nn.Module:
        model = switched(self.made())
        for _, layer in analog_layers(model) if self.exact_weights else ():
            layer.programmed = _exactly(layer)
        return model

    @functools.cached_property
    def _layers(self) -> dict[str, tuple[AnalogLayer, Tap]]:
        """The layers by name, each with the tap by which it computes exactly."""
        return {
            name: (layer, Tap(execution=exact_execution(layer)))
            for name, layer in analog_layers(self._model)
        }

    @functools.cached_property
    def _counts(self) -> dict[AnalogLayer, Tensor]:
        """How many inputs each layer of a chip had multiplied when the model was made.

        Each measurement goes on from there: its output noise is the same, and none of what a
        recovery was fitted to.
        """
        layers = [layer for layer, _ in self._layers.values()]
        return {
            layer: layer.vectors_read.clone() for layer in layers if layer.programmed is not None
        }

    def _measure(self, what: str, on_chip: Collection[str]) -> float:
        model = switched(self._model)
        off = {layer: tap for layer, tap in self._layers.values()}
        for name in on_chip:
            layer, _ = self._layers[name]
            del off[layer]
            layer.has_run = False
        for layer, count in self._counts.items():  # of a view that was just made
            layer.vectors_read.copy_(count)
        with tapped(off), quiet():  # sensitivity names the layers that did not run
            value = finite("sensitivity", self.metric, measure(self.metric, model), what)
        silent = [name for name in on_chip if not self._layers[name][0].has_run]
        self.kept.values.update({_idle(name): 1.0 for name in silent})
        return value


def _idle(name: str) -> str:
    """Return the name of the value that says that a layer did not run."""
    return f"layer {name!r} did not run"


def apart_copy(model: nn.Module) -> nn.Module:
    """Return the model in evaluation mode; it shares its weights and copies all else."""
    weights = [layer.weight for _, layer in analog_layers(model)]
    shared = {id(w): nn.Parameter(w.detach(), requires_grad=False) for w in weights}
    return copied(model, shared)


def _exactly(layer: AnalogLayer) -> Programmed | None:
    """Return what a chip would hold of the layer without errors, but with its noise.

    Its devices take the weights exactly, and neither converters, cells nor wires bend its MVMs.
    """
    held = layer.programmed
    if held is None:
        return None
    matrix = layer.placed_matrix(layer.weight.detach())
    return Programmed(
        weights=tuple(cells(section, matrix) for section in layer.sections),
        scales=held.scales,
        gains=tuple(map(torch.ones_like, held.gains)),
        keys=held.keys,
        negatives=held.negatives,
        read_variances=held.read_variances,
        origin=held.origin,
    )
