"""The training noise of a recipe, which a twin's student computes with."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import analogtorch as at
from analogtorch.hwa.comparison import relative_error
from tests.crossbar import crossbar


def _twin(**options) -> at.hwa.Twin:
    torch.manual_seed(0)
    net = nn.Linear(32, 16)
    chip = crossbar(dac={"bits": None}, adc={"bits": None}, training=at.TrainingNoise(output=False))
    teacher = nn.Sequential(copy.deepcopy(net))
    student = at.convert(nn.Sequential(net), chip)
    return at.hwa.Twin(student, teacher, at.hwa.Recipe(**options))


def _outputs(twin: at.hwa.Twin) -> Tensor:
    with at.noise(1), twin.training_noise():
        return twin.student(torch.eye(32)).detach()


@pytest.mark.parametrize(
    "noise",
    [
        at.TrainingNoise(weight="device", time="1 year", output=False),
        at.TrainingNoise(weight="gaussian", scale=0.1, output=False),
        at.TrainingNoise(weight="none", output=False),
    ],
)
def test_the_student_computes_with_the_noise_of_the_recipe(noise: at.TrainingNoise) -> None:
    twin = _twin(training=noise)
    layer = twin.student[0]
    own = layer.chip
    found = _outputs(twin)
    assert layer.chip is own
    assert not layer.taps
    layer.chip = own.replace(training=noise)
    with at.noise(1):
        assert torch.equal(found, twin.student.train()(torch.eye(32)).detach())


def test_without_one_it_has_that_of_its_chip() -> None:
    twin = _twin(training=None)
    with at.noise(1):
        wanted = twin.student.train()(torch.eye(32)).detach()
    assert torch.equal(_outputs(twin), wanted)


def test_the_noise_follows_its_fraction_and_the_chip() -> None:
    twin = _twin()
    exact = twin.teacher(torch.eye(32)).detach()
    whole = (_outputs(twin) - exact).std()
    at.hwa.training_noise_(twin.student, 0.0)
    torch.testing.assert_close(_outputs(twin), exact)
    at.hwa.training_noise_(twin.student, 1.0)
    twin.student[0].chip = at.chips.ideal()
    torch.testing.assert_close(_outputs(twin), exact)
    assert whole > 0.01


@pytest.mark.parametrize("layers", [0.0, 1.0])
def test_an_activation_in_place_changes_no_loss(layers: float) -> None:
    def loss(inplace: bool) -> tuple[Any, ...]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(inplace=inplace), nn.Linear(32, 8)).eval()
        student = at.convert(copy.deepcopy(net), crossbar())
        with torch.no_grad():
            student[0].bias -= 0.5
        with at.noise(1):
            found = at.hwa.Twin(student, net, at.hwa.Recipe(layers=layers)).loss(
                torch.randn(40, 16)
            )
        found.total.backward()
        return *(v.item() for v in found), student[0].weight.grad

    *one, gradient = loss(inplace=False)
    *other, same = loss(inplace=True)
    assert one == other
    assert torch.equal(gradient, same)


def test_a_layer_that_runs_twice_is_compared_call_by_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x).relu())

    torch.manual_seed(0)
    net, x = Twice(), torch.randn(20, 6)
    student = at.convert(copy.deepcopy(net), at.chips.ideal())
    with torch.no_grad():
        student.layer.bias += 1.0
    found = at.hwa.Twin(student, net).loss(x).layers
    with torch.no_grad():
        y, t = student.layer(x), net.layer(x)
        errors = [relative_error(y, t), relative_error(student(x), net(x))]
    assert torch.allclose(found, torch.stack(errors).mean(), rtol=1e-4)


def _named_net(*names: str) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential()
    for name in names:
        net.add_module(name, nn.Linear(6, 6))
    return net.eval()


def test_layers_without_a_namesake_in_the_teacher_are_named() -> None:
    student = at.convert(_named_net("a", "b", "c"), crossbar())
    with pytest.warns(UserWarning, match=r"2 of 3 .* not compared, .*: 'b', 'c'; .*layers=0"):
        twin = at.hwa.Twin(student, _named_net("a", "e", "f"))
    assert twin.names == ["a"]
    at.hwa.Twin(student, _named_net("a", "e", "f"), at.hwa.Recipe(layers=0))
    at.hwa.Twin(student, _named_net("a", "b", "c"))


def test_a_teacher_without_any_namesake_is_refused_before_anything(tmp_path: Path) -> None:
    net, teacher = _named_net("a", "b"), _named_net("d", "e")
    options: dict[str, Any] = {"chip": crossbar(), "teacher": teacher, "folder": tmp_path / "run"}
    calls: list[Any] = []
    with pytest.raises(ValueError, match=r"no layer .* name of a module .*: 'a', 'b'; .*layers=0"):
        at.hwa.adapt(net, [torch.randn(4, 6)], forward=lambda _, x: calls.append(x), **options)
    assert not calls
    assert not (tmp_path / "run").exists()


class _Wide(nn.Module):
    def __init__(self, width: int, last: str = "c") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, width), nn.Linear(width, width)
        self.add_module(last, nn.Linear(width, 5))

    def forward(self, x: Tensor) -> Any:
        return list(self.children())[-1](self.b(self.a(x).relu()).relu())


def test_layers_of_another_width_in_the_teacher_are_named_once() -> None:
    student, x = at.convert(_Wide(8), crossbar()), torch.randn(4, 6)
    twin = at.hwa.Twin(student, _Wide(16))
    unlike = r"'a' \(4, 8\) and \(4, 16\), 'b' \(4, 8\) and \(4, 16\); .*layers=0"
    with pytest.warns(UserWarning, match=rf"2 of 3 .* not compared, .* differ in shape .*{unlike}"):
        twin.loss(x)
    twin.loss(x)
    at.hwa.Twin(student, _Wide(16), at.hwa.Recipe(layers=0)).loss(x)
    at.hwa.Twin(student, _Wide(8)).loss(x)


class _Experts(nn.Module):
    """The student's noise sends other vectors, or images, to the expert than the teacher does."""

    def __init__(self, inner: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.inner, self.shape = nn.Linear(6, 6), inner, shape

    def forward(self, x: Tensor) -> Tensor:
        y = self.gate(x)
        kept = y[y[:, 0] > 0].reshape(-1, *self.shape)
        return y + self.inner(kept).sum()


@pytest.mark.parametrize(
    ("inner", "shape"),
    [
        (nn.Linear(6, 4), (6,)),
        (nn.Conv1d(2, 4, 3), (2, 3)),
        (nn.Conv2d(1, 4, 2), (1, 2, 3)),
        (nn.ConvTranspose2d(1, 4, 2), (1, 2, 3)),
    ],
)
@pytest.mark.filterwarnings("error")
def test_experts_that_get_other_vectors_than_those_of_the_teacher_are_no_cause_to_warn(
    inner: nn.Module, shape: tuple[int, ...]
) -> None:
    net, x = _Experts(inner, shape), torch.randn(64, 6)
    student = at.convert(copy.deepcopy(net), crossbar())
    with torch.no_grad():
        student.gate.bias.add_(0.5)
    at.hwa.Twin(student, net).loss(x)


def test_a_teacher_with_layers_of_other_widths_alone_has_an_error_of_its_own() -> None:
    student = at.convert(_Wide(8, last="d"), crossbar())
    with pytest.warns(UserWarning, match="no module of their names: 'd'"):
        twin = at.hwa.Twin(student, _Wide(16))
    with pytest.raises(
        ValueError, match=r"all layers .* differ in shape .*'a' \(4, 8\) and .*layers=0"
    ):
        twin.loss(torch.randn(4, 6))


def test_a_compiled_student_has_the_layers_of_a_teacher_that_is_not() -> None:
    net = _named_net("a", "b")
    student = at.convert(copy.deepcopy(net), crossbar())
    student.b = torch.compile(student.b, backend="eager")
    assert at.hwa.Twin(student, net).names == ["a", "b"]


def _one_number(squeezed: bool) -> nn.Module:
    torch.manual_seed(0)
    last = [nn.Flatten(0)] if squeezed else []
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1), *last).eval()


