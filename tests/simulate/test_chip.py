import copy
import dataclasses
import pickle
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import analogtorch as at
from analogtorch.devices import seconds
from tests.crossbar import crossbar
from tests.nn.layers import cases

CHIP = crossbar()
X = torch.randn(16, 40, generator=torch.Generator().manual_seed(0))


def _model(chip: at.Chip = CHIP) -> nn.Module:
    torch.manual_seed(0)
    return at.convert(
        nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 5)), chip
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 s", 0), ("1 h", 3600), ("1 day", 86400), ("30 days", 2592000), ("1 month", 2592000),
        ("1 year", 31536000), ("2 weeks", 1209600), ("1.5h", 5400), ("10min", 600), ("1e3 s", 1000),
        ("1 DAY", 86400), ("2 Weeks", 1209600), ("1E3 S", 1000), ("Programmed", None),
        ("3600", 3600), (12, 12), (np.int64(60), 60), ("programmed", None),
    ],
)  # fmt: skip
def test_times(text, expected) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    "time", ["1 fortnight", "day", "-1 s", -1.0, float("inf"), "1.2.3 s", "", None, "1 hours ago"]
)
def test_bad_times_are_refused(time) -> None:
    with pytest.raises(ValueError, match="time"):
        seconds(time)


def test_what_adapt_returns_is_refused_with_the_model_to_pass() -> None:
    adapted = at.hwa.Adapted(
        model=_model(), times=(), seeds=(), compared="values", ways=(), stages=(), steps=(),
        seconds=0.0, stopped="",
    )  # fmt: skip
    with pytest.raises(TypeError, match="program: model must be .*, got Adapted; pass its .model$"):
        at.program(adapted, seed=7)
    at.program(adapted.model, seed=7)


@pytest.mark.parametrize(
    ("time", "remedy"),
    [
        (None, "texts such as '1 day' are times too"),
        (timedelta(days=1), r"write its .total_seconds\(\)"),
        (torch.tensor(86400.0), r"write its .item\(\)"),
    ],
)
def test_times_of_other_types_are_refused_with_what_to_write(time: object, remedy: str) -> None:
    with pytest.raises(ValueError, match=f"finite number of seconds >= 0, got .*; {remedy}$"):
        at.program(_model(), seed=7).at(time)


def test_the_model_is_untouched_and_later_training_does_not_reach_the_chip() -> None:
    model = _model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    physical = at.program(model, seed=7)
    aged = physical.at("1 day")
    expected = physical.at("1 day")(X)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    model(X)
    assert torch.equal(aged(X), expected)
    assert torch.equal(physical.at("1 day")(X), expected)


def test_it_says_what_it_is_in_one_line() -> None:
    assert str(at.program(_model(), seed=7)) == (
        "programmed crossbar of seed 7: 2 layers on 2 tiles, 2,700 devices"
    )
    made = at.program(
        _model(),
        seed=7,
        method=at.ProgramAndVerify(rounds=1),
        defects=at.Defects(worst_tile=0.1, stuck_on=0.01),
    )
    assert str(made).endswith("2,700 devices, by ProgramAndVerify; defects: stuck_on, cells")


def test_same_seed_same_chip_other_seed_other_chip() -> None:
    outputs = [at.program(_model(), seed=seed).at("1 day")(X) for seed in (7, 7, 8, -7)]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[0], outputs[3])
    of_numpy = at.program(_model(), seed=np.int64(7))
    assert type(of_numpy.seed) is int
    assert torch.equal(of_numpy.at("1 day")(X), outputs[0])


def test_views_are_independent_and_evaluation_only() -> None:
    physical = at.program(_model(), seed=7)
    expected = physical.at("1 year")(X)
    a, b = physical.at("1 h"), physical.at("1 year")
    assert not a.training
    assert not any(p.requires_grad for p in a.parameters())
    assert not torch.equal(a(X), physical.at("1 year")(X))
    a.double()
    with torch.no_grad():
        for name, p in a.named_parameters():
            if not name.endswith("weight") or "1." in name:  # all that a view computes with
                p.fill_(0.3)
    assert b[0].weight.dtype == torch.float32
    assert torch.equal(b(X), expected)
    assert torch.equal(physical.at("1 year")(X), expected)
    a.train()
    with pytest.raises(RuntimeError, match=r"cannot train: call \.eval"):
        a(X)


