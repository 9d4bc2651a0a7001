"""Swap the layers of a model for analog ones, and back: in place, loudly, with the same Parameters."""

import fnmatch
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from analogtorch.chips import Chip
from analogtorch.nn import AnalogConv1d, AnalogConv2d, AnalogLayer, AnalogLinear

logger = logging.getLogger("analogtorch")

LAYERS: dict[type[nn.Module], type[AnalogLayer]] = {
    nn.Linear: AnalogLinear,
    nn.Conv1d: AnalogConv1d,
    nn.Conv2d: AnalogConv2d,
}
"""Digital layer to analog layer."""

_FUSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Modules that read their children's weights without calling them: analog layers in them would be bypassed."""


def convert(
    model: nn.Module,
    chip: Chip,
    *,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
) -> nn.Module:
    """Replace every ``nn.Linear``, ``nn.Conv1d`` and ``nn.Conv2d`` of ``model`` by its analog layer, in place.

    Parameters, ``state_dict`` keys, buffers, hooks and ties stay as they are; what stays digital is listed by
    ``analogtorch.summary``. Layers that are analog already are left alone. Every analog layer gains one Parameter, its
    ``input_range``: an optimizer made before the conversion does not know it.

    Args:
        model: any module. A layer given as the root itself comes back as a new module.
        chip: the chip to run on.
        include: patterns of full layer names; only these are converted. A glob (``"encoder.*"``), or a regular
            expression marked ``"re:"`` that the whole name must match.
        exclude: patterns of layers that stay digital.

    Returns:
        The model; assign it, as a root layer cannot be replaced in place.

    Raises:
        TypeError: ``model`` is no module, or ``chip`` no ``Chip``.
        ValueError: nothing to convert, or a pattern that matches no layer. The model is unchanged.

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
    candidates = {
        name: m for name, m in model.named_modules() if isinstance(m, AnalogLayer) or reason(model, name, m) is None
    }
    _check_patterns(model, candidates, included or [], excluded or [])
    chosen = {
        name: m
        for name, m in candidates.items()
        if (included is None or _matches(name, included)) and not (excluded and _matches(name, excluded))
    }
    if not chosen:
        raise ValueError(f"convert: nothing to convert in {type(model).__name__}. {_explain(model, candidates)}")
    new = {
        id(m): LAYERS[_kind(m)].from_digital(m, chip, n) for n, m in chosen.items() if not isinstance(m, AnalogLayer)
    }
    logger.info("converted %d layers for chip %s", len(new), chip.name)
    return _replace(model, new)


def to_digital(model: nn.Module) -> nn.Module:
    """Undo ``convert``: every analog layer becomes the digital layer it was, with its Parameters as they are now.

    Raises:
        ValueError: a layer of a programmed chip: its weights are conductances, not the model's.
    """
    layers = [m for m in model.modules() if isinstance(m, AnalogLayer)]
    if programmed := [m.layer_name for m in layers if m.programmed is not None]:
        raise ValueError(
            f"to_digital: {programmed[0]!r} belongs to a programmed chip; call it on the model that was programmed"
        )
    return _replace(model, {id(m): m.to_digital() for m in layers})


def analog_layers(model: nn.Module) -> Iterator[tuple[str, AnalogLayer]]:
    """The analog layers of ``model`` with their full names, each shared layer once."""
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
    if type(module).forward is not kind.forward:
        return f"{type(module).__name__} overrides forward"
    if "weight" not in module._parameters or module._parameters["weight"] is None:
        return "its weight is not a plain Parameter (pruned or weight-normalised)"
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
        return f"exclude leaves none of its {len(candidates)} layers: {', '.join(map(repr, list(candidates)[:3]))}, ..."
    skipped = [
        f"{n or '(root)'}: {reason(model, n, m)}"
        for n, m in model.named_modules()
        if next(m.parameters(False), None) is not None
    ]
    found = "; ".join(skipped[:5]) or "it has no layers with weights"
    return f"Only nn.Linear, nn.Conv1d and nn.Conv2d become analog; found {found}."
