"""The package's tensors are made on its devices and in its types, whatever torch's defaults are.

``torch.set_default_device`` and ``set_default_dtype`` are for tensors of users.
"""

import ast
import copy
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._device import _device_constructors

import analogtorch as at
from analogtorch.speech.augment import Augment
from analogtorch.speech.data import Clips
from analogtorch.speech.features import Mfcc
from analogtorch.speech.task import prepare
from analogtorch.speech.training.batches import Batches
from tests.crossbar import crossbar

PACKAGE = Path(at.__file__).parent
FACTORIES = {factory.__name__ for factory in _device_constructors()}
CHIP = crossbar(training=at.TrainingNoise(weight="device"))


class Net(nn.Module):
    """Convolution, recurrence and attention of a few weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, 6, 3, padding=1)
        self.norm = nn.BatchNorm1d(6)
        self.memory = nn.LSTM(6, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.memory(self.norm(self.first(x)).relu().mT)
        y, _ = self.attention(y, y, y, need_weights=False)
        return self.last(y.mean(1))


torch.manual_seed(0)
X = [torch.randn(6, 4, 5) for _ in range(4)]
NET = Net()
NET(X[0])  # statistics for the norm
NET.eval()
DATA = [(x, NET(x).argmax(-1)) for x in X]
SYSTEM = (torch.eye(6) + 0.1 * torch.randn(6, 6)).double(), torch.randn(6).double()
CLIPS = Clips(
    waveforms=torch.randint(-1000, 1000, (4, 16_000), dtype=torch.int16),
    labels=torch.arange(4) % 2,
    speakers=("a",) * 4,
    names=tuple("abcd"),
    classes=("yes", "no"),
)


def _accuracy(model: nn.Module) -> float:
    return at.accuracy(model, DATA)


def _path() -> Iterator[Any]:
    """Yield what each step of the package gives."""
    model = at.calibrate(at.convert(copy.deepcopy(NET), CHIP), X)
    yield model(X[0])
    trained = copy.deepcopy(model).train()
    torch.default_generator.manual_seed(1)
    nn.functional.cross_entropy(trained(X[0]), DATA[0][1]).backward()
    yield from (p.grad for p in trained.parameters())
    defects = at.Defects(cells=0.01, columns=0.01, tile_gain=0.01)
    chip = at.program(model, seed=1, method=at.ProgramAndVerify(), defects=defects)
    yield at.correct_columns(chip.at("1 day"), X[:1])(X[0])
    yield chip.writes()
    few: dict[str, Any] = {"num_chips": 1, "times": ["1 day"]}
    yield at.sweep(model, _accuracy, recovery=at.Recovery(batches=X[:1]), **few).values
    yield str(at.cost(at.map_to_chip(model, X[0])))
    yield at.solve(*SYSTEM, at.solver.rram_solver(), passes=2).x
    yield at.chips.mean_conductance(CHIP.cell, 1e5)
    reads = CHIP.replace(mvm_read_noise={"std": at.devices.SquareRoot(scale=0.02)})
    noisy = at.convert(copy.deepcopy(NET), reads).train()
    torch.default_generator.manual_seed(2)
    yield noisy(X[0])
    yield at.program(noisy.eval(), seed=1).at("1 h", compensation="global")(X[0])
    yield at.hwa.adapt(copy.deepcopy(NET), X, chip=CHIP, steps=1, num_chips=1).model(X[0])


def _speech() -> Iterator[Any]:
    splits = dict.fromkeys(("train", "val", "test"), CLIPS)
    task = prepare(splits, Augment(), seed=1)
    yield task.val[0]
    batches = Batches(task.make, 4, batch_size=2, seed=0)
    yield from (task.make(index, 1)[0] for index in batches.indices(1))
    yield Mfcc()(CLIPS.floats(slice(1)))


@functools.cache
def _expected(steps: Callable[[], Iterator[Any]]) -> list[Any]:
    """Return what steps give with torch's own defaults."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    found = list(steps())
    torch.set_default_dtype(before)
    return found


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


def test_results_do_not_depend_on_the_default_device() -> None:
    for steps in (_path, _speech):
        expected = _expected(steps)
        with torch.device("meta"):
            found = list(steps())
        assert all(_same(*pair) for pair in zip(expected, found, strict=True))


@pytest.fixture(params=[torch.float64, torch.bfloat16, torch.float16], ids=str)
def default_dtype(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let torch's default type be another one."""
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(torch.float32)


def test_results_do_not_depend_on_the_default_type(default_dtype: None) -> None:
    assert all(_same(*pair) for pair in zip(_expected(_path), list(_path()), strict=True))


def test_each_tensor_of_the_package_is_made_on_a_named_device() -> None:
    stray = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            of_torch = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
            named = any(keyword.arg == "device" for keyword in node.keywords)
            if of_torch and node.func.attr in FACTORIES and not named:
                stray.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    # a new network lies where the user's default device is, as any of torch.nn
    assert [each.split(":")[0] for each in stray] == ["speech/models/transformer.py"], stray
