"""What is compiled for a network, kept for the cells that need the same."""

import functools
from collections.abc import Callable
from pathlib import Path

import jax

from jaxsens.models import ModelConfig, build, without_batch_norm
from jaxsens.sweep.cells import AUGMENTATIONS, ComplexityConfig, MeasureConfig
from jaxsens.sweep.complexity import ComplexityPrograms, compile_complexity
from jaxsens.sweep.evaluate import Programs, compile_programs
from jaxsens.train import Member, TrainConfig, Training, initial, make_train

__all__ = ["release_programs", "shared_initial", "shared_measures", "shared_start", "shared_training"]

_MAPS = Path("/proc/self/maps")
_MOST_MAPS = Path("/proc/sys/vm/max_map_count")


def release_programs() -> bool:
    """Forgets all that is compiled where this process has half the memory maps that it may have; tells if so.

    XLA keeps a program for the CPU in several maps, a cell's programs in about 800. Linux allows 65,530 by
    default (`vm.max_map_count`), and the one more ends the process with a segmentation fault. Elsewhere than
    on Linux nothing is done.
    """
    try:
        most = int(_MOST_MAPS.read_text())
        with _MAPS.open() as maps:
            many = sum(1 for _ in maps) > most // 2
    except (OSError, ValueError):
        return False
    if many:
        jax.clear_caches()
    return many


# Compiling takes longer than measuring a small network, so a sweep does it once for equal architectures, and
# for the measures however these are trained.
@functools.lru_cache(maxsize=32)
def shared_training(
    model: ModelConfig, input_shape: tuple[int, ...], num_outputs: int, train: TrainConfig
) -> Training:
    """The training of an architecture; nothing is compiled before it is called."""
    network = build(model, input_shape=input_shape, num_outputs=num_outputs)
    augment = None if train.augment is None else AUGMENTATIONS[train.augment]
    return make_train(train, network.init, network.apply, augment=augment)


@functools.lru_cache(maxsize=32)
def shared_start(
    model: ModelConfig, input_shape: tuple[int, ...], num_outputs: int, train: TrainConfig
) -> Callable[..., Member]:
    """`Training.start` of an architecture and initialiser."""
    network = build(model, input_shape=input_shape, num_outputs=num_outputs)
    return make_train(train, network.init, network.apply).start


@functools.lru_cache(maxsize=32)
def shared_initial(model: ModelConfig, input_shape: tuple[int, ...], num_outputs: int) -> Callable:
    """`initial(key) -> (params, state)` of an architecture and initialiser, whatever its activation."""
    network = build(model, input_shape=input_shape, num_outputs=num_outputs)
    return jax.jit(functools.partial(initial, network.init))


@functools.lru_cache(maxsize=32)
def shared_measures(
    model: ModelConfig, input_shape: tuple[int, ...], num_outputs: int, measure: MeasureConfig
) -> Programs:
    """What is compiled to measure an architecture, however it is trained."""
    network = build(model, input_shape=input_shape, num_outputs=num_outputs)
    complexity = None
    if measure.complexity is not None:
        folded = jax.eval_shape(
            functools.partial(without_batch_norm, model), *jax.eval_shape(network.init, jax.random.key(0))
        )
        complexity = shared_complexity(folded.config, input_shape, num_outputs, measure.complexity)
    return compile_programs(model, network, measure, complexity)


@functools.lru_cache(maxsize=32)
def shared_complexity(
    folded: ModelConfig, input_shape: tuple[int, ...], num_outputs: int, config: ComplexityConfig
) -> ComplexityPrograms:
    """D's measures, for all networks that fold to one: with and without batch normalisation and dropout."""
    return compile_complexity(folded, input_shape, num_outputs, config)
