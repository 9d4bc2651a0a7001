"""The record of a product's operands, and what follows from it."""

import pytest
import torch

from analogtorch.ops import Operands, Plan, mvm, operands
from analogtorch.ops.native import structures

W, PLAN = torch.eye(3), Plan(bounds=(0, 3))


def test_the_operators_take_the_operands_in_their_order() -> None:
    forward, backward = (
        getattr(torch.ops.analogtorch, name).default._schema for name in ("mvm", "mvm_backward")
    )
    names = [argument.name for argument in forward.arguments]
    assert names == [*Operands._fields, "ints", "floats", "learns"]
    optional = [a.name for a in forward.arguments if str(a.type) == "Optional[Tensor]"]
    assert optional == list(Operands._field_defaults)
    kept = [argument.name for argument in backward.arguments]
    assert kept == ["g", *operands.KEPT, "mask", "saturated", "ints", "floats", "needs"]
    assert len(backward.returns) == len(operands.LEARNS)


def test_what_is_kept_comes_back() -> None:
    given = Operands(*(torch.full((1,), float(i)) for i in range(len(Operands._fields))))
    scale = torch.ones(1, 3)
    back = operands.kept(operands.keep(given, scale))
    assert back.scale is scale
    for name in Operands._fields:
        if name != "scale":
            assert getattr(back, name) is (getattr(given, name) if name in operands.KEPT else None)


def test_an_operand_that_there_is_not_is_refused() -> None:
    with pytest.raises(TypeError, match="gian"):
        mvm(torch.ones(1, 3), torch.ones(1), W, PLAN, gian=torch.ones(1, 3))


def test_the_kernels_read_all_operands_but_those_that_they_refuse() -> None:
    parts = {part: structures.pointers(kind) for part, kind in structures.PARTS.items()}
    pointed = [name for names in parts.values() for name in names if name in Operands._fields]
    refused = {"negatives", "adc_inl", "dac_inl", "curvatures"}
    assert sorted(pointed) == sorted(set(Operands._fields) - refused)
    of_linear = [name for name in parts[""] if name != "packed"]  # of steps, which share weights
    assert tuple(of_linear) == structures.pointers(structures.Convolution)


def test_structures_are_read_from_the_sources() -> None:
    noise = dict(structures.WeightNoise._fields_)
    assert list(noise)[:3] == ["key", "std", "shaped"]
    assert noise["c"]._length_ == 4
    assert dict(structures.Convolution._fields_)["adc"] is structures.Adc
