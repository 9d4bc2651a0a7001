"""The part of a traced model that is mapped: its chip, its matrices and their copies."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from analogtorch.chips import Chip
from analogtorch.chips.unit_cells import on_hardware_of, unit_cells
from analogtorch.conversion.kinds import analog_layers
from analogtorch.conversion.not_parameters import not_parameters
from analogtorch.conversion.pattern import Pattern
from analogtorch.conversion.patterns import closest
from analogtorch.conversion.summary import differences
from analogtorch.graph.trace import Trace
from analogtorch.graph.types import Matrix, Operation
from analogtorch.values import checks
from analogtorch.values.listed import listed
from analogtorch.values.warned import warn

_SHOWN = 5
"""Most matrices that a warning of unreached ones lists; it counts the others."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The part of a trace that is mapped."""

    matrices: tuple[Matrix, ...]
    operations: tuple[Operation, ...]
    """All operations; products with other matrices are digital."""
    copies: dict[str, int]
    """Copies by name of the matrix; one if it is not among them."""
    digital_weights: tuple[tuple[str, int], ...]
    """Parameters that no tile holds, or that a digital layer multiplies by as well, each with its
    number of weights."""


def choose(
    model: nn.Module,
    traced: Trace,
    exclude: str | Iterable[str] | None,
    duplicate: Mapping[str, int] | None,
    caller: str = "map_to_chip",
) -> Chosen:
    """Return the part of ``traced`` that is mapped; the patterns are those of ``map_to_chip``.

    Raises:
        ValueError: a pattern matches nothing, or nothing is left.
        TypeError: an argument is of another type.
    """
    if duplicate is not None and not isinstance(duplicate, Mapping):
        raise TypeError(
            f"{caller}: duplicate must be a mapping such as {{'layer1.*': 2}}, got {duplicate!r}"
        )
    names = {m.name: _names(m, traced) for m in traced.matrices if m.weights}
    left = _excluded(names, exclude, caller)
    left |= {n for n in names if not traced.analog.issuperset(traced.sources[n])}
    matrices = tuple(m for m in traced.matrices if m.weights and m.name not in left)
    if traced.unreached.issuperset(m.name for m in matrices):
        raise ValueError(_nothing(model, traced, left, caller))
    return Chosen(
        matrices=matrices,
        operations=_demote(traced, {m.name for m in matrices}),
        copies=_copies({m.name: names[m.name] for m in matrices}, duplicate or {}, caller),
        digital_weights=_digital_weights(model, traced, matrices),
    )


def chips_of(model: nn.Module, caller: str) -> list[tuple[Chip, list[str]]]:
    """Return the chips of the model's analog layers, each with the names of its layers.

    Training noise and the unit of the weight scale are no property of the hardware: layers that
    differ in these alone are on one chip. So are those whose weights take several of its unit
    cells; the chip is that of the layers with the fewest.

    Raises:
        ValueError: no layer is analog.
    """
    layers = list(analog_layers(model))
    bases: list[Chip] = []
    for _, layer in sorted(layers, key=lambda each: each[1].chip.cell.devices):
        if not any(base is layer.chip or on_hardware_of(layer.chip, base) for base in bases):
            bases.append(layer.chip)
    found: dict[int, list[str]] = {}  # in the order of the layers
    for name, layer in layers:
        chip = layer.chip
        of = next(i for i, base in enumerate(bases) if base is chip or on_hardware_of(chip, base))
        found.setdefault(of, []).append(name or "(root)")
    several = [(bases[of], names) for of, names in found.items()]
    if not several:
        raise ValueError(
            f"{caller}: {type(model).__name__} has no analog layer, and so no chip. Give it "
            "one: map_to_chip(model, example, chip=analogtorch.chips.hermes64()), or call "
            "analogtorch.convert(model, chip)"
        )
    return several


