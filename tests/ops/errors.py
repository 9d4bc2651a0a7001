"""Errors of ADCs for the tests of the operator: every kind that chips declare."""

import torch
from torch import Tensor

from analogtorch.chips import ADC_ERRORS


def adc_errors(blocks: int, outputs: int, std: float = 0.1, seed: int = 0) -> Tensor:
    """(kinds, blocks, outputs), around their values in an ADC without errors."""
    z = torch.randn(len(ADC_ERRORS), blocks, outputs, generator=torch.Generator().manual_seed(seed))
    kinds = zip(ADC_ERRORS, std * z, strict=True)
    return torch.stack([(error.ideal + each).clamp_min(error.least) for error, each in kinds])
