"""The settings of the distilled set (docs/algorithm.md section 2)."""

from dataclasses import dataclass

from frepo_scale.core.checks import LARGEST_COUNT
from frepo_scale.core.settings import check_settings, setting
from frepo_scale.models.apply import NET_DTYPES
from frepo_scale.parallel.matmul import MATMUL_PRECISIONS


@dataclass(frozen=True)
class DistillConfig:
    """The distilled set."""

    ipc: int = setting(1, "IPC", "distilled images per class", low=1)
    steps: int = setting(500_000, "STEPS", "outer steps", low=1, high=LARGEST_COUNT)
    learning_rate: float = setting(
        3e-4,
        "LEARNING_RATE",
        "learning rate of images and labels",
        above=0,
    )
    flip: bool = setting(
        False, "REGRESSION_FLIP", "the regression also uses the left-right mirrored images"
    )
    learn_labels: bool = setting(True, "LEARN_LABELS", "labels are learned too")
    seed: int = setting(
        0, "SEED", "fixes every random choice of the run", low=0, high=LARGEST_COUNT
    )
    augment: bool = setting(
        False,
        "OUTER_AUGMENT",
        "target and distilled images are augmented in the outer step, as in evaluations",
    )
    feature_dtype: str = setting(
        "float32",
        "FEATURE_DTYPE",
        "dtype of the nets that compute the features of the regression: float32 | bfloat16",
        choices=NET_DTYPES,
    )
    matmul_precision: str = setting(
        "default",
        "MATMUL_PRECISION",
        "precision of the nets' float32 products on TPUs and GPUs: default | high | highest"
        " (float32)",
        choices=MATMUL_PRECISIONS,
    )
    chunk: int = setting(
        1024,
        "CHUNK",
        "images whose activations a device holds at once; lower it to save memory",
        low=1,
        operational=True,
    )

    def __post_init__(self) -> None:
        """Raises InputError for a value out of its bounds."""
        check_settings(self)
