"""One battery for every analog layer and option, against the digital layer and a reference."""

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import analogtorch as at
from tests.crossbar import crossbar
from tests.nn.layers import Case, cases

# nn.Conv1d's own
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")

CASES = cases()
SMALL = {"rows": 24, "columns": 5}
"""A tile so small that every case needs several row and column blocks, and some kernels are cut
inside."""


def _chip(**parts: Any) -> at.Chip:
    return crossbar(array=SMALL).replace(**parts)


def _convert(case: Case, chip: at.Chip) -> nn.Module:
    return at.convert(copy.deepcopy(case.layer), chip)


def _each_case(function):  # type: ignore[no-untyped-def]
    return pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)(function)


@_each_case
def test_ideal_chip_equals_digital(case: Case) -> None:
    layer = _convert(case, at.chips.ideal())
    for mode in (True, False):
        assert torch.equal(layer.train(mode)(case.x), case.layer(case.x))


@_each_case
@pytest.mark.parametrize("grouped", ["sequential", "block_diagonal"])
@pytest.mark.parametrize("calibrated", [True, False])
def test_blocks_add_up_to_the_digital_layer(case: Case, grouped: str, calibrated: bool) -> None:
    layer = _convert(
        case, _chip(array={"grouped": grouped}, dac={"bits": 16}, adc={"range": 40.0, "bits": 16})
    ).eval()
    if calibrated:
        layer.set_input_range(case.x.abs().max().item())
    expected = case.layer(case.x)
    # 16 bits over +-40 units of (range x weight scale) leave steps of 1e-3 of a unit per block
    assert torch.allclose(layer(case.x), expected, atol=6e-3 * expected.abs().max().item() + 1e-3)


@_each_case
def test_state_dict_is_the_digital_layers(case: Case) -> None:
    layer = _convert(case, _chip())
    assert list(layer.state_dict()) == list(case.layer.state_dict())
    layer.load_state_dict(case.layer.state_dict(), strict=True)
    copy.deepcopy(case.layer).load_state_dict(layer.state_dict(), strict=True)


@_each_case
def test_gradients_are_those_of_the_noisy_function(case: Case) -> None:
    layer = _convert(case, _chip(dac={"bits": None}, adc={"noise": 0.0, "bits": None})).double()
    x = case.x.double().requires_grad_()
    torch.manual_seed(1)
    y = layer(x)
    y.square().sum().backward()
    torch.manual_seed(1)
    step = 1e-3
    with torch.no_grad():  # a step along the gradient of x changes the loss by step * |gradient|^2
        moved = layer(x + step * x.grad / x.grad.norm()).square().sum()
    assert ((moved - y.square().sum()) / step).item() == pytest.approx(
        x.grad.norm().item(), rel=0.02
    )


@_each_case
def test_training_noise_follows_the_seed_and_eval_has_none(case: Case) -> None:
    layer = _convert(case, _chip())
    torch.manual_seed(3)
    a, b = layer(case.x), layer(case.x)
    torch.manual_seed(3)
    assert torch.equal(layer(case.x), a)
    assert not torch.equal(a, b)
    layer.eval()
    assert torch.equal(layer(case.x), layer(case.x))


@_each_case
def test_to_digital_gives_back_the_same_layer(case: Case) -> None:
    digital = copy.deepcopy(case.layer)
    back = at.to_digital(at.convert(digital, _chip()))
    assert type(back) is type(case.layer)
    assert back.weight is digital.weight
    assert dict(back.named_parameters()).keys() == dict(digital.named_parameters()).keys()
    assert torch.equal(back(case.x), case.layer(case.x))


@_each_case
def test_empty_batch_gives_an_empty_output(case: Case) -> None:
    batched = not case.name.endswith(("unbatched", "_1d"))
    x = (case.x if batched else case.x.unsqueeze(0))[:0]
    for mode in (True, False):
        assert _convert(case, _chip()).train(mode)(x).shape == case.layer(x).shape