@pytest.mark.parametrize(
    "use",
    [
        lambda view: at.program(view, seed=1),
        lambda view: at.calibrate(view, [X]),
        lambda view: at.hwa.clip_weights_(view),
        at.to_digital,
    ],
    ids=["program", "calibrate", "clip", "to_digital"],
)
def test_a_view_is_refused_where_the_model_is_meant(use) -> None:
    view = at.program(_model(), seed=7).at("1 day")
    expected = at.program(_model(), seed=7).at("1 day")(X)
    with pytest.raises(ValueError, match="belongs to a programmed chip"):
        use(view)
    with pytest.raises(RuntimeError, match="belongs to a programmed chip"):
        view.load_state_dict(_model().state_dict())
    assert torch.equal(view(X), expected)


@pytest.mark.parametrize("moved", [lambda view: view, copy.deepcopy], ids=["itself", "copied"])
def test_what_a_view_refuses_to_load_changes_none_of_its_modules(moved) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(9, 8), nn.BatchNorm1d(8), nn.Linear(8, 4), nn.GRU(4, 4))
    physical = at.program(at.convert(net, CHIP).eval(), seed=1)
    view = moved(physical.at("1 day", corrected=physical.at("0 s")))
    assert len(view._load_state_dict_pre_hooks) == 1
    before = {name: t.clone() for name, t in view.state_dict().items()}
    other = {name: t + 1 for name, t in net.state_dict().items()}
    for key in ("2.bias", "3.weight_ih_l0"):
        with pytest.raises(RuntimeError, match="belongs to a programmed chip; load into the model"):
            view.load_state_dict({"0.weight": other["0.weight"], key: other[key]}, strict=False)
    with pytest.raises(RuntimeError, match="belongs to a programmed chip; load into the model"):
        nn.Sequential(view).load_state_dict({f"0.{name}": t for name, t in other.items()})
    assert all(torch.equal(t, before[name]) for name, t in view.state_dict().items())
    view[1].load_state_dict({name: t + 1 for name, t in view[1].state_dict().items()})
    assert torch.equal(view[1].running_mean, before["1.running_mean"] + 1)


def test_a_view_can_be_cast() -> None:
    # else a rounding boundary may be crossed
    chip = CHIP.replace(dac={"bits": None}, adc={"bits": None})
    expected = at.program(_model(chip), seed=7).at("1 day")(X)
    view = at.program(_model(chip), seed=7).at("1 day").double()
    assert torch.allclose(view(X.double()).float(), expected, atol=1e-4)


def test_copies_of_a_layer_get_devices_of_their_own_and_wrapping_keeps_the_chip() -> None:
    torch.manual_seed(0)
    block = at.convert(nn.Linear(40, 40), CHIP)
    copies = nn.Sequential(*[copy.deepcopy(block) for _ in range(3)])
    held = [layer.programmed.weights[0] for layer in at.program(copies, seed=1).at("programmed")]
    alone = at.program(block, seed=1).at("programmed").programmed.weights[0]
    assert torch.equal(held[0], alone)
    errors = [w - block.weight.detach() for w in held]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        together = (errors[a] * errors[b]).mean() / (errors[a].std() * errors[b].std())
        assert abs(together) < 4.5 / 40  # 1,600 cells: 4.5 standard errors
    wrapped = at.program(nn.Sequential(block), seed=1).at("programmed")[0].programmed.weights[0]
    assert torch.equal(wrapped, alone)


