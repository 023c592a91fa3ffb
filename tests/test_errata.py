"""What docs/errata.md says of paper A's misprints, silences and claims, each point proven by numbers."""

import json
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsens.checks import InputError
from jaxsens.data import Dataset, load, normalize, second_moment
from jaxsens.metrics import (
    bias_term,
    bias_variance,
    jacobian_norms,
    linearized_output_sensitivity,
    logit_variance,
    mlp_sensitivity_at_init,
    output_noise,
    output_sensitivity,
    predicted_logit_variance,
    predicted_loss,
    predicted_variance,
    sensitivity_of_noise,
)
from jaxsens.models import build, cnn, fully_connected, resnet, vgg
from jaxsens.models.layers import output_shape
from jaxsens.train import LOSSES

ROOT = Path(__file__).parents[1]
BOSTON = ROOT.parent / "shared" / "data" / "boston_house_prices.csv"
CIFAR = (32, 32, 3)
cross_entropy = LOSSES["cross_entropy"]
linearized = jax.jit(linearized_output_sensitivity, static_argnames="f")
PRINTED_SECOND_MOMENT = 0.2648
CHANNEL_MEANS = np.array([0.4914, 0.4822, 0.4465])
CHANNEL_STDS = np.array([0.2470, 0.2435, 0.2616])
WRONG_STDS = np.array([0.2023, 0.1994, 0.2010])


def mlp(params, x):
    *hidden, (w, b) = params
    for v, c in hidden:
        x = jax.nn.relu(v @ x + c)
    return w @ x + b


def random_mlps(seed, sizes, members, *, biases=True):
    """Standard normal parameters of many networks, in float64 under `x64`."""
    rng = np.random.default_rng(seed)
    return [
        (jnp.asarray(rng.normal(size=(members, o, d))), jnp.asarray(biases * rng.normal(size=(members, o))))
        for d, o in pairwise(sizes)
    ]


def shapes(config):
    """Path and shape of each parameter on CIFAR-10 images."""
    network = build(config, input_shape=CIFAR, num_outputs=10)
    params, _ = jax.eval_shape(network.init, jax.random.key(0))
    return [(jax.tree_util.keystr(path), leaf.shape) for path, leaf in jax.tree.leaves_with_path(params)]


def num_params(config):
    return sum(int(np.prod(shape)) for _, shape in shapes(config))


# Formulas.


def test_average_of_variances_is_k_times_the_variance_of_the_average(x64):
    """Independent output noise: the two readings of section 3.2's sentence differ by the factor K."""
    num_outputs = 7
    noise = jnp.asarray(np.random.default_rng(0).normal(size=(20, 2000, num_outputs)))
    mean, per_output = (sensitivity_of_noise(noise, average=a).value for a in ("mean", "per_output"))
    np.testing.assert_allclose(mean, 1 / num_outputs, rtol=0.05)
    np.testing.assert_allclose(per_output, 1.0, rtol=0.05)


def test_the_mean_logit_is_what_the_softmax_does_not_see(x64):
    """A shift common to all logits moves S and eq. 9's loss, and leaves the loss itself as it is."""
    params = [(w[0], b[0]) for w, b in random_mlps(0, (3, 6, 4), 1)]
    rng = np.random.default_rng(1)
    xs, labels = jnp.asarray(rng.normal(size=(50, 3))), jnp.asarray(rng.integers(0, 4, 50))

    def shifted(p, x):
        return mlp(p, x) + 10 * jnp.sum(x)

    def loss_and_prediction(f):
        outputs = jax.vmap(lambda x: f(params, x))(xs)
        s = float(linearized(f, params, xs))
        return cross_entropy(outputs, labels).mean(), predicted_loss(s, 1.0, noise_std=0.1, num_outputs=4)

    (loss, predicted), (loss_2, predicted_2) = loss_and_prediction(mlp), loss_and_prediction(shifted)
    np.testing.assert_allclose(loss_2, loss, rtol=1e-9)
    assert predicted_2 > 3 * predicted


@pytest.mark.parametrize("common", [0.0, 2.0])
def test_variance_after_the_softmax_needs_uncorrelated_logits(common, x64):
    """Appendix B's last step holds for independent small logits; a part common to all logits breaks it."""
    k = 5
    rng = np.random.default_rng(2)
    logits = 1e-3 * (rng.normal(size=(4000, 10, k)) + common * rng.normal(size=(4000, 10, 1)))
    measured = bias_variance(jax.nn.softmax(jnp.asarray(logits)), jnp.zeros((10, k))).variance
    eq_7 = (k - 1) / k * logit_variance(jnp.asarray(logits))
    centred = np.var(logits - logits.mean(-1, keepdims=True), axis=0).mean() / k
    np.testing.assert_allclose(measured, centred, rtol=1e-4)
    # The common part adds common^2 to a variance of the mean logit of 1 / K.
    np.testing.assert_allclose(eq_7 / measured, 1 + k * common**2, rtol=0.05)


