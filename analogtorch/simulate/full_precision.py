"""No autocast while a chip is written, ages and is read: a seed is one chip wherever it is made."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Switch ``torch.autocast`` off inside the context, or in a function that this decorates."""
    with contextlib.ExitStack() as stack:
        for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
