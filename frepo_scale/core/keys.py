"""Random keys: every random choice is a pure function of seed, purpose, and step or member.

No key is stored or split during a run. So a resumed run and a run on another mesh draw the same
numbers, and a new purpose does not change the numbers of the others.
"""

import enum

import jax

_GENERATOR = "threefry2x32"  # whatever JAX's default is


class Purpose(enum.IntEnum):
    """The purpose of a random number. The values are part of the checkpoint format: append only."""

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
    ONLINE_COUNT = 12
    GRADIENT_ROWS = 13
    OUTER_AUGMENT = 14
    PRETRAIN_INIT = 15
    PRETRAIN_BATCH = 16
    PRETRAIN_AUGMENT = 17


def key_for(seed: int | jax.Array, purpose: Purpose, *numbers: int | jax.Array) -> jax.Array:
    """The key of one random choice.

    Args:
      seed: the run's seed, an integer in [0, 2**31).
      purpose: what the key is for.
      *numbers: step, member, net and so on: they distinguish the choices of one purpose.

    Returns:
      A typed PRNG key (scalar), the same on every device and process.
    """
    key = jax.random.fold_in(jax.random.key(seed, impl=_GENERATOR), int(purpose))
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key
