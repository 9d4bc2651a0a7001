"""The analog matrix-vector multiply (MVM) in pieces: noise, seeds, converters, weights, product.

Every piece is an operator with a reference in plain torch; ``native`` holds the CPU kernels that replace it.
"""

from analogtorch.ops.dac import dac
from analogtorch.ops.noise import VERSION, Noise, fold, normal, random_bits, seed_tensor, stream
from analogtorch.ops.product import Geometry, product
from analogtorch.ops.quantize import levels, rounded
from analogtorch.ops.seed import draw_seed
from analogtorch.ops.transforms import refuse_transforms
from analogtorch.ops.weight import block_absmax, noisy_weight, over_rows

__all__ = [
    "VERSION",
    "Geometry",
    "Noise",
    "block_absmax",
    "dac",
    "draw_seed",
    "fold",
    "levels",
    "noisy_weight",
    "normal",
    "over_rows",
    "product",
    "random_bits",
    "refuse_transforms",
    "rounded",
    "seed_tensor",
    "stream",
]
