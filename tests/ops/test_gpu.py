"""The Triton kernels in Triton's interpreter against the reference, and compiled for GPUs that are not here."""

import os
import subprocess
import sys

import pytest

triton = pytest.importorskip("triton", reason="no Triton: a CPU build of torch")

_SCRIPT = """
import torch
from analogtorch.ops import fold, gpu, random_bits, seed_tensor, stream
from analogtorch.ops.noise import normal_reference

key = fold(seed_tensor(-7), stream("test", 3))
rows = torch.tensor([0, 1, 5, 2**33, -4])
first = torch.tensor([0, 17, 2**31, 4000000000, 1])
for count, block in ((1, 16), (100, 16), (100, 128)):
    normals, bits = torch.empty(5, count), torch.empty(5, count, dtype=torch.float64)
    gpu.launch(normals, key, rows, first, raw=False, block=block)
    gpu.launch(bits, key, rows, first, raw=True, block=block)
    assert torch.equal(bits.to(torch.int32), random_bits(key, rows, first, count)), "bits"
    worst = (normals - normal_reference(key, rows, first, count)).abs().max().item()
    assert worst < 1e-6, worst
print("equal")
"""


def test_interpreted_kernel_gives_the_same_bits_and_normals() -> None:
    interpreted = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, env=interpreted, check=False)
    assert run.stdout.strip() == "equal", run.stderr[-2000:]


@pytest.mark.parametrize("capability", [80, 90])
def test_kernel_compiles_for_gpus(capability: int) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from analogtorch.ops import gpu

    names = gpu.normal_kernel.arg_names
    types = ["*fp32", "*i64", "*i64", "*i64", "i32", "i32", "constexpr", "constexpr"]
    source = ASTSource(
        gpu.normal_kernel,
        signature=dict(zip(names, types, strict=True)),
        constexprs={(names.index("raw"),): False, (names.index("BLOCK"),): 1024},
    )
    assert "cubin" in triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm
