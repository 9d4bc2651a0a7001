"""torch.fx sees an analog layer as one call, like torch's layers, which branch on their input."""

from typing import Any

from torch import nn
from torch.fx import Proxy

__all__ = ["Proxy", "whole"]


def whole(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Return the call of ``layer`` in the graph that is traced; one of ``args`` is a ``Proxy``.

    Raises:
        TypeError: ``layer`` itself is traced.
    """
    tracer: Any = next(a for a in (*args, *kwargs.values()) if isinstance(a, Proxy)).tracer
    name = tracer.path_of_module(layer)
    if not name:
        raise TypeError(
            f"torch.fx cannot trace into an {type(layer).__name__}; trace a model that holds it"
        )
    return tracer.create_proxy("call_module", name, args, kwargs)
