"""The operators of one run as matrices and operations of a chip, with their dependencies."""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from analogtorch.conversion.weights import Storage, accessed, bind, operator_name, storage, tensors
from analogtorch.graph import digital, digital_moves, recurrent
from analogtorch.graph.parameters import NamedParameter
from analogtorch.graph.parts import Parts
from analogtorch.graph.products import Product, find, lookup
from analogtorch.graph.sizes import numbers
from analogtorch.graph.types import ROUNDING, Matrix, Operation

_After = Mapping[str, float]
"""The operations that numbers come from, and how many elements of their results these hold."""


@dataclass(frozen=True)
class _Call:
    """One operator as it ran."""

    name: str
    a: dict[str, Any]
    """Arguments of the operator by name."""
    read: list[Tensor]
    """Tensors among the arguments."""
    result: Any
    module: Callable[[], str]
    """Returns the name of the module in which it ran."""

    @property
    def size(self) -> int:
        """Number of elements of the result."""
        return numbers(tensors(self.result))


class Recorder:
    """Collects operations and matrices in the order in which they run.

    Args:
        parameters: the weights of the model, by name; see ``parameters.once``.
        holders: of each of them, what it is in each module that holds it, by the module's name.
        analog: names of weights that lie on tiles, each in its own layer, whatever the layer is
            applied to.
        embeddings: names of weights whose rows are looked up on tiles, token by token.
        routed: a function of the names of a module and of a layer, and of a call as
            ``route.can_route`` takes it, that returns whether that can be routed to the layer.
        rounding: returns the layer whose inputs the operator that runs rounds to int8, if any.
    """

    def __init__(
        self,
        parameters: Mapping[str, NamedParameter],
        holders: Mapping[str, Mapping[str, NamedParameter]],
        analog: frozenset[str],
        embeddings: frozenset[str],
        routed: Callable[[str, str, str, Mapping[str, Any]], bool],
        rounding: Callable[[], str | None],
    ) -> None:
        self.parts, self.analog, self.embeddings = Parts(parameters), analog, embeddings
        self._holders, self._routed, self._rounding = holders, routed, rounding
        self.operations: list[Operation] = []
        self.matrices: dict[tuple[Any, ...], Matrix] = {}
        self.sources: dict[str, tuple[str, ...]] = {}
        """The parameters that each matrix holds, under the names of the layer that applies it."""
        self.bypassed = set[str]()
        """The matrices that a module applies without calling the layer that holds them, and by
        another operator or form of the weight than that layer: no call is routed to the layer."""
        self.of_complex = set[str]()
        """The products that compute with complex numbers."""
        self.rounding: dict[str, str] = {}
        """The layer whose inputs each operation of the kind ``rounding`` rounds."""
        self._forms = Counter[str]()
        """The number of forms in which each part of a parameter has been applied."""
        matrices = [held for held in parameters.values() if held.parameter.dim() > 1]
        self._owners = {name for held in matrices for name in held.modules}
        self._names: dict[str, int] = {}
        self._elements: dict[str, int] = {}
        """The size of the result of each operation."""
        self._after: dict[Storage, _After] = {}
        """What each storage comes from; those without entry are constant."""
        self._mixed = set[Storage]()
        """Storages that were written in part: where in them each result is, is not known."""
        self._same: dict[Storage, Storage] = {}

    def give(self, inputs: Iterable[Tensor]) -> None:
        """Add tensors to the model's input."""
        for t in inputs:
            if storage(t) not in self._after:
                name = self._append(Operation.given(self._unique("(input)"), numbers(t)))
                self._after[storage(t)] = self._of(name)

    def take(self, outputs: Iterable[Tensor]) -> None:
        """Add what the model returns, unless no operation is known to give it."""
        if after := self._inputs(outputs):
            self._append(Operation.returned(_whole(after)))

    def place(self, parameter: str, matrix: Matrix) -> None:
        """Add the matrix of a parameter that the run has not multiplied by."""
        self.matrices[(parameter,)] = matrix
        self.sources[matrix.name] = (parameter,)

    def stand_for(self, stand_in: Tensor, t: Tensor) -> None:
        """Treat views of ``stand_in`` as views of ``t``."""
        self._same[storage(stand_in)] = self._key(t)

    def see(
        self, func: Any, args: Any, kwargs: Any, result: Any, module: Callable[[], str]
    ) -> None:
        """Record one operator.

        Args:
            func: the operator.
            args: its arguments.
            kwargs: its keyword arguments.
            result: what it returned.
            module: a function that returns the name of the module in which it ran.
        """
        written, a = accessed(func, args, kwargs, written=True), bind(func, args, kwargs)
        made = [*written, *(t for t in tensors(result) if not any(t is w for w in written))]
        if not made:
            return
        call = _Call(operator_name(func), a, tensors(a), result, module)
        # constant tokens count too, such as positions
        if call.name == "embedding" and self._is_read(a["weight"]):
            after = self._product(call, lookup(a))
        elif all(self._key(t) not in self._after for t in call.read):
            found = self._of_constant(call)
            if found is None:
                self.parts.derive(call.name, call.read, made)
                return
            after = found
        elif call.name in digital.CREATED:
            return
        else:
            after = self._after_of(call)
        self._set(made, written, call.read, after)

    def _after_of(self, call: _Call) -> _After:
        """Record ``call`` and return the operations that its result comes from."""
        if digital_moves.moves(call.name, call.a, call.result):
            # what is overwritten is read by no copy
            return self._inputs([call.a["src"]] if call.name == "copy" else call.read)
        if call.name in recurrent.NAMES and all(map(self._is_weight, _weights(call.a))):
            return self._recurrent(call)
        product = find(call.name, call.a, call.result, self._is_weight)
        return self._digital(call) if product is None else self._product(call, product)

    def _of_constant(self, call: _Call) -> _After | None:
        """Record an analog layer that is applied to a constant, such as a table of positions.

        The result is its operations; see ``see``. It is None if ``call`` belongs to no such layer,
        but computes weights from weights, as code of a merged adapter does.
        """

        def is_of_layer(t: Any) -> bool:
            name = self.parts.whose(t) if isinstance(t, Tensor) else None
            here = self._holders[name].get(call.module()) if name is not None else None
            return here is not None and here.name in self.analog

        if call.name in recurrent.NAMES:
            return self._recurrent(call) if all(map(is_of_layer, _weights(call.a))) else None
        product = find(call.name, call.a, call.result, is_of_layer)
        return None if product is None else self._product(call, product)

    def _set(
        self, made: list[Tensor], written: list[Tensor], read: list[Tensor], after: _After
    ) -> None:
        """Remember what ``made`` depends on.

        A storage that is written in part keeps its earlier dependencies.
        """
        known, total = {self._key(t) for t in read}, sum(after.values())
        for t in made:
            key = self._key(t)
            held = min(1.0, numbers(t) / total) if total else 1.0
            new = {name: held * elements for name, elements in after.items()}
            if any(t is w for w in written):
                earlier = {} if _is_whole(t) else self._after.get(key, {})
                self._after[key] = self._together([earlier, new])
                (self._mixed.discard if _is_whole(t) else self._mixed.add)(key)
            elif key not in known:  # otherwise it is a view, or the input itself
                self._after[key] = new

    def _key(self, t: Tensor) -> Storage:
        key = storage(t)
        return self._same.get(key, key)

    def _inputs(self, given: Iterable[Tensor]) -> _After:
        """Return what tensors come from; of views, such as chunks, their share of the storage."""
        return self._together(self._part(t) for t in given if self._key(t) in self._after)

    def _part(self, t: Tensor) -> _After:
        """Return what a tensor holds, at most, of what its storage holds."""
        key = self._key(t)
        after = self._after[key]
        if key in self._mixed:
            return {name: min(elements, numbers(t)) for name, elements in after.items()}
        # constants, such as padding, may lie outside of the view
        size = min(_size(t), sum(after.values())) or 1.0
        return {name: min(1.0, numbers(t) / size) * n for name, n in after.items()}

    def _together(self, parts: Iterable[_After]) -> _After:
        """Return the sum of parts, of each operation at most its whole result."""
        found: dict[str, float] = {}
        for part in parts:
            for name, elements in part.items():
                found[name] = min(found.get(name, 0.0) + elements, self._elements[name])
        return found

    def _of(self, *names: str) -> _After:
        """Return the whole results of operations."""
        return {name: self._elements[name] for name in names}

    def _is_weight(self, t: Any) -> bool:
        if not isinstance(t, Tensor) or self._key(t) in self._after:
            return False
        return bool(self.parts.sources(t))

    def _is_read(self, weight: Tensor) -> bool:
        return self._is_weight(weight) and self.embeddings.issuperset(self.parts.sources(weight))

    def _product(self, call: _Call, product: Product) -> _After:
        assert product.activation is not None
        size = call.size
        after = self._inputs([product.activation])
        mvm = self._mvm(call, product, after, size + product.overlap)
        if product.overlap:
            return self._of(
                self._add(f"{mvm}.overlap", "add", size, product.overlap, self._of(mvm))
            )
        others = self._inputs(t for t in call.read if t is not product.activation)
        if others:  # such as addmm's first argument, if it is no bias
            return self._of(self._add(f"{mvm}.add", "add", size, size, {**self._of(mvm), **others}))
        return self._of(mvm)

    def _mvm(
        self,
        call: _Call,
        product: Product,
        after: _After,
        elements: int,
        steps: int = 1,
    ) -> str:
        matrix = self._matrix(product, call.module())
        if self._bypasses(call, product):
            self.bypassed.add(matrix.name)
        name = self._unique(matrix.name)
        if any(t.is_complex() for t in tensors(call.result)):
            self.of_complex.add(name)
        return self._append(
            Operation(
                name=name,
                kind="mvm",
                matrix=matrix.name,
                vectors=product.vectors,
                elements=elements,
                operations=0,
                inputs=tuple(after),
                taken=tuple(_whole(after).values()),
                steps=steps,
                one_hot=product.one_hot,
            )
        )

    def _owner(self, parameter: str, module: str) -> NamedParameter:
        """Return a parameter as the layer holds it that applies it while ``module`` runs.

        A module that holds it applies it itself; any other one calls the first analog layer by its
        weight.
        """
        held = self._holders[parameter]
        analog = (each for each in held.values() if each.name in self.analog)
        return held.get(module) or next(analog, next(iter(held.values())))

    def _bypasses(self, call: _Call, product: Product) -> bool:
        """Return whether a call computes with an analog weight that the running module has not.

        One that can be routed to the layer, such as ``F.linear(x, layer.weight)``, is none.
        """
        user = call.module()
        for source in self.parts.sources(product.weight):
            holders = self._holders[source]
            layers = [module for module, held in holders.items() if held.name in self.analog]
            whole = product.weight is self.parts.parameters[source]
            routed = whole and any(self._routed(user, each, call.name, call.a) for each in layers)
            if layers and user not in holders and not routed:
                return True
        return False

    def _matrix(self, product: Product, module: str) -> Matrix:
        owner = functools.partial(self._owner, module=module)
        part = self.parts.of(product.weight, product.row_stride, owner)
        key = (*part.key, product.shape, product.groups)
        if key not in self.matrices:
            name, form = part.name, self._forms[part.name]
            while name in self.sources:
                name += ".T"  # the same weights applied the other way round need cells of their own
            self._forms[part.name] += 1
            rest = {"layer": part.layer, "outputs": part.outputs, "form": form}
            self.matrices[key] = Matrix.of(name, product.shape, product.groups, **rest)
            sources = self.parts.sources(product.weight)
            self.sources[name] = tuple(owner(source).name for source in sources)
        return self.matrices[key]

    def _recurrent(self, call: _Call) -> _After:
        name, a = call.name, call.a
        previous = given = self._inputs([a["data"] if "batch_sizes" in a else a["input"]])
        state = self._inputs(tensors(a["hx"]))
        layer, outputs = 0, list[str]()
        for cell in recurrent.cells(name, a):
            if cell.layer != layer:
                layer, previous, outputs = cell.layer, self._of(*outputs), []
            first = self._mvm(
                call, cell.inputs, previous, cell.inputs.shape[0] * cell.inputs.vectors
            )
            # a layer's steps start with its input, of which this matrix takes nothing
            before = {} if name.endswith("_cell") else dict.fromkeys(previous, 0.0)
            size = cell.recurrent.shape[0] * cell.recurrent.vectors
            second = self._mvm(call, cell.recurrent, {**before, **state}, size, cell.steps)
            gated = cell.outputs
            if cell.projection:
                gated = cell.projection.shape[1] * cell.inputs.vectors
            both = self._of(first, second)
            result = self._add(f"{first}.gates", "gates", gated, cell.gates, both, cell.steps)
            if cell.projection is not None:
                result = self._mvm(
                    call, cell.projection, self._of(result), cell.outputs, cell.steps
                )
            outputs.append(result)
        return self._of(*outputs) or given

    def _digital(self, call: _Call) -> _After:
        kind, out, work = digital.count(call.name, call.a, call.result)
        layer = self._rounding()
        if layer is not None:
            name = f"{layer}.{ROUNDING}.{call.name}".lstrip(".")
            name = self._add(name, ROUNDING, out, work, self._inputs(call.read))
            self.rounding[name] = layer
            return self._of(name)
        path, name = call.module(), call.name
        if not (path and name.startswith("embedding")) and (not path or path in self._owners):
            path = f"{path}.{name}".lstrip(".")
        return self._of(self._add(path, kind, out, work, self._inputs(call.read)))

    def _add(self, name: str, kind: str, out: int, work: int, after: _After, steps: int = 1) -> str:
        return self._append(
            Operation(
                name=self._unique(name),
                kind=kind,
                matrix=None,
                vectors=0,
                elements=out,
                operations=work,
                inputs=tuple(after),
                taken=tuple(_whole(after).values()),
                steps=steps,
            )
        )

    def _append(self, operation: Operation) -> str:
        self.operations.append(operation)
        self._elements[operation.name] = operation.elements
        return operation.name

    def _unique(self, name: str) -> str:
        self._names[name] = self._names.get(name, 0) + 1
        return name if self._names[name] == 1 else f"{name}#{self._names[name]}"


def _size(t: Tensor) -> float:
    """Return how many numbers its storage holds."""
    if isinstance(storage(t), int):
        return numbers(t)
    return t.untyped_storage().nbytes() / t.element_size() * (2 if t.is_complex() else 1)


def _whole(after: _After) -> dict[str, int]:
    """Return numbers of elements as whole ones."""
    return {name: math.ceil(elements - 1e-6) for name, elements in after.items()}


def _weights(arguments: dict[str, Any]) -> list[Any]:
    if "w_ih" in arguments:
        return [arguments["w_ih"], arguments["w_hh"]]
    return [w for w in arguments["params"] if w.dim() == 2]


def _is_whole(t: Tensor) -> bool:
    """Return whether writing ``t`` overwrites its storage completely."""
    if isinstance(storage(t), int):
        return False
    return t.numel() * t.element_size() >= t.untyped_storage().nbytes()