def test_outputs_of_as_many_numbers_as_samples_are_a_number_of_each() -> None:
    batches, found = list(torch.randn(8, 20, 6)), []
    for squeezed in (True, False):
        net = _one_number(squeezed)
        twin = at.hwa.Twin(at.convert(copy.deepcopy(net), crossbar()), net)
        exact = twin.exact(batches[0])[0]
        assert exact.shape == (20, 1)
        offset = twin.compare(exact + 5, exact).item()
        assert offset > 1
        adapted = at.hwa.adapt(
            net, batches, chip=crossbar(device="one_device"), steps=2, num_chips=1,
            calibration={"effort": "ranges"},
        )  # fmt: skip
        readings = [stage.reading for stage in adapted.stages]
        assert all(0 < reading.agreement.min() < 1 for reading in readings)
        found.append((twin.compared, adapted.compared, offset, readings[0].to_dict()))
    assert found[0] == found[1]
    assert found[0][:2] == ("error", "error")


class _LastStep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.LSTM(6, 8), nn.Linear(8, 1)

    def forward(self, x: Any) -> Tensor:
        if isinstance(x, PackedSequence):
            return self.out(self.rnn(x)[1][0][-1]).squeeze(-1)
        return self.out(self.rnn(x)[0][-1]).squeeze(-1)


@dataclasses.dataclass
class _Batch:
    x: Tensor


STEPS = torch.randn(7, 20, 6)


@pytest.mark.parametrize(
    ("batch", "forward"),
    [
        (STEPS, None),
        (pack_padded_sequence(STEPS, torch.arange(20) % 7 + 1, enforce_sorted=False), None),
        (pack_padded_sequence(STEPS, torch.full((20,), 7)), None),
        (_Batch(STEPS), lambda model, batch: model(batch.x)),
        (STEPS.numpy(), lambda model, batch: model(torch.from_numpy(batch))),
    ],
)
def test_a_number_of_each_sample_is_known_however_they_are_given(batch: Any, forward: Any) -> None:
    torch.manual_seed(0)
    net = _LastStep().eval()
    twin = at.hwa.Twin(at.convert(copy.deepcopy(net), crossbar()), net, forward=forward)
    exact = twin.exact(batch)[0]
    assert (exact.shape, twin.compared) == ((20, 1), "error")
    assert twin.compare(exact + 5, exact).item() > 1


