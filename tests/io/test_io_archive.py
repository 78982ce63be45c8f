"""The owner's export of a real store: everything is in it, and it is never held in memory."""

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np

from hedgerow.decide.notice import Notice
from hedgerow.io.archive import WINDOWS_A_FILE, store_parts, zipped
from hedgerow.io.device_store import DeviceStore, GivenLabel, StoredWindow
from hedgerow.protocol.owner import Part

SHAPE = (16, 3)


def filled(path: Path, windows: int) -> DeviceStore:
    store = DeviceStore(path / "device.db")
    rng = np.random.default_rng(1)
    store.add_windows(
        [
            StoredWindow(
                rng.random(SHAPE, np.float32), n % 3, 1000.0 + n, "train", f"press {n % 2}"
            )
            for n in range(windows)
        ],
        2000.0,
    )
    notice = Notice(
        stream="press 1", time_seconds=1003.0, label="worn", confidence=0.5,
        reason="since 3 windows", changed=True,
    )  # fmt: skip
    store.add_notices([notice], 2000.0)
    store.give_label(GivenLabel("press 1", 1000.0, 1010.0, "worn", 2000.0))
    return store


async def whole(parts: AsyncIterator[Part]) -> tuple[bytes, int]:
    """The zip, and its largest piece."""
    pieces = [piece async for piece in zipped(parts)]
    return b"".join(pieces), max(map(len, pieces))


def test_all_that_is_stored_comes_back_from_the_zip(tmp_path: Path) -> None:
    windows = WINDOWS_A_FILE + 10
    store = filled(tmp_path, windows)
    about = json.dumps({"name": "gateway"}).encode()
    parts = store_parts(store, about, [b"egress 1\n", b"entry\n"], {"watch.hedgerow": b"bundle"})
    body, _ = asyncio.run(whole(parts))
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
        assert json.loads(archive.read("about.json")) == {"name": "gateway"}
        assert archive.read("egress.record") == b"egress 1\nentry\n"
        assert archive.read("models/watch.hedgerow") == b"bundle"
        (notice,) = map(json.loads, archive.read("notices.jsonl").splitlines())
        assert (notice["stream"], notice["label"], notice["score"]) == ("press 1", "worn", None)
        (given,) = map(json.loads, archive.read("labels.jsonl").splitlines())
        assert given["end_seconds"] == 1010.0
        files = [name for name in archive.namelist() if name.startswith("windows/")]
        assert files == ["windows/00001.npz", "windows/00002.npz"]
        loaded = [np.load(io.BytesIO(archive.read(name)), allow_pickle=False) for name in files]
    assert [len(file["x"]) for file in loaded] == [WINDOWS_A_FILE, 10]
    x, y = store.load_windows()
    assert np.array_equal(np.concatenate([file["x"] for file in loaded]), x)
    assert np.array_equal(np.concatenate([file["label"] for file in loaded]), y)
    assert list(loaded[1]["stream"]) == [f"press {n % 2}" for n in range(256, windows)]
    assert loaded[0]["start_seconds"][5] == 1005.0
    store.close()


def test_a_large_file_passes_through_in_pieces() -> None:
    async def large() -> AsyncIterator[Part]:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(64):
                yield b"\7" * 500_000

        yield Part("large", pieces())

    body, largest = asyncio.run(whole(large()))
    assert len(body) > 32_000_000
    assert largest < 2_000_000
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.getinfo("large").file_size == 32_000_000
        assert archive.testzip() is None


def test_an_empty_store_gives_an_archive_all_the_same(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path / "device.db")
    body, _ = asyncio.run(whole(store_parts(store)))
    store.close()
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.namelist() == ["notices.jsonl", "labels.jsonl", "egress.record"]


def test_others_get_their_turn_between_two_batches(tmp_path: Path) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def body() -> None:
        store = filled(tmp_path, 3 * WINDOWS_A_FILE)
        beside = asyncio.create_task(other())
        await whole(store_parts(store))
        beside.cancel()
        store.close()

    asyncio.run(body())
    assert turns >= 3
