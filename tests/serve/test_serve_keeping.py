"""What a coordinator keeps: restarts, other settings, and steps taken whole or not at all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.algorithms.catalogue import AnyAlgorithm
from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.algorithms.fedbuff import FedBuff
from hedgerow.algorithms.fedcm import FedCM
from hedgerow.algorithms.scaffold import Scaffold
from hedgerow.algorithms.selection import AnyPolicy, Memory, Oort, Past, Uniform
from hedgerow.core.errors import HedgerowError
from hedgerow.core.fixed import ONE
from hedgerow.core.layout import Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.io.coordinator_store import CoordinatorStore, DeviceRow, ModelRow
from hedgerow.protocol import effects as do
from hedgerow.protocol.fleet import RoundRules
from hedgerow.protocol.patching import apply_patches
from hedgerow.seal.codec import Codec
from hedgerow.seal.quantise import Quantise
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.keeping import Keeper, Made
from hedgerow.serve.settings import CodecSettings, CoordinatorSettings
from hedgerow.wire.messages import ModelRef, base_of
from hedgerow.wire.weights import from_bytes
from tests.serve.hosting import LAYOUT, START

DOWN = Codec(stages=(Quantise(bits=4),), feedback=True)


class Desk:
    """A keeper over one database, begun again as often as wanted."""

    def __init__(self, home: Path) -> None:
        self.store = CoordinatorStore(f"sqlite:///{home / 'coordinator.db'}")
        self.store.add_device(DeviceRow("ana", "Ana", 1.0))

    def begin(
        self,
        algorithm: AnyAlgorithm | None = None,
        codec: CodecSettings | None = None,
        selection: AnyPolicy | None = None,
    ) -> Keeper:
        settings = CoordinatorSettings(
            algorithm=algorithm or FedAvg(),
            codec=codec or CodecSettings(),
            selection=selection or Uniform(),
            rounds=RoundRules(cohort=1, quorum=1),
        )
        return Keeper(settings, app_bundle("watch"), self.store)


def save(keeper: Keeper, number: int) -> do.SaveRound:
    return do.SaveRound(number, keeper.state.model, ("ana",), 1, LocalPlan())


def learned(keeper: Keeper, number: int, step: Vector, group: int = 0) -> do.CountIn:
    """An update of weight 1: each of the algorithm's vectors is `step`."""
    vectors = np.concatenate([step for _ in keeper.state.algorithm.sends])
    term = np.rint(vectors.astype(np.float64) * ONE).astype(np.int64)
    return do.CountIn(number, "ana", term, ONE, group)


def make(keeper: Keeper, number: int, step: Vector, **given: Any) -> Made:
    """One whole round, of one update."""
    keeper.carry_out(keeper.state, [save(keeper, number)], 10 * number)
    effects: list[do.Effect] = [learned(keeper, number, step), do.Aggregate(number, **given)]
    (made,) = keeper.carry_out(keeper.state, effects, 10 * number + 1)
    keeper.state.model, keeper.state.rounds_done = made.model, keeper.state.rounds_done + 1
    if keeper.state.way is not None:
        keeper.state.way = keeper.state.way.after(made.patch_ref)
    return made


STEP = np.random.default_rng(3).normal(0, 0.01, len(START)).astype(np.float32)


def test_a_new_fleet_begins_with_the_bundle(tmp_path: Path) -> None:
    keeper = Desk(tmp_path).begin()
    assert keeper.state.model.version == 0
    np.testing.assert_array_equal(from_bytes(keeper.blob), START)
    assert keeper.first_sequence is None


