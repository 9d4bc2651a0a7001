"""The GPU kernels, in Triton: the definitions of ``ops/noise.py``, for tensors on CUDA.

Triton comes with the CUDA builds of torch. Where it is missing, ``available`` is False and torch computes the same.
Positions key the noise, never the program: block sizes do not change a number.
"""

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # a CPU build of torch brings no Triton
    triton = None


def available(*tensors: Tensor) -> bool:
    """Whether the kernels are there and all tensors are on a GPU."""
    return triton is not None and all(t.is_cuda for t in tensors)


if triton is not None:

    @triton.jit
    def _mix64(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB
        return x ^ (x >> 31)

    @triton.jit
    def _fold(key, word):
        return _mix64(_mix64(key + word * 0x9E3779B97F4A7C15) + key)

    @triton.jit
    def _random_bits(word, column):
        """32 random bits from a row's 64-bit word (uint64) and columns (uint32), as uint32."""
        a = (word & 0xFFFFFFFF).to(tl.uint32)
        b = (word >> 32).to(tl.uint32)
        x = column * (b | 1) + a
        x = (x ^ (x >> 16)) * 0x21F0AAAD
        x = (x ^ (x >> 15) ^ b) * 0xD35A2D97
        return x ^ (x >> 15)

    @triton.jit
    def _normal_of(bits):
        twice_tail = ((bits & 0x7FFFFFFF).to(tl.int32).to(tl.float32) + 0.5) * 4.656612873077393e-10
        t = tl.sqrt(0.35 - tl.log(twice_tail)) * 0.48134261825033337 - 1.2847661332575033
        z = t * 0.0 - 0.0058131859330376
        z = z * t + 0.01220873053820021
        z = z * t - 0.0012035649516857097
        z = z * t - 0.007485803035211494
        z = z * t - 0.0070280356173169235
        z = z * t + 0.015962522114434146
        z = z * t - 0.008338730114421817
        z = z * t + 0.0033763807057692365
        z = z * t - 0.00020092541953523925
        z = z * t - 0.012258648700909227
        z = z * t + 0.0399969977611134
        z = z * t - 0.09560426252296807
        z = z * t + 3.151566082644621
        z = z * t + 3.2527800132026092
        return tl.where(bits >> 31 == 1, -z, z)

    @triton.jit
    def normal_kernel(out, key, rows, first, n_rows, count, raw: tl.constexpr, BLOCK: tl.constexpr):
        """Row ``program_id(0)``, columns from ``program_id(1) * BLOCK``; ``raw``: the bits instead of the normals."""
        r = tl.program_id(0)
        j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        word = _fold(tl.load(key).to(tl.uint64), tl.load(rows + r).to(tl.uint64))
        bits = _random_bits(word, (tl.load(first + r) + j).to(tl.uint32))
        where = out + r.to(tl.int64) * count + j
        if raw:
            tl.store(where, bits.to(tl.int32, bitcast=True).to(tl.float64), mask=j < count)
        else:
            tl.store(where, _normal_of(bits), mask=j < count)


def normal(key: Tensor, rows: Tensor, first: Tensor, count: int) -> Tensor:
    """As ``ops.normal``: float32 (R, count), for int64 tensors on a GPU."""
    out = torch.empty(rows.shape[0], count, device=rows.device)
    launch(out, key, rows, first, raw=False)
    return out


def launch(out: Tensor, key: Tensor, rows: Tensor, first: Tensor, *, raw: bool, block: int = 1024) -> None:
    """Fill ``out`` (R, count): normals, or, as float64, the bits they are made of."""
    n_rows, count = out.shape
    if out.numel():
        grid = (n_rows, triton.cdiv(count, block))
        normal_kernel[grid](out, key, rows.contiguous(), first.contiguous(), n_rows, count, raw, BLOCK=block)
