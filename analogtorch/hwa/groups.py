"""Parameter groups for an optimizer, which keep weight decay away from the DAC ranges."""

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from analogtorch.conversion.kinds import check_module, refuse_flat, refuse_programmed, some_layers
from analogtorch.values import checks

_NORMS = _NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm
"""Norms of torch, whose gains may have several dimensions."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return parameter groups that decay weight matrices and spare DAC ranges, biases and norms.

    Weight decay would shrink a DAC range until it clips its inputs; it is of no use for a bias or
    the gain of a norm. Make the optimizer from the groups after ``analogtorch.convert``, so that it
    holds the DAC ranges, which learn as soon as they are calibrated. A group takes further options
    of the optimizer: ``groups[2]["lr"] = 1e-3``.

    Args:
        model: a converted model.
        weight_decay: weight decay of the matrices, >= 0.

    Returns:
        Three groups, in this order, which hold each Parameter of the model once: ``matrices``, with
        two dimensions or more (embeddings among them) and with ``weight_decay``; ``vectors`` (all
        others, with biases and the Parameters of torch's norms, of any dimensions) and ``ranges``
        (DAC ranges), both without. The key ``name`` has these names.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: ``weight_decay`` is no number >= 0, or the model has no analog layer, is a
            programmed chip, or is sharded by ``FullyShardedDataParallel``.

    Example:
        >>> model = at.convert(torch.nn.Linear(8, 4), at.chips.hermes64())
        >>> groups = at.hwa.parameter_groups(model, weight_decay=0.01)
        >>> [(group["name"], len(group["params"]), group["weight_decay"]) for group in groups]
        [('matrices', 1, 0.01), ('vectors', 1, 0.0), ('ranges', 1, 0.0)]
        >>> optimizer = torch.optim.AdamW(groups, lr=1e-3)
    """
    check_module("parameter_groups", model)
    weight_decay = checks.number("parameter_groups: weight_decay", weight_decay, least=0)
    refuse_flat(model, "parameter_groups")
    layers = some_layers(model, "parameter_groups")
    ranges = {id(layer.input_range) for layer in layers.values()}
    refuse_programmed(model, "parameter_groups")
    spared = {
        id(p)
        for module in model.modules()
        for name, p in module.named_parameters(recurse=False)
        if isinstance(module, _NORMS) or name.startswith("bias")
    }
    groups: dict[str, list[nn.Parameter]] = {"matrices": [], "vectors": [], "ranges": []}
    for p in model.parameters():
        kind = "matrices" if p.dim() > 1 and id(p) not in spared else "vectors"
        groups["ranges" if id(p) in ranges else kind].append(p)
    return [
        {
            "name": name,
            "params": params,
            "weight_decay": float(weight_decay) if name == "matrices" else 0.0,
        }
        for name, params in groups.items()
    ]
