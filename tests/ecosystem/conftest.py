"""The battery's fixture: every model of the table, and how two of them are compared."""

import pytest

from tests.ecosystem.models import ENTRIES, Entry


@pytest.fixture(params=ENTRIES, ids=lambda entry: entry.name)
def entry(request: pytest.FixtureRequest) -> Entry:
    return request.param
