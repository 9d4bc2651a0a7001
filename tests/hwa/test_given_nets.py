"""``adapt`` and ``calibrate`` of nets as others write them: odd outputs, weights used by hand."""

import dataclasses
import functools
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import analogtorch as at
from analogtorch.calibration.choice import CalibrationReport

HERMES = at.chips.hermes64()


@dataclasses.dataclass
class _Said:
    logits: Tensor
    state: Tensor


class _SaysByName(nn.Module):
    """Returns a dataclass, as many nets for detection and translation do."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(12, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> _Said:
        state = self.body(x).relu()
        return _Said(self.head(state), state)


class _Net(nn.Module):
    """Calls its first layer, or multiplies by its weight."""

    def __init__(self, by_weight: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.by_weight = nn.Linear(12, 32), nn.Linear(32, 5), by_weight

    def forward(self, x: Tensor) -> Tensor:
        if self.by_weight:
            return self.head(nn.functional.linear(x, self.body.weight, self.body.bias).relu())
        return self.head(self.body(x).relu())


def _batches(count: int = 8) -> list[Tensor]:
    return list(torch.randn(count, 32, 12, generator=torch.Generator().manual_seed(1)).unbind())


def _adapted(net: nn.Module, **options: Any) -> at.hwa.Adapted:
    recipe = at.hwa.Recipe(looks=1)
    how = {"chip": HERMES, "recipe": recipe, "steps": 2, "num_chips": 1} | options
    return at.hwa.adapt(net, _batches(), **how)


def test_a_dataclass_is_compared_by_its_tensors() -> None:
    torch.manual_seed(0)
    net, found = _SaysByName(), list[CalibrationReport]()
    at.calibrate(at.convert(_SaysByName(), HERMES), _batches(), report=found.append)
    assert found[0].errors["uncalibrated"] > found[0].errors["default"] > 0
    by_name = _adapted(net)
    alone = at.hwa.adapt(
        net, _batches(), chip=HERMES, recipe=at.hwa.Recipe(looks=1), steps=2, num_chips=1,
        forward=lambda model, x: model(x).logits,
    )  # fmt: skip
    assert by_name.compared == alone.compared == "divergence"  # of the logits, as of a mapping
    assert torch.equal(by_name.stages[0].reading.error, alone.stages[0].reading.error)


def test_a_layer_that_is_used_by_its_weight_is_on_the_chip_from_the_first_look_on() -> None:
    called, by_weight = _adapted(_Net(False)), _adapted(_Net(True))
    for one, other in zip(called.stages[:2], by_weight.stages[:2], strict=True):
        assert torch.equal(one.reading.error, other.reading.error)


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(12, 32)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.body(x).relu(), self.body.weight.t())


def test_a_layer_that_is_partly_digital_is_named() -> None:
    with pytest.warns(UserWarning, match="'body': aten.mm in .root. ._Tied.") as caught:
        _adapted(_Tied())
    assert {str(each.message).partition(":")[0] for each in caught} == {"calibrate"}


class _Bound(_Net):
    """Calls a layer in a way that still reaches the digital one after the conversion."""

    def __init__(self) -> None:
        super().__init__(by_weight=False)
        self.call = functools.partial(self.body)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.call(x).relu())


def test_a_call_of_the_digital_layer_is_that_of_its_own() -> None:
    called, bound = _adapted(_Net(False)), _adapted(_Bound())
    for one, other in zip(called.stages[:2], bound.stages[:2], strict=True):
        assert torch.equal(one.reading.error, other.reading.error)


class _Heard(NamedTuple):
    frames: Tensor
    lengths: Tensor


class _Hears(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = _Net(False)

    def forward(self, heard: _Heard) -> Tensor:
        return self.net(heard.frames) * heard.lengths.unsqueeze(1)


def test_a_named_tuple_that_the_model_is_annotated_to_take_is_one_input() -> None:
    heard = [_Heard(x, torch.full((32,), 2)) for x in _batches()]
    model = at.convert(_Hears(), HERMES, example=heard[0])
    assert all(layer.has_run for _, layer in at.analog_layers(at.calibrate(model, heard)))
    assert at.guard(model, heard[0]).unused == ()
    assert "tile" in str(at.map_to_chip(model, heard[0]))
    assert at.hwa.adapt(model, heard, steps=1, num_chips=1).compared == "divergence"
    pairs = [tuple(each) for each in zip(_batches(), _batches(), strict=True)]
    at.calibrate(at.convert(_Net(False), HERMES), pairs)  # of another tuple, the first


class _Detects(nn.Module):
    """Takes images of several sizes, as detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: list[Tensor], targets: Any = None) -> Tensor:
        return torch.stack([self.conv(x).amax((1, 2)) for x in images])


class _DetectsImages(_Detects):
    def forward(self, images, targets=None):  # type: ignore[no-untyped-def]
        return super().forward(images)


