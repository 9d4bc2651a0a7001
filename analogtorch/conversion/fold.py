"""Batch norm into the layer before it: a chip scales its columns for nothing, and one digital pass
less is paid.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights
from torch.utils._pytree import tree_leaves

from analogtorch.conversion.example import Example, runner
from analogtorch.conversion.kinds import check_module, kind_of, reason
from analogtorch.conversion.replace import replace
from analogtorch.conversion.subclass import overrides
from analogtorch.conversion.watch import Observer, eager
from analogtorch.conversion.weights import Storage, storage, tensors
from analogtorch.nn import AnalogLayer
from analogtorch.nn.tap import hooked
from analogtorch.values import checks

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_MARK = "folded_batch_norm"
"""Attribute of what takes the place of a norm, True, and of the norms that were left, False."""
_PLAIN = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
"""What a norm does that is nothing but a norm."""


def fold_batch_norm(
    model: nn.Module, example: Example, *, tolerance: float | None = None
) -> list[str]:
    """Fold every batch norm that directly follows a linear layer or convolution into its weight and
    bias, in place.

    Before conversion: the norm's running statistics become part of the weights, and ``nn.Identity``
    takes its place. That the model computes the same is proved on the example; training it further
    trains without batch norm.

    Args:
        model: a digital model.
        example: its input: a tensor, a tuple of arguments or a dictionary of keyword arguments; one
            run in evaluation mode shows what follows what.
        tolerance: largest difference of a floating-point output that is accepted, relative to the
            largest output. None: 1e-4, or the roundings of four operations if its type is coarser
            than that.

    Returns:
        Names of the norms that were folded. A norm after something else is left, and so is one
        whose layer is called more than once, has its output used elsewhere, shares its weight, or
        could not be analog; a norm or layer with hooks of its own, too.

    Raises:
        TypeError: ``model`` or ``example`` is of another type.
        ValueError: the model is converted already, nothing can be folded and nothing was before,
            the model returns no floating-point tensor to compare, or the outputs differ by more
            than the tolerance. The model is unchanged.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
        >>> at.fold_batch_norm(model, torch.randn(1, 3, 8, 8))
        ['1']
    """
    return folded(model, example, tolerance)[0]


def has_folded(model: nn.Module) -> bool:
    """Whether all batch norms of the model that can be folded were folded before."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    return any(getattr(m, _MARK, False) for m in model.modules()) and all(
        hasattr(m, _MARK) for m in norms
    )


@torch.no_grad()
def folded(
    model: nn.Module, example: Example | None, tolerance: float | None = None
) -> tuple[list[str], Callable[[], None]]:
    """What ``fold_batch_norm`` does and returns, and what undoes it."""
    check_module("fold_batch_norm", model)
    if tolerance is not None:
        tolerance = checks.number("fold_batch_norm: tolerance", tolerance, least=0)
    if any(isinstance(m, AnalogLayer) for m in model.modules()):
        raise ValueError(
            "fold_batch_norm: the model is converted already; fold first, then call "
            "analogtorch.convert"
        )
    given = runner("fold_batch_norm", example)

    def run(model: nn.Module) -> Any:
        with eager():
            return given(model)

    modes = {m: m.training for m in model.modules()}
    old: list[tuple[Any, Any, Any]] = []
    gone: dict[nn.Module, nn.Module] = {}

    left: list[nn.Module] = []

    def undo() -> None:
        for layer, weight, bias in old:
            layer.weight, layer.bias = weight, bias
        for norm in left:
            delattr(norm, _MARK)
        replace(model, {id(new): norm for norm, new in gone.items()})

    try:
        model.eval()
        before = _floating(run(model))
        if not before:
            raise ValueError(
                "fold_batch_norm: the model returned no floating-point numbers, alone or in "
                "tuples, lists and dictionaries, by which to prove that folding changes nothing"
            )
        pairs = _pairs(model, run)
        if not pairs and not has_folded(model):
            raise ValueError(
                "fold_batch_norm: no batch norm follows a linear layer or convolution directly"
            )
        for name, layer in pairs.items():
            norm: Any = model.get_submodule(name)
            old.append((layer, layer.weight, layer.bias))
            gone[norm] = nn.Identity()
            setattr(gone[norm], _MARK, True)
            fuse = (
                fuse_conv_bn_weights if isinstance(layer, _CONVOLUTIONS) else fuse_linear_bn_weights
            )
            numbers = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            layer.weight, layer.bias = fuse(layer.weight, layer.bias, *numbers)
        replace(model, {id(norm): new for norm, new in gone.items()})
        _compare(before, _floating(run(model)), tolerance)
    except BaseException:
        undo()
        raise
    finally:
        for module, mode in modes.items():
            module.training = mode
    left += [m for m in model.modules() if isinstance(m, _BatchNorm) and not hasattr(m, _MARK)]
    for norm in left:
        setattr(norm, _MARK, False)
    return list(pairs), undo


