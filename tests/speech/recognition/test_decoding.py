"""Greedy decoding, beam search and streams against what they must equal."""

import itertools

import pytest
import torch
from torch.nn import functional as F

import analogtorch as at
from analogtorch.speech.recognition.decoding import (
    MOST,
    Stream,
    beam,
    greedy,
    prefix_search,
    transcribe,
)
from analogtorch.speech.recognition.networks import CTC, Recordings, Transcripts, Transducer
from analogtorch.speech.recognition.vocabulary import Vocabulary
from tests.speech.recognition.conftest import SMALL


def heard(frames: int = 24, rows: int = 3) -> Recordings:
    x = torch.randn(rows, frames, 40, generator=torch.Generator().manual_seed(1))
    return Recordings(x, torch.tensor([frames, frames - 4, frames - 9][:rows]))


@pytest.mark.parametrize("frames", [24, 25, 21])
@pytest.mark.parametrize("size", [8, 1, 3, 6, 23])
def test_chunks_give_the_text_of_the_whole(
    network: CTC | Transducer, frames: int, size: int
) -> None:
    given = heard(frames)
    whole = greedy(network, given)
    assert any(whole)
    stream = Stream(network, 3)
    found: list[list[int]] = [[], [], []]
    for number, chunk in enumerate(given.frames.split(size, 1)):
        lengths = (given.lengths - number * size).clamp(0, chunk.shape[1])
        added = stream.hear(Recordings(chunk, lengths))
        found = [old + new for old, new in zip(found, added, strict=True)]
    assert found == whole


def test_codes_of_chunks_are_those_of_the_whole(network: CTC | Transducer) -> None:
    given, state = heard(rows=1), None
    parts = []
    with torch.no_grad():
        whole = network.encoder(given)[0]
        for chunk in given.frames.split(4, 1):
            codes, _, state = network.encoder(Recordings(chunk, torch.tensor([4])), state)
            parts.append(codes)
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-6)


def test_nothing_is_written_past_the_end(network: CTC | Transducer) -> None:
    given = heard()
    short = [
        greedy(network, Recordings(x[None, :n], n[None]))[0] for x, n in zip(*given, strict=True)
    ]
    assert greedy(network, given) == short


def test_the_search_of_prefixes_finds_the_likeliest_text() -> None:
    scores = torch.randn(5, 3, generator=torch.Generator().manual_seed(4)).log_softmax(-1)
    total: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(3), repeat=5):
        text = tuple(k for k, _ in itertools.groupby(path) if k != 2)
        chance = float(sum(scores[t, k] for t, k in enumerate(path)).exp())
        total[text] = total.get(text, 0.0) + chance
    assert tuple(prefix_search(scores, 100)) == max(total, key=lambda text: total[text])


def test_a_repeated_token_needs_a_blank_between() -> None:
    certain = torch.full((3, 3), -20.0)
    certain[[0, 1, 2], [0, 2, 0]] = 0.0
    assert prefix_search(certain, 4) == [0, 0]
    certain[1] = certain[0]
    assert prefix_search(certain, 4) == [0]


def test_the_search_of_a_transducer_finds_the_likeliest_text_per_token() -> None:
    torch.manual_seed(2)
    network = Transducer(3, **SMALL).eval()
    given = heard(4, 1)
    found = beam(network, given, width=3)[0]
    likelihood = {}
    for n in range(MOST + 1):
        for text in itertools.product(range(3), repeat=n):
            said = Transcripts(torch.tensor([text or (0,)]), torch.tensor([n]))
            with torch.no_grad():
                logits = network(given, said)
            likelihood[text] = _log_probability(logits[0, :, : n + 1], text)
    # torchaudio divides by the number of tokens, of which there are two more
    best = max(likelihood, key=lambda text: likelihood[text] / (len(text) + 2))
    assert tuple(found) == best


def _log_probability(logits: torch.Tensor, text: tuple[int, ...]) -> float:
    """Return the logarithm of the sum over all ways through the lattice."""
    scores = logits.log_softmax(-1)
    codes, blank, chance = len(scores), scores.shape[-1] - 1, 0.0
    for ends in itertools.combinations_with_replacement(range(codes), len(text)):
        path = sum(
            float(scores[t, u, token]) for u, (t, token) in enumerate(zip(ends, text, strict=True))
        )
        path += sum(float(scores[t, sum(e <= t for e in ends), blank]) for t in range(codes))
        chance += float(torch.tensor(path, dtype=torch.float64).exp())
    return float(torch.tensor(chance, dtype=torch.float64).log())


def test_losses_are_sums_over_all_ways() -> None:
    torch.manual_seed(0)
    given = heard(12, 1)
    said = Transcripts(torch.tensor([[1, 0]]), torch.tensor([2]))
    transducer, ctc = (kind(2, **SMALL).eval() for kind in (Transducer, CTC))
    with torch.no_grad():
        logits = transducer(given, said)
        assert logits.shape == (1, 3, 3, 3)
        exact = -_log_probability(logits[0], (1, 0)) / 2
        assert float(transducer.loss(logits, given, said)) == pytest.approx(exact, rel=1e-5)
        scores = ctc(given).log_softmax(-1)[0]
        ways = [p for p in itertools.product(range(3), repeat=3)
                if [k for k, _ in itertools.groupby(p) if k != 2] == [1, 0]]  # fmt: skip
        chance = sum(float(scores[range(3), list(way)].sum().exp()) for way in ways)
        assert float(ctc.loss(ctc(given), given, said)) == pytest.approx(
            -float(torch.tensor(chance).log()) / 2, rel=1e-5
        )


