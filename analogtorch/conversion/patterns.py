"""The layers that patterns of ``convert`` match, and checks of the patterns."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from torch import nn

from analogtorch.conversion.kinds import is_analog, matrices_of, reason
from analogtorch.conversion.pattern import Pattern


def patterns(
    argument: str, given: str | Iterable[str] | None, names: Collection[str]
) -> list[Pattern]:
    """Return the patterns of an argument; one that equals a name of ``names`` means that alone.

    Raises:
        TypeError: a pattern is no text.
        ValueError: a pattern is no regular expression.
    """
    if not isinstance(given, str | Iterable | None):
        raise TypeError(f"convert: {argument} must be a pattern or a list of them, got {given!r}")
    listed = [] if given is None else [given] if isinstance(given, str) else list(given)
    return [Pattern(p, "convert", names) for p in listed]


def names_of(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return all names of each module by its first; a shared module has several."""
    found: dict[nn.Module, tuple[str, ...]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        found[module] = (*found.get(module, ()), name)
    return {names[0]: names for names in found.values()}


@dataclass(frozen=True)
class Unit:
    """A unit that can be analog or digital: a layer, or one matrix of a module that has several."""

    owner: str
    """Name of the module that holds it; for a layer, its own name."""
    child: str | None
    """Name of the matrix in the module; None for a layer."""
    unit_names: tuple[str, ...]
    """Names of the unit."""
    owner_names: tuple[str, ...]
    """Names of the module."""

    @property
    def names(self) -> tuple[str, ...]:
        """All names that a pattern may match; one that matches a module means its matrices."""
        return (*self.unit_names, *self.owner_names) if self.child else self.unit_names


def candidates(model: nn.Module, embeddings: bool = False) -> dict[str, nn.Module]:
    """Return the modules of ``model`` that are or can be analog, by name.

    ``embeddings`` is that of ``convert``.
    """
    return {
        name: m
        for name, m in model.named_modules()
        if is_analog(m) or reason(model, name, m, embeddings) is None
    }


def units(
    names: Mapping[str, tuple[str, ...]], modules: Mapping[str, nn.Module]
) -> dict[str, Unit]:
    """Return the layers and matrices of ``modules``, which are or can be analog, by name.

    A matrix has the name of its layer, such as ``lstm.ih_l0``, and that of its Parameter,
    ``lstm.weight_ih_l0``.

    Args:
        names: all names of each module by its first.
        modules: the modules by name.
    """
    found = {}
    for owner, module in modules.items():
        if (matrices := matrices_of(module)) is None:
            found[owner] = Unit(owner, None, names[owner], names[owner])
            continue
        for matrix in matrices:
            unit_names = tuple(
                f"{name}.{text}".lstrip(".")
                for text in (matrix.child, matrix.weight)
                for name in names[owner]
            )
            found[unit_names[0]] = Unit(owner, matrix.child, unit_names, names[owner])
    return found


def all_names(names: Mapping[str, tuple[str, ...]], of_units: Iterable[Unit]) -> set[str]:
    """Return all ``names`` of modules, and those of what can be analog of them."""
    return {n for each in (*names.values(), *(u.names for u in of_units)) for n in each}


def matches(names: Iterable[str], among: list[Pattern]) -> bool:
    """Return whether any pattern matches any name of a layer."""
    return any(pattern(name) for name in names for pattern in among)


def check_known(
    model: nn.Module,
    known: Mapping[str, tuple[str, ...]],
    among: list[Pattern],
    excluded: list[Pattern],
    embeddings: bool = False,
) -> None:
    """Raise ValueError for a pattern that matches none of the ``known`` layers.

    The message has what it matches or almost matches.

    Args:
        model: the model that holds the layers.
        known: all names of the layers that can be analog, by the first.
        among: the patterns.
        excluded: those of ``exclude``, which may also match what is digital anyway.
        embeddings: the argument of ``convert``.
    """
    names = [name for layer_names in known.values() for name in layer_names]
    for pattern in (*among, *excluded):
        if any(map(pattern, names)):
            continue
        found = [
            (name, m) for name, m in model.named_modules(remove_duplicate=False) if pattern(name)
        ]
        if pattern in excluded and _is_digital(model, pattern, found, names):
            continue
        with_weights = [
            (name, m) for name, m in found if next(m.parameters(recurse=False), None) is not None
        ]
        for name, module in with_weights or found[:1]:
            why = reason(model, name, module, embeddings)
            raise ValueError(
                f"convert: {name!r}, matched by {pattern.text!r}, cannot be analog: {why}"
            )
        raise ValueError(
            f"convert: pattern {pattern.text!r} matches none of the {len(known)} layers that "
            f"can be analog. {closest(pattern.text, names)}. Leave the pattern out, or name layers "
            "as model.named_modules() does."
        )


def _is_digital(
    model: nn.Module, pattern: Pattern, found: list[tuple[str, nn.Module]], able: Sequence[str]
) -> bool:
    """Return whether a pattern matches weights that are digital anyway.

    They are those of a module of which nothing can be analog, or a matrix of one.

    Args:
        model: the model.
        pattern: the pattern, which matches nothing that can be analog.
        found: the modules that it matches, by name.
        able: the names of all that can be analog.
    """
    for name, module in found:
        holds = f"{name}." if name else ""
        if next(module.parameters(), None) is not None and not any(
            other.startswith(holds) for other in able
        ):
            return True
    apart = {name: m for name, m in model.named_modules() if matrices_of(m) is not None}
    return any(map(pattern, (n for u in units(names_of(model), apart).values() for n in u.names)))


def closest(pattern: str, names: Sequence[str]) -> str:
    """Return a hint with up to three ``names`` that a pattern may mean, or the first ones.

    It may mean a full name, or the end of one, such as ``head``.
    """
    endings: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        for i in range(len(parts)):
            endings.setdefault(".".join(parts[i:]), []).append(name)
    found = [
        name
        for ending in get_close_matches(pattern.removeprefix("re:").strip("*."), endings, n=3)
        for name in endings[ending]
    ]
    near = list(dict.fromkeys(found or names))[:3]
    return f"Closest names: {', '.join(map(repr, near)) or 'none'}"


def check_agree(
    known: Iterable[tuple[str, ...]],
    included: list[Pattern],
    excluded: list[Pattern],
    overriding: list[Pattern],
) -> None:
    """Raise ValueError for a pattern whose layers are all excluded."""
    for argument, group in (("include", included), ("per_layer", overriding)):
        for pattern in group:
            asked = [names for names in known if matches(names, [pattern])]
            if asked and all(matches(names, excluded) for names in asked):
                other = next(e.text for e in excluded if matches(asked[0], [e]))
                raise ValueError(
                    f"convert: {argument} {pattern.text!r} and exclude {other!r} contradict each "
                    f"other: all it asks for is excluded, such as {asked[0][0]!r}; drop one of them"
                )


def check_used(
    known: Mapping[str, tuple[str, ...]], chosen: Iterable[str], overriding: list[Pattern]
) -> None:
    """Raise ValueError for a pattern of ``per_layer`` that matches no ``chosen`` layer."""
    kept = [known[name] for name in chosen]
    for pattern in overriding:
        if not any(matches(names, [pattern]) for names in kept):
            such = next(name for name, names in known.items() if matches(names, [pattern]))
            raise ValueError(
                f"convert: per_layer {pattern.text!r} would change nothing: include, exclude or "
                f"where leaves out all that it matches, such as {such!r}; convert that as well, or "
                "drop it"
            )
