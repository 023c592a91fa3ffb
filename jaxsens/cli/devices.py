"""The devices that JAX has, and the settings that its numbers depend on. JAX alone is imported."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["device_facts"]


def device_facts() -> dict[str, Any]:
    """In plain types. `matmul_error` is of a product at JAX's own setting; the measures take the highest."""
    return {
        "devices": [
            {
                "id": device.id,
                "platform": device.platform,
                "kind": device.device_kind,
                "memory_gb": _memory_gb(device),
            }
            for device in jax.devices()
        ],
        "settings": {
            "jax_enable_x64": bool(jax.config.jax_enable_x64),
            "jax_default_matmul_precision": jax.config.jax_default_matmul_precision,
            "matmul_error": _matmul_error(),
        },
    }


def _matmul_error() -> float | None:
    """The largest error of a product of two 256 x 256 matrices over its largest entry; None if not finite."""
    draw = np.random.default_rng(0)
    a, b = (draw.normal(size=(256, 256)).astype(np.float32) for _ in range(2))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    found = np.asarray(jnp.asarray(a) @ jnp.asarray(b), np.float64)
    error = float(np.max(np.abs(found - exact)) / np.max(np.abs(exact)))
    return error if math.isfinite(error) else None


def _memory_gb(device: Any) -> float | None:
    """What a program may use there; None where JAX does not know, as of a CPU."""
    stats = device.memory_stats()
    return None if not stats or "bytes_limit" not in stats else round(stats["bytes_limit"] / 1e9, 1)