@pytest.mark.parametrize("kind", [CTC, Transducer])
def test_the_loss_of_texts_without_a_token_is_that_of_their_blanks(kind: type) -> None:
    torch.manual_seed(0)
    network, given = kind(2, **SMALL).eval(), heard(12, 1)
    said = Transcripts(torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    logits = network(given, said)
    blanks = -logits.log_softmax(-1)[..., 2].sum()
    assert torch.allclose(network.loss(logits, given, said), blanks)


@pytest.mark.parametrize("tokens", [[1, 0, 1, 0], [1, 1, 0], [0, 1, 1]])
def test_a_text_without_a_path_is_named_instead_of_a_loss_of_0(tokens: list[int]) -> None:
    network, given = CTC(2, **SMALL), heard(12, 1)  # 3 codes
    said = Transcripts(torch.tensor([tokens]), torch.tensor([len(tokens)]))
    message = f"recording 0 has 3 codes for {len(tokens)} tokens.* 4 codes or more.*smaller stride"
    with pytest.raises(ValueError, match=message):
        network.loss(network(given), given, said)
    fits = Transcripts(said.tokens, torch.tensor([2]))  # what fills up repeats nothing
    assert bool(network.loss(network(given), given, fits).isfinite())


def test_both_run_on_chips_with_a_digital_joint_net(network: CTC | Transducer) -> None:
    given = heard()
    model = at.convert(network, at.chips.hermes64(), exclude=_digital(network))
    analog = {name for name, _ in at.conversion.analog_layers(model)}
    assert not any(name.startswith("joint") for name in analog)
    assert any(name.startswith("encoder.convolutions") for name in analog)
    calibrated = at.calibrate(
        model, [(given, Transcripts(torch.zeros(3, 1).long(), torch.ones(3).long()))],
        forward=lambda m, x: m(*x),
    )  # fmt: skip
    chip = at.program(calibrated.eval(), seed=0).at("1 day")
    assert greedy(chip, given) == greedy(chip, given)
    assert len(beam(chip, given, width=2)) == 3


def _digital(network: CTC | Transducer) -> list[str]:
    return ["joint.*"] if isinstance(network, Transducer) else []


def test_less_than_a_code_has_no_text(network: CTC | Transducer) -> None:
    assert greedy(network, heard(rows=0)) == beam(network, heard(rows=0), width=2) == []
    short = heard(3, 1)
    assert greedy(network, short) == beam(network, short, width=2) == [[]]
    assert Stream(network).hear(Recordings(short.frames[:, :0], torch.tensor([0]))) == [[]]


def test_bad_input_is_named(network: CTC | Transducer) -> None:
    with pytest.raises(ValueError, match="3 frames are fewer than the 4 of one code"):
        network.encoder(heard(3, 1))
    x, n = torch.zeros(1, 8, 40), torch.tensor([8])
    for bad, message in (
        (Recordings(x[0], n), r"frames of shape \(8, 40\) and lengths of \(1,\); it must have"),
        (Recordings(x[:, :, :20], n), r"it must have \(B, frames, 40\) and \(B,\)"),
        (Recordings(x, n + 1), "lengths from 9 to 9; its recordings have 0 to 8 frames"),
        (Recordings(x, n.float()), "lengths of torch.float32; they must be int64"),
        (Recordings(x / 0, n), "recording 0 holds NaN or infinite features"),
        (x, r"heard must be a Recordings such as Recordings\(frames, lengths\)"),
    ):
        for write in (greedy, beam, lambda net, chunk: Stream(net).hear(chunk)):
            with pytest.raises((ValueError, TypeError), match=message):
                write(network, bad)
    assert Stream(network).hear(Recordings(torch.cat([x, x / 0], 1), n))  # what fills up is free
    for write in (greedy, beam):
        with pytest.raises(ValueError, match=r"training mode.*write network\.eval\(\)"):
            write(network.train(), Recordings(x, n))
    network.eval()
    with pytest.raises(ValueError, match="tokens must be an integer >= 1, got 0"):
        type(network)(0)
    with pytest.raises(ValueError, match="the network has 2 tokens and the vocabulary 3"):
        transcribe(network, Vocabulary(tokens=("a", "b", "c")), heard())
    with pytest.raises(ValueError, match="1 chunks for 2 recordings"):
        Stream(network, 2).hear(heard(rows=1))
    stream = Stream(network, 2)
    stream.hear(Recordings(torch.zeros(2, 8, 40), torch.tensor([8, 4])))
    with pytest.raises(ValueError, match="recording 1 goes on after a chunk that was shorter"):
        stream.hear(Recordings(torch.zeros(2, 8, 40), torch.tensor([8, 8])))
    with pytest.raises(ValueError, match="width"):
        beam(network, heard(), width=0)
    if isinstance(network, Transducer):
        with pytest.raises(ValueError, match="width=3.*at most 2"):
            beam(network, heard(), width=3)


def test_a_token_is_heard_only_once_across_chunks() -> None:
    network = CTC(2, **SMALL).eval()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(F.one_hot(torch.tensor(1), 3).float())
    stream, chunk = Stream(network), heard(4, 1)
    assert [stream.hear(chunk) for _ in range(3)] == [[[1]], [[]], [[]]]