def test_eq_3_is_a_lower_bound_and_never_above_1(x64):
    """-log F >= 1 - F >= the root of eq. 16: equal near F = 1 only, and the right-hand side stays below 1."""
    rng = np.random.default_rng(3)
    logits = 4 * rng.normal(size=(2000, 6))
    labels = rng.integers(0, 6, 2000)
    probabilities = np.asarray(jax.nn.softmax(jnp.asarray(logits)))
    root = np.sqrt(0.5 * np.sum((probabilities - np.eye(6)[labels]) ** 2, axis=1))
    losses = np.asarray(cross_entropy(jnp.asarray(logits), jnp.asarray(labels)))
    assert np.all(root <= losses)
    assert root.max() <= 1 < losses.mean()
    # All of the rest on one wrong class: the root is 1 - F exactly.
    for right, ratio in ((0.99, 0.995), (0.5, 0.721), (1e-6, 0.0724)):
        root = np.sqrt(0.5 * np.sum((np.array([right, 1 - right, 0]) - np.array([1, 0, 0])) ** 2))
        assert root / -np.log(right) == pytest.approx(ratio, rel=1e-3)


def test_eq_15_and_16_hold():
    """(K / (K-1)) (1-F)^2 <= sum <= 2 (1-F)^2, both ends reached, and equal for two classes."""
    rng = np.random.default_rng(4)
    for k in (2, 3, 10):
        p = rng.dirichlet(np.full(k, 0.3), 5000)
        rest, squares = 1 - p[:, 0], np.sum((p - np.eye(k)[0]) ** 2, axis=1)
        assert np.all(k / (k - 1) * rest**2 <= squares + 1e-12)
        assert np.all(squares <= 2 * rest**2 + 1e-12)
        even = np.full(k, 0.6 / (k - 1))
        even[0] = 0.4
        assert np.sum((even - np.eye(k)[0]) ** 2) == pytest.approx(k / (k - 1) * 0.36)
        if k == 2:
            np.testing.assert_allclose(squares, 2 * rest**2, rtol=1e-9, atol=1e-12)


def test_eq_7_and_9_have_no_ceiling_though_variance_and_root_have(x64):
    """Standard normal networks: the variance stays below (K-1)/K and the root of eq. 17 below 1."""
    num_outputs, members = 5, 100
    params = random_mlps(5, (8, 30, 30, num_outputs), members)
    rng = np.random.default_rng(6)
    xs, labels = jnp.asarray(rng.normal(size=(30, 8))), jnp.asarray(rng.integers(0, num_outputs, 30))
    logits = jax.jit(jax.vmap(lambda p: jax.vmap(lambda x: mlp(p, x))(xs)))(params)
    parts = bias_variance(jax.nn.softmax(logits), jax.nn.one_hot(labels, num_outputs, dtype=logits.dtype))
    s = jax.jit(jax.vmap(lambda p: linearized_output_sensitivity(mlp, p, xs)))(params).mean()
    predicted = predicted_variance(float(s), float(jnp.mean(xs**2)), noise_std=0.1, num_outputs=num_outputs)
    assert float(parts.variance) <= (num_outputs - 1) / num_outputs < predicted / 100
    assert np.sqrt(parts.loss / 2) <= 1 < jnp.mean(jax.vmap(cross_entropy, (0, None))(logits, labels)) / 10


def test_one_output_has_no_factor_k_minus_1_over_k(x64):
    """K = 1: eq. 7 gives 0; linear networks with weights of second moment 1 have eq. 14's variance."""
    dim, noise_std = 4, 0.1
    weights = np.sqrt(dim) * np.concatenate([np.eye(dim), -np.eye(dim)])
    xs = np.random.default_rng(7).normal(size=(20, dim))
    predictions = jnp.asarray((weights @ xs.T)[:, :, None])
    measured = bias_variance(predictions, jnp.zeros((20, 1))).variance
    s, moment = mlp_sensitivity_at_init(dim, 1, (), noise_std), float(np.mean(xs**2))
    assert predicted_variance(s, moment, noise_std=noise_std, num_outputs=1) == 0
    np.testing.assert_allclose(measured, predicted_logit_variance(s, moment, noise_std=noise_std), rtol=1e-12)


