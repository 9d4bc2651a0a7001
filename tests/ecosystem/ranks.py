"""A training step of every model of the table; ``test_distributed.py`` runs it in two processes."""

import copy
import os
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import analogtorch as at
from analogtorch.hwa.lightning import ValidateOnChips
from tests.ecosystem.models import CHIP, ENTRIES, Entry


def _step(model: nn.Module, x: tuple[Tensor, ...], **noise: int) -> Tensor:
    with at.noise(5, step=3, **noise):
        y = model(*x)
    y.square().mean().backward()
    return y.detach()


def _full(tensor: Any) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _check_gradients(model: Any, whole: Any) -> None:
    for (name, a), b in zip(model.named_parameters(), whole.parameters(), strict=True):
        if b.requires_grad:
            ours, theirs = _full(a.grad), b.grad
            assert torch.allclose(ours, theirs, atol=1e-5 * theirs.abs().max().item()), (
                f"gradient of {name}"
            )


def ddp(entry: Entry, rank: int) -> None:
    """The gradients of two halves of a batch are those of the whole."""
    whole, x = entry.analog(), entry.inputs()
    expected = _step(whole, x)
    mine = slice(2 * rank, 2 * rank + 2)
    net = DistributedDataParallel(entry.analog())
    share = tuple(t.narrow(entry.batch_dim, 2 * rank, 2) for t in x)
    y = _step(net, share, first_sample=2 * rank)
    there = expected.movedim(entry.batch_dim, 0)[mine]
    assert torch.allclose(y.movedim(entry.batch_dim, 0), there, atol=1e-5), (
        "the shared noise differs"
    )
    _check_gradients(net.module, whole)


def fsdp(entry: Entry, rank: int) -> None:
    """Sharded, it computes and trains as one process does, and its keys are the same."""
    whole, x = entry.analog(), entry.inputs()
    expected, net = _step(whole, x), entry.analog()
    fully_shard(net.layer)
    fully_shard(net)
    assert torch.equal(_step(net, x), expected), "the forward differs"
    _check_gradients(net, whole)
    state = net.state_dict()
    assert list(state) == list(entry.digital().state_dict()), "keys"
    assert all(torch.equal(_full(state[name]), t) for name, t in whole.state_dict().items()), (
        "weights"
    )
    # an optimizer sees ranges, of which one rank has none, like any other parameter
    for model in (net, whole):
        torch.optim.AdamW(model.parameters(), lr=0.1).step()
        for by_channel in (False, True):
            at.hwa.clip_weights_(model, sigma=1.0, per_channel=by_channel)
    assert "range=" in repr(net)
    elsewhere = {row.input_range == "in another process" for row in at.summary(net).layers}
    assert elsewhere == {rank != 0}, "the summary has ranges of the first process alone"
    known = [
        key for key, metadata in state._metadata.items() if "analogtorch.input_range" in metadata
    ]
    assert bool(known) == (rank == 0), "the ranges are in the state_dict of the first process"
    with torch.no_grad():
        assert torch.allclose(net.eval()(*x), whole.eval()(*x), atol=1e-5), "after a step"


def twins(rank: int) -> None:
    """Both ranks get the gradients of a distillation, averaged, though each has its own inputs."""
    entry = ENTRIES[0]
    student = entry.analog()
    net = DistributedDataParallel(student)
    twin = at.hwa.Twin(student, entry.digital(), forward=lambda m, x: m(*x))
    share = tuple(t.narrow(entry.batch_dim, 2 * rank, 2) for t in entry.inputs())
    with at.noise(5, step=3):
        twin.total(share, run=net).backward()
    mine = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
    both = [torch.empty_like(mine), torch.empty_like(mine)]
    dist.all_gather(both, mine)
    assert mine.any()
    assert torch.equal(*both), "the ranks have different gradients"


def ranges_per_tile() -> None:
    """Check that a state_dict without all ranges is refused, with a remedy.

    No process holds all of them.
    """
    entry = ENTRIES[0]
    net = entry.converted()
    at.calibrate(net, [entry.inputs()], forward=lambda m, x: m(*x), per="tile")
    ranges = net.layer.input_ranges
    fully_shard(net)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        net.state_dict()
    assert any("keep layer.input_range.full_tensor()" in str(warning.message) for warning in said)
    assert tuple(net.layer.input_range.full_tensor().tolist()) == ranges


def loaded() -> None:
    """What one model has saved, shard by shard, makes another the same, ranges included."""
    entry = ENTRIES[0]
    net, fresh = entry.analog(), entry.converted()
    for model in (net, fresh):
        fully_shard(model)
    fresh.load_state_dict(net.state_dict())
    assert fresh.layer.calibrated
    x = entry.inputs()
    assert torch.equal(_step(fresh, x), _step(net, x)), "the forward differs"
    whole = entry.analog()
    _step(whole, x)
    _check_gradients(fresh, whole)


def gathered(rank: int) -> None:
    """The full state_dict of a sharded model, with its metadata, makes a model that is not."""
    entry = ENTRIES[0]
    net, fresh, x = entry.analog(), entry.converted(), entry.inputs()
    fully_shard(net)
    options = StateDictOptions(full_state_dict=True)
    full: Any = OrderedDict(get_model_state_dict(net, options=options))
    full._metadata = net.state_dict()._metadata
    if rank == 0:
        fresh.load_state_dict(full)
        assert fresh.layer.input_ranges == entry.analog().layer.input_ranges
        assert torch.equal(_step(fresh, x), _step(entry.analog(), x)), "the forward differs"


