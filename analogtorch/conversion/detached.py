"""Tensors with a history of gradients, which ``copy.deepcopy`` refuses, for copies of models."""

from torch import Tensor, nn

from analogtorch.conversion.weights import tensors


def detached(model: nn.Module) -> dict[int, Tensor]:
    """Return what a copy of a model holds in place of results that its modules keep, by ``id``.

    Pruning and the weight norm of ``torch.nn.utils`` keep a weight that is computed from
    Parameters, and compute it anew in each run; other modules keep outputs of their last run.
    Make the copy with ``copy.deepcopy(model, detached(model))``.
    """
    kept = (t for module in model.modules() for t in tensors(vars(module)))
    return {id(t): t.detach().clone() for t in kept if not t.is_leaf}
