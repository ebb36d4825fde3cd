"""The settings of the distilled set and its optimiser (ALGORITHM.md section 2)."""

from dataclasses import dataclass, field

import optax

from frepo_scale.core.checks import LARGEST_COUNT, check_bool, check_choice, check_float, check_int

FEATURE_DTYPES = ("float32", "bfloat16")
FINAL_LEARNING_RATE = 0.1  # the cosine ends at this share of the learning rate


@dataclass(frozen=True)
class DistillConfig:
    """The distilled set and its optimiser.

    Attributes:
      ipc: images per class.
      steps: outer steps.
      learning_rate: LAMB's, for images and labels.
      flip: whether the regression also sees the left-right mirror images.
      learn_labels: whether labels are learned.
      seed: fixes every random choice of the run.
      feature_dtype: in which the nets compute the features of the regression, "float32" or
        "bfloat16"; Gram matrix and solve are in `RidgeConfig.precision` either way.
      chunk: images whose activations are held at once, on each device. More images are done
        one chunk after the other and run again for the gradient.
    """

    ipc: int = 1
    steps: int = 500_000
    learning_rate: float = 3e-4
    flip: bool = False
    learn_labels: bool = True
    seed: int = 0
    feature_dtype: str = "float32"
    chunk: int = field(default=1024, metadata={"operational": True})

    def __post_init__(self) -> None:
        """Refuses impossible values."""
        check_int("IPC", self.ipc, low=1)
        check_int("STEPS", self.steps, low=1, high=LARGEST_COUNT)
        check_float("LEARNING_RATE", self.learning_rate, low=0.0, open_low=True)
        check_bool("FLIP", self.flip)
        check_bool("LEARN_LABELS", self.learn_labels)
        check_int("SEED", self.seed, low=0, high=LARGEST_COUNT)
        check_choice("FEATURE_DTYPE", self.feature_dtype, FEATURE_DTYPES)
        check_int("CHUNK", self.chunk, low=1)


def lamb(config: DistillConfig) -> optax.GradientTransformation:
    """LAMB with cosine decay to 10 % over the run; the trust ratio is over the whole leaf."""
    return optax.lamb(learning_rate_schedule(config))


def learning_rate_schedule(config: DistillConfig) -> optax.Schedule:
    """Outer step to learning rate."""
    return optax.cosine_decay_schedule(
        config.learning_rate, config.steps, alpha=FINAL_LEARNING_RATE
    )
