"""Third-party keyword-spotting nets as torch modules, with their features of one real test set.

The nets are Arm's "Hello Edge" DNN, CNN and LSTM (github.com/ARM-software/ML-KWS-for-MCU, commit
8151349, Apache-2.0) and MLPerf Tiny's reference DS-CNN (github.com/mlcommons/tiny, commit 1afd2c9,
Apache-2.0). They make good subjects for `convert`: nobody trained them for an analog chip. The data
folder holds weights and features as npz archives of plain arrays (`arm_ml_kws/`,
`mlperf_tiny_kws/`) and the labels (`gsc_v2_test12/manifest.csv`); see `load_pretrained`.
"""

import csv
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from analogtorch.speech.models.ds_cnn import DSCNN
from analogtorch.speech.models.hello_edge import HelloEdgeCNN, HelloEdgeDNN, HelloEdgeLSTM

MANIFEST = "gsc_v2_test12/manifest.csv"
_ARM_FEATURES = "arm_ml_kws/gsc_v2_test12_tf_mfcc_f16.npz"
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, csv.Error, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """The files of one net in the data folder, and how it is built."""

    build: Callable[[], nn.Module]
    weights: str
    features: str
    array: str
    shape: tuple[int, ...]
    accuracy: float


def _arm(
    name: str, build: Callable[[], nn.Module], shape: tuple[int, ...], accuracy: float
) -> _Entry:
    array = f"mfcc_win40_stride{40 if shape[-2] == 25 else 20}"
    weights = f"arm_ml_kws/{name}_torch.npz"
    files = {"weights": weights, "features": _ARM_FEATURES, "array": array}
    return _Entry(build=build, shape=shape, accuracy=accuracy, **files)


