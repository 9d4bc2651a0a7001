"""Loss, optimizer groups and the replay of a step."""

import pytest
import torch
from torch.nn import functional as F

from analogtorch.hwa.lightning import step_seed
from analogtorch.speech.training import Classifier, Phase


def quiet(module: Classifier) -> Classifier:
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return module


def test_distilled_loss_is_the_weighted_sum(toy) -> None:
    phase = Phase(distill=0.3, temperature=4.0, label_smoothing=0.0)
    teacher, student = toy.digital(), toy.digital()
    with torch.no_grad():
        student[0].weight.mul_(0.5)
    module = quiet(Classifier(student, phase, steps=1, teacher=teacher))
    logits, target = student(toy.x), teacher(toy.x)
    p = F.softmax(target / 4, 1)
    divergence = 16 * (p * (p.log() - F.log_softmax(logits / 4, 1))).sum(1).mean()
    expected = 0.7 * F.cross_entropy(logits, toy.y) + 0.3 * divergence
    torch.testing.assert_close(module.training_step((toy.x, toy.y), 0), expected)


def test_mixup_is_between_the_pair(toy) -> None:
    module = quiet(Classifier(torch.nn.Identity(), Phase(mixup=1.0, label_smoothing=0.0), steps=1))
    x = torch.eye(2).repeat(8, 1) * 5
    y = torch.arange(2).repeat(8)
    torch.manual_seed(0)
    assert module.training_step((x, y), 0) > F.cross_entropy(x, y)


def test_only_matrices_decay(toy) -> None:
    module = Classifier(toy.analog(), Phase(weight_decay=0.1), steps=10)
    groups = module.configure_optimizers()["optimizer"].param_groups
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert len(decay) == len(list(module.parameters()))
    for name, parameter in module.named_parameters():
        assert decay[id(parameter)] == (0.1 if parameter.dim() > 1 else 0.0), name
    assert any(name.endswith("input_range") for name, _ in module.named_parameters())


def test_a_step_can_be_replayed_by_itself(toy) -> None:
    network = toy.analog().train()
    outputs = []
    for other in (0, 5):  # whatever happened before
        torch.manual_seed(other)
        torch.manual_seed(step_seed(3, 12))
        outputs.append(network(toy.x))
    assert torch.equal(*outputs)
    torch.manual_seed(step_seed(3, 13))
    assert not torch.equal(outputs[0], network(toy.x))


def test_the_teacher_is_no_part_of_the_module(toy) -> None:
    module = Classifier(toy.digital(), Phase(distill=0.5), steps=1, teacher=toy.digital())
    assert all(key.startswith("network.") for key in module.state_dict())
    assert sum(1 for _ in module.parameters()) == 6


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0), ("batch_size", 1), ("learning_rate", 0.0), ("warmup", 1.0),
        ("weight_decay", -1.0), ("label_smoothing", 1.0), ("mixup", -0.1), ("distill", 1.1),
        ("temperature", float("nan")), ("clip_sigma", 0.0), ("distill", None), ("epochs", None),
        ("epochs", 1.5), ("epochs", True), ("epochs", torch.tensor(2)), ("batch_size", 2.5),
    ],
)  # fmt: skip
def test_phase_refuses(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{field}={value}; it must be"):
        Phase(**{field: value})


def test_a_temperature_needs_distillation() -> None:
    with pytest.raises(ValueError, match=r"temperature=4\.0 has no effect without distillation"):
        Phase(temperature=4.0)
