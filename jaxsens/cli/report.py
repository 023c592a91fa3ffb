"""`jaxsens report`: a results folder as one HTML page."""

from jaxsens.cli.options import Report
from jaxsens.report import write_report

__all__ = ["run"]


def run(options: Report) -> int:
    """Writes the page and prints its path."""
    print(write_report(options.folder, options.out))
    return 0
