"""What the owner takes along: everything a device stores, as files of a zip, in bounded memory.

| file | what |
|---|---|
| `about.json` | the device, its model and its settings as the console shows them |
| `windows/00001.npz` … | windows, oldest first: `x` f32 `[n, …]` and, of each, `stream`, |
| | `start_seconds`, `label` (-1: none), `purpose` |
| `notices.jsonl` | decisions kept, newest first, one JSON object a line |
| `labels.jsonl` | what the owner said, newest first |
| `egress.record` | every message that left, as `hedgerow egress verify` reads it |
| `models/…` | bundles and weights |
"""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Final

import msgspec
import numpy as np

from hedgerow.io.device_store import DeviceStore
from hedgerow.protocol.owner import Part

WINDOWS_A_FILE: Final = 256
LINES_MAX: Final = 100_000
PIECE_BYTES: Final = 1 << 20
_PLAIN_TEXT: Final = (".json", ".jsonl", ".md")


async def store_parts(
    store: DeviceStore,
    about: bytes = b"",
    record: Iterable[bytes] = (),
    models: Mapping[str, bytes] | None = None,
) -> AsyncIterator[Part]:
    """Every file of the export, one after the other; `about` is the JSON of the owner's view.

    Use it in the loop that owns the store: between two batches the loop is handed back.
    """
    if about:
        yield _whole("about.json", about)
    for number, (rows, x) in enumerate(store.iter_windows(WINDOWS_A_FILE), 1):
        file = io.BytesIO()
        np.savez(
            file,
            x=x,
            stream=np.array([row.stream for row in rows], np.str_),
            start_seconds=np.array([row.start_seconds for row in rows], np.float64),
            label=np.array([row.label for row in rows], np.int64),
            purpose=np.array([row.purpose for row in rows], np.str_),
        )
        yield _whole(f"windows/{number:05}.npz", file.getvalue())
    notices = store.notices(limit=LINES_MAX)
    yield Part("notices.jsonl", _paced(_lines(notices)))
    yield Part("labels.jsonl", _paced(_lines(store.given_labels(limit=LINES_MAX))))
    yield Part("egress.record", _paced(iter(record)))
    for name, body in (models or {}).items():
        yield _whole(f"models/{name}", body)


async def zipped(parts: AsyncIterator[Part]) -> AsyncIterator[bytes]:
    """A zip of `parts` as it grows, in pieces; nothing is held but the piece at hand."""
    out = _Pipe()
    with zipfile.ZipFile(out, "w", compresslevel=1) as archive:
        async for part in parts:
            info = zipfile.ZipInfo(part.name)
            text = part.name.endswith(_PLAIN_TEXT)
            info.compress_type = zipfile.ZIP_DEFLATED if text else zipfile.ZIP_STORED
            info.external_attr = 0o600 << 16
            with archive.open(info, "w", force_zip64=True) as file:
                async for piece in part.pieces:
                    file.write(piece)
                    if out.waiting >= PIECE_BYTES:
                        yield out.take()
            if out.waiting:
                yield out.take()
            await asyncio.sleep(0)
    yield out.take()


class _Pipe:
    """A file that can only be written, and is emptied as it fills."""

    def __init__(self) -> None:
        self.waiting = 0
        self._pieces: list[bytes] = []

    def write(self, piece: bytes, /) -> int:
        self._pieces.append(bytes(piece))
        self.waiting += len(piece)
        return len(piece)

    def flush(self) -> None:
        """Nothing lies behind it."""

    def close(self) -> None:
        """What waits can still be taken."""

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces, self.waiting = [], 0
        return taken


def _whole(name: str, body: bytes) -> Part:
    return Part(
        name, _paced(body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES))
    )


def _lines(entries: Iterable[object]) -> Iterator[bytes]:
    """One JSON object a line; NamedTuples by their field names."""
    for entry in entries:
        plain = entry._asdict() if isinstance(entry, tuple) and hasattr(entry, "_asdict") else entry
        yield msgspec.json.encode(plain) + b"\n"


async def _paced(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    """The pieces gathered to a good size, with a turn for everybody else between two."""
    gathered: list[bytes] = []
    size = 0
    for piece in pieces:
        gathered.append(piece)
        size += len(piece)
        if size >= PIECE_BYTES // 4:
            yield b"".join(gathered)
            gathered, size = [], 0
            await asyncio.sleep(0)
    yield b"".join(gathered)
