"""The pieces of the analog matrix-vector multiply (MVM): noise, seeds, converters."""

from analogtorch.ops.noise import VERSION, Noise, fold, normal, random_bits, seed_tensor, stream
from analogtorch.ops.quantize import quantize
from analogtorch.ops.seed import draw_seed

__all__ = [
    "VERSION",
    "Noise",
    "draw_seed",
    "fold",
    "normal",
    "quantize",
    "random_bits",
    "seed_tensor",
    "stream",
]
