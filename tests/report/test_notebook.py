"""What notebooks show of results: they call ``_repr_html_``, and never ``str``."""

import pickle

import torch
from torch import nn

import analogtorch as at
from analogtorch.values.shown import as_text


def test_every_value_with_a_text_has_html() -> None:
    kinds = [kind for kind in as_text.registry if kind is not object]
    assert {at.ChipMapping, at.hwa.Adapted, at.Sweep} <= {*kinds}
    assert not [k.__name__ for k in kinds if not hasattr(k, "_repr_html_")]
    for kind in (at.Summary, at.GuardReport):
        assert hasattr(kind, "_repr_html_")


def test_a_text_is_shown_as_it_is_printed() -> None:
    net = nn.Sequential(nn.Linear(8, 4))
    mapping = at.map_to_chip(net, torch.zeros(1, 8), chip=at.chips.hermes64())
    for value in (mapping, at.cost(mapping)):
        page = value._repr_html_()
        assert page.startswith("<pre>")
        assert page.endswith("</pre>")
        assert str(value).splitlines()[0] in page


def test_a_plot_shows_itself_in_a_notebook() -> None:
    model = at.convert(nn.Sequential(nn.Linear(8, 4)), at.chips.hermes64())
    figure = at.map_to_chip(model, torch.zeros(1, 8)).plot()
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert pickle.loads(pickle.dumps(figure))._repr_png_().startswith(b"\x89PNG")
