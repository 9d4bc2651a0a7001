"""Fixtures shared by all rooms."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


def pytest_report_header() -> str:
    from analogtorch.ops import native

    return native.status()


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Seed torch before each module, so that what it draws does not depend on those before it."""
    if isinstance(collector, pytest.Module):
        torch.manual_seed(0)


def pytest_collection_finish() -> None:
    """Let collections of garbage, which some libraries ask for, pass over what modules brought."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Keep the number of torch's threads, which programs set, from the tests after them.

    On busy cores two threads make small operations ten times slower, as each waits for the other.
    """
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Return the folder of real recordings and pretrained nets; skip the test if it is absent."""
    default = Path(__file__).parents[1] / ".." / "shared" / "data"
    root = Path(os.environ.get("ANALOGTORCH_DATA", default))
    if not root.is_dir():
        pytest.skip(
            f"no real data at {root}; set ANALOGTORCH_DATA to the folder that holds gsc_v2_test12"
        )
    return root
