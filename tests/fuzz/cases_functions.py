"""Metrics of a function f(params, x), and of its outputs."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from fuzzing import Case

from jaxsens import metrics as m

SIZES = (4, 5, 3)
# Arguments of a function or a loss, which the metric does not see.
GAIN = frozenset(["gain"])
# Scales at which the network itself stays within float32.
INSIDE = {"params": (0, -45, 20, -20, 45), "xs": (0, -30, 30), "x": (0, -30, 30)}


def network(params, x):
    (w1, b1), (w2, b2) = params
    return jax.nn.relu(x.ravel() @ w1 + b1) @ w2 + b2


def init(rng, sizes=SIZES, *, biases=True):
    return [(rng.normal(size=(i, o)), rng.normal(size=o) * biases) for i, o in pairwise(sizes)]


def given(rng, n=3):
    return {"params": init(rng), "xs": rng.normal(size=(n, 2, 2))}


def forward(params, xs):
    """Outputs (n, K) and Jacobians (n, K, D) in NumPy."""
    (w1, b1), (w2, b2) = params
    z = xs.reshape(len(xs), -1) @ w1 + b1
    return np.maximum(z, 0) @ w2 + b2, np.einsum("dh,nh,hk->nkd", w1, (z > 0) * 1.0, w2)


def frobenius(a):
    return np.sqrt(np.sum(a**2, axis=(-2, -1)))


def softmax(y):
    e = np.exp(y - y.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def jacobians(params, xs):
    y, j = forward(params, xs)
    p = softmax(y)
    shifted = j - j[np.arange(len(j)), y.argmax(1)][:, None]
    after = p[..., None] * (shifted - np.einsum("nk,nkd->nd", p, shifted)[:, None])
    return frobenius(j), frobenius(after)


def linearized(params, xs, noise, average):
    j = forward(params, xs)[1]
    k = j.shape[1]
    if average == "mean":
        return (noise / k) ** 2 * np.mean(np.sum(j.sum(1) ** 2, -1))
    j = j - j.mean(1, keepdims=True) * (average == "centred")
    return noise**2 / k * np.mean(frobenius(j) ** 2)


def noise_of(params, xs, noise, draws=2):
    """The noise that the documented scheme of keys gives, through the network in NumPy."""
    with jax.enable_x64(False):
        eps = [
            [
                np.asarray(
                    jax.random.normal(
                        jax.random.fold_in(jax.random.fold_in(jax.random.key(3), d), i), x.shape
                    )
                )
                for i, x in enumerate(xs)
            ]
            for d in range(draws)
        ]
    moved = np.float32(xs) + np.float32(noise) * np.float32(eps)
    return np.stack([forward(params, part.astype(np.float64))[0] - forward(params, xs)[0] for part in moved])


def variance_of(noise):
    """S of average "per_output", and its error."""
    squares = np.mean((noise - noise.mean(axis=(0, 1))) ** 2, axis=-1)
    psi = squares.mean(0) - squares.mean()
    n = len(psi)
    return squares.mean(), np.sqrt(np.sum(psi**2) / (n * (n - 1)))


def margins(params, xs, ys):
    y = forward(params, xs)[0]
    own = y[np.arange(len(y)), ys]
    others = np.where(np.arange(y.shape[1]) == ys[:, None], -np.inf, y)
    return own - others.max(1)


def percentile(margins, percent=50):
    value = np.sort(margins)[max(1, int(np.ceil(percent * len(margins) / 100))) - 1]
    return value, np.log(value) if value > 0 else -np.inf, value > 0


def with_labels(rng):
    return {**given(rng), "ys": rng.integers(0, SIZES[-1], size=3)}


def one(rng):
    return {"params": init(rng), "x": rng.normal(size=(2, 2)), "v": rng.normal(size=(2, 2))}


def without_direction(rng):
    return {"params": init(rng), "x": rng.normal(size=(2, 2))}


def with_noise(rng):
    """Without biases, in whose rounding f would lose small noise."""
    return {"params": init(rng, biases=False), "xs": rng.normal(size=(3, 2, 2)), "noise": np.array(0.1)}


def quadratic(params, key):
    """Homogeneous in the gain, and in the weights."""
    del key
    return params["gain"] * sum(jnp.sum(w**2) for w in params["weights"])


def perturbed(rng):
    return {"gain": rng.normal(), "weights": [rng.normal(size=(2, 3)), rng.normal(size=3)]}


def gained(rng):
    made = perturbed(rng)
    return {"gain": np.asarray(made["gain"]), "weights": made["weights"]}


def expected(gain, weights, **scale):
    def loss(w, key):
        return quadratic({"gain": gain, "weights": w}, key)

    return m.expected_sharpness(
        loss, weights, key=jax.random.key(1), num_perturbations=8, perturbations_per_draw=4, **scale
    )


def curve(gain, weights):
    def loss(w, key):
        return quadratic({"gain": gain, "weights": w}, key)

    return m.sharpness_kl_curve(
        loss,
        weights,
        jnp.array([0.1, 0.2]),
        key=jax.random.key(1),
        num_perturbations=8,
        perturbations_per_draw=4,
    ).expected_sharpness


def ascended(gain, weights):
    def loss(w, key):
        return gain * jnp.sum(jnp.cos(w[0])) * (1 + jax.random.uniform(key))

    # Signs of the gradient times the box: the gain leaves the point that is found alone.
    return m.sharpness(
        loss, weights, key=jax.random.key(1), alpha=0.1, num_steps=3, num_evaluations=4, learning_rate=1e37
    )


def path_sum(params, p):
    (w1, _), (w2, _) = params
    total = np.sum((np.abs(w1) ** p) @ (np.abs(w2) ** p))
    return (2 if p == 1 else 1) * np.log(total)


def kl_alpha(params, alpha):
    return sum(np.sum((w / (10 * np.abs(w) + 1)) ** 2) for pair in params for w in pair) / alpha**2


def kl_sigma(params, prior, sigma):
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(prior), strict=True)
    return sum(np.sum((w - p) ** 2) for w, p in pairs) / (2 * sigma**2)


def exact_tangent(params, xs):
    """|Sens|_F^2 of the summed outputs, by the definition: blocks of W1 and W2."""
    (w1, b1), (w2, _) = params
    on = (xs.reshape(len(xs), -1) @ w1 + b1 > 0) * 1.0
    first = xs[0].size * np.sum((on * w2.sum(1)) ** 2, axis=1)
    second = w2.shape[1] * np.einsum("dh,nh->n", w1**2, on)
    return first + second


CASES = [
    Case(
        "input_jacobian_norm",
        given,
        lambda params, xs: m.input_jacobian_norm(network, params, xs),
        lambda params, xs: frobenius(forward(params, xs)[1]),
        INSIDE,
    ),
    Case(
        "input_jacobian_gram",
        given,
        lambda params, xs: m.input_jacobian_gram(network, params, xs),
        lambda params, xs: np.einsum("nkd,njd->nkj", *[forward(params, xs)[1]] * 2),
        INSIDE,
    ),
    Case(
        "jacobian_norms",
        given,
        lambda params, xs: m.jacobian_norms(network, params, xs),
        jacobians,
        INSIDE,
        rtol=2e-3,
    ),
    Case(
        "input_jvp",
        one,
        lambda params, x, v: m.input_jvp(network, params, x, v),
        lambda params, x, v: forward(params, x[None])[1][0] @ v.ravel(),
        {**INSIDE, "v": INSIDE["xs"]},
    ),
    *(
        Case(
            "linearized_output_sensitivity",
            with_noise,
            lambda params, xs, noise, a=a: m.linearized_output_sensitivity(
                network, params, xs, noise_std=noise, average=a
            ),
            lambda params, xs, noise, a=a: linearized(params, xs, noise, a),
            INSIDE,
            variant=a,
        )
        for a in ("mean", "per_output", "centred")
    ),
    Case(
        "output_noise",
        with_noise,
        lambda params, xs, noise: m.output_noise(
            network, params, xs, key=jax.random.key(3), noise_std=noise, num_draws=2
        ),
        noise_of,
        {**INSIDE, "noise": (0, -30, -5, 30)},
        atol=1e-2,
    ),
    Case(
        "output_sensitivity",
        with_noise,
        lambda params, xs, noise: m.output_sensitivity(
            network, params, xs, key=jax.random.key(3), noise_std=noise, num_draws=2, average="per_output"
        ),
        lambda **a: variance_of(noise_of(**a)),
        {**INSIDE, "noise": (0, -30, -5, 30)},
        rtol=2e-2,
    ),
    Case(
        "sensitivity_of_noise",
        lambda rng: {"noise": rng.normal(size=(2, 3, 4))},
        lambda noise: m.sensitivity_of_noise(noise, average="per_output"),
        variance_of,
    ),
    Case(
        "margin",
        with_labels,
        lambda params, xs, ys: m.margin(network, params, xs, ys),
        margins,
        INSIDE,
        atol=2e-4,
    ),
    Case(
        "margin_percentile",
        with_labels,
        lambda params, xs, ys: m.margin_percentile(network, params, xs, ys, percent=50),
        lambda **a: percentile(margins(**a)),
        INSIDE,
    ),
    Case(
        "percentile_of_margins",
        lambda rng: {"margins": rng.normal(size=7)},
        lambda margins: m.percentile_of_margins(margins, percent=50),
        percentile,
        infinite=frozenset(["margins"]),
    ),
    Case(
        "tangent_sample_sensitivity",
        without_direction,
        lambda params, x: m.tangent_sample_sensitivity(network, params, x),
        None,
        INSIDE,
    ),
    *(
        Case(
            "tangent_sensitivity",
            given,
            lambda params, xs, how=how: m.tangent_sensitivity(network, params, xs, method=how),
            exact_tangent,
            INSIDE,
            variant=how,
            keyed=False,
        )
        for how in ("structured", "streamed", "dense")
    ),
    Case(
        "tangent_sensitivity",
        lambda rng: {"gain": np.array(1.5), **given(rng)},
        lambda gain, params, xs: m.tangent_sensitivity(
            lambda p, x: gain * network(p, x),
            params,
            xs,
            method="hutchinson",
            num_probes=3,
            key=jax.random.key(5),
        ),
        scales={"gain": (0, -45, 45, 20, -20), "params": (0,), "xs": (0,)},
        degrees={"gain": 2},
        unseen=GAIN,
        variant="hutchinson",
    ),
    Case(
        "mean_tangent_sensitivity",
        given,
        lambda params, xs: m.mean_tangent_sensitivity(network, params, xs),
        None,
        INSIDE,
    ),
    Case(
        "tangent_method",
        without_direction,
        lambda params, x: m.tangent_method(network, params, x).method == "structured",
        lambda params, x: True,
        jit=False,
    ),
    *(
        Case(
            "log_path_norm",
            lambda rng: {"params": init(rng)},
            lambda params, p=p: m.log_path_norm(network, params, (2, 2), p=p),
            lambda params, p=p: path_sum(params, p),
            variant=f"p{p}",
            leafwise=frozenset(["params"]),
        )
        for p in (1, 2)
    ),
    Case("sharpness", gained, ascended, scales={"weights": (0,)}, degrees={"gain": 1}, unseen=GAIN),
    Case(
        "expected_sharpness",
        gained,
        lambda gain, weights: expected(gain, weights, alpha=0.1),
        scales={"weights": (0,)},
        degrees={"gain": 1},
        unseen=GAIN,
        variant="alpha",
    ),
    Case(
        "expected_sharpness",
        gained,
        lambda gain, weights: expected(gain, weights, sigma=0.1),
        scales={"weights": (0,)},
        degrees={"gain": 1},
        unseen=GAIN,
        variant="sigma",
    ),
    Case("sharpness_kl_curve", gained, curve, scales={"weights": (0,)}, degrees={"gain": 1}, unseen=GAIN),
    Case(
        "kl_divergence",
        lambda rng: {"params": init(rng), "alpha": np.array(0.5)},
        lambda params, alpha: m.kl_divergence(params, alpha=alpha),
        kl_alpha,
        {"params": (0, 126, -100, -40, 40), "alpha": (0, 20, -100, 50)},
        variant="alpha",
    ),
    Case(
        "kl_divergence",
        lambda rng: {"params": init(rng), "prior": init(rng), "sigma": np.array(0.5)},
        lambda params, prior, sigma: m.kl_divergence(params, sigma=sigma, prior=prior),
        kl_sigma,
        variant="sigma",
    ),
    Case(
        "pac_bayes_bound",
        lambda rng: {"loss": np.array(rng.uniform(0.1, 0.9)), "kl": np.array(20.0)},
        lambda loss, kl: m.pac_bayes_bound(loss, kl, 1000, num_draws=500),
        lambda loss, kl: loss + np.sqrt((kl + np.log(2000 / 0.05)) / 1000) + np.sqrt(np.log(100) / 1000),
        {"loss": (0, -100, -40)},
        infinite=frozenset(["kl"]),
    ),
]
