"""The layers that a converted model and its digital twin have by one name."""

import re

from torch import nn

from analogtorch.conversion.kinds import is_analog
from analogtorch.nn.adapters import plain_name
from analogtorch.values.warned import warn

_SHOWN = 5
"""Most layers that a message lists; it counts the others."""

_SAVED = re.compile(r"\.(original_module|modules_to_save\.[^.]+)(?=\.|$)")
"""Where peft keeps a layer that trains as a copy, and the copies, inside of what stands for it."""


def comparable_layers(student: nn.Module, teacher: nn.Module, asked: bool) -> list[str]:
    """Return names of the layers that ``convert`` made and that the teacher has too.

    Attention counts as one: the digital layer never calls the matrices inside. If the layers are
    ``asked`` for, a warning names the others.

    Raises:
        ValueError: they are asked for, and the teacher has none of them.
    """
    of_teacher = by_layer(teacher)
    made = dict.fromkeys(_layer_of(n) for n, module in student.named_modules() if is_analog(module))
    inside = tuple(f"{name}." for name in made if name)
    outermost = [name for name in made if not name.startswith(inside)]
    found = [name for name in outermost if name in of_teacher]
    if asked and len(found) < len(outermost):
        _name_others([name for name in outermost if name not in of_teacher], len(outermost))
    return found


def _name_others(names: list[str], count: int) -> None:
    """Warn of layers that the teacher lacks, of ``count`` layers; raise ValueError if all are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    listed = ", ".join(repr(name or "(root)") for name in names[:_SHOWN]) + more
    remedy = (
        "name the teacher's layers as the model's, or pass recipe=at.hwa.Recipe(layers=0) to "
        "compare the outputs of the model alone"
    )
    if len(names) == count:
        raise ValueError(
            f"adapt: no layer of the model has the name of a module of the teacher, so that none "
            f"could be compared: {listed}; {remedy}"
        )
    warn(
        f"adapt: the outputs of {len(names)} of {count} analog layers are not compared, as the "
        f"teacher has no module of their names: {listed}; {remedy}"
    )


def by_layer(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules by the names that their layers have without what wraps them.

    Of several it is the outermost: what an adapter adds belongs to the output of its layer.
    """
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        found.setdefault(_layer_of(name), module)
    return found


def _layer_of(name: str) -> str:
    return _SAVED.sub("", plain_name(name))
