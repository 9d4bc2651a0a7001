"""The output folder of a run: its configuration, checkpoints and weights."""

import dataclasses
import io
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from analogtorch.report import write_atomically
from analogtorch.speech.config import KWSConfig

logger = logging.getLogger("analogtorch")

CONFIG = "config.json"
_OWN = ("checkpoints/*.ckpt", "*.pt", "report.json", "report.md", "accuracy.png")
_UNFINISHED = ("checkpoints/.*.part", ".*.part")  # what a killed process was writing
_FREE = ("workers",)  # settings that may change between the parts of a run


@dataclass(frozen=True)
class RunFolder:
    """Made by ``open``."""

    path: Path
    resume: bool
    """Whether what is in the folder is to be continued."""

    @classmethod
    def open(cls, out: str | Path, config: KWSConfig, *, resume: bool) -> "RunFolder":
        """Claim the folder for a run of ``config``: files of an earlier run are removed, or, to resume, compared.

        Raises:
            ValueError: the run to resume has another configuration.
            OSError: the folder cannot be written.
        """
        path = Path(out).expanduser()
        file = path / CONFIG
        resume = resume and file.is_file()
        wanted = json.loads(json.dumps(dataclasses.asdict(config)))
        if resume:
            _compare(file, wanted)
            logger.info("resuming the run in %s", path)
        for pattern in _UNFINISHED if resume else (*_UNFINISHED, *_OWN):
            for old in path.glob(pattern):
                old.unlink()
        if not resume:
            write_atomically(file, json.dumps(wanted, indent=2) + "\n")
        return cls(path, resume)

    def checkpoint(self, name: str) -> Path:
        """Where the phase ``name`` keeps its state."""
        return self.path / "checkpoints" / f"{name}.ckpt"

    def save(self, name: str, network: nn.Module) -> None:
        """The network's state_dict as ``name``.pt, for ``torch.load(weights_only=True)``."""
        buffer = io.BytesIO()
        torch.save(network.state_dict(), buffer)
        write_atomically(self.path / f"{name}.pt", buffer.getvalue())


def _compare(file: Path, wanted: dict[str, Any]) -> None:
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); start anew without --resume") from error
    before, after = dict(_flat(found)), dict(_flat(wanted))
    changed = [
        f"{key} was {before.get(key, 'absent')!r} and is {after.get(key, 'absent')!r}"
        for key in sorted(before.keys() | after.keys())
        if key not in _FREE and before.get(key) != after.get(key)
    ]
    if changed:
        raise ValueError(
            f"the run in {file.parent} has another configuration: {'; '.join(changed[:5])}. "
            "Resume with the same settings, or start anew without --resume or in another folder"
        )


def _flat(tree: Any, prefix: str = "") -> Any:
    if not isinstance(tree, dict):
        yield prefix, tree
        return
    for key, value in tree.items():
        yield from _flat(value, f"{prefix}.{key}" if prefix else key)
