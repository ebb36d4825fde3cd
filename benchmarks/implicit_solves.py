"""Iterations of conjugate gradients that reach the accuracy of 20 steps of Adam in RCIG's solves.

    python benchmarks/implicit_solves.py --data-dir PATH      # Fashion-MNIST

RCIG's published code finds tau and v by 20 steps of Adam each; `distill.implicit` solves the same
two quadratic problems by conjugate gradients. Here both run in float64 on dense matrices: the net
of `gin/base/rcig.gin` at width 16, fresh and after online steps on the distilled set, the set being
random real images. The error is that of the solution in the norm of the problem,
`‖x - x*‖_A / ‖x*‖_A`, whose square is the share of the objective that is left. Adam gets the best
of eight learning rates for each problem.
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from frepo_scale.data.dataset import load_dataset
from frepo_scale.data.settings import DataConfig
from frepo_scale.data.types import everything
from frepo_scale.models.convnet import ConvNet

RIDGE = 5e-4  # times N
ADAM_STEPS = 20
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
MOST = 40  # iterations of conjugate gradients
TARGETS = 256
ONLINE = 300


class System(NamedTuple):
    """`A x = right` with A = I + Jᵀ S J, S = (K + rho I)⁻¹ on the rows and I on the classes.

    Attributes:
      j: J_s, (N C, p) float64; row n C + k is class k of image n.
      s: S, (N, N).
      classes: C.
    """

    j: jax.Array
    s: jax.Array
    classes: int

    def weigh(self, z: jax.Array) -> jax.Array:
        """S on the rows of a vector of N C."""
        return (self.s @ z.reshape(-1, self.classes)).reshape(-1)

    def product(self, x: jax.Array) -> jax.Array:
        """`A x`."""
        return x + self.j.T @ self.weigh(self.j @ x)

    def exact(self, right: jax.Array) -> jax.Array:
        """`A⁻¹ right`, by the identity of Woodbury: N C is smaller than the parameters."""
        inverse = jnp.kron(jnp.linalg.inv(self.s), jnp.eye(self.classes))
        return right - self.j.T @ jnp.linalg.solve(inverse + self.j @ self.j.T, self.j @ right)

    def error(self, x: jax.Array, exact: jax.Array) -> float:
        """`‖x - exact‖_A / ‖exact‖_A`."""
        left = x - exact
        return float(jnp.sqrt(left @ self.product(left) / (exact @ self.product(exact))))


def by_conjugate_gradients(system: System, right: jax.Array, exact: jax.Array) -> list[float]:
    """Errors after 1, 2, ... iterations from zero."""
    x, residual = jnp.zeros_like(right), right
    direction, square, errors = right, right @ right, []
    for _ in range(MOST):
        image = system.product(direction)
        length = square / (direction @ image)
        x, residual = x + length * direction, residual - length * image
        following = residual @ residual
        direction, square = residual + following / square * direction, following
        errors.append(system.error(x, exact))
    return errors


def by_adam(system: System, right: jax.Array, exact: jax.Array) -> tuple[float, float]:
    """The smallest error after 20 steps from zero, and its learning rate."""
    found = []
    for rate in RATES:
        adam = optax.adam(rate)
        x, state = jnp.zeros_like(right), adam.init(right)
        for _ in range(ADAM_STEPS):
            updates, state = adam.update(system.product(x) - right, state)
            x = x + updates
        found.append((system.error(x, exact), rate))
    return min(found)


def systems(
    net: ConvNet, params: dict, images: jax.Array, labels: jax.Array, target: tuple
) -> dict[str, tuple[System, jax.Array, jax.Array]]:
    """Both problems of one outer step, with right-hand side and solution; see docs/algorithm.md 8b.

    Args:
      net: the net.
      params: its parameters.
      images: the distilled images, (N, H, W, C).
      labels: their labels, (N, K).
      target: images (B, H, W, C) and classes (B,) of the target batch.
    """
    kernel = params["head"]["kernel"]
    body, unravel = ravel_pytree(params | {"head": {"bias": params["head"]["bias"]}})

    def outputs(body: jax.Array, images: jax.Array) -> Any:
        parts = unravel(body)
        return net.apply({"params": parts | {"head": parts["head"] | {"kernel": kernel}}}, images)

    def logits(body: jax.Array, images: jax.Array) -> jax.Array:
        return outputs(body, images)[0]

    size, classes = labels.shape
    # A row per image keeps the memory of reverse mode small.
    of_image: Callable = jax.jit(lambda image: jax.jacrev(logits)(body, image[None])[0])
    j = jnp.concatenate([of_image(image) for image in images])
    f_s, f_t = outputs(body, images)[1], outputs(body, target[0])[1]
    system = System(j, jnp.linalg.inv(f_s @ f_s.T + RIDGE * size * jnp.eye(size)), classes)
    right = j.T @ system.weigh(labels.reshape(-1))
    tau = system.exact(right)
    r = labels - (j @ tau).reshape(size, classes)
    pull_t = jax.linearize(lambda body: logits(body, target[0]), body)[1]
    pred = pull_t(tau) + f_t @ (f_s.T @ (system.s @ r))
    e = (jax.nn.softmax(pred) - jax.nn.one_hot(target[1], classes)) / len(pred)
    to_body = jax.vjp(lambda body: logits(body, target[0]), body)[1]
    g = to_body(e)[0] - j.T @ (system.s @ (f_s @ (f_t.T @ e))).reshape(-1)
    return {"tau": (system, right, tau), "v": (system, g, system.exact(g))}


def main() -> None:
    """Prints a row per size, age of the net, and problem."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    train = load_dataset(DataConfig("fashion_mnist", args.data_dir, batch=TARGETS)).train
    rng = np.random.default_rng(0)
    pixels, classes = everything(train).astype(np.float64), np.asarray(train.labels)
    drawn = rng.choice(len(classes), TARGETS, replace=False)
    target = jnp.asarray(pixels[drawn]), jnp.asarray(classes[drawn])
    net = ConvNet(num_classes=10, width=16, depth=3, norm="none", activation="softplus")
    print(
        "| IPC | net | solve | 20 steps of Adam (rate) | iterations for that | after 4 | 8 | 20 |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for ipc in (1, 10):
        rows = np.concatenate(
            [rng.choice(np.flatnonzero(classes == k), ipc, replace=False) for k in range(10)]
        )
        images = jnp.asarray(pixels[rows])
        labels = jax.nn.one_hot(classes[rows], 10, dtype=jnp.float64) - 0.1
        params = net.init(jax.random.key(0), images)["params"]
        params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
        for age in (0, ONLINE):
            if age:
                params = trained(net, params, images, labels)
            for name, (system, right, exact) in systems(
                net, params, images, labels, target
            ).items():
                adam, rate = by_adam(system, right, exact)
                errors = by_conjugate_gradients(system, right, exact)
                reached = next((i + 1 for i, error in enumerate(errors) if error <= adam), None)
                print(
                    f"| {ipc} | {'fresh' if not age else f'{age} online steps'} | {name}"
                    f" | {adam:.1e} ({rate:g}) | {reached or f'> {MOST}'} | {errors[3]:.1e}"
                    f" | {errors[7]:.1e} | {errors[19]:.1e} |",
                    flush=True,
                )


def trained(net: ConvNet, params: dict, images: jax.Array, labels: jax.Array) -> dict:
    """The parameters after online steps with Adam at 3e-4."""
    adam = optax.adam(3e-4)
    state = adam.init(params)

    @jax.jit
    def step(params: dict, state: optax.OptState) -> tuple[dict, optax.OptState]:
        grads = jax.grad(
            lambda p: optax.l2_loss(net.apply({"params": p}, images)[0], labels).sum(-1).mean()
        )(params)
        updates, state = adam.update(grads, state)
        return optax.apply_updates(params, updates), state

    for _ in range(ONLINE):
        params, state = step(params, state)
    return params


if __name__ == "__main__":
    main()
