"""jaxsens: what a network's sensitivity tells about how well it generalises.

`import jaxsens.metrics` is all that a project with its own models needs.
"""

__version__ = "0.1.0"
