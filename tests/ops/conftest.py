"""A fixture for tests of the CPU kernels."""

from collections.abc import Iterator

import pytest
import torch

from analogtorch.ops.native import build, call, loading

LEVELS = {"DEFAULT": 0, "AVX2": 1, "AVX512": 2}


def _runs(capability: str) -> bool:
    own = LEVELS.get(torch.backends.cpu.get_cpu_capability(), 0)
    return LEVELS[capability] <= own and build.library(capability).exists()


@pytest.fixture(
    params=[
        pytest.param(c, marks=pytest.mark.skipif(not _runs(c), reason=f"no {c} here"))
        for c in LEVELS
    ]
)
def capability(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run the test with the kernels of one instruction set."""
    call._form.cache_clear()  # it has counted the panels of another
    library = loading._loaded(build.library(request.param))
    monkeypatch.setattr(loading, "_library", lambda: library)
    yield request.param
    call._form.cache_clear()
