"""Measures of a pure function `f(params, x) -> (K,)` of one example, from any library or none."""

from jaxsens.metrics.bias_variance import BiasVariance, VarianceParts, bias_variance, decompose_variance
from jaxsens.metrics.jacobian import (
    JacobianNorms,
    input_jacobian_gram,
    input_jacobian_norm,
    input_jvp,
    jacobian_norms,
)
from jaxsens.metrics.sensitivity import (
    linearized_output_sensitivity,
    output_noise,
    output_sensitivity,
    sensitivity_of_noise,
)
from jaxsens.metrics.theory import (
    bias_term,
    logit_variance,
    mlp_sensitivity_at_init,
    predicted_logit_variance,
    predicted_loss,
    predicted_variance,
)

__all__ = [
    "BiasVariance",
    "JacobianNorms",
    "VarianceParts",
    "bias_term",
    "bias_variance",
    "decompose_variance",
    "input_jacobian_gram",
    "input_jacobian_norm",
    "input_jvp",
    "jacobian_norms",
    "linearized_output_sensitivity",
    "logit_variance",
    "mlp_sensitivity_at_init",
    "output_noise",
    "output_sensitivity",
    "predicted_logit_variance",
    "predicted_loss",
    "predicted_variance",
    "sensitivity_of_noise",
]