def _never(model: nn.Module) -> float:
    raise AssertionError("nothing is measured")


def refused() -> None:
    """Whatever copies or changes a model names what distributes it."""
    entry = ENTRIES[0]
    wrapped, sharded = DistributedDataParallel(entry.analog()), entry.analog()
    fully_shard(sharded)
    calls: tuple[Callable[[nn.Module], Any], ...] = (
        lambda model: at.convert(model, CHIP),
        lambda model: at.calibrate(model, [entry.inputs()]),
        lambda model: at.program(model, seed=1),
        lambda model: at.to_digital(model),
        lambda model: at.hwa.adapt(model, [entry.inputs()]),
        lambda model: at.map_to_chip(model, entry.inputs()),
        lambda model: at.sensitivity(model, _never),
        lambda model: at.budget(model, _never),
        lambda model: at.compare(model, [CHIP], _never, example=entry.inputs()),
        lambda model: at.plan(model, _never, floor=0, example=entry.inputs()),
        lambda model: at.sweep({"a": model}, _never),
        lambda model: at.lifetime(model, _never, limit=0, recalibration=at.Recalibration()),
    )
    for call in calls:
        with pytest.raises(
            ValueError, match=r"wrapped by DistributedDataParallel: give its \.module"
        ):
            call(wrapped)
        with pytest.raises(ValueError, match="sharded by fully_shard: convert and calibrate the"):
            call(sharded)


def flat(path: Path) -> None:
    """Nobody takes flat parts of weights for matrices, and what ``save`` names instead works."""
    for original in (True, False):
        _flat(path.with_name(f"{path.name}{original}"), original)


def _flat(path: Path, original: bool) -> None:
    entry = ENTRIES[0]
    x = entry.inputs()
    net = entry.analog()
    before = copy.deepcopy(net)
    net.layer = FullyShardedDataParallel(
        net.layer, use_orig_params=original, device_id=torch.device("cpu")
    )
    sharded = FullyShardedDataParallel(net, use_orig_params=original, device_id=torch.device("cpu"))
    optimizer = torch.optim.SGD(sharded.parameters(), lr=0.1)
    _step(sharded, x)
    optimizer.step()
    kept = [p.clone() for p in sharded.parameters()]
    calls: tuple[tuple[str, Callable[[nn.Module], Any]], ...] = (
        ("fully_shard", lambda model: at.hwa.clip_weights_(model, 1.0)),
        ("fully_shard", lambda model: at.hwa.clip_weights_(model, bound=0.01)),
        ("fully_shard", lambda model: at.hwa.clip_after_step(optimizer, model, 1.0)),
        ("fully_shard", lambda model: at.hwa.parameter_groups(model, 0.1)),
        ("summon_full_params", lambda model: at.save(model, path)),
        ("convert and calibrate", lambda model: at.program(model, seed=1)),
        ("before that", at.summary),
    )
    for remedy, call in calls:
        for model in (sharded, net, net.layer.module):  # also from inside
            with pytest.raises(ValueError, match=f"FullyShardedDataParallel: .*{remedy}"):
                call(model)
    assert all(map(torch.equal, sharded.parameters(), kept))
    assert not path.exists()

    with FullyShardedDataParallel.summon_full_params(sharded, writeback=False):
        now = dict(sharded.named_parameters()) | dict(sharded.named_buffers())
        with torch.no_grad():
            for name, own in [*before.named_parameters(), *before.named_buffers()]:
                own.copy_(now[name])
    with torch.no_grad():
        expected = sharded.eval()(*x)
        fresh = at.load(at.save(before, path), entry.digital())
        assert torch.allclose(fresh.eval()(*x), expected, atol=1e-5)


class Normalised(L.LightningModule):
    """Batch norm before an analog layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = at.convert(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), CHIP)

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return self.net(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def validated(rank: int) -> None:
    """Both ranks log the numbers of the first, though the statistics of batch norm differ."""
    os.environ["LOCAL_RANK"] = str(rank)  # Lightning starts no processes then
    x = torch.arange(32.0).view(8, 4)
    module = Normalised()
    chips = ValidateOnChips(lambda m: m(x).sum().item(), network="net", every=1, num_chips=1)
    trainer = L.Trainer(
        max_steps=1,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        callbacks=[chips],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(x, batch_size=2))
    logged = torch.as_tensor(trainer.callback_metrics["chips/1 day"]).double()
    for mine, same in ((logged, True), (module.net[0].running_mean, False)):
        both = [torch.empty_like(mine), torch.empty_like(mine)]
        dist.all_gather(both, mine)
        assert torch.equal(*both) == same


def sharded(rank: int, path: str) -> None:
    """Training and programming of all models, over processes that share them or parts of them."""
    for check in (ddp, fsdp):
        for entry in ENTRIES:
            try:
                check(entry, rank)
            except Exception as error:
                raise AssertionError(f"{check.__name__} of {entry.name}: {error}") from error
    twins(rank)
    ranges_per_tile()
    loaded()
    gathered(rank)
    refused()
    flat(Path(f"{path}-saved-{rank}"))


CHECKS: dict[str, Callable[[int, str], None]] = {
    "sharded": sharded,
    # alone: after the others the threads of torch sometimes abort a process as it ends
    "validated": lambda rank, path: validated(rank),
}
"""What two processes can check, by name."""


def run(check: str, rank: int, path: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    CHECKS[check](rank, path)
    dist.destroy_process_group()


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), sys.argv[3])
