"""Parameter groups for an optimizer: weight decay is for matrices; it would shrink DAC ranges below
their inputs.
"""

from typing import Any

from torch import nn

from analogtorch.conversion.kinds import analog_layers, check_module, refuse_programmed
from analogtorch.values import checks


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups that decay weight matrices and spare DAC ranges, biases and norms.

    Pulled towards zero, a DAC range clips more and more of its inputs, and a bias or the gain of a
    norm gains nothing. Make the optimizer from the groups after ``analogtorch.convert``. Ranges are
    in it from then on, and learn as soon as they are calibrated. A group takes further options of
    the optimizer: ``groups[2]["lr"] = 1e-3``.

    Args:
        model: a converted model.
        weight_decay: >= 0, that of the matrices.

    Returns:
        Three groups, in this order, each Parameter of the model in one of them: ``matrices``, which
        have two dimensions or more (embeddings among them), with ``weight_decay``; ``vectors``
        (biases, gains of norms) and ``ranges`` with none. The key ``name`` has these names.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: ``weight_decay`` is no number >= 0; the model has no analog layer, or is a
            programmed chip.

    Example:
        >>> model = at.convert(torch.nn.Linear(8, 4), at.chips.hermes64())
        >>> groups = at.hwa.parameter_groups(model, weight_decay=0.01)
        >>> [(group["name"], len(group["params"]), group["weight_decay"]) for group in groups]
        [('matrices', 1, 0.01), ('vectors', 1, 0.0), ('ranges', 1, 0.0)]
        >>> optimizer = torch.optim.AdamW(groups, lr=1e-3)
    """
    check_module("parameter_groups", model)
    weight_decay = checks.number("parameter_groups: weight_decay", weight_decay, least=0)
    ranges = {id(layer.input_range) for _, layer in analog_layers(model)}
    if not ranges:
        raise ValueError(
            "parameter_groups: the model has no analog layer; call analogtorch.convert(model, "
            "chip) first"
        )
    refuse_programmed(model, "parameter_groups")
    groups: dict[str, list[nn.Parameter]] = {"matrices": [], "vectors": [], "ranges": []}
    for p in model.parameters():
        groups["ranges" if id(p) in ranges else "matrices" if p.dim() > 1 else "vectors"].append(p)
    return [
        {
            "name": name,
            "params": params,
            "weight_decay": float(weight_decay) if name == "matrices" else 0.0,
        }
        for name, params in groups.items()
    ]
