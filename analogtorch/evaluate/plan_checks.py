"""Checks of what ``plan`` is given, before anything is measured."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from analogtorch.chips import Chip
from analogtorch.chips.unit_cells import unit_cells
from analogtorch.conversion import analog_layers
from analogtorch.conversion.kinds import is_analog
from analogtorch.conversion.pattern import Pattern
from analogtorch.conversion.patterns import closest, matches, names_of, units
from analogtorch.evaluate.checked import measurable
from analogtorch.evaluate.metric import check_metric
from analogtorch.evaluate.plan_bench import Change
from analogtorch.evaluate.walks import DIGITAL, Candidate
from analogtorch.mapping.chosen import chip_of
from analogtorch.values import checks


def chip_for(model: nn.Module, metric: Any, prepare: Any, chip: Chip | None) -> Chip:
    """Return the chip to convert for, after checks of what is to be measured.

    Raises:
        ValueError: the model cannot be programmed (``measurable``), is calibrated without
            ``prepare``, is on several chips of which none is chosen, or has layers of several unit
            cells per weight.
        TypeError: the model is no module, or a function cannot be called.
    """
    measurable("plan", model)
    check_metric("plan", metric)
    check_prepare("plan", model, prepare)
    if chip is None:
        try:
            chip = chip_of(model)
        except ValueError as error:
            raise ValueError(
                "plan: the layers of the model are on several chips; name the one to convert for "
                "in chip, and others in devices, which plan tries by layer"
            ) from error
    checks.instance("plan: chip", chip, Chip, "at.chips.hermes64()")
    _check_cells(model, chip)
    return chip


def _check_cells(model: nn.Module, chip: Chip) -> None:
    """Raise ValueError if a weight takes several unit cells; the models of a plan keep none."""
    for name, layer in analog_layers(model):
        if (cells := unit_cells(layer.chip, [chip])) > 1:
            raise ValueError(
                f"plan: each weight of layer {name!r} takes {cells} unit cells of {chip.name}, but "
                "plan chooses the devices of each layer itself; give a model that was converted "
                "without them in per_layer, and the cells to try in devices, such as "
                f"devices={{{cells}: {{'cell': chip.cell.enlarged({cells})}}}}"
            )


def check_prepare(caller: str, model: nn.Module, prepare: Any) -> None:
    """Raise an error if ``prepare`` is missing or no function.

    Raises:
        ValueError: it is None, and the model is calibrated, which a model that is converted anew
            is not.
        TypeError: it cannot be called.
    """
    checks.function(f"{caller}: prepare", prepare, "prepare(model)")
    calibrated = (name for name, layer in analog_layers(model) if layer.ranged)
    if prepare is None and (name := next(calibrated, None)) is not None:
        raise ValueError(
            f"{caller}: layer {name!r} is calibrated, but the model is converted anew; say how to "
            "calibrate it: prepare=lambda m: at.calibrate(m, batches)"
        )


def device_changes(chip: Chip, devices: Any) -> dict[int, Change]:
    """Return the changes with more devices by unit cells per weight, as they were given.

    Raises:
        ValueError: a number of cells is below 2, a change is no part of a chip, or its tiles have
            another size.
        TypeError: a change is of another type.
    """
    if devices is None:
        try:
            return {2: {"cell": chip.cell.enlarged(2)}}
        except ValueError:  # such as of a SignificancePairs, whose devices are not copies
            return {}
    checks.instance("plan: devices", devices, Mapping, "{2: {'cell': cell}}, or {}")
    for cells, change in devices.items():
        name = f"plan: devices[{cells!r}]"
        checks.count(name, cells, least=2, remedy="it counts the unit cells of one weight")
        checks.instance(name, change, Chip | Mapping, "{'cell': cell}, or a chip")
        try:
            other = change if isinstance(change, Chip) else chip.replace(**change)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from error
        if other.array != chip.array:
            raise ValueError(
                f"{name}: its tiles differ from those of {chip.name}; change the cell alone"
            )
    return dict(devices)


def further(model: nn.Module, also: Any) -> list[Candidate]:
    """Return the candidates that keep digital what patterns match, one for each of ``also``.

    Raises:
        ValueError: a pattern matches no analog layer, or patterns leave none on the chip.
        TypeError: a pattern is no text.
    """
    modules = {name: m for name, m in model.named_modules() if is_analog(m)}
    analog = {name for name, _ in analog_layers(model)}
    known = {name: u for name, u in units(names_of(model), modules).items() if name in analog}
    found = []
    for given in checks.items("plan: also", also, "['dw*'], or [('conv1', 'head')]"):
        texts = [given] if isinstance(given, str) else checks.items("plan: also", given, "['dw*']")
        state = {name: DIGITAL for text in texts for name in _matched(text, known)}
        if len(state) == len(known):
            raise ValueError(f"plan: also {given!r} leaves no layer on the chip; drop it")
        found.append(Candidate.of(state, known))
    return found


def _matched(text: Any, known: Mapping[str, Any]) -> Iterable[str]:
    names = [name for unit in known.values() for name in unit.names]
    pattern = Pattern(text, "plan, also", names)
    if found := [name for name, unit in known.items() if matches(unit.names, [pattern])]:
        return found
    raise ValueError(
        f"plan: also {text!r} matches none of the {len(known)} analog layers. "
        + closest(text, names)
    )
