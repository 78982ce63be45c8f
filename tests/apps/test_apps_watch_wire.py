"""Every byte that two real watches exchange with their fleet: no raw sample is among them.

The agents reach NATS through a proxy that records both directions. What they sent is parsed to the
last byte, and everything recorded is searched for the samples that lie on the devices.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from hedgerow.core.schema import InputSchema
from hedgerow.io import data
from hedgerow.io.data import Recording
from hedgerow.io.keys import verify
from hedgerow.protocol.fleet import RoundRules
from hedgerow.serve.agent import DeviceAgent
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.fleet import running_fleet
from hedgerow.serve.joining import JoinFile
from hedgerow.serve.settings import CoordinatorSettings, NatsSettings
from hedgerow.wire import codec
from hedgerow.wire.messages import (
    Accept,
    CheckIn,
    Decline,
    Enrol,
    FromDevice,
    Report,
    Update,
    kind_of,
)
from tests.serve import agents
from tests.serve.hosting import until

FLEET = "watches"
WEARERS = (3, 8)
NAMES = {f"watch {wearer}" for wearer in WEARERS}
ROUNDS = 3
RUN = 8
"""So many samples of one channel in a row, in any encoding, must not appear."""
FIGURES = {"bytes_up", "bytes_down", "bytes_kept", "accuracy", "accuracy_personalised"}
"""What a report may tell beside the decision: a new name here is a new thing that leaves."""
BUNDLE = app_bundle("watch")
P = BUNDLE.manifest.layout.shared_size


@dataclass
class Recorder:
    """A proxy in front of NATS: what each connection sent up and got down, byte by byte."""

    port: int
    up: list[bytearray] = field(default_factory=list)
    down: list[bytearray] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = bytearray(), bytearray()
        self.up.append(there)
        self.down.append(back)
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.port)
        await asyncio.gather(_carry(reader, to_server, there), _carry(from_server, writer, back))


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter, seen: bytearray) -> None:
    try:
        while chunk := await source.read(65_536):
            seen += chunk
            sink.write(chunk)
            await sink.drain()
    except ConnectionError:
        pass
    finally:
        sink.close()


@asynccontextmanager
async def recording(port: int) -> AsyncIterator[tuple[Recorder, int]]:
    recorder = Recorder(port)
    server = await asyncio.start_server(recorder.serve, "127.0.0.1", 0)
    async with server:
        yield recorder, server.sockets[0].getsockname()[1]


@dataclass(frozen=True)
class Published:
    """One message that a device handed to NATS."""

    subject: str
    headers: bytes
    payload: bytes


def published(stream: bytes) -> Iterator[Published]:
    """Everything that a client published. Fails on any byte that NATS's protocol does not explain.

    What is no publication may only be a greeting, a subscription or a ping, whose words are
    checked: they have no room for anything else.
    """
    at = 0
    while at < len(stream):
        end = stream.index(b"\r\n", at)
        verb, _, rest = stream[at:end].partition(b" ")
        words = rest.decode("ascii").split()
        at = end + 2
        match verb, len(words):
            case ((b"PING" | b"PONG"), 0):
                pass
            case b"CONNECT", _:
                _check_greeting(rest)
            case b"SUB", 2:
                assert words[0].startswith(("hedgerow.", "_INBOX.U")), words
                assert words[1].isdigit()
            case b"UNSUB", (1 | 2):
                assert all(word.isdigit() for word in words)
            case ((b"PUB" | b"HPUB"), _):
                sizes = [int(word) for word in words if word.isdigit()]
                assert len(sizes) == (1 if verb == b"PUB" else 2)
                head, total = (0, *sizes)[-2:]
                assert len(words) - len(sizes) in {1, 2}  # the subject, and one for the answer
                if len(words) - len(sizes) == 2:
                    assert words[1].startswith("_INBOX.U")
                    assert len(words[1]) < 100
                content, tail = stream[at : at + total], stream[at + total : at + total + 2]
                assert (len(content), tail) == (total, b"\r\n")
                at += total + 2
                yield Published(words[0], content[:head], content[head:])
            case _:
                pytest.fail(f"a device sent {stream[at - 80 : at + 80]!r}")
    assert at == len(stream)


def _check_greeting(rest: bytes) -> None:
    greeting = json.loads(rest)
    text = {"jwt", "sig", "nkey", "lang", "version", "name"}
    for name, value in greeting.items():
        short = isinstance(value, (bool, int)) or len(value) <= 200
        assert short or name == "jwt", greeting
    assert text.issuperset(n for n, v in greeting.items() if isinstance(v, str)), greeting


def check(message: FromDevice) -> None:
    """Only what the pages in `docs/messages/` allow, and within their bounds."""
    match message:
        case Update():
            assert [len(payload) for payload in message.payloads] == [4 * P]
            assert message.figures == ()
            assert set(message.metrics) == {"loss", "steps", "seconds"}
        case Report():
            assert FIGURES.issuperset(message.metrics)
            assert len(message.metrics) <= 64
            assert message.label in {"", "uncertain", *BUNDLE.manifest.output.labels}
            assert len(message.reason) <= 200
            assert message.reason.isprintable()
            assert all(isinstance(value, float) for value in message.metrics.values())
        case CheckIn():
            assert len(message.pending) <= 64
            assert message.name in NAMES
        case Enrol():
            assert message.name in NAMES
        case Accept() | Decline():
            assert len(msgspec.msgpack.encode(message)) < 300


def explained(found: Published, device: str) -> str:
    """The kind of what was published, once every byte of it is accounted for."""
    prefix = f"hedgerow.{FLEET}."
    if found.subject.startswith("$JS.API.DIRECT.GET.OBJ_"):  # "give me that piece of the model"
        assert len(found.subject) < 200
        if found.payload:
            query = json.loads(found.payload)
            assert set(query) == {"seq", "next_by_subj"}
            assert len(found.payload) < 200
        assert found.headers == b""
        return "blob"
    assert found.subject in {
        f"{prefix}enrol.{device}",
        f"{prefix}up.{device}.note",
        f"{prefix}up.{device}.update",
    }
    message = codec.open_from_device(found.payload, device, verify)
    check(message)
    assert codec.seal(message, device, lambda data: b"s" * 64) == found.payload.replace(
        msgspec.msgpack.decode(found.payload)[2], b"s" * 64
    )  # nothing beside the message's own fields
    assert found.subject.rpartition(".")[2] == {"update": "update", "enrol": device}.get(
        kind_of(message), "note"
    )
    names = {line.partition(b":")[0] for line in found.headers.split(b"\r\n")[1:] if line}
    ours = {b"Nats-Msg-Id", b"Nats-Expected-Stream"} if isinstance(message, Update) else set()
    assert names == ours
    assert len(found.headers) < 300
    return kind_of(message)


# The search ---------------------------------------------------------------------------------------

ENCODINGS = ("<f4", ">f4", "<f8", ">f8", "<f2", ">f2")


def rows_of(recordings: list[Recording], schema: InputSchema) -> Iterator[NDArray[np.float32]]:
    """Rows of samples as they could be sent: each channel in time, and whole samples in a row."""
    mean = np.array(schema.mean or [0.0] * len(schema.channels), np.float32)
    scale = np.array(schema.scale or [1.0] * len(schema.channels), np.float32)
    for recording in recordings:
        for samples in (recording.samples, (recording.samples - mean) / scale):
            yield from samples.T
            yield samples.ravel()


def runs_of(rows: Iterator[NDArray[np.float32]], encoding: str) -> set[bytes]:
    """All `RUN` values in a row. Runs of one value are left out: zeros are everywhere."""
    found: set[bytes] = set()
    for row in rows:
        runs = np.lib.stride_tricks.sliding_window_view(row, RUN)
        runs = runs[np.ptp(runs, axis=1) > 0]
        block = np.ascontiguousarray(runs.astype(encoding))
        size = block.dtype.itemsize * RUN
        blob = block.tobytes()
        found.update(blob[first : first + size] for first in range(0, len(blob), size))
    return found


def leaks(stream: bytes, recordings: list[Recording], schema: InputSchema) -> list[str]:
    """In which encodings a run of samples stands anywhere in `stream`."""
    found = []
    for encoding in ENCODINGS:
        runs = runs_of(rows_of(recordings, schema), encoding)
        size = np.dtype(encoding).itemsize * RUN
        if any(stream[at : at + size] in runs for at in range(len(stream) - size + 1)):
            found.append(encoding)
    return found


def test_the_search_finds_what_it_looks_for() -> None:
    data.fetch("watch")
    schema = BUNDLE.manifest.input
    recordings = data.load_wearer(WEARERS[0])[:2]
    noise = np.random.default_rng(1).bytes(5000)
    samples = recordings[1].samples
    scale = np.array(schema.scale, np.float32)
    assert leaks(noise, recordings, schema) == []
    for encoding in ENCODINGS:
        part = samples[100 : 100 + RUN, 4].astype(encoding).tobytes()
        assert encoding in leaks(noise + part + noise, recordings, schema)
        scaled = (samples[50 : 50 + RUN, 2] / scale[2]).astype(encoding).tobytes()
        assert encoding in leaks(noise + scaled + noise, recordings, schema)
        whole = samples[70:72].astype(encoding).tobytes()
        assert encoding in leaks(noise + whole + noise, recordings, schema)


def test_only_updates_figures_and_decisions_leave_a_watch(tmp_path: Path) -> None:
    data.fetch("watch")
    chosen = CoordinatorSettings(
        fleet=FLEET,
        state=tmp_path / "coordinator",
        nats=NatsSettings(port=0),
        rounds=RoundRules(cohort=2, quorum=2, deadline_seconds=60, rounds=ROUNDS),
    )

    async def body() -> tuple[Recorder, list[DeviceAgent]]:
        async with running_fleet(chosen) as fleet:
            port = int(fleet.url.rpartition(":")[2])
            async with recording(port) as (recorder, proxy):
                join = msgspec.structs.replace(
                    JoinFile.load(fleet.join_path), url=f"nats://127.0.0.1:{proxy}"
                )
                join.save(tmp_path / "join.json")
                watches = [
                    DeviceAgent(agents.settings(tmp_path, wearer, tmp_path / "join.json"))
                    for wearer in WEARERS
                ]
                async with agents.running_agents(*watches):
                    await until(lambda: fleet.shell.state.rounds_done == ROUNDS)
                    members = fleet.shell.state.members.values()
                    await until(lambda: all(m.report and m.report.label for m in members))
                    await until(lambda: all(w.model.version == ROUNDS for w in watches))
                return recorder, watches

    recorder, watches = asyncio.run(body())
    schema = BUNDLE.manifest.input
    recordings = {w.identity.public: [r for part in w.home.past for r in part] for w in watches}
    kinds: Counter[str] = Counter()
    for stream in map(bytes, recorder.up):
        device = device_of(stream, list(recordings))
        kinds.update(explained(found, device) for found in published(stream))
    assert kinds["update"] == ROUNDS * len(WEARERS)
    assert kinds["enrol"] >= len(WEARERS)
    assert kinds["report"] >= len(WEARERS)
    assert set(kinds) <= {"update", "enrol", "report", "check_in", "accept", "decline", "blob"}

    everything = [recording for own in recordings.values() for recording in own]
    assert leaks(b"".join(map(bytes, recorder.up)), everything, schema) == []
    for watch in watches:
        for window in (*watch.train_set.x, *watch.holdout.x):
            for seen in (*recorder.up, *recorder.down):
                assert window.tobytes() not in seen
                assert window.T.tobytes() not in seen
    sent = sum(map(len, recorder.up))
    assert 4 * P * ROUNDS * len(WEARERS) < sent < 4 * P * ROUNDS * len(WEARERS) * 1.5 + 100_000


def device_of(stream: bytes, devices: list[str]) -> str:
    """Whose connection it is: its own name stands in its greeting or in what it asked for."""
    named = [device for device in devices if device.encode() in stream]
    assert len(named) == 1
    return named[0]


def test_the_inference_engine_keeps_no_diary_of_its_own(tmp_path: Path) -> None:
    """ONNX Runtime's telemetry writes a session file and a queue before it sends: neither is made.

    Its wheels have it switched on; `hedgerow` switches it off before the engine is loaded.
    """
    environment = {name: os.environ[name] for name in os.environ if "TELEMETRY" not in name}
    environment |= {"TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    program = (
        "import numpy, hedgerow.serve.apps as apps, hedgerow.model.predictor as predictor\n"
        "predict = predictor.Predictor(apps.app_bundle('watch'))\n"
        "print(predict(numpy.zeros((1, 6, 100), numpy.float32)).shape)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout == "(1, 7)\n"
    assert list(tmp_path.rglob("*")) == []
