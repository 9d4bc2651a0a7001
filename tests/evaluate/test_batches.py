"""Folders of results know the batches that they are of by all that these hold."""

import dataclasses
import datetime
import enum
import hashlib
import json
import re
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import analogtorch as at
from analogtorch.evaluate.batches import batches_digest
from tests.crossbar import crossbar

X = torch.arange(12.0).view(4, 3)
Y = torch.arange(4)


@dataclasses.dataclass
class _Sample:
    x: Tensor
    scale: float


class _Pair(NamedTuple):
    x: Any
    y: Any


class _Colour(enum.Enum):
    RED = 1
    BLUE = 2


class _Boxes(Tensor):
    """A tensor with an attribute, as those of torchvision."""


def _boxes(form: str) -> Tensor:
    found = X.clone().as_subclass(_Boxes)
    found.form = form  # type: ignore[attr-defined]
    return found


def _sparse(value: float, column: int) -> Tensor:
    return torch.sparse_coo_tensor([[0, 1], [column, 0]], [value, 2.0], (4, 3))


def _quantised(scale: float) -> Tensor:
    return torch.quantize_per_tensor(torch.zeros(3), scale, 0, torch.quint8)


OTHERS: dict[str, Callable[[], list[Any]]] = {
    "nesting": lambda: [
        [X, Y], [(X, Y)], [((X, Y),)], [[X], [Y]], [(X,), (Y,)], [X, [Y]], [[X, [], Y]],
    ],
    "numbers": lambda: [
        [{"x": X, "scale": v}] for v in (1, 1.0, True, "1", b"1", 1j, 5.0, None, _Colour(1))
    ],
    "enumerations": lambda: [[_Colour.RED], [_Colour.BLUE], ["RED"]],
    "of NumPy": lambda: [[np.float32(1)], [np.float64(1)], [np.int64(1)], [np.int64(2)], [1.0]],
    "keys": lambda: [[{"x": X, "z": Y}], [{"x": Y, "z": X}], [{1: X, 2: Y}], [{}]],
    "kinds": lambda: [[{"x": X, "y": Y}], [OrderedDict(x=X, y=Y)], [_Pair(X, Y)], [(X, Y)]],
    "dataclasses": lambda: [[_Sample(X, 1.0)], [_Sample(X, 2.0)], [{"x": X, "scale": 1.0}]],
    "arrays": lambda: [
        *([X.numpy().astype(kind)] for kind in ("f4", "f8", "i8")),
        *([a] for a in (X.numpy().T, X.numpy() + 1, np.array(["a", None]), np.array(["b", None]))),
        [X],
    ],
    "of the library": lambda: [
        [Path("a")], ["a"], [range(3)], [range(4)], [deque([1])], [[1]], [slice(1)],
        [datetime.date(2026, 1, 1)], [datetime.date(2026, 1, 2)], [datetime.timedelta(1)],
    ],
    "texts": lambda: [["ab"], ["a", "b"], [["ab"]], ["abc"]],
    "sparse": lambda: [
        *([_sparse(*of)] for of in ((1.0, 0), (1.0, 1), (3.0, 0))), [_sparse(1.0, 0).to_dense()],
    ],
    "compressed": lambda: [
        [_sparse(1.0, 0).to_sparse_csr()], [_sparse(1.0, 1).to_sparse_csr()],
        [_sparse(1.0, 0).to_sparse_csc()],
    ],
    "quantised": lambda: [[_quantised(0.1)], [_quantised(0.2)], [_quantised(0.1).dequantize()]],
    "attributes": lambda: [[_boxes("xyxy")], [_boxes("xywh")], [X]],
    "nested": lambda: [[torch.nested.nested_tensor([X, X[:n]])] for n in (1, 2)],
    "packed": lambda: [[pack_sequence([X[:3], X[:n]])] for n in (1, 2)],
    "tensors": lambda: [[X], [X.double()], [X.T], [torch.zeros(0, 3)], [torch.zeros(0, 2)]],
}  # fmt: skip


@pytest.mark.parametrize("given", OTHERS.values(), ids=OTHERS)
@pytest.mark.filterwarnings("ignore:Sparse:UserWarning", "ignore:.*quant:UserWarning")
@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
def test_all_that_batches_hold_counts(given: Callable[[], list[Any]]) -> None:
    digests = [batches_digest(batches) for batches in given()]
    assert len(set(digests)) == len(digests)
    assert [batches_digest(batches) for batches in given()] == digests


def test_the_same_data_elsewhere_is_the_same() -> None:
    assert batches_digest([nn.Parameter(X)]) == batches_digest((X.clone(),))
    assert batches_digest([X.T]) == batches_digest([X.T.contiguous()])
    conjugated = torch.complex(X, X).conj()
    assert batches_digest([conjugated]) == batches_digest([conjugated.resolve_conj()])
    mapped = [{"x": X.numpy(), "words": ["a", None]}]
    assert batches_digest(mapped) == batches_digest([{"x": X.numpy().copy(), "words": ["a", None]}])


