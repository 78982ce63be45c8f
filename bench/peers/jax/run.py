"""Written by hand for this one model: all clients at once with `vmap`, their steps with `scan`."""

import jax
import jax.numpy as jnp
import numpy as np
import work


def loss(model: dict, x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean cross-entropy of a batch."""
    hidden = jax.nn.relu(x @ model["w1"] + model["b1"])
    logits = jax.nn.log_softmax(hidden @ model["w2"] + model["b2"])
    return -jnp.take_along_axis(logits, y[:, None], 1).mean()


def local(model: dict, x: jax.Array, y: jax.Array, key: jax.Array) -> dict:
    """One epoch of one client."""
    order = jax.random.permutation(key, len(x)).reshape(-1, work.BATCH)

    def step(model: dict, rows: jax.Array) -> tuple[dict, None]:
        slope = jax.grad(loss)(model, x[rows], y[rows])
        return jax.tree.map(lambda w, g: w - work.RATE * g, model, slope), None

    return jax.lax.scan(step, model, order)[0]


@jax.jit
def federated(model: dict, x: jax.Array, y: jax.Array, keys: jax.Array) -> dict:
    """One round of all clients."""
    trained = jax.vmap(local, (None, 0, 0, 0))(model, x, y, keys)
    return jax.tree.map(lambda w: w.mean(0), trained)


def main() -> None:
    """Rounds until there is something to report."""
    data = [work.client(number) for number in range(work.CLIENTS)]
    x, y = (jnp.asarray(np.stack(part)) for part in zip(*data, strict=True))
    model = {name: jnp.asarray(value) for name, value in work.weights().items()}
    clock = work.Clock()
    while not clock.enough:
        keys = jax.random.split(jax.random.key(len(clock.ends)), work.CLIENTS)
        model = jax.block_until_ready(federated(model, x, y, keys))
        clock.round()
    arrays = {name: np.asarray(value) for name, value in model.items()}
    work.report("jax by hand", clock, arrays, "vmap over all clients, scan over steps, all cores",
                "jax", "jaxlib", "numpy")  # fmt: skip


main()
