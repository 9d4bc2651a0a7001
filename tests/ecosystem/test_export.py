"""torch.export and ONNX: a model in evaluation becomes a graph without a line of its user's."""

import io
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.export import Dim

import analogtorch as at
from tests.ecosystem.models import CHIP, COMPILED, ENTRIES, TORCHS_OWN, Entry, few

pytestmark = TORCHS_OWN


def _batch(entry: Entry) -> tuple:
    """Return the dynamic shapes for torch.export: the batch may have any size."""
    return (tuple({entry.batch_dim: Dim.DYNAMIC} for _ in entry.shapes),)


def _larger(entry: Entry) -> tuple[Tensor, ...]:
    return tuple(
        torch.cat([a, b], entry.batch_dim)
        for a, b in zip(entry.inputs(1), entry.inputs(2), strict=True)
    )


def _session(program: torch.onnx.ONNXProgram | None, folder: Path) -> Callable[..., Tensor]:
    """The program as onnxruntime runs its file."""
    assert program is not None
    assert {node.domain for node in program.model.graph} == {""}  # ONNX's own operators
    program.save(folder / "model.onnx")
    onnx.checker.check_model(folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    names = [given.name for given in session.get_inputs()]

    def run(*x: Tensor) -> Tensor:
        (y,) = session.run(None, dict(zip(names, (t.numpy() for t in x), strict=True)))
        return torch.tensor(y)

    return run


def _close(y: Tensor, expected: Tensor) -> bool:
    return torch.allclose(y, expected, rtol=0, atol=1e-4 * expected.detach().abs().max().item())


@pytest.mark.parametrize("entry", COMPILED)
def test_an_exported_program_gives_the_same_numbers_for_any_batch(entry: Entry) -> None:
    model = entry.converted().eval()  # without ranges, which ONNX below has
    program = torch.export.export(model, entry.inputs(), dynamic_shapes=_batch(entry))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    for x in (entry.inputs(), _larger(entry)):
        for graph in (program.module(), loaded.module()):
            assert torch.equal(graph(*x), model(*x))


@pytest.mark.parametrize("entry", few("linear", "conv2d", "gru_cell"))
def test_onnxruntime_gives_the_same_numbers_for_any_batch(entry: Entry, tmp_path: Path) -> None:
    model = entry.analog().eval()
    exported = torch.onnx.export(
        model, entry.inputs(), dynamo=True, dynamic_shapes=_batch(entry), verbose=False
    )
    run = _session(exported, tmp_path)
    for x in (entry.inputs(), _larger(entry)):
        assert _close(run(*x), model(*x))


def test_onnx_from_an_exported_program_with_ranges_per_tile(tmp_path: Path) -> None:
    entry = ENTRIES[0]
    model, x = entry.converted().eval(), entry.inputs()
    at.calibrate(model, [x], forward=lambda m, x: m(*x), per="tile")
    program = torch.export.export(model, x)
    assert _close(
        _session(torch.onnx.export(program, dynamo=True, verbose=False), tmp_path)(*x), model(*x)
    )


def test_a_programmed_chip_becomes_onnx_if_its_readings_have_no_noise(tmp_path: Path) -> None:
    entry = ENTRIES[0]
    quiet, x = CHIP.replace(adc={"noise": 0.0}), entry.inputs()
    model = entry.calibrated(at.convert(entry.digital(), quiet))
    aged = at.program(model, seed=1).at("1 day")
    exported = torch.onnx.export(aged, x, dynamo=True, verbose=False)
    assert _close(_session(exported, tmp_path)(*x), aged(*x))
    noisy = at.program(entry.analog(), seed=1).at("1 day")
    expected = r"(?s)Export a model in evaluation mode.*chip.without\('output_noise'"
    with pytest.raises(torch.onnx.OnnxExporterError, match=expected):
        torch.onnx.export(noisy, x, dynamo=True, verbose=False)


@pytest.mark.filterwarnings("ignore:Exporting a model while it is in training mode:UserWarning")
def test_training_does_not_become_onnx() -> None:
    with pytest.raises(
        torch.onnx.OnnxExporterError, match=r"Export a model in evaluation mode, by model\.eval\(\)"
    ):
        torch.onnx.export(ENTRIES[0].analog(), ENTRIES[0].inputs(), dynamo=True, verbose=False)


class _First(torch.nn.Module):
    """Returns the first output of a layer that takes an input as often as given."""

    def __init__(self, layer: torch.nn.Module, times: int = 1) -> None:
        super().__init__()
        self.layer, self.times = layer, times

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(*[x] * self.times)
        return y[0] if isinstance(y, tuple) else y


@pytest.mark.parametrize(
    "chip",
    [at.chips.hermes64(output_noise=0.04), at.chips.reram_4mb().replace(adc={"noise": 0.04})],
    ids=["hermes64", "slices"],
)
@pytest.mark.parametrize(
    ("make", "dims"),
    [
        (lambda: _First(torch.nn.Linear(6, 5)), 2),
        (lambda: _First(torch.nn.LSTM(6, 5, batch_first=True)), 3),
        (lambda: _First(torch.nn.LSTM(6, 5, proj_size=3, batch_first=True)), 3),
        (lambda: _First(torch.nn.RNN(6, 5, batch_first=True)), 3),
        (lambda: _First(torch.nn.GRUCell(6, 5)), 2),
        (lambda: _First(torch.nn.MultiheadAttention(6, 2, batch_first=True), 3), 3),
    ],
    ids=["Linear", "LSTM", "projection", "RNN", "GRUCell", "attention"],
)
def test_a_programmed_chip_with_noise_is_exported_for_any_batch(
    make: Callable[[], torch.nn.Module], dims: int, chip: at.Chip
) -> None:
    torch.manual_seed(0)
    model = at.convert(make().eval(), chip)
    view, x = at.program(model, seed=1).at(0), torch.randn(7, *[3] * (dims - 2), 6)
    program = torch.export.export(view, (x[:4],), dynamic_shapes=({0: Dim("batch", min=2)},))
    assert _close(program.module()(x), at.program(model, seed=1).at(0)(x))


@pytest.mark.parametrize("noise", [0.0, 0.04])
def test_a_programmed_chip_of_one_bare_layer_is_exported(noise: float) -> None:
    torch.manual_seed(0)
    model = at.convert(torch.nn.Linear(6, 5), at.chips.hermes64(output_noise=noise))
    view, x = at.program(model, seed=1).at("1 day"), torch.randn(4, 6)
    program = torch.export.export(view, (x,))
    assert _close(program.module()(x), at.program(model, seed=1).at("1 day")(x))
