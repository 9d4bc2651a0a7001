"""AnalogTorch and its peers behind one interface, each at the setting of ``benchmarks.registry``.

The setting is an 8-bit DAC with one learned range, Gaussian weight noise redrawn in every training
forward, and an 8-bit ADC per row tile. ``verify`` checks every library by what its layer computes,
not by the names of its options, so that all are timed for the same work. Peers are imported when
used; ``make bench-peers`` makes an environment that has them.
"""

import contextlib
import copy
import dataclasses
import importlib.metadata
import importlib.util
import io
from collections.abc import Callable

import torch
from torch import Tensor, nn

import analogtorch as at
from benchmarks.registry import BOUND, NOISE, Shape, chip


@dataclasses.dataclass(frozen=True)
class Library:
    """A way to make a layer analog."""

    package: str
    """Name of the distribution."""
    build: Callable[[nn.Module, Shape, float], nn.Module]
    """The analog twin of a digital layer (left as it is) whose DAC spans +- the given range."""

    @property
    def installed(self) -> bool:
        """Return whether it can be imported."""
        return importlib.util.find_spec(self.package.replace("-", "_")) is not None

    @property
    def version(self) -> str:
        """Return the version of the installed distribution."""
        return importlib.metadata.version(self.package)


def _analogtorch(layer: nn.Module, shape: Shape, limit: float) -> nn.Module:
    converted = at.convert(copy.deepcopy(layer), chip(shape))
    converted.set_input_range([limit] * converted.row_blocks if shape.by_tile else limit)
    if shape.by_tile:
        converted.set_adc_ranges(BOUND)
    return converted


def _aihwkit_lightning(layer: nn.Module, shape: Shape, limit: float) -> nn.Module:
    with contextlib.redirect_stdout(io.StringIO()):  # it prints when imported
        from aihwkit_lightning.nn.conversion import convert_to_analog
        from aihwkit_lightning.simulator.configs import (
            TorchInferenceRPUConfig,
            WeightNoiseInjectionType,
        )
    config = TorchInferenceRPUConfig()
    config.mapping.max_input_size = shape.rows
    config.forward.inp_res = 2**8 - 2
    if shape.adc:
        config.forward.out_res = 2**8 - 2
        config.forward.out_bound = BOUND
    config.modifier.noise_type = WeightNoiseInjectionType.ADD_NORMAL
    config.modifier.std_dev = NOISE
    ranges = config.pre_post.input_range
    ranges.enable, ranges.init_value, ranges.init_from_data = True, limit, 0
    return convert_to_analog(layer, config, ensure_analog_root=False)


def _aihwkit(
    layer: nn.Module, shape: Shape, limit: float, tiles: str = "TorchInferenceRPUConfig"
) -> nn.Module:
    from aihwkit.nn.conversion import convert_to_analog
    from aihwkit.simulator import configs
    from aihwkit.simulator.parameters.enums import (
        BoundManagementType,
        NoiseManagementType,
        WeightModifierType,
    )

    config = getattr(configs, tiles)()
    config.mapping.max_input_size, config.mapping.max_output_size = shape.rows, 512
    config.mapping.weight_scaling_omega = 1.0  # the largest weight of a tile is full conductance
    forward = config.forward
    forward.inp_res = 1 / (2**8 - 2)
    forward.out_res = 1 / (2**8 - 2) if shape.adc else -1
    forward.out_bound = BOUND if shape.adc else -1
    forward.out_noise = forward.w_noise = 0.0
    forward.bound_management, forward.noise_management = (
        BoundManagementType.NONE,
        NoiseManagementType.NONE,
    )
    config.modifier.type, config.modifier.std_dev = WeightModifierType.ADD_NORMAL, NOISE
    config.drift_compensation = None
    ranges = config.pre_post.input_range
    ranges.enable, ranges.init_value, ranges.init_from_data = True, limit, 0
    return convert_to_analog(layer, config, ensure_analog_root=False)


def _aihwkit_cpp(layer: nn.Module, shape: Shape, limit: float) -> nn.Module:
    module = _aihwkit(layer, shape, limit, tiles="InferenceRPUConfig")

    def redraw(module: nn.Module, _: object) -> None:
        # these tiles draw the weight noise when their own optimizer steps, which is done here
        # before every forward
        if module.training:
            for tile in module.analog_tiles():
                tile.post_update_step()

    module.register_forward_pre_hook(redraw)
    return module


