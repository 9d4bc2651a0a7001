"""What a run found: a table, a plot, JSON and Markdown."""

from analogtorch.files import write_atomically
from analogtorch.report.plot import plot
from analogtorch.report.result import ISO, Result
from analogtorch.report.text import markdown, table
from analogtorch.report.write import FILES, write

__all__ = ["FILES", "ISO", "Result", "markdown", "plot", "table", "write", "write_atomically"]
