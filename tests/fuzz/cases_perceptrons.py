"""Metrics of lists of weights, of preactivations and codes, and of planes."""

from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from fuzzing import Case

from jaxsens import metrics as m

# Scales at which preactivations stay within float32.
INSIDE = {
    "weights": (0, -45, 20, -20, 45),
    "biases": (0, -30, 30),
    "xs": (0, -30, 30),
    "ends": (0, -30, 30),
}
LAYERS = frozenset(["weights"])


def matrices(rng, sizes=(4, 5, 3, 2)):
    return [rng.normal(size=(i, o)) for i, o in pairwise(sizes)]


def chain(rng):
    return {"weights": matrices(rng)}


def perceptron(rng):
    # Biases that keep units on, so that no layer is all off.
    weights = matrices(rng)
    return {
        "weights": weights,
        "biases": [rng.normal(size=w.shape[1]) for w in weights],
        "xs": rng.normal(size=(3, 2, 2)),
    }


def biasless(rng):
    return {"weights": matrices(rng), "xs": rng.normal(size=(3, 2, 2))}


def segments(rng):
    made = perceptron(rng)
    return {"weights": made["weights"], "biases": made["biases"], "ends": [*rng.normal(size=(2, 3, 2, 2))]}


def hidden(rng):
    return {"preactivations": [rng.normal(size=(3, 4)), rng.normal(size=(3, 2))]}


def kernels(rng):
    return {"weights": [rng.normal(size=(3, 3, 2, 3)), rng.normal(size=(12, 2))]}


def flat(weights):
    return [w.reshape(-1, w.shape[-1]) for w in weights]


def spectral(weights):
    return 2 * sum(np.log(np.linalg.norm(w, 2)) for w in flat(weights))


def squares(weights):
    return 2 * sum(np.log(np.linalg.norm(w)) for w in flat(weights))


def sens(weights, biases, xs):
    """sum_l |B_l|^2 |J_{l-1}|^2, example by example."""
    values = []
    for x in xs.reshape(len(xs), -1):
        h, jacobian, gates, jacobians = x, np.eye(x.size), [], [np.eye(x.size)]
        for i, w in enumerate(weights[:-1]):
            z = h @ w + (0 if biases is None else biases[i])
            gates.append(z > 0)
            h, jacobian = np.maximum(z, 0), jacobian @ w * (z > 0)
            jacobians.append(jacobian)
        cotangent, cotangents = np.ones(weights[-1].shape[1]), [np.ones(weights[-1].shape[1])]
        for w, on in zip(weights[:0:-1], gates[::-1], strict=True):
            cotangent = w @ cotangent * on
            cotangents.append(cotangent)
        pairs = zip(cotangents[::-1], jacobians, strict=True)
        values.append(sum(np.sum(c**2) * np.sum(j**2) for c, j in pairs))
    return np.array(values)


def codes(rng):
    return {"codes": rng.integers(0, 3, size=(5, 4)).astype(np.int8)}


def changes(codes):
    wide = codes.astype(np.int64)
    return np.abs(wide - np.roll(wide, -1, axis=0)).sum()


def sensitivities(rng):
    return {"values": rng.uniform(0.5, 2, size=3)}


def normalised(rng):
    """An affine map with a bias, and statistics."""
    return {
        "kernel": rng.normal(size=(3, 4)),
        "bias": rng.normal(size=4),
        "mean": rng.normal(size=4),
        "variance": rng.uniform(0.5, 2, size=4),
        "scale": rng.normal(size=4),
        "shift": rng.normal(size=4),
    }


def fold(kernel, bias, mean, variance, scale, shift):
    return m.fold_batch_norm([m.Affine(kernel, bias), m.BatchNorm(mean, variance, scale, shift, 0.0)])


def folded(kernel, bias, mean, variance, scale, shift):
    factor = scale / np.sqrt(variance)
    return kernel * factor, (bias - mean) * factor + shift


def corners(rng):
    return {"points": [rng.normal(size=(2, 3)) for _ in range(3)]}


def frame(points):
    a, b, c = (p.ravel() for p in points)
    q, r = np.linalg.qr(np.stack([b - a, c - a], axis=1))
    sign = np.sign(np.diag(r))
    (u, v), r = (q * sign).T, r * sign[:, None]
    coordinates = np.array([[0, 0], [r[0, 0], 0], [r[0, 1], r[1, 1]]])
    shape = points[0].shape
    return points[0], u.reshape(shape), v.reshape(shape), coordinates


def plane_of(rng):
    return {"origin": rng.normal(size=4), "u": np.eye(4)[0], "v": np.eye(4)[1]}


