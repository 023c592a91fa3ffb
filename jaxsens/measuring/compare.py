"""Several networks, or architectures before training, on the same examples: which differ, how they rank."""

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Num

from jaxsens.checks import check_at_least, check_choice, check_key, refuse
from jaxsens.measuring.comparison import Comparison, Pair, Ranked
from jaxsens.measuring.contrasts import Contrast, all_pairs, possible_ranks, sample_of
from jaxsens.measuring.examples import Examples, Network, open_network
from jaxsens.measuring.measure import common_notes, plan_of, quantities_of
from jaxsens.measuring.options import Options
from jaxsens.measuring.passes import Passes
from jaxsens.measuring.programs import Programs
from jaxsens.measuring.quantities import Quantity
from jaxsens.measuring.registry import MEASURES
from jaxsens.measuring.selection import select
from jaxsens.measuring.specs import MeasureSpec
from jaxsens.types import Function, Params, PRNGKey

__all__ = ["Untrained", "compare"]

# Folded into the key, besides the model's name: the noise splits the key itself.
_SEEDS = 2
_BEFORE_TRAINING = (
    "Before training S ranked the later loss of networks from standard normal weights, but neither gap nor "
    "error of networks from He's: train each for a while and compare the checkpoints."
)


@dataclasses.dataclass(frozen=True)
class Untrained:
    """An architecture: `f(params, x) -> (K,)` of one example, and `init(key) -> params`."""

    f: Function
    init: Callable[[Any], Params]


def compare(
    models: Mapping[str, tuple[Function, Params] | Untrained],
    xs: Float[jax.Array | np.ndarray, "n *shape"],
    ys: Num[jax.Array | np.ndarray, "n *targets"] | None = None,
    *,
    key: PRNGKey,
    by: str | None = None,
    also: str | Sequence[str] = (),
    confidence: float = 0.95,
    num_seeds: int = 5,
    loss: str = "cross_entropy",
    noise_std: float | int = 0.1,
    num_draws: int = 1,
    chunk_size: int | None = None,
    tangent_examples: int | None = None,
    alpha: float | int = 0.01,
    num_perturbations: int = 100,
    watch: Callable[[str, str], None] | None = None,
) -> Comparison:
    """Models in the order of one measure, and which of them the data can tell apart.

    All are measured on the same examples with the same noise, so differences are paired. Measures that may
    differ by decades are compared by their ratio. `jaxsens.measuring.contrasts` says how.

    Args:
        models: by name, either all trained, `(f, params)`, or all architectures, `Untrained(f, init)`, each
            of which is drawn `num_seeds` times.
        xs, ys: examples as for `measure`, n of them; the numbers of outputs must agree.
        key: a typed key: of the noise, which is the same for all models, and of the seeds.
        by: the measure to rank by. None takes "softmax_jacobian_norm" ("jacobian_norm" with loss="mse"), or
            "output_sensitivity" for architectures.
        also: other measures to show, one or more, taken in the same passes. The ranking does not use them.
        confidence: of all intervals, and of all ranks, together.
        num_seeds: 2 or more, for architectures.
        loss, noise_std, num_draws, chunk_size, tangent_examples, alpha, num_perturbations: as for `measure`.
        watch: told "checking" or "measuring" and a model's name, before each. All are checked first.

    Returns:
        A `Comparison`. A model whose measure is not finite, or 0 where ratios are compared, is not ranked.

    Raises:
        InputError: for fewer than 2 models, trained ones among architectures, other numbers of outputs, a
            measure whose direction tells nothing of generalisation, a bad option, or as `measure` does.

    Cost: that of `measure` for each network. Networks that differ in arrays alone share their compiled
    programs: those of one function f, those that one adapter made of models of one architecture, and those
    whose f is a `jax.tree_util.Partial` of one function. The expected sharpness is compiled for each.
    """
    options = Options(loss, noise_std, num_draws, chunk_size, tangent_examples, alpha, num_perturbations)
    check_key(key)
    check_at_least("num_seeds", num_seeds, 2)
    if not 0 < confidence < 1:
        raise refuse(f"confidence={confidence}", "a share between 0 and 1", "pass 0.95 for 95%")
    untrained = _are_untrained(models)
    name = by or default_measure(untrained=untrained, loss=loss)
    check_choice("by", name, [spec.name for spec in MEASURES.values() if spec.better])
    others = (also,) if isinstance(also, str) else also
    specs = select((name, *others), loss=loss, labelled=ys is not None)
    examples = Examples.of(xs, ys)

    def networks(model: str) -> Iterator[Network]:
        given = models[model]
        if not isinstance(given, Untrained):
            yield open_network(*given, examples, specs, options)
            return
        seeds = jax.random.fold_in(jax.random.fold_in(key, _SEEDS), zlib.crc32(model.encode()))
        for seed in jax.random.split(seeds, num_seeds):
            yield open_network(given.f, given.init(seed), examples, specs, options)

    tell = watch or (lambda stage, model: None)
    firsts = {}
    for model in models:
        tell("checking", model)
        firsts[model] = next(networks(model))
    _check_outputs({model: network.num_outputs for model, network in firsts.items()})
    found: dict[str, list[dict[MeasureSpec, Quantity]]] = {model: [] for model in models}
    compiled: list[Programs] = []
    for model in models:
        tell("measuring", model)
        for network in networks(model):
            fitting = [p for p in compiled if p.serves(network.f, network.params)]
            compiled += [] if fitting else [Programs(network.f, network.params)]
            programs = (fitting or compiled)[-1]
            passes = Passes(network, programs, examples, key=key, options=options, plan=plan_of(specs))
            found[model].append(quantities_of(passes, specs, by_name=True))

    narrow = sorted({dtype for network in firsts.values() for dtype in network.narrow})
    notes = common_notes(narrow, len(examples.xs))
    return rank(found, MEASURES[name], confidence, len(examples.xs), options, notes, untrained=untrained)


