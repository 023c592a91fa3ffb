"""Metrics of predictions, moments and logarithms; trajectories."""

import jax
import jax.numpy as jnp
import numpy as np
from fuzzing import Case
from scipy.special import logsumexp

from jaxsens import metrics as m

# Logarithms, not to be scaled; and numbers whose products stay within float32 (see jaxsens.metrics.theory).
LOGS = (0, 4)
MODEST = (0, -12, 12)


def positive(rng, *shape):
    return rng.uniform(0.5, 2.0, size=shape)


def decomposed(predictions, targets):
    mean = predictions.mean(0)
    return (
        np.mean(np.sum((predictions - targets) ** 2, -1)),
        np.mean(np.sum((mean - targets) ** 2, -1)),
        np.mean(np.sum(predictions.var(0), -1)),
    )


def total_variance(predictions):
    parts = predictions.var((0, 1)), predictions.mean(1).var(0), predictions.var(1).mean(0)
    return tuple(np.mean(np.sum(part, -1)) for part in parts)


def logit_variance(outputs):
    return np.mean(outputs.mean(-1).var(0))


def stack(name, *shape):
    return lambda rng: {name: rng.normal(size=shape)}


def predictions(rng):
    return {"predictions": rng.normal(size=(4, 3, 2)), "targets": rng.normal(size=(3, 2))}


def variances(rng):
    return {"s": positive(rng), "x": positive(rng), "noise": positive(rng), "bias": positive(rng)}


def predicted(s, x, noise, bias):
    return s * x / noise**2 + bias


def moments(rng):
    return {"weights": positive(rng, 3), "biases": positive(rng, 3)}


def bias_sum(weights, biases):
    gains = 0.5 * weights[1:] * np.array([5, 6])
    return (biases[0] * gains[0] * gains[1] + biases[1] * gains[1] + biases[2]) / 2


def ratio(rng):
    return {"test": positive(rng, 3), "train": positive(rng, 3), "loss": positive(rng, 3)}


def logs(rng):
    return {"first": rng.normal(size=3) * 8, "second": rng.normal(size=3) * 8, "loss": positive(rng, 3)}


def times_exp(first, second, loss):
    return np.exp(first - second) * loss


def fisher_rao(logits):
    shifted = logits - logits.max(1, keepdims=True)
    p = np.exp(shifted)
    p /= p.sum(1, keepdims=True)
    return np.sum(np.mean((np.sum(p * shifted, 1, keepdims=True) - shifted) ** 2, 0))


def moment(mean, std, power):
    """log E|T|^power by quadrature on a scaled grid."""
    size = np.maximum(np.abs(mean), std)
    z = np.linspace(-9, 9, 200_001)[:, None]
    values = np.abs(mean / size + std / size * z)
    with np.errstate(divide="ignore"):
        logs = power * np.log(values) - z**2 / 2
    if power == 0:
        return np.zeros(mean.shape)
    return logsumexp(logs, axis=0) + np.log(z[1, 0] - z[0, 0]) - np.log(2 * np.pi) / 2 + power * np.log(size)


def gaussian(rng):
    return {"mean": rng.normal(size=3), "std": positive(rng, 3)}


def points(*names):
    return lambda rng: {name: rng.normal(size=(2, 3)) for name in names}


def ends(a, b):
    t = np.arange(4).reshape(4, 1, 1) / 3
    return (1 - t) * a + t * b


def circumellipse(a, b, c):
    theta = (2 * np.pi * np.arange(5) / 5).reshape(5, 1, 1)
    g = (a + b + c) / 3
    return g + np.cos(theta) * (a - g) + np.sin(theta) * (b - c) / np.sqrt(3)


def loop(image):
    """Four points around three columns, each by np.roll."""
    made = []
    for i in range(4):
        whole, rest = divmod(i * 3, 4)
        r = rest / 4
        made.append((1 - r) * np.roll(image, whole, 1) + r * np.roll(image, whole + 1, 1))
    return np.stack(made)


