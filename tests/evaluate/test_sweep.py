import concurrent.futures
import dataclasses
import functools
import json
import math
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import analogtorch as at
from analogtorch.evaluate import journal
from analogtorch.evaluate.checked import chip_seeds
from tests.crossbar import crossbar

X = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))


def _model() -> nn.Module:
    torch.manual_seed(0)
    return at.convert(nn.Linear(12, 4), crossbar())


def _metric(model: nn.Module) -> float:
    return model(X).square().mean().item()


class _Mean:
    """A metric with the methods of those of torchmetrics."""

    def reset(self) -> None:
        self.values: list[torch.Tensor] = []

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.values.append(outputs.mean())

    def compute(self) -> torch.Tensor:
        return torch.stack(self.values).mean()


def test_same_seed_same_numbers_and_every_chip_can_be_made_again() -> None:
    a, b = (
        at.sweep(_model(), _metric, num_chips=3, times=["0 s", "1 day"], seed=4) for _ in range(2)
    )
    assert torch.equal(a.values, b.values)
    assert a.values.shape == (3, 2)
    assert len(set(a.values.flatten().tolist())) == 6
    again = at.program(_model(), seed=a.seeds[1]).at("1 day")
    assert _metric(again) == a.values[1, 1].item()


def test_experiments_with_neighbouring_seeds_share_no_chip() -> None:
    seeds = [
        at.sweep(_model(), _metric, num_chips=4, times=["0 s"], seed=s).seeds for s in (0, 1, 2)
    ]
    assert len({seed for group in seeds for seed in group}) == 12


def test_mean_spread_and_table() -> None:
    result = at.sweep(_model(), _metric, num_chips=4, times=["0 s", 60.0])
    assert result.times == ("0 s", "60 s")
    row = result.to_dict()["60 s"]
    assert row["num_chips"] == 4
    assert row["mean"] == pytest.approx(result.values[:, 1].mean().item())
    assert row["std"] == pytest.approx(result.values[:, 1].std().item())
    assert row["worst"] == result.values[:, 1].min().item()
    assert row["values"] == result.values[:, 1].tolist()
    assert "60 s" in str(result)
    alone = at.sweep(_model(), _metric, num_chips=1)  # one chip has no spread
    assert bool(alone.std.isnan().all())
    assert [row["std"] for row in alone.to_dict().values()] == [None] * 5
    assert "nan" not in str(alone)


def test_a_sweep_knows_the_name_and_the_direction_of_its_metric() -> None:
    def error(model: nn.Module) -> float:
        return _metric(model)

    found = at.sweep(_model(), error, num_chips=2, times=["0 s"], higher_is_better=False)
    assert (found.metric, found.higher_is_better) == ("error", False)
    assert at.sweep(_model(), lambda m: 0.0, num_chips=1, times=["0 s"]).metric == "metric"
    named = at.metrics.measured(_Mean(), [(X, torch.ones(1))], name="mean of outputs")
    found = at.sweep(_model(), named, num_chips=1, times=["0 s"], higher_is_better=True)
    assert str(found).startswith("mean of outputs at")
    with pytest.raises(ValueError, match="sweep: higher_is_better must be True or False, got 'no'"):
        at.sweep(_model(), never, higher_is_better="no")


def test_accuracy_counts_and_restores_the_mode() -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.Linear(12, 4)).train()
    y = model.eval()(X).argmax(-1)
    model.train()
    y[:16] = (y[:16] + 1) % 4
    assert at.accuracy(model, [(X[:40], y[:40]), (X[40:], y[40:])]) == 0.75
    assert model.training
    assert model[0].training