def test_sigma_is_small_with_standard_normal_biases_too():
    """sigma_b^2 = 1, yet Sigma is a thousandth of var, for the input has D sigma_x^2 = 883."""
    dim, num_outputs, noise_std = 3072, 10, 0.1
    for widths in ((100,), (500,) * 4, (165,) * 5):
        ones = (1.0,) * (len(widths) + 1)
        s = mlp_sensitivity_at_init(dim, num_outputs, widths, noise_std)
        var = predicted_logit_variance(s, 0.2874, noise_std=noise_std)
        assert 1 / 900 < bias_term(ones, ones, widths, num_outputs) / var < 1 / 800
    # A scalar input has no such sum over pixels: there the biases are most of the variance.
    s = mlp_sensitivity_at_init(1, num_outputs, (100,), noise_std)
    var = predicted_logit_variance(s, 0.2874, noise_std=noise_std)
    assert bias_term((1.0, 1.0), (1.0, 1.0), (100,), num_outputs) > 3 * var


def test_fan_in_of_eq_8_is_of_the_next_layer_and_counts_the_kernels_area():
    """Two 3 x 3 convolutions at input 0: H_1 is 9 x 4 channels, neither 3 x 4 nor the first layer's 9."""
    members, channels, num_outputs = 100_000, 4, 3
    rng = np.random.default_rng(8)
    # One bias per channel, the same at the 9 places that the second kernel sees.
    hidden = np.maximum(rng.normal(size=(members, 1, channels)), 0)
    kernels = rng.normal(size=(members, num_outputs, 9, channels))
    outputs = np.sum(kernels * hidden[:, None], axis=(2, 3)) + rng.normal(size=(members, num_outputs))
    squares = outputs.mean(axis=1) ** 2
    error = squares.std() / np.sqrt(members)
    for fan_in, right in ((9 * channels, True), (3 * channels, False), (9, False)):
        sigma = bias_term((1.0, 1.0), (1.0, 1.0), (fan_in,), num_outputs)
        deviation = abs(squares.mean() - sigma) / error
        assert deviation < 4 if right else deviation > 20


def test_resnets_have_biases_though_their_convolutions_have_none():
    """The last affine layer has a bias, and every batch normalisation a shift."""
    found = shapes(resnet(18, 0.125))
    biases = [path for path, _ in found if "bias" in path]
    convolutions = [path for path, shape in found if len(shape) == 4]
    # A shift of the batch normalisation beside each convolution, and the head's bias.
    assert len(biases) == len(convolutions) + 1
    assert all("norm" in path or "head" in path for path in biases)


def test_noise_of_finite_size_has_less_sensitivity_than_eq_10(key, x64):
    """One hidden layer at noise 0.3: S has the arc-cosine kernel's closed form, below eq. 10's value."""
    dim, width, num_outputs, noise_std, members = 12, 10, 2, 0.3, 3000
    xs = jnp.asarray(np.random.default_rng(9).normal(size=(40, dim)))
    params = random_mlps(10, (dim, width, num_outputs), members, biases=False)
    values = np.asarray(
        jax.jit(jax.vmap(lambda p: output_sensitivity(mlp, p, xs, key=key, noise_std=noise_std).value))(
            params
        )
    )
    # The noise itself is what the identity makes of it.
    eps = np.asarray(output_noise(lambda p, x: x, {}, xs, key=key, noise_std=noise_std))[0]
    clean = np.asarray(xs)
    noisy = clean + eps

    def kernel(u, v):  # E[relu(w u) relu(w v)], w standard normal
        lengths = np.linalg.norm(u, axis=1)[:, None] * np.linalg.norm(v, axis=1)
        cosine = np.clip(u @ v.T / lengths, -1, 1)
        angle = np.arccos(cosine)
        return lengths / (2 * np.pi) * (np.sin(angle) + (np.pi - angle) * cosine)

    q = kernel(noisy, noisy) - kernel(noisy, clean) - kernel(clean, noisy) + kernel(clean, clean)
    expected = width / num_outputs * (np.diag(q).mean() - q.mean())
    small_noise = width / num_outputs * np.mean(np.sum(eps**2, axis=1)) / 2  # eq. 10 for this very noise
    error = values.std() / np.sqrt(members)
    assert abs(values.mean() - expected) < 4 * error
    assert expected < 0.95 * small_noise
    assert small_noise - values.mean() > 5 * error
    # The same at the lengths that CIFAR-10 images and noise of 0.1 have, at right angles: 4% less.
    x, e = np.sqrt(3072 * np.diag([0.2874, 0.01]))
    u, v = x[None], (x + e)[None]
    sampled = (kernel(u, u) + kernel(v, v) - 2 * kernel(u, v))[0, 0]
    assert sampled / (e @ e / 2) == pytest.approx(0.961, abs=0.001)


