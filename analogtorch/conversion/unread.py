"""A warning after the first run of a model that names the analog layers that did not run.

The model is a converted one or a programmed chip. Nothing stays digital unnoticed.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from analogtorch.conversion.kinds import analog_layers
from analogtorch.nn import AnalogLayer
from analogtorch.nn.adapters import COMPILED
from analogtorch.values.listed import listed
from analogtorch.values.warned import warn

_NAMED: "WeakKeyDictionary[nn.Module, set[str]]" = WeakKeyDictionary()
"""What warnings have named in chips, by the model that they are programmed from and by view."""
_FAR = 3.0
"""Median magnitude of inputs but 0, in units of the DAC range, above which a warning names a layer.
Behind ranges that suit them, it is some 0.1 to 0.5; calibration that clips half of all inputs, as
for noise of three times the largest output, leaves 1."""
_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)


def named(model: nn.Module) -> set[str]:
    """Return the layers that a warning has named in any chip programmed from ``model``.

    ``model`` may be a view of such a chip, too: all have one set.

    What it has named in the model itself does not count: a chip can be run by others, far later.
    """
    return _NAMED.setdefault(model, set())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warning while the context lasts; the caller reports which layers ran."""
    token = _QUIET.set(True)
    try:
        yield
    finally:
        _QUIET.reset(token)


def name_unread(model: nn.Module, named: set[str] | None = None) -> None:
    """Warn after the next call of ``model``, converted or a chip at a time, of layers not reached.

    ``named`` holds the layers that a warning has named in chips already; None: it is no chip.
    """
    forget_unread(model)
    known = set() if named is None else _NAMED.setdefault(model, named)
    model.register_forward_hook(_FirstRun(known))


def forget_unread(model: nn.Module) -> None:
    """Undo ``name_unread`` for a model and all that is inside of it."""
    for module in model.modules():
        hooks = module._forward_hooks
        for key in [key for key, hook in hooks.items() if isinstance(hook, _FirstRun)]:
            del hooks[key]


@contextlib.contextmanager
def forgotten_unless_error(model: nn.Module) -> Iterator[None]:
    """Undo ``name_unread`` for good, unless the context fails: the caller reports what ran."""
    hooks = [(module, dict(module._forward_hooks)) for module in model.modules()]
    forget_unread(model)
    try:
        yield
    except BaseException:
        for module, before in hooks:
            module._forward_hooks.update(
                {key: hook for key, hook in before.items() if isinstance(hook, _FirstRun)}
            )
        raise


class _FirstRun:
    """The hook, which removes itself and can be copied and pickled with the model."""

    gone_after_one = True
    """It changes no output and removes itself: ``options_digest`` leaves it out."""

    def __init__(self, named: set[str]) -> None:
        self.named = named

    def __call__(self, model: nn.Module, inputs: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or _QUIET.get():
            return
        layers = dict(analog_layers(model))
        if any(tap.execution is not None for layer in layers.values() for tap in layer.taps):
            return  # in this run a tap lets layers compute otherwise
        forget_unread(model)
        hidden = compiled(model)  # layers cannot mark there that they run
        silent = [
            name or "(root)"
            for name, layer in layers.items()
            if not layer.has_run and layer not in hidden
        ]
        self._name_clipped(layers)
        if not self._news("silent", silent):
            return
        chip = any(layer.programmed is not None for layer in layers.values())
        does = "finds out" if chip else "routes to a layer what it computes, and names the rest"
        warn(
            f"{len(silent)} of {len(layers)} analog layers of this "
            f"{'programmed chip' if chip else type(model).__name__} did not run: "
            f"{listed(map(repr, silent))}. Either this input does not reach "
            "them, as for experts and heads that run sometimes only, or the model computes with "
            f"their weights without calling them, which is digital. analogtorch.guard(model, "
            f"example) {does}; convert(..., exclude=...) leaves them digital"
        )

    def _name_clipped(self, layers: Mapping[str, AnalogLayer]) -> None:
        """Warn of layers whose DAC ranges are those of other inputs."""
        clipped = {
            name or "(root)": layer.excess for name, layer in layers.items() if layer.excess > _FAR
        }
        if self._news("clipped", clipped):
            medians = [f"{name!r} ({each:.3g} times)" for name, each in clipped.items()]
            warn(
                f"{len(clipped)} of {len(layers)} analog layers of this programmed chip clip most "
                f"of their inputs, whose median magnitude is far beyond the DAC range: "
                f"{listed(medians)}. The ranges are those of other inputs: call at.calibrate with "
                "inputs as the model gets them, scaled and normalised alike, before at.program"
            )

    def _news(self, what: str, names: Iterable[str]) -> bool:
        """Return whether no warning has said that of all these layers, and note that one does."""
        found = {f"{what}: {name}" for name in names}
        new = not self.named.issuperset(found)
        self.named.update(found)
        return new


def compiled(model: nn.Module) -> set[nn.Module]:
    """Return the modules that run inside of a compiled one."""
    whole = (
        m for m in model.modules() if COMPILED in m._modules or m._compiled_call_impl is not None
    )
    return {inner for m in whole for inner in m.modules()}