def _correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return a correlation in standard errors of independent numbers."""
    a, b = (((x - x.mean()) / x.std()).flatten() for x in (a, b))
    return (a * b).mean().item() * a.numel() ** 0.5


def test_layers_and_times_have_noise_of_their_own() -> None:
    torch.manual_seed(0)
    model = at.convert(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), CHIP)
    with torch.no_grad():
        model[1].weight.copy_(model[0].weight)
    view = at.program(model, seed=1).at("programmed")
    errors = [layer.programmed.weights[0] - layer.weight for layer in view]
    assert abs(_correlation(*errors)) < 4.5
    # with and without read noise, all else equal: what is left is the read noise of that time
    cell = CHIP.cell
    quiet = dataclasses.replace(cell, device=dataclasses.replace(cell.device, read_scale=0.0))
    silent = at.convert(at.to_digital(copy.deepcopy(model)), dataclasses.replace(CHIP, cell=quiet))
    reads = []
    for time in ("1 h", "1 day"):
        noisy, exact = (
            at.program(m, seed=1).at(time)[0].programmed.weights[0] for m in (model, silent)
        )
        reads.append(noisy - exact)
    assert all(read.std() > 0 for read in reads)
    assert abs(_correlation(*reads)) < 4.5


def test_every_multiply_has_its_own_output_noise_and_batches_of_any_size_see_the_same() -> None:
    chip = CHIP.replace(dac={"bits": None}, adc={"bits": None})
    for case in cases():
        if case.name not in ("linear", "linear_3d", "conv1d", "conv2d_groups"):
            continue
        layer = at.convert(copy.deepcopy(case.layer), chip)
        layer.set_input_range(3.0)
        physical = at.program(layer, seed=2)
        x = torch.cat([case.x[:1]] * 4)
        whole = physical.at("1 day")(x)
        one_by_one = physical.at("1 day")
        assert torch.allclose(
            torch.cat([one_by_one(sample) for sample in x.split(1)]), whole, atol=1e-5
        )
        assert not torch.allclose(whole[0], whole[1], atol=1e-3)
        assert not torch.allclose(one_by_one(x), whole, atol=1e-3)


def test_output_noise_of_a_view_has_the_chips_size() -> None:
    chip = at.chips.ideal().replace(array={"rows": 16}, adc={"noise": 0.1})
    layer = nn.Linear(64, 64, bias=False)
    nn.init.ones_(layer.weight)
    layer = at.convert(layer, chip)
    layer.set_input_range(2.0)
    noise = at.program(layer, seed=1).at("1 day", compensation="none")(torch.zeros(500, 64))
    # four row blocks, full-scale input 2, weight scale 1; 32,000 draws
    assert noise.std().item() == pytest.approx(0.1 * 2 * 2, rel=0.02)


def _loop_gains(layer, view, then, compensation: str) -> torch.Tensor:
    """The gain of each block and output, one block after the other, from exact reads."""
    (section,) = layer.sections
    now = view.programmed.weights[0]
    gains = torch.ones(len(section.row_blocks), section.shape[0])
    for i, (rows,) in enumerate(section.row_blocks):
        groups = section.col_blocks
        if compensation == "column":
            groups = [slice(c, c + 1) for c in range(section.shape[0])]
        for cols in groups:
            a, b, w = now[cols, rows], then[cols, rows], layer.weight.detach()[cols, rows]
            if compensation == "least_squares":
                gains[i, cols] = (a * w).sum() / (a * a).sum()
            else:
                gains[i, cols] = b.abs().sum() / a.abs().sum()
    return gains


@pytest.mark.parametrize("compensation", ["global", "column", "least_squares"])
def test_compensation_is_per_placed_block(compensation: str) -> None:
    torch.manual_seed(0)
    layer = at.convert(nn.Linear(50, 30), CHIP.replace(array={"rows": 20, "columns": 16}))
    physical = at.program(layer, seed=3)
    view = physical.at("1 year", compensation=compensation, readout="ideal")
    then = physical.at("programmed").programmed.weights[0]
    expected = _loop_gains(layer, view, then, compensation)
    assert torch.allclose(view.programmed.gains[0], expected, rtol=1e-4)
    assert view.programmed.gains[0].unique().numel() == (90 if compensation == "column" else 6)


def test_chip_readout_goes_through_adc_and_noise() -> None:
    torch.manual_seed(0)
    layer = at.convert(nn.Linear(200, 100), CHIP)
    physical = at.program(layer, seed=3)

    def gains(compensation: str, readout: str, time: str = "1 year") -> torch.Tensor:
        return physical.at(time, compensation=compensation, readout=readout).programmed.gains[0]

    # global: 20,000 cells, each read 25 times in steps of 0.094 and noise of 0.04; least squares:
    # 25,600 reads
    for compensation, tolerance in (("global", 0.1), ("least_squares", 0.01)):
        exact, read = gains(compensation, "ideal"), gains(compensation, "chip")
        assert not torch.equal(exact, read)
        assert torch.allclose(exact, read, rtol=tolerance)
        assert torch.equal(read, gains(compensation, "chip"))
        at_once = gains(compensation, "chip", "0 s")
        assert (at_once - 1).abs().max() < 0.02  # the two readouts have noise of their own
        assert not torch.equal(at_once, torch.ones_like(at_once))


def test_columns_that_read_nothing_are_left_alone() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 64, 3, groups=64, bias=False)
    with torch.no_grad():
        layer.weight.mul_(torch.logspace(0, -2, 64).view(-1, 1, 1, 1))
    for seed in range(5):
        view = at.program(at.convert(copy.deepcopy(layer), CHIP), seed=seed).at(
            "1 day", compensation="column"
        )
        assert view.programmed.gains[0].max() < 20


def test_programming_and_drift_draws_stay_the_same_over_time() -> None:
    chip = CHIP.replace(dac={"bits": None}, adc={"noise": 0.0, "bits": None})
    quiet = dataclasses.replace(
        chip.cell, device=dataclasses.replace(chip.cell.device, read_scale=0.0)
    )
    physical = at.program(_model(dataclasses.replace(chip, cell=quiet)), seed=3)
    then, now = (physical.at(t, compensation="none")(X) for t in ("programmed", "0 s"))
    assert torch.allclose(then, now, atol=1e-6)
    static = dataclasses.replace(quiet, device=dataclasses.replace(quiet.device, drift_scale=0.0))
    physical = at.program(_model(dataclasses.replace(chip, cell=static)), seed=3)
    assert torch.allclose(then, physical.at("1 year", compensation="none")(X), atol=1e-6)


def test_the_noise_of_a_weight_does_not_depend_on_the_tiles() -> None:
    # every weight at full scale in one row: any tiling has the same scales, so the same
    # conductances
    outputs = []
    for rows, cols in ((256, 256), (16, 8), (7, 100)):
        exact = CHIP.replace(
            array={"rows": rows, "columns": cols},
            dac={"bits": None},
            adc={"noise": 0.0, "bits": None},
        )
        torch.manual_seed(0)
        layer = nn.Linear(40, 30)
        layer.weight.data = torch.where(layer.weight > 0, 1.0, -1.0)
        outputs.append(
            at.program(at.convert(layer, exact), seed=5).at("1 day", compensation="none")(X)
        )
    for other in outputs[1:]:
        assert torch.allclose(outputs[0], other, atol=1e-4)


def test_an_ideal_chip_gives_the_digital_model_at_any_time() -> None:
    digital = copy.deepcopy(at.to_digital(_model())).eval()
    physical = at.program(_model(at.chips.ideal()), seed=1)
    for time in ("programmed", "0 s", "1 year"):
        for compensation in ("none", "global", "column", "least_squares"):
            assert torch.allclose(
                physical.at(time, compensation=compensation)(X), digital(X), atol=1e-5
            )


@pytest.mark.parametrize("case", cases(), ids=lambda c: c.name)
@pytest.mark.parametrize("compensation", ["none", "global", "column", "least_squares"])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_every_layer_and_compensation(case, compensation: str) -> None:
    for changes in (
        {},
        {"array": {"rows": 24, "columns": 5}},
        {
            "array": {"grouped": "block_diagonal", "rows": 30},
            "periphery": {"weight_scale": "column"},
        },
    ):
        chip = CHIP.replace(**changes)
        view = at.program(at.convert(copy.deepcopy(case.layer), chip), seed=2).at(
            "1 day", compensation=compensation
        )
        y, expected = view(case.x), case.layer(case.x)
        assert y.shape == expected.shape
        assert (y - expected).norm() < 0.45 * expected.norm()


def test_bad_calls_are_refused() -> None:
    model = _model()
    with pytest.raises(TypeError, match="seed must be an integer"):
        at.program(model, seed=1.5)
    with pytest.raises(ValueError, match="seed must lie in"):
        at.program(model, seed=2**63)
    with pytest.raises(ValueError, match="no analog layer"):
        at.program(nn.Linear(2, 2), seed=1)
    with pytest.raises(ValueError, match="compensation must be one of"):
        at.program(model, seed=1).at("1 h", compensation="all")
    with pytest.raises(ValueError, match="readout must be one of"):
        at.program(model, seed=1).at("1 h", readout="exact")
    model[3].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="weight of layer '3' has NaN"):
        at.program(model, seed=1)
    with torch.device("meta"):
        model = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="on the meta device; load weights first"):
        at.program(at.convert(model, CHIP), seed=1)


@pytest.mark.parametrize("how", ["compile", "export"])
def test_a_view_compiles_and_exports_with_its_noise(how: str) -> None:
    model = _model()
    at.calibrate(model, [X])
    physical = at.program(model, seed=7)
    eager, view = physical.at("1 day"), physical.at("1 day")
    if how == "compile":
        run = torch.compile(view, fullgraph=True, backend="aot_eager")
    else:
        run = torch.export.export(view, (X,)).module()
    for _ in range(2):  # the second time, the inputs count on
        assert torch.allclose(run(X), eager(X), atol=1e-5)


def test_the_default_type_changes_no_chip() -> None:
    torch.manual_seed(0)
    model, x = at.convert(nn.Sequential(nn.Linear(20, 8)), crossbar()), torch.randn(3, 20)
    expected = at.program(model, seed=1).at("1 day")(x)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(at.program(model, seed=1).at("1 day")(x), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_a_small_chip_keeps_between_times_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = ("programmed", "0 s", "1 day", "0 s")
    defects = at.Defects(stuck_on=0.05, stuck_off=0.05)
    chips = [at.program(_model(), seed=3, defects=defects)]
    monkeypatch.setattr("analogtorch.simulate.chip._SMALL", 0)
    chips.append(at.program(_model(), seed=3, defects=defects))
    for t in times:
        kept, anew = (chip.at(t)[0].programmed for chip in chips)
        assert torch.equal(kept.weights[0], anew.weights[0])
        assert torch.equal(kept.gains[0], anew.gains[0])


def test_views_share_no_state_with_each_other_or_the_model() -> None:
    model = _model()
    physical = at.program(model, seed=3)
    first, second = physical.at("1 day"), physical.at("1 day")
    first[1].running_mean.add_(1)
    first[1].bias.add_(1)
    first[0].register_forward_hook(lambda *_: None)
    first[0].register_buffer("own", torch.zeros(1))
    for other in (second, model, physical.at("1 day")):
        assert not other[1].running_mean.any()
        assert not other[1].bias.any()
        assert not other[0]._forward_hooks
        assert not hasattr(other[0], "own")


class _Tied(nn.Module):
    """Ids become vectors by the matrix of the last layer, as in many language models."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.h = nn.Embedding(20, 16), nn.Linear(16, 20)
        self.h.weight = self.e.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.h(self.e(ids))


