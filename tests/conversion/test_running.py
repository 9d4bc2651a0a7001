import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torchs

from analogtorch.conversion.running import Running


class Noting(nn.Module):
    """Notes which module is running while it is."""

    def __init__(self, seen: list[str], *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.ModuleList(inner)
        self.seen, self.running = seen, list[Running]()

    def note(self) -> None:
        self.seen.append(self.running[0].name(self.running[0].innermost))

    def forward(self, x: Tensor) -> Tensor:
        self.note()
        for module in self.inner:
            x = module(x)
        self.note()
        return x


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("no")


def _run(model: nn.Module, x: Tensor) -> Running:
    running = Running(model)
    for module in model.modules():
        if isinstance(module, Noting):
            module.running[:] = [running]
    with running.hooked():
        model(x)
    return running


def test_the_innermost_module_that_is_called() -> None:
    seen: list[str] = []
    running = _run(Noting(seen, nn.ReLU(), Noting(seen)), torch.ones(2))
    assert seen == ["", "inner.1", "inner.1", ""]
    assert running.innermost is None
    assert running.name(None) == ""


def test_a_method_that_is_called_directly_counts_for_its_caller() -> None:
    class Direct(Noting):
        def forward(self, x: Tensor) -> Tensor:
            return self.inner[0].forward(x)

    seen: list[str] = []
    _run(Direct(seen, Noting(seen)), torch.ones(2))
    assert seen == ["", ""]


def test_the_module_that_an_error_comes_out_of() -> None:
    model = nn.Sequential(nn.Sequential(nn.ReLU(), Failing()))
    running = Running(model)
    with pytest.raises(ValueError, match="no") as error, running.hooked():
        model(torch.ones(2))
    assert running.raised(error.value) is model[0][1]
    assert running.raised(ValueError("no")) is None
    assert running.innermost is None
    assert not torchs._global_forward_hooks
    assert not torchs._global_forward_pre_hooks


def test_an_error_that_the_model_handles_is_forgotten() -> None:
    class Careful(Noting):
        def forward(self, x: Tensor) -> Tensor:
            try:
                self.inner[0](x)
            except ValueError:
                self.note()
            return self.inner[1](x)

    seen: list[str] = []
    model = Careful(seen, Failing(), nn.Linear(3, 2))
    with pytest.raises(RuntimeError) as error:
        _run(model, torch.ones(2))
    assert seen == [""]
    (running,) = model.running
    assert running.raised(error.value) is model.inner[1]


def test_other_models_and_other_threads_are_left_out() -> None:
    seen: list[str] = []

    class Threaded(Noting):
        def forward(self, x: Tensor) -> Tensor:
            thread = threading.Thread(target=self.inner[0], args=(x,))
            thread.start()
            thread.join()
            return nn.Identity()(x)

    running = _run(Threaded(seen, Noting(seen)), torch.ones(2))
    assert seen == ["", ""]
    assert running.innermost is None