def chip_of(model: nn.Module) -> Chip:
    """Return the chip of the model's analog layers.

    Raises:
        ValueError: no layer is analog, or they are on several chips, which the error names.
    """
    several = chips_of(model, "map_to_chip")
    if len(several) > 1:
        raise ValueError(
            f"map_to_chip: the layers of {type(model).__name__} are on {len(several)} chips: "
            f"{described(several)}. Give the one to "
            "place all of them on, map_to_chip(model, example, chip=...), or take one mapping of "
            "each, analogtorch.mapping.map_by_chip(model, example)"
        )
    return several[0][0]


def described(several: Sequence[tuple[Chip, list[str]]]) -> str:
    """Return the chips in words, with what of them differs from the first, and their layers."""
    return "; ".join(_named(chip, names, several[0][0]) for chip, names in several)


def with_cells(
    chosen: Chosen,
    traced: Trace,
    model: nn.Module,
    chip: Chip,
    planned: Mapping[str, int] | None = None,
) -> Chosen:
    """Return what is mapped onto ``chip`` with the unit cells that each weight takes.

    Each is a copy of the matrix that multiplies every vector. ``planned`` has those of layers, by
    name, that are to get more than they have in ``model``.
    """
    of_layer = {
        layer.parameter_name(name): (planned or {}).get(name) or unit_cells(layer.chip, [chip])
        for name, layer in analog_layers(model)
    }
    cells = {m.name: of_layer.get(traced.sources[m.name][0], 1) for m in chosen.matrices}
    return replace(
        chosen,
        matrices=tuple(replace(m, cells=cells[m.name]) for m in chosen.matrices),
        copies={name: chosen.copies.get(name, 1) * count for name, count in cells.items()},
    )


def _named(chip: Chip, names: list[str], first: Chip) -> str:
    differs = (
        f", differing in {differences(chip, first)}"
        if chip.name == first.name and chip is not first
        else ""
    )
    return f"{chip.name}{differs} ({listed(map(repr, names), 3)})"


def warn_of(caller: str, model: nn.Module, traced: Trace, matrices: Sequence[Matrix]) -> None:
    """Warn of matrices on the chip that are simulated digitally, or that the example misses."""
    _name_digital(caller, model, traced, matrices)
    _name_unreached(caller, traced, matrices)


def _name_digital(caller: str, model: nn.Module, traced: Trace, matrices: Iterable[Matrix]) -> None:
    """Warn of matrices on the chip that convert and program simulate digitally.

    They are weights of analog layers that are placed a second time, as their transpose is, or that
    the model computes with in place of the layers. One that is made of the weights of several
    layers is named with all of them.
    """
    layers = {layer.parameter_name(n): layer.matrix_name(n) for n, layer in analog_layers(model)}
    if not layers:  # no program simulates a digital model
        return
    forms, bypassed = dict[str, str](), dict[str, str]()  # names of matrices, as they are shown
    for m in matrices:
        held = [layers.get(source, source) for source in traced.sources[m.name]]
        others = _listed([name for name in held if name != m.layer])
        shown = f"{m.name!r} (one matrix with {others})" if len(held) > 1 else repr(m.name)
        if m.form:
            forms[m.name] = shown
        elif m.name in traced.bypassed:
            bypassed[m.name] = shown
    if forms:
        warn(
            f"{caller}: {', '.join(forms.values())} on the chip: the model applies weights of an "
            "analog layer in two ways, as with their transpose, and each has cells of its own in "
            "this mapping. Only the layer's own is analog to convert and program; the other is "
            f"{_remedy(caller, [*forms])}"
        )
    if bypassed:
        warn(
            f"{caller}: {', '.join(bypassed.values())} on the chip: the model computes with the "
            "weights of these analog layers without calling them, which convert and program cannot "
            f"make analog; it is {_remedy(caller, [*bypassed])}"
        )


def _name_unreached(caller: str, traced: Trace, matrices: Iterable[Matrix]) -> None:
    """Warn of matrices on the chip that the example does not multiply by."""
    if names := [m.name for m in matrices if m.name in traced.unreached]:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        warn(
            f"{caller}: {_listed(names[:_SHOWN])}{more} on the chip, which the example does not "
            "reach: with tiles and 0 vectors, and so without energy. Give an example that reaches "
            "all layers, and leave those that never run digital with exclude, names or patterns of "
            "them, here and in convert"
        )


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names))