@functools.wraps(_metric)  # a folder knows the name of its metric
def never(model: nn.Module) -> float:
    raise AssertionError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_chips": 0}, "sweep: num_chips must be an integer >= 1, got 0"),
        ({"num_chips": True}, "sweep: num_chips must be an integer >= 1, got True"),
        ({"times": []}, "times is empty"),
        ({"times": "1 day"}, r"times must be a list such as .*; write \['1 day'\]"),
        ({"times": ["0 s", "1 eon"]}, "'1 eon' is not understood"),
        ({"times": ["0 s", "60 s", 60]}, "times must differ, but '60 s' and '60 s' are the same; "),
        ({"times": ["1 day", "24 h"]}, "sweep: times must differ, but '1 day' and '24 h' are"),
        ({"times": [math.nan]}, "time must be a finite number of seconds >= 0, got nan"),
        ({"compensation": "globl"}, "compensation must be one of .*did you mean 'global'"),
    ],
)
def test_bad_sweeps_are_refused_before_anything_runs(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        at.sweep(_model(), never, **options)


@pytest.mark.parametrize("value", [None, "0.5", True, [0.5], torch.ones(2)])
def test_a_metric_that_is_no_number_is_refused(value) -> None:
    with pytest.raises(
        TypeError, match="sweep: the metric must return a number, got .* on chip 0 at 0 s"
    ):
        at.sweep(_model(), lambda m: value, num_chips=1)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, torch.tensor(math.nan), np.float32("nan"), 10**400]
)
def test_a_metric_that_is_not_finite_is_refused(value) -> None:
    with pytest.raises(
        ValueError, match="sweep: the metric is (nan|inf) on chip 0 at 1 day; it must be a finite"
    ):
        at.sweep(_model(), lambda m: value, num_chips=1, times=["1 day"])


def test_a_nan_names_its_chip_and_leaves_what_was_measured(tmp_path: Path) -> None:
    calls = []

    def metric(model: nn.Module) -> float:
        calls.append(1)
        return math.nan if len(calls) == 4 else _metric(model)

    def run(of) -> at.Sweep:
        return at.sweep(_model(), of, num_chips=3, times=["0 s", "1 day"], folder=tmp_path / "a")

    with pytest.raises(ValueError, match="the metric is nan on chip 1 at 1 day"):
        run(metric)
    again = run(metric)  # from the fourth value on
    assert len(calls) == 4 + 3
    assert torch.equal(
        again.values, at.sweep(_model(), _metric, num_chips=3, times=["0 s", "1 day"]).values
    )


@pytest.mark.parametrize(
    "value",
    [
        *(np.float32(0.5), np.int64(1), np.array(0.5), np.array([[0.5]])),
        *(torch.tensor(0.25), torch.tensor([0.25])),
    ],
)
def test_numbers_of_numpy_and_torch_are_metrics(value) -> None:
    found = at.sweep(_model(), lambda m: value, num_chips=1, times=["0 s"]).values
    assert found.item() == value.item()


def test_a_programmed_chip_in_place_of_a_model_is_explained() -> None:
    physical = at.program(_model(), seed=1)
    for call in (
        lambda: at.sweep(physical, _metric),
        lambda: at.accuracy(physical, []),
        lambda: at.sensitivity(physical, _metric),
    ):
        with pytest.raises(
            TypeError, match="got ProgrammedChip; a programmed chip is a model at a time: phys"
        ):
            call()
    with pytest.raises(
        ValueError, match="sweep: .*belongs to a programmed chip; use the model that was programmed"
    ):
        at.sweep(physical.at("0 s"), _metric)


Y = torch.zeros(64, dtype=torch.int64)


class Nan(nn.Module):
    def forward(self, x):
        return torch.full((len(x), 4), math.nan)


@pytest.mark.parametrize(
    ("model", "batches", "error", "message"),
    [
        (Nan(), [(X, Y)], ValueError, "outputs of batch 0 are NaN"),
        (
            nn.Linear(12, 4),
            [(X, Y), (X, Y + 4)],
            ValueError,
            r"labels must lie in \[0, 4\), or be -100, got 4 to 4 in batch 1",
        ),
        (nn.Linear(12, 4), [(X, Y - 1)], ValueError, r"in \[0, 4\), or be -100, got -1"),
        (
            nn.Linear(12, 4),
            [(X, Y.float())],
            TypeError,
            "labels of batch 0 must be a tensor of integers, got torch.fl",
        ),
        (
            nn.Linear(12, 4),
            [(X, Y.bool())],
            TypeError,
            "must be a tensor of integers, got torch.bool",
        ),
        (nn.Linear(12, 4), [(X, Y.tolist())], TypeError, "must be a tensor of integers, got list"),
        (
            nn.Linear(12, 4),
            [(X, Y[:, None])],
            ValueError,
            r"have shape \(64, 4\), labels \(64, 1\); pass",
        ),
        (nn.Linear(12, 1), [(X, Y)], ValueError, "of 2 classes or more"),
        (
            nn.Linear(12, 4),
            (X, Y),
            TypeError,
            r"batch 0 must be a pair .*; one batch alone is \[\(x, y\)\]",
        ),
        (
            nn.Linear(12, 4),
            X,
            TypeError,
            r"batches must be pairs of input and labels such as \[\(x, y\)\]",
        ),
        (nn.Linear(12, 4), None, TypeError, "batches must be pairs of input and labels"),
        (
            nn.Linear(12, 4),
            iter(()),
            ValueError,
            "holds no sample; a generator can be read only once: pass a list",
        ),
        (nn.Linear, [(X, Y)], TypeError, r"got type Linear itself; call it: Linear\(...\)"),
    ],
)  # fmt: skip
def test_what_has_no_accuracy_is_refused(model, batches, error, message) -> None:
    with pytest.raises(error, match=message):
        at.accuracy(model, batches)


