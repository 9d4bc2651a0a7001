"""A folder of measurements takes one metric and one model for another as little as it can."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections import UserDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import analogtorch as at
from analogtorch.evaluate.described import name_of
from analogtorch.evaluate.identity import attribute_digests
from analogtorch.evaluate.metric_identity import kept_of
from tests.crossbar import crossbar

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 4
BATCHES = [(X, Y)]
Run = Callable[..., at.Sweep]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a sweep of a small model, or of another one, in one folder."""

    def swept(metric: Any, model: nn.Module | None = None) -> at.Sweep:
        torch.manual_seed(0)
        model = at.convert(nn.Sequential(nn.Linear(6, 4)), crossbar()) if model is None else model
        return at.sweep(model, metric, num_chips=1, times=["0 s"], folder=tmp_path)

    return swept


def _head(tmp_path: Path, **changes: Any) -> None:
    """Change the head of a folder; None: as an earlier version wrote it, without that part."""
    path = tmp_path / "sweep.json"
    head = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in head.items() if value is not None}))


def _top(model: nn.Module, k: int, scale: Any = None) -> float:
    return float(model(X).topk(k).indices.eq(Y[:, None]).any(-1).float().mean())


def _top_of(k: int) -> Callable[[nn.Module], float]:
    calls = 0

    def top(chip: nn.Module) -> float:
        nonlocal calls
        calls += 1  # it tells no metric from another
        return _top(chip, k)

    return top


class _Ranked:
    def __init__(self, k: int) -> None:
        self.k = k

    def top(self, chip: nn.Module) -> float:
        return _top(chip, self.k)


def _in_script(returned: str, k: int = 1) -> Callable[[nn.Module], float]:
    """Return a function of a notebook or script, which may be written anew under its name."""
    around = {"__name__": "__main__", "top": _top, "k": k}
    exec(f"def metric(chip):\n    return {returned}\n", around)
    return around["metric"]


def _top_one(model: nn.Module) -> float:
    return _top(model, 1)


def _third(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)[:, 2]


def _fourth(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)[:, 3]


def _f1(**options: Any) -> Any:
    torchmetrics = pytest.importorskip("torchmetrics")
    f1 = torchmetrics.F1Score(task="multiclass", num_classes=4, **options)
    return at.metrics.measured(f1, BATCHES)


def _auc(forward: Any) -> Any:
    return at.metrics.auc([(X, (Y == 2).long())], forward=forward)


class _Slotted:
    __slots__ = ("right", "shift")

    def __init__(self, shift: int) -> None:
        self.shift = shift

    def reset(self) -> None:
        self.right: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.right.append((outputs.argmax(-1) == targets + self.shift).float())

    def compute(self) -> Tensor:
        return torch.cat(self.right).mean()


class _Own(_Slotted):
    def __init__(self, shift: Any, **options: Any) -> None:
        super().__init__(shift)
        vars(self).update(options)


@dataclasses.dataclass
class _Top:
    """A metric that is an object, with settings that its call does not change."""

    k: int = 1
    classes: list[int] = dataclasses.field(default_factory=list)

    def __call__(self, chip: nn.Module) -> float:
        return _top(chip, self.k)


class _Counting(_Top):
    def __call__(self, chip: nn.Module) -> float:
        self.k += 1
        return _top(chip, 1)


class _Listing(_Top):
    def __call__(self, chip: nn.Module) -> float:
        found = []
        found.append(_top(chip, self.k))
        return found[0]


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        (_Top(1), _Top(2), "metric settings: k 1 there and 2 here"),
        (_Listing(1), _Listing(2), "metric settings: k 1 there and 2 here"),
        (_Counting(1, [1]), _Counting(5, [2]), r"classes \[1\] there and \[2\] here"),
        (_Top(1, [1]), _Top(1, [2]), r"metric settings: classes \[1\] there and \[2\] here"),
    ],
)
def test_a_folder_tells_metrics_that_are_objects_apart(
    one: _Top, other: _Top, difference: str, run: Run
) -> None:
    first = run(one)
    with pytest.raises(ValueError, match=difference):
        run(other)
    assert torch.equal(run(dataclasses.replace(one)).values, first.values)


