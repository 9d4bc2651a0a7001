"""The analog matrix-vector multiply (MVM) as one operator, and its parts: noise, keys, converters.

``mvm`` is an operator of its ``Operands`` and a ``Plan``: ``reference`` defines it in plain torch,
``native`` (CPU) and ``gpu`` have its kernels. ``physics`` and ``converters`` have its effects as
pure functions.
"""

from analogtorch.ops.converters import in_steps, rounded
from analogtorch.ops.generator import (
    VERSION,
    Noise,
    derived,
    fold,
    happens,
    key_of,
    random_bits,
    seed_number,
    seed_tensor,
    stream,
)
from analogtorch.ops.mvm import mvm, product
from analogtorch.ops.noise import normal
from analogtorch.ops.operands import Operands, vector_numbers
from analogtorch.ops.physics import block_scales, over_rows
from analogtorch.ops.plan import Plan
from analogtorch.ops.seed import draw_keys, number_samples
from analogtorch.ops.transforms import refuse_transforms

__all__ = [
    "VERSION",
    "Noise",
    "Operands",
    "Plan",
    "block_scales",
    "derived",
    "draw_keys",
    "fold",
    "happens",
    "in_steps",
    "key_of",
    "mvm",
    "normal",
    "number_samples",
    "over_rows",
    "product",
    "random_bits",
    "refuse_transforms",
    "rounded",
    "seed_number",
    "seed_tensor",
    "stream",
    "vector_numbers",
]
