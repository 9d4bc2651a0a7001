"""Swapping of the layers of a model for analog ones and back, with the same Parameters."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from analogtorch.chips import Chip
from analogtorch.chips.choices import Choices
from analogtorch.conversion.digital_bits import keep_inputs_of
from analogtorch.conversion.example import Example, runner
from analogtorch.conversion.exported import exported
from analogtorch.conversion.fast_path import reader, restore, switch_off
from analogtorch.conversion.fold import folded, has_folded
from analogtorch.conversion.guard import guard
from analogtorch.conversion.kinds import (
    analog_type,
    check_module,
    is_analog,
    reason,
    refuse_distributed,
    refuse_programmed,
    refuse_scripted,
)
from analogtorch.conversion.multiplied import forget_multiplied
from analogtorch.conversion.not_parameters import packed
from analogtorch.conversion.patterns import (
    Unit,
    all_names,
    candidates,
    check_agree,
    check_known,
    check_used,
    matches,
    names_of,
    patterns,
    units,
)
from analogtorch.conversion.replace import replace
from analogtorch.conversion.route import unroute
from analogtorch.conversion.sensor import check_alone, checked_first, in_sensor
from analogtorch.conversion.taken import forget, remember
from analogtorch.conversion.unread import forget_unread, name_unread
from analogtorch.nn import AnalogLinear
from analogtorch.nn.adapters import plain_name, unwatch_adapter, watch_adapters
from analogtorch.nn.kinds import kind_of, kinds
from analogtorch.nn.reborn import warn_uncompiled
from analogtorch.values import checks
from analogtorch.values.listed import listed
from analogtorch.values.warned import warn

logger = logging.getLogger("analogtorch")


def convert(
    model: nn.Module,
    chip: Chip,
    *,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    where: Callable[[str, nn.Module], bool] | None = None,
    per_layer: Mapping[str, Chip | Mapping[str, Any]] | None = None,
    sensor: str | tuple[str, Chip] | None = None,
    embeddings: bool = False,
    fold_batch_norm: bool = False,
    example: Example | None = None,
    allow_unused: bool = False,
) -> nn.Module:
    """Replace the layers of ``model`` that multiply by stored weights with analog ones, in place.

    These are ``nn.Linear``, ``nn.Conv1d`` to ``3d`` and ``nn.ConvTranspose1d`` to ``3d``,
    ``nn.RNN``, ``LSTM`` and ``GRU`` and their cells, ``nn.MultiheadAttention``, and the ``Conv1D``
    of transformers; ``nn.Embedding`` on request.

    Parameters, ``state_dict`` keys, buffers, hooks and ties stay as they are;
    ``analogtorch.summary`` lists what stays digital. Layers that are on this chip already are left
    alone. A subclass keeps its methods and its ``forward``, if that multiplies by the weight as it
    is, with ``super().forward``, ``F.linear`` or ``F.conv1d`` to ``3d``. Every analog layer has one
    more Parameter, its DAC range ``input_range``, which learns once it is calibrated: an optimizer
    made before the conversion does not know it, and weight decay should spare it
    (``hwa.parameter_groups``). Counters of ``model.parameters()`` count it, one number per layer or
    row block; ``summary(model).parameters`` does not. The fused kernels of
    ``nn.TransformerEncoderLayer`` are off until ``to_digital``.

    Args:
        model: any module. If the model itself is a layer, the result is a new module.
        chip: the chip to run on.
        include: patterns of full layer names; only these layers are converted. A pattern is a glob
            (``"encoder.*"``), or a regular expression marked ``"re:"`` that the whole name must
            match; one that equals a name means that alone. A shared layer has several names, and
            each counts. A pattern that matches a recurrent layer or attention means all its
            matrices; one matrix has its own name, such as ``lstm.ih_l0``, and that of its
            Parameter, ``lstm.weight_ih_l0``.
        exclude: patterns of layers that stay digital; some may be of weights that are digital
            anyway.
        where: a function ``where(name, layer)`` that decides about each layer that the patterns
            leave.
        per_layer: chips by pattern for the layers that it matches: another ``Chip``, or what
            ``chip.replace`` takes to make it of ``chip``, such as
            ``{"head": {"periphery": {"output_bits": 10}}}``. If several match, the last counts.
        sensor: the first convolution of the model, an ``nn.Conv2d``, which computes in the sensor
            itself: its name, for ``chips.photodiode_sensor()``, or its name and such a chip.
        embeddings: if True, convert every ``nn.Embedding`` too: a token is then one noisy MVM with
            its row.
        fold_batch_norm: if True, first fold batch norms into the layers before them, as
            ``analogtorch.fold_batch_norm`` does; needs ``example``. A second call leaves folded
            norms as they are. ``to_digital`` does not unfold them.
        example: the model's input (a tensor, a tuple of arguments or a dictionary of keyword
            arguments). With it, ``analogtorch.guard`` proves in one run that every converted layer
            runs on the chip, and routes calls such as ``F.linear(x, self.qkv.weight)`` to their
            layers, as ``calibrate`` does. Without it, the first run of the model warns of layers
            that it did not reach.
        allow_unused: if True, layers that ``example`` does not reach are no error, as those that
            run in training only.

    Returns:
        The model; assign it, as a root layer cannot be replaced in place.

    Raises:
        TypeError: an argument is of another type.
        ValueError: the model is a programmed chip, distributed, or scripted in part; there is
            nothing to convert; a pattern matches no layer or has no effect; patterns contradict
            each other; a chip has no such field; a layer to convert is on another chip; a layer to
            exclude is analog; ``sensor`` names no ``nn.Conv2d``, or one with more taps than a
            network has diodes, or, in the run of ``example``, one behind other layers; ``chip``
            senses light and would take several layers; or ``fold_batch_norm`` or ``guard`` raise.
            The model is unchanged.

    Warns:
        UserWarning: a layer that becomes analog was in int8. Its inputs are not rounded digitally
            any more, but its weights are those of ``quantise_digital``.

    Example:
        >>> first, last = torch.nn.Linear(8, 4), torch.nn.Linear(4, 2)
        >>> model = torch.nn.Sequential(first, torch.nn.ReLU(), last)
        >>> type(at.convert(model, at.chips.hermes64(), exclude="2")[0]).__name__
        'AnalogLinear'
    """
    check_module("convert", model)
    refuse_programmed(model, "convert")
    refuse_distributed(model, "convert")
    refuse_scripted(model, "convert")
    overrides = {} if per_layer is None else per_layer
    _check_arguments(
        chip,
        overrides,
        where,
        example,
        embeddings=embeddings,
        fold_batch_norm=fold_batch_norm,
        allow_unused=allow_unused,
    )
    sensing = in_sensor(model, sensor)
    overrides = {**overrides, **sensing}  # the last that matches a layer counts
    names = names_of(model)
    chips = _chips(model, names, chip, overrides, embeddings)
    chosen = _chosen(model, names, chips, include, exclude, where, overrides, embeddings)
    if include is None and where is None:
        check_alone(chip, [name for name, its in chosen.items() if its == chip])
    fresh = {name: m for name in chosen if not is_analog(m := model.get_submodule(name))}
    first = not any(map(is_analog, model.modules()))
    again = has_folded(model)  # folding again would change nothing
    undo = folded(model, example)[1] if fold_batch_norm and not again else lambda: None
    new: dict[int, Any] = {}
    converted = model
    try:
        new = {
            id(m): analog_type(m, chosen[name]).from_digital(
                m, chosen[name], plain_name(model, name)
            )
            for name, m in fresh.items()
        }
        converted = switch_off(replace(model, new))
        _set_sample_dimension(converted)
        if example is not None:
            with checked_first(converted, next(iter(sensing), None)):
                guard(converted, example, allow_unused=allow_unused)
    except BaseException:
        restore(replace(converted, {id(new[id(m)]): m for m in fresh.values() if id(m) in new}))
        undo()
        raise
    # a converter of the chip takes the inputs of these now
    int8 = [name or "(root)" for name in fresh if keep_inputs_of(converted.get_submodule(name))]
    remember(converted, first)
    watch_adapters(converted)
    warn_uncompiled(fresh)
    if new and example is None:
        name_unread(converted)
    if new:
        logger.info("converted %d layers for chip %s", len(new), chip.name)
    if int8:
        warn(
            f"convert: the weights of {listed(int8)} were rounded to int8 by quantise_digital, and "
            "the chip gets them as they are; convert the model from before quantise_digital for "
            "exact ones"
        )
    return converted


def _check_arguments(chip: Any, per_layer: Any, where: Any, example: Any, **flags: Any) -> None:
    checks.instance("convert: chip", chip, Chip, "analogtorch.chips.hermes64()")
    for name, value in flags.items():
        checks.flag(f"convert: {name}", value)
    if flags["fold_batch_norm"] and example is None:
        raise ValueError(
            "convert: fold_batch_norm=True needs example, inputs on which it proves that nothing "
            "changes"
        )
    if flags["allow_unused"] and example is None:
        raise ValueError(
            "convert: allow_unused=True has no effect without example; give one, or leave it out"
        )
    if example is not None:
        runner("convert", example)
    if where is not None and not callable(where):
        raise TypeError(
            f"convert: where must be a function, where(name, layer), got {checks.shown(where)}; "
            "for names use include"
        )
    if not isinstance(per_layer, Mapping):
        raise TypeError(
            "convert: per_layer must map patterns to chips or to parts of one, got "
            f"{checks.shown(per_layer)}"
        )


def _chips(
    model: nn.Module,
    names: Mapping[str, tuple[str, ...]],
    chip: Chip,
    per_layer: Mapping[str, Chip | Mapping[str, Any]],
    embeddings: bool,
) -> dict[Unit, Chip]:
    """Return the units that can be analog, with the chip of each."""
    changes = [_changed(chip, text, change) for text, change in per_layer.items()]
    found = units(names, candidates(model, embeddings)).values()
    asked = patterns("per_layer", per_layer, all_names(names, found))
    overrides = list(zip(asked, changes, strict=True))
    return {
        unit: next((c for p, c in reversed(overrides) if matches(unit.names, [p])), chip)
        for unit in found
    }


def _chosen(
    model: nn.Module,
    names: Mapping[str, tuple[str, ...]],
    chips: Mapping[Unit, Chip],
    include: str | Iterable[str] | None,
    exclude: str | Iterable[str] | None,
    where: Callable[[str, nn.Module], bool] | None,
    overriding: Iterable[str],
    embeddings: bool,
) -> dict[str, Chip | dict[str, Chip]]:
    """Return the modules to be analog and their chips, by name.

    The chips of a module with several matrices are by their children.
    """
    known_names = all_names(names, chips)
    included = patterns("include", include, known_names)
    excluded = patterns("exclude", exclude, known_names)
    changed = patterns("per_layer", overriding, known_names)
    if include is not None and not included:
        raise ValueError("convert: include is empty; leave it out to convert all layers")
    known = {unit.unit_names[0]: unit.names for unit in chips}
    check_known(model, known, [*included, *changed], excluded, embeddings)
    check_agree(known.values(), included, excluded, changed)
    owners = dict.fromkeys(unit.owner for unit in chips)
    wanted = {name: where is None or where(name, model.get_submodule(name)) for name in owners}
    chosen = [
        unit
        for unit in chips
        if (include is None or matches(unit.names, included))
        and not matches(unit.names, excluded)
        and wanted[unit.owner]
    ]
    for unit, chip in chips.items():
        _check_analog(model, unit, chip if unit in chosen else None, matches(unit.names, excluded))
    found: dict[str, Any] = {}
    for unit in chosen:
        if unit.child is None:
            found[unit.owner] = chips[unit]
        else:
            found.setdefault(unit.owner, {})[unit.child] = chips[unit]
    # only attention that is analog calls its out_proj, be it with no other matrix
    for name in list(found):
        attention = None if is_analog(model.get_submodule(name)) else reader(model, name)
        if attention is not None:
            if wanted.get(attention[0]) and not matches(names[attention[0]], excluded):
                found.setdefault(attention[0], {})
            else:
                del found[name]
    if not found:
        why = _explain(model, known, embeddings)
        raise ValueError(f"convert: nothing to convert in {type(model).__name__}. {why}")
    check_used(known, [unit.unit_names[0] for unit in chosen if unit.owner in found], changed)
    return found


def _check_analog(model: nn.Module, unit: Unit, chip: Chip | None, excluded: bool) -> None:
    """Raise ValueError if a unit that is analog is asked to be otherwise.

    ``chip`` is the one chosen for the unit; None if it was not chosen.
    """
    module: Any = model.get_submodule(unit.owner)
    if not is_analog(module):
        return
    layer = module if unit.child is None else module._modules.get(unit.child)
    if excluded and layer is not None:
        raise ValueError(
            f"convert: exclude asks for {unit.unit_names[0]!r} to stay digital, but it is analog "
            "already; call analogtorch.to_digital(model) first, or name in include what is to be "
            "converted beside it"
        )
    if chip is None:
        return
    if layer is None:
        raise ValueError(
            f"convert: {unit.unit_names[0]!r} was left digital when {unit.owner!r} was converted; "
            "call analogtorch.to_digital(model) first, or exclude it again"
        )
    # calibrate may have chosen another weight scale or other targets
    if layer.chip != Choices.of(layer.chip).made(chip):
        raise ValueError(
            f"convert: layer {unit.owner!r} is on another chip already; call "
            "analogtorch.to_digital(model) first, or leave it out"
        )


def _changed(chip: Chip, pattern: str, change: Chip | Mapping[str, Any]) -> Chip:
    if isinstance(change, Chip):
        return change
    if not isinstance(change, Mapping):
        raise TypeError(
            f"convert: per_layer[{pattern!r}] must be a Chip or a dict of its parts, got {change!r}"
        )
    try:
        return chip.replace(**change)
    except (TypeError, ValueError) as error:
        raise type(error)(f"convert: per_layer[{pattern!r}]: {error}") from error


def to_digital(model: nn.Module) -> nn.Module:
    """Undo ``convert``: every analog layer becomes its digital layer again, in place.

    The Parameters keep their present values.

    Returns:
        The model; assign it, as a root layer cannot be replaced in place.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: a layer belongs to a programmed chip, whose weights are conductances; or it was
            parametrized since; or a part of the model is distributed.
    """
    check_module("to_digital", model)
    refuse_programmed(model, "to_digital")
    refuse_distributed(model, "to_digital")
    layers = {name: m for name, m in model.named_modules() if is_analog(m)}
    if changed := [name for name, m in layers.items() if parametrize.is_parametrized(m)]:
        raise ValueError(f"to_digital: remove the parametrizations of {changed[0]!r} first")
    warn_uncompiled(layers)
    for module in model.modules():
        unroute(module)
        forget_unread(module)
        forget_multiplied(module)
        unwatch_adapter(module)
    forget(model)
    return restore(replace(model, {id(m): m.to_digital() for m in layers.values()}))


def _set_sample_dimension(model: nn.Module) -> None:
    """Set which dimension counts samples in the layers between torch's attentions.

    Noise would follow the split of the batch otherwise.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
            for name in ("linear1", "linear2"):
                if isinstance(layer := getattr(module, name, None), AnalogLinear):
                    layer.sequence_first = not getattr(module.self_attn, "batch_first", True)


def _explain(model: nn.Module, known: Mapping[str, Any], embeddings: bool) -> str:
    if known:
        names = ", ".join(map(repr, list(known)[:3]))
        return f"exclude, or where, leaves none of its {len(known)} layers: {names}, ..."
    if remedy := exported(model):
        return f"{remedy[0].upper()}{remedy[1:]}."
    skipped = [
        f"{n or '(root)'}: {reason(model, n, m, embeddings)}"
        for n, m in model.named_modules()
        if next(m.parameters(False), None) is not None or packed(m) or kind_of(m)
    ]
    found = "; ".join(skipped[:5]) or "it has no layers with weights"
    digital = ", ".join(kind.digital.__name__ for kind in kinds())
    return f"Only {digital} become analog; found {found}."
