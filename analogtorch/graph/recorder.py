"""The operators of one run as matrices and operations of a chip, with their dependencies."""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from analogtorch.conversion.weights import Storage, accessed, bind, operator_name, storage, tensors
from analogtorch.graph import digital, recurrent
from analogtorch.graph.parameters import Held
from analogtorch.graph.parts import Parts
from analogtorch.graph.products import Product, find, lookup
from analogtorch.graph.types import Matrix, Operation


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
        return sum(t.numel() for t in tensors(self.result))


class Recorder:
    """Collects operations and matrices in the order in which they run.

    Args:
        parameters: the weights of the model, by name; see ``parameters.once``.
        holders: of each of them, what it is in each module that holds it, by the module's name.
        analog: names of weights that lie on tiles, each in its own layer, whatever the layer is
            applied to.
        embeddings: names of weights whose rows are looked up on tiles, token by token.
    """

    def __init__(
        self,
        parameters: Mapping[str, Held],
        holders: Mapping[str, Mapping[str, Held]],
        analog: frozenset[str] = frozenset(),
        embeddings: frozenset[str] = frozenset(),
    ) -> None:
        self.parts, self.analog, self.embeddings = Parts(parameters), analog, embeddings
        self._holders = holders
        self.operations: list[Operation] = []
        self.matrices: dict[tuple[Any, ...], Matrix] = {}
        self.sources: dict[str, tuple[str, ...]] = {}
        """The parameters that each matrix holds, under the names of the layer that applies it."""
        self._forms = Counter[str]()
        """The number of forms in which each part of a parameter has been applied."""
        matrices = [held for held in parameters.values() if held.parameter.dim() > 1]
        self._owners = {name for held in matrices for name in held.modules}
        self._names: dict[str, int] = {}
        self._after: dict[Storage, tuple[str, ...]] = {}
        """The operations on whose results a storage depends; those without entry are constant."""
        self._same: dict[Storage, Storage] = {}

    def give(self, inputs: Iterable[Tensor]) -> None:
        """Add tensors to the model's input."""
        self._after |= {storage(t): () for t in inputs}

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
        made = [*written, *tensors(result)]
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

    def _after_of(self, call: _Call) -> tuple[str, ...]:
        """Record ``call`` and return the operations that its result comes from."""
        if call.name in digital.FREE:
            return self._inputs(call.read)
        if call.name in recurrent.NAMES and all(map(self._is_weight, _weights(call.a))):
            return self._recurrent(call)
        product = find(call.name, call.a, call.result, self._is_weight)
        return self._digital(call) if product is None else self._product(call, product)

    def _of_constant(self, call: _Call) -> tuple[str, ...] | None:
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
        self, made: list[Tensor], written: list[Tensor], read: list[Tensor], after: tuple[str, ...]
    ) -> None:
        """Remember what ``made`` depends on.

        A storage that is written in part keeps its earlier dependencies.
        """
        known = {self._key(t) for t in read}
        for t in made:
            key = self._key(t)
            if any(t is w for w in written):
                earlier = () if _is_whole(t) else self._after.get(key, ())
                self._after[key] = tuple(dict.fromkeys((*earlier, *after)))
            elif key not in known:  # otherwise it is a view, or the input itself
                self._after[key] = after

    def _key(self, t: Tensor) -> Storage:
        key = storage(t)
        return self._same.get(key, key)

    def _inputs(self, given: Iterable[Tensor]) -> tuple[str, ...]:
        names = (name for t in given for name in self._after.get(self._key(t), ()))
        return tuple(dict.fromkeys(names))

    def _is_weight(self, t: Any) -> bool:
        if not isinstance(t, Tensor) or self._key(t) in self._after:
            return False
        return bool(self.parts.sources(t))

    def _is_read(self, weight: Tensor) -> bool:
        return self._is_weight(weight) and self.embeddings.issuperset(self.parts.sources(weight))

    def _product(self, call: _Call, product: Product) -> tuple[str, ...]:
        assert product.activation is not None
        size = call.size
        after = self._inputs([product.activation])
        mvm = self._mvm(call, product, after, size + product.overlap)
        if product.overlap:
            return (self._add(f"{mvm}.overlap", "add", size, product.overlap, (mvm,)),)
        others = self._inputs(t for t in call.read if t is not product.activation)
        if others:  # such as addmm's first argument, if it is no bias
            return (self._add(f"{mvm}.add", "add", size, size, (mvm, *others)),)
        return (mvm,)

    def _mvm(
        self,
        call: _Call,
        product: Product,
        after: tuple[str, ...],
        elements: int,
        steps: int = 1,
    ) -> str:
        matrix = self._matrix(product, call.module())
        name = self._unique(matrix.name)
        self.operations.append(
            Operation(
                name=name,
                kind="mvm",
                matrix=matrix.name,
                vectors=product.vectors,
                elements=elements,
                operations=0,
                inputs=after,
                steps=steps,
                one_hot=product.one_hot,
            )
        )
        return name

    def _owner(self, parameter: str, module: str) -> Held:
        """Return a parameter as the layer holds it that applies it while ``module`` runs.

        A module that holds it applies it itself; any other one calls the first analog layer by its
        weight.
        """
        held = self._holders[parameter]
        analog = (each for each in held.values() if each.name in self.analog)
        return held.get(module) or next(analog, next(iter(held.values())))

    def _matrix(self, product: Product, module: str) -> Matrix:
        owner = functools.partial(self._owner, module=module)
        part = self.parts.of(product.weight, product.row_stride, owner)
        key = (*part.key, product.shape, product.groups)
        if key not in self.matrices:
            name, form = part.name, self._forms[part.name]
            while name in self.sources:
                name += ".T"  # the same weights applied the other way round need cells of their own
            self._forms[part.name] += 1
            cols, *rows = product.shape
            self.matrices[key] = Matrix(
                name=name,
                rows=math.prod(rows),
                cols=cols,
                groups=product.groups,
                kernel=math.prod(rows[1:]),
                weights=math.prod(product.shape),
                shape=product.shape,
                layer=part.layer,
                outputs=part.outputs,
                form=form,
            )
            sources = self.parts.sources(product.weight)
            self.sources[name] = tuple(owner(source).name for source in sources)
        return self.matrices[key]

    def _recurrent(self, call: _Call) -> tuple[str, ...]:
        name, a = call.name, call.a
        previous = given = self._inputs([a["data"] if "batch_sizes" in a else a["input"]])
        state = self._inputs(tensors(a["hx"]))
        layer, outputs = 0, list[str]()
        for cell in recurrent.cells(name, a):
            if cell.layer != layer:
                layer, previous, outputs = cell.layer, tuple(outputs), []
            first = self._mvm(
                call, cell.inputs, previous, cell.inputs.shape[0] * cell.inputs.vectors
            )
            # a layer's steps start with its input
            before = () if name.endswith("_cell") else previous
            size = cell.recurrent.shape[0] * cell.recurrent.vectors
            second = self._mvm(call, cell.recurrent, (*before, *state), size, cell.steps)
            gated = cell.outputs
            if cell.projection:
                gated = cell.projection.shape[1] * cell.inputs.vectors
            result = self._add(
                f"{first}.gates", "activation", gated, cell.gates, (first, second), cell.steps
            )
            if cell.projection is not None:
                result = self._mvm(call, cell.projection, (result,), cell.outputs, cell.steps)
            outputs.append(result)
        return tuple(outputs) or given

    def _digital(self, call: _Call) -> tuple[str, ...]:
        kind, out, work = digital.count(call.name, call.a, call.result)
        path, name = call.module(), call.name
        if not (path and name.startswith("embedding")) and (not path or path in self._owners):
            path = f"{path}.{name}".lstrip(".")
        return (self._add(path, kind, out, work, self._inputs(call.read)),)

    def _add(
        self, name: str, kind: str, out: int, work: int, after: tuple[str, ...], steps: int = 1
    ) -> str:
        name = self._unique(name)
        self.operations.append(
            Operation(
                name=name,
                kind=kind,
                matrix=None,
                vectors=0,
                elements=out,
                operations=work,
                inputs=after,
                steps=steps,
            )
        )
        return name

    def _unique(self, name: str) -> str:
        self._names[name] = self._names.get(name, 0) + 1
        return name if self._names[name] == 1 else f"{name}#{self._names[name]}"


def _weights(arguments: dict[str, Any]) -> list[Any]:
    if "w_ih" in arguments:
        return [arguments["w_ih"], arguments["w_hh"]]
    return [w for w in arguments["params"] if w.dim() == 2]


def _is_whole(t: Tensor) -> bool:
    """Return whether writing ``t`` overwrites its storage completely."""
    if isinstance(storage(t), int):
        return False
    return t.numel() * t.element_size() >= t.untyped_storage().nbytes()