# Layers and sizes.


def test_500_units_match_165_only_if_hidden_layers_are_counted():
    """Section 5.1: 4 and 5 layers of eq. 10 are hidden layers; with the output layer counted it is 3 to 1."""

    def s(layers, width):
        return mlp_sensitivity_at_init(3072, 10, (width,) * layers, 0.1)

    assert s(5, 165) / s(4, 500) == pytest.approx(1, rel=0.03)
    assert s(4, 165) / s(3, 500) == pytest.approx(3, rel=0.03)
    # The fourth width of Appendix A's grid, 160, is not the one that matches.
    assert list(range(100, 501, 20))[3] == 160
    assert s(5, 160) / s(4, 500) < 0.85


def test_largest_sizes_of_section_5_1_are_of_480_units():
    """1.7M and 10M parameters: 480 units and 24 channels; 500 and 25 have 1.8M and 11.3M."""
    assert [num_params(fully_connected(2, width)) for width in (480, 500)] == [1_710_730, 1_792_010]
    assert [num_params(cnn(1, channels)) for channels in (24, 25)] == [10_373_962, 11_256_210]


def test_28_pixels_are_too_few_for_vgg_and_enough_for_resnet():
    """Five MaxPool(2) leave nothing of MNIST's 28 x 28 pixels."""
    assert output_shape(resnet(18, 1).layers, (28, 28, 1)) == (512,)
    assert output_shape(vgg(13, 1).layers, (32, 32, 1)) == (512,)
    with pytest.raises(InputError, match="larger images"):
        output_shape(vgg(13, 1).layers, (28, 28, 1))


def test_vgg_without_max_pool_still_averages_pairs_of_pixels():
    """Figure 4's networks: Appendix A's Avgpool(2) is then no identity; 16 x 16 pixels are left."""
    plain = vgg(11, 0.25, batch_norm=False, max_pool=False)
    assert output_shape(plain.layers, CIFAR) == (16 * 16 * 128,)


# Initialisation.


def test_he_makes_sensitivity_independent_of_size_and_xavier_almost():
    """Eq. 12: He 2 s^2 / K for any widths; Xavier within 7% over widths 100 to 500, but half per layer."""
    dim, num_outputs, noise_std = 3072, 10, 0.1

    def s(moment, widths):
        sizes = (dim, *widths, num_outputs)
        moments = [moment(fan_in, fan_out) for fan_in, fan_out in pairwise(sizes)]
        return mlp_sensitivity_at_init(dim, num_outputs, widths, noise_std, weight_moments=moments)

    def he(fan_in, fan_out):
        return 2 / fan_in

    def xavier(fan_in, fan_out):
        return 2 / (fan_in + fan_out)

    for widths in ((100,), (500, 300, 20), (120,) * 8):
        assert s(he, widths) == pytest.approx(2 * noise_std**2 / num_outputs, rel=1e-12)
    values = [s(xavier, (width,) * 4) for width in range(100, 501, 20)]
    assert 1.05 < max(values) / min(values) < 1.07
    assert s(xavier, (300,) * 5) / s(xavier, (300,) * 4) == pytest.approx(1 / 2)
    assert s(lambda fan_in, fan_out: 1.0, (500,) * 4) / s(lambda i, o: 1.0, (100,) * 4) == pytest.approx(5**4)


def test_before_training_max_pool_changes_sensitivity_and_the_rest_does_not(key):
    """Dropout is off, batch normalisation still the identity (up to its epsilon); a maximum is a maximum."""
    xs = jax.random.uniform(jax.random.key(1), (3, 4, 4, 1))
    keys = jax.random.split(key, 150)

    def before(**regularization):
        network = build(cnn(1, 2, **regularization), input_shape=(4, 4, 1), num_outputs=3)

        def measure(one_key):
            params, state = network.init(one_key)
            return linearized_output_sensitivity(network.function(state), params, xs)

        return np.asarray(jax.jit(lambda keys: jax.lax.map(measure, keys))(keys))

    plain, pooled = before(), before(max_pool=True)
    np.testing.assert_allclose(before(dropout=0.5), plain, rtol=1e-5)
    np.testing.assert_allclose(before(batch_norm=True), plain, rtol=1e-3)
    error = np.hypot(plain.std(), pooled.std()) / np.sqrt(len(keys))
    assert plain.mean() - pooled.mean() > 5 * error


# Rescaled outputs.