@_each_case
def test_non_contiguous_input(case: Case) -> None:
    layer = _convert(case, _chip()).eval()
    strided = case.x.transpose(0, -1).contiguous().transpose(0, -1)
    assert torch.allclose(layer(strided), layer(case.x), atol=1e-5)


@_each_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(case: Case, dtype: torch.dtype) -> None:
    layer = _convert(case, _chip()).to(dtype)
    for mode in (True, False):
        y = layer.train(mode)(case.x.to(dtype))
        assert y.dtype == dtype
        assert y.isfinite().all()


@_each_case
def test_autocast_returns_the_autocast_type(case: Case) -> None:
    layer = _convert(case, _chip())
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(case.x).dtype == torch.bfloat16


@_each_case
def test_zero_weights_and_zero_input_give_the_bias(case: Case) -> None:
    layer = _convert(case, _chip(adc={"noise": 0.0}))
    nn.init.zeros_(layer.weight)
    zero = case.layer.__class__.forward(layer.eval(), torch.zeros_like(case.x))
    for x in (case.x, torch.zeros_like(case.x)):
        assert torch.equal(layer.eval()(x), zero)
        assert layer.train()(x).isfinite().all()


@pytest.mark.parametrize(
    "case", [c for c in CASES if not c.name.endswith(("unbatched", "_1d"))], ids=lambda c: c.name
)
def test_nan_in_a_sample_stays_in_that_sample_and_is_not_hidden(case: Case) -> None:
    layer = _convert(case, _chip()).eval()
    x = case.x.clone()
    x[0] = float("nan")
    y = layer(x)
    assert y[0].isnan().all()
    assert torch.equal(y[1:], layer(case.x)[1:])


def _reference(x: Tensor, layer: nn.Module, chip: at.Chip, full_scale: float) -> Tensor:
    """Compute the MVM by its definition over unfolded patches, one loop per block.

    It is slow and obviously right, without groups.
    """
    weight = layer.weight.flatten(1)
    if isinstance(layer, nn.Conv2d):
        patches = F.unfold(
            x, layer.kernel_size, layer.dilation, layer.padding, layer.stride
        ).transpose(1, 2)
    else:
        patches = x
    steps_in, steps_out = 2 ** (chip.dac.bits - 1) - 1, 2 ** (chip.adc.bits - 1) - 1
    codes = (patches.clamp(-full_scale, full_scale) / full_scale * steps_in).round() / steps_in
    per_kernel = weight.shape[1] // layer.weight.shape[1]
    height = chip.array.rows // per_kernel * per_kernel
    out = torch.zeros(*patches.shape[:-1], weight.shape[0])
    for r in range(0, weight.shape[1], height):
        for c in range(0, weight.shape[0], chip.array.columns):
            block = weight[c : c + chip.array.columns, r : r + height]
            scale = (
                block.abs().amax(1)
                if chip.periphery.weight_scale == "column"
                else block.abs().max()
            )
            current = (
                codes[..., r : r + height]
                @ (block / (scale.unsqueeze(1) if scale.dim() else scale)).T
            )
            reading = (
                current.clamp(-chip.adc.range, chip.adc.range) / chip.adc.range * steps_out
            ).round()
            out[..., c : c + chip.array.columns] += (
                reading / steps_out * chip.adc.range * scale * full_scale
            )
    out = out + layer.bias
    if isinstance(layer, nn.Conv2d):
        return out.transpose(1, 2).unflatten(2, layer(x).shape[2:])
    return out


@pytest.mark.parametrize("name", ["linear", "conv2d", "conv2d_rectangular"])
@pytest.mark.parametrize("weight_scale", ["block", "column"])
@pytest.mark.parametrize("bound", [12.0, 0.8])
def test_against_the_explicit_product(name: str, weight_scale: str, bound: float) -> None:
    case = next(c for c in CASES if c.name == name)
    chip = _chip(adc={"range": bound}, periphery={"weight_scale": weight_scale})
    layer = _convert(case, chip).eval()
    layer.set_input_range(1.3)
    expected = _reference(case.x, case.layer, chip, 1.3)
    got = layer(case.x)
    # a reading may fall on the other side of a rounding boundary by float error: one step of one
    # block at most, rarely
    step = bound / 127 * 1.3 * case.layer.weight.abs().max().item()
    assert (got - expected).abs().max() <= step * 1.01
    assert ((got - expected).abs() > 1e-4).float().mean() < 0.01


