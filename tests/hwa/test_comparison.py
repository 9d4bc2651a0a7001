"""Which outputs are compared as scores, and along which dimension."""

import copy
import dataclasses
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.hwa.comparison import Way
from tests.crossbar import crossbar

CHIP = crossbar(device="one_device")


class _Net(nn.Module):
    """One layer, whose outputs a function arranges."""

    def __init__(self, layer: nn.Module, arrange: Callable[[Tensor], Any] = lambda y: y) -> None:
        super().__init__()
        self.layer, self.arrange = layer, arrange

    def forward(self, x: Tensor) -> Any:
        return self.arrange(self.layer(x))


def _twin(net: nn.Module, x: Any, recipe: at.hwa.Recipe | None = None) -> at.hwa.Twin:
    net = net.eval()
    twin = at.hwa.Twin(at.convert(copy.deepcopy(net), CHIP), net, recipe)
    twin.exact(x)
    return twin


def _shifts(twin: at.hwa.Twin, y: Tensor, dim: int) -> tuple[float, float]:
    """Return the losses of a shift of all numbers along ``dim``, and of one class there."""
    one = y.clone()
    one.select(dim, 1).add_(5)
    return twin.compare(y + 5, y).item(), twin.compare(one, y).item()


def _seen(twin: at.hwa.Twin, y: Tensor, dim: int) -> bool:
    """Return whether a shift of all numbers is an error, as it is none of scores."""
    of_all, of_one = _shifts(twin, y, dim)
    assert of_one > 0.1
    assert of_all > 1 or of_all == pytest.approx(0, abs=1e-5)
    return of_all > 1


def test_images_are_compared_number_by_number_and_logits_of_pixels_by_class() -> None:
    x = torch.randn(4, 2, 8, 8)
    net = nn.Conv2d(2, 5, 3, padding=1)
    plain = _twin(net, x)
    assert plain.compared == "error"
    assert _seen(plain, net(x), 1)
    logits = _twin(_Net(net, lambda y: {"logits": y}), x)
    assert logits.compared == "divergence"
    assert not _seen(logits, net(x), 1)
    chosen = _twin(net, x, at.hwa.Recipe(outputs="divergence"))
    assert not _seen(chosen, net(x), 1)
    depth = nn.Conv2d(2, 1, 3, padding=1)
    regressed = _twin(depth, x, at.hwa.Recipe(outputs="divergence"))
    assert regressed.compare(depth(x) + 5, depth(x)).item() > 1


def _last(y: Tensor) -> Tensor:
    return y.movedim(1, -1)


LOGITS: dict[str, Callable[[Tensor], Any]] = {
    "as they are": lambda y: {"logits": y},
    "classes last": lambda y: {"logits": _last(y)},
}


@pytest.mark.parametrize(("arrange", "dim"), [("as they are", 1), ("classes last", -1)])
@pytest.mark.parametrize("shape", [(4, 2, 9), (4, 2, 7, 7), (4, 2, 3, 3, 3)])
@pytest.mark.parametrize("recipe", [at.hwa.Recipe(), at.hwa.Recipe(outputs="divergence")])
def test_classes_are_the_channels_of_the_last_layer_where_outputs_are_scores(
    recipe: at.hwa.Recipe, shape: tuple[int, ...], arrange: str, dim: int
) -> None:
    kind: Any = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[len(shape)]
    net, x = _Net(kind(2, 5, 1), LOGITS[arrange]), torch.randn(shape)
    twin = _twin(net, x, recipe)
    assert twin.compared == "divergence"
    assert not _seen(twin, net(x)["logits"], dim)


def test_layers_of_the_last_dimension_have_the_classes_there() -> None:
    """Also where a sequence is as long as there are classes."""
    x = torch.randn(4, 5, 2)
    for arrange, dim in ((lambda y: {"logits": y}, 2), (lambda y: {"logits": y.mT}, 1)):
        net = _Net(nn.Linear(2, 6), arrange)
        assert not _seen(_twin(net, x), net(x)["logits"], dim)
    net = _Net(nn.Linear(2, 5), lambda y: {"logits": y})
    assert not _seen(_twin(net, x), net(x)["logits"], 2)


