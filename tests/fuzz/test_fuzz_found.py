"""What fuzzing found: each was a finite number, and wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fuzzing import MESSAGE, watch

from jaxsens import metrics as m
from jaxsens.checks import InputError, check_finite

watched = watch


def relu(params, x):
    return jax.nn.relu(x @ params["w"] + params["b"])


PARAMS = {"w": jnp.array([[1.0, 2.0], [3.0, -1.0]]), "b": jnp.array([0.5, 0.25])}
XS = jnp.array([[1.0, 2.0], [2.0, 1.0]])


def bad(array, place, value=jnp.nan):
    return array.at[place].set(value)


@pytest.mark.parametrize(
    "measure",
    [
        m.input_jacobian_norm,
        m.input_jacobian_gram,
        m.jacobian_norms,
        m.linearized_output_sensitivity,
        m.tangent_sensitivity,
        m.mean_tangent_sensitivity,
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_diverged_member_of_an_ensemble_has_no_number(measure, value):
    # ReLU masks the NaN: the derivative was that of a network of inactive units.
    members = {k: jnp.stack([v, bad(v, 0, value) if k == "b" else v]) for k, v in PARAMS.items()}
    for found in jax.tree.leaves(jax.vmap(lambda p: measure(relu, p, XS))(members)):
        assert np.isfinite(found[0]).all()
        assert np.isnan(found[1]).all()


def test_an_example_spoils_its_own_result_alone():
    found = jax.jit(lambda xs: m.input_jacobian_norm(relu, PARAMS, xs))(bad(XS, (0, 1)))
    assert np.isnan(found[0])
    assert np.isfinite(found[1])


def test_path_norm_of_nan_biases():
    # They are on no path, so log_path_norm never looked at them under jit.
    spoilt = {**PARAMS, "b": bad(PARAMS["b"], 0)}
    assert np.isnan(jax.jit(lambda p: m.log_path_norm(relu, p, (2,)))(spoilt))


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
def test_noise_that_rounding_swallows_is_no_number_under_jit():
    # S was 0.
    run = jax.jit(lambda s: m.output_sensitivity(relu, PARAMS, XS, key=jax.random.key(0), noise_std=s))
    assert np.isfinite(run(0.1)).all()
    assert np.isnan(run(1e-9)).all()
    xs = np.asarray(XS, np.float64)
    with pytest.raises(InputError, match=MESSAGE):
        m.output_sensitivity(relu, PARAMS, xs, key=jax.random.key(0), noise_std=1e-9)


def test_the_error_of_a_small_sensitivity():
    # The error was 0: its square underflows.
    noise = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
    value, error = m.sensitivity_of_noise(noise * 2.0**-40)
    base = m.sensitivity_of_noise(noise)
    np.testing.assert_allclose([value, error], [base[0] * 2.0**-80, base[1] * 2.0**-80], rtol=1e-6)


def test_the_error_of_a_small_loss():
    def loss(gain):
        return lambda w, key: gain * jnp.sum(w**2)

    def run(gain):
        key = jax.random.key(0)
        return m.expected_sharpness(
            loss(gain), jnp.ones(3), key=key, sigma=0.1, num_perturbations=8, perturbations_per_draw=4
        )

    small, base = run(2.0**-80), run(1.0)
    np.testing.assert_allclose(np.array(small) * 2.0**80, np.array(base), rtol=1e-5)


def test_kl_of_a_huge_weight():
    # 10 |w| overflowed, and w over infinity is 0.
    found = m.kl_divergence(jnp.array([1e38]), alpha=0.5)
    np.testing.assert_allclose(found, (0.1 / 0.5) ** 2, rtol=1e-6)


def test_labels_that_are_traced_and_out_of_range():
    # The margin was minus the largest logit.
    found = jax.jit(lambda ys: m.margin(relu, PARAMS, XS, ys))(jnp.array([2, 1]))
    assert np.isnan(found[0])
    assert np.isfinite(found[1])


def test_relu_mlp_where_squares_leave_the_range():
    rng = np.random.default_rng(0)
    shapes = [(3, 4), (4, 4), (4, 4), (4, 2)]
    weights = [jnp.asarray(np.abs(rng.normal(size=s)), jnp.float32) for s in shapes]
    scales = [2.0**-64, 2.0**-61, 2.0**30, 2.0**30]
    xs = jnp.asarray(np.abs(rng.normal(size=(2, 3))), jnp.float32)
    found = m.relu_mlp_tangent_sensitivity([w * s for w, s in zip(weights, scales, strict=True)], None, xs)
    with jax.enable_x64(True):
        wide = [jnp.asarray(w, jnp.float64) * s for w, s in zip(weights, scales, strict=True)]
        want = m.relu_mlp_tangent_sensitivity(wide, None, jnp.asarray(xs, jnp.float64))
    np.testing.assert_allclose(found, want, rtol=1e-4)


def test_relu_mlp_whose_preactivations_overflow():
    # inf - inf counted as an inactive unit.
    weights = [jnp.array([[1e30, -1e30], [1e30, 1e30]]), jnp.array([[1e30], [1e30]]), jnp.ones((1, 1))]
    assert np.isnan(m.relu_mlp_tangent_sensitivity(weights, None, jnp.array([[1e20, -1e20]]))).all()
    assert int(m.count_crossings(weights, None, jnp.full((1, 2), 1e20), -jnp.full((1, 2), 1e20))[0]) == -1


def test_counts_have_a_value_for_nan():
    h = [jnp.array([[1.0, jnp.nan], [1.0, -1.0]])]
    counts = jax.jit(m.active_counts)(h)
    np.testing.assert_array_equal(counts.total, [-1, 1])
    codes = jax.jit(m.activation_codes)(h)
    np.testing.assert_array_equal(codes, [[-1, -1], [1, 0]])
    assert int(jax.jit(m.transition_count)(codes)) == -1
    with pytest.raises(InputError, match="codes from -1"):
        m.transition_count(codes)


@pytest.mark.parametrize("dtype", [np.uint32, np.int32])
def test_codes_that_wrap_around(dtype):
    codes = jnp.array([[0], [np.iinfo(dtype).max]], dtype)
    with pytest.raises(InputError, match="counted in 32 bits"):
        m.transition_count(codes)
    assert int(jax.jit(m.transition_count)(codes)) == -1


def test_a_folded_layer_whose_factor_underflows():
    # scale / sqrt(variance) is 1e-45; times a kernel of 1e30 it was 0.
    one = np.ones(1, np.float32)
    norm = m.BatchNorm(*map(jnp.asarray, (0 * one, 1e30 * one, 1e-30 * one)), None, 0.0)
    (found,) = m.fold_batch_norm([m.Affine(jnp.array([[1e30]])), norm])
    np.testing.assert_allclose(found.kernel, [[1e-15]], rtol=1e-5)


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**100])
def test_a_plane_of_any_size(scale):
    # |b - a|^2 left the range: u was b - a itself, or 0.
    points = [jnp.array(p) for p in ([0.0, 0.0, 1.0], [2.0, 0.0, 1.0], [1.0, 3.0, 1.0])]
    base = m.plane(*points)
    for find in (m.plane, jax.jit(m.plane)):
        found = find(*(p * scale for p in points))
        np.testing.assert_allclose(found.u, base.u, atol=1e-6)
        np.testing.assert_allclose(found.v, base.v, atol=1e-6)
        np.testing.assert_allclose(found.coordinates, base.coordinates * scale, rtol=1e-5)
    assert np.isnan(jax.jit(m.plane)(points[0], points[1], points[1]).v).all()


def test_points_of_a_plane_that_is_none():
    plane = m.plane(jnp.zeros(3), jnp.eye(3)[0], jnp.eye(3)[1])
    for spoilt in (plane._replace(u=bad(plane.u, 0)), plane._replace(u=plane.u.astype(int))):
        with pytest.raises(InputError, match=MESSAGE):
            m.plane_points(spoilt, (0, 1, 0, 1), resolution=2)


def test_estimates_of_narrow_and_of_extreme_numbers():
    # -70 - 70 is 116 in int8.
    narrow = m.spectral_estimate(jnp.array(-70, jnp.int8), jnp.array(70, jnp.int8), 1e38)
    np.testing.assert_allclose(narrow, np.exp(-140) * 1e38, rtol=1e-4)
    np.testing.assert_allclose(m.jacobian_estimate(1e-20, 1e25, 1e30), 1e-15, rtol=1e-5)


def test_moments_of_narrow_numbers():
    wide = m.log_normal_absolute_moment(jnp.float32(60000), jnp.float32(100), 40)
    narrow = m.log_normal_absolute_moment(jnp.float16(60000), jnp.float16(100), 40)
    np.testing.assert_allclose(narrow, wide, rtol=1e-5)
    assert np.isnan(jax.jit(lambda a: m.log_normal_absolute_moment(a, 1.0, 0))(jnp.nan))


def test_theory_beyond_the_square_root_of_the_range():
    # noise_std**2 raised an OverflowError, divided by 0, or was infinite, which made the variance 0.
    assert m.predicted_logit_variance(1e300, 1.0, noise_std=1e200) == pytest.approx(1e-100)
    assert m.predicted_logit_variance(1e-300, 1.0, noise_std=1e-200) == pytest.approx(1e100)
    found = m.predicted_logit_variance(jnp.float32(1e38), 1.0, noise_std=jnp.float32(1e20))
    np.testing.assert_allclose(found, 1e-2, rtol=1e-5)
    assert m.mlp_sensitivity_at_init(1, 1, (), 1e200) == np.inf
    with pytest.raises(InputError, match="one moment per layer"):
        m.bias_term(1.0, [1.0, 1.0], (2,), 1)


def test_balanced_sigmas_of_small_mu():
    weights = [jnp.full((4, 5), 1e30), jnp.full((5, 3), 1e30)]
    base = m.balanced_sigmas([w * 1e-30 for w in weights], 1.0, mu=1.0, deltas=0.1)
    found = m.balanced_sigmas(weights, 1e-25, mu=1e-10, deltas=0.1)
    np.testing.assert_allclose(np.asarray(found) / 1e-15, base, rtol=1e-4)


def test_a_share_within_a_delta_that_is_none():
    # Every unit counted.
    run = jax.jit(lambda d: m.flip_condition([PARAMS["w"], PARAMS["w"]], None, XS, d).share)
    assert np.isnan(run(jnp.array([jnp.nan]))).all()


def test_what_becomes_infinite_in_float32_is_refused():
    with pytest.raises(InputError, match="NaN or infinity"):
        check_finite("xs", np.array([1e200]))


@pytest.mark.parametrize("value", [1j, np.complex64(1), "1", None])
def test_what_is_no_real_number_is_refused(value):
    with pytest.raises(InputError, match="real numbers"):
        m.predicted_variance(value, 1.0, noise_std=1.0, num_outputs=2)


def test_many_draws_behind_a_bound():
    # A whole number of more than 32 bits raised an OverflowError.
    assert np.isfinite(m.pac_bayes_bound(0.1, 1.0, 10**12, num_draws=2**40))


def test_norms_at_the_end_of_the_range():
    # Numbers above 2^126 were divided by as if infinite: norms and products of 0.
    key = jax.random.key(0)
    small = [jax.random.normal(jax.random.fold_in(key, i), (5, 5)) for i in range(3)]
    factor = 2.0**126
    assert float(jnp.abs(small[0]).max()) > 1
    large = [small[0] * factor, *small[1:]]
    assert not np.isinf(large[0]).any()
    added = np.log(factor)
    np.testing.assert_allclose(m.log_l2_norm(large), m.log_l2_norm(small) + 2 * added, rtol=1e-5)
    xs = jax.random.normal(key, (4, 5))
    layers = [w / 10 for w in small]
    biasless = jax.jit(lambda xs: m.interaction_condition(layers, None, xs).ratio)
    top = xs / jnp.abs(xs).max() * 0.75
    np.testing.assert_allclose(biasless(top * 2.0**127), biasless(top), rtol=1e-4)
