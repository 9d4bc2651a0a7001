"""The command line: one file a command."""

__all__: list[str] = []  # a command imports what it needs when it runs
