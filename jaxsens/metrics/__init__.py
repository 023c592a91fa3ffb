"""Measures of a pure function `f(params, x) -> (K,)` of one example, from any library or none."""

from jaxsens.metrics.activations import (
    ActiveCounts,
    Margins,
    activation_pattern,
    active_counts,
    empirical_tangent_sensitivity,
    log_empirical_tangent_sensitivity,
    log_pattern_probability,
    margins_per_unit,
    mlp_preactivations,
)
from jaxsens.metrics.bias_variance import BiasVariance, VarianceParts, bias_variance, decompose_variance
from jaxsens.metrics.jacobian import (
    JacobianNorms,
    input_jacobian_gram,
    input_jacobian_norm,
    input_jvp,
    jacobian_norms,
)
from jaxsens.metrics.loss_estimators import (
    active_count_estimate,
    empirical_estimate,
    fisher_rao_estimate,
    fisher_rao_norm,
    jacobian_estimate,
    layerwise_norm_estimate,
    log_layerwise_norm,
    log_spectral_product,
    spectral_estimate,
)
from jaxsens.metrics.margins import MarginPercentile, margin, margin_percentile, percentile_of_margins
from jaxsens.metrics.norms import log_l2_norm, log_spectral_norm
from jaxsens.metrics.operator_norms import OperatorNorm, conv_operator_norm
from jaxsens.metrics.path_bounds import (
    log_active_path_bound,
    log_normal_absolute_moment,
    log_psi_star,
    log_region_bound,
    log_tangent_norm_bound,
)
from jaxsens.metrics.path_norms import log_path_norm
from jaxsens.metrics.relu_mlp import relu_mlp_tangent_sensitivity
from jaxsens.metrics.sensitivity import (
    linearized_output_sensitivity,
    output_noise,
    output_sensitivity,
    sensitivity_of_noise,
)
from jaxsens.metrics.tangent import (
    TangentMethod,
    mean_tangent_sensitivity,
    tangent_method,
    tangent_sample_sensitivity,
    tangent_sensitivity,
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
    "ActiveCounts",
    "BiasVariance",
    "JacobianNorms",
    "MarginPercentile",
    "Margins",
    "OperatorNorm",
    "TangentMethod",
    "VarianceParts",
    "activation_pattern",
    "active_count_estimate",
    "active_counts",
    "bias_term",
    "bias_variance",
    "conv_operator_norm",
    "decompose_variance",
    "empirical_estimate",
    "empirical_tangent_sensitivity",
    "fisher_rao_estimate",
    "fisher_rao_norm",
    "input_jacobian_gram",
    "input_jacobian_norm",
    "input_jvp",
    "jacobian_estimate",
    "jacobian_norms",
    "layerwise_norm_estimate",
    "linearized_output_sensitivity",
    "log_active_path_bound",
    "log_empirical_tangent_sensitivity",
    "log_l2_norm",
    "log_layerwise_norm",
    "log_normal_absolute_moment",
    "log_path_norm",
    "log_pattern_probability",
    "log_psi_star",
    "log_region_bound",
    "log_spectral_norm",
    "log_spectral_product",
    "log_tangent_norm_bound",
    "logit_variance",
    "margin",
    "margin_percentile",
    "margins_per_unit",
    "mean_tangent_sensitivity",
    "mlp_preactivations",
    "mlp_sensitivity_at_init",
    "output_noise",
    "output_sensitivity",
    "percentile_of_margins",
    "predicted_logit_variance",
    "predicted_loss",
    "predicted_variance",
    "relu_mlp_tangent_sensitivity",
    "sensitivity_of_noise",
    "spectral_estimate",
    "tangent_method",
    "tangent_sample_sensitivity",
    "tangent_sensitivity",
]
