"""What is compiled for a network, kept for the cells that need the same."""

import functools

import jax

from jaxsens.models import ModelConfig, build, without_batch_norm
from jaxsens.sweep.cells import ComplexityConfig, MeasureConfig
from jaxsens.sweep.complexity import ComplexityPrograms, compile_complexity
from jaxsens.sweep.evaluate import Programs, compile_programs
from jaxsens.train import TrainConfig, Training, make_train

__all__ = ["shared_programs"]


# Compiling takes longer than measuring a small network, so a sweep does it once for equal architectures, and
# for the measures however these are trained.
@functools.lru_cache(maxsize=32)
def shared_programs(
    model: ModelConfig,
    input_shape: tuple[int, ...],
    num_outputs: int,
    train: TrainConfig,
    measure: MeasureConfig,
) -> tuple[Training, Programs]:
    """What is compiled for an architecture, its training and its measures; nothing is before it is called."""
    network = build(model, input_shape=input_shape, num_outputs=num_outputs)
    training = make_train(train, network.init, network.apply)
    return training, shared_measures(model, input_shape, num_outputs, measure)


@functools.lru_cache(maxsize=32)
def shared_measures(
    model: ModelConfig, input_shape: tuple[int, ...], num_outputs: int, measure: MeasureConfig
) -> Programs:
    """The measures' part of `shared_programs`."""
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
