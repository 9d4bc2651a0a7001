"""An extension of Griffe, which reads the docstrings for the API reference."""

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Shows the section ``Example:`` as code, and functions named like their module."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename ``Example:``, which Griffe takes for a remark, to ``Examples:``."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        """Let ``at.sweep`` be the function, although a module ``sweep`` holds it."""
        for name, member in list(pkg.members.items()):
            path = getattr(member, "target_path", "")
            found = (
                loader.modules_collection.get_member(path)
                if path.startswith(f"{pkg.name}.")
                else None
            )
            if found is not None and found.is_module and name in found.members:
                pkg.set_member(name, griffe.Alias(name, f"{path}.{name}", parent=pkg))
