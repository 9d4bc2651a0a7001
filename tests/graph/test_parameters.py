import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from analogtorch.graph.parameters import named_parameters, once


class Scaled(nn.Module):
    """A parametrization with a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 3)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return self.mix(weight)


def test_layers_of_parameters_whatever_computes_the_weight() -> None:
    model = nn.ModuleDict(
        {
            "plain": nn.Linear(3, 3),
            "normed": parametrizations.weight_norm(nn.Linear(3, 3)),
            "pruned": prune.identity(nn.Linear(3, 3), "weight"),
            "scaled": nn.Linear(3, 3),
            "attention": nn.MultiheadAttention(4, 1),
        }
    )
    parametrize.register_parametrization(model["scaled"], "weight", Scaled())
    parametrize.register_parametrization(model["attention"], "in_proj_weight", nn.Identity())
    layers = {entry.name: entry.layer for entry in named_parameters(model)}
    assert layers.keys() == dict(model.named_parameters()).keys()
    assert {name: layer for name, layer in layers.items() if "bias" not in name} == {
        "plain.weight": "plain",
        "normed.parametrizations.weight.original0": "normed",
        "normed.parametrizations.weight.original1": "normed",
        "pruned.weight_orig": "pruned",
        "scaled.parametrizations.weight.original": "scaled",
        "scaled.parametrizations.weight.0.mix.weight": "scaled",
        "attention.parametrizations.in_proj_weight.original": "attention.in_proj_weight",
        "attention.out_proj.weight": "attention.out_proj",
    }
    assert layers["plain.bias"] == "plain.bias"
    (inner,) = (entry for entry in named_parameters(model) if entry.name.endswith("mix.weight"))
    assert inner.modules == (
        "",
        "scaled",
        "scaled.parametrizations",
        "scaled.parametrizations.weight",
        "scaled.parametrizations.weight.0",
        "scaled.parametrizations.weight.0.mix",
    )


def test_shared_parameters_have_all_their_names_and_count_once() -> None:
    model = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 3, bias=False))
    model[1].weight = model[0].weight
    model.add_module("again", model[1])
    assert [(entry.name, entry.layer) for entry in named_parameters(model)] == [
        ("0.weight", "0"),
        ("1.weight", "1"),
        ("again.weight", "again"),
    ]
    assert list(once(named_parameters(model))) == ["0.weight"]
    assert named_parameters(nn.Linear(2, 3))[0].layer == "(root)"