def test_accuracy_takes_the_logits_of_an_output_as_metrics_do() -> None:
    class Output(nn.Linear):
        def forward(self, x: torch.Tensor) -> Any:
            return type("Output", (), {"logits": super().forward(x)})

    model = Output(12, 4)
    y = model(X).logits.argmax(-1)
    y[:16] = (y[:16] + 1) % 4
    assert at.accuracy(model, [(X, y)]) == at.metrics.accuracy([(X, y)])(model) == 0.75


def test_accuracy_of_every_position() -> None:
    model = nn.Linear(12, 4)
    x = X.view(16, 4, 12)
    y = model(x).argmax(-1)
    y[0] = (y[0] + 1) % 4
    assert at.accuracy(model, [(x, y)]) == 15 / 16


def test_a_folder_keeps_each_measurement_and_the_sweep_goes_on(tmp_path: Path) -> None:
    whole = at.sweep(_model(), _metric, num_chips=3, times=["0 s", "1 day"])
    left = [3]

    @functools.wraps(_metric)
    def stopped(model: nn.Module) -> float:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return _metric(model)

    with pytest.raises(KeyboardInterrupt):
        at.sweep(_model(), stopped, num_chips=3, times=["0 s", "1 day"], folder=tmp_path / "a")
    calls = []

    @functools.wraps(_metric)
    def counted(model: nn.Module) -> float:
        calls.append(1)
        return _metric(model)

    again = at.sweep(_model(), counted, num_chips=3, times=["0 s", "1 day"], folder=tmp_path / "a")
    assert torch.equal(again.values, whole.values)
    assert len(calls) == 3
    # more chips and other times, in another order, are added to it
    more = at.sweep(
        _model(), counted, num_chips=4, times=["1 day", "programmed", 0], folder=tmp_path / "a"
    )
    assert torch.equal(more.values[:3, [2, 0]], whole.values)
    assert len(calls) == 3 + 4 + 2
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        *(f"chip-{i:05d}.json" for i in range(4)),
        "sweep.json",
    ]