# Sizes: the archives' README, from the frozen TensorFlow graphs. Accuracies: measured digitally,
# all 4,890 clips.
_NETS = {
    "DNN_S": _arm("DNN_S", lambda: HelloEdgeDNN(width=144, input_shape=(25, 10)), (25, 10), 0.7840),
    "DNN_M": _arm("DNN_M", lambda: HelloEdgeDNN(width=256, input_shape=(25, 10)), (25, 10), 0.8047),
    "DNN_L": _arm("DNN_L", lambda: HelloEdgeDNN(width=436, input_shape=(25, 10)), (25, 10), 0.8133),
    "CNN_S": _arm("CNN_S", lambda: HelloEdgeCNN(channels=(28, 30), narrow=16), (1, 49, 10), 0.8577),
    "CNN_M": _arm("CNN_M", lambda: HelloEdgeCNN(channels=(64, 48), narrow=16), (1, 49, 10), 0.8624),
    "CNN_L": _arm("CNN_L", lambda: HelloEdgeCNN(channels=(60, 76), narrow=58), (1, 49, 10), 0.8722),
    "LSTM_S": _arm("BasicLSTM_S", lambda: HelloEdgeLSTM(hidden=118), (49, 10), 0.8530),
    "LSTM_M": _arm("BasicLSTM_M", lambda: HelloEdgeLSTM(hidden=214), (49, 10), 0.8603),
    "LSTM_L": _arm("BasicLSTM_L", lambda: HelloEdgeLSTM(hidden=344), (49, 10), 0.8654),
    "DS-CNN": _Entry(
        build=DSCNN,
        weights="mlperf_tiny_kws/dscnn_float32_torch.npz",
        features="mlperf_tiny_kws/gsc_v2_test12_mfcc49x10_f16.npz",
        array="x",
        shape=(1, 49, 10),
        accuracy=0.9231,
    ),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class PretrainedKWS:
    """A pretrained keyword spotter with the test set in its features and class order."""

    name: str
    """Name of the net, one of `names()`."""
    model: nn.Module
    """The net in eval mode, float32, on the CPU; it maps `features` to logits (N, 12)."""
    features: Tensor
    """MFCC of every clip, (N, ...) float32, in the order of the manifest and the shape that the
    model takes."""
    labels: Tensor
    """Indices into `classes`, (N,) int64."""
    classes: tuple[str, ...]
    """The 12 classes in the order of the model's outputs; it differs between the families."""
    accuracy: float
    """Expected digital accuracy on these clips, 0..1, to four digits."""

    def batches(self, size: int = 512) -> list[tuple[Tensor, Tensor]]:
        """Return the clips as (features, labels) pairs of at most `size` rows.

        `at.accuracy` and `at.calibrate` take them.
        """
        return list(zip(self.features.split(size), self.labels.split(size), strict=True))


def names() -> tuple[str, ...]:
    """Return the names that `load_pretrained` knows."""
    return tuple(_NETS)


def load_pretrained(name: str, folder: str | Path) -> PretrainedKWS:
    """Load one pretrained net, the features it expects and the labels.

    Args:
        name: one of `names()`, such as "DNN_L", "CNN_L", "LSTM_L" or "DS-CNN".
        folder: the data folder, with `arm_ml_kws`, `mlperf_tiny_kws` and `gsc_v2_test12` inside.

    Returns:
        The net with its test set.

    Raises:
        ValueError: the name is unknown, or a file is damaged or has arrays that do not fit the net
            or the manifest.
        FileNotFoundError: a file is missing.
    """
    if name not in _NETS:
        raise ValueError(f"unknown pretrained net {name!r}; known: {', '.join(_NETS)}")
    entry, folder = _NETS[name], Path(folder)
    model = entry.build()
    arrays = _read_npz(folder / entry.weights)
    weights = {key: torch.from_numpy(value) for key, value in arrays.items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{folder / entry.weights} does not hold the weights of {name}: {error}"
        ) from error
    classes, stored, features = _read_features(folder / entry.features, entry)
    labels = _read_labels(folder / MANIFEST, classes)
    if not np.array_equal(labels, stored):
        raise ValueError(
            f"{folder / MANIFEST} ({len(labels)} rows) and {folder / entry.features} "
            f"({len(stored)} rows) do not list the same clips in the same order; take both from "
            "one release of the data"
        )
    return PretrainedKWS(
        name=name,
        model=model.eval(),
        features=torch.from_numpy(features),
        labels=torch.from_numpy(labels),
        classes=classes,
        accuracy=entry.accuracy,
    )


def _read_features(path: Path, entry: _Entry) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Return classes, label indices (N,) and features (N, *entry.shape) float32 of an archive."""
    arrays = _read_npz(path, ("classes", "y", entry.array))
    features, stored = arrays[entry.array].astype(np.float32), arrays["y"]
    shape = (len(stored), *entry.shape[-2:])
    if features.shape != shape:
        raise ValueError(
            f"{path}: array {entry.array!r} has shape {features.shape}, expected {shape}"
        )
    return tuple(arrays["classes"].tolist()), stored, features.reshape(-1, *entry.shape)


def _read_npz(path: Path, keys: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Return the named arrays (default: all) of an npz archive.

    Pickles and non-finite numbers are refused.
    """
    _check_exists(path)
    try:
        # opened here because np.load leaves the file open when the archive is cut short
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in keys or archive.files}
    # a single .npy array, which is no archive, gives the last two
    except (*_UNREADABLE, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path} is not the npz archive expected here ({error}); copy it again"
        ) from error
    for key, value in arrays.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ValueError(f"{path}: array {key!r} holds NaN or infinity; copy the file again")
    return arrays


def _read_labels(path: Path, classes: tuple[str, ...]) -> np.ndarray:
    """Return label indices (N,) int64 of the manifest's rows, in the order of `classes`."""
    _check_exists(path)
    index = {label: position for position, label in enumerate(classes)}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return np.array([index[row["label"]] for row in csv.DictReader(file)], dtype=np.int64)
    except _UNREADABLE as error:
        raise ValueError(
            f"{path} must be a CSV file with a column 'label' holding only {', '.join(classes)}: "
            f"{type(error).__name__} {error}; copy it again"
        ) from error


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; give the folder that holds arm_ml_kws, mlperf_tiny_kws and "
            "gsc_v2_test12"
        )
