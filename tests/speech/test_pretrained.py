"""The third-party nets reproduce their digital accuracies, and still do on an ideal chip."""

import json
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.speech import pretrained
from analogtorch.speech.pretrained import PretrainedKWS, load_pretrained
from benchmarks import pretrained as pretrained_benchmark

CLIPS = 4890


def logits(model: nn.Module, net: PretrainedKWS) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([model(x) for x, _ in net.batches()])


def accuracy(outputs: torch.Tensor, net: PretrainedKWS) -> float:
    return (outputs.argmax(1) == net.labels).double().mean().item()


@pytest.mark.parametrize(
    "name",
    [
        # of the others, the next test has some outputs
        pytest.param(name, marks=() if name == "DNN_L" else pytest.mark.slow)
        for name in pretrained.names()
    ],
)
def test_digital_accuracy(name: str, data_root: Path) -> None:
    net = load_pretrained(name, data_root)
    assert len(net.features) == len(net.labels) == CLIPS
    assert len(net.classes) == 12
    # 0.05 points are two clips: the features are stored in half precision.
    assert accuracy(logits(net.model, net), net) == pytest.approx(net.accuracy, abs=5e-4)


def test_class_orders_differ_and_are_mapped(data_root: Path) -> None:
    arm, tiny = load_pretrained("DNN_S", data_root), load_pretrained("DS-CNN", data_root)
    assert sorted(arm.classes) == sorted(tiny.classes)
    assert arm.classes != tiny.classes
    words = [[net.classes[label] for label in net.labels.tolist()] for net in (arm, tiny)]
    assert words[0] == words[1]


@pytest.mark.parametrize(("name", "features"), [("DNN_S", "mfcc40"), ("CNN_S", "mfcc20")])
def test_tensorflow_outputs(name: str, features: str, data_root: Path) -> None:
    net = load_pretrained(name, data_root)
    with np.load(data_root / "arm_ml_kws/tf_softmax_first64.npz", allow_pickle=False) as archive:
        exact, expected, rows = (torch.from_numpy(archive[key]) for key in (features, name, "rows"))
    with torch.inference_mode():
        outputs = net.model(exact.reshape(-1, *net.features.shape[1:])).softmax(1)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-5)
    # Half-precision storage: 2**-11 relative, MFCC below 512.
    torch.testing.assert_close(
        net.features[rows].reshape(exact.shape), exact, rtol=2**-11, atol=1e-4
    )


def test_state_dict_keys_are_the_archives(data_root: Path) -> None:
    with np.load(
        data_root / "mlperf_tiny_kws/dscnn_float32_torch.npz", allow_pickle=False
    ) as archive:
        keys = set(archive.files)
    own = load_pretrained("DS-CNN", data_root).model.state_dict()
    assert {key for key in own if not key.endswith("num_batches_tracked")} == keys


