"""Rules that every room shares: checks of arguments, documentation of fields, display of values."""

from analogtorch.values import checks, fields, shown, version

__all__ = ["checks", "fields", "shown", "version"]
