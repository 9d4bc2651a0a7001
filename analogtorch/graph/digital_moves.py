"""Operators that move numbers: those that only do, and those that add them where they put them."""

import math
from typing import Any

import torch
from torch import Tensor

from analogtorch.graph.sizes import numbers

_NAMES = """
    view reshape permute transpose t flatten unflatten unsqueeze squeeze expand expand_as select
    slice chunk split split_with_sizes unbind getitem contiguous clone detach to _to_copy
    type_as alias dropout feature_dropout alpha_dropout cat concat concatenate stack pad
    constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d roll flip fliplr flipud rot90 index index_select gather
    take take_along_dim narrow movedim swapaxes lift_fresh_copy pixel_shuffle pixel_unshuffle
    channel_shuffle repeat repeat_interleave tile copy view_as unfold im2col slice_scatter
    select_scatter diagonal_scatter masked_scatter masked_fill index_fill index_copy fill
    numpy_T mT mH matrix_H adjoint tensor_split hsplit meshgrid _assert_tensor_metadata
    _assert_async tril triu diagonal diag diag_embed block_diag expand_dims where masked_select
    ravel swapdims moveaxis broadcast_to hstack vstack dstack column_stack vsplit dsplit
    atleast_1d atleast_2d atleast_3d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d max_unpool2d
    max_unpool3d view_as_complex view_as_real real imag complex _conj _neg_view resolve_conj
    resolve_neg fft_fftshift fft_ifftshift sym_size item _local_scalar_dense lift_fresh
    _pack_padded_sequence _pad_packed_sequence
"""
_FREE = frozenset(_NAMES.split())

_PUT = {
    "scatter": "index",
    "scatter_add": "index",
    "scatter_reduce": "index",
    "index_add": "source",
    "index_reduce": "source",
    "index_put": "values",
    "_unsafe_index_put": "values",
    "put": "index",
    "segment_reduce": "data",
    "col2im": "self",
}
"""The argument that has a number for each that is put; where several meet they may be added."""


def moves(name: str, arguments: dict[str, Any], output: Any) -> bool:
    """Return whether an operation only moves numbers.

    It is left out of the mapping; what it moves comes from where it was computed.

    Args:
        name: name of the operator.
        arguments: its arguments by name, with (fake) tensors.
        output: its result.
    """
    if name == "einsum":
        factors = arguments["tensors"]
        return len(factors) == 1 and numbers(factors[0]) == numbers(output)
    if name in ("index_put", "_unsafe_index_put", "put"):
        return not arguments.get("accumulate")
    if name == "scatter":
        return arguments.get("reduce") is None
    return name in _FREE


def added(name: str, arguments: dict[str, Any], output: Any) -> int | None:
    """Return the operations of an operator that adds where it puts; None for others.

    Arguments are those of ``moves``. Products, largest and smallest numbers count as sums, and so
    does each number of a mean's quotients.
    """
    if name not in _PUT:
        return None
    put = arguments[_PUT[name]]
    count = numbers(put)
    if _PUT[name] == "index" and arguments["self"].is_complex():
        count *= 2
    if name in ("index_put", "_unsafe_index_put"):
        count = max(count, _places(arguments["self"], arguments["indices"]))
    scaled = name == "index_add" and arguments.get("alpha", 1) != 1
    mean = arguments.get("reduce") == "mean"
    return count * (2 if scaled else 1) + (numbers(output) if mean else 0)


def _places(of: Tensor, indices: Any) -> int:
    """Return how many numbers indices select; of masks, whose count depends on data, none."""
    given = [i for i in indices if i is not None]
    if any(i.dtype.itemsize == 1 for i in given):
        return 0
    kept = [size for d, size in enumerate(of.shape) if d >= len(indices) or indices[d] is None]
    places = torch.broadcast_shapes(*(i.shape for i in given)).numel() * math.prod(kept)
    return places * (2 if of.is_complex() else 1)
