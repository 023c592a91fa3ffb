"""Kendall's coefficient with one hyper-parameter moving at a time, on average and at worst."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxsens.stats.checks import check_points, refuse

__all__ = ["Environment", "Granulated", "granulated_kendall", "moves_alone", "worst_environment"]


class Granulated(NamedTuple):
    """The mean of the coefficients of the hyper-parameters, and these."""

    value: float
    per_hyperparameter: dict[str, float]


class Environment(NamedTuple):
    """Points that differ in one hyper-parameter only: its name, the others' values, the number of points."""

    value: float
    hyperparameter: str
    fixed: dict[str, object]
    num_points: int


def granulated_kendall(
    measure: ArrayLike, gap: ArrayLike, hyperparameters: Mapping[str, ArrayLike]
) -> Granulated:
    """Kendall's coefficient with one hyper-parameter moving at a time (Jiang et al. 2019, section 3).

    For hyper-parameter i, the points that agree in all others form groups; within a group
    `tau = mean of sign(m_a - m_b) sign(g_a - g_b)` over its pairs with different values of i (a tie counts
    0); `psi_i` is the mean of tau over groups that have such a pair, and the value the mean of psi_i over i.
    A measure that only follows, say, the depth scores well on the plain coefficient and badly here.

    Args:
        measure, gap: shape (n,), n >= 3, neither constant: the complexity measure and the generalisation gap.
        hyperparameters: name -> n values (numbers or text).

    Raises:
        StatsError: as `correlation`, lengths that differ, or a hyper-parameter that never moves alone.

    Cost: O(n^2) for each hyper-parameter at most.
    """
    environments = _environments(measure, gap, hyperparameters)
    per = {
        name: float(np.mean([e.value for e in environments if e.hyperparameter == name]))
        for name in hyperparameters
    }
    return Granulated(float(np.mean(list(per.values()))), per)


def worst_environment(
    measure: ArrayLike, gap: ArrayLike, hyperparameters: Mapping[str, ArrayLike]
) -> Environment:
    """The group of points, differing in one hyper-parameter only, that the measure ranks worst.

    The robust reading of `granulated_kendall` after Dziugaite et al. (2020): the minimum over its groups in
    place of their mean, since a measure that explains generalisation must do so in each. The groups are
    those of `granulated_kendall` (theirs are finer: pairs of values); the first is given among equals.
    Arguments, errors and cost are those of `granulated_kendall`.
    """
    return min(_environments(measure, gap, hyperparameters), key=lambda environment: environment.value)


def moves_alone(hyperparameters: Mapping[str, ArrayLike]) -> bool:
    """Whether for each hyper-parameter two points differ in it alone, as `granulated_kendall` needs.

    Cost: O(n) for each hyper-parameter.
    """
    settings = [np.asarray(values).tolist() for values in hyperparameters.values()]
    points = set(zip(*settings, strict=True))
    return bool(points) and all(
        len({point[:index] + point[index + 1 :] for point in points}) < len(points)
        for index in range(len(settings))
    )


def _environments(
    measure: ArrayLike, gap: ArrayLike, hyperparameters: Mapping[str, ArrayLike]
) -> list[Environment]:
    """Every group of points that differ in one hyper-parameter only, with its coefficient."""
    measure, gap = check_points(measure, gap)
    settings = {name: np.asarray(values).tolist() for name, values in hyperparameters.items()}
    if not settings:
        raise refuse("no hyper-parameters", "one or more", "name the columns that were varied")
    for name, values in settings.items():
        if len(values) != len(measure):
            raise refuse(f"{len(values)} values of {name!r}", f"{len(measure)}", "pass one value per point")
    agreement = np.sign(measure[:, None] - measure) * np.sign(gap[:, None] - gap)
    environments = []
    for name, moving in settings.items():
        others = [other for other in settings if other != name]
        groups: dict[tuple, list[int]] = {}
        for index in range(len(measure)):
            groups.setdefault(tuple(settings[other][index] for other in others), []).append(index)
        found = []
        for fixed, members in groups.items():
            values = [moving[index] for index in members]
            differ = np.array([[a != b for b in values] for a in values])
            if differ.any():
                tau = float(agreement[np.ix_(members, members)][differ].mean())
                found.append(Environment(tau, name, dict(zip(others, fixed, strict=True)), len(members)))
        if not found:
            raise refuse(
                f"no two points that differ in {name!r} alone",
                "a group of them",
                f"add cells that vary {name!r} alone, or leave it out if it is constant",
            )
        environments += found
    return environments