@pytest.mark.parametrize(
    ("batch", "steps", "arrange", "dim"),
    [
        (12, 20, lambda y: y.permute(2, 0, 1), 2),  # as torch.nn.CTCLoss takes them
        (4, 12, lambda y: y.mT, 2),
        (4, 12, lambda y: y, 1),
        (12, 12, lambda y: y.permute(2, 0, 1), 2),
    ],
)
def test_sizes_that_agree_by_chance_decide_nothing(
    batch: int, steps: int, arrange: Callable[[Tensor], Tensor], dim: int
) -> None:
    net, x = _Net(nn.Conv1d(16, 12, 3, padding=1), arrange), torch.randn(batch, 16, steps)
    twin = _twin(net, x, at.hwa.Recipe(outputs="divergence"))
    assert not _seen(twin, net(x).detach(), dim)


@pytest.mark.parametrize(
    ("layer", "x", "arrange", "dim"),
    [
        # steps and classes behind a linear layer
        (nn.Linear(3, 5), torch.randn(4, 11, 3), lambda y: y, 2),
        (nn.Linear(3, 5), torch.randn(4, 11, 3), lambda y: y[:, ::2], 2),
        # logarithms of probabilities, wherever they are
        (nn.Conv1d(2, 5, 3), torch.randn(4, 2, 11), lambda y: y.log_softmax(1), 1),
        (nn.Conv1d(40, 40, 3, stride=2), torch.randn(4, 40, 50), lambda y: _last(y), None),
        (
            nn.Conv1d(40, 40, 3, stride=2),
            torch.randn(4, 40, 50),
            lambda y: _last(y).log_softmax(-1).transpose(0, 1),
            2,
        ),
        # a forecast, steps before features, and sources that are heard
        (nn.Linear(3, 3), torch.randn(4, 11, 3), lambda y: y[:, :5], None),
        (nn.Conv1d(1, 3, 1), torch.randn(4, 1, 11), lambda y: y, None),
        (nn.Conv1d(1, 3, 3, stride=2), torch.randn(4, 1, 11), lambda y: y, None),
        # a class for each token, also where the sequence is as long as there are classes
        (
            nn.Sequential(nn.Embedding(7, 9), nn.Linear(9, 11)),
            torch.randint(7, (4, 11)),
            lambda y: y,
            2,
        ),
    ],
)
def test_sequences_are_scores_where_that_is_known(
    layer: nn.Module, x: Tensor, arrange: Callable[[Tensor], Tensor], dim: int | None
) -> None:
    net = _Net(layer, arrange)
    y = net(x).detach()
    twin = _twin(net, x)
    assert twin.compared == ("error" if dim is None else "divergence")
    for each in range(1, y.dim()):
        one = y.clone()
        one.select(each, 1).add_(5)  # one class, or one step
        assert twin.compare(one, y).item() > 0.01 or each != (dim or each)
        if dim is None:
            assert twin.compare(y + 5, y).item() > 0.01


def test_labels_by_the_name_of_a_target_tell_that_tokens_have_classes() -> None:
    class Translator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(7, 6), nn.Linear(6, 9)

        def forward(self, source: Tensor, target: Tensor) -> Tensor:
            y = self.embed(target) + self.embed(source).mean(1, keepdim=True)
            return nn.functional.linear(y, self.out.weight)

    net = Translator().eval()
    tokens = torch.randint(7, (4, 11)), torch.randint(7, (4, 8))
    twin = at.hwa.Twin(at.convert(copy.deepcopy(net), CHIP), net, forward=lambda m, b: m(*b))
    (y,) = twin.exact(tokens)
    assert not _seen(twin, y, 2)


@pytest.mark.parametrize("value", [-torch.inf, -1e4, -1e9])
def test_a_masked_class_is_never_the_largest(value: float) -> None:
    """Logarithms of probabilities are all below the zeros that errors have in place of masks."""

    def policy(y: Tensor) -> Tensor:
        return y.masked_fill(torch.arange(8) >= 6, value).log_softmax(-1)

    net, x = _Net(nn.Linear(6, 8), policy), torch.randn(20, 6)
    twin = _twin(net, x)
    y = net(x).detach()
    wrong = y.clone()
    wrong[:, :6] = y[:, :6].roll(1, 1)
    assert bool(twin.comparison.moved(wrong, y).all())
    assert not bool(twin.comparison.moved(y, y).any())


