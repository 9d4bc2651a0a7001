"""The digital layers that every analog layer is compared with, and an input for each."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    name: str
    layer: nn.Module
    x: Tensor


def cases() -> list[Case]:
    """Small layers that span every option; seeded, so that every call makes the same ones."""
    torch.manual_seed(0)
    conv1, conv2, conv3 = nn.Conv1d, nn.Conv2d, nn.Conv3d
    line, image, volume = (
        torch.randn(3, 6, 20),
        torch.randn(2, 6, 11, 9),
        torch.randn(2, 4, 5, 6, 7),
    )
    made = [
        Case("linear", nn.Linear(37, 11), torch.randn(5, 37)),
        Case("linear_no_bias", nn.Linear(37, 11, bias=False), torch.randn(5, 37)),
        Case("linear_3d", nn.Linear(37, 11), torch.randn(2, 3, 37)),
        Case("linear_1d", nn.Linear(37, 11), torch.randn(37)),
        Case("linear_1x1", nn.Linear(1, 1), torch.randn(4, 1)),
        Case("conv1d", conv1(6, 8, 3), line),
        Case("conv1d_unbatched", conv1(6, 8, 3), line[0]),
        Case("conv1d_long_kernel", conv1(6, 8, 17, padding=8), line),
        Case("conv1d_same_dilated", conv1(6, 8, 3, padding="same", dilation=3), line),
        Case("conv1d_same_even", conv1(6, 8, 4, padding="same"), line),
        Case("conv2d", conv2(6, 8, 3, padding=1), image),
        Case("conv2d_unbatched", conv2(6, 8, 3), image[0]),
        Case(
            "conv2d_rectangular",
            conv2(6, 8, (5, 1), stride=(2, 3), padding=(2, 0), dilation=(1, 2)),
            image,
        ),
        Case("conv2d_groups", conv2(6, 8, 3, groups=2, stride=2), image),
        Case("conv2d_depthwise", conv2(6, 12, 3, groups=6, padding=1, bias=False), image),
        Case("conv2d_big_kernel", conv2(6, 4, (9, 7), padding=(4, 3)), image),
        Case("conv3d", conv3(4, 6, 3, padding=1), volume),
        Case("conv3d_unbatched", conv3(4, 6, 2), volume[0]),
        Case(
            "conv3d_options",
            conv3(4, 6, (1, 3, 2), stride=(2, 1, 1), dilation=(1, 1, 3), groups=2),
            volume,
        ),
        Case("conv3d_same_even", conv3(4, 6, (2, 3, 4), padding="same"), volume),
    ]
    # every output place is reached by a tap, or a NaN would not get there
    up1, up2, up3 = nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
    made += [
        Case("transposed1d", up1(6, 8, 4, stride=2, padding=1), line),
        Case("transposed1d_unbatched", up1(6, 8, 5, stride=3, dilation=2, bias=False), line[0]),
        Case("transposed2d", up2(6, 5, 3, stride=2, padding=1, output_padding=1), image),
        Case(
            "transposed2d_groups", up2(6, 8, (3, 2), stride=(1, 2), groups=2, padding=(2, 0)), image
        ),
        Case("transposed2d_depthwise", up2(6, 12, 3, groups=6, bias=False), image),
        Case(
            "transposed3d",
            up3(4, 6, (1, 3, 2), stride=(1, 2, 1), dilation=(1, 1, 3), groups=2),
            volume,
        ),
    ]
    for mode in ("reflect", "replicate", "circular"):
        made.append(Case(f"conv1d_{mode}", conv1(6, 8, 3, padding=1, padding_mode=mode), line))
        made.append(
            Case(
                f"conv2d_{mode}",
                conv2(6, 8, 3, padding=(1, 2), padding_mode=mode, dilation=2),
                image,
            )
        )
        made.append(
            Case(f"conv3d_{mode}", conv3(4, 6, 3, padding=(1, 2, 1), padding_mode=mode), volume)
        )
    return made
