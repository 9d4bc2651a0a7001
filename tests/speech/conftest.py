"""Fixtures of whole runs."""

from collections.abc import Iterator

import pytest

from analogtorch.evaluate.journal import files
from analogtorch.speech import levels, validation


@pytest.fixture(scope="module")
def one_chip_decides() -> Iterator[None]:
    """Let one chip decide over ranges and levels: five take a fifth of the time of a small run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "NUM_CHIPS", 1)
        for module in (validation, levels):
            patch.setattr(module, "FILES", files(1))
        yield