def test_what_the_call_of_an_object_changes_is_no_setting_of_it(run: Run) -> None:
    first = run(_Counting(1))
    assert torch.equal(run(_Counting(5)).values, first.values)


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        (lambda: _Slotted(0), lambda: _Slotted(1), "shift 0 there and 1 here"),
        (lambda: _Own(np.int64(0)), lambda: _Own(np.int64(1)), "shift 0 there and 1 here"),
        (lambda: _Own(0, a=[1]), lambda: _Own(0, a=[2]), r"a \[1\] there and \[2\] here"),
        (lambda: _Own(0, _a=1), lambda: _Own(0, a=_third), "a None there and '.*_third' here"),
    ],
    ids=["slots", "NumPy", "list", "function"],
)
def test_a_folder_tells_objects_of_one_class_apart(
    one: Callable[[], Any], other: Callable[[], Any], difference: str, run: Run
) -> None:
    used = one()
    used.reset()
    used.update(torch.eye(4), torch.arange(4))
    for metric in (one(), used, one()):
        run(at.metrics.measured(metric, BATCHES, higher_is_better=True))
    assert len(used.right) == 1
    with pytest.raises(ValueError, match=f"another experiment .metric settings: {difference}"):
        run(at.metrics.measured(other(), BATCHES, higher_is_better=True))


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        (
            lambda: lambda chip: at.accuracy(chip, BATCHES),
            lambda: lambda chip: nn.functional.cross_entropy(chip(X), Y).item(),
            "metric code 'cpython",
        ),
        (
            lambda: lambda chip, k=1: _top(chip, k),
            lambda: lambda chip, k=2: _top(chip, k),
            "metric code 'cpython",
        ),
        (
            lambda: torch.no_grad()(lambda chip: at.accuracy(chip, BATCHES)),
            lambda: torch.no_grad()(lambda chip: 0.5),
            "metric code 'cpython",
        ),
        (lambda: _top_of(1), lambda: _top_of(2), "metric code 'cpython"),
        (lambda: _Ranked(1).top, lambda: _Ranked(2).top, r"metric settings: k 1 there and 2 here"),
        (lambda: _in_script("top(chip, 1)"), lambda: _in_script("top(chip, 2)"), "metric code"),
        (
            lambda: _in_script("top(chip, k)"),
            lambda: _in_script("top(chip, k)", k=2),
            "metric code",
        ),
        (
            lambda: lambda chip: float(np.mean([x.sum().item() for x in chip(X)])),
            lambda: lambda chip: float(np.mean([x.max().item() for x in chip(X)])),
            "metric code 'cpython",
        ),
        (
            lambda: functools.partial(_top, k=1),
            lambda: functools.partial(_top, k=2),
            "metric settings: keywords: k 1 there and 2 here",
        ),
        (
            lambda: functools.partial(_top, k=1, scale=(1.0, "a")),
            lambda: functools.partial(_top, k=1, scale=(2.0, "a")),
            "metric settings: keywords: scale",
        ),
        (
            lambda: functools.partial(_top, k=np.int64(1)),
            lambda: functools.partial(_top, k=np.int64(2)),
            "metric settings: keywords: k 1 there and 2 here",
        ),
        (
            lambda: functools.partial(_top, k=1, scale=torch.float16),
            lambda: functools.partial(_top, k=1, scale=torch.bfloat16),
            "metric settings: keywords: scale 'torch.float16' there and 'torch.bfloat16' here",
        ),
        (
            lambda: functools.partial(_top, k=1),
            lambda: functools.partial(lambda m, k: 0.5, k=1),
            "metric settings: function",
        ),
        (
            lambda: _f1(average="micro"),
            lambda: _f1(average="macro"),
            "metric settings: average 'micro' there and 'macro' here",
        ),
        (lambda: _f1(), lambda: _f1(top_k=3), "metric settings: top_k 1 there and 3 here"),
        (lambda: _auc(_third), lambda: _auc(_fourth), "metric settings: forward '.*_third' there"),
        (
            lambda: _auc(lambda chip, x: chip(x)[:, 2]),
            lambda: _auc(lambda chip, x: chip(x)[:, 3]),
            "metric code 'cpython",
        ),
    ],
    ids=[
        *(
            "lambda",
            "default",
            "decorated",
            "enclosed",
            "method",
            "script",
            "global of a script",
            "code inside",
            "partial",
            "tuple",
            "NumPy",
            "dtype",
            "function of a partial",
        ),
        *("average", "top k", "forward", "forward that is a lambda"),
    ],
)
def test_a_folder_tells_metrics_of_one_name_apart(
    one: Callable[[], Any], other: Callable[[], Any], difference: str, run: Run, tmp_path: Path
) -> None:
    expected = run(one()).values
    assert torch.equal(run(one()).values, expected)
    with pytest.raises(ValueError, match=f"another experiment .*{difference}"):
        run(other())
    # an earlier version kept none of it
    _head(tmp_path, **{"metric settings": None, "metric code": None})
    assert torch.equal(run(one()).values, expected)
    with pytest.raises(ValueError, match="another experiment"):
        run(other())


