"""``adapt`` names layers that never run before it measures chips."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.calibration.passes import one_pass
from analogtorch.hwa import reached
from analogtorch.hwa.on_chips import OnChips
from tests.crossbar import crossbar

CHIP = crossbar(device="one_device")
BATCHES = list(torch.randn(4, 8, 6, generator=torch.Generator().manual_seed(0)).unbind())

reached_by_some = pytest.mark.filterwarnings(
    "ignore:1 of 3 analog layers of this programmed chip did not run",
    "ignore:correct_columns. 1 of 3 analog layers did not run",
)


class _Cosine(nn.Module):
    """A head whose weight is normalised in the forward, which never calls it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.normalize(self.body(x))
        return nn.functional.linear(y, nn.functional.normalize(self.head.weight)) * 16


class _Auxiliary(nn.Module):
    """A head that runs in training only."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.helper = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        y = self.body(x).relu()
        return (self.head(y), self.helper(y)) if self.training else self.head(y)


class _Expert(_Auxiliary):
    """A layer that most batches do not reach."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x).relu()
        return self.head(y) if x[0, 0] < 5 else self.helper(y).repeat(1, 2)[:, :4]


def _adapt(model: nn.Module, batches: Any = BATCHES, **options: Any) -> at.hwa.Adapted:
    how: dict[str, Any] = {"chip": CHIP, "steps": 2, "num_chips": 1, "times": ["1 day"]}
    return at.hwa.adapt(model.eval(), batches, **how | options)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[OnChips]:
    found: list[OnChips] = []
    monkeypatch.setattr(OnChips, "measure", found.append)
    return found


@pytest.mark.parametrize("options", [{}, {"calibration": {"allow_unused": True}}])
def test_a_head_that_is_never_called_is_named_before_chips_are_measured(
    options: dict[str, Any], measured: list[OnChips], tmp_path: Path
) -> None:
    line = rf"{__file__}:\d+"
    remedy = r"at\.convert\(model, chip, exclude=\.\.\.\) and leave out chip="
    with pytest.raises(ValueError, match=f"^adapt: 1 of 2 .* 'head'.*{remedy}") as error:
        _adapt(_Cosine(), folder=tmp_path / "run", **options)
    assert "allow_unused" not in str(error.value)
    with pytest.raises(ValueError, match=rf"(?s)'head': aten.\w+ in \(root\) \(_Cosine\), {line}"):
        _adapt(_Cosine(), **options)
    with pytest.raises(ValueError, match=r"leave them digital with convert\(\.\.\., exclude=") as e:
        _adapt(at.convert(_Cosine(), CHIP), chip=None, **options)
    assert "chip=" not in str(e.value)
    assert not measured
    assert not (tmp_path / "run").exists()


def test_a_head_that_is_never_called_can_stay_digital() -> None:
    adapted = _adapt(at.convert(_Cosine(), CHIP, exclude="head"), chip=None)
    assert len(adapted.steps) == 2


def test_a_head_that_runs_in_training_only_is_named_with_what_allows_it(
    measured: list[OnChips],
) -> None:
    allows = r'calibration=\{"allow_unused": True\} for those that run in training only'
    with pytest.raises(ValueError, match=f"^adapt: 1 of 3 .* 'helper'.*{allows}"):
        _adapt(_Auxiliary())
    assert not measured


class _Both(_Auxiliary):
    """A head that is never called beside one that runs in training only."""

    def forward(self, x: Tensor) -> Any:
        y = self.body(x).relu()
        found = nn.functional.linear(y, nn.functional.normalize(self.head.weight))
        return (found, self.helper(y)) if self.training else found


@pytest.mark.parametrize("allowed", [False, True])
def test_what_is_allowed_already_is_not_advised(allowed: bool, measured: list[OnChips]) -> None:
    with pytest.raises(ValueError, match="adapt: . of 3 .* 'head'") as error:
        _adapt(_Both(), calibration={"allow_unused": allowed})
    assert ("allow_unused" in str(error.value)) is not allowed
    assert ("'helper'" in str(error.value)) is not allowed


