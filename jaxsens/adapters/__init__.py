"""A trained model of any library as the pair `(f, params)` that the measures take."""

from jaxsens.adapters.adapted import Adapted
from jaxsens.adapters.equinox import from_equinox
from jaxsens.adapters.flax import from_linen, from_nnx
from jaxsens.adapters.functions import from_function
from jaxsens.adapters.haiku import from_haiku
from jaxsens.adapters.torch import from_torch

__all__ = [
    "Adapted",
    "from_equinox",
    "from_function",
    "from_haiku",
    "from_linen",
    "from_nnx",
    "from_torch",
]
