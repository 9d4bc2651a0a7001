"""The CPU kernels, called on tensors: one pass over memory where torch takes several.

They are optional. ``available()`` is False if they were not built (no C compiler at installation,
not Linux) or were built from other sources than the present ones. ``analogtorch.ops`` then computes
the same with torch, more slowly, and warns once. ``status()`` names the library or the reason.
"""

from analogtorch.ops.native.draws import keys, normal
from analogtorch.ops.native.loading import available, status
from analogtorch.ops.native.product import backward, forward, takes

__all__ = ["available", "backward", "forward", "keys", "normal", "status", "takes"]
