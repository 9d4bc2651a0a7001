"""What validation clips decide on chips that no measurement has."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.evaluate import TaskMetric
from analogtorch.report import RangeChoice
from analogtorch.speech import validation
from analogtorch.speech.augment import Augment, Augmenter
from analogtorch.speech.config import KWSConfig, SweepConfig
from analogtorch.speech.data import Clips
from analogtorch.speech.examine import _classes
from analogtorch.speech.logits import check_logits
from analogtorch.speech.on_chips import measure
from analogtorch.speech.task import Task
from analogtorch.speech.validation import NUM_CHIPS, TIMES, recalibrated, validated
from tests.crossbar import crossbar


def net_and_task() -> tuple[nn.Module, Task]:
    """Return a net whose DAC clips most of its inputs, and a task with its own inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
        x = torch.randn(200, 32) + 1
    at.calibrate(at.convert(net, at.chips.hermes64()), [x], effort="ranges")
    with torch.no_grad():
        net[0].input_range.fill_(0.4)
    clips = Clips(
        waveforms=torch.zeros(2, 16000, dtype=torch.int16),
        labels=torch.arange(2),
        speakers=("", ""),
        names=("a", "b"),
        classes=("a", "b"),
    )
    given = x, torch.zeros(200, dtype=torch.long)
    return net, Task(
        train=clips,
        test_clips=clips,
        val=given,
        test=given,
        calibration=(x,),
        augmenter=Augmenter(Augment(), seed=0),
        features=nn.Identity(),
    )


@pytest.mark.parametrize("chip", [crossbar(), at.chips.hermes64()])
def test_a_trained_net_whose_vectors_set_their_ranges_goes_on_so(chip: at.Chip) -> None:
    digital, task = net_and_task()
    net = at.convert(at.to_digital(digital), chip)
    if chip.periphery.output_bits:
        at.calibrate(net, task.calibration, method=None)
        before = net[2].output_ranges.clone()
        net[0].bias.data += 1  # training moves the sums behind it
    recalibrated(KWSConfig(), task, net, "hwa", lambda *_: None)
    assert not any(layer.calibrated for _, layer in at.analog_layers(net))
    if chip.periphery.output_bits:
        assert not torch.allclose(net[2].output_ranges, before, rtol=0.01)
    else:
        assert not any(layer.ranged for _, layer in at.analog_layers(net))


@pytest.mark.parametrize("learnt", [True, False])
def test_a_trained_net_keeps_its_ranges_where_new_ones_cost_accuracy(learnt: bool) -> None:
    net, task = net_and_task()
    answers = net if learnt else at.to_digital(net_and_task()[0])
    task = dataclasses.replace(task, val=(task.val[0], answers(task.val[0]).argmax(-1)))
    found = recalibrated(KWSConfig(), task, net, "hwa", lambda *_: None)
    assert (found[0].input_range.item() == pytest.approx(0.4)) == learnt


@pytest.mark.parametrize(
    ("clips", "cost", "kept"),
    [(20, 0.04, "new"), (20, 0.06, "learnt"), (200, 0.02, "learnt"), (600, 0.011, "learnt")],
)
def test_few_validation_clips_do_not_decide_over_ranges(
    clips: int, cost: float, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 20 clips is 5 points: the margin is what so many can tell, from 500 on a point."""
    found = iter([0.9, 0.9 - cost])

    def validated(*_: object) -> at.Sweep:
        values = torch.full((2, 1), next(found), dtype=torch.float64)
        return at.Sweep(times=("1 day",), values=values, seeds=(1, 2))

    monkeypatch.setattr(validation, "validated", validated)
    net, task = net_and_task()
    val = tuple(part.repeat(3, *[1] * (part.ndim - 1))[:clips] for part in task.val)
    task = dataclasses.replace(task, val=val)
    choices: dict[str, RangeChoice] = {}
    net = recalibrated(KWSConfig(), task, net, "hwa", lambda *_: None, choices)
    assert choices["hwa"].kept == kept
    assert (net[0].input_range.item() == pytest.approx(0.4)) == (kept == "learnt")


def test_validation_clips_run_in_batches_that_fit_into_caches() -> None:
    net, task = net_and_task()
    val = tuple(part.repeat(20, *[1] * (part.ndim - 1))[:150] for part in task.val)
    sizes = list[int]()
    net.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    validated(KWSConfig(), dataclasses.replace(task, val=val), net)
    assert {64, 22} <= set(sizes)
    assert 150 not in sizes


def test_chips_that_choose_are_not_those_that_are_measured() -> None:
    net, task = net_and_task()
    first = validated(KWSConfig(), task, net)
    for seed in (0, 1_000_000):
        config = KWSConfig(sweep=SweepConfig(num_chips=1, times=("1 day",), seed=seed))
        chosen = validated(config, task, net)
        assert set(chosen.seeds).isdisjoint(measure(config, task, net).seeds)
        assert (chosen.seeds == first.seeds) == (seed == 0)


def test_what_a_choice_of_ranges_has_measured_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that goes on trains to the same weights and asks again."""

    def keep(name: str, files: Iterable[str]) -> Path:
        assert {"sweep.json", "chip-00000.json"} < set(files)
        return tmp_path / name

    looks: list[nn.Module] = []
    measure = TaskMetric.__call__
    monkeypatch.setattr(
        TaskMetric, "__call__", lambda self, view: looks.append(view) or measure(self, view)
    )
    net, task = net_and_task()
    first = recalibrated(KWSConfig(), task, net, "hwa", keep)
    net, task = net_and_task()
    again = recalibrated(KWSConfig(), task, net, "hwa", keep)
    assert len(looks) == 2 * NUM_CHIPS * len(TIMES)
    assert torch.equal(first[0].input_range, again[0].input_range)
    assert sorted(each.name for each in (tmp_path / "chips").iterdir()) == [
        "hwa-learnt-ranges",
        "hwa-new-ranges",
    ]


def test_a_network_that_is_examined_keeps_the_modes_of_its_modules() -> None:
    net, task = net_and_task()
    net.train()
    net[1].eval()
    before = [module.training for module in net.modules()]
    _classes(net, task)
    check_logits("net", net, ("a", "b", "c", "d"), task.test[0])
    assert [module.training for module in net.modules()] == before
