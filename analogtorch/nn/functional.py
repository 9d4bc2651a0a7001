"""Analog layers as functions of their tensors, in the manner of ``torch.nn.functional``.

A call is a layer that lives for one forward, so that its numbers and gradients are those of the
layer with the same tensors.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from analogtorch.chips import Chip
from analogtorch.nn.conv import AnalogConv1d, AnalogConv2d, AnalogConv3d
from analogtorch.nn.converters import COLUMN_RANGES
from analogtorch.nn.linear import AnalogLinear
from analogtorch.nn.reborn import reborn
from analogtorch.values import checks

Sizes = int | Sequence[int]
Range = float | Tensor | None


_GEOMETRY = {"stride": 1, "padding": 0, "dilation": 1}
"""The smallest numbers of the geometry of a convolution."""
_PADDINGS = ("valid", "same")


class _Given(NamedTuple):
    """The arguments that all these functions have."""

    function: str
    x: Tensor
    weight: Tensor
    chip: Chip
    bias: Tensor | None
    input_range: Range
    adc_ranges: Range
    output_ranges: Range
    training: bool
    name: str


def analog_linear(
    x: Tensor,
    weight: Tensor,
    chip: Chip,
    *,
    bias: Tensor | None = None,
    input_range: Range = None,
    adc_ranges: Range = None,
    output_ranges: Range = None,
    training: bool = False,
    name: str = "",
) -> Tensor:
    """Compute ``x @ weight.T + bias`` on a chip, as ``analogtorch.nn.AnalogLinear`` does.

    Gradients reach ``x``, ``weight``, ``bias`` and a tensor ``input_range``. They are
    straight-through, and 0 where a converter clips. Training noise is drawn as in a layer: from
    torch's generator, so that ``torch.manual_seed`` or ``analogtorch.noise`` fixes it, and keyed by
    ``name``.

    Args:
        x: (*, inputs), floating point.
        weight: (outputs, inputs), of the type of ``x`` unless autocast chooses it.
        chip: the chip, with its tiles, converters and noise.
        bias: (outputs,), added digitally.
        input_range: DAC range in the units of ``x``: a number > 0, or a tensor of one number or of
            one for each row block, whose magnitudes count. None: the largest magnitude of each
            input vector.
        adc_ranges: ADC ranges in units of (full-scale input x weight scale), > 0: a number, or
            (row blocks, outputs). None: the ADC range of the chip.
        output_ranges: ranges in which the digital unit of a chip such as ``hermes64`` rounds, in
            the same units, > 0: a number, or (row blocks, outputs). None: ADC outputs are not
            rounded again.
        training: if True, with the noise of hardware-aware training, drawn anew in every call;
            otherwise with quantised inputs and outputs and without noise.
        name: key of the training noise: calls with different names have different noise. Errors
            mention it.

    Returns:
        (*, outputs), of the type of ``weight``.

    Raises:
        TypeError: an argument has another type.
        ValueError: the shapes do not fit, or a range is not positive.

    Example:
        >>> weight = torch.randn(10, 64, requires_grad=True)
        >>> y = analog_linear(torch.randn(2, 64), weight, at.chips.hermes64(), input_range=3.0)
        >>> y.sum().backward()
    """
    ranges = input_range, adc_ranges, output_ranges
    given = _Given("analog_linear", x, weight, chip, bias, *ranges, training, name)
    return _computed(AnalogLinear, given)


def analog_conv1d(
    x: Tensor,
    weight: Tensor,
    chip: Chip,
    *,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    input_range: Range = None,
    adc_ranges: Range = None,
    output_ranges: Range = None,
    training: bool = False,
    name: str = "",
) -> Tensor:
    """Compute ``torch.nn.functional.conv1d`` on a chip, as ``analogtorch.nn.AnalogConv1d`` does.

    Args:
        x: (N, channels, L) or (channels, L), floating point.
        weight: (outputs, channels / groups, taps).
        chip: see ``analog_linear``.
        bias: see ``analog_linear``.
        stride: see ``torch.nn.functional.conv1d``, also for the next three.
        padding: zeros on both sides, or ``"valid"`` or ``"same"``.
        dilation: distance of the taps.
        groups: number of groups of channels that are convolved separately.
        input_range: see ``analog_linear``; None: the largest magnitude of each sample.
        adc_ranges: see ``analog_linear``.
        output_ranges: see ``analog_linear``.
        training: see ``analog_linear``.
        name: see ``analog_linear``.

    Returns:
        (N, outputs, L') or (outputs, L').

    Raises:
        TypeError, ValueError: as ``analog_linear``.

    Example:
        >>> y = analog_conv1d(torch.randn(2, 4, 20), torch.randn(8, 4, 3), at.chips.hermes64())
    """
    ranges = input_range, adc_ranges, output_ranges
    given = _Given("analog_conv1d", x, weight, chip, bias, *ranges, training, name)
    return _computed(AnalogConv1d, given, (stride, padding, dilation), groups)


def analog_conv2d(
    x: Tensor,
    weight: Tensor,
    chip: Chip,
    *,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    input_range: Range = None,
    adc_ranges: Range = None,
    output_ranges: Range = None,
    training: bool = False,
    name: str = "",
) -> Tensor:
    """Compute ``torch.nn.functional.conv2d`` on a chip, as ``analogtorch.nn.AnalogConv2d`` does.

    Arguments, result and errors are those of ``analog_conv1d``, with ``x`` (N, channels, H, W) or
    (channels, H, W), and ``weight`` (outputs, channels / groups, taps, taps).

    Example:
        >>> x, weight = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
        >>> analog_conv2d(x, weight, at.chips.hermes64(), padding="same").shape
        torch.Size([2, 4, 8, 8])
    """
    ranges = input_range, adc_ranges, output_ranges
    given = _Given("analog_conv2d", x, weight, chip, bias, *ranges, training, name)
    return _computed(AnalogConv2d, given, (stride, padding, dilation), groups)


def analog_conv3d(
    x: Tensor,
    weight: Tensor,
    chip: Chip,
    *,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    input_range: Range = None,
    adc_ranges: Range = None,
    output_ranges: Range = None,
    training: bool = False,
    name: str = "",
) -> Tensor:
    """Compute ``torch.nn.functional.conv3d`` on a chip, as ``analogtorch.nn.AnalogConv3d`` does.

    Arguments, result and errors are those of ``analog_conv1d``, with ``x`` (N, channels, D, H, W)
    or (channels, D, H, W), and ``weight`` (outputs, channels / groups, taps, taps, taps).

    Example:
        >>> x, weight = torch.randn(1, 2, 5, 5, 5), torch.randn(4, 2, 3, 3, 3)
        >>> y = analog_conv3d(x, weight, at.chips.hermes64(), stride=2)
    """
    ranges = input_range, adc_ranges, output_ranges
    given = _Given("analog_conv3d", x, weight, chip, bias, *ranges, training, name)
    return _computed(AnalogConv3d, given, (stride, padding, dilation), groups)


def _computed(kind: Any, given: _Given, geometry: Sequence[Any] = (), groups: int = 1) -> Tensor:
    """Return the output of a layer of this ``kind`` with the given tensors."""
    _check(kind, given, groups)
    shape, has_bias = tuple(given.weight.shape), given.bias is not None
    fixed = _checked_geometry(given.function, geometry, len(shape) - 2)
    template = _template(kind, shape, has_bias, given.chip, given.name, fixed, groups)
    layer = reborn(template, kind)
    layer._parameters = {}
    vars(layer).update(weight=given.weight, bias=given.bias, training=given.training)
    vars(layer)["input_range"] = given.weight.new_zeros(1)
    input_range = given.input_range
    if input_range is None and not layer.takes_range:
        input_range = 1.0
    if input_range is not None:
        vars(layer)["input_range"] = _range(layer, input_range)
        layer.calibrated = True
    for name in COLUMN_RANGES:
        layer.set_column_ranges(name, getattr(given, name))
    return layer.forward(given.x)


@functools.lru_cache(maxsize=1024)
def _template(
    kind: Any,
    shape: tuple[int, ...],
    has_bias: bool,
    chip: Chip,
    name: str,
    geometry: tuple[Any, ...],
    groups: int,
) -> Any:
    """Return a layer without numbers, cached, as its executions take long to make."""
    outputs, channels, *kernel = shape
    sizes: dict[str, Any] = {}
    if kernel:
        stride, padding, dilation = geometry
        sizes = {"kernel_size": tuple(kernel), "stride": stride, "padding": padding}
        sizes |= {"dilation": dilation, "groups": groups}
    with torch.inference_mode(False):
        return kind(
            channels * groups, outputs, bias=has_bias, device="meta", chip=chip, name=name, **sizes
        )


def _checked_geometry(function: str, geometry: Sequence[Any], dims: int) -> tuple[Any, ...]:
    """Return stride, padding and dilation as text or numbers per dimension.

    Raises:
        ValueError: one of them is neither.
    """
    found: list[Any] = []
    for (name, least), value in zip(_GEOMETRY.items(), geometry, strict=False):
        if name == "padding" and isinstance(value, str) and value in _PADDINGS:
            found.append(value)
            continue
        each = tuple(value) if isinstance(value, Sequence) else (value,) * dims
        if len(each) != dims or not all(checks.is_integer(n) and n >= least for n in each):
            several = f", or a tuple of {dims} of them" if dims > 1 else ""
            words = ", 'valid' or 'same'" if name == "padding" else ""
            raise ValueError(
                f"{function}: {name} must be an integer >= {least}{several}{words}, got "
                f"{checks.shown(value)}"
            )
        found.append(tuple(map(int, each)))
    return tuple(found)


def _range(layer: Any, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        return layer.weight.new_tensor(layer.checked_ranges(value))
    if value.numel() not in (1, layer.row_blocks):
        raise ValueError(
            f"input_range of {layer.layer_name!r} must be one number, or one for each of its "
            f"{layer.row_blocks} row blocks, got shape {tuple(value.shape)}"
        )
    return value.reshape(-1)


def _check(kind: Any, given: _Given, groups: int) -> None:
    function = given.function
    tensors = {"x": given.x, "weight": given.weight}
    tensors |= {} if given.bias is None else {"bias": given.bias}
    for name, value in tensors.items():
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            raise TypeError(
                f"{function}: {name} must be a floating-point tensor, got {checks.shown(value)}"
            )
    weight, dims = given.weight, getattr(kind, "dims", 0)
    if weight.dim() != dims + 2 or weight.numel() == 0:
        form = "(outputs, inputs)" if dims == 0 else "(outputs, channels / groups, *kernel)"
        raise ValueError(
            f"{function}: weight must be {form} with {dims + 2} dimensions, none of them 0, got "
            f"shape {tuple(weight.shape)}"
        )
    if given.bias is not None and given.bias.shape != weight.shape[:1]:
        raise ValueError(
            f"{function}: bias must be ({weight.shape[0]},), one number for each output, got "
            f"shape {tuple(given.bias.shape)}"
        )
    checks.instance(f"{function}: chip", given.chip, Chip, "analogtorch.chips.hermes64()")
    checks.flag(f"{function}: training", given.training)
    if not isinstance(given.name, str):
        raise TypeError(f"{function}: name must be a text, got {checks.shown(given.name)}")
    if type(groups) is not int or groups < 1 or weight.shape[0] % groups:
        raise ValueError(
            f"{function}: groups must be an integer >= 1 that divides the {weight.shape[0]} "
            f"outputs, got {groups!r}"
        )