def test_output_scale_divides_s_by_its_square_and_the_loss_only_if_confident(x64):
    """Section 6.2: S / alpha^2 exactly; L / alpha for large wrong logits, log K for small ones."""
    alpha = 3.0
    params = [(w[0], b[0]) for w, b in random_mlps(11, (3, 20, 4), 1)]
    rng = np.random.default_rng(12)
    xs, labels = jnp.asarray(rng.normal(size=(200, 3))), jnp.asarray(rng.integers(0, 4, 200))
    outputs = jax.vmap(lambda x: mlp(params, x))(xs)

    def divided(p, x):
        return mlp(p, x) / alpha

    np.testing.assert_allclose(
        linearized(divided, params, xs),
        linearized(mlp, params, xs) / alpha**2,
        rtol=1e-12,
    )

    def loss(scale):
        return float(cross_entropy(scale * outputs, labels).mean())

    assert loss(1e3) / loss(1e3 / alpha) == pytest.approx(alpha, rel=1e-3)
    assert loss(1e-3) / loss(1e-3 / alpha) == pytest.approx(1, rel=1e-2)
    assert loss(1e-3) == pytest.approx(np.log(4), rel=1e-2)


def test_sensitivity_depends_on_confidence(x64):
    """Against section 4.3: the same classes, more surely predicted, have the square of the factor more S."""
    params = [(w[0], b[0]) for w, b in random_mlps(13, (3, 8, 4), 1)]
    xs = jnp.asarray(np.random.default_rng(14).normal(size=(30, 3)))

    def surer(p, x):
        return 5 * mlp(p, x)

    logits, sure = (jax.vmap(lambda x, f=f: f(params, x))(xs) for f in (mlp, surer))
    np.testing.assert_array_equal(logits.argmax(-1), sure.argmax(-1))
    assert jax.nn.softmax(sure).max(-1).mean() > jax.nn.softmax(logits).max(-1).mean()
    ratio = linearized(surer, params, xs) / linearized(mlp, params, xs)
    np.testing.assert_allclose(ratio, 25, rtol=1e-12)
    # After the softmax the derivative ends by vanishing.
    after = [jacobian_norms(lambda p, x, c=c: c * mlp(p, x), params, xs).after_softmax for c in (1, 1e4)]
    assert jnp.median(after[1]) < 1e-6 * jnp.median(after[0])


# Data.


def two_valued(means, stds):
    """Images of one pixel that have these means and standard deviations in their channels exactly."""
    xs = np.stack([means + stds, means - stds])[:, None, None].astype(np.float32)
    ys = np.zeros(2, np.int32)
    return Dataset(xs, ys, xs, ys, "made", 2, "classification")


def test_printed_second_moment_is_of_wrong_channel_deviations():
    """0.2648 is the mean of mean^2 + std^2 with the widely copied stds; with CIFAR-10's own it is 0.2874."""
    wrong = second_moment(two_valued(CHANNEL_MEANS, WRONG_STDS).x_train)
    right = second_moment(two_valued(CHANNEL_MEANS, CHANNEL_STDS).x_train)
    assert round(wrong, 4) == PRINTED_SECOND_MOMENT
    assert round(right, 4) == 0.2874
    # What figure 1's run measured on the test images.
    (data,) = json.loads((ROOT / "figures" / "fig1" / "manifest.json").read_text())["data"]
    assert data["dataset"] == "cifar10"
    assert data["input_second_moment"] == pytest.approx(right, rel=0.02)
    assert data["input_second_moment"] > 1.08 * PRINTED_SECOND_MOMENT


def test_unit_variance_about_the_images_mean_has_second_moment_1_22():
    """Figure 7e prints 1.25, which is that of a mean of 1/2."""
    images = two_valued(CHANNEL_MEANS, CHANNEL_STDS)
    standard = normalize(images).x_train.astype(np.float64)
    assert second_moment(standard) == pytest.approx(1, rel=1e-5)
    assert second_moment(standard + CHANNEL_MEANS) == pytest.approx(1.2245, rel=1e-4)
    assert second_moment(standard + 0.5) == pytest.approx(1.25, rel=1e-5)


@pytest.mark.skipif(not BOSTON.is_file(), reason=f"no {BOSTON}")
def test_noise_0_1_is_nothing_to_one_boston_feature_and_all_to_another():
    """Standard deviations of the 13 features: NOX 0.12, TAX 169. The 14th column is the price."""
    data = load(BOSTON)
    stds = np.concatenate([data.x_train, data.x_test]).std(axis=0)
    assert len(stds) == 13
    assert 0.8 < 0.1 / stds.min() < 0.9
    assert 0.1 / stds.max() < 1e-3
    assert np.sqrt(second_moment(normalize(data).x_train)) == pytest.approx(1, rel=1e-5)
