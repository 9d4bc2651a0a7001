"""The cost of a model of which some layers are digital and others have more devices."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from torch import nn

from analogtorch.chips import Chip
from analogtorch.conversion import analog_layers, to_digital
from analogtorch.conversion.detached import deep_copy
from analogtorch.conversion.digital_bits import quantised
from analogtorch.conversion.example import Example
from analogtorch.conversion.int8 import quantise_digital, quantise_inputs
from analogtorch.conversion.route import route, routes
from analogtorch.cost_model import CostReport, WeightMemory, cost
from analogtorch.cost_model.efficiency import OPERATIONS_PER_MAC
from analogtorch.evaluate.routed import accepted, placed
from analogtorch.evaluate.walks import DIGITAL, Candidate
from analogtorch.graph.trace import Trace, trace
from analogtorch.graph.types import ROUNDING
from analogtorch.mapping import ChipMapping
from analogtorch.mapping.map import map_traced
from analogtorch.values import checks


@dataclass(frozen=True, kw_only=True)
class PlanCost:
    """Time and energy of one inference, and what it takes."""

    energy: float
    """Energy of the whole system, J, with the memory of digital weights."""
    digital_energy: float
    """The part of it, J, of digital operations and of the memory of digital weights."""
    latency: float
    """Time from the first input to the last output, s."""
    chips: int
    """Number of chips in use."""
    tiles: int
    """Number of tiles in use."""
    macs: int
    """Number of multiply-accumulates (MACs) of the weights."""
    digital_macs: int
    """The MACs that are digital."""


class Costs:
    """The costs of candidates; the model is traced once, and once with all its layers in int8.

    A layer with ``n`` times the unit cells per weight is charged as ``Matrix.cells`` of ``n``.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Example,
        chip: Chip,
        memory: WeightMemory,
        signed_inputs: Collection[str] | None = None,
    ) -> None:
        self.model, self.chip, self.memory = model, chip, memory
        self.signed_inputs = signed_inputs
        self.traced = trace(model, example)
        matrices = {m.name: m for m in self.traced.matrices}
        # by matrix: the weights that are read, and the MACs, if it is digital
        self.weights = dict.fromkeys(matrices, 0)
        self.macs = dict.fromkeys(matrices, 0)
        for op in self.traced.operations:
            if op.matrix is None:
                continue
            matrix = matrices[op.matrix]
            read = self.weights[op.matrix] + matrix.macs(op) if op.one_hot else matrix.weights
            self.weights[op.matrix] = min(read, matrix.weights)
            self.macs[op.matrix] += 0 if op.one_hot else matrix.macs(op)
        digital = to_digital(deep_copy(model))
        with accepted("plan", digital, example):
            quantise_digital(digital, example=placed(example, model))
        self.example, self.int8 = example, quantised(digital)
        self.rounding = _rounding(model, digital)
        self.rounded = trace(self.rounding, example, rounded=self.int8)
        self.layers = [name for name, _ in analog_layers(model)]
        self.known: dict[Candidate, PlanCost] = {}

    def of(self, candidate: Candidate) -> PlanCost:
        """Return the cost of a candidate, on as many chips as it takes."""
        if candidate not in self.known:
            self.known[candidate] = self._of(candidate)
        return self.known[candidate]

    def signed(self) -> tuple[str, ...]:
        """Return the matrices whose inputs are charged as signed, with all layers on the chip."""
        return self._charged(Candidate(()))[1].schedule.signed

    def _charged(self, candidate: Candidate) -> tuple[ChipMapping, CostReport]:
        """Return the layers that a candidate has on the chip, and what these cost."""
        left = candidate.digital
        analog = [name for name in self.layers if name not in candidate.digital]
        traced = self._traced([name for name in self.int8 if not _holds(name, analog)])
        mapping = map_traced(self.model, traced, self.chip, exclude=left, cells=candidate.devices)
        signed = self.signed_inputs
        if signed is not None and candidate.digital:
            signed = {m.name for m in mapping.matrices}.intersection(signed)
        return mapping, cost(mapping, signed_inputs=signed)

    def _of(self, candidate: Candidate) -> PlanCost:
        mapping, report = self._charged(candidate)
        kept = {m.name for m in mapping.matrices}
        digital = [name for name in self.weights if name not in kept]
        read, waited = self.memory.read(sum(self.weights[name] for name in digital))
        return PlanCost(
            energy=report.energy.system + read,
            digital_energy=report.energy.digital + read,
            latency=report.latency + waited,
            chips=mapping.num_chips,
            tiles=mapping.tiles_used,
            macs=sum(self.macs.values()),
            digital_macs=sum(self.macs[name] for name in digital),
        )

    def _traced(self, rounded: list[str]) -> Trace:
        """Return the trace of the model in which these layers round their inputs."""
        if _computed(self.traced) != _computed(self.rounded):  # code depends on what is rounded
            return trace(self.rounding, self.example, rounded=rounded)
        exact = {op.name: op for op in self.traced.operations}
        kept = {op: layer for op, layer in self.rounded.rounding.items() if layer in rounded}
        left = self.rounded.rounding.keys() - kept.keys()
        found = (
            op if left.isdisjoint(op.inputs) else exact[op.name]
            for op in self.rounded.operations
            if op.name not in left
        )
        return replace(self.traced, operations=tuple(found), rounding=kept)

    def one(self, name: str, cells: int) -> PlanCost:
        """Return the cost with all layers on the chip but for the cells of one."""
        candidate = Candidate.of({name: cells}, [name])
        if candidate.digital and len(self.layers) == 1:
            return self.all_digital()
        return self.of(candidate)

    def all_digital(self) -> PlanCost:
        """Return the cost without a chip: all operations run on its host."""
        host, macs = self.chip.costs.host, sum(self.macs.values())
        others = sum(op.operations for op in self.rounded.operations if op.matrix is None)
        operations = OPERATIONS_PER_MAC * macs + others
        read, waited = self.memory.read(sum(self.weights.values()))
        energy = operations * host.energy.value + read
        return PlanCost(
            energy=energy,
            digital_energy=energy,
            latency=operations / host.rate.value + waited,
            chips=0,
            tiles=0,
            macs=macs,
            digital_macs=macs,
        )


def costs_of(
    model: nn.Module,
    example: Example,
    chip: Chip,
    memory: WeightMemory | None,
    signed_inputs: Collection[str] | None,
) -> Costs:
    """Return the costs; what they refuse is so known before anything is measured."""
    memory = WeightMemory() if memory is None else memory
    checks.instance("plan: memory", memory, WeightMemory, "at.cost_model.WeightMemory()")
    costs = Costs(model, example, chip, memory, signed_inputs)
    costs.of(Candidate(()))
    for name, _ in analog_layers(model):  # a layer that the example does not reach has no cost
        costs.one(name, DIGITAL)
    return costs


def _rounding(model: nn.Module, digital: nn.Module) -> nn.Module:
    """Return a copy of a model, with its weights, that rounds inputs as ``digital`` does."""
    weights = {id(p): p for p in model.parameters()}
    copied = deep_copy(model, weights)
    quantise_inputs(copied, quantised(digital))
    for name, inner in routes(digital).items():
        route(copied.get_submodule(name), list(inner))
    return copied


def _computed(traced: Trace) -> list[str]:
    """Return the names of the operations that round no inputs."""
    return [op.name for op in traced.operations if op.kind != ROUNDING]


def _holds(module: str, layers: list[str]) -> bool:
    """Return whether a module is one of the layers or has one of them inside."""
    return any(f"{name}.".startswith(f"{module}." if module else "") for name in layers)