def test_a_digital_user_of_a_tied_weight_has_a_copy_of_its_own_in_each_view() -> None:
    torch.manual_seed(0)
    model, ids = at.convert(_Tied(), CHIP).eval(), torch.arange(8)
    physical = at.program(model, seed=1)
    expected = physical.at("1 year")(ids)
    day, year = physical.at("1 day"), physical.at("1 year")
    address = torch._C._data_address  # data_ptr() counts as writing
    assert address(day.h.weight) == address(year.h.weight)  # nothing computes with it
    with torch.no_grad():
        day.e.weight.mul_(2)
    for view in (year, physical.at("1 year")):
        assert torch.equal(view(ids), expected)
    assert torch.equal(day.h.weight, model.h.weight)  # the cells were programmed to these
    carried = physical.at("1 year", corrected=day)
    assert torch.equal(carried.e.weight, day.e.weight)
    with torch.no_grad():
        carried.e.weight.mul_(2)
    assert torch.equal(day.e.weight, 2 * model.e.weight)
    # transformers ties again, which changes nothing until one of both has learnt
    again = physical.at("1 year")
    again.h.weight = again.e.weight
    assert torch.equal(again(ids), expected)
    day.h.weight = day.e.weight
    with pytest.raises(RuntimeError, match="or tied to one that has learnt"):
        day(ids)