@pytest.mark.parametrize("threads", [False, True])
def test_a_folder_that_cannot_be_written_gives_what_it_has(
    threads: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, looks = _model(), []

    @functools.wraps(_metric)
    def counted(model: nn.Module) -> float:
        looks.append(1)
        return _metric(model)

    first = at.sweep(model, counted, num_chips=2, folder=tmp_path)
    looks.clear()
    with monkeypatch.context() as patch, concurrent.futures.ThreadPoolExecutor(1) as executor:
        patch.setattr(os, "access", lambda path, mode: path != tmp_path)
        patch.setattr(journal, "claimed", None)
        options: dict[str, Any] = {"folder": tmp_path, "executor": executor if threads else None}
        again = at.sweep(model, counted, num_chips=2, **options)
        assert torch.equal(again.values, first.values)
        message = "sweep: could not write in .* lacks some of the measurements.*copy it to a folder"
        with pytest.raises(OSError, match=message):
            at.sweep(model, counted, num_chips=3, **options)
    assert not looks


def test_a_folder_keeps_a_seed_of_numpy(tmp_path: Path) -> None:
    of_numpy, plain = (
        at.sweep(_model(), _metric, num_chips=1, times=["0 s"], seed=s, folder=tmp_path / "a")
        for s in (np.int64(4), 4)
    )
    assert torch.equal(of_numpy.values, plain.values)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    at.sweep(_model(), _metric, num_chips=1, times=["0 s"], folder=tmp_path / "a")
    with pytest.raises(
        ValueError, match=r"another experiment \(seed 0 there and 1 here\); give another folder"
    ):
        at.sweep(_model(), never, num_chips=1, times=["0 s"], seed=1, folder=tmp_path / "a")
    with pytest.raises(ValueError, match=r"another experiment \(compensation "):
        at.sweep(
            _model(), never, num_chips=1, times=["0 s"], compensation="none", folder=tmp_path / "a"
        )
    other = _model()
    other.weight.data[0, 0] += 1e-6
    with pytest.raises(ValueError, match=r"another experiment \(model '"):
        at.sweep(other, never, num_chips=1, times=["0 s"], folder=tmp_path / "a")
    broken = at.Defects(stuck_on=0.1)
    with pytest.raises(ValueError, match=r"another experiment \(defects None there and"):
        at.sweep(_model(), never, num_chips=1, times=["0 s"], defects=broken, folder=tmp_path / "a")
    closer = at.GradientDescent(rounds=2)
    with pytest.raises(ValueError, match=r"another experiment \(method None there and"):
        at.sweep(_model(), never, num_chips=1, times=["0 s"], method=closer, folder=tmp_path / "a")
    other = at.convert(at.to_digital(_model()), crossbar(device="one_device"))
    with pytest.raises(ValueError, match=r"another experiment \(model '"):
        at.sweep(other, never, num_chips=1, times=["0 s"], folder=tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("precious")
    with pytest.raises(
        ValueError, match="holds thesis.txt and no sweep.json; give a new or an empty folder"
    ):
        at.sweep(_model(), never, folder=tmp_path / "b")
    (tmp_path / "b" / "thesis.txt").rename(tmp_path / "b" / ".DS_Store")  # as file managers leave
    at.sweep(_model(), _metric, num_chips=1, times=["0 s"], folder=tmp_path / "b")


@pytest.mark.parametrize(
    ("name", "own"),
    [("chip-00003.json", True), ("chip-hermes.json", False), ("chip-3.json", False)],
)
def test_no_files_of_others_are_to_be_removed(name: str, own: bool, tmp_path: Path) -> None:
    (tmp_path / "chip-00002.json").write_text("{}")  # of a sweep that has lost its head
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=r"no sweep.json; .*give a new") as caught:
        at.sweep(_model(), _metric, folder=tmp_path)
    assert (f"remove {tmp_path} to measure again" in str(caught.value)) is own


def test_a_folder_of_another_metric_is_refused(tmp_path: Path) -> None:
    def run(metric: Callable[[nn.Module], float]) -> at.Sweep:
        return at.sweep(_model(), metric, num_chips=1, times=["0 s"], folder=tmp_path)

    def error(model: nn.Module) -> float:
        raise AssertionError

    expected, head = run(_metric).values, tmp_path / "sweep.json"
    with pytest.raises(ValueError, match=r"\(metric '_metric' there and 'error' here"):
        run(error)
    with pytest.raises(ValueError, match=r"\(metric '_metric' there and '' here"):
        run(lambda m: 0.0)
    # an earlier version did not keep the name
    new = json.loads(head.read_text())
    head.write_text(json.dumps({k: v for k, v in new.items() if k != "metric"}))
    assert torch.equal(run(_metric).values, expected)
    assert json.loads(head.read_text()) == new


def test_a_folder_of_other_samples_is_refused(tmp_path: Path) -> None:
    x, model = torch.randn(8, 12), _model()
    targets = model(x).argmax(1)
    batches = [(x, targets)]

    def run(of: Any, folder: str = "a") -> at.Sweep:
        metric = at.metrics.accuracy(of)
        return at.sweep(model, metric, num_chips=1, times=["0 s"], folder=tmp_path / folder)

    expected = run(batches).values
    assert torch.equal(run([(x.clone(), targets.clone())]).values, expected)
    for other in ([(x, targets + 1)], [(x[:4], targets[:4])], batches * 2):
        with pytest.raises(ValueError, match=r"holds another experiment \(samples '.*' there"):
            run(other)
    head = tmp_path / "a" / "sweep.json"
    new = json.loads(head.read_text())  # an earlier version did not keep them, nor the settings
    head.write_text(json.dumps({k: new[k] for k in new if k not in ("samples", "metric settings")}))
    assert torch.equal(run(batches).values, expected)
    assert json.loads(head.read_text()) == new
    # a loader may give its batches in another order each time
    loader = DataLoader(TensorDataset(x, targets), batch_size=4, shuffle=True)
    run(loader, "b")
    run(loader, "b")
    head = tmp_path / "b" / "sweep.json"
    new = json.loads(head.read_text())
    assert new["samples"] == ""
    # a version in between left them out of heads of loaders
    for kept in (new, {k: v for k, v in new.items() if k != "samples"}):
        head.write_text(json.dumps(kept))
        with pytest.raises(ValueError, match=r"another experiment \(.*, samples '' there"):
            run(batches, "b")
    run(loader, "b")
    wer = [at.metrics.wer([(x, [text])], str).samples for text in ("yes", "no", "yes")]
    assert wer[0] == wer[2] != wer[1]

    def metric(model: nn.Module) -> float:
        return 0.0

    vars(metric)["samples"] = 3
    with pytest.raises(TypeError, match="samples of the metric must be a text"):
        at.sweep(model, metric, num_chips=1, times=["0 s"], folder=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_folder_of_before_chips_had_parts_goes_on_with_a_warning(tmp_path: Path) -> None:
    def run() -> at.Sweep:
        return at.sweep(_model(), _metric, num_chips=2, times=["0 s"], folder=tmp_path)

    expected, head = run().values, tmp_path / "sweep.json"
    new = json.loads(head.read_text())
    head.write_text(json.dumps({**new, "version": 1, "model": "0" * 64}))
    with pytest.warns(UserWarning, match="was begun by an earlier version, which described"):
        assert torch.equal(run().values, expected)
    assert json.loads(head.read_text()) == new
    run()  # a warning would be an error
    head.write_text(json.dumps({**new, "version": 1, "seed": 7}))
    with pytest.raises(ValueError, match=r"another experiment \(seed 7 there and 0 here\)"):
        run()


def test_another_structure_with_the_same_state_is_another_experiment(tmp_path: Path) -> None:
    def run(middle: nn.Module) -> at.Sweep:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, 16), middle, nn.Linear(16, 4))
        return at.sweep(
            at.convert(net, crossbar()), lambda m: m(torch.ones(2, 8)).mean().item(), num_chips=1,
            times=["0 s"], folder=tmp_path,
        )  # fmt: skip

    first = run(nn.LeakyReLU(0.1))
    assert torch.equal(run(nn.LeakyReLU(0.1)).values, first.values)
    for middle in (nn.ReLU(), nn.LeakyReLU(0.2)):
        with pytest.raises(ValueError, match=r"another experiment \(.*structure "):
            run(middle)
    head = json.loads((tmp_path / "sweep.json").read_text())
    del head["structure"]
    (tmp_path / "sweep.json").write_text(json.dumps({**head, "version": 2}))
    with pytest.warns(UserWarning, match="was begun by an earlier version"):
        run(nn.LeakyReLU(0.1))


