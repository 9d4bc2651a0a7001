import concurrent.futures
import copy
import functools
import math
import pickle
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import analogtorch as at
from analogtorch.evaluate.metric import Metric, direction
from tests.crossbar import crossbar

X = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
SAME = nn.Identity()


def _analog(outputs: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return at.convert(nn.Linear(12, outputs), crossbar())


def _echo(model: nn.Module, x: list[str]) -> list[str]:
    return x


def test_words_that_are_wrong_missing_and_added_are_counted() -> None:
    said = ["Turn the light on.", "yes"]
    heard = ["turn  light ON now", "Yes!"]  # one missing, one added, of five words
    assert at.metrics.wer([(heard, said)], _echo)(SAME) == pytest.approx(2 / 5)
    assert at.metrics.wer([(heard, said)], _echo, normalise=str.lower)(SAME) > 2 / 5
    two = [(heard[:1], said[:1]), (heard[1:], said[1:])]
    assert at.metrics.wer(two, _echo)(SAME) == pytest.approx(2 / 5)
    assert at.metrics.wer([(["", ""], said)], _echo)(SAME) == 1.0
    assert at.metrics.plain("'Don't'  STOP—please, 2 times") == "don't stop please 2 times"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Don’t, it‘s o`clock", "don't it's o clock"),
        ("‘Stop’", "stop"),
        ("l'e\u0301cole", "l'\u00e9cole"),  # the accent is a character of its own
        ("हिन्दी में।", "हिन्दी में"),  # vowels that are marks
    ],
)
def test_texts_are_compared_by_their_words(text: str, plain: str) -> None:
    assert at.metrics.plain(text) == plain


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([(["yes"], ["yes", "no"])], "batch 0: 1 texts for 2 references"),
        ([(["yes"], [" ?! "])], "the reference ' [?]! ' has no word"),
        ([(["yes"], "yes")], "batch 0, references: must be a list of texts"),
        ([([3], ["yes"])], "batch 0, outputs: must be a list of texts"),
        ([([], [])], "batches holds no reference"),
        ([], "batches is empty"),
    ],
)
def test_texts_of_no_use_are_refused(batches: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        at.metrics.wer(batches, _echo)(SAME)


def test_perplexity_is_that_of_the_probabilities() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    tokens = torch.tensor([[0, 1]])
    metric = at.metrics.perplexity([(p.log()[None], tokens)])
    assert metric(SAME) == pytest.approx(math.exp(-(math.log(0.5) + math.log(0.8)) / 2))
    for kind in (torch.uint8, torch.int16, torch.int32):
        assert at.metrics.perplexity([(p.log()[None], tokens.to(kind))])(SAME) == metric(SAME)
    ignored = at.metrics.perplexity([(p.log()[None], torch.tensor([[0, -100]]))])
    assert ignored(SAME) == pytest.approx(2.0)
    far = torch.tensor([[[0.0, 200.0]]])  # of probability exp(-200), which float32 cannot hold
    assert at.metrics.perplexity([(far, torch.tensor([[0]]))])(SAME) == pytest.approx(math.exp(200))
    hopeless = at.metrics.perplexity([(5 * far, torch.tensor([[0]]))])  # exp(1000)
    assert hopeless(SAME) == math.inf

    class Output(nn.Module):
        def forward(self, ids: Tensor) -> Any:
            return type("Output", (), {"logits": p.log()[None]})

    assert at.metrics.perplexity([({"ids": tokens}, tokens)])(Output()) == metric(SAME)


@pytest.mark.parametrize(
    ("logits", "tokens", "message"),
    [
        (X[None], torch.zeros(1, 3, dtype=torch.long), "outputs of shape .1, 40, 12. and tokens"),
        (X[None], torch.zeros(1, 40), "must be a tensor of integers, got torch.float32"),
        (X[None], torch.zeros(1, 40, dtype=torch.bool), "of integers, got torch.bool"),
        (X[None], torch.full((1, 40), 12), r"tokens must lie in \[0, 12\)"),
        (X[None], torch.full((1, 40), -1), r"tokens must lie in \[0, 12\)"),
        (X[None], torch.full((1, 40), -100), "no token counts"),
        (X[None] * math.nan, torch.zeros(1, 40, dtype=torch.long), "batch 0 .* NaN"),
    ],
)
def test_tokens_of_no_use_are_refused(logits: Tensor, tokens: Tensor, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        at.metrics.perplexity([(logits, tokens)])(SAME)


def test_a_detector_has_the_area_and_the_equal_error_rate_of_its_pairs() -> None:
    scores = torch.tensor([30.0, 40.0, 25.0, 50.0, 20.0, 60.0])  # sigmoids that are all 1
    targets = torch.tensor([0, 1, 1, 1, 0, 0])
    above = sum(
        float(a > b) for a in scores[targets == 1].tolist() for b in scores[targets == 0].tolist()
    )
    split = [(scores[:4], targets[:4]), (scores[4:], targets[4:])]
    assert at.metrics.auc(split)(SAME) == pytest.approx(above / 9)
    assert at.metrics.eer(split)(SAME) == pytest.approx(1 / 3)
    good = torch.tensor([0.1, 0.9]), torch.tensor([False, True])
    assert (at.metrics.auc([good])(SAME), at.metrics.eer([good])(SAME)) == (1.0, 0.0)
    assert at.metrics.auc([(torch.zeros(2), good[1])])(SAME) == 0.5


def test_ranks_are_correlated() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 10.0])
    assert at.metrics.spearman([(x, x.exp())])(SAME) == pytest.approx(1.0)
    assert at.metrics.spearman([(x, -x)])(SAME) == pytest.approx(-1.0)
    with pytest.raises(ValueError, match="all 4 outputs are equal"):
        at.metrics.spearman([(torch.ones(4), x)])(SAME)


@pytest.mark.parametrize("make", [at.metrics.auc, at.metrics.spearman, at.metrics.perplexity])
def test_complex_outputs_are_refused(make: Any) -> None:
    outputs = X[None] if make is at.metrics.perplexity else X[None, :, 0]
    with pytest.raises(TypeError, match="outputs are complex.*forward="):
        make([(outputs * 1j, torch.zeros(1, 40, dtype=torch.long))])(SAME)


@pytest.mark.parametrize("make", [at.metrics.auc, at.metrics.eer])
@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (X[:, 0], torch.ones(40), "40 of 40 targets are 1"),
        (X[:, 0], torch.full((40,), 2), "targets must be 0 or 1, got 2 to 2"),
        (X, torch.ones(40), "outputs of shape .40, 12. and targets of .40,."),
        (X[:, 0] * math.nan, torch.ones(40), "NaN"),
    ],
)
def test_detections_of_no_use_are_refused(
    make: Any, scores: Tensor, targets: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make([(scores, targets)])(SAME)


def test_accuracy_is_that_of_its_function() -> None:
    labels = torch.arange(40) % 4
    model = _analog()
    batches = [(X[:30], labels[:30]), (X[30:], labels[30:])]
    assert at.metrics.accuracy(batches)(model) == at.accuracy(model, batches)


def test_accuracy_counts_each_pixel_and_no_label_that_is_ignored() -> None:
    logits = torch.randn(6, 5, 4, 4)
    labels = logits.argmax(1)
    labels[0] = (labels[0] + 1) % 5
    assert at.accuracy(SAME, [(logits, labels)]) == pytest.approx(5 / 6)
    labels[0, :2] = -100
    assert at.accuracy(SAME, [(logits, labels)]) == pytest.approx(80 / 88)
    at_last = logits.movedim(1, -1)
    assert at.accuracy(SAME, [(at_last, labels)]) == pytest.approx(80 / 88)
    assert at.accuracy(SAME, [(at_last.flatten(1, 2), labels.flatten(1))]) == pytest.approx(80 / 88)
    logits[0, :, :2] = math.nan  # what it says of labels that do not count
    assert at.accuracy(SAME, [(logits, labels)]) == pytest.approx(80 / 88)
    many = torch.eye(200)[[156, 3]]
    of_bytes = torch.tensor([156, 4], dtype=torch.uint8)  # 156 is -100 modulo 256
    assert at.accuracy(SAME, [(many, of_bytes)]) == 0.5
    with pytest.raises(ValueError, match="no label counts, all are -100"):
        at.accuracy(SAME, [(logits, torch.full_like(labels, -100))])
    with pytest.raises(ValueError, match=r"labels \(6, 2\); pass outputs \(N, classes, height, w"):
        at.accuracy(SAME, [(logits, torch.zeros(6, 2).long())])


def test_intervals_end_at_the_bounds_of_a_metric() -> None:
    def spread(view: nn.Module) -> float:  # 0.9 and 1 by turns, as of two chips
        calls.append(view)
        return 0.9 + 0.1 * (len(calls) % 2)

    calls: list[nn.Module] = []
    model, options = _analog(), {"num_chips": 2, "times": ["0 s"]}
    assert at.sweep(model, spread, **options).interval()[0].high > 1
    spread.bounds = (0, 1)
    found = at.sweep(model, spread, **options)
    (kept,) = found.interval()
    assert (kept.high, kept.mean) == (1, pytest.approx(0.95))
    assert 0 < kept.low < 0.9
    assert "to 1.000" in str(found)
    assert found.minus(found).bounds == (-1, 1)
    (side,) = at.compare(model, ["hermes64"], spread, example=X, num_chips=2).chips
    assert side.sweep.bounds == (0, 1)
    for wrong in ((1, 0), 1, (math.nan, 1)):
        spread.bounds = wrong
        with pytest.raises(ValueError, match="sweep: bounds of the metric must be a smallest"):
            at.sweep(model, spread, **options)
    with pytest.raises(ValueError, match="metrics.MeanSquaredError: bounds of the metric must"):
        at.metrics.measured(torchmetrics.MeanSquaredError(), [(X, X)], bounds=(1, 1))
    spread.bounds = (0, 0.95)
    for measure in (at.sweep, at.sensitivity, at.budget):
        with pytest.raises(ValueError, match=f"{measure.__name__}: the metric is 1 .* bounds of"):
            measure(model, spread, num_chips=2)
    known = {
        at.metrics.accuracy: (0, 1), at.metrics.perplexity: (1, math.inf), at.metrics.auc: (0, 1),
        at.metrics.eer: (0, 1), at.metrics.spearman: (-1, 1),
    }  # fmt: skip
    assert all(make([(X, X)]).bounds == bounds for make, bounds in known.items())
    assert at.metrics.wer([(X, ["a"])], lambda model, x: ["a"]).bounds == (0, math.inf)


def test_a_metric_that_does_not_know_its_direction_asks_for_it() -> None:
    class Off:
        def update(self, outputs: Tensor, targets: Tensor) -> None: ...

        def compute(self) -> float:
            return 0.5

        def reset(self) -> None: ...

    metric = at.metrics.measured(Off(), [(X, X)])
    model = at.convert(nn.Linear(X.shape[1], 2), crossbar())
    with pytest.raises(ValueError, match="sweep: Off does not know whether a higher value is bet"):
        at.sweep(model, metric, num_chips=1)
    found = at.sweep(model, metric, num_chips=1, times=["0 s"], higher_is_better=False)
    assert not found.higher_is_better


def test_any_metric_of_torchmetrics_is_measured() -> None:
    labels = torch.arange(40) % 4
    given = torchmetrics.F1Score(task="multiclass", num_classes=4, average="macro")
    metric = at.metrics.measured(given, [(X[:20], labels[:20]), (X[20:], labels[20:])])
    model = _analog().train()
    given.update(model.eval()(X), labels)
    expected = float(given.compute())
    model.train()
    assert [metric(model), metric(model)] == [expected, expected]  # nothing is left of the first
    assert model.training
    found = at.sweep(model, metric, num_chips=1, times=["0 s"])
    assert (found.metric, found.higher_is_better) == ("MulticlassF1Score", True)
    with pytest.raises(TypeError, match=r"write at.metrics.measured\(metric, batches\)"):
        at.sweep(model, given)
    with pytest.raises(TypeError, match="metric must have update"):
        at.metrics.measured(torchmetrics.F1Score, [])
    each = torchmetrics.F1Score(task="multiclass", num_classes=4, average=None)
    with pytest.raises(TypeError, match=r"MulticlassF1Score must return one number, got .*average"):
        at.metrics.measured(each, [(X, labels)], forward=lambda _, x: x[:, :4])(SAME)


def test_every_measurement_takes_the_direction_of_a_metric() -> None:
    model, target = _analog(1), X @ torch.ones(12)
    error = at.metrics.measured(torchmetrics.MeanSquaredError(), [(X, target)], forward=_column)
    swept = at.sweep(model, error, num_chips=2, times=["0 s"])
    assert not swept.higher_is_better
    assert swept.worst[0] == swept.values.max()
    options: dict[str, Any] = {"num_chips": 1}
    lost = at.sensitivity(model, error, effects="bits", **options)
    assert lost == at.sensitivity(model, error, effects="bits", higher_is_better=False, **options)
    spent = at.budget(model, error, growth=None, **options)
    assert spent == at.budget(model, error, growth=None, higher_is_better=False, **options)
    side = at.compare(model, ["ideal"], error, example=X[:1], times=["0 s"], **options)
    assert not side.higher_is_better
    far = {"limit": 1e9, "recalibration": at.Recalibration(), "longest": "1 h"}
    assert at.lifetime(model, error, **far, **options).once.isinf().all()
    with pytest.raises(ValueError, match="sweep: higher_is_better must be False for Mean"):
        at.sweep(model, error, higher_is_better=True)


def _column(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).squeeze(-1)


def test_a_direction_is_said_once() -> None:
    def plain(model: nn.Module) -> float:
        return 0.0

    assert direction("sweep", plain, None)
    assert not direction("sweep", plain, False)
    plain.higher_is_better = False  # type: ignore[attr-defined]
    assert not direction("sweep", plain, None)
    plain.higher_is_better = "no"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="higher_is_better of the metric must be True or False"):
        direction("sweep", plain, None)


def test_metrics_travel_to_other_processes() -> None:
    metric = at.metrics.wer([(["yes"], ["no"])], _echo)
    assert pickle.loads(pickle.dumps(metric))(SAME) == 1.0
    auc = at.metrics.auc([(X, (torch.arange(40) % 2))], forward=_first)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        found = at.sweep(_analog(), auc, num_chips=2, times=["0 s"], executor=pool)
    assert torch.equal(found.values, at.sweep(_analog(), auc, num_chips=2, times=["0 s"]).values)


def test_threads_that_measure_at_the_same_time_share_no_metric() -> None:
    class Slow:
        """Counts outputs; another thread runs between its steps."""

        def reset(self) -> None:
            self.total = 0.0

        def update(self, outputs: Tensor, targets: Tensor) -> None:
            time.sleep(0.01)
            self.total += float(outputs.sum())

        def compute(self) -> float:
            return self.total

    metric = at.metrics.measured(Slow(), [(X, X)] * 3, higher_is_better=True)
    options = {"num_chips": 4, "times": ["1 day"]}
    alone = at.sweep(_analog(), metric, **options)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = at.sweep(_analog(), metric, executor=pool, **options)
    assert torch.equal(together.values, alone.values)


def _first(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)[:, 0]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (iter([(X, X)]), "batches must be read again for each model, which a list_iterator cannot"),
        (X, r"got Tensor; pass \[batch\]"),
        (3, "batches must be an iterable of batches"),
    ],
)
def test_batches_that_cannot_be_read_again_are_refused(batches: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        at.metrics.spearman(batches)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="batch 0 must be a pair of an input and its targets"):
        at.metrics.spearman([X])(SAME)
    with pytest.raises(TypeError, match="transcribe must be a function"):
        at.metrics.wer([], "greedy")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="forward must be a function"):
        at.metrics.auc([], forward=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="model must be"):
        at.metrics.auc([])(3)  # type: ignore[arg-type]


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs jiwer; run: pip install .*\[metrics\]"):
        at.metrics.wer([], _echo)
    for make in (at.metrics.auc, at.metrics.eer, at.metrics.spearman):
        with pytest.raises(ImportError, match="needs torchmetrics"):
            make([])


@pytest.mark.parametrize(
    "measured",
    [
        lambda metric: at.sweep(_analog(), metric, num_chips=2, times=["0 s", "1 day"]),
        lambda metric: at.budget(_analog(), metric, num_chips=1),
        lambda metric: at.lifetime(
            _analog(), metric, limit=-1.0, recalibration=at.Recalibration(every="1 year")
        ),
        lambda metric: at.sensitivity(_analog(), metric, num_chips=1),
        lambda metric: at.compare(nn.Linear(12, 4), ["hermes64"], metric, example=X, num_chips=1),
        lambda metric: at.plan(
            at.convert(nn.Linear(12, 4), at.chips.hermes64()), metric, example=X, num_chips=1
        ),
        lambda metric: at.hwa.adapt(
            _analog(), [X[:20], X[20:]], steps=2, metric=metric, num_chips=1
        ),
    ],
    ids=["sweep", "budget", "lifetime", "sensitivity", "compare", "plan", "adapt"],
)
def test_a_metric_that_draws_leaves_torchs_generators_and_always_draws_the_same(
    measured: Callable[[Metric], object],
) -> None:
    drawn = []

    def metric(model: nn.Module) -> float:
        drawn.append(torch.rand(()).item())
        return 1.0

    torch.manual_seed(5)
    measured(metric)
    after = torch.rand(()).item()
    assert len(drawn) > 1
    torch.manual_seed(5)
    measured(lambda model: 1.0)
    assert torch.rand(()).item() == after
    assert len(set(drawn)) == 1


class _Lengths(nn.Module):
    """A model of two tensors, of which the second scales the outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(12, 4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.layer(x) * lengths[:, None]


def test_both_accuracies_run_the_model_on_an_input_alike() -> None:
    model, lengths = _Lengths(), torch.ones(40)
    labels = model(X, lengths).argmax(-1)
    labels[:10] = (labels[:10] + 1) % 4
    for batch, forward in (
        ({"x": X, "lengths": lengths}, None),
        ((X, lengths), lambda model, x: model(*x)),
        ([X, "a note"], lambda model, x: model(x[0], lengths)),
    ):
        for found in (
            at.accuracy(model, [(batch, labels)], forward=forward),
            at.metrics.accuracy([(batch, labels)], forward=forward)(model),
        ):
            assert found == 0.75
    with pytest.raises(TypeError, match="accuracy: forward must be a function, forward.model, x."):
        at.accuracy(model, [(X, labels)], forward=3)


@pytest.mark.parametrize("batch", [(X, X), {"x": X}])
def test_both_accuracies_say_how_an_input_is_passed(batch: Any) -> None:
    pairs, notes = [(batch, torch.zeros(40).long())], []
    for run in (lambda m: at.accuracy(m, pairs), at.metrics.accuracy(pairs)):
        with pytest.raises(TypeError, match="lengths") as error:
            run(_Lengths())
        notes.append([note.replace("metrics.", "") for note in error.value.__notes__])
    assert notes[0] == notes[1]
    assert notes[0][0] == "accuracy: the model failed on batch 0, counted from 0"
    assert "pass forward=" in notes[0][1]


def test_accuracy_runs_what_is_compiled_as_it_is() -> None:
    ran: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        ran.append(graph)
        return graph

    model = torch.compile(nn.Linear(12, 4), backend=backend)
    at.accuracy(model, [(X, torch.zeros(40).long())])
    assert ran


def test_an_output_that_is_no_tensor_is_named_in_both_accuracies() -> None:
    for run in (
        at.metrics.accuracy([(X, X[:, 0].long())]),
        lambda m: at.accuracy(m, [(X, X[:, 0].long())]),
    ):
        with pytest.raises(TypeError, match=r"must give a tensor \(N, classes\), got dict"):
            run(_Dictionary())


class _One(_Lengths):
    """A model of one argument, which holds all tensors."""

    def forward(self, batch: Any) -> Tensor:  # type: ignore[override]
        return super().forward(*(batch.values() if isinstance(batch, dict) else batch))


def test_a_mapping_is_the_one_argument_of_a_model() -> None:
    model, lengths = _One(), torch.ones(40)
    batch = {"x": X, "lengths": lengths}
    pairs = [(batch, model(batch).argmax(-1))]
    for run in (lambda m: at.accuracy(m, pairs), at.metrics.accuracy(pairs)):
        assert run(model) == run(nn.DataParallel(model)) == 1
    analog = at.calibrate(at.convert(model, crossbar(), example=batch), [batch])
    assert analog.layer.has_run
    with pytest.raises(TypeError) as error:
        at.accuracy(model, [({"x": X}, X[:, 0].long())])
    assert "gets the dict as its one argument" in error.value.__notes__[-1]


class _Images(nn.Module):
    """A model of a list of inputs."""

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(images))


class _Listed(_Images):
    def forward(self, images: list[Tensor]) -> Tensor:
        return super().forward(images)


def test_an_error_of_the_outputs_says_how_the_input_was_passed() -> None:
    pairs = [(list(X.unbind()), X[:, 0].long().clamp(0, 1))]
    with pytest.raises(ValueError, match=r"outputs of batch 0 have shape \(12,\)") as error:
        at.accuracy(_Images(), pairs)
    (note,) = error.value.__notes__
    assert note.startswith("accuracy: of a list, the model gets the first element alone; for all")
    assert note.endswith("forward=lambda model, batch: model(batch)")
    right = at.accuracy(_Images(), pairs, forward=lambda model, batch: model(batch))
    assert at.accuracy(_Listed(), pairs) == right  # the annotation says how it is passed


class _Heard(NamedTuple):
    x: Tensor
    lengths: Tensor


class _Hearing(_Lengths):
    def forward(self, heard: _Heard) -> Tensor:  # type: ignore[override]
        return super().forward(heard.x, heard.lengths)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda model: model,
        functools.partial(torch.compile, backend="eager"),
        nn.DataParallel,
        AveragedModel,
        lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
    ],
)
def test_a_named_tuple_is_known_by_the_annotation_inside_of_what_wraps_a_model(
    wrapped: Any,
) -> None:
    model, lengths = _Hearing(), torch.ones(40)
    heard = _Heard(X, lengths)
    pairs = [(heard, model(heard).argmax(-1))]
    for run in (lambda m: at.accuracy(m, pairs), at.metrics.accuracy(pairs)):
        assert run(wrapped(model)) == 1


class _Dictionary(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": x}


def test_a_model_that_returns_a_mapping_needs_a_forward() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"out": x}

    x = torch.eye(3)
    with pytest.raises(TypeError, match=r"forward=lambda model, x: model\(x\)\['out'\]"):
        at.accuracy(Net(), [(x, x.argmax(1))])
    assert at.accuracy(Net(), [(x, x.argmax(1))], forward=lambda model, x: model(x)["out"]) == 1


@pytest.mark.parametrize("of", ["sweep", "budget", "lifetime", "sensitivity", "compare", "plan"])
def test_a_metric_that_runs_another_model_raises_a_warning(of: str) -> None:
    """Such as the model from outside, where the chip was meant."""
    torch.manual_seed(0)
    x = torch.randn(64, 16)
    digital = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    y, net = digital(x).argmax(-1), copy.deepcopy(digital)
    model = at.calibrate(at.convert(copy.deepcopy(digital), at.chips.hermes64()), [x])

    def measured(metric: Any) -> None:
        if of == "sweep":
            at.sweep(model, metric, num_chips=2, times=["1 day"])
        elif of == "budget":
            at.budget(model, metric, num_chips=2)
        elif of == "lifetime":
            at.lifetime(
                model, metric, limit=0.1, recalibration=at.Recalibration(every="1 day"), num_chips=1
            )
        elif of == "sensitivity":
            at.sensitivity(model, metric, num_chips=1)
        elif of == "compare":
            at.compare(net, ["hermes64"], metric, example=x[:1], num_chips=1, times=["1 day"])
        else:
            at.plan(
                model,
                metric,
                0.5,
                example=x[:1],
                prepare=lambda made: at.calibrate(made, [x]),
                num_chips=2,
                max_plans=12,
            )

    with pytest.warns(UserWarning, match=r"ran no layer of the chip .* run its argument"):
        measured(lambda chip: at.accuracy(digital, [(x, y)]))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the metric ran no layer")
        measured(lambda chip: at.accuracy(chip, [(x, y)]))
        measured(lambda chip: (chip[2](chip[0](x).relu()).argmax(-1) == y).float().mean().item())
        measured(lambda chip: at.accuracy(copy.deepcopy(chip), [(x, y)]))


def test_a_metric_of_a_chip_that_corrected_itself_is_watched_too() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 16)
    model = at.convert(nn.Sequential(nn.Linear(16, 4)), at.chips.hermes64())
    options: dict[str, Any] = {
        "num_chips": 1,
        "times": ["1 day"],
        "recovery": at.Recovery(batches=[x]),
    }
    with pytest.warns(UserWarning, match="ran no layer of the chip"):
        at.sweep(model, lambda chip: model(x).mean().item(), **options)


class _Largest:
    """A metric that keeps a number of each batch alone."""

    def reset(self) -> None:
        self.found = list[float]()

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.found.append(outputs.max().item())

    def compute(self) -> float:
        return max(self.found)


@pytest.mark.parametrize(
    "of", [at.metrics.accuracy, functools.partial(at.metrics.measured, _Largest())]
)
def test_the_outputs_of_one_batch_at_a_time_are_held(of: Callable[[Any], Metric]) -> None:
    """Those of a language model for all its batches would fill the memory."""
    held = list[weakref.ref[Tensor]]()
    alive = []

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        alive.append(sum(each() is not None for each in held))
        y = model(x)
        held.append(weakref.ref(y))
        return y

    labels = torch.zeros(4, dtype=torch.long)
    metric = of([(torch.randn(4, 12), labels) for _ in range(5)], forward=forward)  # type: ignore[call-arg]
    metric(nn.Linear(12, 3))
    assert max(alive) <= 1