def test_what_a_metric_keeps_of_its_measurements_is_none_of_its_settings(run: Run) -> None:
    def noting(model: nn.Module, log: list[float], *, seen: dict[int, float] = {}) -> float:  # noqa: B006
        log.append(at.accuracy(model, BATCHES))
        seen[len(seen)] = log[-1]
        return log[-1]

    metric = functools.partial(noting, log=[])
    run(metric)
    run(metric)


def test_code_of_another_python_is_not_compared(run: Run, tmp_path: Path) -> None:
    run(lambda chip: at.accuracy(chip, BATCHES))
    _head(tmp_path, **{"metric code": "cpython-30 0123456789abcdef"})
    run(lambda chip: at.accuracy(chip, BATCHES))
    with pytest.raises(ValueError, match="another experiment .held samples .*, metric code"):
        run(lambda chip: 0.5)


def test_code_is_the_same_wherever_it_stands_and_in_each_process() -> None:
    words = 'lambda model: model.name in {"yes", "no", "up", "down", "left", "right"}'
    first, second = eval(words), eval(f"\n\n\n{words}")
    assert kept_of(first) == kept_of(second)
    # the order of this set differs from process to process
    code = kept_of(first)["metric code"]
    assert code.startswith("cpython-")
    script = f"from analogtorch.evaluate.metric_identity import kept_of; print(kept_of({words}))"
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        found = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, check=True
        )
        assert code in found.stdout.decode()


def test_what_a_metric_counts_is_none_of_its_settings(run: Run) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    one = torchmetrics.KendallRankCorrCoef(num_outputs=4)
    before = at.metrics.measured(one, BATCHES).settings
    one.update(torch.randn(8, 4), torch.randn(8, 4))
    assert at.metrics.measured(one, BATCHES).settings == before
    assert before["num_outputs"] == 4


@dataclasses.dataclass
class _Options:
    scale: float


class _Refusing(dict[str, Any]):
    """A mapping with a setting that is missing, as that of OmegaConf refuses it."""

    def __getitem__(self, key: str) -> Any:
        raise ValueError(f"Missing mandatory value: {key}")


class _Scaled(nn.Module):
    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)
        self.mean: Any = torch.zeros(6)
        self.options: Any = {"scale": 1.0}
        vars(self).update(attributes)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x - torch.as_tensor(self.mean)) * self.options["scale"]


@pytest.mark.parametrize(
    "attributes",
    [
        {"mean": torch.ones(6)},
        {"mean": np.ones(6, np.float32)},
        {"count": np.int64(3)},
        {"options": {"scale": 2.0}},
        {"options": {"scale": torch.tensor(2.0)}},
        {"means": [[0.0], [1.0]]},
        {"means": (torch.zeros(2), [np.ones(2)])},
    ],
    ids=["tensor", "array", "NumPy", "dict", "tensor in a dict", "lists", "arrays in lists"],
)
def test_what_a_model_keeps_in_public_attributes_makes_another_experiment(
    attributes: dict[str, Any], run: Run, tmp_path: Path
) -> None:
    def model(**attributes: Any) -> nn.Module:
        torch.manual_seed(0)
        return at.convert(_Scaled(**attributes), crossbar()).eval()

    def metric(view: nn.Module) -> float:
        return view(X).square().mean().item()

    expected = run(metric, model()).values
    assert torch.equal(run(metric, model(_cache=torch.ones(3))).values, expected)
    with pytest.raises(ValueError, match=r"another experiment .attributes: \w+"):
        run(metric, model(**attributes))
    _head(tmp_path, attributes=None)  # as an earlier version wrote it
    run(metric, model())
    with pytest.raises(ValueError, match=r"another experiment .attributes: \w+"):
        run(metric, model(**attributes))