def pixels(origin, u, v):
    return m.plane_points(m.Plane(origin, u, v, jnp.zeros((3, 2))), (-1, 1, -1, 1), resolution=2)


def pixels_by_hand(origin, u, v):
    at = (-0.5, 0.5)
    return np.array([[origin + s * u + t * v for s in at] for t in at])


def areas(weights, biases, origin):
    """The areas of the regions sum to the rectangle's, whatever there is in it."""
    plane = m.Plane(
        origin,
        jnp.eye(4, dtype=origin.dtype)[0],
        jnp.eye(4, dtype=origin.dtype)[1],
        jnp.zeros((3, 2), origin.dtype),
    )
    found = m.slice_regions(weights, biases, plane, (-1, 1, -1, 1))
    x, y = (lambda p: p[:, 0]), (lambda p: p[:, 1])
    return np.float64(
        sum(
            abs(np.dot(x(p), np.roll(y(p), -1)) - np.dot(y(p), np.roll(x(p), -1))) / 2 for p in found.polygons
        )
    )


def theorem(weights, mu, c2, sigma):
    return m.bounded_sharpness_rhs(
        weights,
        sigma,
        mu=mu,
        c2=c2,
        c3=1.5,
        lipschitz=1.0,
        mean_output_norm=2.0,
        num_examples=100,
        delta=0.05,
        deltas=0.1,
    )


def theorem_arguments(rng):
    return {**chain(rng), "mu": np.array(0.5), "c2": np.array(2.0), "sigma": np.array(0.1)}


