"""User code that a type checker must refuse: one error in each line that says so. It is checked, not run."""

import jax
import jax.numpy as jnp

from jaxsens import compare, measure
from jaxsens.adapters import from_nnx
from jaxsens.metrics import input_jacobian_norm, output_sensitivity


def f(params: jax.Array, x: jax.Array) -> jax.Array:
    return x @ params


key = jax.random.key(0)
params, xs = jnp.ones((4, 3)), jnp.ones((10, 4))

output_sensitivity(f, params, xs)  # error: without a key
output_sensitivity(f, params, xs, key=key, noise="0.1")  # error: an unknown option
output_sensitivity(f, params, xs, key=key, noise_std="0.1")  # error: a text for a number
input_jacobian_norm(params, f, xs)  # error: in the wrong order
measure(f, params, xs, key=key, measures=3)  # error: a number for names
mean = measure(f, params, xs, key=key)["entropy"].mean  # error: an unknown attribute
compare([f, f], xs, key=key)  # error: no names
from_nnx(f)  # error: no module