def test_attributes_that_no_number_depends_on_are_left_out() -> None:
    plain = attribute_digests(nn.Linear(2, 2))
    for attributes in (
        {"options": _Options(scale=1.0)},  # such as the configuration of a model of transformers
        {"hf_device_map": {"": "cpu"}},
        {"calls": [object()]},
        {"shape": (2, 3)},  # among the options
        {"cache": {}, "states": [[], {}]},
        {"options": _Refusing(scale=1.0)},
    ):
        layer = nn.Linear(2, 2)
        vars(layer).update(attributes)
        assert attribute_digests(layer) == plain
    assert attribute_digests(_Scaled()) != plain


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (str.lower, "builtins.str.lower"),
        (dict.get, "builtins.dict.get"),
        ([].__len__, "builtins.list.__len__"),
        (torch.Tensor.relu, "torch._C.TensorBase.relu"),
        (str.maketrans, "None.str.maketrans"),  # as folders of before have it
        (_top, f"{__name__}._top"),
    ],
)
def test_methods_of_built_in_classes_have_names(function: Any, name: str, run: Run) -> None:
    assert name_of(function) == name
    run(functools.partial(lambda model, clean: 0.5, clean=function))
    run(functools.partial(lambda model, clean: 0.5, clean=function))


class _Keeping(nn.Module):
    """A model that counts, and keeps results of its passes, as many do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)
        torchmetrics = pytest.importorskip("torchmetrics")
        self.val_acc = torchmetrics.classification.MulticlassAccuracy(4)
        self.val_auc = torchmetrics.classification.BinaryAUROC()  # it counts in lists
        self.range = torchmetrics.MinMaxMetric(torchmetrics.MeanMetric())
        self.states: Any = {}

    def forward(self, x: Tensor) -> Tensor:
        self.features = self.layer(x)
        self.states["last"] = [self.features]
        return self.features


def test_what_a_model_counts_and_keeps_of_a_pass_with_gradients_is_left_out(run: Run) -> None:
    def metric(view: nn.Module) -> float:
        with torch.no_grad():
            return view(X).square().mean().item()

    model = at.convert(_Keeping(), crossbar()).eval()
    expected = run(metric, model).values
    model.val_acc.update(model(X), Y)
    model.val_auc.update(model(X)[:, 0], Y > 1)
    model.range(model(X))
    assert torch.equal(run(metric, model).values, expected)
    with torch.no_grad():
        model(X)
    remedy = "features None there and '.*; give another folder, and attributes .* self._features"
    with pytest.raises(ValueError, match=remedy):
        run(metric, model)


def test_a_model_that_has_run_is_no_other(run: Run) -> None:
    model = at.convert(nn.Sequential(nn.Linear(6, 4)), crossbar()).eval()
    for _ in range(2):
        run(_top_one, model)
        model(X)


def test_the_order_of_keys_is_none_of_the_settings() -> None:
    one, other = _Scaled(), _Scaled()
    one.options = {"scale": 1.0, "tables": {"a": torch.ones(2), 3: [2.0]}}
    other.options = {"tables": {3: [2.0], "a": torch.ones(2)}, "scale": 1.0}
    assert attribute_digests(one) == attribute_digests(other)
    other.options["tables"][3] = [1.0]
    found, expected = attribute_digests(other), attribute_digests(one)
    assert found.pop("options") != expected.pop("options")
    assert found == expected


def _right(x: Tensor, y: Tensor) -> Callable[[nn.Module], float]:
    """Return a local function that holds samples."""
    return lambda chip: float((chip(x).argmax(-1) == y).float().mean())


def _from_list(x: Tensor, y: Tensor) -> Callable[[nn.Module], float]:
    batches = [(x, y)]

    def right(chip: nn.Module) -> float:
        return at.accuracy(chip, batches)

    return lambda chip: 1 - right(chip)


def _loaded(x: Tensor, y: Tensor) -> Any:
    return at.metrics.accuracy(DataLoader(TensorDataset(x, y), 8, shuffle=True))


def _subset(x: Tensor, y: Tensor) -> Any:
    return at.metrics.accuracy(DataLoader(Subset(TensorDataset(x, y), range(12)), 4))


def _of_arrays(x: np.ndarray, y: np.ndarray) -> Callable[[nn.Module], float]:
    def right(chip: nn.Module) -> float:
        return float((chip(torch.from_numpy(x)).detach().numpy().argmax(-1) == y).mean())

    return right


def _one_minus(metric: Any) -> Callable[[nn.Module], float]:
    return lambda chip: 1 - metric(chip)


class _Object:
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __call__(self, chip: nn.Module) -> float:
        return float((chip(self.x).argmax(-1) == self.y).float().mean())

    measure = __call__


class _Appending(_Object):
    """An object whose call changes a list of its own, and an attribute that is no sample."""

    calls = 0

    def __call__(self, chip: nn.Module) -> float:
        right = []
        for x, y in zip(self.x.split(4), self.y.split(4), strict=True):
            right.append((chip(x).argmax(-1) == y).float())
        self.calls += 1
        return float(torch.cat(right).mean())


def _appending(x: Tensor, y: Tensor) -> Callable[[nn.Module], float]:
    def right(chip: nn.Module) -> float:
        found = []
        found.append(chip(x).argmax(-1) == y)
        return float(torch.cat(found).float().mean())

    return right


def _in_place(x: Tensor, y: Tensor) -> Callable[[nn.Module], float]:
    return lambda chip: float(chip(x).mul_(2).relu_().add(1).argmax(-1).eq(y).float().mean())


def _from_mapping(x: Tensor, y: Tensor) -> Callable[[nn.Module], float]:
    batch = UserDict(x=x, y=y)
    return lambda chip: float((chip(batch["x"]).argmax(-1) == batch["y"]).float().mean())


def _mean_right(chip: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((chip(x).argmax(-1) == y).float().mean())


SAMPLES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "lambda": _right,
    "list": _from_list,
    "loader": _loaded,
    "subset": _subset,
    "arrays": lambda x, y: _of_arrays(x.numpy(), y.numpy()),
    "of a metric": lambda x, y: _one_minus(at.metrics.accuracy([(x, y)])),
    "object": _Object,
    "method": lambda x, y: _Object(x, y).measure,
    "object that appends": _Appending,
    "function that appends": _appending,
    "in place": _in_place,
    "mapping": _from_mapping,
    "partial": lambda x, y: functools.partial(_mean_right, x=x, y=y),
}


@pytest.mark.parametrize("make", SAMPLES.values(), ids=SAMPLES)
def test_a_folder_knows_the_samples_that_a_metric_holds(
    run: Run, make: Callable[[Tensor, Tensor], Any], tmp_path: Path
) -> None:
    first = run(make(X, Y))
    assert torch.equal(run(make(X.clone(), Y.clone())).values, first.values)
    with pytest.raises(ValueError, match="samples"):
        run(make(X, (Y + 1) % 4))
    _head(tmp_path, **{"samples": "", "held samples": None})  # of a version that knew fewer
    assert torch.equal(run(make(X, (Y + 1) % 4)).values, first.values)


def test_what_a_metric_fills_is_no_sample_of_it(run: Run) -> None:
    kept = [torch.zeros(1)]

    def measure(chip: nn.Module) -> float:
        kept.append(chip(X).mean())
        return float(kept[-1])

    class Counts:
        def __init__(self) -> None:
            self.total = torch.zeros(())

        def __call__(self, chip: nn.Module) -> float:
            self.total = self.total + 1
            return float(chip(X).mean())

    counts = Counts()
    for metric in (counts, None, max):
        assert kept_of(metric)["held samples"] == ""
    before = kept_of(measure)["held samples"]
    assert before == kept_of(lambda chip: chip(X))["held samples"]
    first = run(measure)
    assert len(kept) > 1
    assert kept_of(measure)["held samples"] == before
    assert torch.equal(run(measure).values, first.values)
    assert counts(nn.Identity())
    assert kept_of(counts)["held samples"] == ""
