"""Each algorithm over the training graph that ships: what it asks for, the learner can do."""

from collections.abc import Sequence
from importlib import resources
from typing import get_args

import msgspec
import numpy as np
import pytest

from hedgerow.algorithms.base import Algorithm, Contribution, Held, LocalTask
from hedgerow.algorithms.catalogue import AnyAlgorithm
from hedgerow.algorithms.drive import drive
from hedgerow.algorithms.terms import pack_model, unpack_model
from hedgerow.core.schema import LocalPlan
from hedgerow.core.streams import keys_of
from hedgerow.model.bundle import Bundle
from hedgerow.model.learner import Learner, Samples
from hedgerow.model.passes import Rows

ALL: tuple[type[Algorithm], ...] = get_args(AnyAlgorithm)
PLAN = LocalPlan(epochs=1, batch=4, rate=0.05, momentum=0.5, gradient_norm_max=1.0, pull=0.01)
SIZES = (4, 9, 6)


@pytest.fixture(scope="module")
def learner() -> Learner:
    data = resources.files("hedgerow.apps.watch").joinpath("watch.hedgerow").read_bytes()
    return Learner(Bundle.from_bytes(data))


def samples(bundle: Bundle) -> list[Samples]:
    rng, schema = np.random.default_rng(5), bundle.manifest.input
    return [
        Samples(rng.standard_normal((n, *schema.shape), np.float32), rng.integers(0, 7, n))
        for n in SIZES
    ]


def _shaken(part: Rows, turn: int) -> Rows:
    waves: Rows = np.cos(np.arange(part.size, dtype=np.float32) + np.float32(turn))
    return part + np.float32(0.01) * waves.reshape(part.shape)


def one_round(
    learner: Learner,
    algorithm: Algorithm,
    plan: LocalPlan,
    ids: Sequence[int],
    kept: dict[int, dict[str, Rows]],
) -> Contribution:
    layout, clients = learner.bundle.manifest.layout, samples(learner.bundle)
    server = algorithm.begin(learner.bundle.weights)
    # A second round, so that everything the model brings is something.
    shaken = {name: _shaken(part, i) for i, (name, part) in enumerate(server.model.items())}
    packed = pack_model(type(server)(shaken, server.kept))
    model = unpack_model(algorithm, packed, layout.shared_size)
    nothing = np.zeros(layout.size, np.float32)
    task = LocalTask(
        np.tile(model["weights"], (len(ids), 1)),
        {name: part for name, part in model.items() if name != "weights"},
        {
            name: np.stack([kept.get(k, {}).get(name, nothing) for k in ids])
            for name in algorithm.keeps
        },
        np.array([k not in kept for k in ids]),
        np.array([SIZES[k] for k in ids]),
        plan,
        layout,
    )
    mine, keys = [clients[k] for k in ids], keys_of(7, ["round"], np.array(ids))
    return drive(
        algorithm.local(task),
        lambda ask: learner.run(ask, mine, keys),
        lambda ask: learner.losses(ask, mine),
    )


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_the_learner_answers_and_who_shares_the_batch_changes_no_bit(
    learner: Learner, kind: type[Algorithm]
) -> None:
    algorithm, layout = kind(), learner.bundle.manifest.layout
    kept = one_round(learner, algorithm, PLAN, [0], {}).kept
    before = {0: {name: rows[0] for name, rows in kept.items()}}  # client 0 has been there before
    together = one_round(learner, algorithm, PLAN, [0, 1, 2], before)
    for k in range(3):
        alone = one_round(learner, algorithm, PLAN, [k], before)
        for name in algorithm.sends:
            assert alone.sends[name].shape == (1, layout.shared_size)
            assert alone.sends[name][0].tobytes() == together.sends[name][k].tobytes()
        for name in algorithm.keeps:
            assert alone.kept[name][0].tobytes() == together.kept[name][k].tobytes()
        for name in algorithm.figures:
            assert alone.figures[name][0] == together.figures[name][k]
    moved = np.abs(together.sends["delta"]).max(axis=1)
    assert (moved > 0).all() and (moved < 10).all()


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_what_a_device_serves_has_the_size_of_the_model(
    learner: Learner, kind: type[Algorithm]
) -> None:
    algorithm, layout = kind(), learner.bundle.manifest.layout
    model = algorithm.begin(learner.bundle.weights).model
    brought = {name: part for name, part in model.items() if name != "weights"}
    plan = msgspec.structs.replace(PLAN, epochs=0.5)
    done = one_round(learner, algorithm, plan, [1], {})
    for kept in ({}, {name: rows[0] for name, rows in done.kept.items()}):
        served = algorithm.serving(Held(model["weights"], brought, kept, layout))
        assert served.shape == (layout.size,) and np.isfinite(served).all()