@pytest.mark.parametrize(
    ("name", "grouped"),
    [
        ("DNN_L", "sequential"),
        pytest.param("CNN_L", "sequential", marks=pytest.mark.slow),
        ("DS-CNN", "sequential"),
        pytest.param("DS-CNN", "block_diagonal", marks=pytest.mark.slow),
    ],
)
def test_ideal_chip(
    name: str, grouped: Literal["sequential", "block_diagonal"], data_root: Path
) -> None:
    net = load_pretrained(name, data_root)
    digital, keys = logits(net.model, net), list(net.model.state_dict())
    model = at.convert(net.model, at.chips.ideal().replace(array={"grouped": grouped}))
    outputs = logits(model, net)
    assert list(model.state_dict()) == keys
    assert accuracy(outputs, net) == pytest.approx(net.accuracy, abs=2e-3)
    torch.testing.assert_close(outputs, digital, rtol=1e-5, atol=1e-4)
    # A programmed ideal chip runs block by block through the read-out: sums in another order,
    # nothing else.
    aged = at.program(model, seed=0).at("1 year")
    with torch.inference_mode():
        torch.testing.assert_close(aged(net.features[::19]), digital[::19], rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_benchmark(
    data_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same table from any number of threads."""
    options = [
        "--data",
        str(data_root),
        "--nets",
        "DNN_S",
        "DNN_M",
        "--chips",
        "2",
        "--every",
        "40",
    ]
    options += ["--variants", "as published", "output noise 0.04"]
    tables = []
    for out, threads in ((tmp_path / "a", 1), (tmp_path / "b", 2)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        pretrained_benchmark.main([*options, "--out", str(out)])
        tables.append((out / "pretrained.csv").read_text())
        assert sorted(path.name for path in out.iterdir()) == [
            "pretrained.csv",
            "pretrained.json",
            "pretrained.md",
        ]
    assert tables[0] == tables[1]
    row, noisy, *_ = json.loads((tmp_path / "a/pretrained.json").read_text())["nets"]
    assert (row["chip"], noisy["chip"]) == ("as published", "output noise 0.04")
    assert row["ideal"] == row["digital"] == pytest.approx(0.78, abs=0.05)
    assert list(row["aged"]) == list(at.TIMES)
    assert "DNN_S" in capsys.readouterr().out


def test_benchmark_names_the_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"DNN_S_torch.npz does not exist; give the folder"):
        pretrained_benchmark.main(
            ["--data", str(tmp_path), "--nets", "DNN_S", "--out", str(tmp_path / "out")]
        )
    assert not (tmp_path / "out").exists()


class TestBadInput:
    """Every error names the file (or name) and says what to do."""

    @pytest.fixture
    def folder(self, data_root: Path, tmp_path: Path) -> Path:
        for file in (
            "arm_ml_kws/DNN_S_torch.npz",
            "arm_ml_kws/gsc_v2_test12_tf_mfcc_f16.npz",
            "gsc_v2_test12/manifest.csv",
        ):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(data_root / file, tmp_path / file)
        return tmp_path

    def test_unknown_name(self, tmp_path: Path) -> None:
        with pytest.raises(
            ValueError, match=r"unknown pretrained net 'DNN_XL'; known: DNN_S, .*DS-CNN"
        ):
            load_pretrained("DNN_XL", tmp_path)

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(
            FileNotFoundError, match=r"DNN_S_torch.npz does not exist; give the folder"
        ):
            load_pretrained("DNN_S", tmp_path)

    def test_missing_manifest(self, folder: Path) -> None:
        (folder / pretrained.MANIFEST).unlink()
        with pytest.raises(
            FileNotFoundError, match=r"manifest.csv does not exist; give the folder"
        ):
            load_pretrained("DNN_S", folder)

    @pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped", "npy", "pickle"])
    def test_corrupt_archive(self, damage: str, folder: Path) -> None:
        path = folder / "arm_ml_kws/DNN_S_torch.npz"
        whole = path.read_bytes()
        if damage == "npy":
            with path.open("wb") as file:
                np.save(file, np.zeros(3))
        elif damage == "pickle":
            np.savez(path, weight=np.array([{}], dtype=object))
        else:
            middle = len(whole) // 2
            flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
            path.write_bytes(
                {"empty": b"", "text": b"hello", "cut": whole[:5000], "flipped": flipped}[damage]
            )
        with pytest.raises(
            ValueError, match=r"DNN_S_torch.npz is not the npz archive .*copy it again"
        ):
            load_pretrained("DNN_S", folder)

    def test_not_a_number(self, folder: Path) -> None:
        np.savez(
            folder / "arm_ml_kws/DNN_S_torch.npz", weight=np.array([1.0, np.nan], dtype=np.float32)
        )
        with pytest.raises(ValueError, match=r"DNN_S_torch.npz: array 'weight' holds NaN"):
            load_pretrained("DNN_S", folder)

    def test_weights_of_another_size(self, folder: Path, data_root: Path) -> None:
        shutil.copyfile(
            data_root / "arm_ml_kws/DNN_M_torch.npz", folder / "arm_ml_kws/DNN_S_torch.npz"
        )
        with pytest.raises(
            ValueError, match=r"DNN_S_torch.npz does not hold the weights of DNN_S(?s:.*)256, 250"
        ):
            load_pretrained("DNN_S", folder)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"y": np.zeros(2, dtype=np.int64)}, r"tf_mfcc_f16.npz is not the npz archive"),
            (
                {"mfcc_win40_stride40": np.zeros((2, 49, 10))},
                r"shape \(2, 49, 10\), expected \(2, 25, 10\)",
            ),
            (
                {"mfcc_win40_stride40": np.zeros((2, 25, 10))},
                r"manifest.csv \(4890 rows\) and .* \(2 rows\) do not",
            ),
        ],
    )
    def test_features(self, arrays: dict[str, np.ndarray], message: str, folder: Path) -> None:
        path = folder / "arm_ml_kws/gsc_v2_test12_tf_mfcc_f16.npz"
        with np.load(path, allow_pickle=False) as archive:
            classes = archive["classes"]
        np.savez(path, **({"y": np.zeros(2, dtype=np.int64), "classes": classes} | arrays))
        with pytest.raises(ValueError, match=message):
            load_pretrained("DNN_S", folder)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"path,label\na.flac,house\n", r"manifest.csv must be a CSV .*KeyError 'house'; copy"),
            (b"path,word\na.flac,yes\n", r"manifest.csv must be a CSV file with a column 'label'"),
            (
                b"path,label\n\xff\xfe,yes\n",
                r"manifest.csv must be a CSV file .*UnicodeDecodeError",
            ),
            (
                b"path,label\na.flac,yes\n",
                r"manifest.csv \(1 rows\) and .* do not list the same clips",
            ),
        ],
    )
    def test_manifest(self, text: bytes, message: str, folder: Path) -> None:
        (folder / pretrained.MANIFEST).write_bytes(text)
        with pytest.raises(ValueError, match=message):
            load_pretrained("DNN_S", folder)