@pytest.mark.parametrize(
    "change",
    [
        lambda net: vars(net[1].self_attn).update(num_heads=4, head_dim=4),
        lambda net: vars(net[1]).update(norm_first=True),
        lambda net: vars(net[1]).update(activation=torch.nn.functional.gelu),
        lambda net: net[0].register_forward_hook(lambda *given: given[2] * 2),
    ],
    ids=["heads", "order of norms", "activation", "hook"],
)
def test_options_that_no_module_prints_make_another_experiment(
    change: Callable[[nn.Module], Any], tmp_path: Path
) -> None:
    def run(changed: bool) -> at.Sweep:
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 2, 8, batch_first=True)
        net = nn.Sequential(nn.Identity(), layer)
        if changed:
            change(net)
        return at.sweep(
            at.convert(net.eval(), crossbar()), lambda m: m(torch.ones(2, 3, 16)).std().item(),
            num_chips=1, times=["0 s"], folder=tmp_path,
        )  # fmt: skip

    first = run(changed=False)
    assert torch.equal(run(changed=False).values, first.values)
    with pytest.raises(ValueError, match=r"another experiment \(options "):
        run(changed=True)
    head = json.loads((tmp_path / "sweep.json").read_text())
    del head["options"]  # as an earlier version wrote it
    (tmp_path / "sweep.json").write_text(json.dumps(head))
    run(changed=False)


def test_the_stride_of_an_analog_convolution_makes_another_experiment(tmp_path: Path) -> None:
    def run(stride: int) -> at.Sweep:
        torch.manual_seed(0)
        net = at.convert(nn.Conv1d(2, 3, 3, stride), crossbar())
        metric = lambda m: m(torch.ones(1, 2, 9)).mean().item()  # noqa: E731
        return at.sweep(net, metric, num_chips=1, times=["0 s"], folder=tmp_path)

    run(1)
    with pytest.raises(ValueError, match="another experiment"):
        run(2)


