"""Measure a trained network, or compare several, in one call: values with error bars, as a table.

result = measure(f, params, xs, key=jax.random.key(0))
ranking = compare({"a": (f, params), "b": (g, others)}, xs, key=jax.random.key(0))
"""

from jaxsens.measuring.compare import Untrained, compare
from jaxsens.measuring.comparison import Comparison, Pair, Ranked
from jaxsens.measuring.measure import measure
from jaxsens.measuring.registry import MEASURES
from jaxsens.measuring.results import Measurement, Measurements
from jaxsens.measuring.specs import MeasureSpec

__all__ = [
    "MEASURES",
    "Comparison",
    "MeasureSpec",
    "Measurement",
    "Measurements",
    "Pair",
    "Ranked",
    "Untrained",
    "compare",
    "measure",
]