def default_measure(*, untrained: bool, loss: str) -> str:
    """The measure that ranked networks best in our experiments, of those that there are for them."""
    if untrained:
        return "output_sensitivity"
    return "softmax_jacobian_norm" if loss == "cross_entropy" else "jacobian_norm"


def rank(
    found: Mapping[str, Sequence[Mapping[MeasureSpec, Quantity]]],
    by: MeasureSpec,
    confidence: float,
    num_examples: int,
    options: Options,
    notes: Sequence[str],
    *,
    untrained: bool,
) -> Comparison:
    """The result, from each model's measures of each of its networks."""
    reasons = {model: _not_ranked([network[by] for network in of], by) for model, of in found.items()}
    samples = {
        model: sample_of([network[by] for network in of], ratio=by.ratio)
        for model, of in found.items()
        if reasons[model] is None
    }
    order = sorted(samples, key=lambda model: samples[model].value, reverse=by.better == "larger")
    differences = all_pairs([samples[model] for model in order], confidence=confidence, ratio=by.ratio)
    ranks = possible_ranks(differences, len(order), larger_is_better=by.better == "larger")
    pairs = tuple(_pair(order[i], order[j], pair) for (i, j), pair in differences.items())
    ties: dict[str, list[str]] = {model: [] for model in order}
    for pair in pairs:
        if not pair.told_apart:
            ties[pair.first].append(pair.second)
            ties[pair.second].append(pair.first)
    rows = []
    for model in (*order, *(model for model in found if reasons[model])):
        of_model = found[model]
        summaries = {spec.name: _summary([one[spec] for one in of_model], spec) for spec in of_model[0]}
        best, worst = ranks[order.index(model)] if model in samples else (None, None)
        rows.append(
            Ranked(
                model,
                *summaries.pop(by.name),
                best,
                worst,
                tuple(ties.get(model, ())),
                len(of_model),
                summaries,
                reasons[model],
            )
        )
    notes = [*notes, f"{by.name}: {by.misleads}", *([_BEFORE_TRAINING] if untrained else [])]
    return Comparison(tuple(rows), pairs, by, confidence, num_examples, options.settings(), tuple(notes))


def _are_untrained(models: Any) -> bool:
    """Whether all models are architectures; refuses anything but two or more models of one kind."""
    if not isinstance(models, Mapping) or len(models) < 2:
        raise refuse(
            f"models of type {type(models).__name__}",
            "2 or more models by name",
            "pass {'a': (f, params), 'b': (f, params)}, or measure a single one",
        )
    for name, model in models.items():
        pair = isinstance(model, tuple) and len(model) == 2 and callable(model[0])
        if not isinstance(name, str) or not (pair or isinstance(model, Untrained)):
            raise refuse(
                f"models[{name!r}] of type {type(model).__name__}",
                "a name and (f, params), or Untrained(f, init)",
                "pass the pair",
            )
    kinds = {isinstance(model, Untrained) for model in models.values()}
    if len(kinds) > 1:
        raise refuse(
            "trained networks among architectures", "one kind", "compare each with its own, or train them all"
        )
    return kinds.pop()


def _check_outputs(outputs: Mapping[str, int]) -> None:
    if len(set(outputs.values())) > 1:
        listed = ", ".join(f"{name} with {count}" for name, count in outputs.items())
        raise refuse(
            f"models of other numbers of outputs: {listed}", "one number", "compare those of one task"
        )


def _not_ranked(networks: Sequence[Quantity], by: MeasureSpec) -> str | None:
    """Why a model has no place, or None."""
    for seed, network in enumerate(networks):
        where = f" of seed {seed}" if len(networks) > 1 else ""
        if not math.isfinite(network.value):
            return f"not ranked, no {by.name}{where}: {network.reason}"
        if by.ratio and network.value <= 0:
            return f"not ranked, {by.name}{where} is 0: its outputs do not respond"
    return None


def _summary(networks: Sequence[Quantity], spec: MeasureSpec) -> tuple[float, float | None]:
    """A model's value and its standard error."""
    if len(networks) == 1:
        return networks[0].value, networks[0].stderr
    if _not_ranked(networks, spec) is not None:
        return math.nan, None
    sample = sample_of(networks, ratio=spec.ratio)
    return sample.mean, sample.stderr


def _pair(first: str, second: str, found: Contrast) -> Pair:
    return Pair(first, second, found.value, found.low, found.high, found.p_value, found.told_apart)
