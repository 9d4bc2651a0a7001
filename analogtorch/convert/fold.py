"""Batch norm into the layer before it: a chip scales its columns for nothing, and one digital pass less is paid."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from analogtorch.convert.example import Example, runner
from analogtorch.nn import AnalogLayer

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fold_batch_norm(model: nn.Module, example: Example, *, tolerance: float = 1e-4) -> list[str]:
    """Fold every batch norm that directly follows a linear layer or convolution into its weight and bias, in place.

    Before conversion: the norm's running statistics become part of the weights, and ``nn.Identity`` takes its place.
    That the model computes the same is proved on the example; training it further trains without batch norm.

    Args:
        model: a digital model.
        example: its input: a tensor, a tuple of arguments or a dictionary of keyword arguments; one run in evaluation
            mode shows what follows what.
        tolerance: largest difference of an output that is accepted, relative to the largest output.

    Returns:
        Names of the norms that were folded; a norm after something else, or whose layer's output goes elsewhere too, is
        left.

    Raises:
        TypeError: the example is of another type.
        ValueError: the model is converted already, nothing can be folded, or the outputs differ by more than the
            tolerance. The model is unchanged.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
        >>> at.fold_batch_norm(model, torch.randn(1, 3, 8, 8))
        ['1']
    """
    return folded(model, example, tolerance)[0]


@torch.no_grad()
def folded(model: nn.Module, example: Example | None, tolerance: float) -> tuple[list[str], Callable[[], None]]:
    """What ``fold_batch_norm`` does and returns, and what undoes it."""
    if any(isinstance(m, AnalogLayer) for m in model.modules()):
        raise ValueError("fold_batch_norm: the model is converted already; fold first, then call analogtorch.convert")
    run = runner("fold_batch_norm", example)
    modes = {m: m.training for m in model.modules()}
    try:
        model.eval()
        before = _flat(run(model))
        pairs = _pairs(model, run)
        if not pairs:
            raise ValueError("fold_batch_norm: no batch norm follows a linear layer or convolution directly")
        old = [_fold(model, layer, name) for name, layer in pairs.items()]

        def undo() -> None:
            for name, (layer, weight, bias, norm) in zip(pairs, old, strict=True):
                layer.weight, layer.bias = weight, bias
                _put(model, name, norm)

        worst = max(
            ((a - b).abs().max() / a.abs().max().clamp_min(1e-30)).item()
            for a, b in zip(before, _flat(run(model)), strict=True)
        )
        if not worst <= tolerance:
            undo()
            raise ValueError(
                f"fold_batch_norm: the outputs would differ by {worst:.2g}, {tolerance:.2g} is allowed; a layer's "
                "output is used beside its norm"
            )
    finally:
        for module, mode in modes.items():
            module.training = mode
    return list(pairs), undo


def _pairs(model: nn.Module, run: Callable[[nn.Module], Any]) -> dict[str, nn.Module]:
    """Name of each batch norm that met the output of a layer, and the layer; both called once."""
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # outputs are kept, so that no two have the same id
    found: dict[str, nn.Module] = {}
    calls: dict[nn.Module, int] = {}
    names = {m: name for name, m in model.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats}

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        if module in names:
            if id(inputs[0]) in made:
                found[names[module]] = made[id(inputs[0])][0]
        else:
            made[id(output)] = (module, output)

    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, *_CONVOLUTIONS))]
    handles = [m.register_forward_hook(record) for m in (*layers, *names)]
    try:
        run(model)
    finally:
        for handle in handles:
            handle.remove()
    norms = {name: m for m, name in names.items()}
    return {name: layer for name, layer in found.items() if calls[layer] == calls[norms[name]] == 1}


def _fold(model: nn.Module, layer: Any, name: str) -> tuple[Any, Any, Any, nn.Module]:
    """Fold one norm; returns what it takes to undo that."""
    norm: Any = model.get_submodule(name)
    numbers = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    old = layer, layer.weight, layer.bias, norm
    fuse = fuse_conv_bn_weights if isinstance(layer, _CONVOLUTIONS) else fuse_linear_bn_weights
    layer.weight, layer.bias = fuse(layer.weight, layer.bias, *numbers)
    _put(model, name, nn.Identity())
    return old


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _flat(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output if isinstance(output, tuple | list) else ()
    return [t for value in values for t in _flat(value)]