def test_what_has_no_digest_is_refused_by_its_place() -> None:
    odd = ({1, 2}, object(), lambda x: x, _Sample, np.ma.masked_array([1.0]), X.to("meta"))
    for value in odd:
        with pytest.raises(TypeError, match=r"(?s)adapt: batches\[1\]\['of'\]\[0\] is .*no digest"):
            batches_digest([X, {"of": [value]}], "adapt: batches")
    with pytest.raises(TypeError, match=r"batches\[0\]: key\[0\] is .*object"):
        batches_digest([{object(): X}])


def _former(*tensors: Tensor) -> str:
    """Return the digest of an earlier version, of the tensors alone."""
    found = hashlib.sha256()
    for t in tensors:
        found.update(f"{t.dtype} {tuple(t.shape)}\n".encode())
        found.update(t.contiguous().numpy().tobytes())
    return found.hexdigest()


def test_what_earlier_versions_kept_is_kept_first() -> None:
    for batch in ((X, Y), [X, [Y]], _Pair(X, Y), {"x": X, "labels": Y}, OrderedDict(x=[X], y=Y)):
        assert batches_digest([batch]).startswith(f"{_former(X, Y)}-")


class _Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(3, 4)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        out: Tensor = self.body(x * scale)
        return out


def _scaled(scale: float) -> list[Any]:
    return [{"x": X, "scale": scale}]


def _adapt(batches: list[Any], folder: Path) -> object:
    return at.hwa.adapt(
        _Scaled(), batches, chip=crossbar(), steps=1, num_chips=1, folder=folder,
        calibration={"effort": "ranges"},
    )  # fmt: skip


def _metric(model: nn.Module) -> float:
    return 1.0


def _sweep(batches: list[Any], folder: Path | None, **options: Any) -> object:
    model = at.calibrate(at.convert(_Scaled(), crossbar()), [X], effort="ranges")
    recovery = at.Recovery(batches=batches)
    return at.sweep(
        model, _metric, num_chips=2, times=["0 s"], recovery=recovery, folder=folder, **options
    )


def _samples(batches: list[Any], folder: Path) -> object:
    model = at.calibrate(at.convert(_Scaled(), crossbar()), [X], effort="ranges")
    metric = at.metrics.accuracy([(batch, Y) for batch in batches])
    return at.sweep(model, metric, num_chips=1, times=["0 s"], folder=folder)


def _plan(batches: list[Any], folder: Path | None) -> object:
    model = at.calibrate(at.convert(_Scaled(), crossbar()), [X], effort="ranges")
    metric = at.metrics.accuracy([(batch, Y) for batch in batches])
    return at.plan(
        model, metric, 0.01, example=X[:1], prepare=lambda m: at.calibrate(m, [X]),
        num_chips=1, max_plans=12, folder=folder,
    )  # fmt: skip


RUNS = (_adapt, _sweep, _samples, _plan)


@pytest.mark.parametrize("run", RUNS)
def test_a_folder_of_other_batches_is_refused(run: Any, tmp_path: Path) -> None:
    run(_scaled(1.0), tmp_path)
    run(_scaled(1.0), tmp_path)
    for other in (_scaled(5.0), _scaled(1), [{"x": X}]):
        with pytest.raises(ValueError, match="another .*(batches|samples|recovery)"):
            run(other, tmp_path)


@pytest.mark.parametrize("run", RUNS)
def test_batches_without_a_digest_are_refused_before_anything_is_written(
    run: Any, tmp_path: Path
) -> None:
    batches: list[Any] = [{"x": X, "scale": _Half()}]
    with pytest.raises(TypeError, match=r"(adapt|Recovery|metrics.accuracy).*\['scale'\] is <"):
        run(batches, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    if run is _sweep:
        run(batches, None, processes=2)
    elif run is _plan:
        run(batches, None)


class _Half:
    """Something of a user's own that a model takes."""

    def __rmul__(self, x: Tensor) -> Tensor:
        return 0.5 * x


@pytest.mark.parametrize("run", RUNS)
def test_folders_of_an_earlier_version_go_on_with_plain_batches(run: Any, tmp_path: Path) -> None:
    given = [X, X + 1]
    run(given, tmp_path)
    former = _former(X, X + 1) if run in (_adapt, _sweep) else _former(X, Y, X + 1, Y)
    new = {path: path.read_text() for path in tmp_path.rglob("*.json")}
    old = {path: re.sub(f"({former})-[0-9a-f]+", r"\1", text) for path, text in new.items()}
    assert old != new
    for path, text in old.items():
        path.write_text(text)
    run(given, tmp_path)
    with pytest.raises(ValueError, match="another (run|experiment)"):
        run([X, X + 2], tmp_path)
    for path in tmp_path.rglob("sweep.json"):
        assert json.loads(path.read_text()) == json.loads(new[path])
