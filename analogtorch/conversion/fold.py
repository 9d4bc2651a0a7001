"""Folding of batch norm into the layer before it.

A chip scales and shifts its columns after each MVM in any case, and one digital operation less is
paid.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights
from torch.utils._pytree import tree_leaves

from analogtorch.conversion.example import Example, runner
from analogtorch.conversion.kinds import check_module, reason
from analogtorch.conversion.replace import replace
from analogtorch.conversion.restored import evaluating
from analogtorch.conversion.subclass import overrides
from analogtorch.conversion.watch import Observer, eager
from analogtorch.conversion.weights import Storage, storage, tensors
from analogtorch.nn import AnalogLayer
from analogtorch.nn.kinds import kind_of
from analogtorch.nn.tap import hooked
from analogtorch.values import checks

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_MARK = "folded_batch_norm"
"""Attribute that is True on what replaces a norm, and False on norms that were left."""
_PLAIN = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
"""The forwards of norms that compute nothing else."""
_FROZEN = "FrozenBatchNorm2d"
"""The norm of torchvision's and detectron2's detectors, which need not be installed."""


def fold_batch_norm(
    model: nn.Module, example: Example, *, tolerance: float | None = None
) -> list[str]:
    """Fold every batch norm after a linear layer or convolution into that layer, in place.

    Fold before conversion. The norm's running statistics become part of the weight and bias, and
    ``nn.Identity`` takes its position. The example proves that the model computes the same. Later
    training has no batch norm. The ``FrozenBatchNorm2d`` of detectors is a batch norm, too.

    Args:
        model: a digital model.
        example: the model's input: a tensor, a tuple of arguments or a dictionary of keyword
            arguments. One run in evaluation mode shows which norm follows which layer.
        tolerance: largest accepted difference of a floating-point output, relative to the largest
            output. None: 1e-4, or four roundings of its type if those are larger.

    Returns:
        Names of the norms that were folded. A norm is left if it has no running statistics, does
        not directly follow a layer or follows a transposed convolution, if its layer is called more
        than once, has its output used elsewhere, shares its weight or could not be analog, or if
        one of the two has hooks.

    Raises:
        TypeError: ``model`` or ``example`` is of another type.
        ValueError: the model is converted already; nothing can be folded and nothing was before;
            the model returns no floating-point tensor to compare; or the outputs differ by more
            than the tolerance. The model is unchanged.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
        >>> at.fold_batch_norm(model, torch.randn(1, 3, 8, 8))
        ['1']
    """
    return folded(model, example, tolerance)[0]


def has_folded(model: nn.Module) -> bool:
    """Return whether all batch norms of the model that can be folded were folded before."""
    norms = [m for m in model.modules() if _is_norm(m)]
    return any(getattr(m, _MARK, False) for m in model.modules()) and all(
        hasattr(m, _MARK) for m in norms
    )


@torch.no_grad()
def folded(
    model: nn.Module, example: Example | None, tolerance: float | None = None
) -> tuple[list[str], Callable[[], None]]:
    """Fold, and return the names of the norms and a function that undoes it."""
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

    folding = _Folding(model)
    try:
        with evaluating(model):
            before = _floating(run(model))
            if not before:
                raise ValueError(
                    "fold_batch_norm: the model returned no floating-point numbers, alone or in "
                    "tuples, lists and dictionaries, by which to prove that folding changes nothing"
                )
            found = _pairs(model, run)
            left = {n: why for n, pair in found.items() if (why := _why_not(*pair)) is not None}
            pairs = {name: layer for name, (layer, _) in found.items() if name not in left}
            if not pairs and not has_folded(model):
                raise ValueError(f"fold_batch_norm: {_why_none(model, left)}")
            folding.fold(pairs)
            _compare(before, _floating(run(model)), tolerance)
    except BaseException:
        folding.undo()
        raise
    folding.mark()
    return list(pairs), folding.undo


class _Folding:
    """What folding changes in a model, which can be undone."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._old: list[tuple[Any, Any, Any]] = []
        self._gone: dict[nn.Module, nn.Module] = {}
        self._left: list[nn.Module] = []

    @torch.inference_mode(False)  # Parameters must be able to learn afterwards
    @torch.no_grad()
    def fold(self, pairs: dict[str, Any]) -> None:
        """Fold the norms of these names into their layers."""
        for name, layer in pairs.items():
            norm: Any = self.model.get_submodule(name)
            self._old.append((layer, layer.weight, layer.bias))
            self._gone[norm] = nn.Identity()
            setattr(self._gone[norm], _MARK, True)
            convolution = isinstance(layer, _CONVOLUTIONS)
            fuse = fuse_conv_bn_weights if convolution else fuse_linear_bn_weights
            weight, bias = norm.weight, norm.bias
            if weight is None:  # affine=False, which torch's function for linear layers cannot take
                weight, bias = torch.ones_like(norm.running_var), torch.zeros_like(norm.running_var)
            numbers = norm.running_mean, norm.running_var, norm.eps, weight, bias
            learns = any(p is not None and p.requires_grad for p in (layer.bias, norm.bias))
            layer.weight, layer.bias = fuse(layer.weight, layer.bias, *numbers)
            layer.bias.requires_grad_(learns)  # torch freezes that of a layer without one
        replace(self.model, {id(norm): new for norm, new in self._gone.items()})

    def mark(self) -> None:
        """Mark the norms that were left."""
        norms = (m for m in self.model.modules() if _is_norm(m))
        self._left += [m for m in norms if not hasattr(m, _MARK)]
        for norm in self._left:
            setattr(norm, _MARK, False)

    def undo(self) -> None:
        """Undo both."""
        for layer, weight, bias in self._old:
            layer.weight, layer.bias = weight, bias
        for norm in self._left:
            delattr(norm, _MARK)
        replace(self.model, {id(new): norm for norm, new in self._gone.items()})


