"""The passes over the examples that measures share: each runs once, in chunks.

The last chunk is filled up with its last example, so that one program serves all of them; what comes of the
filling is dropped. Results are kept on the host.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from jaxsens.checks import InputError
from jaxsens.measuring import programs as of_chunk
from jaxsens.measuring.examples import Examples, Network
from jaxsens.measuring.options import LOSSES, PERTURBATIONS_PER_DRAW, Options
from jaxsens.measuring.programs import Derivatives, Programs
from jaxsens.metrics import expected_sharpness, log_path_norm
from jaxsens.types import Estimate, Params, PRNGKey

__all__ = ["NotFinite", "Pass", "Passes"]

# Examples, and reverse passes, per compiled call. On a CPU more than the cache holds are slower.
_FORWARD_EXAMPLES = {"cpu": 256}
_REVERSE_PASSES = {"cpu": 256}
_ON_ACCELERATORS = 1024
# Of a convolution network the derivatives of all its layers are held for so many.
_TANGENT_EXAMPLES = 8
# D's mini-batch (Appendix A).
_SHARPNESS_BATCH = 64
# Entries of all examples of `tangent_sensitivity` together, unless told otherwise: it differentiates in each.
_TANGENT_ENTRIES = 10_000


class NotFinite(Exception):
    """What a pass gave is not finite; no number is made of it."""


class Pass(NamedTuple):
    """A pass that was run: its seconds, those of its compilation (None: among them), its examples."""

    name: str
    seconds: float
    compile_seconds: float | None
    num_examples: int


class Passes:
    """What the measures of one network are made of. Each pass runs when first asked for, and once.

    `plan` names all passes that will be asked for: the logits come from that of the Jacobian where it is
    among them, and J^T 1 too. `ran` has the passes that were run, in order.
    """

    def __init__(
        self,
        network: Network,
        programs: Programs,
        examples: Examples,
        *,
        key: PRNGKey,
        options: Options,
        plan: frozenset[str],
    ) -> None:
        self.network: Network = network
        self.programs: Programs = programs
        self.options: Options = options
        self.plan: frozenset[str] = plan
        self.xs: np.ndarray = examples.xs
        self.ys: np.ndarray | None = examples.ys
        self.noise_key, self.sharpness_key = jax.random.split(key)
        self.ran: dict[str, Pass] = {}
        self._found: dict[str, Any] = {}

    def serving(self, wanted: frozenset[str]) -> tuple[str, ...]:
        """The passes that were run in place of those wanted."""
        for more in ("jacobian", "gradient"):
            if more in self.plan:
                wanted = frozenset(more if name in ("forward", "gradient") else name for name in wanted)
                break
        return tuple(name for name in self.ran if name in wanted)

    @property
    def logits(self) -> Float[np.ndarray, "n K"]:
        """f(x) of each example."""
        if self.plan & {"jacobian", "gradient"}:
            return _finite("logits", self._derivatives.logits)
        return _finite("logits", self._once("forward", of_chunk.forward, self._forward_size))

    @property
    def jacobian_norms(self) -> Float[np.ndarray, " n"]:
        """|df/dx|_F of each example."""
        return _finite("Jacobian norms", self._derivatives.norm)

    @property
    def softmax_jacobian_norms(self) -> Float[np.ndarray, " n"]:
        """|d softmax(f)/dx|_F of each example."""
        return _finite("Jacobian norms of the softmax", self._derivatives.softmax_norm)

    @property
    def summed_gradient_norms(self) -> Float[np.ndarray, " n"]:
        """|J^T 1| of each example."""
        return _finite("gradients of the summed outputs", self._derivatives.summed_norm)

    @property
    def _derivatives(self) -> Derivatives:
        """Those of the plan: of the whole Jacobian, or of the summed outputs alone."""
        if "jacobian" in self.plan:
            size = max(1, self._per_call(_REVERSE_PASSES) // self.network.num_outputs)
            return self._once("jacobian", of_chunk.jacobian, self.options.chunk_size or size)
        return self._once("gradient", of_chunk.gradient, self._forward_size)

    @property
    def noise(self) -> Float[np.ndarray, "draws n K"]:
        """Output noise of each draw and example, as `output_noise` has it for all of xs."""
        if "noise" not in self._found:
            noise_std = np.asarray(self.options.noise_std, self.xs.dtype)
            examples = (self.logits, np.arange(len(self.xs), dtype=np.int32))
            self._found["noise"] = np.stack(
                [
                    self._over_chunks(
                        "noise",
                        of_chunk.noise,
                        self._forward_size,
                        *examples,
                        common=(noise_std, draw, self.noise_key),
                    )
                    for draw in np.arange(self.options.num_draws, dtype=np.int32)
                ]
            )
        return _finite("outputs of noisy inputs", self._found["noise"])

    @property
    def tangent(self) -> Float[np.ndarray, " examples"]:
        """|Sens(x)|_F^2 over all outputs, of the first examples."""
        size = self.options.chunk_size or _TANGENT_EXAMPLES
        found = self._once("tangent", of_chunk.tangent, size, self.num_tangent_examples)
        return _finite("tangent sensitivities", found)

    @property
    def sharpness(self) -> Estimate:
        """`expected_sharpness` of the mean loss of mini-batches drawn from the examples."""
        found = self._timed("sharpness", len(self.xs), self._sharpness)
        _finite("losses of perturbed networks", np.asarray(found))
        return found

    @property
    def path_norm(self) -> float:
        """`log_path_norm` of the parameters."""
        f, params, _, _ = self.network
        if "path" not in self._found:
            try:
                found, *spent = self.programs.run(of_chunk.path, f, params, self.xs[0])
            except InputError:
                # Signs of what f holds may be needed, which nobody can look at where it is an argument.
                return float(self._timed("path", 0, lambda: log_path_norm(f, params, self.xs.shape[1:])))
            self._found["path"], self.ran["path"] = found, Pass("path", *spent, num_examples=0)
        return float(self._found["path"])

    @property
    def num_tangent_examples(self) -> int:
        """As told, or as many as have together a fixed number of entries; it may be less than 2."""
        wanted = self.options.tangent_examples
        return min(len(self.xs), _TANGENT_ENTRIES // self.xs[0].size if wanted is None else wanted)

    def _sharpness(self) -> Estimate:
        xs, ys = jnp.asarray(self.xs), jnp.asarray(self.ys)

        def loss(params: Params, key: Array) -> Array:
            chosen = jax.random.randint(key, (min(_SHARPNESS_BATCH, len(xs)),), 0, len(xs))
            outputs = jax.vmap(lambda x: self.network.f(params, x))(xs[chosen]).astype(xs.dtype)
            return jnp.mean(LOSSES[self.options.loss](outputs, ys[chosen]))

        return expected_sharpness(
            loss,
            self.network.params,
            key=self.sharpness_key,
            alpha=self.options.alpha,
            num_perturbations=self.options.num_perturbations,
            perturbations_per_draw=PERTURBATIONS_PER_DRAW,
        )

    @property
    def _forward_size(self) -> int:
        return self.options.chunk_size or self._per_call(_FORWARD_EXAMPLES)

    @staticmethod
    def _per_call(sizes: dict[str, int]) -> int:
        return sizes.get(jax.default_backend(), _ON_ACCELERATORS)

    def _once(
        self, name: str, function: Callable[..., Any], size: int, num_examples: int | None = None
    ) -> Any:
        if name not in self._found:
            self._found[name] = self._over_chunks(name, function, size, num_examples=num_examples)
        return self._found[name]

    def _timed(self, name: str, num_examples: int, run: Callable[[], Any]) -> Any:
        """For metrics that compile on their own: their seconds hold the compilation."""
        if name not in self._found:
            began = time.perf_counter()
            self._found[name] = jax.block_until_ready(run())
            self.ran[name] = Pass(name, time.perf_counter() - began, None, num_examples)
        return self._found[name]

    def _over_chunks(
        self,
        name: str,
        function: Callable[..., Any],
        size: int,
        *examples: np.ndarray,
        common: tuple[Any, ...] = (),
        num_examples: int | None = None,
    ) -> Any:
        """The function of each chunk of xs and of what else belongs to its examples, put together.

        `num_examples` takes so many of the first examples.
        """
        n, parts, spent, compiling = num_examples or len(self.xs), [], 0.0, 0.0
        size = min(size, n)
        for start in range(0, n, size):
            picked = np.minimum(np.arange(start, start + size), n - 1)
            chunk = [a[picked] for a in (self.xs, *examples)]
            result, seconds, compile_seconds = self.programs.run(
                function, self.network.f, self.network.params, *chunk, *common
            )
            parts.append(result)
            spent, compiling = spent + seconds, compiling + compile_seconds
        before = self.ran.get(name, Pass(name, 0.0, 0.0, n))
        self.ran[name] = Pass(name, before.seconds + spent, (before.compile_seconds or 0.0) + compiling, n)
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:n], *parts)


def _finite(what: str, array: np.ndarray) -> np.ndarray:
    """The array, if all of it is finite."""
    bad = ~np.isfinite(array)
    if bad.any():
        raise NotFinite(f"{bad.sum()} of {bad.size} {what} are NaN or infinite")
    return array