def _pairs(model: nn.Module, run: Callable[[nn.Module], Any]) -> dict[str, Any]:
    """Name of each batch norm that alone met the output of a layer, and the layer; both called
    once.
    """
    # outputs are kept, so that no two have the same id
    made: dict[int, tuple[nn.Module, Tensor, int]] = {}
    found: dict[str, tuple[nn.Module, Tensor, int]] = {}
    own: dict[nn.Module, int] = {}
    calls: Counter[nn.Module] = Counter()
    held = Counter(id(p) for m in model.modules() for p in m._parameters.values())
    norms = {
        m: name
        for name, m in model.named_modules()
        if isinstance(m, _BatchNorm)
        and m.track_running_stats
        and type(m).forward in _PLAIN
        and not _hooked(m)
    }
    layers = [
        m
        for name, m in model.named_modules()
        if isinstance(m, (nn.Linear, *_CONVOLUTIONS))
        and reason(model, name, m) is None
        and not _hooked(m)
        # what else it does may lie between the product and the norm
        if overrides(kind_of(m), type(m)) is None
        if all(p is None or held[id(p)] == 1 for p in (m.weight, m.bias))  # or the tie would be cut
    ]

    reads = _Reads()

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and id(inputs[0]) in made:
            own[module] = reads.of(inputs[0])

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] += 1
        if module not in norms:
            # of more, a norm scales another dimension
            if not isinstance(module, nn.Linear) or output.dim() == 2:
                made[id(output)] = (module, output, reads.of(output))
        elif module in own:
            own[module] = reads.of(inputs[0]) - own[module]
            found[norms[module]] = made[id(inputs[0])]

    with hooked(layers, after=record), hooked(norms, before=enter, after=record), reads:
        result = run(model)
    reads.count(result)  # what is returned is used, too
    names = {name: m for m, name in norms.items()}
    return {
        name: layer
        for name, (layer, output, before) in found.items()
        if calls[layer] == calls[names[name]] == 1 and reads.of(output) - before == own[names[name]]
    }


class _Reads(Observer):
    """Counts how often operators take each tensor, or a view of it."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Storage] = Counter()

    def of(self, t: Tensor) -> int:
        return self.counts[storage(t)]

    def count(self, tree: Any) -> None:
        self.counts.update(storage(t) for t in tensors(tree))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count((args, kwargs))
        return func(*args, **(kwargs or {}))


def _hooked(module: nn.Module) -> bool:
    """Whether something else happens to what it is given or computes."""
    return "forward" in vars(module) or bool(module._forward_hooks or module._forward_pre_hooks)


def _compare(before: list[Tensor], after: list[Tensor], tolerance: float | None) -> None:
    """Raise ValueError where outputs differ; what is not finite must be the same."""
    if len(before) != len(after):
        raise ValueError(
            f"fold_batch_norm: the model returned {len(before)} tensors, and then {len(after)}"
        )
    for a, b in zip(before, after, strict=True):
        allowed = max(1e-4, 4 * torch.finfo(a.dtype).eps) if tolerance is None else tolerance
        finite = a[a.isfinite()].abs()
        scale = finite.max().item() if finite.numel() else 0.0
        if a.shape != b.shape or not torch.allclose(a, b, 0.0, allowed * scale, equal_nan=True):
            worst = (
                (a - b).abs().max().item() / max(scale, 1e-30)
                if a.shape == b.shape
                else float("inf")
            )
            raise ValueError(
                f"fold_batch_norm: {a.dtype} outputs would differ by {worst:.2g}, {allowed:.2g} is "
                "allowed; does the model compute the same twice, or differently with a layer's "
                "output changed?"
            )


def _floating(output: Any) -> list[Tensor]:
    return [
        t
        for t in tree_leaves(output)
        if isinstance(t, Tensor) and t.is_floating_point() and t.numel()
    ]
