"""What a simulated device keeps, and when: as the one that ships, or not at all."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hedgerow.algorithms.base import Algorithm, Contribution
from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.core.errors import PeerError
from hedgerow.core.layout import Layout, TensorSpec
from hedgerow.core.schema import LocalPlan
from hedgerow.model.passes import Rows, Trained
from hedgerow.protocol.learning import Form, Shape
from hedgerow.seal.codec import Codec
from hedgerow.seal.eden import Eden
from hedgerow.sim import checkpoint
from hedgerow.sim.batches import Batches
from hedgerow.sim.learning import Model
from hedgerow.sim.residuals import Residuals
from hedgerow.sim.shares import Alone, Lesson
from hedgerow.sim.states import ClientStates
from hedgerow.wire.messages import Offer
from hedgerow.wire.weights import model_ref

CLIENTS = 4
LAYOUT = Layout((TensorSpec("w", (3,)),))
CARRIED = Codec(stages=(Eden(bits=1),), feedback=True)
START = np.zeros(3, np.float32)
OFFER = Offer(
    round=1,
    model=model_ref(1, START),
    plan=LocalPlan(),
    algorithm=FedAvg(),
    codecs=(CARRIED,),
    deadline_seconds=60,
)


class Counting:
    """An engine whose clients keep how often they were asked; they come to `deltas [N]`."""

    def __init__(self, states: ClientStates, deltas: tuple[float, ...]) -> None:
        self.states, self.deltas = states, np.array(deltas, np.float32)
        states.open("kept-asked", 1)

    def learned(
        self,
        algorithm: Algorithm,
        model: Model,
        plan: LocalPlan,
        clients: NDArray[np.int64],
        round: int,
    ) -> Iterator[tuple[NDArray[np.int64], Contribution]]:
        """Everybody at once."""
        rows = np.outer(self.deltas[clients], [0.5, 1, 2]).astype(np.float32)
        ones = np.ones(len(clients), np.int64)
        asked = self.states.read("kept-asked", clients)[0] + 1
        trained = Trained(rows, ones, 64 * ones, np.full(len(clients), 0.5))
        yield clients, Contribution({"delta": rows}, rows, trained, kept={"asked": asked})

    contributions = learned

    def kept_by(self, clients: NDArray[np.int64], contribution: Contribution) -> dict[str, Rows]:
        """All of it."""
        return {"kept-asked": contribution.kept["asked"]}

    def keep(self, clients: NDArray[np.int64], kept: dict[str, Rows]) -> None:
        """In the states."""
        self.states.write("kept-asked", clients, kept["kept-asked"])

    @property
    def asked(self) -> list[float]:
        """What each client has kept."""
        rows = self.states.read("kept-asked", np.arange(CLIENTS))[0]
        return [float(number) for number in rows[:, 0]]


@pytest.fixture
def states() -> Iterator[ClientStates]:
    with ClientStates(CLIENTS) as made:
        yield made


def test_whoever_is_stopped_after_all_were_computed_keeps_what_it_had(states: ClientStates) -> None:
    engine, batches = Counting(states, (1, 2, 3, 4)), Batches(Residuals(CLIENTS))
    shape = Shape(FedAvg(), LAYOUT)
    for number in (1, 2):
        keys = [batches.begin(client, OFFER, START) for client in range(3)]
        assert batches.finish(0, keys[0], engine, shape) is not None
        before = batches.residuals.read(1)
        batches.stop(1, keys[1])
        assert batches.finish(2, keys[2], engine, shape) is not None
        assert engine.asked == [number, 0, number, 0]
        assert batches.residuals.read(1) == before == {}
    assert batches.residuals.read(0)["delta"].shape == (3,) and not batches.waiting


def test_one_update_that_cannot_be_encoded_ends_no_simulation(
    states: ClientStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Form.encode

    def picky(self: Form, sends: dict[str, NDArray[np.float32]], *rest: object) -> object:
        if sends["delta"][1] == 2:
            raise PeerError("out_of_range", "beyond the codec")
        return encode(self, sends, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Form, "encode", picky)
    engine, batches = Counting(states, (1, 2, 3, 4)), Batches(Residuals(CLIENTS))
    shape = Shape(FedAvg(), LAYOUT)
    keys = [batches.begin(client, OFFER, START) for client in range(3)]
    sent = [batches.finish(client, keys[client], engine, shape) for client in range(3)]
    assert [one is None for one in sent] == [False, True, False]
    assert engine.asked == [1, 0, 1, 0]


def test_who_is_refused_keeps_neither_residual_nor_state(states: ClientStates) -> None:
    engine = Counting(states, (1, 1e6, 1, 1))  # beyond what a sum takes
    alone = Alone(engine, np.full(CLIENTS, 64), states, {"kept-asked": 1})
    lesson = Lesson(model={"weights": START}, plan=LocalPlan(), codec=CARRIED, seed=1, round=1)
    share = alone.learn(Shape(FedAvg(), LAYOUT), lesson, np.arange(3))
    assert share.sums.terms == 2
    assert engine.asked == [1, 0, 1, 0]
    assert [bool(alone.residuals.read(client)) for client in range(4)] == [True, False, True, False]


def test_residuals_come_back_as_they_were_and_shorter_ones_too(tmp_path: Path) -> None:
    residuals = Residuals(1_000_000)  # of which two take space
    whole, part = np.arange(5, dtype=np.float32), np.full(2, 0.25, np.float32)
    residuals.write(999_999, {"delta": whole}, 5)
    residuals.write(7, {"delta": whole}, 5)
    residuals.write(7, {"delta": part}, 5)
    checkpoint.save(tmp_path / "kept", {"residuals": residuals})
    found = checkpoint.load(tmp_path / "kept")
    assert found is not None
    again = found["residuals"]
    for held in (residuals, again):
        assert held.read(0) == {}
        assert held.read(999_999)["delta"].tolist() == whole.tolist()
        assert held.read(7)["delta"].tolist() == part.tolist()
    again.read(7)["delta"][:] = 9  # a copy
    assert again.read(7)["delta"].tolist() == part.tolist()
