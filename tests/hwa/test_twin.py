"""The training noise of a recipe, which a twin's student computes with."""

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from tests.crossbar import crossbar


def _twin(**options) -> at.hwa.Twin:
    torch.manual_seed(0)
    net = nn.Linear(32, 16)
    chip = crossbar(dac={"bits": None}, adc={"bits": None}, training=at.TrainingNoise(output=False))
    student = at.convert(nn.Sequential(net), chip)
    return at.hwa.Twin(student, nn.Sequential(net), at.hwa.Recipe(**options))


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