def test_a_model_that_has_run_is_the_same_experiment(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GRU(4, 4, batch_first=True))
    model, x = at.convert(net.eval(), crossbar()), torch.randn(4, 1, 6, 6)
    metric = lambda m: m[1](m[0](x).flatten(2).mT)[0].mean().item()  # noqa: E731
    first = at.sweep(model, metric, num_chips=1, times=["0 s"], folder=tmp_path)
    model.train()
    metric(model)
    at.hwa.training_noise_(model.eval(), 0.5)
    second = at.sweep(model, metric, num_chips=1, times=["0 s"], folder=tmp_path)
    assert torch.equal(first.values, second.values)


def test_sources_do_not_make_another_experiment(tmp_path: Path) -> None:
    chip = crossbar()
    other = chip.replace(adc={"sources": {"range": "measured here"}})
    first, second = (at.convert(at.to_digital(_model()), each) for each in (chip, other))
    at.sweep(first, _metric, num_chips=1, times=["0 s"], folder=tmp_path)
    at.sweep(second, _metric, num_chips=1, times=["0 s"], folder=tmp_path)


@pytest.mark.parametrize("name", ["chip-00000.json", "sweep.json"])
def test_damage_in_a_folder_is_never_a_result(name: str, tmp_path: Path) -> None:
    def run() -> at.Sweep:
        return at.sweep(_model(), _metric, num_chips=1, times=["0 s", "1 day"], folder=tmp_path)

    expected, path = run().values, tmp_path / name
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    messages: list[str] = []
    for _ in range(25):
        damaged = bytearray(whole)
        damaged[generator.integers(len(whole))] ^= 1 << generator.integers(8)
        path.write_bytes(damaged)
        try:
            found = run().values
        except ValueError as error:
            messages.append(str(error))
        else:
            assert torch.equal(found, expected)  # white space between the values
        path.write_bytes(whole)
    assert len(messages) > 10
    remedy = "give another folder" if name == "sweep.json" else "remove it to measure this chip"
    assert all(str(tmp_path) in message and remedy in message for message in messages)


