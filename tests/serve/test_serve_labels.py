"""Counts of labels stay on the device unless its owner says otherwise."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hedgerow.io import nats_link
from hedgerow.serve.agent import DeviceAgent
from hedgerow.serve.fleet import running_fleet
from hedgerow.serve.settings import DeviceSettings
from hedgerow.wire.messages import CheckIn
from tests.serve.agents import made_up_recordings, running_agents, settings
from tests.serve.hosting import until
from tests.serve.learners import coordinator_settings

__all__ = ["made_up_recordings"]

TEXT = '[selection]\npolicy = "fedlecc"\nclusters = 2\nclusters_taken = 2\n'


def run(home: Path, *chosen: DeviceSettings) -> list[tuple[CheckIn | None, Any]]:
    """A round of a FedLECC fleet of agents with these settings: what each said, and its labels."""

    async def body() -> list[tuple[CheckIn | None, Any]]:
        toml = coordinator_settings(home, TEXT, rounds__rounds=1, rounds__devices_min=2)
        async with running_fleet(toml) as fleet:
            agents = [
                DeviceAgent(msgspec.structs.replace(one, join=fleet.join_path)) for one in chosen
            ]
            async with running_agents(*agents):
                await until(lambda: fleet.shell.state.phase == "done")
            assert fleet.shell.state.outcomes["counted"] == 2
            members = fleet.shell.state.members
            return [(members[one.identity.public].said, one.train_set.y) for one in agents]

    return asyncio.run(body())


@pytest.mark.usefixtures("made_up_recordings")
def test_by_default_no_counts_of_labels_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    send_note = nats_link.NatsDeviceLink.send_note

    async def heard(self: nats_link.NatsDeviceLink, data: bytes) -> None:
        sent.append(data)
        await send_note(self, data)

    monkeypatch.setattr(nats_link.NatsDeviceLink, "send_note", heard)
    said = run(tmp_path, settings(tmp_path, 1, None), settings(tmp_path, 2, None))
    assert [note.labels for note, _ in said if note is not None] == [None, None]
    assert sent
    assert not any(b"labels" in data for data in sent)


@pytest.mark.usefixtures("made_up_recordings")
def test_an_owner_may_share_them(tmp_path: Path) -> None:
    open_ = msgspec.structs.replace(settings(tmp_path, 1, None), share_label_counts=True)
    said = run(tmp_path, open_, settings(tmp_path, 2, None))
    (first, labels), (second, _) = said
    assert first is not None
    assert second is not None
    assert first.labels is not None
    np.testing.assert_array_equal(first.labels, np.bincount(labels, minlength=7))
    assert second.labels is None
