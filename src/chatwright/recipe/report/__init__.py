"""The report of a run: one HTML file that opens offline. Not for machines; those read `summary` and `scores.json`."""

from chatwright.recipe.report.beside import write_comparison
from chatwright.recipe.report.page import write_report

__all__ = ["write_comparison", "write_report"]