def test_clipping_and_saturation_stop_the_gradient() -> None:
    layer = at.convert(
        nn.Linear(4, 1, bias=False),
        _chip(adc={"range": 1.0}, training=at.TrainingNoise(weight="none")),
    )
    nn.init.ones_(layer.weight)
    layer.set_input_range(1.0)
    layer.chip = layer.chip.replace(adc={"noise": 0.0})
    x = torch.tensor([[0.2, 0.2, 5.0, -0.5], [1.0, 1.0, 1.0, 1.0]], requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad[0].tolist() == [1.0, 1.0, 0.0, 1.0]  # clipped by the DAC
    assert x.grad[1].tolist() == [0.0] * 4  # saturates the ADC


def test_training_noise_has_the_declared_size() -> None:
    torch.manual_seed(0)
    chip = crossbar(training=at.TrainingNoise(weight="gaussian", scale=0.05, output=False))
    chip = chip.replace(dac={"bits": None}, adc={"bits": None})
    layer = at.convert(nn.Linear(256, 256, bias=False), chip)
    noise = layer(torch.eye(256)).T - layer.weight
    # 65,536 draws: the standard error of the std is 0.3 %
    assert noise.std().item() == pytest.approx(0.05 * layer.weight.abs().max().item(), rel=0.015)
    layer.chip = dataclasses.replace(
        chip, training=at.TrainingNoise(weight="programming", scale=2.0, output=False)
    )
    unit = (layer(torch.eye(256)).T - layer.weight) / layer.weight.abs().max()
    r = layer.weight / layer.weight.abs().max()
    expected = 2 * chip.cell.programming_sigma(r)
    assert (unit / expected).std().item() == pytest.approx(1.0, rel=0.015)


def test_a_cell_that_no_kernel_knows_trains_with_the_same_noise() -> None:
    chip = crossbar(array={"rows": 24, "columns": 9}, adc={"noise": 0.0, "bits": None})
    curve = chip.cell.device.programming_std
    same = dataclasses.replace(
        chip.cell.device, programming_std=at.devices.Piecewise(split=0.5, below=curve, above=curve)
    )
    unknown = dataclasses.replace(chip, cell=at.devices.DifferentialPair(device=same))
    assert unknown.cell.spread is None
    exact = dataclasses.replace(chip, training=at.TrainingNoise(weight="none"))
    x, results = torch.randn(4, 50), []
    for which in (exact, chip, unknown):
        torch.manual_seed(0)
        layer = at.convert(nn.Linear(50, 20), which)
        torch.manual_seed(1)
        y = layer(x)
        y.square().sum().backward()
        results.append((y.detach(), layer.weight.grad))
    # kernels know the size of the noise to 1.4 %
    for clean, closed, drawn in zip(*results, strict=True):
        assert 0 < (closed - drawn).norm() < 0.014 * (drawn - clean).norm()


def test_another_chip_may_be_assigned() -> None:
    layer, x = at.convert(nn.Linear(50, 20), crossbar()).eval(), torch.randn(4, 50)
    layer.chip = at.chips.ideal()
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    held = next(
        m
        for m in at.program(nn.Sequential(layer), seed=1).at("1 day").modules()
        if hasattr(m, "chip")
    )
    with pytest.raises(RuntimeError, match="programmed chip"):
        held.chip = crossbar()


def test_ranges_that_another_chip_was_calibrated_for_are_warned_of() -> None:
    model, x = nn.Sequential(nn.Linear(40, 4)), torch.randn(16, 40)
    at.calibrate(at.convert(model, crossbar()), [x])
    model[0].chip = model[0].chip.replace(adc={"bits": None})  # the same chip
    ranges = model[0].input_ranges
    with pytest.warns(UserWarning, match=r"'0' was calibrated on 'crossbar', and .* on 'ideal'.*"):
        model[0].chip = at.chips.ideal()
    assert model[0].input_ranges == ranges
    model[0].forget_input_range()
    model[0].set_output_ranges(None)
    model[0].chip = crossbar()


def test_dac_ranges_for_other_row_blocks_are_named() -> None:
    layer, x = (
        at.convert(nn.Sequential(nn.Linear(40, 4)), crossbar(array={"rows": 10}))[0],
        torch.ones(2, 40),
    )
    layer.set_input_range([1.0, 2.0, 3.0, 4.0])
    layer.chip = crossbar(array={"rows": 20})
    message = r"'0' has DAC ranges for 4 row blocks, and 2 on the chip it was put on since"
    with pytest.raises(RuntimeError, match=message):
        layer(x)
    layer.set_input_range([1.0, 2.0])
    layer(x)


def test_an_input_of_another_type_is_refused() -> None:
    layer = at.convert(nn.Linear(4, 4), crossbar())
    with pytest.raises(TypeError, match=r"float32 weights and got a torch.float64 input.*autocast"):
        layer(torch.zeros(1, 4, dtype=torch.float64))
    elsewhere = torch.zeros(1, 4, device="meta")
    with pytest.raises(TypeError, match=r"is on cpu and got an input on meta: .*\.to\(device\)"):
        layer(elsewhere)
    with pytest.raises(TypeError, match="is on meta and got an input on cpu"):
        copy.deepcopy(layer).to("meta")(torch.zeros(1, 4))


def _nested(layout: torch.layout) -> Tensor:
    return torch.nested.nested_tensor([torch.ones(3, 4), torch.ones(2, 4)], layout=layout)


@pytest.mark.filterwarnings("ignore:(The PyTorch API of nested|Sparse CSR):UserWarning")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: _nested(torch.jagged), r"takes no nested tensors; .*to_padded_tensor"),
        (lambda: _nested(torch.strided), r"takes no nested tensors; .*to_padded_tensor"),
        (
            lambda: torch.eye(4).to_sparse(),
            r"takes dense tensors, got layout torch.sparse_coo.*to_dense",
        ),
        (lambda: torch.eye(4).to_sparse_csr(), r"takes dense tensors, got layout torch.sparse_csr"),
        (lambda: None, r"takes a tensor, got None"),
        (lambda: [1.0] * 4, r"takes a tensor, got \[1.0, .*torch.as_tensor"),
        (lambda: np.ones(4), r"takes a tensor, got array.*torch.as_tensor"),
    ],
    ids=["jagged", "nested", "sparse", "csr", "none", "list", "numpy"],
)
@pytest.mark.parametrize(
    "layer", [nn.Linear(4, 4), nn.Conv1d(4, 4, 1), nn.ConvTranspose1d(4, 4, 1)], ids=repr
)
def test_an_input_that_is_no_dense_tensor_is_refused(layer: nn.Module, given, message: str) -> None:
    net = at.convert(nn.Sequential(copy.deepcopy(layer)), at.chips.hermes64())
    for model in (net, at.program(net, seed=1).at("0 s")):
        with pytest.raises(TypeError, match=f"layer '0' {message}"):
            model(given())


