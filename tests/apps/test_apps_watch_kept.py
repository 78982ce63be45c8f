"""What devices keep for themselves between rounds is searched for in every byte they send.

The devices learn with algorithms that keep something (own weights, a private head, what a codec
lost) and reach NATS through the recording proxy.
"""

import asyncio
from pathlib import Path

import msgspec
import numpy as np
import pytest

from hedgerow.serve.fleet import running_fleet
from hedgerow.serve.joining import JoinFile
from hedgerow.serve.memory import FACT_MEMORY
from tests.apps.test_apps_watch_wire import ENCODINGS, RUN, Recorder, recording, runs_of
from tests.serve.hosting import running, until
from tests.serve.learners import LearningHost, coordinator_settings

STC = '[codec]\nstages = [{name = "topk", share = 0.05}]\nfeedback = true\n'
CASES = {
    "own weights": ('[algorithm]\nname = "ditto"\n', {"personal"}, set()),
    "a private head": ('[algorithm]\nname = "fedrep"\n', {"head"}, set()),
    "what a codec lost": (STC, set(), {"delta"}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_device_keeps_is_in_nothing_it_sends(case: str, tmp_path: Path) -> None:
    text, keeps, lost = CASES[case]

    async def body() -> tuple[Recorder, list[LearningHost], list[bytes]]:
        async with running_fleet(coordinator_settings(tmp_path, text)) as fleet:
            port = int(fleet.url.rpartition(":")[2])
            async with recording(port) as (recorder, proxy):
                join = JoinFile.load(fleet.join_path)
                join = msgspec.structs.replace(join, url=f"nats://127.0.0.1:{proxy}")
                hosts = [LearningHost(f"watch {n}", join, tmp_path, n) for n in (1, 2)]
                memories: list[bytes] = []
                async with running(*hosts):
                    await until(lambda: fleet.shell.state.phase == "done")
                    await until(lambda: all(host.version == 2 for host in hosts))
                    for host in hosts:
                        host.shell._keep_soft()
                        memories.append(host.store.fact(FACT_MEMORY) or b"")
                return recorder, hosts, memories

    recorder, hosts, memories = asyncio.run(body())
    stream = b"".join(map(bytes, recorder.up))
    assert len(stream) > 10_000
    assert b"payloads" in stream  # updates are in it
    for host, data in zip(hosts, memories, strict=True):
        memory = host.memory(data)
        assert set(memory.kept) == keeps
        assert set(memory.residuals) == lost
        vectors = [*memory.kept.values(), *memory.residuals.values()]
        assert all(np.ptp(vector) > 0 for vector in vectors)
        for encoding in ENCODINGS:
            runs = runs_of(iter(vectors), encoding)
            size = np.dtype(encoding).itemsize * RUN
            found = any(stream[at : at + size] in runs for at in range(len(stream) - size + 1))
            assert not found, f"what {host.name} keeps went out as {encoding}"
