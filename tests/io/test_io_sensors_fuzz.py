"""Whatever comes over the air, a line or in a file: it is used or refused, and harms nobody."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hedgerow.core.errors import UsageError
from hedgerow.io.sensors.beacons import BTHOME_NAMES, bthome, ruuvi
from hedgerow.io.sensors.serial import Lines, Serial
from hedgerow.io.sensors.tables import Wanted, read_pieces
from hedgerow.io.sensors.wav import wav_format, wav_pieces
from tests.io.sensing import around, sensor

SLOW = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(st.binary(max_size=40))
def test_advertisements(data: bytes) -> None:
    for head in (b"", b"\x40"):
        try:
            found = bthome(head + data)
        except ValueError:
            continue
        assert {name.rstrip("0123456789_") for name in found} <= {
            name.rstrip("0123456789_") for name in BTHOME_NAMES
        }
        assert all(map(math.isfinite, found.values()))
    try:
        found = ruuvi(b"\x05" + data)
    except ValueError:
        return
    assert len(found) == 9


@given(st.lists(st.binary(max_size=200), max_size=10), st.sampled_from(["csv", "json"]))
def test_lines(chunks: list[bytes], form: str) -> None:
    made = sensor("serial", port="a", format=form)
    assert isinstance(made, Serial)
    lines = Lines(made, around(["x", "y"], 10))
    for chunk in (*chunks, b"\n", b"1,2\n" if form == "csv" else b'{"x":1,"y":2}\n'):
        seconds, rows = lines.push(chunk)
        assert seconds == [] and rows.shape[1:] == (2,) and rows.dtype == np.float32
    assert rows.tolist() == [[1, 2]]  # and it goes on


@SLOW
@given(data=st.binary(max_size=200), chunk=st.binary(max_size=60), length=st.integers(0, 2**32 - 1))
def test_wav_files(tmp_path: Path, data: bytes, chunk: bytes, length: int) -> None:
    path = tmp_path / "a.wav"
    form = b"fmt " + struct.pack("<I", len(chunk)) + chunk + bytes(len(chunk) % 2)
    path.write_bytes(b"RIFF\0\0\0\0WAVE" + form + b"data" + struct.pack("<I", length) + data)
    try:
        read = wav_format(path)
    except UsageError:
        return
    for piece in wav_pieces(path, read):
        assert piece.dtype == np.float32 and piece.shape[1] == read.channels


@SLOW
@given(
    data=st.binary(max_size=300), suffix=st.sampled_from(["csv", "tsv", "npy", "npz", "parquet"])
)
def test_recordings(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    magic = {"npy": b"\x93NUMPY\x01\x00", "npz": b"PK\x03\x04", "parquet": b"PAR1"}
    for head in {b"", magic.get(suffix, b"")}:
        path.write_bytes(head + data)
        try:
            for piece in read_pieces(path, Wanted(["x"], or_in_order=True)):
                assert piece.samples.dtype == np.float32
        except UsageError:
            pass