CASES = [
    Case("bias_variance", predictions, m.bias_variance, decomposed),
    Case("decompose_variance", stack("predictions", 3, 2, 2, 2), m.decompose_variance, total_variance),
    Case("logit_variance", stack("outputs", 4, 3, 2), m.logit_variance, logit_variance),
    Case(
        "predicted_logit_variance",
        variances,
        lambda s, x, noise, bias: m.predicted_logit_variance(s, x, noise_std=noise, bias_term=bias),
        predicted,
    ),
    Case(
        "predicted_variance",
        variances,
        lambda s, x, noise, bias: m.predicted_variance(s, x, noise_std=noise, num_outputs=3, bias_term=bias),
        lambda **a: 2 / 3 * predicted(**a),
    ),
    Case(
        "predicted_loss",
        variances,
        lambda s, x, noise, bias: m.predicted_loss(s, x, noise_std=noise, num_outputs=3, bias_term=bias),
        lambda **a: np.sqrt(predicted(**a) / 3),
        dict.fromkeys(["s", "x", "noise", "bias"], MODEST),
    ),
    Case(
        "bias_term",
        moments,
        lambda weights, biases: m.bias_term(weights, biases, (5, 6), 2),
        bias_sum,
        dict.fromkeys(["weights", "biases"], MODEST),
    ),
    Case(
        "mlp_sensitivity_at_init",
        lambda rng: {"noise": positive(rng), "weights": positive(rng, 3)},
        lambda noise, weights: m.mlp_sensitivity_at_init(7, 2, (5, 6), noise, weight_moments=weights),
        lambda noise, weights: 3.5 * noise**2 * np.prod(weights) * 30 / 4,
        dict.fromkeys(["noise", "weights"], MODEST),
    ),
    *(
        Case(
            name,
            ratio,
            lambda test, train, loss, name=name: getattr(m, name)(test, train, loss),
            lambda test, train, loss: test / train * loss,
        )
        for name in ("jacobian_estimate", "fisher_rao_estimate")
    ),
    *(
        Case(
            name,
            logs,
            lambda first, second, loss, name=name: getattr(m, name)(first, second, loss),
            times_exp,
            dict.fromkeys(["first", "second"], LOGS),
            infinite=frozenset(["first"]),
            rtol=2e-3,
        )
        for name in (
            "layerwise_norm_estimate",
            "active_count_estimate",
            "empirical_estimate",
            "spectral_estimate",
        )
    ),
    Case(
        "layerwise_norm_estimate",
        logs,
        lambda first, second, loss: m.layerwise_norm_estimate(first, second, loss, form="log"),
        lambda first, second, loss: first / second * loss,
        variant="log",
    ),
    Case("fisher_rao_norm", stack("logits", 3, 4), m.fisher_rao_norm, fisher_rao),
    *(
        Case(
            "log_normal_absolute_moment",
            gaussian,
            lambda mean, std, p=p: m.log_normal_absolute_moment(mean, std, p),
            lambda mean, std, p=p: moment(mean, std, p),
            variant=f"p{p}",
            atol=1e-3,
        )
        for p in (0, 1, 2, 5)
    ),
    Case("log_psi_star", gaussian, lambda mean, std: m.log_psi_star(4, mean, std), atol=1e-3),
    Case(
        "log_active_path_bound",
        lambda rng: {**gaussian(rng), "w_max": positive(rng)},
        lambda mean, std, w_max: m.log_active_path_bound(9, 2, 3, mean, std, w_max),
        lambda mean, std, w_max: np.log(18) + moment(mean, std, 4) - 4 * np.log(2) + 4 * np.log(w_max),
        atol=1e-3,
    ),
    Case("segment", points("a", "b"), lambda a, b: m.segment(a, b, num_points=4), ends),
    Case("ellipse", points("a", "b", "c"), lambda a, b, c: m.ellipse(a, b, c, num_points=5), circumellipse),
    Case(
        "translation_loop",
        stack("image", 2, 3, 1),
        lambda image: m.translation_loop(image, num_points=4),
        loop,
    ),
    Case(
        "random_directions",
        lambda rng: {"unused": np.array(int(rng.integers(9)))},
        lambda unused: jnp.sum(m.random_directions(jax.random.key(unused), (2, 3), 4) ** 2, axis=(1, 2)),
        lambda unused: np.ones(4),
    ),
    Case(
        "shuffled_pixels",
        stack("xs", 3, 2, 2),
        lambda xs: jnp.sum(jnp.abs(m.shuffled_pixels(jax.random.key(2), xs).reshape(len(xs), -1)), axis=1),
        lambda xs: np.sum(np.abs(xs), axis=(1, 2)),
    ),
]
