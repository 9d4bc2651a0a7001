"""nn.MultiheadAttention on an analog chip: its projections run on tiles, the attention is digital.

Queries, keys and values are multiplied by each other: ``q k^T``, the softmax and the product with
``v`` contain no weights and stay digital. Fast paths of torch, which read weights without calling
layers, never run.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.nn.adapters import BASE
from analogtorch.nn.composite import AnalogComposite, MatrixNames
from analogtorch.nn.linear import AnalogLinear
from analogtorch.nn.traced import Proxy, whole


class AnalogMultiheadAttention(AnalogComposite, nn.MultiheadAttention):
    """``nn.MultiheadAttention`` whose projections run on a chip; ``convert`` makes it.

    It has every option of ``nn.MultiheadAttention``, but takes no nested tensors.

    If query, key and value have one width, ``in_proj_weight`` is one matrix with one DAC range.
    Self-attention reads all its columns in one MVM; other attention reads the columns of query, key
    and value in separate MVMs. Otherwise each of the three has its own matrix. In training the
    weight noise is drawn once per forward. ``out_proj`` is called as a layer.
    """

    digital = nn.MultiheadAttention

    def all_matrices(self) -> Iterator[MatrixNames]:
        """Yield the matrix of query, key and value, or one for each of them."""
        if not self._qkv_same_embed_dim:
            # a bias of thirds: see forward
            yield from (MatrixNames(f"{kind}_proj", f"{kind}_proj_weight") for kind in "qkv")
            return
        e = self.embed_dim
        runs = slice(0, e), slice(e, 2 * e), slice(2 * e, 3 * e), slice(e, 3 * e)
        yield MatrixNames("in_proj", "in_proj_weight", "in_proj_bias", runs)

    @classmethod
    def refuses(cls, layer: nn.Module) -> str | None:
        """Return why ``layer`` cannot become analog; None if it can.

        The reasons are an output projection that is no linear layer, and a child with a name that
        analog layers use.
        """
        projection = getattr(layer, "out_proj", None)
        linear = nn.Linear.forward, AnalogLinear.forward
        plain = getattr(type(projection), "forward", None) in linear
        if not plain or "forward" in vars(projection):
            adapted = BASE in getattr(projection, "_modules", ())
            return (
                f"its out_proj is a {type(projection).__name__}, "
                f"whose forward {type(layer).__name__} does not call"
                + ("; call convert before it gets adapters" if adapted else "")
            )
        taken = [each.child for each in cls.all_matrices(layer) if hasattr(layer, each.child)]  # type: ignore[arg-type]
        return f"it has its own {taken[0]!r}, a name that analog layers use" if taken else None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute as ``nn.MultiheadAttention``: the same arguments, shapes and results.

        Raises:
            TypeError: an input is a nested tensor, or a mask is neither boolean nor floating point.
            ValueError: the shapes do not fit the layer or each other, or ``is_causal`` is given
                without its ``attn_mask``.
        """
        if isinstance(query, Proxy):
            options = {
                "key_padding_mask": key_padding_mask,
                "need_weights": need_weights,
                "attn_mask": attn_mask,
                "average_attn_weights": average_attn_weights,
                "is_causal": is_causal,
            }
            return whole(self, query, key, value, **options)
        self.refuse_changed()
        batched = self._check(query, key, value)
        q = self._batch_first(query, batched)
        k = q if key is query else self._batch_first(key, batched)
        v = k if value is key else self._batch_first(value, batched)
        padding = _additive("key_padding_mask", key_padding_mask, query.dtype)
        # then the hint replaces the mask
        causal = is_causal and padding is None and not need_weights
        if is_causal and attn_mask is None:
            raise ValueError(
                f"layer {self.layer_name!r}: is_causal is a hint about attn_mask; pass the mask "
                "too, such as nn.Transformer.generate_square_subsequent_mask(length)"
            )
        mask = _additive("attn_mask", attn_mask, query.dtype)
        sizes = (q.shape[0] if batched else None, q.shape[1], k.shape[1])
        self._check_masks(mask, key_padding_mask, sizes)
        mask = self._joined(None if causal else mask, padding, q.shape[0])
        q, k, v = self._projected(q, k, v)
        k, v = self._extended(k, self.bias_k), self._extended(v, self.bias_v)
        heads = (self.num_heads, self.head_dim)
        q, k, v = (x.unflatten(-1, heads).transpose(1, 2) for x in (q, k, v))
        y, weights = self._attend(q, k, v, mask, causal, need_weights)
        y = self.out_proj(y.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return y.squeeze(0), None if weights is None else weights.squeeze(0)
        return y if self.batch_first else y.transpose(0, 1), weights

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> bool:
        """Return whether the inputs have a batch dimension; check their shapes."""
        inputs = {
            "query": (query, self.embed_dim),
            "key": (key, self.kdim),
            "value": (value, self.vdim),
        }
        for name, (x, width) in inputs.items():
            if x.is_nested:
                raise TypeError(
                    f"layer {self.layer_name!r} takes no nested tensors, got one as {name}; pass a "
                    "padded tensor (torch.nested.to_padded_tensor) and a key_padding_mask"
                )
            if x.dim() != query.dim() or x.dim() not in (2, 3) or x.shape[-1] != width:
                form = "(N, L, {0})" if self.batch_first else "(L, N, {0})"
                raise ValueError(
                    f"layer {self.layer_name!r} takes a {name} of shape {form.format(width)}, or "
                    f"all without N; got {tuple(x.shape)} beside a query of {tuple(query.shape)}"
                )
        batched, batch = query.dim() == 3, 0 if self.batch_first else 1
        if key.shape[:-1] != value.shape[:-1] or (
            batched and key.shape[batch] != query.shape[batch]
        ):
            raise ValueError(
                f"layer {self.layer_name!r} takes as many keys as values, and batches of one size; "
                f"got query, key and value of {tuple(query.shape)}, {tuple(key.shape)}, "
                f"{tuple(value.shape)}"
            )
        return batched

    def _check_masks(
        self, mask: Tensor | None, padding: Tensor | None, sizes: tuple[int | None, int, int]
    ) -> None:
        """Check the masks' shapes; ``sizes``: batch (None: no batch), queries, keys."""
        batch, length, source = sizes
        heads = self.num_heads * (1 if batch is None else batch)
        pairs: list[tuple[str, Tensor | None, list[tuple[int, ...]]]] = [
            ("key_padding_mask", padding, [(source,) if batch is None else (batch, source)]),
            ("attn_mask", mask, [(length, source), (heads, length, source)]),
        ]
        for name, given, shapes in pairs:
            if given is not None and tuple(given.shape) not in shapes:
                allowed = " or ".join(map(str, shapes))
                raise ValueError(
                    f"layer {self.layer_name!r} takes a {name} of {allowed}, "
                    f"got {tuple(given.shape)}"
                )

    def _batch_first(self, x: Tensor, batched: bool) -> Tensor:
        """Return ``x`` as (N, L, E), so that the output noise counts sample by sample."""
        if not batched:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def _joined(self, mask: Tensor | None, padding: Tensor | None, batch: int) -> Tensor | None:
        """Return both masks as one that broadcasts to (N, heads, L, S).

        The keys that ``_extended`` adds are not masked.
        """
        if mask is not None and mask.dim() == 3:
            mask = mask.unflatten(0, (batch, self.num_heads))
        elif mask is not None:
            mask = mask[None, None]
        if padding is not None:
            padding = padding.view(batch, 1, 1, -1)
            mask = padding if mask is None else mask + padding
        extra = (self.bias_k is not None) + self.add_zero_attn
        return F.pad(mask, (0, extra)) if mask is not None and extra else mask

    def _extended(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return keys or values (N, S, E) with the learnt one and the zeros appended, if any."""
        parts = [x]
        if bias is not None:
            parts.append(bias.expand(x.shape[0], -1, -1))
        if self.add_zero_attn:
            parts.append(x.new_zeros(x.shape[0], 1, x.shape[2]))
        return x if len(parts) == 1 else torch.cat(parts, 1)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the attention of the heads (N, heads, L, E / heads), and its weights.

        It is digital. The weights are None unless ``need_weights``.
        """
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(q, k, v, mask, dropout, causal), None
        scores = (q * math.sqrt(1.0 / self.head_dim)) @ k.transpose(-2, -1)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        if dropout:
            weights = F.dropout(weights, dropout)
        return weights @ v, weights

    # the projections

    def _projected(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        if not self._qkv_same_embed_dim:
            inputs = zip("qkv", (q, k, v), strict=True)
            made = tuple(self.matrix(f"{kind}_proj")(x) for kind, x in inputs)
            if self.in_proj_bias is None:
                return made
            biases = zip(made, self.in_proj_bias.chunk(3), strict=True)
            return tuple(y + b.to(y.dtype) for y, b in biases)
        matrix = self.matrix("in_proj")
        if q is k and k is v:
            return matrix(q).chunk(3, -1)
        e, keys = self.embed_dim, matrix.draw(q)
        of_q, of_k = self._samples(matrix, q, k)
        query = matrix(q, keys, of_q, slice(0, e))
        if k is v:
            return query, *matrix(k, keys, of_k, slice(e, 3 * e)).chunk(2, -1)
        key = matrix(k, keys, of_k, slice(e, 2 * e))
        return query, key, matrix(v, keys, of_k, slice(2 * e, 3 * e))

    def _samples(self, matrix: Any, q: Tensor, k: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the numbers of the query and key vectors in the output noise.

        Both begin at the same number, as they use different columns.
        """
        batch, most = q.shape[0], max(q.shape[1], k.shape[1])
        numbers = matrix.number(q, batch * most, batch)
        if numbers is None:
            return None, None
        numbers = numbers.view(batch, most)
        return numbers[:, : q.shape[1]].flatten(), numbers[:, : k.shape[1]].flatten()


def _additive(name: str, mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return the mask to add to the scores: -inf where a boolean mask is True."""
    if mask is None or mask.is_floating_point():
        return mask
    if mask.dtype != torch.bool:
        raise TypeError(
            f"{name} must be boolean or floating point, got {mask.dtype}; for 0 and 1 call .bool() "
            "on it"
        )
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))
