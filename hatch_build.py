"""Compile the CPU kernels into the wheel, or beside the sources of an editable installation.

Without a C compiler the wheel is pure Python: correct, slower, and analogtorch says so once.
"""

import runpy
import sysconfig
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):
    """Called by hatchling for every wheel."""

    def initialize(self, version: str, build_data: dict) -> None:
        """Build the libraries; name them and the platform to hatchling."""
        build = runpy.run_path(str(Path(self.root, "analogtorch/ops/native/build.py")))
        try:
            libraries = build["build"]()
        except OSError as error:
            self.app.display_warning(f"analogtorch without CPU kernels: {error}")
            return
        build_data["artifacts"] += [f"/{library.relative_to(self.root)}" for library in libraries]
        build_data["pure_python"] = False
        # plain C behind ctypes: any Python will do
        build_data["tag"] = (
            f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        )
