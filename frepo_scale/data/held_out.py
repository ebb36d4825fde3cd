"""The held-out training images, which select the best distilled set.

Source: docs/algorithm.md section 6 (the held-out part replaces selection on the test set).
"""

import numpy as np

HELD_OUT_DIVISOR = 20  # floor(5 %) of each class
HELD_OUT_LIMIT = 10_000


def held_out_rows(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Marks the held-out images: floor(5 %) of each class, at most 10 000 in all.

    Evenly spaced within each class: a function of the data alone, the same for every seed.

    Args:
      labels: (n,) int32.
      num_classes: K.

    Returns:
      (n,) bool.
    """
    chosen = np.zeros(len(labels), bool)
    for label in range(num_classes):
        rows = np.flatnonzero(labels == label)
        count = min(len(rows) // HELD_OUT_DIVISOR, HELD_OUT_LIMIT // num_classes)
        positions = (2 * np.arange(count) + 1) * len(rows) // (2 * max(count, 1))
        chosen[rows[positions]] = True
    return chosen
