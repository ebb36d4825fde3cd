"""Toggles options of JAX around a tiny outer step; prints a JSON object of what each one did.

Arguments: names of options. For each of at most two values that an option can have besides its
present one (bool and enum options), or for another number: "same" or "changed" bits, or the class
of an error; for one that a run fixes, a pair: without and with `pinned`. Names joined by commas
are toggled together; if the bits are not the same then, each is toggled alone.
"""

import hashlib
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from frepo_scale.core.keys import Purpose, key_for
from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.distill.state import initial_train_state, make_train_step
from frepo_scale.models.convnet import ConvNet
from frepo_scale.parallel.mesh import DATA, POOL, over, single_device_mesh
from frepo_scale.parallel.pinned import PINNED, pinned
from frepo_scale.regression.ridge import RidgeConfig

CLASSES, BATCH, SIDE = 2, 4, 4


def numbers():
    """A digest of the state after an outer step, and of what a net of a user may compute."""
    jax.clear_caches()
    mesh = single_device_mesh()
    module = ConvNet(num_classes=CLASSES, width=2, depth=1, norm="batch")
    problem = Problem(
        module,
        DistillConfig(ipc=1, steps=10, learning_rate=1e-2, seed=3),
        PoolConfig(size=2, max_online=2, batch=2),
        RidgeConfig(),
        mesh,
        CLASSES,
        BATCH,
    )
    rng = np.random.default_rng(0)
    start = DistilledSet(
        rng.normal(size=(CLASSES, SIDE, SIDE, 1)).astype(np.float32),
        rng.normal(size=(CLASSES, CLASSES)).astype(np.float32),
    )
    frepo = FRePo(problem)
    state = initial_train_state(frepo, start)
    place = over(mesh, (POOL, DATA))
    images = rng.normal(size=(BATCH, SIDE, SIDE, 1)).astype(np.float32)
    batch = Batch(
        jax.device_put(images, place), jax.device_put(np.arange(BATCH, dtype=np.int32) % 2, place)
    )
    state, metrics = make_train_step(frepo, state)(state, batch)
    key = key_for(3, Purpose.POOL_INIT)
    user = {
        "key": jax.random.key_data(jax.random.key(3)),
        "normal": jax.random.normal(key, (5, 3)),
        "dropout": jax.random.bernoulli(jax.random.key(3), 0.5, (7, 3)),
        "gumbel": jax.random.gumbel(key, (4,)),
        "softmax": jax.grad(lambda x: jnp.sum(jax.nn.softmax(x) ** 3))(images[0, 0, 0] * 3.0),
        "gelu": jax.grad(lambda x: jnp.sum(jax.nn.gelu(x) ** 2))(images[0]),
        "mean": jnp.mean(jnp.asarray(images.astype(np.float64))),
    }
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((state, metrics, user)):
        array = np.asarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def others(name, value):
    """Further values of an option."""
    kind, _, details = jax.config.meta[name]
    if kind is bool:
        return [not value]
    if kind == "enum":
        return [other for other in details["enum_values"] if other != value][:2]
    if kind == "enum_class":
        return [other for other in details["enum_class"] if other != value][:2]
    return [value + 1] if kind in (int, float) and value is not None else []


def main():
    with pinned():
        usual = numbers()
    found = {}
    for argument in sys.argv[1:]:
        names = argument.split(",")
        for at in range(2):
            values = {name: others(name, jax.config.values[name])[at:] for name in names}
            found |= toggled({name: value[0] for name, value in values.items() if value}, usual)
    with pinned():
        found["at the end"] = equals(usual)
    print("found " + json.dumps(found))


def toggled(values, usual):
    """What options with these values do, by option and value."""
    before, found, tried = {name: jax.config.values[name] for name in values}, {}, {}
    for name, value in values.items():
        text = f"{name}={getattr(value, 'name', value)}"
        try:
            jax.config.update(name, value)
            tried[text] = name
        except Exception as error:  # cannot be changed after JAX has started
            found[text] = type(error).__name__
    result = equals(usual) if tried else None
    if len(tried) == 1 and set(tried.values()) <= set(PINNED):
        with pinned():
            result = [result, equals(usual)]
    for name, value in before.items():
        jax.config.update(name, value)
    if len(tried) > 1 and result != "same":
        for name in tried.values():
            found |= toggled({name: values[name]}, usual)
        return found
    return found | dict.fromkeys(tried, result)


def equals(usual):
    """Says "same", "changed", or the class of the error that ends the computation."""
    try:
        return "same" if numbers() == usual else "changed"
    except Exception as error:
        return type(error).__name__


if __name__ == "__main__":
    main()