@pytest.mark.parametrize("net", [_Detects, _DetectsImages])
def test_a_list_of_images_that_the_model_takes_is_one_input(net: type[nn.Module]) -> None:
    batches = [[torch.randn(3, 8 + i, 8) for i in range(3)] for _ in range(4)]
    model = at.calibrate(at.convert(net(), HERMES, example=(batches[0],)), batches)
    with pytest.raises(TypeError, match=r"got list; .* as one argument, give \(example,\)"):
        at.map_to_chip(model, batches[0])  # type: ignore[arg-type]
    view = at.Recovery(batches=batches).correct(at.program(model, seed=1).at("1 day"))
    assert view(batches[0]).shape == (3, 4)
    assert at.hwa.adapt(model, batches, steps=1, num_chips=1).compared == "divergence"
    with_labels = [[torch.randn(4, 3, 8, 8), torch.zeros(4)] for _ in range(4)]
    at.calibrate(model, with_labels)  # the first of them is the list of images


class _Flattens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


@pytest.mark.parametrize("more", [(), (torch.ones(64, 8, 8),)])
def test_a_batch_of_grey_images_is_no_list_of_images(more: tuple[Tensor, ...]) -> None:
    x = torch.randn(64, 8, 8)
    batches = DataLoader(TensorDataset(x, *more), 16)
    at.calibrate(at.convert(_Flattens(), HERMES, example=x), batches)


class _ByName(nn.Module):
    """Picks parts of a mapping for a module that has the name which wrappers use."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Sequential(_Net(False))

    def forward(self, *args: Tensor, **given: Tensor) -> Tensor:
        return self.module(given["x"] if given else args[0] * args[1])


class _Draws(nn.Module):
    """Needs no input."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.start = _Net(False), nn.Parameter(torch.ones(3, 12))

    def forward(self, start: Tensor | None = None) -> Tensor:
        return self.net(self.start if start is None else start)


@pytest.mark.parametrize(
    ("net", "batches"), [(_ByName, [{"x": torch.ones(3, 12)}] * 2), (_Draws, [{}, {}])]
)
def test_a_mapping_has_keyword_arguments(net: type[nn.Module], batches: list[Any]) -> None:
    model = at.convert(net().eval(), HERMES, example=batches[0])
    at.calibrate(model, batches, effort="ranges")
    assert all(layer.has_run for _, layer in at.analog_layers(model))
    assert at.accuracy(model, [(batch, model(**batch).argmax(1)) for batch in batches]) == 1.0


class _Sums(nn.Module):
    """Has outputs of the shape of an input, which may be an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.other, self.head = nn.Linear(7, 16), nn.Linear(5, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor, **given: Tensor) -> Tensor:
        (other,) = given.values()
        return self.head((self.x(x) + self.other(other)).relu())


@pytest.mark.parametrize(("name", "compared"), [("past_target", "error"), ("Target", "divergence")])
def test_answers_alone_are_no_inputs(name: str, compared: str) -> None:
    parts = [x.split((7, 5), dim=1) for x in _batches()]
    batches = [{"x": x, name: other} for x, other in parts]
    found = at.hwa.adapt(_Sums().eval(), batches, chip=HERMES, steps=1, num_chips=1)
    assert found.compared == compared


class _TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor, more: Tensor) -> Tensor:
        return self.head(self.body(x - more).relu())


def test_how_a_batch_was_passed_is_said_where_the_model_fails() -> None:
    pairs = [x.split(6, 1) for x in _batches()]
    model = at.convert(_TwoInputs(), HERMES)
    for call in (at.calibrate, lambda model, batches: at.hwa.adapt(model, batches, steps=1)):
        with pytest.raises(TypeError, match="'more'") as caught:
            call(model, pairs)
        assert "of a tuple, the model gets the first element alone" in caught.value.__notes__[-1]
        assert "forward=lambda model, batch: model(*batch)" in caught.value.__notes__[-1]
        assert "or model(batch) for the tuple as one argument" in caught.value.__notes__[-1]
        with pytest.raises(TypeError, match="'y'") as caught:
            call(model, [{"x": x, "y": y} for x, y in pairs])
        assert "the model gets x, y as keyword arguments" in caught.value.__notes__[-1]
    at.calibrate(model, pairs, forward=lambda model, batch: model(*batch))


def test_compiled_nets_are_calibrated_and_adapted_as_written() -> None:
    ran = []

    def backend(graph: Any, inputs: Any) -> Any:
        ran.append(graph)
        return graph.forward

    plain, compiled = _Net(False), _Net(False)
    compiled.compile(backend=backend)
    compiled(_batches()[0])
    count = len(ran)
    assert count > 0
    one, other = _adapted(plain), _adapted(compiled)
    assert len(ran) == count  # neither taps nor hooks are compiled
    for a, b in zip(one.stages, other.stages, strict=True):
        assert torch.equal(a.reading.error, b.reading.error)
