"""A share of a round: what is summed, and whom it leaves out."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from hedgerow.algorithms.base import Algorithm, Contribution
from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.core.layout import Layout, TensorSpec
from hedgerow.core.schema import LocalPlan
from hedgerow.model.passes import Trained
from hedgerow.protocol.learning import Shape
from hedgerow.seal.codec import Codec
from hedgerow.seal.eden import Eden
from hedgerow.seal.float16 import Float16
from hedgerow.sim.learning import Model
from hedgerow.sim.shares import Alone, Lesson

LAYOUT = Layout((TensorSpec("w", (3,)),))


class Given:
    """An engine whose clients come to what it was given, `[N, 3]`."""

    def __init__(self, deltas: list[float]) -> None:
        self.rows = np.repeat(np.array(deltas, np.float32)[:, None], 3, axis=1)

    def contributions(
        self,
        algorithm: Algorithm,
        model: Model,
        plan: LocalPlan,
        clients: NDArray[np.int64],
        round: int,
    ) -> Iterator[tuple[NDArray[np.int64], Contribution]]:
        """Everybody at once."""
        rows, ones = self.rows[clients], np.ones(len(clients), np.int64)
        trained = Trained(rows, ones, 1024 * ones, np.full(len(clients), 0.5), rows[:, 0] == 7)
        yield clients, Contribution({"delta": rows}, rows, trained)


@pytest.mark.parametrize(
    "codec",
    [Codec(), Codec(stages=(Float16(),)), Codec(stages=(Eden(bits=1),), feedback=True)],
    ids=["float32", "float16", "eden"],
)
def test_one_whose_update_no_fleet_would_take_ends_no_simulation(codec: Codec) -> None:
    """Beyond what a sum takes; beyond what the codec can say; training that diverged."""
    alone = Alone(Given([0.5, 1e6, 3e38, 7.0, 0.5]), np.full(5, 1024))
    zeros = {"weights": np.zeros(3, np.float32)}
    lesson = Lesson(model=zeros, plan=LocalPlan(), codec=codec, seed=1, round=1)
    share = alone.learn(Shape(FedAvg(), LAYOUT), lesson, np.arange(5))
    assert share.sums.terms == 2
    assert np.isnan(share.losses).tolist() == [False, True, True, True, False]
    assert (share.loss, share.samples) == (0.5, 2048)
    assert not alone.residuals.read(1) and not alone.residuals.read(2)
