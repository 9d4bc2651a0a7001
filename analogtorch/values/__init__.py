"""Rules of every room: checks of arguments, documentation of fields, display, sources, version."""

from analogtorch.values import checks, fields, shown, sources, version

__all__ = ["checks", "fields", "shown", "sources", "version"]
