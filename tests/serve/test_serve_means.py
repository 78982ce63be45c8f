"""A device says what it has: power, link and the age of its data; and the fleet heeds it."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from hedgerow.io.power import Power
from hedgerow.serve import means
from hedgerow.serve.fleet import Fleet, running_fleet
from hedgerow.serve.settings import DeviceSettings
from hedgerow.wire.messages import CheckIn
from tests.serve.agents import HeldAgent, made_up_recordings, running_agents, settings
from tests.serve.hosting import until
from tests.serve.learners import coordinator_settings

__all__ = ["made_up_recordings"]


def run(home: Path, text: str, chosen: list[DeviceSettings], **rules: int) -> list[HeldAgent]:
    """The agents after a fleet with these settings did its rounds."""

    async def body() -> list[HeldAgent]:
        async with running_fleet(coordinator_settings(home, text, **rules)) as fleet:
            agents = [
                HeldAgent(msgspec.structs.replace(one, join=fleet.join_path)) for one in chosen
            ]
            async with running_agents(*agents):
                await until(lambda: fleet.shell.state.phase == "done")
                note = said(fleet, agents[0])
                assert note().metered is True
                assert note().on_power is False
                assert note().battery == 0.25
                await until(lambda: 0 <= (note().data_age_seconds or -1) < 60)
                assert said(fleet, agents[1])().on_power is True  # as its owner set it
                assert said(fleet, agents[1])().metered is False
            return agents

    return asyncio.run(body())


def said(fleet: Fleet, agent: HeldAgent) -> Callable[[], CheckIn]:
    def newest() -> CheckIn:
        note = fleet.shell.state.members[agent.identity.public].said
        assert note is not None
        return note

    return newest


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[DeviceSettings]:
    """A device that pays for its bytes and is low on battery, and one on mains."""
    monkeypatch.setattr(means, "read_power", lambda: Power(0.25, on_power=False))
    first, second = (settings(tmp_path, wearer, None) for wearer in (1, 2))
    return [
        msgspec.structs.replace(first, metered=True),
        msgspec.structs.replace(second, power="mains"),
    ]


@pytest.mark.usefixtures("made_up_recordings")
@pytest.mark.parametrize("budget", ["metered = false", "battery_min = 0.5", "power_only = true"])
def test_who_breaks_the_budget_is_not_asked(
    tmp_path: Path, chosen: list[DeviceSettings], budget: str
) -> None:
    text = f"[selection.budget]\n{budget}\n"
    rules = {"rounds__cohort": 1, "rounds__quorum": 1, "rounds__devices_min": 2}
    spared, asked = run(tmp_path, text, chosen, **rules)
    assert spared.began == []
    assert asked.began == [1, 2]


@pytest.mark.usefixtures("made_up_recordings")
def test_who_pays_for_its_bytes_takes_the_smallest_codec(
    tmp_path: Path, chosen: list[DeviceSettings]
) -> None:
    text = '[[codec.weaker]]\nstages = [{name = "quantise", bits = 4}]\n'
    metered, other = run(tmp_path, text, chosen)
    # Of the first round nobody knows how fast the link is.
    assert [metered.outcomes[n].codec for n in (1, 2)] == [1, 1]
    assert [other.outcomes[n].codec for n in (1, 2)] == [1, 0]