def test_model_and_state_come_back(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    keeper = desk.begin(FedAvg(momentum=0.5))
    make(keeper, 1, STEP)
    again = desk.begin(FedAvg(momentum=0.5))
    assert again.state.model == keeper.state.model
    assert again.state.rounds_done == 1
    one, other = make(again, 2, STEP), make(keeper, 2, STEP)
    assert one.model.hash == other.model.hash  # the velocity came back too
    np.testing.assert_allclose(from_bytes(one.blob), START + 2.5 * STEP, atol=1e-6)


def test_devices_hold_what_patches_make_and_nothing_is_lost_for_good(tmp_path: Path) -> None:
    desk, codec = Desk(tmp_path), CodecSettings(down=DOWN, patches_kept=3)
    keeper, held = desk.begin(codec=codec), START
    for number in range(1, 7):
        if number == 4:  # in between, the coordinator starts again
            keeper = desk.begin(codec=codec)
        made = make(keeper, number, STEP)
        assert made.patch is not None
        way = keeper.state.way
        assert way is not None
        assert len(way.blobs) == min(number, 3)
        held = apply_patches(way.codec, way.seeds, number - 1, held, [made.patch], LAYOUT)
        assert held.tobytes() == made.blob
        assert len(made.out_of_use) == (number > 3)
    quiet = np.zeros_like(STEP)
    for number in range(7, 12):  # what was lost on the way keeps coming
        make(keeper, number, quiet)
    np.testing.assert_allclose(from_bytes(keeper.blob), START + 6 * STEP, atol=2e-4)


def test_another_codec_down_begins_its_patches_anew(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    make(desk.begin(codec=CodecSettings(down=DOWN)), 1, STEP)
    eight = Codec(stages=(Quantise(bits=8),), feedback=True)
    for codec in (CodecSettings(down=eight), CodecSettings(down=DOWN)):
        way = desk.begin(codec=codec).state.way
        assert way is not None
        assert len(way.blobs) == (codec.down == DOWN)
    assert desk.begin().state.way is None


def test_an_algorithm_that_brings_more_begins_with_a_new_version(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    keeper = desk.begin()
    make(keeper, 1, STEP)
    weights = from_bytes(keeper.blob)
    scaffold = desk.begin(Scaffold())
    assert scaffold.state.model.version == 2
    assert scaffold.state.model.bytes == 2 * 4 * len(START)
    np.testing.assert_array_equal(from_bytes(scaffold.blob)[: len(START)], weights)
    assert desk.begin(Scaffold()).state.model == scaffold.state.model  # once
    back = desk.begin()
    assert back.state.model.version == 3
    np.testing.assert_array_equal(from_bytes(back.blob), weights)


def test_what_one_algorithm_brought_is_not_taken_for_what_another_brings(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    make(desk.begin(Scaffold()), 1, STEP)
    momentum = desk.begin(FedCM())
    assert momentum.state.model.version == 2
    held = from_bytes(momentum.blob)
    assert np.abs(held[: len(START)] - START).max() > 0
    assert not held[len(START) :].any()  # Scaffold's control is as long, and no momentum
    assert desk.begin(FedCM()).state.model == momentum.state.model  # once


@pytest.mark.parametrize(
    ("algorithm", "codec"),
    [
        (Scaffold(), CodecSettings()),
        (FedAvg(momentum=0.9), CodecSettings()),
        (FedAvg(), CodecSettings(stages=DOWN.stages)),
    ],
)
def test_a_round_that_asked_for_something_else_is_abandoned(
    algorithm: AnyAlgorithm, codec: CodecSettings, tmp_path: Path
) -> None:
    desk = Desk(tmp_path)
    keeper = desk.begin()
    keeper.carry_out(keeper.state, [save(keeper, 1)], 41)
    same = desk.begin()
    assert same.first_sequence == 42
    assert same.state.phase == "replaying"
    other = desk.begin(algorithm, codec)
    assert other.first_sequence is None
    assert other.state.phase == "idle"
    assert other.state.since_round == 2
    row = desk.store.round(1)
    assert row is not None
    assert (row.state, row.outcome) == ("abandoned", "other settings")


def test_a_step_that_cannot_be_kept_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path)
    keeper = desk.begin()
    keeper.carry_out(keeper.state, [save(keeper, 1)], 0)
    keeper.carry_out(keeper.state, [learned(keeper, 1, STEP)], 1)
    before = keeper.blob, keeper.sums.digest()

    def broken(*_: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(desk.store, "set_settled", broken)
        with pytest.raises(OSError, match="full"):
            keeper.carry_out(keeper.state, [do.Aggregate(1)], 2)
    assert (keeper.blob, keeper.sums.digest()) == before
    assert desk.begin().first_sequence == 1  # the round is still open
    last = desk.store.last_model()
    assert last is not None
    assert last.version == 0


def test_without_rounds_the_next_one_is_kept_with_the_model(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    keeper = desk.begin(FedBuff(buffer=1))
    keeper.carry_out(keeper.state, [save(keeper, 1)], 10)
    effects: list[do.Effect] = [
        learned(keeper, 1, STEP),
        do.Aggregate(1, (("ana", 1),)),
        save(keeper, 2),
    ]
    (made,) = keeper.carry_out(keeper.state, effects, 17)
    again = desk.begin(FedBuff(buffer=1))
    assert again.first_sequence == 18  # what had come before is in the model
    assert again.state.members["ana"].settled == 1
    assert again.state.model == made.model
    assert again.state.open is not None
    assert (again.state.open.number, again.state.open.version) == (2, 1)
    assert again.state.recent == {base_of(ref): ref.version for ref in (first(), made.model)}
    assert again.journal_needed_from(30) == 18


def first() -> ModelRef:
    from hedgerow.wire.weights import model_ref

    return model_ref(0, START)


def test_what_a_policy_remembers_is_kept_with_the_round(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    keeper = desk.begin(selection=Oort())
    keeper.state.memory = Memory(past={"ana": Past(picked=1, last=1, loss=0.5)})
    make(keeper, 1, STEP)
    assert desk.begin(selection=Oort()).state.memory == keeper.state.memory


def test_a_model_of_another_bundle_is_named(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.begin()
    desk.store.add_model(ModelRow(1, "0" * 64, 1, 0.0), bytes(4 * (len(START) + 1)))
    with pytest.raises(HedgerowError, match="do not divide"):
        desk.begin()
