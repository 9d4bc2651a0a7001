"""What every value and every call shares: checks of what is given, documentation of fields, how a
value is shown.
"""

from analogtorch.values import checks, fields, shown, version

__all__ = ["checks", "fields", "shown", "version"]
