"""Does a measure as a penalty help? The figures of regularise.md, as penalties.csv.

    python docs/how-to/penalties.py      # four minutes on 2 cores

Perceptrons of 64 units on 100 digits, with all labels right or a quarter of them wrong, 20 seeds. The
strength is chosen by the accuracy on 400 further digits, and the accuracy is that on the 797 test digits.
Gains are over no penalty, seed by seed; standard errors are over seeds.
"""

import csv
import importlib.metadata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxsens.data import load
from jaxsens.metrics import input_jacobian_norm, jacobian_norms, linearized_output_sensitivity

OUT = Path(__file__).with_suffix(".csv")
SEEDS, EXAMPLES, HELD_OUT, WIDTH, STEPS, RATE = 20, 100, 400, 64, 300, 0.003


def f(params: Any, x: Array) -> Array:
    """One example to 10 logits."""
    return jax.nn.relu(x.ravel() @ params["hidden"]) @ params["output"]


def sensitivity(average: str) -> Callable[[Any, Array], Array]:
    """S in its small-noise limit."""
    return lambda params, xs: linearized_output_sensitivity(f, params, xs, noise_std=1.0, average=average)


PENALTIES: dict[str, tuple[Callable[[Any, Array], Array], tuple[float, ...]]] = {
    "none": (lambda params, xs: jnp.zeros(()), (0.0,)),
    "jacobian_norm": (
        lambda params, xs: jnp.mean(input_jacobian_norm(f, params, xs) ** 2),
        (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    ),
    "sensitivity_centred": (sensitivity("centred"), (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)),
    "sensitivity_mean": (sensitivity("mean"), (1e-3, 1e-2, 0.1, 1.0, 10.0)),
    "softmax_jacobian_norm": (
        lambda params, xs: jnp.mean(jacobian_norms(f, params, xs).after_softmax ** 2),
        (1e-3, 1e-2, 0.1, 1.0, 10.0),
    ),
    "squared_weights": (
        lambda params, xs: sum(jnp.sum(w**2) for w in jax.tree.leaves(params)),
        (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    ),
}


def trainer(
    penalty: Callable[[Any, Array], Array], wrong: float
) -> Callable[[Array, float], dict[str, Array]]:
    """What comes of training from each key with a strength of the penalty."""
    data = load("digits")
    xs, ys, test_xs, test_ys = map(jnp.asarray, (data.x_train, data.y_train, data.x_test, data.y_test))
    optimizer = optax.adam(RATE)

    def train(key: Array, strength: float) -> dict[str, Array]:
        keys = [jax.random.fold_in(key, i) for i in range(4)]
        chosen = HELD_OUT + jax.random.choice(keys[0], len(xs) - HELD_OUT, (EXAMPLES,), replace=False)
        params = {
            "hidden": jax.random.normal(keys[1], (64, WIDTH)) / 6,
            "output": jax.random.normal(keys[2], (WIDTH, 10)) / 6,
        }
        other = (ys[chosen] + 1 + jax.random.randint(keys[3], (EXAMPLES,), 0, 9)) % 10
        labels = jnp.where(jnp.arange(EXAMPLES) < EXAMPLES * wrong, other, ys[chosen])

        def loss(params: Any) -> Array:
            logits = jax.vmap(f, (None, 0))(params, xs[chosen])
            fit = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
            return fit + strength * penalty(params, xs[chosen])

        def step(state: Any, _: None) -> tuple[Any, None]:
            updates, moments = optimizer.update(jax.grad(loss)(state[0]), state[1])
            return (optax.apply_updates(state[0], updates), moments), None

        params, _ = jax.lax.scan(step, (params, optimizer.init(params)), length=STEPS)[0]

        def accuracy(xs: Array, ys: Array) -> Array:
            return jnp.mean(jax.vmap(f, (None, 0))(params, xs).argmax(axis=1) == ys)

        return {
            "held_out_accuracy": accuracy(xs[:HELD_OUT], ys[:HELD_OUT]),
            "test_accuracy": accuracy(test_xs, test_ys),
            "train_accuracy": accuracy(xs[chosen], labels),
            "jacobian_norm": jnp.mean(input_jacobian_norm(f, params, test_xs)),
        }

    return jax.jit(jax.vmap(train, (0, None)))


def rows() -> Iterator[dict[str, Any]]:
    """A row for each penalty and strength; the best by held-out accuracy is marked."""
    keys = jax.random.split(jax.random.key(0), SEEDS)
    for wrong in (0.0, 0.25):
        found, best = {}, {}
        for name, (penalty, strengths) in PENALTIES.items():
            train = trainer(penalty, wrong)
            found[name] = {strength: jax.device_get(train(keys, strength)) for strength in strengths}
            best[name] = max(strengths, key=lambda s, of=found[name]: of[s]["held_out_accuracy"].mean())
        plain, weights = (found[name][best[name]]["test_accuracy"] for name in ("none", "squared_weights"))
        for name, by_strength in found.items():
            for strength, one in by_strength.items():
                gains = {
                    "gain": one["test_accuracy"] - plain,
                    "gain_over_squared_weights": one["test_accuracy"] - weights,
                }
                row = {"wrong_labels": wrong, "penalty": name, "strength": strength}
                row["best"] = strength == best[name]
                for column, values in (one | gains).items():
                    row[column] = f"{values.mean(dtype=np.float64):.5f}"
                    row[f"{column}_stderr"] = f"{values.std(ddof=1, dtype=np.float64) / SEEDS**0.5:.5f}"
                yield row | {"jax": importlib.metadata.version("jax")}


def main() -> None:
    """Writes the table."""
    found = list(rows())
    with OUT.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


if __name__ == "__main__":
    main()
