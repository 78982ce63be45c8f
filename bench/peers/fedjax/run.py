"""FedJAX: its own `federated_averaging` with the default (jit) backend over in-memory data."""

import fedjax
import fedjax.algorithms.fed_avg
import jax
import jax.numpy as jnp
import numpy as np
import work


def loss(model: dict, batch: dict, rng: jax.Array) -> jax.Array:
    """Mean cross-entropy of a batch."""
    hidden = jax.nn.relu(batch["x"] @ model["w1"] + model["b1"])
    logits = jax.nn.log_softmax(hidden @ model["w2"] + model["b2"])
    return -jnp.take_along_axis(logits, batch["y"][:, None], 1).mean()


def main() -> None:
    """Rounds until there is something to report."""
    datasets = {}
    for number in range(work.CLIENTS):
        x, y = work.client(number)
        datasets[f"{number:04}"] = {"x": x, "y": y.astype(np.int32)}
    data = fedjax.InMemoryFederatedData(datasets)
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        jax.grad(loss),
        fedjax.optimizers.sgd(work.RATE),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(batch_size=work.BATCH, num_epochs=1, seed=0),
    )
    state = algorithm.init({name: jnp.asarray(value) for name, value in work.weights().items()})
    clock = work.Clock()
    while not clock.enough:
        keys = jax.random.split(jax.random.PRNGKey(len(clock.ends)), work.CLIENTS)
        clients = [
            (name, dataset, key) for (name, dataset), key in zip(data.clients(), keys, strict=True)
        ]
        state, _ = algorithm.apply(state, clients)
        jax.block_until_ready(state.params)
        clock.round()
    arrays = {name: np.asarray(value) for name, value in state.params.items()}
    work.report("fedjax", clock, arrays, "fed_avg, jit backend", "fedjax", "jax", "jaxlib", "numpy")


main()
