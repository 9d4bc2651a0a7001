"""A Llama made ready for a chip: scales of channels move into weights, and what ADCs would clip.

A few channels of a language model are many times larger than the others. They set the DAC range of
every vector, and the errors of their cells outweigh those of all others. SmoothQuant (Xiao et al.,
ICML 2023, arXiv 2211.10438) divides each channel by a factor, and multiplies the column of weights
that it meets by the same. The digital model stays the same: the norm before takes the factors, or
the layer that made the channels.

The errors of cells in an output grow with ``||x|| ||w||``, over inputs ``x`` and weights ``w`` of a
row of the matrix. By Cauchy and Schwarz that is least if channel ``j`` has the factor
``sqrt(|x_j| / |w_j|)``, SmoothQuant's strength of 1/2.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import analogtorch as at

Forward = Callable[[nn.Module, Tensor], Any]
LEAST = 1e-3
"""Smallest channel in units of the mean: one that is always zero needs no factor."""
CLIPPED = 0.25
"""Relative error of the output for an input vector from which on the ADC must have clipped it:
8 bits make errors of a percent."""


@torch.no_grad()
def smooth(model: Any, batches: Iterable[Tensor], forward: Forward) -> None:
    """Move scales of channels into the weights of a Llama, in place.

    A head that is tied to the embedding gets weights of its own, as it has cells of its own on a
    chip.

    Args:
        model: a ``LlamaForCausalLM``. Its outputs stay the same but for rounding.
        batches: tokens, to measure the size of each channel.
        forward: runs the model on a batch.
    """
    sizes = _sizes(model, batches, forward)
    shared = model.config.num_attention_heads // model.config.num_key_value_heads
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        readers = [attention.q_proj, attention.k_proj, attention.v_proj]
        _move(_factors(sizes, readers), layer.input_layernorm, readers)
        readers = [mlp.gate_proj, mlp.up_proj]
        _move(_factors(sizes, readers), layer.post_attention_layernorm, readers)
        _move(_factors(sizes, [mlp.down_proj]), mlp.up_proj, [mlp.down_proj])
        # the heads that share values share their factors
        factors = _factors(sizes, [attention.o_proj]).log()
        factors = factors.view(-1, shared, attention.head_dim).mean(1, keepdim=True).exp()
        attention.v_proj.weight /= factors.view(-1, 1)
        attention.o_proj.weight *= factors.expand(-1, shared, -1).flatten()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone())
    _move(_factors(sizes, [model.lm_head]), model.model.norm, [model.lm_head])


@torch.no_grad()
def clipped(
    model: nn.Module, chip: at.Chip, batches: Iterable[Tensor], forward: Forward
) -> list[str]:
    """Return the names of the linear layers whose ADCs clip the product of some input vector.

    On a chip with weight expansion these are layers that write or read the massive activations of
    a language model (Sun et al., COLM 2024, arXiv 2402.17762). There one channel of an input meets
    one large weight: a single product, but, expanded, a sum of as many alike as there are rows.
    """
    largest = dict.fromkeys(_linear(model), 0.0)

    def look(layer: nn.Linear, x: Tensor, y: Tensor) -> None:
        copy = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        copy.weight, copy.bias = layer.weight, layer.bias
        off = at.convert(copy.eval(), chip)(x) - y
        error = (off.norm(dim=1) / y.norm(dim=1).clamp_min(1e-30)).max().item()
        largest[layer] = max(largest[layer], error)

    _run(model, batches, forward, look)
    found = {layer for layer, error in largest.items() if error > CLIPPED}
    return [name for name, layer in model.named_modules() if layer in found]


def _move(factors: Tensor, writer: Any, readers: Sequence[nn.Linear]) -> None:
    """Divide the outputs of ``writer`` by factors, which the weights of ``readers`` take."""
    writer.weight /= factors.view(-1, *[1] * (writer.weight.dim() - 1))
    for reader in readers:
        reader.weight *= factors


def _factors(sizes: dict[nn.Module, Tensor], readers: Sequence[nn.Linear]) -> Tensor:
    """Return the factor of each channel that these layers read, of geometric mean 1."""
    rows = torch.cat([layer.weight / layer.weight.norm(dim=1, keepdim=True) for layer in readers])
    x, w = (t.clamp_min(LEAST * t.mean()) for t in (sizes[readers[0]], rows.norm(dim=0)))
    factors = (x / w).sqrt()
    return factors / factors.log().mean().exp()


def _sizes(
    model: nn.Module, batches: Iterable[Tensor], forward: Forward
) -> dict[nn.Module, Tensor]:
    """Return the size of each channel of each linear layer's input.

    Vectors count alike, whatever their length: it is the relative error of each that matters.
    """
    squares: dict[nn.Module, Tensor] = {}

    def look(layer: nn.Module, x: Tensor, y: Tensor) -> None:
        found = (x / x.norm(dim=1, keepdim=True).clamp_min(1e-30)).square().sum(0)
        squares[layer] = squares[layer] + found if layer in squares else found

    _run(model, batches, forward, look)
    return {layer: found.sqrt() for layer, found in squares.items()}


def _run(
    model: nn.Module,
    batches: Iterable[Tensor],
    forward: Forward,
    look: Callable[[Any, Tensor, Tensor], None],
) -> None:
    """Run the model; ``look`` gets each linear layer with its inputs and outputs, as vectors."""

    def hook(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        look(layer, inputs[0].flatten(0, -2), output.flatten(0, -2))

    with contextlib.ExitStack() as hooks:
        for layer in _linear(model):
            hooks.callback(layer.register_forward_hook(hook).remove)
        for batch in batches:
            forward(model, batch)


def _linear(model: nn.Module) -> Iterator[nn.Linear]:
    return (layer for layer in model.modules() if isinstance(layer, nn.Linear))
