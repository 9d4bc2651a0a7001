"""``adapt`` says at once what it cannot work with, and learns where gradients are off."""

import copy
import dataclasses
import itertools
import json
import math
import types
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from tests.calibration.test_outputs import detections
from tests.crossbar import crossbar
from tests.score import Score

BATCHES = list(torch.randn(4, 8, 6, generator=torch.Generator().manual_seed(0)).unbind())


@dataclasses.dataclass
class _Batch:
    x: Tensor
    cache: Tensor = dataclasses.field(init=False, repr=False)
    meta: Any = None


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


def _adapt(model: nn.Module | None = None, batches: Any = BATCHES, **options: Any) -> Any:
    how = {"chip": crossbar(device="one_device"), "steps": 2, "num_chips": 1}
    how |= {"calibration": {"effort": "ranges"}, "recipe": at.hwa.Recipe(looks=1)}
    how |= options
    return at.hwa.adapt(_net() if model is None else model, batches, **how)


def test_it_learns_under_no_grad_all_the_same() -> None:
    wanted = _adapt().model.state_dict()
    with torch.no_grad():
        found = _adapt().model
        assert not torch.is_grad_enabled()
    for name, value in found.state_dict().items():
        assert not isinstance(value, Tensor) or torch.equal(value, wanted[name])
    assert all(p.grad is None for p in found.parameters())


def test_inference_mode_is_refused_with_the_remedy() -> None:
    with (
        torch.inference_mode(),
        pytest.raises(ValueError, match=r"outside of it, or inside torch.inference_mode\(False\)"),
    ):
        _adapt()


@pytest.mark.parametrize("packed", [lambda x: x, _Batch, lambda x: deque([x])])
def test_batches_of_inference_mode_are_refused_with_the_remedy(packed: Any, tmp_path: Path) -> None:
    model, options = _net(), {"folder": tmp_path / "run"}
    before, given = model.state_dict(), [packed(x) for x in BATCHES]
    with torch.inference_mode():
        given[1] = packed(BATCHES[1].clone())
    with pytest.raises(ValueError, match=r"batch 1, .* torch.inference_mode.*tensor.clone\(\)"):
        _adapt(model, batches=given, **options)
    assert model.state_dict().keys() == before.keys()
    assert not (tmp_path / "run").exists()


def test_dataclasses_may_have_fields_that_are_not_set_or_hold_themselves() -> None:
    given = [_Batch(x) for x in BATCHES]
    for batch in given:
        batch.meta = {"batch": batch}
    wanted = _adapt().model.state_dict()
    found = _adapt(batches=given, forward=lambda model, batch: model(batch.x)).model.state_dict()
    assert all(torch.equal(found[n], w) for n, w in wanted.items() if isinstance(w, Tensor))


@pytest.mark.parametrize("converted", [False, True])
def test_weights_on_the_meta_device_are_refused_first(tmp_path: Path, converted: bool) -> None:
    model, options = _net(), {"folder": tmp_path / "run"}
    if converted:
        model, options["chip"] = at.convert(model, crossbar()), None  # type: ignore[assignment]
    with pytest.raises(ValueError, match="layer '0' is on the meta device; load weights first"):
        _adapt(model.to("meta"), **options)
    assert not (tmp_path / "run").exists()
    teacher = copy.deepcopy(_net()).to("meta")
    with pytest.raises(ValueError, match=r"'0.weight' of the teacher is on the meta device; load"):
        _adapt(teacher=teacher)


@pytest.mark.parametrize(
    ("empty", "shapes"),
    [
        (BATCHES[0][:0], r"1 tensor of shape \(0, 6\)"),
        ((BATCHES[0][:0], torch.zeros(0)), r"2 tensors of shape \(0, 6\), \(0,\)"),
        ({"input": BATCHES[0][:0]}, r"1 tensor of shape \(0, 6\)"),
        (_Batch(BATCHES[0][:0]), r"1 tensor of shape \(0, 6\)"),
    ],
)
def test_a_batch_without_a_sample_is_named(empty: Any, shapes: str) -> None:
    with pytest.raises(ValueError, match=f"batch 2, counted from 0, has no sample, got {shapes}"):
        _adapt(batches=[*BATCHES[:2], empty, *BATCHES[2:]])


def test_a_scalar_output_is_named() -> None:
    with pytest.raises(ValueError, match=r"a number without dimensions, such as a loss; pass for"):
        _adapt(forward=lambda model, x: model(x).mean())
    with pytest.raises(ValueError, match="no tensor of floating point to compare, got NoneType"):
        _adapt(forward=lambda model, x: None)
    with pytest.raises(ValueError, match="to compare, got Tensor of int64; pass forward="):
        _adapt(forward=lambda model, x: model(x).argmax(-1))


def test_outputs_whose_shapes_depend_on_values_are_named() -> None:
    class Boxes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.scores = nn.Linear(6, 512)

        def forward(self, x: Tensor) -> Tensor:
            scores = self.scores(x)
            return scores[scores > 0.1]

    with pytest.raises(ValueError, match="If the shapes depend on values, .* pass forward="):
        _adapt(Boxes())
    _adapt(Boxes(), forward=lambda model, batch: model.scores(batch))


