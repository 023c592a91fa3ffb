"""User code that a type checker must accept. It is checked, not run."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsens import Untrained, compare, measure
from jaxsens.adapters import Adapted, from_function, from_nnx
from jaxsens.measuring import Comparison, Measurements
from jaxsens.metrics import input_jacobian_norm, output_sensitivity, tangent_sensitivity
from jaxsens.models import build, fully_connected
from jaxsens.stats import auroc
from jaxsens.types import Estimate


def f(params: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ params["hidden"]) @ params["output"]


key = jax.random.key(0)
params = {"hidden": jnp.ones((4, 5)), "output": jnp.ones((5, 3))}
xs = jnp.ones((10, 4))

S: Estimate = output_sensitivity(f, params, xs, key=key, noise_std=0.1)
value: jax.Array = jnp.asarray(S.value)
norms: jax.Array = input_jacobian_norm(f, params, xs)
tangents = tangent_sensitivity(f, params, xs, outputs="all")

measured: Measurements = measure(f, params, np.ones((10, 4), np.float32), key=key, measures=["entropy"])
entropy: float = measured["entropy"].value
stderr: float | None = measured["entropy"].stderr

adapted: Adapted = from_nnx(nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
g, weights = from_function(f, params)
ranking: Comparison = compare({"a": (f, params), "b": adapted, "c": (g, weights)}, xs, key=key)
ranks: list[int | None] = [row.best_rank for row in ranking]
untrained = compare(
    {"a": Untrained(f, lambda key: params), "b": Untrained(f, lambda key: params)}, xs, key=key
)

network = build(fully_connected(2, 10), input_shape=(4,), num_outputs=3)
start, state = network.init(key)
jacobians = jax.vmap(lambda start: input_jacobian_norm(network.function(state), start, xs))(start)
area = auroc(np.ones(4), np.array([True, False, True, False]))
