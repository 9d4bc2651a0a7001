"""What a run of a model may change, put back after it: modes, buffers and random states."""

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from analogtorch.conversion.kinds import analog_layers
from analogtorch.nn import AnalogLayer
from analogtorch.ops.scope import random_kept

Model = TypeVar("Model", bound=nn.Module)


def switched(model: Model, *, training: bool = False) -> Model:
    """Put a model in training or evaluation mode, and return it.

    Its own ``train`` may return nothing, as those that freeze batch norms often do.
    """
    model.train(training)
    return model


@contextlib.contextmanager
def same_random() -> Iterator[None]:
    """Restore the random states of torch, numpy and Python at the end of the context."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        gpus = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
        with random_kept(range(gpus)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode while the context lasts.

    Classes with a ``train`` of their own, as adapters that merge, are switched back by it.
    """
    modes = {m: m.training for m in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():  # those around others come first
            if module.training != training and type(module).train is not nn.Module.train:
                module.train(training)
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode, and undo what runs write into buffers of digital ones.

    So each pass over the batches starts from the state of the model, as of a net that streams.
    """
    with same_buffers(model, analog=False), evaluating(model):
        yield


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore modes, buffers, random states and the marks of layers that have run."""
    unread = [layer for _, layer in analog_layers(model) if not layer.has_run]
    try:
        with same_buffers(model), same_random(), evaluating(model):
            yield
    finally:
        for layer in unread:
            vars(layer).pop("has_run", None)


@contextlib.contextmanager
def same_buffers(model: nn.Module, *, analog: bool = True) -> Iterator[None]:
    """Restore buffers, which a forward may have written, when the context ends.

    Numbers, texts and flags of a module whose buffers it wrote go back with them: they may say what
    the buffers hold, as how much of a table is filled. Buffers of analog layers, which count what a
    chip has read, stay as they are unless ``analog``.
    """
    # those of a scripted module cannot be replaced
    kept = (torch.jit.ScriptModule,) if analog else (torch.jit.ScriptModule, AnalogLayer)
    modules = [m for m in model.modules() if not isinstance(m, kept)]
    buffers = {m: {n: (b, _copied(b)) for n, b in m._buffers.items()} for m in modules}
    plain = {m: _plain(m) for m in modules if m._buffers and not isinstance(m, AnalogLayer)}
    try:
        yield
    finally:
        for module, before in buffers.items():
            if module in plain and _written(module, before):
                for name in _plain(module).keys() - plain[module].keys():
                    del vars(module)[name]
                vars(module).update(plain[module])
            restored = {name: _restored(*pair) for name, pair in before.items()}
            module._buffers.clear()
            module._buffers.update(restored)


def _plain(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module that are numbers, texts, flags or None."""
    kinds = (bool, int, float, str, type(None))
    return {n: v for n, v in vars(module).items() if isinstance(v, kinds) and n != "training"}


def _written(module: nn.Module, before: Mapping[str, tuple[Tensor | None, Tensor | None]]) -> bool:
    """Return whether buffers of a module are others than ``before``, or hold other numbers."""
    if module._buffers.keys() != before.keys():
        return True
    return any(module._buffers[name] is not b or _differs(b, c) for name, (b, c) in before.items())


def _differs(buffer: Tensor | None, copied: Tensor | None) -> bool:
    """Return whether a buffer holds other numbers; torch compares none that are not strided."""
    if buffer is None or copied is None:
        return False
    return buffer.layout is not torch.strided or not torch.equal(buffer, copied)


def _copied(buffer: Tensor | None) -> Tensor | None:
    """Return a copy, which requires gradients where the buffer does."""
    if buffer is None or buffer.is_meta:
        return None
    return buffer.detach().clone().requires_grad_(buffer.requires_grad)


@torch.no_grad()
def _restored(buffer: Tensor | None, copied: Tensor | None) -> Tensor | None:
    if buffer is None or copied is None:
        return buffer
    if buffer.requires_grad and not copied.requires_grad:  # of what was written into it in place
        buffer = buffer.detach()
    if _differs(buffer, copied):
        with torch.inference_mode(buffer.is_inference()):
            buffer.copy_(copied)
    return buffer
