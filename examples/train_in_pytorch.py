"""Trains the evaluation networks of a distilled set in PyTorch and prints their test accuracy.

Needs torch and numpy only: the file that `frepo-scale export` writes holds everything else.

    python train_in_pytorch.py distilled.npz test.npz [--nets 5] [--no-augmentation]

test.npz holds the real test images: `images` (n, H, W, C) uint8 and `labels` (n,) integers.
"""

import argparse
import json
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def net_inputs(pixels, data):
    """uint8 pixels (n, H, W, C) as the nets see them: normalised, and whitened for colour sets."""
    x = (pixels.astype(np.float32) / 255 - data["channel_mean"]) / data["channel_std"]
    if "whitening_upper" not in data:
        return x
    upper = data["whitening_upper"]
    size = (math.isqrt(8 * len(upper) + 1) - 1) // 2
    matrix = np.zeros((size, size), np.float32)
    matrix[np.triu_indices(size)] = matrix.T[np.triu_indices(size)] = upper
    n, h, w, c = x.shape
    g = math.isqrt(h * w * c // size)  # above 64 px interleaved grids, each whitened on its own
    x = x - data["whitening_mean"].reshape(h, w, c)
    rows = x.reshape(n, h // g, g, w // g, g, c).transpose(0, 2, 4, 1, 3, 5).reshape(-1, size)
    rows = (rows @ matrix).reshape(n, g, g, h // g, w // g, c)
    return rows.transpose(0, 3, 1, 4, 2, 5).reshape(n, h, w, c)


def build(architecture):
    """The net, if it is made of these layers, with its initialisation: a cut LeCun normal."""
    of_convolution = ("inputs", "channels", "kernel", "stride", "padding")
    known = {
        "convolution": lambda a: nn.Conv2d(*map(a.get, of_convolution)),
        "linear": lambda a: nn.Linear(a["inputs"], a["outputs"]),
        "average pool": lambda a: nn.AvgPool2d(a["side"], a["stride"]),
        "relu": lambda a: nn.ReLU(),
        "flatten": lambda a: nn.Flatten(),
    }
    layers = architecture.get("layers", [{"op": "layers that the file does not describe"}])
    if others := {layer["op"] for layer in layers} - known.keys():
        raise SystemExit(f"this example does not build: {', '.join(sorted(others))}")
    net = nn.Sequential(*(known[layer["op"]](layer) for layer in layers))
    for layer in (layer for layer in net if hasattr(layer, "weight")):
        std = math.sqrt(1 / layer.weight[0].numel()) / 0.87962566103423978
        nn.init.trunc_normal_(layer.weight, 0, std, -2 * std, 2 * std)
        nn.init.zeros_(layer.bias)
    return net


def sample(x, matrix, shift):
    """The pixel at p = (y, x) from the centre shows images (B, C, H, W) at matrix @ p + shift."""
    height, width = x.shape[2:]
    axes = [torch.arange(side) - (side - 1) / 2 for side in (height, width)]
    p = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    q = torch.einsum("bij,hwj->bhwi", matrix, p) + shift[:, None, None]
    grid = 2 * q.flip(-1) / torch.tensor([width, height])
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def augment(x, strength):
    """One operation, drawn uniformly, for the whole batch (B, C, H, W); its strengths per image."""
    b, _, h, w = x.shape
    uniform = lambda *shape: 2 * torch.rand(b, *shape) - 1
    eye, side = torch.eye(2).expand(b, 2, 2), torch.tensor([h, w])
    operations = ["colour", "crop", "rotate", "translate", "cutout"] + ["flip"] * strength["flip"]
    operation = operations[torch.randint(len(operations), ())]
    if operation == "flip":
        return torch.where(uniform(1, 1, 1) < 0, x.flip(3), x)
    if operation == "colour":
        grey = x.mean(1, keepdim=True)
        x = grey + torch.exp(strength["saturation"] * uniform(1, 1, 1)) * (x - grey)
        mean = x.mean((1, 2, 3), keepdim=True)
        x = mean + torch.exp(strength["contrast"] * uniform(1, 1, 1)) * (x - mean)
        return x + strength["brightness"] * uniform(1, 1, 1)
    if operation == "crop":
        scale = strength["crop_scale"] ** uniform(1)
        return sample(x, scale[..., None] * eye, (1 - scale) * side * uniform(2) / 2)
    if operation == "rotate":
        angle = torch.deg2rad(strength["rotate_degrees"] * uniform())
        cos, sin = angle.cos(), angle.sin()
        turn = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -2)
        return sample(x, turn, torch.zeros(b, 2))
    if operation == "translate":
        return sample(x, eye, -strength["translate"] * side * uniform(2))
    x, largest = x.clone(), int(strength["cutout"] * min(h, w))
    for image in x if largest else []:
        hole = int(torch.randint(1, largest + 1, ()))
        top, left = int(torch.randint(h - hole + 1, ())), int(torch.randint(w - hole + 1, ()))
        image[:, top : top + hole, left : left + hole] = 0
    return x


def train(data, recipe, seed, augmented=True):
    """A fresh net trained on the distilled images with the schedule of the recipe."""
    torch.manual_seed(seed)
    images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(data["labels"])
    net, steps, warm = build(recipe["architecture"]), recipe["steps"], recipe["warm_up_steps"]
    peak, final = recipe["learning_rate"], recipe["final_learning_rate"]

    def rate(t):
        cosine = (1 + math.cos(math.pi * (t - warm) / max(steps - warm, 1))) / 2
        return peak * t / warm if t < warm else final + (peak - final) * cosine

    own = recipe["adam"]
    adam = torch.optim.Adam(net.parameters(), 1.0, (own["beta1"], own["beta2"]), own["epsilon"])
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, rate)
    batch, order = recipe["batch"], torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        order = order if len(order) >= batch else torch.randperm(len(images))
        rows, order = order[:batch], order[batch:]
        x = augment(images[rows], recipe["augment"]) if augmented else images[rows]
        adam.zero_grad()
        (0.5 * (net(x) - labels[rows]).square().sum(1).mean()).backward()
        adam.step()
        schedule.step()
    return net


@torch.no_grad()
def accuracy(net, inputs, labels):
    """The share of real images (n, H, W, C) whose largest logit is that of their class."""
    parts = torch.from_numpy(np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))).split(500)
    found = torch.cat([net(part).argmax(1) for part in parts])
    return float((found.numpy() == labels).mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("distilled", "test"):
        parser.add_argument(name)
    parser.add_argument("--nets", type=int, default=5)
    parser.add_argument("--no-augmentation", action="store_true")
    given = parser.parse_args()
    data, test = dict(np.load(given.distilled)), dict(np.load(given.test))
    meta = json.loads(data["meta"].item())
    inputs = net_inputs(test["images"], data).astype(np.float32)
    fit = lambda seed: train(data, meta["evaluation"], seed, not given.no_augmentation)
    found = [accuracy(fit(seed), inputs, test["labels"]) for seed in range(given.nets)]
    print(f"{100 * np.mean(found):.2f} ± {100 * np.std(found):.2f} % ({given.nets} networks)")
    if ours := meta["results"].get("distilled"):
        print(f"in the file: {100 * ours['mean']:.2f} ± {100 * ours['std']:.2f} % ({ours['n']})")
