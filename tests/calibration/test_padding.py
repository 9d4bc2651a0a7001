"""Positions that nobody reads do not count."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import analogtorch as at
from analogtorch.calibration import column_outputs
from analogtorch.calibration.padding import IGNORED, at_positions, padding_rule, read_positions
from tests.crossbar import crossbar

MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])
LABELS = torch.tensor([[4, 4, IGNORED], [4, 4, IGNORED]])
WITH_DECODER = nn.Module()
WITH_DECODER.decoder = nn.Linear(2, 2)
WITH_DECODER.config = SimpleNamespace(is_encoder_decoder=True)


PROMPTED = torch.tensor([[IGNORED, 4, 4, IGNORED]] * 2)
UP_TO = torch.tensor([[1, 1, 1, 0]] * 2)
NO_MASK = {"attention_mask": None, "input_ids": torch.ones(2, 3)}
OTHER = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])  # of more positions


def _masks(*given: Tensor) -> tuple[Tensor, ...]:
    return tuple(mask.bool() for mask in given)


@pytest.mark.parametrize(
    ("model", "batch", "outputs", "layers"),
    [
        (nn.Linear(2, 2), {}, _masks(MASK), _masks(MASK)),
        (nn.Linear(2, 2), {"labels": LABELS}, _masks(MASK), _masks(MASK)),
        (nn.Linear(2, 2), {"attention_mask": MASK[:, :2]}, *[_masks(MASK[:, :2])] * 2),
        (nn.Sequential(WITH_DECODER), {}, (), ()),
        (WITH_DECODER, {"decoder_inputs_embeds": torch.ones(2, 3, 5)}, (), ()),
        (WITH_DECODER, {"labels": PROMPTED}, _masks(PROMPTED == 4, MASK), _masks(UP_TO, MASK)),
        (WITH_DECODER, NO_MASK | {"labels": LABELS}, _masks(LABELS == 4), ()),
        (WITH_DECODER, {"labels": LABELS}, _masks(LABELS == 4), ()),
        (WITH_DECODER, {"decoder_attention_mask": OTHER}, *[_masks(OTHER, MASK)] * 2),
        (WITH_DECODER, {"decoder_attention_mask": MASK.flip(0)}, _masks(MASK.flip(0)), ()),
        (nn.Linear(2, 2), {"decoder_input_ids": torch.ones(2, 3)}, (), ()),
        (nn.Linear(2, 2), {"decoder_input_ids": torch.ones(2, 4)}, *[_masks(MASK)] * 2),
        (nn.Linear(2, 2), {"attention_mask": MASK.view(1, 2, 3)}, *[_masks(MASK)] * 2),
        (nn.Linear(2, 2), {"attention_mask": MASK.view(2, 1, 1, 3)}, *[_masks(MASK)] * 2),
        (nn.Linear(2, 2), {"attention_mask": torch.ones(2, 1, 3, 3).tril()}, (), ()),
        (nn.Linear(2, 2), {"attention_mask": torch.ones(1, 3, 3).tril()}, (), ()),
        (nn.Linear(2, 2), {"attention_mask": torch.tensor([[0.0, 0], [0, -1e9]])}, (), ()),
        (nn.Linear(2, 2), {"attention_mask": torch.ones(2, 3)}, (), ()),
        (nn.Linear(2, 2), {"attention_mask": torch.zeros(2, 3)}, (), ()),
    ],
    ids=[
        "of a mask", "beside labels", "as many samples as positions", "of the encoder alone",
        "embedded", "labels up to the last", "no mask of the encoder",
        "labels of a decoder", "of both", "of a decoder as long as its encoder",
        "inputs of a decoder", "those of another length", "of two choices", "for all heads",
        "of what each sees", "for all samples", "added", "all", "none",
    ],
)  # fmt: skip
def test_which_positions_are_read(
    model: nn.Module,
    batch: dict[str, Tensor],
    outputs: tuple[Tensor, ...],
    layers: tuple[Tensor, ...],
) -> None:
    given = {"attention_mask": MASK} | batch
    for read in (read_positions(model, given), read_positions(model, (given, LABELS))):
        for found, expected in ((read.outputs, outputs), (read.layers, layers)):
            assert len(found) == len(expected)
            assert all(map(torch.equal, found, expected))


def test_frames_of_a_wave_are_read_up_to_where_it_ends() -> None:
    class Wave(nn.Module):
        def _get_feat_extract_output_lengths(self, samples: Tensor) -> Tensor:
            return (samples - 4) // 2 + 1

    ends = torch.tensor([20, 9, 4])
    batch = {"input_values": torch.ones(3, 20)}
    batch["attention_mask"] = (torch.arange(20) < ends[:, None]).long()
    read = read_positions(nn.Sequential(Wave()), batch)
    frames = torch.arange(9) < torch.tensor([[9], [3], [1]])
    text = {"attention_mask": batch["attention_mask"], "input_values": torch.ones(3, 50)}
    assert len(read_positions(nn.Sequential(Wave()), text).outputs) == 1  # of other positions
    for found in (read.outputs, read.layers):
        assert len(found) == 2
        assert torch.equal(found[1], frames)
    assert at_positions(torch.ones(3, 9, 5), read.outputs).shape == (1, 13, 5)


class _Shortened(nn.Module):
    """As speech models of transformers that make frames, and fewer behind an adapter."""

    def _get_feat_extract_output_lengths(
        self, frames: Tensor, add_adapter: bool | None = None
    ) -> Tensor:
        frames = (frames - 1) // 2 + 1
        return frames if add_adapter is False else (frames - 1) // 2 + 1


class _Subsampled(nn.Module):
    def _get_subsampling_output_length(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        return frames, (frames - 1) // 4 + 1


@pytest.mark.parametrize(("model", "lengths"), [(_Shortened(), (3, 6)), (_Subsampled(), (3,))])
def test_frames_of_features_are_read_up_to_where_each_sound_ends(model, lengths) -> None:
    ends, places = torch.tensor([[12], [5], [1]]), torch.arange(12)
    batch = {"input_features": torch.ones(3, 12, 7), "attention_mask": (places < ends).long()}
    for found in read_positions(nn.Sequential(model), batch):
        assert [mask.shape[1] for mask in found] == [12, *lengths]
        for mask in found:
            whole = -(-12 // mask.shape[1])
            assert torch.equal(mask.sum(1), (ends[:, 0] - 1) // whole + 1)
    batch |= {"decoder_input_ids": torch.ones(3, 4)}
    assert [mask.shape[1] for mask in read_positions(model, batch).layers] == [12, *lengths]
    batch["decoder_input_ids"] = torch.ones(3, 3)  # as many as frames, all of which are read
    assert read_positions(model, batch) == ((), ())


def test_runs_of_before_with_padding_are_of_another_rule() -> None:
    for batch in ({"attention_mask": MASK}, {"labels": LABELS}):
        assert padding_rule(WITH_DECODER, [{}, batch]) == "left out"
    for other in ({"attention_mask": torch.ones(2, 3)}, torch.ones(2, 3), {}):
        assert not padding_rule(WITH_DECODER, [other])
    sound = {"attention_mask": MASK, "input_features": torch.ones(2, 3, 5)}
    assert padding_rule(_Subsampled(), [{}, sound]) == "left out, and frames of them"
    assert padding_rule(nn.Linear(2, 2), [sound]) == "left out"
    recurrent, packed = nn.GRU(2, 2), pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
    assert padding_rule(recurrent, [sound]) == "left out, of recurrent layers too"
    assert padding_rule(recurrent, [packed]) == "left out, of recurrent layers too"
    lengths = torch.tensor([3, 1])  # by which its forward may pack
    assert padding_rule(recurrent, [(torch.ones(3, 2, 2), lengths)]).endswith("layers too")
    assert not padding_rule(recurrent, [torch.ones(3, 1, 2)])
    assert not padding_rule(nn.Linear(2, 2), [packed])


def test_outputs_that_are_none_of_positions_stay() -> None:
    masks = _masks(OTHER, MASK)
    assert at_positions(torch.ones(2, 3, 8), masks).shape == (1, 4, 8)
    for y in (torch.ones(2, 8), torch.ones(2, 5, 8), torch.ones(2, 3, 8, 8)):
        assert at_positions(y, masks) is y


class _Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize("options", [{"target": "layer"}, {"steps": 0}, {"steps": 3}])
def test_columns_are_fitted_to_what_is_read(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    digital, x = _Positions(), torch.randn(8, 12, 40)
    mask = (torch.arange(12) < 4).long().expand(8, 12)
    model = at.convert(copy.deepcopy(digital), crossbar())

    def batches(padding: Tensor) -> list[dict[str, Tensor]]:
        given = x.where(mask.bool().unsqueeze(-1), padding)
        pairs = zip(given.split(4), mask.split(4), strict=True)
        return [{"x": a, "attention_mask": b} for a, b in pairs]

    at.calibrate(model, batches(x), effort="ranges", method="absmax")
    found = []
    for padding in (x, x.sign()):
        view = at.correct_columns(
            at.program(model, seed=1).at("1 day"), batches(padding), **options
        )
        found.append(view.net(x).detach())
    assert torch.equal(*found)


class _TimeFirst(_Positions):
    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        return self.net(x.transpose(0, 1)).transpose(0, 1)


def test_a_mask_leaves_out_nothing_of_vectors_in_another_order() -> None:
    torch.manual_seed(0)
    model = at.convert(_TimeFirst(), crossbar())
    x, mask = torch.randn(8, 12, 40), (torch.arange(12) < 4).long().expand(8, 12)
    at.calibrate(model, [{"x": x, "attention_mask": mask}], effort="ranges", method="absmax")
    found = []
    for masked in (mask, torch.ones_like(mask)):
        view = at.program(model, seed=1).at("1 day")
        at.correct_columns(view, [{"x": x, "attention_mask": masked}], target="layer")
        found.append(view(x, mask).detach())
    assert torch.equal(*found)


class _Recurrent(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.net = nn.LSTM(40, 16, batch_first=batch_first)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        if self.net.batch_first:
            return self.net(x)[0]
        return self.net(x.transpose(0, 1))[0].transpose(0, 1)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("samples", [8, 12], ids=["", "as many samples as positions"])
def test_the_padding_of_sequences_is_no_input_of_a_recurrent_layer(
    batch_first: bool, samples: int
) -> None:
    torch.manual_seed(0)
    digital, x = _Recurrent(batch_first), torch.randn(samples, 12, 40)
    mask = (torch.arange(12) < torch.arange(4, 4 + samples).unsqueeze(1)).long()
    found = []
    for padding in (x, 0 * x, 30 * x.sign()):
        given = x.where(mask.bool().unsqueeze(-1), padding)
        batch = {"x": given, "attention_mask": mask}
        model = at.convert(copy.deepcopy(digital), at.chips.hermes64())
        at.calibrate(model, [batch], effort="ranges", method="std")
        ranges = [model.net.ih_l0.input_range, model.net.ih_l0.output_ranges]
        view = at.correct_columns(at.program(model, seed=1).at("1 day"), [batch], target="layer")
        programmed = view.net.ih_l0.programmed
        found.append([*ranges, *programmed.gains, programmed.offset])
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_packed_sequences_are_calibrated_and_corrected_as_single_ones_are() -> None:
    torch.manual_seed(0)
    digital, lengths = _Recurrent(False), [40, *[3] * 9]
    sequences = [1 + torch.randn(length, 40) for length in lengths]
    found = []
    for batches in ([pack_sequence(sequences)], [each.unsqueeze(1) for each in sequences]):
        model = at.convert(copy.deepcopy(digital), at.chips.hermes64())
        given: Any = {"forward": lambda model, x: model.net(x)[1][0]}
        at.calibrate(model, batches, effort="ranges", method="std", **given)
        layers = [layer for _, layer in at.analog_layers(model)]
        ranges = [each for layer in layers for each in (layer.input_range, layer.output_ranges)]
        programmed = at.program(model, seed=1)
        view = at.correct_columns(programmed.at("1 day"), batches, target="layer", **given)
        gains = [layer.programmed.gains[0] for _, layer in at.analog_layers(view)]
        recovery = at.Recovery(batches=batches, steps=0, rounds=1, **given)
        mvms = programmed.recalibration_cost(recovery=recovery).mvms
        found.append([*ranges, *gains, torch.tensor(float(mvms))])
    for packed, single in zip(*found, strict=True):
        torch.testing.assert_close(packed, single, rtol=0.02, atol=0.0)
    assert torch.equal(found[0][-1], found[1][-1])


def test_vectors_that_are_read_are_thinned_out_not_those_that_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(column_outputs, "_KEPT", 16 * 32)
    monkeypatch.setattr(column_outputs, "_LEAST_KEPT", 8)
    layer = at.nn.AnalogLinear(40, 16, chip=crossbar())
    plan = layer.executions.evaluation.plans[0]
    rows = column_outputs._Rows(layer, _masks(torch.arange(12).expand(8, 12) > 10))
    rows.note(torch.ones(8, 12, 40))
    assert rows.of(torch.ones(96, 16), plan).tolist() == [*range(11, 96, 12)]


@pytest.mark.parametrize("chip", [crossbar(), at.chips.hermes64()], ids=["crossbar", "hermes64"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"effort": "ranges"},
        {"effort": "ranges", "per": "tile"},
        {"method": "absmax"},
        {"method": "percentile", "adc": "mse", "adc_per": "column"},
        {"method": None, "adc": "absmax"},
    ],
    ids=str,
)
def test_ranges_are_those_of_what_is_read(options: dict[str, Any], chip: at.Chip) -> None:
    torch.manual_seed(0)
    digital, x = _Positions(), torch.randn(8, 12, 40)
    mask = (torch.arange(12) < torch.arange(4, 12).unsqueeze(1)).long()
    chip = chip.replace(array={"rows": 32})
    found = []
    for padding in (x, 30 * x.sign(), 0 * x):
        given = x.where(mask.bool().unsqueeze(-1), padding)
        pairs = zip(given.split(2), mask.split(2), strict=True)
        batches = [{"x": a, "attention_mask": b} for a, b in pairs]
        model = at.convert(copy.deepcopy(digital), chip)
        at.calibrate(model, batches, report=None, **options)
        layers = [layer for _, layer in at.analog_layers(model)]
        ranges = [torch.tensor(layer.input_ranges or [0.0]) for layer in layers]
        ranges += [each for layer in layers for each in (layer.adc_ranges, layer.output_ranges)]
        found.append([each for each in ranges if each is not None])
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_a_number_for_each_position_counts_where_forward_says() -> None:
    torch.manual_seed(0)
    digital, x = _Positions(), torch.randn(8, 12, 40)
    mask = (torch.arange(12) < torch.arange(4, 12).unsqueeze(1)).long()

    def scores(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:  # as of question answering
        return model(**batch)[..., 0]

    def read(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return scores(model, batch).where(batch["attention_mask"] != 0, 0)

    errors: dict[Any, list[float]] = {scores: [], read: []}
    for forward, found in errors.items():
        for padding in (0 * x, 30 * x.sign()):
            given = x.where(mask.bool().unsqueeze(-1), padding)
            pairs = zip(given.split(2), mask.split(2), strict=True)
            batches = [{"x": a, "attention_mask": b} for a, b in pairs]
            model = at.convert(copy.deepcopy(digital), at.chips.hermes64())
            reports: list[Any] = []
            at.calibrate(model, batches, forward=forward, report=reports.append)
            found.append(reports[0].to_dict()["errors"]["default"])
    assert errors[read][0] == errors[read][1]
    assert errors[scores][0] != errors[scores][1]