@pytest.mark.parametrize("write", [torch.Tensor.mul_, lambda w, by: w.data.mul_(by)])
def test_a_weight_written_in_one_view_is_that_of_no_other_nor_of_the_chip(
    write, tmp_path: Path
) -> None:
    physical = at.program(_model().eval(), seed=1)
    expected = at.correct_columns(physical.at("1 day"), [X])(X)
    before, written = physical.at("0 s"), physical.at("0 s")
    with torch.no_grad():
        write(written[0].weight, 2)
    for view in (before, physical.at("0 s")):
        assert torch.equal(2 * view[0].weight, written[0].weight)
    assert torch.equal(at.correct_columns(physical.at("1 day"), [X])(X), expected)
    at.save(physical, tmp_path / "chip")
    again = at.load(tmp_path / "chip", at.to_digital(_model()))
    assert torch.equal(again.at("1 day")(X), physical.at("1 day")(X))


def test_a_chip_in_memory_that_processes_share_gives_views_too() -> None:
    physical = at.program(_model(), seed=1)
    expected = physical.at("1 day")(X)
    physical._model.share_memory()  # as torch.multiprocessing does with what it sends
    view = physical.at("1 day")
    with torch.no_grad():
        view[0].weight.mul_(2)
    assert torch.equal(physical.at("1 day")(X), expected)
    assert torch.equal(2 * physical.at("1 day")[0].weight, view[0].weight)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: setattr(layer, "weight", nn.Parameter(torch.zeros(4, 8))),
        lambda layer: prune.random_unstructured(layer, "weight", 0.9),
        parametrizations.weight_norm,
        lambda layer: layer.weight.detach().mul_(3),
    ],
    ids=["assigned", "pruned", "parametrized", "in place"],
)
def test_another_weight_of_a_programmed_layer_is_refused(change) -> None:
    torch.manual_seed(0)
    view = at.program(at.convert(nn.Sequential(nn.Linear(8, 4)), CHIP), seed=1).at("0 s")
    change(view[0])
    message = "layer '0' belongs to a programmed chip, whose cells only program changes"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=message):
            view(X[:, :8])
        view.double().float()  # which takes no other weight for that of the cells


