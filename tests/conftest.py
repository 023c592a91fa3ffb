"""Four CPU devices for every test, shapes checked by jaxtyping, and float64 where a test asks for it."""

import os

# Must stand before the first import of jax.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jaxtyping

jaxtyping.install_import_hook("jaxsens", "beartype.beartype")

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_of_a_module(request):
    """They end with it: each is some memory maps, of which Linux gives a process 65,530.

    What JAX compiles is kept for the next run, in a folder for each module, which one process has at a time:
    two would write one file. A folder for each process would know few of the modules that it gets next time.
    """
    if getattr(request.config, "cache", None) is not None:  # not with -p no:cacheprovider
        folder = request.config.cache.mkdir("jax") / request.module.__name__
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        compilation_cache.reset_cache()
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Double precision inside one test: for oracles."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def key():
    return jax.random.key(20200713)


@pytest.fixture
def plain():
    """Without jaxtyping's own checks, which would answer before ours: for tests of what users see."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
