"""A value without a renderer is an error that names the remedy."""

import pytest

from analogtorch.files.figures import draw
from analogtorch.values.shown import as_html, as_text


@pytest.mark.parametrize("show", [as_text, as_html, draw])
def test_a_type_without_a_renderer_is_named(show) -> None:
    with pytest.raises(
        TypeError, match=r"no renderer is registered for int: import analogtorch\.report"
    ):
        show(3)
