"""What every figure is drawn with."""

import torch

import analogtorch as at


def test_names_between_dollars_are_no_formulas() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 2))
    at.convert(model, at.chips.hermes64())

    def money(chip: torch.nn.Module) -> float:
        return float(chip(torch.ones(1, 4)).sum())

    money.__name__ = "$a{, in $"  # a formula that matplotlib cannot read
    figure = at.sweep(model, money, num_chips=2).plot()
    figure.draw_without_rendering()
    assert figure.axes[0].get_ylabel() == money.__name__


def test_names_of_layers_between_dollars_are_no_formulas() -> None:
    name = "$a{, in $"
    model = torch.nn.Sequential()
    model.add_module(name, torch.nn.Linear(4, 2))
    at.convert(model, at.chips.hermes64())
    found = at.sensitivity(model, lambda m: float(m(torch.ones(1, 4)).sum()), num_chips=1)
    figure = found.plot()
    figure.draw_without_rendering()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [name]
