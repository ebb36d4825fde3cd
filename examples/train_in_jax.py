"""Trains a network on a distilled set with jax, flax and optax; `frepo_scale` is not needed.

python train_in_jax.py distilled.npz test.npz, as train_in_pytorch.py, but without augmentation."""

import json
import math
import sys

import flax.linen as nn
import jax
import numpy as np
import optax

data, test = map(dict, map(np.load, sys.argv[1:3])) if sys.argv[2:] else sys.exit(__doc__)
recipe = json.loads(data["meta"].item())["evaluation"]
layers = recipe["architecture"].get("layers", [{"op": "layers the file does not describe"}])
KNOWN = {  # flax's default initialisation is that of the recipe
    "convolution": lambda a: nn.Conv(a["channels"], [a["kernel"]] * 2, a["stride"], a["padding"]),
    "linear": lambda a: nn.Dense(a["outputs"]),
    "relu": lambda a: nn.relu,
    "average pool": lambda a: lambda x: nn.avg_pool(x, (a["side"],) * 2, (a["stride"],) * 2),
    "flatten": lambda a: lambda x: x.reshape(len(x), -1),
}
other = lambda a: sys.exit(f"{recipe['net']}: this example does not build: {a['op']}")
net = nn.Sequential([KNOWN.get(layer["op"], other)(layer) for layer in layers])


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


peak, last, warm = recipe["learning_rate"], recipe["final_learning_rate"], recipe["warm_up_steps"]
adam = optax.adam(optax.warmup_cosine_decay_schedule(0, peak, warm, recipe["steps"], last))


@jax.jit
def step(params, state, x, y):
    gradient = jax.grad(lambda p: ((net.apply(p, x) - y) ** 2).sum(1).mean() / 2)(params)
    updates, state = adam.update(gradient, state, params)
    return optax.apply_updates(params, updates), state


state, order = adam.init(params := net.init(jax.random.key(0), data["images"][:1])), []
for i in range(recipe["steps"]):  # shuffled epochs; a partial batch at the end is left out
    if len(order) < recipe["batch"]:
        order = np.array(jax.random.permutation(jax.random.key(i), len(data["images"])))
    rows, order = order[: recipe["batch"]], order[recipe["batch"] :]
    params, state = step(params, state, data["images"][rows], data["labels"][rows])
parts = np.array_split(net_inputs(test["images"]), -(-len(test["labels"]) // 500))
found = np.concatenate([jax.jit(net.apply)(params, part).argmax(1) for part in parts])
print(f"{100 * np.mean(found == test['labels']):.2f} %, without the augmentation of the recipe")
