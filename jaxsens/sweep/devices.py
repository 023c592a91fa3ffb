"""The measures on several devices: the examples of a chunk are spread over them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

__all__ = ["example_mesh", "spread", "spread_all"]


def example_mesh(mesh: Mesh, num_examples: int) -> Mesh:
    """A mesh with the axis "examples" over the most of these devices that divide the examples evenly.

    So nothing is padded, which would change the shapes that a program sees.
    """
    devices = mesh.devices.ravel().tolist()
    count = max(n for n in range(1, len(devices) + 1) if num_examples % n == 0)
    return jax.make_mesh((count,), ("examples",), (AxisType.Auto,), devices=devices[:count])


def spread(program: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """The jitted `program(params, state, xs, *rest)` with the examples xs (n, ...) spread over the mesh.

    All else is copied to each device. The results, NumPy's, are those of one device to rounding; random
    numbers are the same, since keys and shapes are. On one device it is `program` itself.
    """
    if mesh.size == 1:
        return program

    def call(params: Any, state: Any, xs: Any, *rest: Any) -> Any:
        part = example_mesh(mesh, len(xs))
        split, whole = (NamedSharding(part, PartitionSpec(*axes)) for axes in (["examples"], []))
        params, state, rest = jax.device_put((params, state, rest), whole)
        return jax.device_get(program(params, state, jax.device_put(xs, split), *rest))

    return call


def spread_all(programs: Any, mesh: Mesh, names: Sequence[str]) -> Any:
    """A NamedTuple of programs with those of these names spread over the mesh, None where there is none."""
    found = {name: getattr(programs, name) for name in names}
    return programs._replace(**{name: program and spread(program, mesh) for name, program in found.items()})
