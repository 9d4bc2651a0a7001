"""The settings of a run as options of the command line."""

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any


def options(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and value of each setting, as a shell takes them."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value and name not in ("options", "ablation"):
            yield from options(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            yield f"{prefix}{name}", shlex.quote(text)