class _Failing(_Auxiliary):
    def forward(self, x: Tensor) -> Any:
        if x[0, 0] > 5:
            raise RuntimeError("too large")
        return super().forward(x)


@reached_by_some
@pytest.mark.parametrize("allowed", [False, True])
def test_a_batch_on_which_the_model_fails_is_named(allowed: bool) -> None:
    batches = [*BATCHES[:1], BATCHES[1] + 10, *BATCHES[2:]]
    with pytest.raises(RuntimeError, match="too large") as error:
        _adapt(_Failing(), batches, calibration={"allow_unused": allowed, "effort": "ranges"})
    assert "the model failed on batch 1, counted from 0" in error.value.__notes__[0]


@reached_by_some
@pytest.mark.parametrize("chip", [CHIP, at.chips.hermes64()])
def test_a_head_that_runs_in_training_only_can_be_allowed(chip: at.Chip) -> None:
    """On a chip whose digital unit rounds, too: there the model is calibrated in two ways."""
    options = {"calibration": {"allow_unused": True, "effort": "ranges"}}
    adapted = _adapt(_Auxiliary(), chip=chip, **options)
    assert [stage.name for stage in adapted.stages][-1] == "recalibrated"
    assert adapted.recovered is not None


@reached_by_some
def test_a_layer_that_one_batch_reaches_runs(tmp_path: Path) -> None:
    batches = [*BATCHES[:1], BATCHES[1] + 10, *BATCHES[2:]]
    for looked in (2, 0):  # at a run that goes on no more
        with _counted() as runs:
            options = {"calibration": {"effort": "ranges"}, "folder": tmp_path}
            assert len(_adapt(_Expert(), batches, **options).steps) == 2
        assert len(runs) == looked


@reached_by_some
def test_what_is_allowed_takes_no_more_runs() -> None:
    with _counted() as runs:
        _adapt(_Auxiliary(), calibration={"allow_unused": True, "effort": "ranges"})
    assert not runs


class _Late(_Auxiliary):
    """A model of which the first batch reaches no layer."""

    def forward(self, x: Tensor) -> Tensor:
        if x[0, 0] == 0:
            return x[:, :4] * next(self.parameters()).sum()
        return super().forward(x)


@reached_by_some
@pytest.mark.filterwarnings(
    "ignore:3 of 3 analog layers of this programmed chip did not run",
    "ignore:adapt. chips with corrected columns are not measured",
)
def test_what_is_allowed_is_so_where_the_first_batch_reaches_no_layer() -> None:
    batches = [batch.clone() for batch in BATCHES]
    batches[0][0, 0] = 0
    _adapt(
        _Late(), batches, calibration={"allow_unused": True, "effort": "ranges"},
        recipe=at.hwa.Recipe(layers=0),
    )  # fmt: skip


@contextlib.contextmanager
def _counted() -> Iterator[list[Any]]:
    """Count the runs that look for layers that the first batch did not reach."""
    found = list[Any]()

    def counted(*given: Any) -> Any:
        found.append(given)
        return one_pass(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reached, "one_pass", counted)
        yield found


class _Typed(nn.Module):
    """A model of words, and of types that not all inputs have."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.types, self.head = nn.Embedding(9, 8), nn.Embedding(2, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, types: Tensor | None = None) -> Tensor:
        y = self.words(x)
        return self.head(y if types is None else y + self.types(types))


@pytest.mark.filterwarnings("ignore:1 of 3 analog layers of this programmed chip did not run")
def test_embeddings_that_no_batch_reaches_are_allowed_as_calibrate_allows_them() -> None:
    model = at.convert(_Typed().eval(), CHIP, embeddings=True)
    batches = list(torch.arange(36).remainder(9).view(4, 9).unbind())
    adapted = _adapt(model, batches, chip=None, calibration={"effort": "ranges"})
    assert len(adapted.steps) == 2
