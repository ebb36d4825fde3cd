"""Membership inference: attacks that tell a net's training images from other images.

Source: docs/algorithm.md section 9. Legend: n images, K classes, m members and o others that an AUC
is taken over.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np

# Key: the name in results; value: the label in tables.
ATTACKS = {
    "threshold": "threshold on the loss",
    "logistic": "logistic regression",
    "mlp": "MLP",
    "forest": "random forest",
    "neighbours": "k nearest neighbours",
}
MOST = 10_000  # members, and others, of an attack: more take minutes and change nothing


class Outputs(NamedTuple):
    """What an attacker sees of a net.

    Attributes:
      logits: (n, K) float32.
      loss: (n,) float32, of each image with its true class.
    """

    logits: np.ndarray
    loss: np.ndarray

    def take(self, rows: np.ndarray) -> "Outputs":
        """The outputs at `rows` (m,) int64."""
        return Outputs(self.logits[rows], self.loss[rows])


class Auc(NamedTuple):
    """Area under the ROC curve, members against others.

    Attributes:
      value: in [0, 1]; 0.5 is guessing.
      standard_error: see `standard_error`.
    """

    value: float
    standard_error: float


def standard_error(auc: float, members: int, others: int) -> float:
    """The standard error of an AUC over m members and o others (Hanley and McNeil 1982).

    With Q1 = A / (2 - A) and Q2 = 2 A^2 / (1 + A) its square is
    (A (1 - A) + (m - 1)(Q1 - A^2) + (o - 1)(Q2 - A^2)) / (m o). It accounts for the choice of the
    images, not for that of the net or of the attack.
    """
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = (members - 1) * (q1 - auc**2) + (others - 1) * (q2 - auc**2)
    return float(np.sqrt(max(auc * (1 - auc) + spread, 0.0) / (members * others)))


def run_attacks(members: Outputs, others: Outputs, seed: int) -> dict[str, Auc]:
    """The AUC of every attack, by its key in `ATTACKS`.

    As many members as others are used, at most `MOST` of each. The threshold needs no training and
    is judged on all of them. The other attacks are trained on one half, with the logits and the
    loss as features, and judged on the other half.

    Args:
      members: outputs for the images that the net was trained on.
      others: outputs for other images.
      seed: of the choices of images and of the attacks.
    """
    size = min(len(members.loss), len(others.loss), MOST)
    chosen = members.take(_order(seed, 1, len(members.loss))[:size])
    unseen = others.take(_order(seed, 2, len(others.loss))[:size])
    found = {"threshold": _auc(-chosen.loss, -unseen.loss)}
    half = size // 2
    train, is_member = _features(chosen, unseen, slice(half))
    judged, _ = _features(chosen, unseen, slice(half, None))
    with warnings.catch_warnings():
        # An attack on few images may end at its largest number of iterations, which is as good.
        warnings.filterwarnings("ignore", "Stochastic Optimizer: Maximum iterations")
        for name, attack in _trained(seed, half).items():
            scores = attack.fit(train, is_member).predict_proba(judged)[:, 1]
            found[name] = _auc(scores[: size - half], scores[size - half :])
    return found


def _order(seed: int, part: int, size: int) -> np.ndarray:
    """A random order of `size` rows that never changes (see `data.pipeline`)."""
    return np.argsort(np.random.Philox(key=[seed, part]).random_raw(size), kind="stable")


def _features(members: Outputs, others: Outputs, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """Logits and loss (2 n, K + 1) of the members at `rows`, then of the others; (2 n,) bool."""
    parts = [np.column_stack([*part])[rows] for part in (members, others)]
    is_member = np.repeat([True, False], [len(part) for part in parts])
    return np.concatenate(parts), is_member


def _auc(members: np.ndarray, others: np.ndarray) -> Auc:
    """Of scores that are higher for members."""
    from sklearn.metrics import roc_auc_score

    truth = np.repeat([1, 0], [len(members), len(others)])
    value = float(roc_auc_score(truth, np.concatenate([members, others])))
    return Auc(value, standard_error(value, len(members), len(others)))


def _trained(seed: int, half: int) -> dict[str, Any]:
    """The attacks that are trained, with fixed hyperparameters."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    attacks = {
        "logistic": LogisticRegression(max_iter=1000),
        "mlp": MLPClassifier((64,), max_iter=200, early_stopping=half >= 100, random_state=seed),
        "forest": RandomForestClassifier(100, min_samples_leaf=5, random_state=seed),
        "neighbours": KNeighborsClassifier(min(31, half)),
    }
    return {name: make_pipeline(StandardScaler(), attack) for name, attack in attacks.items()}