def test_labels_by_position_are_no_inputs() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(6, 5)

        def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
            return self.out(x)

    net = Net().eval()
    twin = at.hwa.Twin(
        at.convert(copy.deepcopy(net), crossbar()), net, forward=lambda m, batch: m(*batch)
    )
    twin.exact((torch.randn(20, 6), torch.rand(20, 5)))
    assert twin.compared == "divergence"


def test_the_output_of_a_sample_without_a_batch_is_one_vector() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5)).eval()
    samples = list(torch.randn(16, 12))
    for recipe in (at.hwa.Recipe(), at.hwa.Recipe(outputs="divergence")):
        twin = at.hwa.Twin(at.convert(copy.deepcopy(net), crossbar()), net, recipe)
        (exact,) = twin.exact(samples[0])
        assert twin.compared == "divergence"
        assert exact.shape == (5,)
        assert twin.compare(exact + 5, exact).item() == pytest.approx(0, abs=1e-6)
    adapted = at.hwa.adapt(
        net, samples, chip=crossbar(device="one_device"), steps=2, num_chips=1,
        calibration={"effort": "ranges"},
    )  # fmt: skip
    assert adapted.compared == "divergence"
    # of the four samples held back, one vector each
    shares = adapted.stages[0].reading.agreement.flatten() * 4
    assert torch.equal(shares, shares.round())


def test_layers_on_one_sample_are_compared_as_one_vector() -> None:
    y, exact = torch.tensor([1.0, 1.0, 2.0]), torch.tensor([1.0, 2.0, 2.0])
    assert relative_error(y, exact) == relative_error(y[None], exact[None])


def test_a_teacher_that_would_learn_with_the_student_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    before = copy.deepcopy(net)
    student = at.convert(net, crossbar())
    with pytest.raises(ValueError, match=r"the teacher has Parameters of the student.*deepcopy"):
        at.hwa.Twin(student, net)
    at.hwa.Twin(student, before)
    for p in student.parameters():
        p.requires_grad_(False)
    at.hwa.Twin(student, net, at.hwa.Recipe(layers=0))  # a base that is frozen may be shared


def test_a_branch_that_is_silent_has_no_part_in_the_loss() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.z, self.b = nn.Linear(32, 64), nn.Linear(64, 64), nn.Linear(64, 8)
            nn.init.zeros_(self.z.weight)
            nn.init.zeros_(self.z.bias)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.a(x))
            return self.b(h + self.z(h))

    torch.manual_seed(0)
    net, x = Net(), [torch.randn(64, 32) for _ in range(4)]
    student = at.calibrate(at.convert(copy.deepcopy(net), crossbar()), x)
    twin, optimizer = at.hwa.Twin(student, net), torch.optim.Adam(student.parameters(), 1e-3)
    for i in range(12):
        if i == 2:
            before = student.a.weight.detach().clone()
        optimizer.zero_grad()
        loss = twin.total(x[i % 4])
        loss.backward()
        optimizer.step()
        assert loss < 1
    assert not torch.equal(student.a.weight, before)
    assert relative_error(torch.ones(3, 4), torch.zeros(3, 4)) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"student": nn.Linear(6, 4)}, r"has no analog layer .*=at.hwa.Recipe\(layers=0\)"),
        ({"student": 3}, "Twin: student must be a Module such as at.convert"),
        ({"teacher": 3}, "Twin: teacher must be a Module such as the model before"),
        ({"recipe": {}}, "Twin: recipe must be a Recipe such as at.hwa.Recipe"),
        ({"forward": 3}, "Twin: forward must be a function"),
    ],
)
def test_wrong_arguments_are_refused(given: dict[str, Any], message: str) -> None:
    right = {"student": at.convert(nn.Linear(6, 4), crossbar()), "teacher": nn.Linear(6, 4)}
    with pytest.raises((TypeError, ValueError), match=message):
        at.hwa.Twin(**right | given)


def test_a_digital_student_learns_from_outputs_alone() -> None:
    torch.manual_seed(0)
    student, teacher = nn.Linear(6, 4), nn.Linear(6, 4)
    loss = at.hwa.Twin(student, teacher, at.hwa.Recipe(layers=0)).total(torch.randn(8, 6))
    loss.backward()
    assert student.weight.grad.abs().sum() > 0


def test_a_programmed_chip_is_no_student() -> None:
    net = nn.Sequential(nn.Linear(6, 4))
    physical = at.program(at.convert(copy.deepcopy(net), crossbar()), seed=0)
    with pytest.raises(ValueError, match="Twin: layer '0' belongs to a programmed chip"):
        at.hwa.Twin(physical.at("1 day"), net)