@pytest.mark.filterwarnings("ignore:(The PyTorch API of nested|Sparse CSR):UserWarning")
@pytest.mark.parametrize("given", [Tensor.to_sparse, Tensor.to_sparse_csr])
def test_an_exact_layer_takes_what_the_digital_one_takes(given) -> None:
    layer, x = nn.Linear(4, 4), given(torch.eye(4))
    expected = layer(x)
    assert torch.equal(at.convert(nn.Sequential(layer), at.chips.ideal())(x), expected)


def test_a_forward_computes_a_parametrized_weight_as_often_as_it_did() -> None:
    class Counted(nn.Module):
        calls = 0

        def forward(self, weight: Tensor) -> Tensor:
            self.calls += 1
            return weight

    net = at.convert(nn.Sequential(nn.Linear(4, 4)), at.chips.ideal())
    counted = Counted()
    nn.utils.parametrize.register_parametrization(net[0], "weight", counted)
    counted.calls = 0
    net(torch.ones(2, 4))
    assert counted.calls == 3  # shape, type and product
    net.double()
    assert counted.calls == 3


def test_output_noise_is_added_per_row_block() -> None:
    chip = _chip(
        array={"rows": 16, "columns": 64},
        dac={"bits": None},
        adc={"noise": 0.1, "bits": None},
        training=at.TrainingNoise(weight="none"),
    )
    layer = at.convert(nn.Linear(64, 64, bias=False), chip)
    nn.init.ones_(layer.weight)
    layer.set_input_range(2.0)
    noise = layer(torch.zeros(500, 64))
    # four blocks, full scale 2, weight scale 1; 32,000 draws
    assert noise.std().item() == pytest.approx(0.1 * 2 * 2, rel=0.02)


