"""``help`` of a dataclass shows every field with what it means."""

import dataclasses
import pydoc

import pytest

import analogtorch as at

ROOMS = (at, at.chips, at.devices, at.hwa, at.mapping, at.nn)
PUBLIC = {
    value
    for room in ROOMS
    for value in vars(room).values()
    if isinstance(value, type)
    and dataclasses.is_dataclass(value)
    and value.__module__.startswith("analogtorch.")
}


@pytest.mark.parametrize(
    "cls", sorted(PUBLIC, key=lambda cls: cls.__qualname__), ids=lambda cls: cls.__qualname__
)
def test_help_names_every_field(cls: type) -> None:
    text = pydoc.render_doc(cls, renderer=pydoc.plaintext)
    lines = [line.strip(" |") for line in text.splitlines()]
    for field in dataclasses.fields(cls):
        if field.init:
            assert any(line.startswith(f"{field.name} (") for line in lines), field.name


def test_help_of_the_chip_has_texts_and_defaults() -> None:
    text = at.Chip.__doc__
    assert text.startswith("An analog in-memory-computing chip")
    assert "    array (Array): The arrays of unit cells." in text
    assert at.chips.hermes64().__doc__ == text
    rows = "    rows (int): Rows of a tile: inputs of one MVM, >= 1."
    assert rows in at.chips.Array.__doc__
    assert "    range (float = 12.0): " in at.chips.ADC.__doc__
    assert "    bits (int | None = None): " in at.chips.ADC.__doc__


def test_a_subclass_lists_what_it_inherits() -> None:
    text = at.ProgramAndVerify.__doc__
    assert text.index("rounds (int = 30)") < text.index("margin (float")
