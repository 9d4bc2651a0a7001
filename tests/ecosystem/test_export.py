"""torch.export and ONNX: a model in evaluation becomes a graph without a line of its user's."""

import io
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.export import Dim

from tests.ecosystem.models import TORCHS_OWN, Entry

pytestmark = TORCHS_OWN


def _batch(entry: Entry) -> tuple:
    """What torch.export is told of the sizes: the batch may have any."""
    return (tuple({entry.batch_dim: Dim.DYNAMIC} for _ in entry.shapes),)


def _larger(entry: Entry) -> tuple[Tensor, ...]:
    return tuple(torch.cat([a, b], entry.batch_dim) for a, b in zip(entry.inputs(1), entry.inputs(2), strict=True))


def _run(program: torch.onnx.ONNXProgram | None, x: tuple[Tensor, ...], tmp_path: Path) -> Tensor:
    """What onnxruntime makes of the program as a file."""
    assert program is not None
    program.save(tmp_path / "model.onnx")
    onnx.checker.check_model(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    names = [given.name for given in session.get_inputs()]
    (y,) = session.run(None, dict(zip(names, (t.numpy() for t in x), strict=True)))
    assert isinstance(y, np.ndarray)
    return torch.from_numpy(y)


@pytest.mark.parametrize("calibrated", [True, False])
def test_an_exported_program_gives_the_same_numbers_for_any_batch(entry: Entry, calibrated: bool) -> None:
    model = (entry.analog() if calibrated else entry.converted()).eval()
    program = torch.export.export(model, entry.inputs(), dynamic_shapes=_batch(entry))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    for x in (entry.inputs(), _larger(entry)):
        for graph in (program.module(), loaded.module()):
            assert torch.equal(graph(*x), model(*x))


def test_onnxruntime_gives_the_same_numbers_for_any_batch(entry: Entry, tmp_path: Path) -> None:
    model = entry.analog().eval()
    program = torch.onnx.export(model, entry.inputs(), dynamo=True, dynamic_shapes=_batch(entry), verbose=False)
    for x in (entry.inputs(), _larger(entry)):
        y = model(*x).detach()
        assert torch.allclose(_run(program, x, tmp_path), y, rtol=0, atol=1e-4 * y.abs().max().item())
    assert program is not None
    assert {node.domain for node in program.model.graph} == {""}
