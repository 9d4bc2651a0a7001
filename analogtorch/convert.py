"""Swap the layers of a model for analog ones, and back: in place, loudly, with the same Parameters."""

import dataclasses
import fnmatch
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from analogtorch.chips import Chip
from analogtorch.nn import KINDS, AnalogComposite, AnalogLayer, AnalogMatrix
from analogtorch.nn.base import OWN

logger = logging.getLogger("analogtorch")

LAYERS: dict[type[nn.Module], Any] = {kind.digital: kind for kind in KINDS}
"""Digital layer to analog layer."""

_FUSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Modules that read their children's weights without calling them: analog layers in them would be bypassed."""


def convert(
    model: nn.Module,
    chip: Chip,
    *,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    where: Callable[[str, nn.Module], bool] | None = None,
    per_layer: Mapping[str, Chip | Mapping[str, Any]] | None = None,
) -> nn.Module:
    """Replace every ``nn.Linear``, ``nn.Conv1d`` to ``3d``, ``nn.RNN``, ``LSTM`` and ``GRU`` of ``model``, in place.

    Parameters, ``state_dict`` keys, buffers, hooks and ties stay as they are; what stays digital is listed by
    ``analogtorch.summary``. Layers that are on this chip already are left alone. A subclass is converted if it computes
    what its base does; methods of its own are lost until ``to_digital``. Every analog layer gains one Parameter, its
    ``input_range``, which learns from calibration on: an optimizer made before the conversion does not know it, and
    weight decay should spare it.

    Args:
        model: any module. A layer given as the root itself comes back as a new module.
        chip: the chip to run on.
        include: patterns of full layer names; only these are converted. A glob (``"encoder.*"``), or a regular
            expression marked ``"re:"`` that the whole name must match.
        exclude: patterns of layers that stay digital.
        where: ``where(name, layer)`` decides about each layer that the patterns leave.
        per_layer: pattern to the chip of the layers that it matches: another ``Chip``, or the fields in which it
            differs from ``chip``, such as ``{"head": {"output_bits": 10}}``. Of several that match, the last counts.

    Returns:
        The model; assign it, as a root layer cannot be replaced in place.

    Raises:
        TypeError: ``model`` is no module, or ``chip`` no ``Chip``.
        ValueError: nothing to convert, a pattern that matches no layer, a field that a chip does not have, or a layer
            that is on another chip. The model is unchanged.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> type(at.convert(model, at.chips.hermes64(), exclude="2")[0]).__name__
        'AnalogLinear'
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert: model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(chip, Chip):
        raise TypeError(f"convert: chip must be a Chip such as analogtorch.chips.hermes64(), got {chip!r}")
    included, excluded = _patterns(include), _patterns(exclude)
    if included == []:
        raise ValueError("convert: include is empty; leave it out to convert all layers")
    candidates = {
        name: m
        for name, m in model.named_modules()
        if _is_analog(m) or (not isinstance(m, AnalogMatrix) and reason(model, name, m) is None)
    }
    overrides = [(_Pattern(text), _changed(chip, text, change)) for text, change in (per_layer or {}).items()]
    _check_patterns(model, candidates, included or [], excluded or [], [pattern for pattern, _ in overrides])
    chips = {name: next((c for pattern, c in reversed(overrides) if pattern(name)), chip) for name in candidates}
    if other := [name for name, m in candidates.items() if _is_analog(m) and m.chip != chips[name]]:
        raise ValueError(
            f"convert: layer {other[0]!r} is on another chip already; call analogtorch.to_digital(model) first"
        )
    chosen = {
        name: m
        for name, m in candidates.items()
        if (included is None or _matches(name, included))
        and not (excluded and _matches(name, excluded))
        and (where is None or where(name, m))
    }
    if not chosen:
        raise ValueError(f"convert: nothing to convert in {type(model).__name__}. {_explain(model, candidates)}")
    new = {id(m): LAYERS[_kind(m)].from_digital(m, chips[n], n) for n, m in chosen.items() if not _is_analog(m)}
    if new:
        logger.info("converted %d layers for chip %s", len(new), chip.name)
    return _replace(model, new)


def _changed(chip: Chip, pattern: str, change: Chip | Mapping[str, Any]) -> Chip:
    if isinstance(change, Chip):
        return change
    if not isinstance(change, Mapping):
        raise TypeError(f"convert: per_layer[{pattern!r}] must be a Chip or a dict of its fields, got {change!r}")
    known = [field.name for field in dataclasses.fields(Chip)]
    if unknown := [name for name in change if name not in known]:
        near = get_close_matches(unknown[0], known, n=1) or known[:1]
        raise ValueError(
            f"convert: per_layer[{pattern!r}]: a Chip has no field {unknown[0]!r}; did you mean {near[0]!r}?"
        )
    return dataclasses.replace(chip, **change)


def to_digital(model: nn.Module) -> nn.Module:
    """Undo ``convert``: every analog layer becomes the digital layer it was, with its Parameters as they are now.

    Raises:
        ValueError: a layer of a programmed chip: its weights are conductances, not the model's.
    """
    refuse_programmed(model, "to_digital")
    layers = {name: m for name, m in model.named_modules() if _is_analog(m)}
    if changed := [name for name, m in layers.items() if parametrize.is_parametrized(m)]:
        raise ValueError(f"to_digital: remove the parametrizations of {changed[0]!r} first")
    return _replace(model, {id(m): m.to_digital() for m in layers.values()})


def refuse_programmed(model: nn.Module, caller: str) -> None:
    """Raise ValueError where ``caller`` was given a programmed chip instead of the model that was programmed."""
    for name, layer in analog_layers(model):
        if layer.programmed is not None:
            raise ValueError(
                f"{caller}: layer {name!r} belongs to a programmed chip; use the model that was programmed"
            )


def _is_analog(module: Any) -> bool:
    """Whether ``convert`` made it, rather than a part of what it made."""
    return isinstance(module, AnalogLayer | AnalogComposite) and not isinstance(module, AnalogMatrix)


def analog_layers(model: nn.Module) -> Iterator[tuple[str, AnalogLayer]]:
    """The analog layers of ``model``, matrices of recurrent layers among them, by full name, each shared one once."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, AnalogLayer))


