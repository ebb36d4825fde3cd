"""The periods of a run."""

from dataclasses import dataclass

from frepo_scale.core.settings import check_settings, setting

MOST_STEPS_PER_CALL = 1000  # the rows of their batches are sent to the devices at once


@dataclass(frozen=True)
class LoopConfig:
    """How often a run logs, probes and saves; in outer steps unless a name says otherwise."""

    log_every: int = setting(
        100, "LOG_EVERY", "steps between rows of metrics", low=1, operational=True
    )
    probe_every: int = setting(
        10_000, "PROBE_EVERY", "steps between probes on the held-out images", low=1
    )
    save_every: int = setting(
        1_000, "SAVE_EVERY", "steps between checkpoints", low=1, operational=True
    )
    save_minutes: float = setting(
        10.0,
        "SAVE_MINUTES",
        "a checkpoint is also written this long after the last one",
        above=0,
        operational=True,
    )
    keep_every: int = setting(
        0,
        "KEEP_EVERY",
        "checkpoints of these steps are never removed; 0: only the newest two are kept",
        low=0,
        operational=True,
    )
    steps_per_call: int = setting(
        0,
        "STEPS_PER_CALL",
        "outer steps per dispatch to the devices at most, where they hold the target images"
        " (DATA_PLACEMENT); 0: 50 on accelerators, 1 on CPUs",
        low=0,
        high=MOST_STEPS_PER_CALL,
        operational=True,
    )
    profile_at: int = setting(
        10,
        "PROFILE_AT",
        "steps after each start at which five steps are profiled for TensorBoard; 0: never",
        low=0,
        operational=True,
    )
    watchdog_minutes: float = setting(
        15.0,
        "WATCHDOG_MINUTES",
        "a process without progress for this long ends with exit code 42; 0: never",
        low=0,
        operational=True,
    )
    chance_probes: int = setting(
        5,
        "CHANCE_PROBES",
        "the run ends after this many probes in a row at chance level; 0: never",
        low=0,
        operational=True,
    )

    def __post_init__(self) -> None:
        """Raises InputError for a value out of its bounds."""
        check_settings(self)
