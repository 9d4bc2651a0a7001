"""Which tensors that a model returns are compared."""

from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.calibration.outputs import comparable

Y, LABELS = torch.arange(40.0).view(4, 10), torch.arange(4)


def detections(model: nn.Module, x: Tensor) -> list[dict[str, Tensor]]:
    """Return outputs as torchvision's detectors do that fill their limit of boxes."""
    return [
        {"boxes": y[best][:, None].expand(-1, 4), "scores": y[best], "labels": best}
        for y in model(x)
        for best in [y.argsort(descending=True)]
    ]


def _shapes(output: Any) -> list[tuple[int, ...]]:
    return [tuple(y.shape) for y in comparable(output, torch.zeros(4, 10))]


def test_detections_are_not_compared_and_what_stands_beside_them_is() -> None:
    found = detections(nn.Identity(), Y)
    assert _shapes(found) == _shapes(found[0]) == _shapes(({}, found)) == []
    assert _shapes((Y, found)) == _shapes({"logits": Y, "found": found}) == [(4, 10)]


def test_classes_beside_logits_and_boxes_in_a_fixed_order_are_no_detections() -> None:
    assert _shapes({"logits": Y, "labels": LABELS}) == [(4, 10)]
    assert _shapes({"boxes": Y, "scores": Y, "labels": Y}) == [(4, 10)] * 3
    assert _shapes({"boxes": Y, "scores": Y, "labels": LABELS}) == [(4, 10)] * 2
