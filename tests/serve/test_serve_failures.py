"""What cannot go on stops at once and says why; what only looks odd is not believed."""

import asyncio
import logging
import sqlite3
from pathlib import Path
from threading import Event as Flag
from typing import Any

import numpy as np
import pytest

from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Layout, TensorSpec
from hedgerow.core.schema import LocalPlan
from hedgerow.io.device_store import DeviceStore
from hedgerow.protocol.device import LinkUp
from hedgerow.protocol.fleet import CoordinatorState, Member, RoundRules
from hedgerow.serve import coordinator as coordinator_shell
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.device import DeviceShell, Outcome
from hedgerow.serve.effects import Tasks
from hedgerow.serve.fleet import running_fleet
from hedgerow.serve.fleet_view import ROUNDS_SHOWN_MAX, FleetRecorder
from hedgerow.serve.joining import JoinFile
from hedgerow.serve.keeping import FACT_BUNDLE
from hedgerow.serve.learning import LocalTrainer
from hedgerow.serve.memory import FACT_MEMORY
from hedgerow.serve.settings import CoordinatorSettings, NatsSettings
from hedgerow.serve.windows import windows_of
from hedgerow.wire.messages import Offer, Report
from hedgerow.wire.weights import model_ref, to_bytes
from tests.serve.agents import made_up
from tests.serve.hosting import FLEET, START, Host, delta_of, kept, until

LOCKED = sqlite3.OperationalError("database is locked")


def settings(home: Path, **rules: Any) -> CoordinatorSettings:
    rules = {"cohort": 1, "quorum": 1, "rounds": 1, **rules}
    return CoordinatorSettings(
        fleet=FLEET,
        state=home / "coordinator",
        nats=NatsSettings(port=0),
        rounds=RoundRules(**rules),
    )


def locked(*_: Any, **__: Any) -> Any:
    raise LOCKED


def test_the_first_error_is_the_one_that_is_told() -> None:
    async def body() -> None:
        tasks = Tasks()
        tasks.fail(LOCKED)
        tasks.fail(ValueError("later"))
        assert tasks.failed.exception() is LOCKED
        await tasks.close()

    asyncio.run(body())


