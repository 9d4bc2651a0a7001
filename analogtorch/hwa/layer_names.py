"""The layers that a converted model and its digital twin have by one name."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from analogtorch.conversion.kinds import is_analog
from analogtorch.nn.adapters import plain_name
from analogtorch.values.listed import listed
from analogtorch.values.warned import warn

Shapes = tuple[torch.Size, torch.Size]
"""Those of an output of the student's layer and of the teacher's."""

OUTPUTS_ALONE = "pass recipe=at.hwa.Recipe(layers=0) to compare the outputs of the model alone"
"""What helps wherever layers cannot be compared."""

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
    layers = (name for name, module in student.named_modules() if is_analog(module))
    made = dict.fromkeys(_layer_of(student, name) for name in layers)
    inside = tuple(f"{name}." for name in made if name)
    outermost = [name for name in made if not name.startswith(inside)]
    found = [name for name in outermost if name in of_teacher]
    if asked and len(found) < len(outermost):
        _name_others([name for name in outermost if name not in of_teacher], len(outermost))
    return found


def _name_others(names: list[str], count: int) -> None:
    """Warn of layers that the teacher lacks, of ``count`` layers; raise ValueError if all are."""
    shown = listed(repr(name or "(root)") for name in names)
    remedy = f"name the teacher's layers as the model's, or {OUTPUTS_ALONE}"
    if len(names) == count:
        raise ValueError(
            f"adapt: no layer of the model has the name of a module of the teacher, so that none "
            f"could be compared: {shown}; {remedy}"
        )
    warn(
        f"adapt: the outputs of {len(names)} of {count} analog layers are not compared, as the "
        f"teacher has no module of their names: {shown}; {remedy}"
    )


def unlike_channels(student: nn.Module, shapes: Mapping[str, Shapes]) -> dict[str, Shapes]:
    """Return the layers whose outputs differ from the teacher's in more than their number.

    That of the vectors may depend on noise, as where a router sends them to experts.
    """
    layers, found = by_layer(student), dict[str, Shapes]()
    for name, (of_student, of_teacher) in shapes.items():
        weight = getattr(layers[name], "weight", None)
        # outputs of convolutions have one dimension behind the channels for each of the kernel
        at = 1 - weight.dim() if isinstance(weight, Tensor) else -1
        as_wide = of_student[at:][:1] == of_teacher[at:][:1]
        if not as_wide or len(of_student) != len(of_teacher):
            found[name] = of_student, of_teacher
    return found


def name_unlike(shapes: Mapping[str, Shapes], count: int, alike: bool) -> None:
    """Warn of layers whose outputs differ in shape from the teacher's, of ``count`` layers.

    Args:
        shapes: the shapes of both, by name of the layer.
        count: the number of layers that both have.
        alike: whether some outputs can be compared.

    Raises:
        ValueError: none can.
    """
    shown = listed(
        f"{name or '(root)'!r} {tuple(of_student)} and {tuple(of_teacher)}"
        for name, (of_student, of_teacher) in shapes.items()
    )
    differ = f"differ in shape from those of the teacher's layers of their names: {shown}"
    remedy = f"give a teacher with layers as wide, or {OUTPUTS_ALONE}"
    if not alike:
        raise ValueError(f"adapt: the outputs of all layers that ran {differ}; {remedy}")
    warn(
        f"adapt: outputs of {len(shapes)} of {count} analog layers are not compared, as they "
        f"{differ}; {remedy}"
    )


def by_layer(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules by the names that their layers have without what wraps them.

    Of several it is the outermost: what an adapter adds belongs to the output of its layer.
    """
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        found.setdefault(_layer_of(model, name), module)
    return found


def _layer_of(model: nn.Module, name: str) -> str:
    return _SAVED.sub("", plain_name(model, name))
