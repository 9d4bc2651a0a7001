"""The commands of the command line, one file each."""

__all__: list[str] = []  # a command imports what it needs when it runs