def test_spectra_are_compared_by_their_parts_and_are_no_scores() -> None:
    net = _Net(nn.Linear(6, 8), lambda y: torch.view_as_complex(y.view(-1, 4, 2)).conj())
    twin = _twin(net, x := torch.randn(20, 6))
    assert twin.compared == "error"
    assert twin.exact(x)[0].shape == (20, 8)
    twin.total(x).backward()
    assert twin.student.layer.weight.grad.any()


@pytest.mark.parametrize(
    ("arrange", "compared"),
    [
        (lambda y: (y, y[:, 1:5], y[:, :4]), ["divergence", "error", "error"]),
        (lambda y: (y[:, :6], y[:, 1:5], y[:, :4]), ["error"] * 3),  # an autoencoder's
        (lambda y: (y[:, :1], y), ["error"] * 2),
    ],
)
def test_the_first_output_alone_can_be_scores(
    arrange: Callable[[Tensor], Any], compared: list[str]
) -> None:
    net, x = _Net(nn.Linear(6, 8), arrange), torch.randn(20, 6)
    twin = _twin(net, x)
    losses = [twin.compare(y + 5, y, which).item() for which, y in enumerate(net(x))]
    assert ["error" if loss > 1 else "divergence" for loss in losses] == compared
    assert twin.compared == ("divergence" if "divergence" in compared else "error")
    chosen = _twin(net, x, at.hwa.Recipe(outputs="divergence"))
    of_many = [(which, y) for which, y in enumerate(net(x)) if y.shape[-1] > 2]
    losses = [chosen.compare(y + 5, y, which).item() for which, y in of_many]
    assert losses == pytest.approx([0] * len(losses), abs=1e-5)