@pytest.mark.parametrize("again", [copy.deepcopy, lambda view: pickle.loads(pickle.dumps(view))])
def test_copies_of_a_view_refuse_a_changed_weight_too(again) -> None:
    torch.manual_seed(0)
    view = at.program(at.convert(nn.Sequential(nn.Linear(8, 4)), CHIP), seed=1).at("0 s")
    copied = again(view)
    copied(X[:, :8])
    copied = again(copied)
    copied[0].weight.detach().mul_(3)  # before it runs
    view[0].weight.detach().mul_(3)
    for changed in (copied, again(copied), again(view)):
        with pytest.raises(RuntimeError, match="layer '0' belongs to a programmed chip"):
            changed(X[:, :8])


def test_another_weight_of_a_matrix_on_a_programmed_chip_is_refused() -> None:
    view, x = at.program(at.convert(nn.GRU(4, 4), CHIP), seed=1).at("0 s"), torch.ones(2, 1, 4)
    view.weight_hh_l0 = nn.Parameter(torch.zeros(12, 4))
    with pytest.raises(RuntimeError, match="layer 'hh_l0' belongs to a programmed chip"):
        view(x)
    view = at.program(at.convert(nn.GRU(4, 4), CHIP), seed=1).at("0 s")
    view(x)
    view.weight_ih_l0.detach().zero_()
    with pytest.raises(RuntimeError, match="layer 'ih_l0' belongs to a programmed chip"):
        view(x)


def test_a_functional_call_of_a_view_takes_its_own_weights_alone() -> None:
    model = at.convert(nn.Sequential(nn.Linear(8, 4), nn.GRU(4, 4)), at.chips.hermes64())
    view, x = at.program(model, seed=1).at("0 s"), X[:, :8]
    expected, call = view(x)[0], torch.func.functional_call
    own = {name: p.detach() for name, p in view.named_parameters()}
    for same in (own, {name: p.clone() for name, p in own.items()}):
        assert torch.equal(call(view, same, x)[0], expected)
    for name, layer in (("0.weight", "0"), ("1.weight_ih_l0", "1.ih_l0")):
        with pytest.raises(RuntimeError, match=f"layer '{layer}' belongs to a programmed chip"):
            call(view, {name: torch.zeros_like(own[name])}, x)
    each = {"0.weight": torch.stack([own["0.weight"]] * 2)}
    with pytest.raises(RuntimeError, match="layer '0' belongs to a programmed chip"):
        torch.vmap(lambda w: call(view, w, x))(each)


@pytest.mark.parametrize(
    "moved",
    [
        copy.deepcopy,
        lambda view: pickle.loads(pickle.dumps(view)),
        lambda view: view.double().float(),
        lambda view: view.share_memory(),
    ],
    ids=["copied", "pickled", "cast", "shared"],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_view_keeps_its_weights_wherever_it_goes(moved, overwrite: bool) -> None:
    torch.manual_seed(0)
    model = at.convert(nn.Sequential(nn.Linear(8, 4), nn.GRU(4, 4)), at.chips.hermes64())
    view = at.program(model, seed=1).at("0 s")
    expected = view(X[:, :8])[0]
    torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
    try:
        view = moved(view)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
    assert torch.equal(view(X[:, :8])[0], expected)


def test_autocast_makes_no_other_chip() -> None:
    torch.manual_seed(0)
    model, x = at.convert(nn.Linear(64, 8), crossbar()), torch.randn(4, 64)
    expected = at.program(model, seed=1).at("1 day")(x)
    with torch.autocast("cpu", torch.bfloat16):
        view = at.program(model, seed=1).at("1 day")
    assert torch.equal(view(x), expected)
