"""Fix each layer's DAC range from the inputs it meets."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from tqdm import tqdm

from analogtorch.convert import analog_layers, refuse_programmed
from analogtorch.nn import AnalogLayer

Method = Literal["mse", "percentile", "absmax"]

_PER_OCTAVE = 32
_OCTAVES, _LOWEST = 192, -64  # 2^-64 .. 2^128, all that float32 holds; smaller magnitudes count as 2^-64


@torch.no_grad()
def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    method: Method = "mse",
    percentile: float = 99.9,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    progress: bool = False,
) -> nn.Module:
    """Set the input range of every analog layer from the inputs it meets, in evaluation mode and without noise.

    Also the check that nothing bypasses the analog layers: one that never ran is an error. Training mode, weights and
    random state of the model are as before; calibrating again replaces the ranges.

    Args:
        model: a converted model.
        batches: inputs, read once. A tensor is passed to the model, of a tuple or list its first element, and a
            mapping as keyword arguments.
        method: ``mse`` minimises the mean squared error of clipping and rounding; ``percentile`` takes that percentile
            of the magnitudes; ``absmax`` the largest one. Magnitudes are collected in bins 2.2 % wide.
        percentile: for ``method="percentile"``, in (0, 100].
        forward: runs the model on a batch, ``forward(model, batch)``, where the rule above does not fit.
        progress: show a progress bar.

    Returns:
        The model.

    Raises:
        ValueError: no analog layer, no batches, a layer that never ran or whose inputs are all zero, a NaN or infinity
            in the inputs of a layer, or an unknown method. The ranges are unchanged.
    """
    layers = {name: layer for name, layer in analog_layers(model) if layer.takes_range}
    if not layers:
        raise ValueError(
            "calibrate: the model has no analog layer with an input range; call analogtorch.convert(model, chip) first"
        )
    refuse_programmed(model, "calibrate")
    if meta := [name for name, layer in layers.items() if layer.weight.is_meta]:
        raise ValueError(f"calibrate: layer {meta[0]!r} is on the meta device; load weights first")
    if method not in get_args(Method):
        raise ValueError(f"calibrate: method must be one of {get_args(Method)}, got {method!r}")
    if not 0 < percentile <= 100:
        raise ValueError(f"calibrate: percentile must lie in (0, 100], got {percentile}")
    records = _observe(model, layers, batches, forward or _run, progress)
    ranges = {}
    for name, layer in layers.items():
        record = records[name]
        if record.largest == 0:
            raise ValueError(f"calibrate: layer {name!r} met only zeros; use batches of real data")
        ranges[name] = record.input_range(method, percentile, layer.chip.input_bits)
    for name, layer in layers.items():
        layer.set_input_range(ranges[name])
    return model


class _Record:
    """Histogram of the magnitudes that one layer met."""

    def __init__(self) -> None:
        self.counts = torch.zeros(_PER_OCTAVE * _OCTAVES, dtype=torch.float64)
        self.zeros = 0
        self.largest = 0.0

    def add(self, x: Tensor) -> None:
        x = x.detach().abs().flatten().float()
        positive = x[x > 0]
        self.zeros += x.numel() - positive.numel()
        if positive.numel():
            self.largest = max(self.largest, positive.max().item())
            bins = ((positive.log2() - _LOWEST) * _PER_OCTAVE).floor().clamp(0, self.counts.numel() - 1)
            self.counts += torch.bincount(bins.long(), minlength=self.counts.numel()).cpu()

    def input_range(self, method: str, percentile: float, bits: int | None) -> float:
        if method == "absmax" or bits is None:
            return self.largest
        edges = 2.0 ** (torch.arange(1, self.counts.numel() + 1, dtype=torch.float64) / _PER_OCTAVE + _LOWEST)
        if method == "percentile":
            reached = self.zeros + self.counts.cumsum(0) >= percentile / 100 * (self.zeros + self.counts.sum())
            return min(edges[int(reached.nonzero()[0])].item(), self.largest)
        return self._least_error(edges, bits)

    def _least_error(self, edges: Tensor, bits: int) -> float:
        """The bin edge with the least squared error: uniform rounding inside, distance to the edge outside."""
        middle = edges * 2 ** (-0.5 / _PER_OCTAVE)
        used = self.counts.nonzero().squeeze(1)
        candidates = edges[max(0, int(used[0])) : int(used[-1]) + 1].clamp_max(self.largest)
        inside = self.counts.cumsum(0)[max(0, int(used[0])) : int(used[-1]) + 1]
        rounding = inside * (candidates / (2 ** (bits - 1) - 1)).square() / 12
        excess = (middle[used].unsqueeze(0) - candidates.unsqueeze(1)).clamp_min(0).square()
        clipping = (excess * self.counts[used]).sum(1)
        return candidates[int((rounding + clipping).argmin())].item()


def _observe(
    model: nn.Module,
    layers: dict[str, AnalogLayer],
    batches: Iterable[Any],
    forward: Callable[[nn.Module, Any], Any],
    progress: bool,
) -> dict[str, _Record]:
    records: dict[str, _Record] = {name: _Record() for name in layers}
    ran: set[str] = set()

    def observer(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            x = args[0] if args else kwargs["input"]
            if not math.isfinite(x.abs().sum().item()) and not torch.isfinite(x).all():
                raise ValueError(f"calibrate: the input of layer {name!r} has NaN or infinite values")
            records[name].add(x)
            ran.add(name)

        return hook

    modes = {m: m.training for m in model.modules()}
    calibrated = {layer: layer.calibrated for layer in layers.values()}
    hooks = [layer.register_forward_pre_hook(observer(n), with_kwargs=True) for n, layer in layers.items()]
    try:
        model.eval()
        for layer in calibrated:
            layer.calibrated = False  # else the ranges found now would depend on the ones before
        count = 0
        for batch in tqdm(batches, desc="calibrate", unit="batch", disable=not progress):
            forward(model, batch)
            count += 1
    finally:
        for handle in hooks:
            handle.remove()
        for module, training in modes.items():
            module.training = training
        for layer, was in calibrated.items():
            layer.calibrated = was
    if count == 0:
        raise ValueError("calibrate: batches is empty; pass at least one batch of inputs")
    if silent := [n for n in layers if n not in ran]:
        raise ValueError(
            f"calibrate: {len(silent)} of {len(layers)} analog layers never ran: {', '.join(map(repr, silent[:5]))}. "
            "Either the batches do not reach them, or the model uses their weights without calling them; "
            "leave them digital with convert(..., exclude=...)"
        )
    return records


def _run(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return model(batch)
    if isinstance(batch, (tuple, list)) and batch:
        return model(batch[0])
    if isinstance(batch, dict):
        return model(**batch)
    raise TypeError(
        f"calibrate: a batch must be a tensor, a tuple, a list or a dict, got {type(batch).__name__}; pass forward="
    )