def test_input_range_learns_from_what_it_clips() -> None:
    torch.manual_seed(0)
    layer = at.convert(nn.Linear(8, 4), crossbar())
    layer.set_input_range(0.1)
    x, target = torch.randn(256, 8), None
    target = F.linear(x, layer.weight, layer.bias).detach()
    optimizer = torch.optim.Adam([layer.input_range], lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        (layer(x) - target).square().mean().backward()
        optimizer.step()
    assert layer.input_range.item() > 1.5


@pytest.mark.parametrize("made", [tuple, torch.tensor, np.array, lambda v: [*torch.tensor(v)]])
def test_row_blocks_take_their_ranges_from_tensors_and_arrays_too(made) -> None:
    layer = at.convert(nn.Linear(16, 2), crossbar(array={"rows": 8}))
    layer.set_input_range(made([1.0, 2.0]))
    assert layer.input_range.tolist() == [1.0, 2.0]
    layer.set_input_range(made([3.0])[0])
    assert layer.input_range.tolist() == [3.0]


@pytest.mark.parametrize(
    "value", [0.0, -1.0, float("nan"), float("inf"), None, "abc", [None], torch.ones(2, 2)]
)
def test_bad_input_range_is_refused(value: float) -> None:
    layer = at.convert(nn.Linear(2, 2), crossbar())
    with pytest.raises(ValueError, match="must be a positive finite number"):
        layer.set_input_range(value)
    assert not layer.calibrated


def test_activation_checkpointing_recomputes_the_same_noise() -> None:
    from torch.utils.checkpoint import checkpoint

    def gradient(checkpointed: bool) -> Tensor:
        torch.manual_seed(0)
        model = at.convert(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), crossbar())
        x = torch.randn(4, 8)
        torch.manual_seed(9)
        y = checkpoint(model, x, use_reentrant=False) if checkpointed else model(x)
        y.square().sum().backward()
        return model[0].weight.grad

    assert torch.equal(gradient(True), gradient(False))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(300, 4), (2, 400)),
        (nn.Linear(300, 4), (2, 299)),
        (nn.Conv2d(64, 4, 3), (1, 70, 5, 5)),
        (nn.Conv2d(64, 4, 3), (1, 1, 64, 5, 5)),
        (nn.Conv1d(6, 4, 3), (2, 5, 9)),
    ],
)
def test_inputs_of_another_shape_are_refused(layer: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"layer '' takes .* inputs.* got shape"):
        at.convert(layer, crossbar())(torch.randn(*shape))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")  # from inside torch.func.jvp
def test_forward_mode_and_functional_gradients_are_refused_not_zero() -> None:
    layer = at.convert(nn.Linear(4, 3), crossbar()).eval()
    x = torch.randn(2, 4)
    with pytest.raises(NotImplementedError, match="forward-mode AD"):
        torch.func.jvp(layer, (x,), (x,))
    with pytest.raises(NotImplementedError, match="torch.func.grad"):
        torch.func.grad(lambda x: layer(x).sum())(x)
    assert torch.func.functional_call(layer, dict(layer.named_parameters()), (x,)).shape == (2, 3)


