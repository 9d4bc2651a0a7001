"""How to repeat what a report shows: the command, and every setting that it had."""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from analogtorch.report.page.parts import Code, Facts, Part, Section


def repeat_section(
    facts: Iterable[tuple[str, str]], command: str, config: Mapping[str, Any]
) -> Section:
    """Return the section of the facts that are not empty, the command and the configuration."""
    parts: list[Part] = [Facts(tuple((name, text) for name, text in facts if text))]
    if command:
        caption = "The command, in the folder in which the run was started"
        parts.append(Code(caption=caption, text=command))
    if config:
        lines = "\n".join(f"--{key} {value}" for key, value in _options(config))
        parts.append(Code(caption="The exact configuration", text=lines, folded=True))
    return Section("How to repeat it", tuple(parts))


def _options(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and value of each setting, as a shell takes them."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value and name not in ("options", "ablation"):
            yield from _options(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            yield f"{prefix}{name}", shlex.quote(text)
