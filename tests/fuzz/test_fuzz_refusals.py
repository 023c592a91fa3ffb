"""Every public metric on arguments of another kind: refused in our own words, or measured rightly."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from fuzzing import FUNCTIONS, MESSAGE, at, compare, device, draw, is_float, put, refused, run, spoilt, watch
from hypothesis import given
from hypothesis import strategies as st
from test_fuzz_values import BAD, CASES, SEEDS, each, few, floats

from jaxsens import metrics
from jaxsens.checks import InputError

DTYPES = (jnp.float16, jnp.bfloat16, np.int32, np.int8, np.uint8, bool, np.complex64, np.float64)
watched = watch


def call(case, arguments):
    return case.call(**device(arguments))


def numbers(result):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(result)]


@each
@few(2)
@given(data=st.data())
def test_nan_and_infinity_are_refused(case, data):
    arguments, _ = draw(case, data.draw(SEEDS), lambda choices: 0)
    if not floats(arguments):
        return
    path, value = data.draw(st.sampled_from(floats(arguments))), data.draw(st.sampled_from(BAD))
    if path[0].key in case.unseen or (np.isinf(value) and path[0].key in case.infinite):
        return
    with pytest.raises(InputError, match=MESSAGE):
        call(case, spoilt(arguments, path, data.draw(st.integers(0, 99)), value))


def check_dtype(case, data):
    """One array in another dtype; whole numbers stand for themselves."""
    arguments, _ = draw(case, data.draw(SEEDS), lambda choices: 0)
    if not floats(arguments):
        return
    path, dtype = data.draw(st.sampled_from(floats(arguments))), data.draw(st.sampled_from(DTYPES))
    if path[0].key in ("params", *case.unseen) and not jnp.issubdtype(dtype, jnp.floating):
        return  # Leaves that are no floating arrays are constants.
    array = at(arguments, path)
    array = np.rint(4 * array) if jnp.issubdtype(dtype, np.integer) else array
    changed = put(arguments, path, array.astype(dtype))
    with warnings.catch_warnings():
        # JAX's own, where NumPy's float64 becomes a float32.
        warnings.filterwarnings("ignore", "Explicitly requested dtype")
        got = refused(lambda: case.call(**changed if dtype is np.float64 else device(changed)))
    if got is None or case.degrees is not None:
        return
    assert dtype is not np.complex64, "complex numbers are neither refused nor meant"
    same = put(arguments, path, at(changed, path).astype(np.float32))
    for mine, right in zip(numbers(got), run(case, same), strict=True):
        # What is narrow on its way into a function is computed as narrowly.
        narrow = path[0].key == "params" or (is_float(mine) and jnp.finfo(mine.dtype).bits < 32)
        if narrow:
            np.testing.assert_allclose(mine.astype(float), right, rtol=5e-2, atol=5e-2)
        else:
            compare(case, mine, right)


@each
@few(1)
@given(data=st.data())
def test_other_dtypes_are_refused_or_right(case, data):
    check_dtype(case, data)


def check_shape(case, data):
    """One array with an axis more, less, empty or longer."""
    arguments, _ = draw(case, data.draw(SEEDS), lambda choices: 0)
    arrays = [path for path, leaf in jax.tree_util.tree_flatten_with_path(arguments)[0] if np.ndim(leaf)]
    if not arrays or case.degrees is not None or case.name == "kl_divergence":
        return  # Any pytree of weights will do.
    path = data.draw(st.sampled_from(arrays))
    array = at(arguments, path)
    how = data.draw(st.sampled_from(["more", "empty", "first", "longer", "last"]))
    changed = {
        "more": lambda: array[None],
        "empty": lambda: array[..., :0],
        "first": lambda: array[:0],
        "longer": lambda: np.concatenate([array, array[:1]]),
        "last": lambda: array[..., 0],
    }[how]()
    try:
        got = call(case, put(arguments, path, changed))
    except InputError:
        return
    except (TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        complaint = repr(error)
    else:
        complaint = None
    if complaint is not None:
        # The network's own, not the metric's.
        assert "dot_general" in complaint or "broadcast" in complaint, complaint
        return
    assert how in ("longer", "more", "last"), f"{path} {how} gives {got}"


@each
@few(2)
@given(data=st.data())
def test_other_shapes_are_refused(case, data):
    check_shape(case, data)


WITH_KEYS = [name for name in FUNCTIONS if "key" in inspect.signature(getattr(metrics, name)).parameters]


@pytest.mark.parametrize("name", WITH_KEYS)
@pytest.mark.parametrize(
    "make",
    [lambda: jax.random.PRNGKey(0), lambda: 0, lambda: jax.random.split(jax.random.key(0), 2)],
    ids=["old", "int", "two"],
)
def test_other_keys_are_refused(name, make, monkeypatch):
    bad = make()
    monkeypatch.setattr(jax.random, "key", lambda *_: bad)
    if name == "conv_operator_norm":
        with pytest.raises(InputError, match="typed key"):
            metrics.conv_operator_norm(jnp.ones((1, 1, 1, 1)), (2, 2, 1), key=bad)
        return
    cases = [case for case in CASES if case.name == name and case.keyed]
    assert cases
    for case in cases:
        arguments, _ = draw(case, 0, lambda choices: 0)
        with pytest.raises(InputError, match="typed key"):
            call(case, arguments)


@pytest.mark.parametrize("name", ["margin", "margin_percentile"])
@pytest.mark.parametrize("label", [-1, 3, 127])
def test_labels_out_of_range(name, label):
    (case,) = (case for case in CASES if case.name == name)
    arguments, _ = draw(case, 0, lambda choices: 0)
    arguments["ys"] = np.array([0, label, 1], np.int32)
    with pytest.raises(InputError, match="labels from"):
        call(case, arguments)
    found = numbers(jax.jit(case.call)(**device(arguments)))[0]
    assert np.isnan(found if name == "margin_percentile" else found[1]).all()


def test_the_hook_refuses_what_we_refuse():
    jaxtyping.config.update("jaxtyping_disable", False)
    margins = np.zeros((2, 2), np.float32)
    with pytest.raises((InputError, jaxtyping.TypeCheckError), match="margins"):
        metrics.percentile_of_margins(jnp.asarray(margins))


@pytest.mark.slow
@each
@few(6)
@given(data=st.data())
def test_many_dtypes_and_shapes_are_refused_or_right(case, data):
    check_dtype(case, data)
    check_shape(case, data)