def test_the_remedy_for_a_damaged_head_works(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    first = at.sweep(_model(), _metric, num_chips=1, times=["1 day"], folder=folder)
    (folder / "sweep.json").write_text("{")
    with pytest.raises(ValueError, match=f"give another folder, or remove {folder} to measure"):
        at.sweep(_model(), _metric, num_chips=1, times=["1 day"], folder=folder)
    shutil.rmtree(folder)
    again = at.sweep(_model(), _metric, num_chips=1, times=["1 day"], folder=folder)
    assert torch.equal(again.values, first.values)


def _resistive() -> nn.Module:
    torch.manual_seed(0)
    return at.convert(nn.Linear(12, 4), at.chips.neurram48())


def test_a_time_beyond_the_devices_data_is_marked_in_a_sweep() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # marked, and so not warned of
        found = at.sweep(_resistive(), _metric, num_chips=2, times=["1 day", 172_800, "1 year"])
    assert found.notes[:2] == ("", "")
    assert (
        found.notes[2]
        == "beyond the device's data (2 days, 130 nm RRAM (Wan 2022)): held at its last value"
    )
    assert str(found).splitlines()[-1] == f"* 1 year is {found.notes[2]}"
    assert found.to_dict()["1 year"]["note"] == found.notes[2]
    assert "note" not in found.to_dict()["1 day"]
    assert at.sweep(_model(), _metric, num_chips=1, times=["1 year"]).notes == ()


def test_at_warns_once_of_a_time_beyond_the_devices_data() -> None:
    physical = at.program(_resistive(), seed=1)
    with pytest.warns(
        UserWarning, match=r"at\('1 year'\): beyond the device's data \(2 days, 130 nm RRAM"
    ):
        physical.at("1 year")
    for time in ("1 year", "10 years", "2 days", "programmed"):
        physical.at(time)  # a warning would be an error


def test_training_noise_beyond_the_devices_data_is_warned_of() -> None:
    noise = at.TrainingNoise(weight="device", time="1 year")
    with pytest.warns(
        UserWarning, match=r"neurram48: TrainingNoise.time='1 year' is beyond the device's data"
    ):
        at.chips.neurram48(training=noise)
    at.chips.hermes64(training=noise)  # a warning would be an error
    at.chips.neurram48(training=at.TrainingNoise(weight="device", time="2 days"))


def test_a_device_that_gives_nan_is_named() -> None:
    device = dataclasses.replace(at.devices.pcm_like(), drift_mean=lambda r: r * math.nan)
    chip = dataclasses.replace(at.chips.hermes64(), cell=at.devices.DifferentialPair(device=device))
    with pytest.raises(
        ValueError, match="the device 'PCM statistical model.* NaN or infinite at 3600 s"
    ):
        at.sweep(at.convert(nn.Linear(12, 4), chip), _metric, num_chips=1)


def test_sensitivity_marks_a_time_beyond_the_devices_data() -> None:
    found = at.sensitivity(_resistive(), _metric, num_chips=1, time="1 year")
    assert "drift (1 year*)" in str(found)
    assert str(found).endswith(
        "* 1 year is beyond the device's data (2 days, 130 nm RRAM (Wan 2022)): held at its last "
        "value"
    )
    assert found.to_dict()["note"].startswith("beyond the device's data")
    assert at.sensitivity(_resistive(), _metric, num_chips=1, time="1 day").note == ""


def test_progress_shows_a_bar(capsys: pytest.CaptureFixture) -> None:
    at.sweep(_model(), _metric, num_chips=1, progress=True)
    assert "chips x times" in capsys.readouterr().err


def test_several_models_are_one_work_on_the_same_chips(tmp_path: Path) -> None:
    other = _model()
    with torch.no_grad():
        other.weight.mul_(0.5)
    options = {"num_chips": 3, "times": ["0 s", "1 day"]}
    alone = {"half": at.sweep(other, _metric, **options), "a b/c": at.sweep(_model(), _metric)}
    found = at.sweep({"half": other, "a b/c": _model()}, _metric, folder=tmp_path, **options)
    assert list(found) == ["half", "a b/c"]
    assert torch.equal(found["half"].values, alone["half"].values)
    assert found["half"].seeds == found["a b/c"].seeds == alone["a b/c"].seeds[:3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a%20b%2Fc", "half"]
    # each is a journal as one model has it alone, and nothing is measured again
    assert torch.equal(
        at.sweep(other, never, folder=tmp_path / "half", **options).values, found["half"].values
    )
    at.sweep({"half": other, "a b/c": _model()}, never, folder=tmp_path, **options)


def test_bad_names_of_models_are_refused() -> None:
    for models in ({}, {"": _model()}, {"..": _model()}, {3: _model()}):
        with pytest.raises(ValueError, match=r"sweep: model is empty|models have names such as"):
            at.sweep(models, never)
    with pytest.raises(TypeError, match="sweep: model must be"):
        at.sweep({"a": 3}, never)


class _Later:
    """An executor of jobs that finish in reverse, one at each look at any of them."""

    def __init__(self) -> None:
        self.jobs: list[_Job] = []
        self.cancelled = 0

    def submit(self, fn, /, *args) -> "_Job":  # type: ignore[no-untyped-def]
        # as a cluster gets it
        self.jobs.append(_Job(self, pickle.dumps((fn, args))))
        return self.jobs[-1]


class _Job:
    def __init__(self, owner: _Later, call: bytes) -> None:
        self.owner, self.call = owner, call

    def done(self) -> bool:
        if self.owner.jobs and self.owner.jobs[-1] is self:
            self.owner.jobs.pop()
        return self not in self.owner.jobs

    def result(self) -> object:
        fn, args = pickle.loads(self.call)
        return fn(*args)

    def cancel(self) -> None:
        self.owner.cancelled += 1


def test_an_executor_measures_what_the_folder_lacks(tmp_path: Path) -> None:
    options = {"num_chips": 4, "times": ["0 s", "1 day"]}
    at.sweep(_model(), _metric, num_chips=2, times=["0 s"], folder=tmp_path / "a")
    found = at.sweep({"a": _model()}, _metric, executor=_Later(), folder=tmp_path, **options)
    expected = at.sweep(_model(), _metric, **options)
    assert torch.equal(found["a"].values, expected.values)
    at.sweep(_model(), never, folder=tmp_path / "a", **options)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert torch.equal(
            at.sweep(_model(), _metric, executor=pool, **options).values, expected.values
        )


def _once(model: nn.Module) -> float:
    return _metric(model) if _metric(model) > _BAD else math.nan


_BAD = 0.0


def test_an_error_of_an_executor_appears_and_finished_chips_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"num_chips": 4, "times": ["0 s"]}
    expected = at.sweep(_model(), _metric, **options).values[:, 0]
    worst = int(expected.argmin())
    monkeypatch.setattr(f"{__name__}._BAD", expected.min().item())
    pool = _Later()
    with pytest.raises(ValueError, match=f"the metric is nan on chip {worst} at 0 s"):
        at.sweep(_model(), _once, executor=pool, folder=tmp_path, **options)
    kept = {int(path.stem[5:]) for path in tmp_path.glob("chip-*")}
    # they finish in reverse, one more when it is looked at after the error
    assert kept == {*range(max(0, worst - 1), 4)} - {worst}
    assert pool.cancelled == max(0, worst - 1)


class _Begun:
    """A job that has begun: it can no longer be cancelled, and ends after the others."""

    def __init__(self, of: list["_Begun"], run: Callable[[], object]) -> None:
        self.run, self.late, self.asked = run, len(of) % 2 == 0, False
        of.append(self)

    def done(self) -> bool:
        return self.asked or not self.late

    def result(self) -> object:
        return self.run()

    def cancel(self) -> bool:
        self.asked = True
        return False


def test_after_an_error_the_jobs_that_run_are_kept_too(tmp_path: Path) -> None:
    jobs: list[_Begun] = []

    class Pool:
        def submit(self, fn, /, *args) -> _Begun:  # type: ignore[no-untyped-def]
            return _Begun(jobs, functools.partial(fails if len(jobs) in bad else fn, *args))

    def fails(seed: int, times: object) -> None:
        raise RuntimeError(f"node of chip {seeds.index(seed)} is lost")

    options = {"num_chips": 6, "times": ["0 s"]}
    seeds, bad = chip_seeds(0, 6), (1, 4, 5)  # 1, 3 and 5 end first
    with pytest.raises(RuntimeError, match="node of chip 1 is lost"):
        at.sweep(_model(), _metric, executor=Pool(), folder=tmp_path, **options)
    assert [job.asked for job in jobs] == [True, False] * 3
    kept = sorted(path.name for path in tmp_path.glob("chip-*"))
    assert kept == [f"chip-{i:05d}.json" for i in (0, 2, 3)]


@pytest.mark.parametrize("wrong", ["metric", "model", "recovery"])
def test_what_an_executor_cannot_pickle_is_named(wrong: str) -> None:
    model, metric, recovery = _model(), _metric, None
    if wrong == "metric":
        metric = lambda view: _metric(view)  # noqa: E731
    elif wrong == "model":
        model.hidden = lambda: None
    else:
        recovery = at.Recovery(batches=[X], forward=lambda view, x: view(x))
    options = {"num_chips": 2, "times": ["0 s"], "recovery": recovery}
    with (
        concurrent.futures.ProcessPoolExecutor(1) as pool,
        pytest.raises(TypeError, match=rf"cannot pickle the {wrong}: .*lambda.*processes="),
    ):
        at.sweep(model, metric, executor=pool, **options)
    at.sweep(model, metric, processes=2, **options)  # as the message advises


def test_an_error_of_the_metric_is_not_one_of_pickling() -> None:
    def metric(model: nn.Module) -> float:
        raise TypeError("of the metric itself")

    with (
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        pytest.raises(TypeError, match="^of the metric itself$"),
    ):
        at.sweep(_model(), metric, executor=pool, num_chips=1, times=["0 s"])


def test_what_is_no_executor_is_refused() -> None:
    with pytest.raises(TypeError, match="sweep: executor must be"):
        at.sweep(_model(), never, executor=4)
    with pytest.raises(ValueError, match="processes=2 beside an executor"):
        at.sweep(_model(), never, executor=_Later(), processes=2)


@pytest.mark.parametrize(
    "measure",
    [
        at.sweep,
        functools.partial(at.lifetime, limit=0.5, recalibration=at.Recalibration()),
        functools.partial(at.recalibration_interval, limit=0.5),
    ],
)
def test_a_digital_model_is_refused_by_the_function_that_was_called(
    measure: Callable[..., Any],
) -> None:
    name = getattr(measure, "func", measure).__name__
    with pytest.raises(ValueError, match=rf"^{name}: the model has no analog layer; call"):
        measure(nn.Linear(12, 4), _metric)