def _remedy(caller: str, names: list[str]) -> str:
    return (
        "simulated digitally, without errors, and analogtorch.guard(model, example) says where. "
        f"Use {caller}(..., exclude={names!r}) to charge it as digital"
    )


def _names(matrix: Matrix, traced: Trace) -> tuple[str, ...]:
    """Return what patterns may match; to ``convert``, a layer that is the model has no name."""
    names = (matrix.name, *traced.names.get(matrix.name, ()))
    return (*names, "") if "(root)" in names else names


def _excluded(
    names: Mapping[str, tuple[str, ...]], exclude: str | Iterable[str] | None, caller: str
) -> set[str]:
    given = [exclude] if isinstance(exclude, str) else exclude or ()
    patterns = checks.items(f"{caller}: exclude", given, "['head']")
    return {name for p in patterns for name in _matching("exclude", p, names, caller)}


def _copies(
    names: Mapping[str, tuple[str, ...]], duplicate: Mapping[str, int], caller: str
) -> dict[str, int]:
    copies: dict[str, int] = {}
    for pattern, count in duplicate.items():
        count = checks.count(f"{caller}: duplicate[{pattern!r}]", count)
        copies |= dict.fromkeys(_matching("duplicate", pattern, names, caller), count)
    return copies


def _matching(
    argument: str, text: str, names: Mapping[str, tuple[str, ...]], caller: str
) -> list[str]:
    """Return the matrices that a pattern means by any of their names."""
    all_names = [name for of_matrix in names.values() for name in of_matrix]
    pattern = Pattern(text, f"{caller}, {argument}", all_names)
    if found := [name for name, of_matrix in names.items() if any(map(pattern, of_matrix))]:
        return found
    raise ValueError(
        f"{caller}: {argument} pattern {text!r} matches none of the {len(names)} matrices. "
        + closest(text, all_names)
    )


def _demote(traced: Trace, kept: set[str]) -> tuple[Operation, ...]:
    """Make products with matrices that are not mapped digital operations.

    A MAC counts as two, one of complex numbers as eight. A digital embedding is looked up, which
    takes none.
    """
    matrices = {m.name: m for m in traced.matrices}

    def work(op: Operation, matrix: Matrix) -> int:
        return 0 if op.one_hot else (8 if op.name in traced.of_complex else 2) * matrix.macs(op)

    return tuple(
        op
        if op.matrix is None or op.matrix in kept
        else replace(
            op,
            kind="embedding" if op.one_hot else "matmul",
            matrix=None,
            vectors=0,
            operations=work(op, matrices[op.matrix]),
        )
        for op in traced.operations
    )


def _digital_weights(
    model: nn.Module, traced: Trace, matrices: tuple[Matrix, ...]
) -> tuple[tuple[str, int], ...]:
    kept = {source for m in matrices for source in traced.sources[m.name]}
    on_chip = {id(model.get_parameter(source)) for source in kept}
    found = {
        name: count
        for name, count in traced.parameters.items()
        if id(model.get_parameter(name)) not in on_chip
    }
    for source in (source for sources in traced.sources.values() for source in sources):
        weight = model.get_parameter(source)
        if source not in kept and id(weight) in on_chip:
            found[source] = weight.numel()
    others = not_parameters(model)
    seen = set[int]()
    for name, module in model.named_modules():
        for own, t in others.get(module, {}).items():
            if id(t) not in seen:
                found[f"{name}.{own}".lstrip(".")] = t.numel()
                seen.add(id(t))
    return tuple(found.items())


def _nothing(model: nn.Module, traced: Trace, left: set[str], caller: str) -> str:
    if left := left - traced.unreached:
        what = f"{len(left)} matrices of {type(model).__name__}"
        what += " that the example reaches" if traced.unreached else ""
        return f"{caller}: nothing to place: all {what} stay digital"
    found = ", ".join(list(traced.parameters)[:5]) or "none"
    return (
        f"{caller}: nothing to place: no weight of {type(model).__name__} multiplies "
        f"activations in this run. Its parameters: {found}. Give a model with linear, "
        "convolutional, recurrent or attention layers"
    )