def _norms(model: nn.Module) -> dict[nn.Module, str]:
    """Return the names of the norms that may be folded."""
    return {
        m: name
        for name, m in model.named_modules()
        if (_is_frozen(m) or _is_plain(m)) and not _hooked(m)
    }


def _is_plain(m: nn.Module) -> bool:
    return isinstance(m, _BatchNorm) and m.track_running_stats and type(m).forward in _PLAIN


def _is_norm(m: nn.Module) -> bool:
    return isinstance(m, _BatchNorm) or _is_frozen(m)


def _is_frozen(m: nn.Module) -> bool:
    numbers = [getattr(m, name, None) for name in ("weight", "bias", "running_mean", "running_var")]
    return (
        type(m).__name__ == _FROZEN
        and isinstance(getattr(m, "eps", None), float)  # others have their own in forward
        and all(isinstance(t, Tensor) for t in numbers)
    )


def _why_not(layer: nn.Module, output: Tensor) -> str | None:
    """Return why a norm cannot be folded into the layer that it follows; None: it can."""
    if isinstance(layer, _TRANSPOSED):
        kind = type(layer).__name__
        return f"follows a {kind}; norms fold into linear layers and Conv1d to Conv3d"
    if isinstance(layer, nn.Linear) and output.dim() != 2:
        return (
            f"scales dimension 1 of {tuple(output.shape)}, which a linear layer gives; its outputs "
            "are the last one, so that the norm folds only if it takes two dimensions"
        )
    return None


def _why_none(model: nn.Module, left: Mapping[str, str]) -> str:
    """Return why no norm can be folded; ``left``: norms that follow a layer, and why not these."""
    for name, why in left.items():
        return f"{name!r} {why}"
    for name, m in model.named_modules():
        if isinstance(m, _BatchNorm) and not m.track_running_stats:
            return f"{name!r} has no running statistics (track_running_stats=False) to be folded"
        if isinstance(m, _BatchNorm) and not _is_plain(m):
            return (
                f"{name!r} is a {type(m).__name__}, whose forward is its own and may compute more "
                "than the norm, such as an activation; make that a module behind a plain batch norm"
            )
    return "no batch norm follows a linear layer or convolution directly"


def _layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers that a norm may be folded into, and transposed convolutions."""
    held = Counter(id(p) for m in model.modules() for p in m._parameters.values())
    return [
        m
        for name, m in model.named_modules()
        if isinstance(m, (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED))
        and reason(model, name, m) is None
        and not _hooked(m)
        # other code of a subclass may lie between the product and the norm
        if overrides(kind_of(m), type(m)) is None
        if all(p is None or held[id(p)] == 1 for p in (m.weight, m.bias))  # or the tie would be cut
    ]


def _pairs(
    model: nn.Module, run: Callable[[nn.Module], Any]
) -> dict[str, tuple[nn.Module, Tensor]]:
    """Return each batch norm that alone takes the output of a layer, by name, with both of these.

    Norm and layer must be called once.
    """
    # outputs are kept, so that no two have the same id
    made: dict[int, tuple[nn.Module, Tensor, int]] = {}
    found: dict[str, tuple[nn.Module, Tensor, int]] = {}
    reads_by_norm: dict[nn.Module, int] = {}
    calls: Counter[nn.Module] = Counter()
    norms, layers, reads = _norms(model), _layers(model), _Reads()

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and id(inputs[0]) in made:
            reads_by_norm[module] = reads.of(inputs[0])

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] += 1
        if module not in norms:
            made[id(output)] = (module, output, reads.of(output))
        elif module in reads_by_norm:
            reads_by_norm[module] = reads.of(inputs[0]) - reads_by_norm[module]
            found[norms[module]] = made[id(inputs[0])]

    with hooked(layers, after=record), hooked(norms, before=enter, after=record), reads:
        result = run(model)
    reads.count(result)  # what is returned is used, too
    names = {name: m for m, name in norms.items()}
    pairs = {}
    for name, (layer, output, before) in found.items():
        norm = names[name]
        only_reader = reads.of(output) - before == reads_by_norm[norm]
        if calls[layer] == calls[norm] == 1 and only_reader:
            pairs[name] = (layer, output)
    return pairs


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
    """Return whether other code changes what the module is given or computes."""
    return "forward" in vars(module) or bool(module._forward_hooks or module._forward_pre_hooks)


def _compare(before: list[Tensor], after: list[Tensor], tolerance: float | None) -> None:
    """Raise ValueError if outputs differ; numbers that are not finite must be the same."""
    if len(before) != len(after):
        raise ValueError(
            f"fold_batch_norm: the model returned {len(before)} tensors, and then {len(after)}"
        )
    for a, b in zip(before, after, strict=True):
        allowed = max(1e-4, 4 * torch.finfo(a.dtype).eps) if tolerance is None else tolerance
        finite = a[a.isfinite()].abs()
        scale = finite.max().item() if finite.numel() else 0.0
        if a.shape != b.shape or not torch.allclose(a, b, 0.0, allowed * scale, equal_nan=True):
            worst = float("inf")
            if a.shape == b.shape:
                worst = (a - b).abs().max().item() / max(scale, 1e-30)
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
