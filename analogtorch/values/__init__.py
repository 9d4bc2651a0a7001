"""Rules that every room shares: checks of arguments, documentation of fields, sources of numbers,
display of values.
"""

from analogtorch.values import checks, fields, shown, sources, version

__all__ = ["checks", "fields", "shown", "sources", "version"]
