"""Records of numbers as the integers and floats of an operator, and back."""

from dataclasses import dataclass, field, fields

import pytest

from analogtorch.chips.slices import Slicing
from analogtorch.chips.tiling import Layout
from analogtorch.devices import Spread
from analogtorch.ops import Plan
from analogtorch.ops.encoding import decode, encode
from analogtorch.ops.plan import plan_of


@dataclass(frozen=True)
class Inner:
    pair: tuple[float, float] = (0.5, -1.0)
    count: int = 3


@dataclass(frozen=True)
class Record:
    sizes: tuple[int, ...] = (4, 5, 6)
    inner: Inner = Inner()
    std: float = 0.25
    derived: int = field(init=False, default=9)


def test_fields_follow_each_other() -> None:
    assert encode(Record()) == ((3, 4, 5, 6, 3), (0.5, -1.0, 0.25))
    assert decode(Record, *encode(Record(sizes=()))) == Record(sizes=())


@pytest.mark.parametrize(
    ("ints", "floats"),
    [
        ((), ()),
        ((3, 4, 5, 6), (0.5, -1.0, 0.25)),
        ((3, 4, 5, 6, 3, 1), (0.5, -1.0, 0.25)),
        ((3, 4, 5, 6, 3), (0.5, -1.0)),
        ((3, 4, 5, 6, 3), (0.5, -1.0, 0.25, 1.0)),
        ((-1, 3), (0.5, -1.0, 0.25)),
    ],
)
def test_numbers_of_no_record_are_refused(ints: tuple, floats: tuple) -> None:
    with pytest.raises(ValueError, match="are not those of a Record"):
        decode(Record, ints, floats)


def test_every_field_of_a_plan_reaches_the_operator() -> None:
    others = {
        "bounds": (0, 6, 8), "columns": (0, 3), "groups": 2, "first_output": 5, "total_outputs": 12,
        "first_row": 7, "stride": (2,), "padding": (1,), "dilation": (3,), "input_bits": 7,
        "output_bits": 6, "output_steps": 40, "floors": 1, "unit_bits": 5, "adc_range": 3.5,
        "phases": 4, "output_noise": 0.5, "read_noise": 0.75, "weight_noise": 0.25, "jitter": 0.125,
        "shot": 0.375, "split": 3, "balanced": 1, "spread": Spread(base=0.5, pieces=2, rate=1.5),
        "slicing": Slicing(weight_bits=5),
    }  # fmt: skip
    base = {"bounds": (0, 8), "stride": (1,), "padding": (0,), "dilation": (1,), "input_bits": 8}
    assert set(others) == {f.name for f in fields(Plan) if f.init}
    assert {f.name for f in fields(Layout)} < set(others)
    for name, value in others.items():
        plan = Plan(**(base | {name: value}))
        assert (plan.ints, plan.floats) != (Plan(**base).ints, Plan(**base).floats), name
        assert plan_of(plan.ints, plan.floats) == plan