OURS = Library("analogtorch", _analogtorch)
PEERS = {
    "aihwkit_lightning": Library("aihwkit-lightning", _aihwkit_lightning),
    "aihwkit_torch": Library("aihwkit", _aihwkit),
    "aihwkit_cpp": Library("aihwkit", _aihwkit_cpp),
}
"""Peers by the name that their columns start with; aihwkit has tiles in torch and, by default,
tiles in C++."""
INSTALL = "make bench-peers"
"""What installs the peers, and runs the benchmark with them."""


class OtherSetting(Exception):
    """A library's layer does not compute what the benchmark's setting says."""


def _require(holds: bool | Tensor, claim: str) -> None:
    if not holds:
        raise OtherSetting(f"not so: {claim}")


def verify(library: Library, shape: Shape) -> None:
    """Check that a library fits the setting of ``shape``, on a small linear layer of two row tiles.

    Raises:
        OtherSetting: with the claim that does not hold.
    """
    generator = torch.Generator().manual_seed(0)
    inputs, largest = 2 * shape.rows, 0.1
    layer = nn.Linear(inputs, 16, bias=False)
    with torch.no_grad():
        layer.weight.normal_(0, 0.2 * largest, generator=generator).clamp_(-largest, largest)
        layer.weight[0, :: shape.rows] = largest  # both tiles have the same scale
    steps = 2**7 - 1
    x = torch.randint(-steps, steps + 1, (64, inputs), generator=generator) / steps
    jitter = (torch.rand(x.shape, generator=generator) - 0.5) * 0.8 / steps
    module = library.build(layer, shape, 1.0)
    adc_step = 2 * BOUND * largest / (2**8 - 2)
    noise = NOISE * largest * x.square().sum(1, keepdim=True).sqrt()

    module.eval()
    with torch.no_grad():
        y = module(x)
        _require(torch.equal(y, module(x)), "evaluation is deterministic")
        tolerance = 1e-4 * largest if not shape.adc else 0.01 * adc_step
        same = ((module((x + jitter).clamp(-1, 1)) - y).abs() < tolerance).float().mean()
        _require(
            same > 0.99,
            f"inputs are rounded to 8 bits (got {same:.1%} of the outputs through a jitter)",
        )
        moved = ((module((x + 1 / steps).clamp(-1, 1)) - y).abs() > tolerance).float().mean()
        _require(
            moved > 0.3, f"inputs have 8 bits, not fewer (a step moved {moved:.1%} of the outputs)"
        )
        off = (y / adc_step - (y / adc_step).round()).abs().max()
        _require(
            (off < 0.01) == shape.adc,
            f"outputs are {'' if shape.adc else 'not '}rounded to 8 bits (off {off:.2g})",
        )
        exact = layer(x)
        _require(
            (y - exact).abs().max() < (1.01 * adc_step if shape.adc else tolerance),
            "else, the product is exact",
        )
    if shape.adc:
        _verify_tiles(library, shape, largest, adc_step)

    module.train()
    first, second = module(x), module(x)
    spread = ((first - second).detach() / noise).std() / 2**0.5
    # what the ADC's rounding adds to it is within the tolerance
    _require(
        (spread - 1).abs() < 0.15,
        f"weight noise of {NOISE} is redrawn in every forward (got {spread * NOISE:.3g})",
    )
    for p in module.parameters():
        p.grad = None
    clipped = (2 * x).requires_grad_()
    module(clipped).square().sum().backward()
    _require(clipped.grad is not None and clipped.grad.any(), "the input has a gradient")
    grads = [p.grad for p in module.parameters() if p.grad is not None and p.grad.any()]
    ranges = [g for g in grads if g.numel() <= 2]  # one for the layer or for each tile
    _require(
        sum(g.numel() for g in grads if g.numel() > 2) == layer.weight.numel(),
        "the whole weight has a gradient",
    )
    _require(len(ranges) > 0, "the DAC range learns")


def _verify_tiles(library: Library, shape: Shape, largest: float, adc_step: float) -> None:
    layer = nn.Linear(2 * shape.rows, 16, bias=False)
    nn.init.constant_(layer.weight, largest)
    module = library.build(layer, shape, 1.0).eval()
    with torch.no_grad():
        y = module(torch.ones(4, 2 * shape.rows))
    bound = 2 * BOUND * largest
    _require(
        (y - bound).abs().max() < adc_step,
        f"two tiles of {shape.rows} rows saturate at {bound}, got {y.max():.3g}",
    )
