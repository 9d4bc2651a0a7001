import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import analogtorch as at
from analogtorch.chips.tiling import Section, sections


def _chip(rows: int = 256, cols: int = 256, grouped: str = "sequential") -> at.Chip:
    return at.chips.hermes64().replace(array={"rows": rows, "columns": cols, "grouped": grouped})


def _cells(section: Section) -> tuple[torch.Tensor, torch.Tensor]:
    """Return output and input row of each cell of the section's flattened weight.

    They are positions in the layer.
    """
    outputs, first = section.positions(torch.device("cpu"))
    return outputs.unsqueeze(1).expand(-1, section.rows), first.unsqueeze(1) + torch.arange(
        section.rows
    )


@settings(deadline=None, max_examples=200)
@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 20),
    kernel=st.lists(st.integers(1, 5), max_size=2),
    channels=st.integers(1, 7),
    outputs=st.integers(1, 6),
    groups=st.integers(1, 5),
    grouped=st.sampled_from(["sequential", "block_diagonal"]),
)
def test_every_weight_is_in_exactly_one_block_that_fits(
    rows, cols, kernel, channels, outputs, groups, grouped
) -> None:
    shape = (outputs * groups, channels, *kernel)
    seen = torch.zeros(outputs * groups, channels * groups * math.prod(kernel), dtype=torch.int64)
    for section in sections(shape, groups, _chip(rows, cols, grouped)):
        ones = section.weight(torch.ones(shape))
        assert ones.shape == section.shape
        placed = torch.zeros(section.shape, dtype=torch.int64)
        for block in section.row_blocks:
            assert placed[(0, *block)].numel() <= rows
            placed[(slice(None), *block)] += 1
        assert (placed == 1).all()
        assert sum(c.stop - c.start for c in section.col_blocks) == section.shape[0]
        assert all(c.stop - c.start <= cols for c in section.col_blocks)
        assert section.bounds[-1] == section.rows == ones[0].numel()
        for block, start, end in zip(
            section.row_blocks, section.bounds[:-1], section.bounds[1:], strict=True
        ):
            flat = torch.arange(section.rows).view(section.shape[1:])[block].flatten()
            # a block is contiguous in the flattened weight
            assert torch.equal(flat, torch.arange(start, end))
        out, row = _cells(section)
        seen.index_put_((out, row), ones.flatten(1).long(), accumulate=True)
    inside = torch.block_diag(
        *[torch.ones(outputs, channels * math.prod(kernel), dtype=torch.int64)] * groups
    )
    assert torch.equal(seen, inside)


def test_row_blocks_end_at_whole_kernels() -> None:
    (section,) = sections((128, 64, 3, 3), 1, _chip())
    assert [(b[0].start, b[0].stop) for b in section.row_blocks] == [(0, 28), (28, 56), (56, 64)]
    assert section.tile_blocks == 3


def test_kernels_larger_than_a_tile_are_cut_inside() -> None:
    (section,) = sections((8, 2, 20, 20), 1, _chip())
    assert len(section.row_blocks) == 4
    assert section.row_blocks[0] == (slice(0, 1), slice(0, 12), slice(0, 20))


def test_depthwise_placements() -> None:
    (sequential,) = sections((64, 1, 3, 3), 64, _chip())
    assert (sequential.tile_blocks, sequential.cells) == (1, 576)
    diagonal = sections((64, 1, 3, 3), 64, _chip(grouped="block_diagonal"))
    assert [s.shape for s in diagonal] == [(28, 28, 3, 3), (28, 28, 3, 3), (8, 8, 3, 3)]


@pytest.mark.parametrize("grouped", ["sequential", "block_diagonal"])
def test_a_cell_keeps_its_noise_wherever_it_is_placed(grouped: str) -> None:
    whole = {}
    for section in sections((8, 2, 3), 4, _chip(grouped=grouped)):
        out, row = _cells(section)
        own = section.weight(torch.ones(8, 2, 3)).flatten(1) > 0
        whole.update(
            zip(
                zip(out[own].tolist(), row[own].tolist(), strict=True),
                [1] * int(own.sum()),
                strict=True,
            )
        )
    assert sorted(whole) == [
        (o, r) for o in range(8) for r in range((o // 2) * 6, (o // 2) * 6 + 6)
    ]