def test_a_coordinator_that_cannot_keep_a_round_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round is opened in a callback of the link, where an error reaches nobody."""
    logging.getLogger("nats").setLevel(logging.CRITICAL)

    async def body() -> None:
        async with running_fleet(settings(tmp_path)) as fleet:
            monkeypatch.setattr(fleet.shell.store, "put_round", locked)
            host = Host("ash", JoinFile.load(fleet.join_path), tmp_path)
            await host.start()
            try:
                await until(fleet.shell.tasks.failed.done)
            finally:
                await host.stop()
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                await fleet.run(asyncio.Event())

    asyncio.run(body())


def test_a_device_that_cannot_keep_its_update_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with running_fleet(settings(tmp_path)) as fleet:
            host = Host("ash", JoinFile.load(fleet.join_path), tmp_path)
            outcome = Outcome((to_bytes(delta_of("ash", 1)),), 1024, {}, memory=b"more")
            monkeypatch.setattr(host.trainer, "train", lambda *_: outcome)
            monkeypatch.setattr(DeviceStore, "put_outbox", locked)
            await host.start()
            await until(host.shell.tasks.failed.done)
            assert host.store.fact(FACT_MEMORY) is None  # it goes with the update
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                await host.stop()

    asyncio.run(body())


def test_what_a_device_keeps_is_kept_with_the_update_and_only_then_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[bytes] = []

    async def body() -> None:
        async with running_fleet(settings(tmp_path)) as fleet:
            host = Host("ash", JoinFile.load(fleet.join_path), tmp_path)
            outcome = Outcome((to_bytes(delta_of("ash", 1)),), 1024, {}, memory=b"more")
            monkeypatch.setattr(host.trainer, "train", lambda *_: outcome)
            await host.start()
            host.shell._hooks.learned = learned.append
            await until(lambda: host.version == 1)
            assert host.store.fact(FACT_MEMORY) == b"more"
            await host.stop()

    asyncio.run(body())
    assert learned == [b"more"]


def test_training_leaves_the_memory_to_its_caller() -> None:
    bundle = app_bundle("watch")
    trainer = LocalTrainer(bundle, "ash", windows_of(made_up(1), bundle.manifest.input))
    before, stop = trainer.memory, Flag()
    stop.set()
    offer = Offer(round=1, model=model_ref(0, START), plan=LocalPlan(), deadline_seconds=60)
    trainer.train(offer, to_bytes(START), stop)
    assert trainer.memory is before


def test_an_event_that_fails_in_a_device_stops_it(tmp_path: Path) -> None:
    async def body() -> None:
        async with running_fleet(settings(tmp_path, rounds=1)) as fleet:
            host = Host("ash", JoinFile.load(fleet.join_path), tmp_path)
            await host.start()
            shell: DeviceShell = host.shell
            shell._act = locked  # type: ignore[method-assign]
            with pytest.raises(sqlite3.OperationalError):
                shell.handle(LinkUp())
            with pytest.raises(sqlite3.OperationalError):
                await host.stop()

    asyncio.run(body())


def test_a_fleet_keeps_to_its_bundle(tmp_path: Path) -> None:
    async def once() -> None:
        async with running_fleet(settings(tmp_path)):
            pass

    asyncio.run(once())
    with kept(tmp_path / "coordinator") as store:
        assert store.fact(FACT_BUNDLE) is not None
        store.set_fact(FACT_BUNDLE, b"of another one")
    with pytest.raises(UsageError, match="another bundle"):
        asyncio.run(once())


def test_a_model_too_large_to_travel_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator_shell, "UPDATE_BYTES_MAX", 1000)

    async def body() -> None:
        async with running_fleet(settings(tmp_path)):
            pass

    with pytest.raises(UsageError, match=r"takes \d+ bytes, and at most 1000 can travel"):
        asyncio.run(body())


# What devices report ------------------------------------------------------------------------------


def heard(recorder: FleetRecorder, newest: int, version: int, accuracy: float) -> CoordinatorState:
    """A fleet whose model is `newest`, after a device reported this of `version`."""
    report = Report(
        model_version=version,
        metrics={"accuracy": accuracy, "accuracy_personalised": accuracy},
    )
    state = CoordinatorState(
        rules=RoundRules(),
        algorithm=FedAvg(),
        plan=LocalPlan(),
        layout=Layout((TensorSpec("w", (1,)),)),
        model=model_ref(newest, np.zeros(1, np.float32)),
        members={"ash": Member("ash", report=report)},
    )
    recorder.told(state, "report", {"device": "ash"})
    return state


@pytest.mark.parametrize(
    ("version", "accuracy", "kept_values"),
    [
        (1000, 0.5, {"ash": 0.5}),
        (1000 - ROUNDS_SHOWN_MAX, 1.0, {"ash": 1.0}),
        (1000 - ROUNDS_SHOWN_MAX - 1, 0.5, {}),
        (1001, 0.5, {}),
        (1000, 1.01, {}),
        (1000, -0.01, {}),
    ],
)
def test_only_a_report_that_can_be_true_counts(
    version: int, accuracy: float, kept_values: dict[str, float]
) -> None:
    recorder = FleetRecorder("meadow", "watch")
    heard(recorder, 1000, version, accuracy)
    assert recorder.accuracies(version) == kept_values
    assert recorder.personalised(version) == kept_values


def test_an_accuracy_above_one_is_not_shown_but_a_regression_error_is() -> None:
    for task, shown in (("classification", None), ("regression", -3.5)):
        recorder = FleetRecorder("meadow", "watch", task)
        state = heard(recorder, 2, 2, -3.5)
        assert recorder.view(state).devices[0].accuracy == shown


def test_an_abandoned_round_has_its_seconds_and_nothing_of_old_rounds_stays() -> None:
    recorder = FleetRecorder("meadow", "watch")
    state = heard(recorder, 0, 0, 0.5)
    rounds = 3 * ROUNDS_SHOWN_MAX
    for number in range(1, rounds + 1):
        update = {"counted_in": number, "outcome": "counted", "bytes": 4, "metrics": {"loss": 1.0}}
        recorder.told(state, "update", update)
        fields = {"round": number, "counted": 1, "seconds": 2.5, "model": state.model}
        recorder.told(state, "round_closed" if number % 2 else "round_abandoned", fields)
    shown = recorder.view(state).rounds
    assert [entry.round for entry in shown] == list(
        range(rounds - ROUNDS_SHOWN_MAX + 1, rounds + 1)
    )
    assert {entry.outcome for entry in shown} == {"abandoned", "published"}
    assert {entry.seconds for entry in shown} == {2.5}
    assert recorder._losses == {}
    assert recorder._update_bytes == {}
    assert len(recorder._version_of_round) <= ROUNDS_SHOWN_MAX
