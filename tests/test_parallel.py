"""Data parallelism over two processes: shared noise or noise per rank, gradients of the batch."""

import subprocess
import sys

_SCRIPT = """
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import analogtorch as at
from tests.crossbar import crossbar

X = torch.randn(8, 4, 10, generator=torch.Generator().manual_seed(1))


def model():
    torch.manual_seed(0)
    convolution = nn.Conv1d(4, 6, 3, padding=1)
    layers = nn.Sequential(convolution, nn.Tanh(), nn.Flatten(1), nn.Linear(60, 4))
    return at.convert(layers, crossbar())


def gathered(value):
    every = [torch.empty_like(value) for _ in range(2)]
    dist.all_gather(every, value)
    return every


def run(rank, path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    whole = model()
    with at.noise(5, step=3):
        expected = whole(X)
    expected.square().mean().backward()

    net = DistributedDataParallel(model())
    share = X[4 * rank : 4 * rank + 4]
    with at.noise(5, step=3, first_sample=4 * rank):
        y = net(share)
    y.square().mean().backward()
    same = torch.allclose(y, expected[4 * rank : 4 * rank + 4], atol=1e-5)
    assert same, "the shared noise differs"
    for a, b in zip(net.module.parameters(), whole.parameters()):
        if b.grad is not None:
            same = torch.allclose(a.grad, b.grad, atol=1e-5)
            assert same, "the gradient is not the whole batch's"

    with at.noise(5, step=3):
        shared = gathered(net(X[:4]).detach())
    assert torch.equal(*shared), "without a rank, the noise must be the same everywhere"
    with at.noise(5, step=3, rank=rank):
        own = gathered(net(X[:4]).detach())
    assert not torch.allclose(*own), "with a rank, the noise must be its own"
    with at.noise(5, step=3, rank=0):
        assert torch.equal(net(X[:4]).detach(), own[0]), "a rank's noise must be replayed anywhere"
    dist.destroy_process_group()
    if rank == 0:
        print("equal")


if __name__ == "__main__":
    mp.spawn(run, (sys.argv[1],), nprocs=2)
"""


def test_two_processes_share_their_noise_or_do_not(tmp_path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(_SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "meeting")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "equal", done.stderr[-3000:]