class _Heads(nn.Module):
    """Named outputs of two layers, one for each token and one for all."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.token, self.whole = nn.Embedding(7, 6), nn.Linear(6, 9), nn.Linear(6, 4)

    def forward(self, tokens: Tensor) -> dict[str, Any]:
        states = self.embed(tokens)
        each, whole = self.token(states), self.whole(states.mean(1))
        return {
            "loss": whole.mean(),
            "hidden_states": (states,),
            "start_logits": each[..., 0],
            "prediction_logits": each,
            "vad_logits": each[..., 1],
            "mask_logits": 2 * each,
            "masks_queries_logits": each.unsqueeze(-1).expand(-1, -1, -1, 3),
            "router_logits": (whole, whole + 1),
        }


def test_outputs_that_are_known_to_be_scores_by_name_are_so_and_no_others() -> None:
    net, tokens = _Heads(), torch.randint(7, (4, 11))
    twin = _twin(net, tokens)
    ways = [(way.by_scores, way.dim) for way in twin.comparison.ways]
    # states, start, prediction, and others
    assert [by_scores for by_scores, _ in ways] == [False, True, True, *[False] * 5]
    assert {dim for by_scores, dim in ways if by_scores} == {-1}
    assert twin.compared == "divergence"
    exact = twin.exact(tokens)
    losses = [twin.compare(y + 5, y, which).item() for which, y in enumerate(exact)]
    assert [loss > 0.01 for loss in losses] == [not by_scores for by_scores, _ in ways]


def test_beside_logits_nothing_is_compared() -> None:
    x = torch.randn(9, 6)
    net = _Net(nn.Linear(6, 8), lambda y: {"aux_logits": y[:, :4], "logits": y})
    (exact,) = _twin(net, x).exact(x)
    assert torch.equal(exact, net(x)["logits"])


@pytest.mark.parametrize(
    ("kind", "by_scores"),
    [
        ("multi_label_classification", False),
        ("regression", False),
        ("single_label_classification", True),
        (None, True),
    ],
)
def test_logits_are_compared_as_the_config_calls_them(kind: str | None, by_scores: bool) -> None:
    net = _Net(nn.Linear(6, 5), lambda y: {"logits": y})
    net.config = types.SimpleNamespace(problem_type=kind)
    assert [way.by_scores for way in _twin(net, torch.randn(9, 6)).comparison.ways] == [by_scores]


def test_a_few_scores_within_0_and_1_are_no_probabilities() -> None:
    net = _Net(nn.Linear(6, 4), lambda y: y * 0.1 + 0.5)
    x = torch.randn(64, 6)
    assert ((net(x) > 0) & (net(x) < 1)).all()
    assert [way.by_scores for way in _twin(net, x[:1]).comparison.ways] == [True]
    assert [way.by_scores for way in _twin(net, x).comparison.ways] == [False]


def test_outputs_beside_logits_that_a_user_may_need_are_named() -> None:
    x = torch.randn(9, 6)
    inner = {"loss": torch.zeros(1), "encoder_last_hidden_state": x, "past_key_values": (x,)}
    net = _Net(nn.Linear(6, 8), lambda y: {"logits": y[:, :4], "pred_boxes": y[:, 4:], **inner})
    with pytest.warns(UserWarning, match="may change 'pred_boxes'. Where") as warned:
        _twin(net, x)
    assert len(warned) == 1
    twin = at.hwa.Twin(
        at.convert(copy.deepcopy(net), CHIP),
        net,
        forward=lambda model, x: (model(x)["logits"], model(x)["pred_boxes"]),
    )
    assert len(twin.exact(x)) == len(twin.comparison.ways) == 2


def test_the_agreement_of_images_is_that_of_their_pixels() -> None:
    torch.manual_seed(0)
    net, batches = nn.Conv2d(2, 5, 3, padding=1), list(torch.randn(8, 4, 2, 8, 8))
    found = at.hwa.adapt(net, batches, chip=CHIP, steps=1, num_chips=1)
    assert found.compared == "error"
    assert found.ways == ((False, -3, False),)
    assert "number by number, and" in str(found)
    both = dataclasses.replace(found, ways=(Way(True, -1), *found.ways))
    words = "output 0 as distributions over dimension -1; output 1 number by number, and"
    assert words in str(both)
    assert both.to_dict()["ways"][0] == {"by_scores": True, "dim": -1, "in_units": False}
    shares = found.stages[-1].reading.agreement
    assert shares.min() > 0.7  # of 320 numbers of a sample the largest is hardly where it was
    pixels = shares.flatten() * 2 * 4 * 64
    torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("arrange", "compared"),
    [
        (torch.sigmoid, "error"),
        (lambda y: y.softmax(-1), "divergence"),
        (lambda y: y.bfloat16().softmax(-1), "divergence"),
        (lambda y: y, "divergence"),
        (lambda y: {"logits": torch.sigmoid(y)}, "divergence"),
    ],
)
def test_independent_probabilities_are_compared_number_by_number(
    arrange: Callable[[Tensor], Any], compared: str
) -> None:
    torch.manual_seed(0)
    assert _twin(_Net(nn.Linear(8, 6), arrange), torch.randn(16, 8)).compared == compared


def test_an_autoencoder_whose_pictures_are_flat_is_no_classifier() -> None:
    x = torch.randn(32, 1, 4, 3)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 12))
    assert _twin(flat, x).compared == "error"
    classes = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 11))
    assert _twin(classes, x).compared == "divergence"


class _Decides(nn.Module):
    """True or false of each of 12 tokens, or ``classes`` of all together."""

    def __init__(self, name: str, classes: int | None) -> None:
        super().__init__()
        self.name, self.tokens = name, nn.Embedding(7, 6)
        self.head = nn.Linear(6, classes or 1)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        y = self.head(self.tokens(ids))
        return {self.name: y[:, 0] if y.shape[-1] > 1 else y.squeeze(-1)}


@pytest.mark.parametrize(
    ("name", "classes", "compared"),
    [
        ("logits", None, "error"),
        ("start_logits", None, "divergence"),  # where an answer begins
        ("logits", 12, "divergence"),  # as many as there are tokens
    ],
)
def test_a_decision_for_each_token_is_no_score_of_its_position(
    name: str, classes: int | None, compared: str
) -> None:
    assert _twin(_Decides(name, classes), torch.randint(7, (16, 12))).compared == compared


UNITS = torch.tensor([1.0, 300.0, 1e-3])


class _Quantities(nn.Module):
    """A regression of three quantities in several units, with means of their own."""

    def __init__(self, arrange: Callable[[Tensor], Any] = lambda y: y) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.head, self.arrange = nn.Linear(8, 32), nn.Linear(32, 3), arrange
        with torch.no_grad():
            self.head.weight *= UNITS[:, None]
            self.head.bias.copy_(UNITS * torch.tensor([0.0, 5.0, 1.0]))

    def forward(self, x: Tensor) -> Any:
        return self.arrange(self.head(self.hidden(x).relu()))


@pytest.mark.parametrize("recipe", [at.hwa.Recipe(), at.hwa.Recipe(outputs="error")])
def test_quantities_of_several_units_count_alike(recipe: at.hwa.Recipe) -> None:
    net, x = _Quantities(), torch.randn(200, 8)
    with pytest.warns(UserWarning, match="quantities of several units.*standardised"):
        twin = _twin(net, x, recipe)
    assert twin.comparison.ways == (Way(False, -1, True),)
    exact = net(x).detach()
    for dtype in (torch.float32, torch.float16):
        given = exact.to(dtype)
        for number in range(3):
            y = given.clone()
            y[:, number] += given[:, number].float().std(correction=0).to(dtype)
            assert twin.compare(y, given).item() == pytest.approx(1 / 3, rel=0.02)
            assert int(twin.comparison.moved(y, given).sum()) == 200
    for few in (exact[:1], exact[:1].expand(4, 3)):  # without a variance of their own
        assert 0 < twin.compare(few + UNITS, few).item() < torch.inf
        assert twin.compare(few, few).item() == 0


def test_a_quantity_that_is_the_same_in_a_batch_counts_in_others() -> None:
    net, x = _Quantities(), torch.randn(200, 8)
    with pytest.warns(UserWarning, match="quantities of several units"):
        twin = _twin(net, x)
    exact = net(x).detach()
    y, same = exact.clone(), exact.clone()
    y[:, 2] += 1
    same[:, 2] = 0
    assert twin.compare(y, exact).item() > 1
    assert twin.compare(torch.cat([same[:, :2], y[:, 2:]], 1), same).item() == 0
    assert twin.comparison.moved(y, exact).shape == (600,)


def test_what_is_known_to_be_scores_is_in_no_units() -> None:
    x = torch.randn(200, 8)
    as_said = _twin(_Quantities(), x, at.hwa.Recipe(outputs="divergence"))
    named = _twin(_Quantities(lambda y: {"logits": y}), x)
    shares = _twin(_Quantities(lambda y: (y / 300).softmax(-1)), x)
    for twin in (as_said, named, shares):
        assert twin.comparison.ways == (Way(True, -1),)


def test_masks_and_steps_of_any_number_are_in_no_units() -> None:
    x = torch.randn(64, 8)
    rare = x[:, :1] > 1.5

    def masked(y: Tensor) -> Tensor:
        return (y / UNITS).masked_fill(torch.arange(3) >= 2 + rare, -torch.inf)

    net = _Quantities(masked)
    twin = _twin(net, x)
    assert twin.comparison.ways == (Way(True, -1),)
    assert twin.compare(net(x) + 0.1, net(x)).isfinite()
    with pytest.warns(UserWarning, match="quantities of several units"):
        steps = _twin(_Quantities(), x)
    assert steps.compare(torch.ones(9, 2), torch.arange(18.0).view(9, 2)).isfinite()
    assert steps.compare(torch.ones(9, 40), torch.randn(9, 40)).isfinite()


@pytest.mark.parametrize("count", [2, 4, 64])
def test_scores_do_not_become_quantities_by_chance(count: int) -> None:
    for seed in range(100):
        torch.manual_seed(seed)
        assert _twin(nn.Linear(8, 10), torch.randn(count, 8)).compared == "divergence"


def test_a_regression_of_several_units_is_not_made_worse(tmp_path: Path) -> None:
    net, batches = _Quantities(), list(torch.randn(12, 32, 8))
    options: dict[str, Any] = {"chip": at.chips.hermes64(), "steps": 20, "num_chips": 2}
    warned = "quantities of several units"
    with pytest.warns(UserWarning, match=warned):
        found = at.hwa.adapt(net, batches, folder=tmp_path, **options)
    assert "number by number, each over its variance" in str(found)
    with pytest.warns(UserWarning, match=warned):
        again = at.hwa.adapt(net, batches, folder=tmp_path, **options)  # a finished run
    assert again.ways == found.ways
    calibrated = at.calibrate(at.convert(copy.deepcopy(net), at.chips.hermes64()), batches)
    x = torch.randn(500, 8)
    exact = net(x).detach()
    errors = []
    for model in (found.model, calibrated):
        off = [at.program(model, seed=s).at("1 day")(x).detach() - exact for s in range(4)]
        errors.append(torch.cat(off).square().mean(0) / exact.var(0))
    assert (errors[0] < 1.5 * errors[1] + 0.02).all()
