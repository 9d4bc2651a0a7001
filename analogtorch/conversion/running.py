"""Which module of a model runs now, as torch's global module hooks show."""

import contextlib
import functools
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)


class Running:
    """The modules of a model that are being called, inside ``hooked``.

    A method that is called directly, ``layer.forward(x)``, counts for the module that calls it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(m): name for name, m in model.named_modules()}
        self._thread = threading.get_ident()
        self._called: list[nn.Module] = []
        self._raised: tuple[BaseException, nn.Module] | None = None

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        """Follow the calls of this thread.

        The hooks are those that torch calls for all modules: hooks of a module would turn the fused
        kernels of transformers off.
        """
        hooks = (
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        )
        try:
            with warnings.catch_warnings():
                # that compiled modules call them too is intended
                message = r"Using `torch.compile\(module\)` when there are global hooks"
                warnings.filterwarnings("ignore", message, UserWarning)
                yield
        finally:
            for hook in hooks:
                hook.remove()

    @property
    def innermost(self) -> nn.Module | None:
        """The innermost module of the model that is running; None outside of all."""
        return self._called[-1] if self._called else None

    def direct(self, module: nn.Module) -> None:
        """Let the module, of a copy of a model, run also where its ``forward`` is called directly.

        The ``forward`` becomes an attribute of the module.
        """
        forward = module.forward

        @functools.wraps(forward)
        def followed(*args: Any, **kwargs: Any) -> Any:
            self._called.append(module)
            try:
                return forward(*args, **kwargs)
            finally:
                self._called.pop()

        vars(module)["forward"] = followed

    def name(self, module: nn.Module | None) -> str:
        """Return the full name of a module; it is empty for the model itself and for None."""
        return "" if module is None else self._names[id(module)]

    def raised(self, error: BaseException) -> nn.Module | None:
        """Return the innermost module that raised ``error``."""
        return self._raised[1] if self._raised is not None and self._raised[0] is error else None

    def _is_ours(self, module: nn.Module) -> bool:
        return id(module) in self._names and threading.get_ident() == self._thread

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        if self._is_ours(module):
            self._called.append(module)

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not self._is_ours(module) or self.innermost is not module:
            return
        self._called.pop()
        error = sys.exception()
        if error is not None and self.raised(error) is None:
            self._raised = error, module
