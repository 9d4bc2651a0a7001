"""The noise generator and the raw operator, with the CPU kernels and without."""

from functools import partial
from typing import Any

import torch

from benchmarks.record import api
from benchmarks.record.nets import random
from benchmarks.record.runs import Case, Found, in_plain_torch

_IMAGE = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
_SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "linear": ((9, 70), (37, 70), {"bounds": (0, 33, 70)}),
    "linear_shared": ((2, 3, 40), (33, 40), {"bounds": (0, 40), "columns": (0, 20, 33)}),
    "conv2d": (
        (2, 5, 9, 11),
        (11, 5, 3, 3),
        {"bounds": (0, 27, 45), "columns": (0, 6, 11), **_IMAGE},
    ),
    "depthwise": ((2, 6, 5, 8), (6, 1, 3, 3), {"bounds": (0, 9), "groups": 6, **_IMAGE}),
    "conv1d_cut": (
        (2, 2, 20),
        (3, 2, 4),
        {"bounds": (0, 3, 4, 7, 8), "stride": (1,), "padding": (0,), "dilation": (3,)},
    ),
}
_SETTINGS: dict[str, dict[str, Any]] = {
    "exact": {},
    "eight_bits": {"input_bits": 8, "output_bits": 8, "adc_range": 12.0},
    "saturating": {"input_bits": 8, "output_bits": 6, "adc_range": 0.8},
    "digital_unit": {"input_bits": 8, "output_steps": 422, "adc_range": 3.0, "unit_bits": 6},
    "phases": {
        "input_bits": 8,
        "output_bits": 8,
        "adc_range": 3.0,
        "output_noise": 0.04,
        "phases": 4,
    },
    "noise": {
        "input_bits": 7,
        "output_bits": 9,
        "adc_range": 3.0,
        "output_noise": 0.05,
        "weight_noise": 0.5,
    },
}


def _product(shape: str, setting: str) -> Found:
    size, weight, geometry = _SHAPES[shape]
    plan = geometry | _SETTINGS[setting]
    each = len(plan["bounds"]) - 1, weight[0]
    vector = torch.tensor(size[:1] if "stride" in plan else size[:-1]).prod().item()
    x, w, bias = random(*size), random(*weight, seed=1), random(weight[0], seed=2)
    ranges = {"output_ranges": 0.3 + random(*each, seed=8).abs()} if "unit_bits" in plan else {}
    by_block = 0.8 + random(each[0], seed=6).abs()
    options = {
        "adc_ranges": 0.5 + random(*each, seed=5).abs(),
        "gain": random(*each, seed=3).abs(),
    }
    variants = {
        "one range": (torch.tensor([1.5]), {}),
        "a range per block": (by_block if each[0] > 1 else torch.tensor([1.2]), options),
        "counted": (
            torch.tensor([1.5]),
            {"samples": torch.arange(int(vector)) * 3 + 1, "gain": options["gain"]},
        ),
    }
    for name, (input_range, tensors) in variants.items():
        leaves = a, b, c, d = [t.clone().requires_grad_() for t in (x, input_range, w, bias)]
        y = api.product(a, b, c, plan=plan, bias=d, **tensors, **ranges)
        y.backward(random(*y.shape, seed=4))
        yield name, {"y": y, "gradients": [leaf.grad for leaf in leaves]}


def _normals() -> Found:
    yield (
        "normals",
        {
            f"{rows}x{columns}": api.normals(3, "record", rows, columns)
            for rows, columns in ((7, 255), (64, 33))
        },
    )


_ALL: dict[str, Case] = {
    "normals": _normals,
    **{
        f"{shape} {setting}": partial(_product, shape, setting)
        for shape in _SHAPES
        for setting in _SETTINGS
    },
}
CASES: dict[str, Case] = {
    **{f"product/kernels/{name}": case for name, case in _ALL.items()},
    **{f"product/plain/{name}": in_plain_torch(case) for name, case in _ALL.items()},
}
