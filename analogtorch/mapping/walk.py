"""Turn the graph of an exported model into operations and matrices."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from analogtorch.mapping import digital, recurrent, sequence
from analogtorch.mapping.products import Product, bind, find, lookup, value
from analogtorch.mapping.types import Matrix, Operation
from analogtorch.mapping.weights import Constant, evaluate, part

_INLINED = ("wrap_with_set_grad_enabled", "wrap_with_autocast")
"""What ``torch.no_grad()`` and ``torch.autocast()`` inside a forward become."""


@dataclass
class Value:
    """What is known of one node."""

    after: tuple[str, ...] = ()
    """Operations whose results it is, or is made of."""
    constant: Constant | None = None
    """If it does not depend on the model's input."""


@dataclass
class Walk:
    """Collects operations and matrices in the order in which they run."""

    parameters: dict[str, Constant]
    embeddings: frozenset[str] = frozenset()
    """Parameters whose rows are read from tiles, token by token."""
    operations: list[Operation] = field(default_factory=list)
    matrices: dict[tuple[Any, ...], Matrix] = field(default_factory=dict)
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Parameters that each matrix holds."""
    _names: dict[str, int] = field(default_factory=dict)
    _values: dict[fx.Node, Value] = field(default_factory=dict)
    _parts: dict[fx.Node, list[Value]] = field(default_factory=dict)
    """Results of an inlined block, one by one."""

    def run(self, module: fx.GraphModule, inputs: Iterable[Value]) -> list[Value]:
        """Walk through ``module``, whose placeholders hold ``inputs``; returns what it puts out."""
        given = iter(inputs)
        for node in module.graph.nodes:
            if node.op == "placeholder":
                self._values[node] = next(given)
            elif node.op == "get_attr":
                self._values[node] = Value(constant=Constant(None))
            elif node.op == "call_function" and (node.users or _writes(node)):
                self._values[node] = self._call(module, node)
            elif node.op == "output":
                outputs = node.args[0] if isinstance(node.args[0], (tuple, list)) else [node.args[0]]
                return [self._values[n] if isinstance(n, fx.Node) else Value() for n in outputs]
        return []

    def _call(self, module: fx.GraphModule, node: fx.Node) -> Value:
        name = _operator(node)
        if name == sequence.NAME:
            name = str(bind(node)["kind"])
        if name in _INLINED:
            return self._inline(module, node)
        if name == "embedding" and self._is_read(node):  # of constant tokens too, such as positions
            return self._product(node, lookup(node))
        known = {n: c for n in node.all_input_nodes if (c := self._values[n].constant) is not None}
        if len(known) == len(node.all_input_nodes):
            return Value(constant=evaluate(node, known))
        if name in digital.CREATED:
            return Value(constant=Constant(None))
        if name == "getitem":
            return self._item(node)
        if name in digital.FREE or not _tensors(value(node)):
            return self._move(node)
        if name in recurrent.NAMES and all(map(self._is_weight, _weights(bind(node)))):
            return self._recurrent(name, node)
        product = find(name, node, self._is_weight)
        if product is None:
            return self._digital(name, node)
        return self._product(node, product)

    def _inline(self, module: fx.GraphModule, node: fx.Node) -> Value:
        args = [a for a in node.args if isinstance(a, fx.Node)]
        inner = getattr(module, str(args[0].target))
        outputs = self.run(inner, [self._values[a] for a in args[1:]])
        self._parts[node] = outputs
        return Value(after=_joined(outputs))

    def _item(self, node: fx.Node) -> Value:
        source, index = node.args[0], node.args[1]
        parts = self._parts.get(source) if isinstance(source, fx.Node) else None
        if parts is not None and isinstance(index, int):
            return parts[index]
        return self._move(node)

    def _move(self, node: fx.Node) -> Value:
        return self._result(node, self._after(node))

    def _after(self, node: fx.Node) -> tuple[str, ...]:
        return _joined(self._values[n] for n in node.all_input_nodes)

    def _is_weight(self, node: Any) -> bool:
        constant = self._values[node].constant if isinstance(node, fx.Node) else None
        return constant is not None and bool(constant.sources)

    def _is_read(self, node: fx.Node) -> bool:
        weight = bind(node)["weight"]
        constant = self._values[weight].constant
        return self._is_weight(weight) and constant is not None and self.embeddings.issuperset(constant.sources)

    def _product(self, node: fx.Node, product: Product) -> Value:
        assert product.activation is not None
        others = [n for n in node.all_input_nodes if n is not product.activation]
        mvm = self._mvm(product, self._values[product.activation].after, value(node).numel() + product.overlap)
        if product.overlap:
            add = self._add(f"{mvm}.overlap", "add", value(node).numel(), product.overlap, (mvm,))
            return self._result(node, (add,))
        if extra := _joined(self._values[n] for n in others):  # such as addmm's first argument, if it is no bias
            name = self._add(f"{mvm}.add", "add", value(node).numel(), value(node).numel(), (mvm, *extra))
            return self._result(node, (name,))
        return self._result(node, (mvm,))

    def _mvm(self, product: Product, after: tuple[str, ...], elements: int, steps: int = 1) -> str:
        matrix = self._matrix(product)
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
            )
        )
        return name

    def _matrix(self, product: Product) -> Matrix:
        constant = self._values[product.weight].constant
        assert constant is not None
        cut = part(constant, self.parameters, product.row_stride)
        key = (*cut.key, product.shape, product.groups)
        if key not in self.matrices:
            name, taken = cut.name, {m.name for m in self.matrices.values()}
            while name in taken:
                name += ".T"  # the same weights applied the other way round need cells of their own
            cols, *rows = product.shape
            self.matrices[key] = Matrix(
                name=name,
                rows=math.prod(rows),
                cols=cols,
                groups=product.groups,
                kernel=math.prod(rows[1:]),
                weights=math.prod(product.shape),
                shape=product.shape,
            )
            self.sources[name] = constant.sources
        return self.matrices[key]

    def _recurrent(self, name: str, node: fx.Node) -> Value:
        a = bind(node)
        previous = given = self._values[a["input"]].after
        state = _joined(self._values[n] for n in _nodes(a["hx"]))
        layer, outputs = 0, list[str]()
        for cell in recurrent.cells(name, node):
            if cell.layer != layer:
                layer, previous, outputs = cell.layer, tuple(outputs), []
            first = self._mvm(cell.inputs, previous, cell.inputs.shape[0] * cell.inputs.vectors)
            before = () if name.endswith("_cell") else previous  # a layer's steps start with its input
            size = cell.recurrent.shape[0] * cell.recurrent.vectors
            second = self._mvm(cell.recurrent, (*before, *state), size, cell.steps)
            gated = cell.projection.shape[1] * cell.inputs.vectors if cell.projection else cell.outputs
            gates = f"{first}.gates"
            result = self._add(gates, "activation", gated, cell.gates, (first, second), cell.steps)
            if cell.projection is not None:
                result = self._mvm(cell.projection, (result,), cell.outputs, cell.steps)
            outputs.append(result)
        return Value(after=tuple(outputs) or given)

    def _digital(self, name: str, node: fx.Node) -> Value:
        arguments = {k: _values(v) for k, v in bind(node).items()}
        kind, out, work = digital.count(name, arguments, value(node))
        return self._result(node, (self._add(self._path(node), kind, out, work, self._after(node)),))

    def _add(self, name: str, kind: str, out: int, work: int, after: tuple[str, ...], steps: int = 1) -> str:
        name = self._unique(name)
        self.operations.append(
            Operation(
                name=name, kind=kind, matrix=None, vectors=0, elements=out, operations=work, inputs=after, steps=steps
            )
        )
        return name

    def _path(self, node: fx.Node) -> str:
        stack = [entry[0] for entry in node.meta.get("nn_module_stack", {}).values()]
        path, name = (stack[-1] if stack else ""), _operator(node)
        if path and name.startswith("embedding"):
            return path
        owns = any(source.startswith(f"{path}.") for source in self._matrix_parameters()) or not path
        return f"{path}.{name}".lstrip(".") if owns else path

    def _matrix_parameters(self) -> Iterable[str]:
        return (name for name, constant in self.parameters.items() if constant.value.dim() > 1)

    def _result(self, node: fx.Node, after: tuple[str, ...]) -> Value:
        """The value of ``node``; where it writes into its input, that of everything the input is a view of as well."""
        target = node.args[0] if _writes(node) else None
        while isinstance(target, fx.Node):
            earlier = () if target is node.args[0] else self._values[target].after
            self._values[target] = Value(after=tuple(dict.fromkeys((*earlier, *after))))
            view = target.op == "call_function" and _operator(target) in digital.FREE and target.args
            target = target.args[0] if view else None
        return Value(after=after)

    def _unique(self, name: str) -> str:
        self._names[name] = self._names.get(name, 0) + 1
        return name if self._names[name] == 1 else f"{name}#{self._names[name]}"


def _operator(node: fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", node.target)
    name = str(getattr(packet, "__name__", None) or getattr(packet, "_name", None) or packet)
    return name.removesuffix("_") if name.endswith("_") and not name.startswith("_") else name


def _weights(arguments: dict[str, Any]) -> list[Any]:
    if "w_ih" in arguments:
        return [arguments["w_ih"], arguments["w_hh"]]
    return [w for w in arguments["params"] if value(w).dim() == 2] if "params" in arguments else [None]


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _nodes(argument: Any) -> list[fx.Node]:
    return [a for a in (argument if isinstance(argument, (list, tuple)) else [argument]) if isinstance(a, fx.Node)]


def _values(argument: Any) -> Any:
    return [value(a) for a in argument] if isinstance(argument, (list, tuple)) else value(argument)


def _joined(values: Iterable[Value]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for v in values for name in v.after))


def _tensors(val: Any) -> bool:
    return isinstance(val, Tensor) or (isinstance(val, (tuple, list)) and any(isinstance(v, Tensor) for v in val))
