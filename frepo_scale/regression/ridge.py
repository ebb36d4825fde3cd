"""Kernel ridge regression on features (ALGORITHM.md section 4, step 3).

Legend: R rows of the regression (N, or 2N with flip), B target batch, d features, K classes.
`f_Rd` synthetic features, `f_Bd` target features, `y_RK` synthetic labels.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl

from frepo_scale.core.checks import check_choice, check_float

FORMS = ("auto", "dual", "primal")
_HIGHEST = jax.lax.Precision.HIGHEST


@dataclass(frozen=True)
class RidgeConfig:
    """How the regression is regularised and solved.

    Attributes:
      ridge: the multiple of tr(K)/R added to the diagonal; the paper's is 1e-6.
      form: "dual" solves R x R, "primal" d x d; "auto" takes the smaller.
    """

    ridge: float = 1e-6
    form: str = "auto"

    def __post_init__(self) -> None:
        """Refuses a negative ridge and an unknown form."""
        check_float("RIDGE", self.ridge, low=0.0)
        check_choice("Ridge.form", self.form, FORMS)


def ridge_weights(f_Rd: jax.Array, y_RK: jax.Array, config: RidgeConfig) -> jax.Array:  # noqa: N803
    """The linear map W (d, K) with `F_t W` = the ridge prediction for target features `F_t`.

    Dual: `W = FᵀA, (F Fᵀ + rho I) A = Y`; primal: `(FᵀF + rho I) W = FᵀY`. The two are equal
    (push-through identity) with the same `rho = ridge * tr(F Fᵀ) / R`, which is a function of F
    and carries gradient. Going through W instead of the kernel `F_t Fᵀ` gives the same prediction
    without a (B, R) matrix. `solve` keeps its one factorisation for the backward pass.

    Args:
      f_Rd: (R, d) float32 or float64.
      y_RK: (R, K), same dtype.
      config: ridge and form.
    """
    rows, dim = f_Rd.shape
    with jax.default_matmul_precision("highest"):
        rho = config.ridge * jnp.sum(jnp.square(f_Rd)) / rows  # tr(F Fᵀ) = sum of squares
        if config.form == "dual" or (config.form == "auto" and rows <= dim):
            k_RR = f_Rd @ f_Rd.T
            alpha_RK = jsl.solve(k_RR + rho * jnp.eye(rows, dtype=k_RR.dtype), y_RK, assume_a="pos")
            return f_Rd.T @ alpha_RK
        g_dd = f_Rd.T @ f_Rd
        return jsl.solve(
            g_dd + rho * jnp.eye(dim, dtype=g_dd.dtype), f_Rd.T @ y_RK, assume_a="pos"
        )


def ridge_predict(
    f_Bd: jax.Array,  # noqa: N803
    f_Rd: jax.Array,  # noqa: N803
    y_RK: jax.Array,  # noqa: N803
    config: RidgeConfig,
) -> jax.Array:
    """Predictions (B, K) for target features: `F_t F_sᵀ (F_s F_sᵀ + rho I)^-1 Y_s`."""
    return jnp.matmul(f_Bd, ridge_weights(f_Rd, y_RK, config), precision=_HIGHEST)