@pytest.mark.parametrize("slices", [{}, {"weight_bits": 6, "bits_per_slice": 2}])
def test_hessians_are_refused_not_zero(slices: dict) -> None:
    layer = at.convert(nn.Linear(8, 4), crossbar(slices=slices)).eval()
    with pytest.raises(NotImplementedError, match=r"to_digital\(copy\.deepcopy\(model\)\)"):
        torch.autograd.functional.hessian(lambda x: layer(x).square().sum(), torch.randn(2, 8))
    (g,) = torch.autograd.grad(layer(torch.randn(2, 8)).sum(), layer.weight, create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiable once"):
        torch.autograd.grad(g.square().sum(), layer.weight)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_vmap_over_noise_is_refused() -> None:
    layer, x = at.convert(nn.Linear(4, 4), crossbar()), torch.randn(2, 3, 4)
    for module in (layer.train(), at.program(nn.Sequential(layer), seed=1).at("1 day")):
        with pytest.raises(NotImplementedError, match="one batch that holds all"):
            torch.vmap(module)(x)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("call", [at.calibrate, at.correct_columns])
def test_a_look_at_inputs_under_vmap_is_refused(call: Any) -> None:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.vmap(self.layer)(x)

    model, x = at.convert(Mapped().eval(), at.chips.hermes64()), torch.randn(3, 4)
    if call is at.correct_columns:
        model = at.program(model, seed=1).at("1 day")
    why = "'layer': under torch.vmap a tap, .* all instances, or .*exclude='layer'"
    with pytest.raises(NotImplementedError, match=why):
        call(model, [x])
    assert model(x).shape == (3, 4)


def test_inference_mode_leaves_nothing_behind() -> None:
    digital = nn.Sequential(nn.Linear(4, 4))
    with torch.inference_mode():
        layer = at.convert(digital, crossbar())
        programmed = at.program(layer, seed=1).at("1 day")
    at.calibrate(layer, [torch.randn(3, 4)], method="absmax")
    layer(torch.randn(3, 4)).sum().backward()
    assert layer[0].input_range.grad is not None
    with torch.no_grad():
        # it counts on
        assert not torch.equal(programmed(torch.ones(1, 4)), programmed(torch.ones(1, 4)))


def test_meta_and_double_follow_torch_under_autocast() -> None:
    layer = at.convert(nn.Linear(4, 3), crossbar())
    assert layer.to("meta")(torch.zeros(2, 4, device="meta")).shape == (2, 3)
    double = at.convert(nn.Linear(4, 3, dtype=torch.float64), crossbar())
    with torch.autocast("cpu", torch.bfloat16):
        assert double(torch.randn(2, 4, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.filterwarnings(
    "ignore:There is a performance drop because we have not yet implemented:UserWarning"
)
def test_vmap_gives_the_batched_numbers() -> None:
    layer = at.convert(nn.Linear(4, 3), crossbar()).eval()
    x = torch.randn(5, 4)
    assert torch.allclose(torch.vmap(layer)(x), layer(x), atol=1e-6)


@pytest.mark.parametrize("value", [1e-9, 1e5])
def test_a_range_that_half_precision_cannot_hold_is_refused(value: float) -> None:
    layer = at.convert(nn.Linear(4, 3).half(), crossbar())
    with pytest.raises(ValueError, match="does not fit in torch.float16"):
        layer.set_input_range(value)


def test_adc_scale_in_training_is_that_of_the_weights_without_noise() -> None:
    chip = _chip(
        array={"rows": 64, "columns": 64},
        dac={"bits": None},
        adc={"range": 1.0, "noise": 0.0, "bits": 4},
    )
    chip = dataclasses.replace(chip, training=at.TrainingNoise(weight="gaussian", scale=0.3))
    layer = at.convert(nn.Linear(32, 16, bias=False), chip)
    layer.set_input_range(1.0)
    y = layer(torch.rand(500, 32) * 2 - 1)
    # 4 bits: 7 steps to the bound of 1 x largest weight x range
    step = layer.weight.abs().max().item() / 7
    assert torch.allclose(y / step, (y / step).round(), atol=1e-4)


def test_the_layers_of_a_model_have_training_noise_of_their_own() -> None:
    chip = _chip(
        array={"rows": 64, "columns": 64},
        dac={"bits": None},
        adc={"bits": None},
        training=at.TrainingNoise(weight="gaussian", scale=0.1),
    )
    model = nn.Sequential(nn.Linear(48, 48, bias=False), nn.Linear(48, 48, bias=False))
    model[1].weight.data = model[0].weight.data.clone()
    at.convert(model, chip)
    torch.manual_seed(0)
    errors = [(layer(torch.eye(48)).T - layer.weight).flatten() for layer in model]
    together = (errors[0] * errors[1]).mean() / (errors[0].std() * errors[1].std())
    assert abs(together) < 4.5 / 48  # 2,304 weights


@pytest.mark.parametrize(
    ("kind", "arguments", "x"),
    [
        (
            at.nn.AnalogLinear,
            {"in_features": 6, "out_features": 4, "bias": False},
            torch.randn(3, 6),
        ),
        (
            at.nn.AnalogConv1d,
            {"in_channels": 6, "out_channels": 4, "kernel_size": 3},
            torch.randn(3, 6, 9),
        ),
        (
            at.nn.AnalogConv2d,
            {"in_channels": 6, "out_channels": 4, "kernel_size": 3, "groups": 2},
            torch.randn(3, 6, 9, 9),
        ),
    ],
)
def test_a_layer_can_be_made_directly(kind, arguments: dict, x: Tensor) -> None:
    torch.manual_seed(0)
    layer = kind(**arguments, chip=crossbar()).eval()
    torch.manual_seed(0)
    digital = kind.digital(**arguments)
    assert torch.equal(layer(x), at.convert(copy.deepcopy(digital), crossbar()).eval()(x))
    assert type(at.to_digital(layer)) is kind.digital
    with pytest.raises(TypeError, match="chip"):
        kind(**arguments)
    with pytest.raises(TypeError, match="chip must be a Chip"):
        kind(**arguments, chip="hermes64")


@pytest.mark.parametrize("chip", [at.chips.ideal(), crossbar()], ids=["ideal", "crossbar"])
@pytest.mark.parametrize(
    ("options", "assigned"),
    [
        ({"padding": 1}, {"dilation": (2, 2), "padding": (2, 2)}),  # a backbone that is dilated
        ({"stride": 2, "padding": 1}, {"stride": 1}),
        ({"padding": "same"}, {"dilation": (2, 1)}),
        ({"padding": 2}, {"padding": "valid"}),
        ({"padding": 1, "padding_mode": "reflect"}, {"stride": (1, 2)}),
    ],
)
def test_a_convolution_computes_with_attributes_that_were_assigned(
    chip: at.Chip, options: dict, assigned: dict
) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(3, 4, 3, **options), torch.randn(2, 3, 9, 8)
    for name, value in assigned.items():
        setattr(layer, name, value)
    before = at.convert(nn.Sequential(copy.deepcopy(layer)), chip).eval()
    after = at.convert(nn.Sequential(nn.Conv2d(3, 4, 3, **options)), chip).eval()
    after.load_state_dict(before.state_dict())
    for name, value in assigned.items():
        setattr(after[0], name, value)
    expected = layer(x)
    assert before(x).shape == expected.shape
    assert torch.equal(after(x), before(x))
    exact = at.convert(nn.Sequential(copy.deepcopy(layer)), at.chips.ideal()).eval()
    programmed = at.program(exact, seed=0).at("0 s")
    torch.testing.assert_close(programmed(x), expected, atol=1e-5, rtol=1e-4)
    assert type(at.to_digital(after)[0]) is nn.Conv2d
    assert vars(at.to_digital(after)[0]).keys() == vars(layer).keys()