CASES = [
    Case("mlp_preactivations", perceptron, m.mlp_preactivations, scales=INSIDE, atol=2e-4),
    Case("relu_mlp_tangent_sensitivity", perceptron, m.relu_mlp_tangent_sensitivity, sens, INSIDE),
    Case(
        "relu_mlp_tangent_sensitivity",
        biasless,
        lambda weights, xs: m.relu_mlp_tangent_sensitivity(weights, None, xs),
        lambda weights, xs: sens(weights, None, xs),
        {"xs": (0,), "weights": (0, -60, 60)},
        LAYERS,
        variant="layers",
    ),
    Case(
        "activation_pattern",
        hidden,
        m.activation_pattern,
        lambda preactivations: np.concatenate(preactivations, 1) > 0,
    ),
    Case(
        "active_counts",
        hidden,
        m.active_counts,
        lambda preactivations: (
            np.stack([(h > 0).sum(1) for h in preactivations], 1),
            sum((h > 0).sum(1) for h in preactivations),
        ),
    ),
    Case(
        "log_pattern_probability",
        lambda rng: {**hidden(rng), "pattern": rng.integers(0, 2, size=6) > 0},
        m.log_pattern_probability,
        lambda preactivations, pattern: (
            -np.sum(np.logaddexp(0, np.where(pattern, -1, 1) * np.concatenate(preactivations, 1)), 1)
        ),
    ),
    Case("margins_per_unit", hidden, m.margins_per_unit),
    *(
        Case(
            name,
            lambda rng: {**sensitivities(rng), **hidden(rng)},
            lambda values, preactivations, name=name: getattr(m, name)(
                values, preactivations, weighting="soft"
            ),
            scales={"preactivations": (0, -40, 4)},
            variant="soft",
        )
        for name in ("empirical_tangent_sensitivity", "log_empirical_tangent_sensitivity")
    ),
    Case(
        "empirical_tangent_sensitivity",
        sensitivities,
        lambda values: m.empirical_tangent_sensitivity(values),
        lambda values: np.mean(values),
    ),
    Case(
        "log_empirical_tangent_sensitivity",
        sensitivities,
        lambda values: m.log_empirical_tangent_sensitivity(values),
        lambda values: np.log(np.mean(values)),
    ),
    Case(
        "activation_codes",
        hidden,
        m.activation_codes,
        lambda preactivations: np.concatenate(preactivations, 1) > 0,
    ),
    Case(
        "activation_codes",
        hidden,
        lambda preactivations: m.activation_codes(preactivations, activation="hard_tanh"),
        variant="hard_tanh",
    ),
    Case("transition_count", codes, m.transition_count, changes),
    *(
        Case(
            "count_crossings",
            segments,
            lambda weights, biases, ends, act=act: m.count_crossings(weights, biases, *ends, activation=act),
            # Kinks of one unit that float32 cannot tell apart are missed: the docstring says so.
            scales={"weights": (0,), "biases": (0,), "ends": (0, -2, 4)},
            variant=act,
        )
        for act in ("relu", "hard_tanh")
    ),
    Case("log_l2_norm", kernels, m.log_l2_norm, squares, leafwise=LAYERS),
    Case(
        "log_l2_norm",
        lambda rng: {**chain(rng), "log_margin": np.array(0.5)},
        lambda weights, log_margin: m.log_l2_norm(weights, form="capacity", log_margin=log_margin),
        lambda weights, log_margin: squares(weights) + 3 * np.log(4) - 2 * log_margin,
        {"log_margin": (0, 4)},
        LAYERS,
        infinite=frozenset(["log_margin"]),
        variant="capacity",
    ),
    Case("log_spectral_norm", kernels, m.log_spectral_norm, spectral, leafwise=LAYERS),
    Case(
        "log_spectral_product",
        kernels,
        m.log_spectral_product,
        lambda weights: spectral(weights) / 2,
        leafwise=LAYERS,
    ),
    Case(
        "log_layerwise_norm",
        kernels,
        m.log_layerwise_norm,
        lambda weights: 2 * sum(np.log(np.abs(w).max()) for w in weights),
        leafwise=LAYERS,
    ),
    Case(
        "conv_operator_norm",
        lambda rng: {"kernel": rng.normal(size=(3, 3, 2, 3))},
        lambda kernel: m.conv_operator_norm(kernel, (4, 4, 2)).value,
        rtol=2e-3,
        keyed=False,
    ),
    Case(
        "log_tangent_norm_bound",
        chain,
        m.log_tangent_norm_bound,
        lambda weights: (
            np.log(sum(w.size for w in weights) * 4)
            + 4 * np.log(5)
            + 2 * np.sum(np.sort([np.log(np.abs(w).max()) for w in weights])[1:])
        ),
        leafwise=LAYERS,
    ),
    Case(
        "log_region_bound",
        lambda rng: {
            **chain(rng),
            "patterns": rng.integers(0, 3, size=(3, 8)) > 0,
            "shares": -rng.uniform(0.5, 2, size=3),
        },
        lambda weights, patterns, shares: m.log_region_bound(weights, patterns, log_probabilities=shares),
        scales={"shares": (0,)},
        leafwise=LAYERS,
        infinite=frozenset(["shares"]),
    ),
    Case(
        "interaction_condition",
        biasless,
        lambda weights, xs: m.interaction_condition(weights, None, xs),
        leafwise=LAYERS,
    ),
    Case("interaction_condition", perceptron, m.interaction_condition, scales=INSIDE, variant="biases"),
    Case(
        "flip_condition",
        lambda rng: {**perceptron(rng), "deltas": np.array([0.1, 1.0])},
        m.flip_condition,
        scales={**INSIDE, "deltas": (0, -30, 30)},
    ),
    Case("spike_condition", perceptron, m.spike_condition, scales=INSIDE),
    Case("unit_norm_ratios", chain, m.unit_norm_ratios, leafwise=LAYERS),
    Case("bounded_sharpness_rhs", theorem_arguments, theorem, scales={"mu": (0, -40, 40)}, leafwise=LAYERS),
    Case(
        "balanced_sigmas",
        lambda rng: {**chain(rng), "sigma": np.array(0.1), "mu": np.array(0.5)},
        lambda weights, sigma, mu: m.balanced_sigmas(weights, sigma, mu=mu, deltas=0.1),
        leafwise=LAYERS,
        atol=0,
        scales={"mu": (0, -20, 40)},
    ),
    Case(
        "interaction_triples",
        lambda rng: {"depth": int(rng.integers(1, 5))},
        m.interaction_triples,
        lambda depth: tuple(
            np.array(part)
            for part in zip(
                *[
                    ((a, c, b), a < c < b - 1)
                    for b in range(1, depth + 1)
                    for a in range(b)
                    for c in range(a, b)
                ],
                strict=True,
            )
        ),
        jit=False,
    ),
    Case("fold_batch_norm", normalised, fold, folded),
    Case("plane", corners, lambda points: m.plane(*points), frame, rtol=2e-3),
    Case("plane_points", plane_of, pixels, pixels_by_hand),
    Case(
        "region_labels",
        codes,
        lambda codes: m.region_labels(codes[None]),
        lambda codes: np.array(
            [[[tuple(r) for r in dict.fromkeys(map(tuple, codes))].index(tuple(row)) for row in codes]]
        ),
        jit=False,
    ),
    Case(
        "slice_regions",
        lambda rng: {
            "weights": matrices(rng),
            "biases": perceptron(rng)["biases"],
            "origin": rng.normal(size=4),
        },
        areas,
        lambda **_: np.array(4.0),
        jit=False,
    ),
]
