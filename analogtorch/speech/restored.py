"""The state of a calibrated network, from the file in which a run has kept it."""

from pathlib import Path

import torch
from torch import nn

from analogtorch.files import digest_of, unpacked


def restore(network: nn.Module, path: Path, digest: str | None) -> None:
    """Give a converted network the state that it had when it was calibrated.

    Args:
        network: the network, with its weights.
        path: the file.
        digest: SHA-256 of the file; None: it is not known.

    Raises:
        ValueError: the file is damaged, or of other weights.
    """
    other = ValueError(
        f"{path} is damaged, or of another network; copy that of the run back, or remove it to "
        "calibrate again"
    )
    if digest not in (None, digest_of(path)):
        raise other
    matrices = {name: p for name, p in network.named_parameters() if p.dim() > 1}
    try:
        state = unpacked(path)
        if not all(torch.equal(p, state[name]) for name, p in matrices.items()):
            raise other  # the network was trained anew since
        network.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError, LookupError) as error:
        raise other from error
