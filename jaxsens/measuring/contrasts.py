"""Which of several models differ in one measure, all pairs at once.

A difference d of two models has independent sources of error: the examples, which all models share, so that
only the difference of their influences counts; the seeds of each model; its own Monte-Carlo. Each source k
has a variance v_k with g_k degrees of freedom, and d / sqrt(sum_k v_k) is taken as Student's t with

    (sum_k v_k)^2 / sum_k (v_k^2 / g_k)                 (Satterthwaite 1946, Welch 1947)

degrees of freedom: the paired t test for trained networks, Welch's for exact measures of architectures. The
interaction of seeds and examples is in both variances, so their sum errs upwards.

A ratio r = b / a of trained networks has Fieller's interval (1954): all r for which the paired t test does
not reject that b - r a is 0. It excludes 1 where that test tells the two apart. Norms have long tails, with
which the delta method for log(b / a) tells equal networks apart twice as often as it should (n = 100), and
this does not. Architectures are compared by the difference of their mean logarithms over seeds.

All m = k (k - 1) / 2 intervals hold together with the stated confidence or more, whatever depends on what:
each has the confidence 1 - (1 - confidence) / m (Bonferroni; Dunn 1961). Two models are told apart where the
interval of their difference excludes 0, or that of their ratio 1. The ranks that this leaves open to a model
hold together as well (Klein, Wright and Wieczorek 2020).
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student

from jaxsens.measuring.quantities import Quantity

__all__ = ["Contrast", "Sample", "all_pairs", "possible_ranks", "sample_of"]


class Source(NamedTuple):
    """A variance, and its degrees of freedom."""

    variance: float
    degrees: float


class Sample(NamedTuple):
    """A model: its one network, or the mean over seeds, of logarithms where ratios are compared."""

    value: float
    influence: Float[np.ndarray, " n"] | None
    """Of each example on `value`."""
    sources: tuple[Source, ...]
    """Of this model alone: its seeds, its Monte-Carlo."""
    is_log: bool

    @property
    def stderr(self) -> float | None:
        """One standard error of `mean`, from all sources; None for an exact number."""
        sources = self.sources + _of_examples(self.influence)
        if not sources:
            return None
        stderr = math.sqrt(sum(source.variance for source in sources))
        return stderr * self.mean if self.is_log else stderr

    @property
    def mean(self) -> float:
        """The value itself: of logarithms the geometric mean."""
        return _exp(self.value) if self.is_log else self.value


class Contrast(NamedTuple):
    """The second model less the first, or over it; its simultaneous interval, and its adjusted p-value."""

    value: float
    low: float
    high: float
    p_value: float
    equal: float
    """What it is for equal models: 0 or 1."""

    @property
    def told_apart(self) -> bool:
        """Whether the interval excludes that."""
        return bool(self.low > self.equal or self.high < self.equal)


def sample_of(networks: Sequence[Quantity], *, ratio: bool) -> Sample:
    """One model: a trained network by itself, or one network for each of several seeds."""
    is_log = ratio and len(networks) > 1
    if is_log:
        networks = [_logarithm(network) for network in networks]
    values = np.array([network.value for network in networks])
    influences = [network.influence for network in networks if network.influence is not None]
    sources = []
    if len(values) > 1:
        sources.append(Source(float(values.var(ddof=1)) / len(values), len(values) - 1))
    own = [network for network in networks if network.variance is not None]
    if own:
        variance = sum(network.variance or 0.0 for network in own) / len(values) ** 2
        sources.append(Source(variance, sum(network.degrees or 1 for network in own)))
    influence = np.mean(influences, axis=0) if influences else None
    return Sample(float(values.mean()), influence, tuple(sources), is_log)


def all_pairs(
    samples: Sequence[Sample], *, confidence: float, ratio: bool
) -> dict[tuple[int, int], Contrast]:
    """Each pair of models i < j, j against i, with intervals that hold together."""
    pairs = list(combinations(range(len(samples)), 2))
    tail = (1 - confidence) / (2 * max(1, len(pairs)))
    contrast = _ratio if ratio else _difference
    return {(i, j): contrast(samples[i], samples[j], tail, len(pairs)) for i, j in pairs}


def possible_ranks(
    pairs: dict[tuple[int, int], Contrast], count: int, *, larger_is_better: bool
) -> list[tuple[int, int]]:
    """For each of `count` models the ranks from 1 that its pairs leave open, best first."""
    better, worse = np.zeros(count, int), np.zeros(count, int)
    for (i, j), pair in pairs.items():
        if pair.told_apart:
            best, other = (j, i) if (pair.value > pair.equal) == larger_is_better else (i, j)
            better[other] += 1
            worse[best] += 1
    return [(1 + int(b), count - int(w)) for b, w in zip(better, worse, strict=True)]


def _difference(first: Sample, second: Sample, tail: float, num_pairs: int) -> Contrast:
    """Second less first, by Student's t with Satterthwaite's degrees of freedom."""
    sources = first.sources + second.sources
    if first.influence is not None and second.influence is not None:
        sources += _of_examples(second.influence - first.influence)
    value = second.value - first.value
    variance = sum(source.variance for source in sources)
    if math.isnan(variance):
        return Contrast(value, -math.inf, math.inf, 1.0, 0.0)
    if variance == 0:
        # Exact numbers, or networks that agree on every example.
        return Contrast(value, value, value, float(value == 0), 0.0)
    shares = [(source.variance / variance, source.degrees) for source in sources]
    degrees = 1 / sum(share**2 / freedom for share, freedom in shares)
    stderr = math.sqrt(variance)
    half = stderr * float(student.ppf(1 - tail, degrees))
    p_value = min(1.0, 2 * num_pairs * float(student.sf(abs(value) / stderr, degrees)))
    return Contrast(value, value - half, value + half, p_value, 0.0)


def _ratio(first: Sample, second: Sample, tail: float, num_pairs: int) -> Contrast:
    """Second over first, both positive: of geometric means over seeds, or of two networks (Fieller)."""
    found = _difference(first, second, tail, num_pairs)
    if first.is_log:
        return Contrast(_exp(found.value), _exp(found.low), _exp(found.high), found.p_value, 1.0)
    value = second.value / first.value
    if first.influence is None or second.influence is None:
        return Contrast(value, value, value, found.p_value, 1.0)
    # In units of the values: rho = r a / b, with (1 - rho)^2 <= t^2 (v_bb - 2 rho v_ab + rho^2 v_aa).
    a, b = first.influence / first.value, second.influence / second.value
    n = len(a)
    square = float(student.ppf(1 - tail, n - 1)) ** 2 / (n * (n - 1))
    aa, ab, bb = (1 - square * float(left @ right) for left, right in ((a, a), (a, b), (b, b)))
    root = math.sqrt(max(ab**2 - aa * bb, 0.0))
    if aa > 0:
        low, high = (ab - root) / aa, (ab + root) / aa
    else:
        # The first may be 0 for all that the examples tell: no ratio is too large.
        low, high = (bb / (ab + root) if ab + root > 0 else 0.0), math.inf
    return Contrast(value, max(0.0, low) * value, high * value, found.p_value, 1.0)


def _of_examples(influence: np.ndarray | None) -> tuple[Source, ...]:
    """The variance of a mean over examples, whose influences have mean 0."""
    if influence is None:
        return ()
    n = len(influence)
    return (Source(float(influence @ influence) / (n * (n - 1)), n - 1),)


def _logarithm(network: Quantity) -> Quantity:
    """log of a positive quantity. Influences are the jackknife's: v - psi_x / (n - 1) is v without x."""
    influence, variance, value = network.influence, network.variance, network.value
    if influence is not None:
        n = len(influence)
        with np.errstate(divide="ignore", invalid="ignore"):
            without = np.log1p(-influence / ((n - 1) * value))
        influence = (n - 1) * (without.mean() - without)
    if variance is not None:
        variance = variance / value**2
    return network._replace(value=math.log(value), influence=influence, variance=variance)


def _exp(value: float) -> float:
    """Infinite where it leaves the range of numbers."""
    with np.errstate(over="ignore", under="ignore"):
        return float(np.exp(value))
