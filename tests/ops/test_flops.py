import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import analogtorch as at
from analogtorch.ops import flops


@pytest.mark.parametrize(
    ("digital", "shape"),
    [
        (nn.Linear(700, 8), (3, 5, 700)),  # two row blocks
        (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
        (nn.Conv2d(6, 4, (3, 2), dilation=2), (2, 6, 9, 8)),
        (nn.ConvTranspose2d(3, 5, 2, stride=2), (2, 3, 4, 4)),
    ],
)
def test_an_analog_layer_has_the_flops_of_the_digital_one(
    digital: nn.Module, shape: tuple[int, ...]
) -> None:
    model = at.convert(copy.deepcopy(digital), at.chips.hermes64())
    found = []
    for layer in (digital, model):
        for learns in (False, True):
            x = torch.randn(shape, requires_grad=learns)
            with FlopCounterMode(display=False) as counter:
                layer(x).sum().backward()
            found.append(counter.get_total_flops())
    assert 0 < found[0] < found[1]
    assert found[:2] == found[2:]


def test_groups_of_a_convolution_count_their_own_inputs() -> None:
    digital, x = nn.Conv1d(6, 4, 3, groups=2), torch.randn(2, 6, 9)
    for layer in (digital, at.convert(copy.deepcopy(digital), at.chips.hermes64())):
        with FlopCounterMode(display=False) as counter:
            layer(x)  # torch's own formula forgets the groups in the gradient of the weight
        assert counter.get_total_flops() == 2 * (2 * 4 * 7) * (3 * 3)


def test_a_programmed_chip_has_them_too() -> None:
    model = at.convert(nn.Linear(8, 4), at.chips.hermes64())
    view = at.program(model, seed=0).at("1 day")
    with FlopCounterMode(display=False) as counter:
        view(torch.randn(3, 8))
    assert counter.get_total_flops() == 2 * 3 * 8 * 4


def test_threads_may_convert_at_the_same_time() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:  # torch refuses a formula that it has
        for future in [pool.submit(flops.register) for _ in range(64)]:
            future.result()