def reason(model: nn.Module, name: str, module: nn.Module) -> str | None:
    """Why ``module``, called ``name`` in ``model``, cannot become analog; None if it can."""
    kind = _kind(module)
    if kind is None:
        return f"no analog layer for {type(module).__name__}"
    for parent in _parents(model, name):
        if isinstance(parent, _FUSED):
            return f"{type(parent).__name__} reads its weight without calling it"
    if parametrize.is_parametrized(module):
        return "parametrized: call torch.nn.utils.parametrize.remove_parametrizations first"
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return "lazy: run the model once first"
    for method in ("forward", "_conv_forward", "__call__"):
        if method in vars(module) or getattr(type(module), method, None) is not getattr(kind, method, None):
            return f"{type(module).__name__} overrides {method}"
    for name in LAYERS[kind].weight_names(module):
        weight = module._parameters.get(name)
        if weight is None:
            return f"its {name} is not a plain Parameter (pruned or weight-normalised)"
        if weight.numel() == 0 or not weight.is_floating_point():
            return f"its {name} has shape {tuple(weight.shape)} and type {weight.dtype}: nothing to place on a tile"
    if own := LAYERS[kind].refuses(module):
        return own
    if taken := sorted(OWN & (vars(module).keys() | module._buffers.keys() | module._parameters.keys())):
        return f"it has its own {taken[0]!r}, a name that analog layers use"
    return None


def _kind(module: nn.Module) -> Any:
    return next((kind for kind in LAYERS if isinstance(module, kind)), None)


def _parents(model: nn.Module, name: str) -> Iterator[nn.Module]:
    parts = name.split(".") if name else []
    for end in range(len(parts)):
        yield model.get_submodule(".".join(parts[:end]))


def _replace(model: nn.Module, new: Mapping[int, nn.Module]) -> nn.Module:
    for parent in list(model.modules()):
        for child_name, child in list(parent._modules.items()):
            if child is not None and id(child) in new:
                parent._modules[child_name] = new[id(child)]
    return new.get(id(model), model)


def _patterns(patterns: str | Iterable[str] | None) -> list[Callable[[str], bool]] | None:
    if patterns is None:
        return None
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    if bad := [p for p in listed if not isinstance(p, str)]:
        raise TypeError(f"convert: patterns must be strings, got {bad[0]!r}; for all layers leave include out")
    return [_Pattern(p) for p in listed]


class _Pattern:
    """A glob, or a regular expression after ``re:``, against a whole name."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self.regex = re.compile(text[3:] if text.startswith("re:") else fnmatch.translate(text))
        except re.error as error:
            raise ValueError(f"convert: {text!r} is no regular expression: {error}") from error

    def __call__(self, name: str) -> bool:
        return self.regex.fullmatch(name) is not None


def _matches(name: str, patterns: list[Callable[[str], bool]]) -> bool:
    return any(pattern(name) for pattern in patterns)


def _check_patterns(model: nn.Module, candidates: dict[str, nn.Module], *groups: list[Any]) -> None:
    for group in groups:
        for pattern in group:
            if any(map(pattern, candidates)):
                continue
            for name, module in model.named_modules():
                if pattern(name) and _kind(module) is not None:
                    why = reason(model, name, module)
                    raise ValueError(f"convert: {name!r}, matched by {pattern.text!r}, cannot be analog: {why}")
            near = get_close_matches(pattern.text.removeprefix("re:"), candidates, n=3) or list(candidates)[:3]
            raise ValueError(
                f"convert: pattern {pattern.text!r} matches none of the {len(candidates)} layers that can be analog. "
                f"Closest names: {', '.join(map(repr, near)) or 'none'}. Leave include out to convert all."
            )


def _explain(model: nn.Module, candidates: dict[str, nn.Module]) -> str:
    if candidates:
        names = ", ".join(map(repr, list(candidates)[:3]))
        return f"exclude, or where, leaves none of its {len(candidates)} layers: {names}, ..."
    skipped = [
        f"{n or '(root)'}: {reason(model, n, m)}"
        for n, m in model.named_modules()
        if next(m.parameters(False), None) is not None
    ]
    found = "; ".join(skipped[:5]) or "it has no layers with weights"
    return f"Only nn.Linear, nn.Conv1d to 3d and nn.RNN, LSTM and GRU become analog; found {found}."
