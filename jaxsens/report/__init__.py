"""A results folder as one HTML page to look at: plots, tables, pictures, what was run. Imports no JAX."""

from jaxsens.report.page import write_report

__all__ = ["write_report"]