def test_detections_are_refused_though_they_have_one_shape() -> None:
    with pytest.raises(ValueError, match="adapt: .* nothing but detections .* pass forward="):
        _adapt(forward=detections)


@pytest.mark.parametrize(
    "forward", [lambda model, x: model(x)[:0], lambda model, x: (model(x), model(x)[:, :0])]
)
def test_an_empty_output_is_named(forward: Callable[..., Any]) -> None:
    why = r"output [01], .* for batch \d \(from 0\) is empty, of shape .*pass forward="
    with pytest.raises(ValueError, match=why):
        _adapt(forward=forward)


def test_a_batch_that_does_not_run_is_named() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as error:
        _adapt(batches=[*BATCHES[:3], torch.randn(8, 5)])  # it is held back
    assert "adapt, teacher: the model failed on batch 3, counted from 0" in error.value.__notes__


def test_a_teacher_that_does_not_run_is_named() -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no") as error:
        _adapt(teacher=Failing(), recipe=at.hwa.Recipe(layers=0))
    assert any(n.startswith("adapt, teacher: the model failed on") for n in error.value.__notes__)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"methd": "mse"}, ValueError, r"no option 'methd', did you mean 'method'\?; .*effort,"),
        ({"effort": "best"}, ValueError, r": effort must be one of \('ranges', .*, got 'best'"),
        ({"effort": "rangs"}, ValueError, "'rangs', did you mean 'ranges'"),
        ({"percentile": 0}, ValueError, ": percentile must be a number in"),
        ({"adc_per": "column"}, ValueError, ": adc_per='column' needs adc"),
        ({"effort": "search", "per": "tile"}, ValueError, ": effort='search' chooses how"),
        ({"report": "print"}, TypeError, r": report must be a function, report\(found\), got"),
        (["effort"], TypeError, "must be a Mapping such as"),
    ],
)
def test_wrong_options_of_calibrate_are_refused_before_anything(
    given: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    ran: list[nn.Module] = []
    options: dict[str, Any] = {"calibration": given, "folder": tmp_path / "run"}
    with pytest.raises(error, match=f"^adapt: calibration.*{message}"):
        _adapt(forward=lambda model, x: ran.append(model), **options)
    assert not ran
    assert not (tmp_path / "run").exists()


def test_a_metric_that_is_not_finite_is_recorded_and_ends_nothing() -> None:
    values = itertools.chain([1.0, math.nan], itertools.repeat(torch.tensor([math.inf])))
    with pytest.warns(UserWarning, match="the metric is nan on the chip .* recorded") as caught:
        adapted = _adapt(metric=lambda chip: next(values), times=["1 day"])
    assert sum("the metric is" in str(each.message) for each in caught) == 1
    metrics = [float(stage.reading.metric) for stage in adapted.stages]
    assert metrics[0] == 1.0
    assert math.isnan(metrics[1])
    assert metrics[2:] == [math.inf] * len(metrics[2:])
    assert len(adapted.steps) == 2
    assert "inf" in str(adapted)
    data = json.loads(json.dumps(adapted.to_dict(), allow_nan=False))
    assert [stage["metric"] for stage in data["stages"][:2]] == [[[1.0]], [[None]]]


def test_a_metric_that_gives_no_number_is_refused_before_the_training() -> None:
    steps: list[int] = []
    writer = types.SimpleNamespace(add_scalar=lambda tag, value, step: steps.append(step))
    with pytest.raises(TypeError, match="the metric must return a number, got None"):
        _adapt(metric=lambda chip: None, writer=writer)
    with pytest.raises(ZeroDivisionError):
        _adapt(metric=lambda chip: 1 / 0, writer=writer)
    assert not steps


@pytest.mark.filterwarnings("ignore:calibrate. . analog layers are bypassed in part")
def test_a_model_whose_forward_computes_gradients_is_named() -> None:
    energy = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    with pytest.raises(RuntimeError) as error:
        _adapt(Score(energy).eval())
    assert any("network whose gradients they are" in note for note in error.value.__notes__)


class _KeepsState(nn.Module):
    """In evaluation mode it writes each step into its state, as RWKV of transformers does."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(6, 6)

    def forward(self, x: Tensor, use_cache: bool | None = None) -> Tensor:
        state = torch.zeros_like(x)
        for _ in range(2):
            y = self.step(x + state)
            x = x + y * state
            if self.training or use_cache is False:
                state = y
            else:
                state[:] = y
        return x


def test_a_state_that_is_changed_in_place_is_named_with_the_remedy() -> None:
    with pytest.raises(RuntimeError, match="inplace") as error:
        _adapt(_KeepsState(), steps=1)
    (note,) = error.value.__notes__
    assert "use_cache=False" in note
    adapted = _adapt(
        _KeepsState(), steps=1, forward=lambda model, batch: model(batch, use_cache=False)
    )
    assert adapted.model.step.weight.isfinite().all()
