"""Every measure of one network that is asked for, in as few passes over the examples as there can be."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, Num

from jaxsens.checks import check_key
from jaxsens.measuring.examples import Examples, open_network
from jaxsens.measuring.options import Options
from jaxsens.measuring.passes import Passes, Programs
from jaxsens.measuring.quantities import Quantity, found_or_reason
from jaxsens.measuring.results import Measurement, Measurements
from jaxsens.measuring.selection import SETS, select
from jaxsens.measuring.specs import MeasureSpec
from jaxsens.types import Function, Params, PRNGKey

__all__ = ["common_notes", "measure", "plan_of", "quantities_of", "report"]

# Below this many examples a standard error is itself rough.
_ROUGH = 30
# What is 0 for a constant function alone.
_DEAD = ("jacobian_norm",)


def measure(
    f: Function,
    params: Params,
    xs: Float[jax.Array | np.ndarray, "n *shape"],
    ys: Num[jax.Array | np.ndarray, "n *targets"] | None = None,
    *,
    key: PRNGKey,
    measures: str | Sequence[str] = "label_free",
    loss: str = "cross_entropy",
    noise_std: float | int = 0.1,
    num_draws: int = 1,
    chunk_size: int | None = None,
    tangent_examples: int | None = None,
    alpha: float | int = 0.01,
    num_perturbations: int = 100,
) -> Measurements:
    """What the sensitivity of one network and its other measures are, each with its standard error.

    The measures are the calls of `jaxsens.metrics` that docs/measuring.md lists, in the order in which they
    have ranked networks in our experiments.

    Args:
        f: `f(params, x) -> (K,)` of ONE example, before the softmax, in evaluation mode.
        params: its parameters. Leaves narrower than float32 are taken as float32, and a note says so.
        xs: n >= 2 examples of any shape, float32 or float64, as f takes them. They are perturbed as they are.
        ys: n class labels, or targets (n, K) for loss="mse". Only the measures that need labels use them.
        key: a typed key, `jax.random.key(seed)`.
        measures: "label_free", "all" (with ys), or names of measures.
        loss: "cross_entropy" for a classifier, or "mse": |f(x) - y|^2, and no measure of classifiers.
        noise_std: standard deviation of the noise on each entry of the input.
        num_draws: draws of it for each example.
        chunk_size: examples at once in every pass; None takes a number that suits the device. Memory is that
            of so many examples, times K for a Jacobian. The numbers are the same to rounding.
        tangent_examples: how many of the first examples have their tangent sensitivity taken; None takes
            10,000 / D of them, D the entries of x, and leaves the measure out where that is less than 2.
        alpha: scale of the perturbed parameters, see `expected_sharpness` and `kl_divergence`.
        num_perturbations: perturbed networks for the expected sharpness, a multiple of 10.

    Returns:
        `Measurements`. A measure that f does not allow, or that left the range of numbers, is NaN with its
        reason, if it was not asked for by name.

    Raises:
        InputError: for fewer than 2 examples, another dtype, a NaN or infinity in params or xs, an f whose
            output is no vector, a single output with "cross_entropy", labels that are missing, out of range
            or of another shape, an unknown measure, a bad option, or a measure asked for by name that f does
            not allow.

    Cost: one forward and K reverse passes, num_draws forward passes, and the tangent sensitivity, which is
    far more than the rest. All products are in full float32. It compiles programs and so runs outside `jit`.
    """
    options = Options(loss, noise_std, num_draws, chunk_size, tangent_examples, alpha, num_perturbations)
    check_key(key)
    specs = select(measures, loss=loss, labelled=ys is not None)
    examples = Examples.of(xs, ys)
    network = open_network(f, params, examples, specs, options)
    passes = Passes(
        network, Programs(f, network.params), examples, key=key, options=options, plan=plan_of(specs)
    )
    return report(passes, quantities_of(passes, specs, by_name=measures not in SETS))


def plan_of(specs: Sequence[MeasureSpec]) -> frozenset[str]:
    """All passes that these measures need."""
    return frozenset().union(*(spec.passes for spec in specs))


def quantities_of(
    passes: Passes, specs: Sequence[MeasureSpec], *, by_name: bool
) -> dict[MeasureSpec, Quantity]:
    """What each measure gives; those asked for by name refuse a network that does not allow them."""
    with jax.default_matmul_precision("highest"):
        return {spec: found_or_reason(spec.of, passes, refuses=by_name) for spec in specs}


def report(passes: Passes, found: dict[MeasureSpec, Quantity]) -> Measurements:
    """The result of one network."""
    network, options, n = passes.network, passes.options, len(passes.xs)
    notes = common_notes(network.narrow, n)
    if any(spec.name in _DEAD and quantity.value == 0 for spec, quantity in found.items()):
        notes.append("The outputs do not change with the input: robust, as any constant is.")
    return Measurements(
        tuple(_row(spec, quantity, passes) for spec, quantity in found.items()),
        tuple(passes.ran.values()),
        n,
        network.num_outputs,
        network.num_parameters,
        options.settings(),
        tuple(notes),
    )


def common_notes(narrow: Sequence[str], num_examples: int) -> list[str]:
    """What a reader has to know of the examples and the parameters."""
    notes = []
    if narrow:
        notes.append(f"Parameters of {', '.join(narrow)} were taken as float32.")
    if num_examples < _ROUGH:
        notes.append(f"{num_examples} examples are few: the standard errors are rough.")
    return notes


def _row(spec: MeasureSpec, quantity: Quantity, passes: Passes) -> Measurement:
    used = passes.serving(spec.passes)
    return Measurement(
        name=spec.name,
        label=spec.label,
        value=quantity.value,
        stderr=quantity.stderr,
        error=spec.error,
        better=spec.better,
        needs_labels=spec.needs_labels,
        num_examples=quantity.num_examples,
        seconds=sum((passes.ran[name].seconds for name in used), 0.0),
        passes=used,
        docs=spec.docs,
        reason=quantity.reason,
    )
