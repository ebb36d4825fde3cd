"""Every random choice is a pure function of (seed, step, purpose): promise 1 of DESIGN.md.

No key is ever stored or split along the way, so a resumed run and a run on another mesh draw the
same numbers, and adding a purpose never shifts another one's stream.
"""

import enum

import jax


class Purpose(enum.IntEnum):
    """What a random number is for. The values are part of the checkpoint format: append only."""

    SYNTHETIC_INIT = 0
    POOL_INIT = 1
    MEMBER_CHOICE = 2
    MEMBER_RESET = 3
    ONLINE_BATCH = 4
    EVALUATION_INIT = 5
    EVALUATION_BATCH = 6
    EVALUATION_AUGMENT = 7
    RANDOM_BASELINE = 8
    FINAL_INIT = 9
    FINAL_BATCH = 10
    FINAL_AUGMENT = 11


def key_for(seed: int | jax.Array, purpose: Purpose, *numbers: int | jax.Array) -> jax.Array:
    """The key of one random choice.

    Args:
      seed: the run's seed, an integer in [0, 2**31).
      purpose: what the key is for.
      *numbers: step, member, net...: whatever tells this choice from the others of its purpose.

    Returns:
      A typed PRNG key (scalar), the same on every device and process.
    """
    key = jax.random.fold_in(jax.random.key(seed), int(purpose))
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key
