"""Trains a network on a distilled set with jax, flax and optax; `frepo_scale` is not needed.

python train_in_jax.py distilled.npz test.npz, as train_in_pytorch.py, but without augmentation.
"""

import json
import math
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

data, test = (dict(np.load(path)) for path in sys.argv[1:])
recipe = json.loads(data["meta"].item())["evaluation"]


def net_inputs(pixels):
    x = (pixels / np.float32(255) - data["channel_mean"]) / data["channel_std"]
    if "whitening_upper" in data:
        size = (math.isqrt(8 * len(data["whitening_upper"]) + 1) - 1) // 2
        matrix = np.zeros((size, size), np.float32)
        matrix[np.triu_indices(size)] = data["whitening_upper"]
        (n, h, w, c), g = x.shape, math.isqrt(x[0].size // size)  # g x g interleaved grids
        x = (x - data["whitening_mean"].reshape(h, w, c)).reshape(n, h // g, g, w // g, g, c)
        x = x.transpose(0, 2, 4, 1, 3, 5).reshape(-1, size) @ (matrix + np.triu(matrix, 1).T)
        x = x.reshape(n, g, g, h // g, w // g, c).transpose(0, 3, 1, 4, 2, 5).reshape(n, h, w, c)
    return x


class ConvNet(nn.Module):  # flax's default initialisation is that of the recipe
    @nn.compact
    def __call__(self, x):
        for block in recipe["architecture"]["blocks"]:
            x = nn.relu(nn.Conv(block["channels"], (3, 3), padding=block["padding"])(x))
            x = nn.avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(recipe["architecture"]["classes"])(x.reshape(len(x), -1))


net, images, labels = ConvNet(), jnp.asarray(data["images"]), jnp.asarray(data["labels"])
peak, last, warm = recipe["learning_rate"], recipe["final_learning_rate"], recipe["warm_up_steps"]
adam = optax.adam(optax.warmup_cosine_decay_schedule(0, peak, warm, recipe["steps"], last))


@jax.jit
def step(params, state, key):
    rows = jax.random.permutation(key, len(images))[: recipe["batch"]]
    loss = lambda p: ((net.apply(p, images[rows]) - labels[rows]) ** 2).sum(1).mean() / 2
    updates, state = adam.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state


state = adam.init(params := net.init(jax.random.key(0), images))
for key in jax.random.split(jax.random.key(1), recipe["steps"]):
    params, state = step(params, state, key)
apply, inputs = jax.jit(net.apply), net_inputs(test["images"])
found = [apply(params, part).argmax(1) for part in np.array_split(inputs, -(-len(inputs) // 500))]
print(f"{100 * np.mean(np.concatenate(found) == test['labels']):.2f} %")
