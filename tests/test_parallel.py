"""Work of two processes: noise shared or per rank, gradients of the batch, one sweep."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import sys
import warnings

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
    for late in (True, False):
        net, x = model(), X[4 * rank : 4 * rank + 4]
        if not late:
            at.calibrate(net, [X])
        parallel = DistributedDataParallel(net)
        if late:
            at.calibrate(parallel.module, [X])
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for _ in range(2):
                optimizer.zero_grad()
                parallel(x).square().mean().backward()
                optimizer.step()
        messages = [str(w.message) for w in said]
        count = sum("drift apart: '0', '3'" in message for message in messages)
        assert count == late, "ranges that are not averaged are named, once"
        pairs = (gathered(p.grad) for n, p in net.named_parameters() if n.endswith("input_range"))
        assert all(torch.equal(*pair) for pair in pairs) != late, "and those alone differ"
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


_SWEEP = """
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

import analogtorch as at
from tests.crossbar import crossbar

folder, log = map(Path, sys.argv[1:])
dist.init_process_group("gloo")
torch.set_num_threads(1)
torch.manual_seed(0)
models = {name: at.convert(nn.Linear(12, 4), crossbar()) for name in ("one", "other")}
x = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))


def metric(view):
    with log.open("a") as file:
        file.write(f"{dist.get_rank()}\\n")
    return view(x).square().mean().item()


times = ["0 s", "1 day"]
found = at.sweep(models, metric, num_chips=8, times=times, folder=folder)
values = torch.stack([each.values for each in found.values()])
every = [torch.empty_like(values) for _ in range(2)]
dist.all_gather(every, values)
assert torch.equal(*every), "the ranks have different results"
if dist.get_rank() == 0:
    assert log.read_text().split().count("0") + log.read_text().split().count("1") == 32
    alone = at.sweep(models["other"], metric, num_chips=8, times=times)
    assert torch.equal(alone.values, found["other"].values), "one process has another result"
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_ranks_of_torchrun_share_a_sweep_through_its_folder(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(_SWEEP)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    given = (tmp_path / "script.py", tmp_path / "runs", tmp_path / "log")
    done = subprocess.run(
        [sys.executable, *launch, *map(str, given)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / "runs" / "one").glob("chip-*.json"))) == 8
