"""A bundle is one canonical file; anything else is refused before it is used."""

import io
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.core.errors import PeerError, UsageError
from hedgerow.model.bundle import FORMAT, MANIFEST, RANGES, TRAIN, WEIGHTS, Bundle

Entries = dict[str, bytes]


def entries_of(bundle: Bundle) -> Entries:
    with zipfile.ZipFile(io.BytesIO(bundle.to_bytes())) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(entries: Entries, method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name in sorted(entries):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), entries[name], method)
    return out.getvalue()


def test_bytes_and_hash_are_the_same_every_time(bundle: Bundle, tmp_path: Path) -> None:
    again = Bundle.from_bytes(bundle.to_bytes())
    assert again.to_bytes() == bundle.to_bytes() and again.hash == bundle.hash
    bundle.save(tmp_path / "a.hedgerow")
    bundle.unpack(tmp_path / "a")
    for path in (tmp_path / "a.hedgerow", tmp_path / "a"):
        loaded = Bundle.load(path)
        assert loaded.hash == bundle.hash and loaded.manifest == bundle.manifest
        assert np.array_equal(loaded.weights, bundle.weights)
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_new_weights_change_weights_version_and_hash_alone(bundle: Bundle) -> None:
    other = bundle.with_weights(bundle.weights + np.float32(1), "2")
    assert other.manifest.version == "2" and other.hash != bundle.hash
    assert other.file(TRAIN) == bundle.file(TRAIN)
    assert np.array_equal(Bundle.from_bytes(other.to_bytes()).weights, bundle.weights + 1)
    back = other.with_weights(bundle.weights, bundle.manifest.version)
    assert back.hash == bundle.hash


def test_starting_weights_cannot_be_written_to(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="read-only"):
        bundle.weights[0] = 1


def _tampered(entries: Entries) -> bytes:
    weights = bytearray(entries[WEIGHTS])
    weights[-1] ^= 1
    return archive_of(entries | {WEIGHTS: bytes(weights)})


def _future(entries: Entries) -> bytes:
    manifest = msgspec.json.decode(entries[MANIFEST]) | {"format": FORMAT + 1}
    return archive_of(entries | {MANIFEST: msgspec.json.encode(manifest)})


def _short_of_ranges(entries: Entries) -> bytes:
    manifest = msgspec.json.decode(entries[MANIFEST])
    manifest["ranges"] = manifest["ranges"][:1]
    return archive_of(entries | {MANIFEST: msgspec.json.encode(manifest)})


def _without(name: str) -> Callable[[Entries], bytes]:
    return lambda entries: archive_of({k: v for k, v in entries.items() if k != name})


BAD: dict[str, tuple[Callable[[Entries], bytes], str]] = {
    "nothing": (lambda _: b"", "not a whole archive"),
    "text": (lambda _: b"hello" * 100, "not a whole archive"),
    "tampered": (_tampered, "has SHA-256"),
    "future": (_future, f"bundle format {FORMAT + 1}, this release reads {FORMAT}"),
    "no manifest": (_without(MANIFEST), "no manifest.json"),
    "no graph": (_without(TRAIN), "lacks"),
    "int8 without ranges": (_without(RANGES), "lacks"),
    "ranges cut short": (_short_of_ranges, "1 ranges for"),
    "extra": (lambda e: archive_of(e | {"../evil.py": b"x"}), "unknown or repeated"),
    "bomb": (
        lambda e: archive_of(e | {TRAIN: bytes(50_000_000)}, zipfile.ZIP_DEFLATED),
        "compressed entries",
    ),
    "trailer": (lambda e: b"#!/bin/sh\n" + archive_of(e), "canonical"),
    "manifest is a list": (lambda e: archive_of(e | {MANIFEST: b"[]"}), "does not fit"),
    "deep manifest": (lambda e: archive_of(e | {MANIFEST: b"[" * 100_000}), "does not fit"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_bundle_is_refused_in_words(bundle: Bundle, name: str, tmp_path: Path) -> None:
    make, words = BAD[name]
    data = make(entries_of(bundle))
    with pytest.raises(PeerError, match=words) as caught:
        Bundle.from_bytes(data)
    assert caught.value.reason == "bad_bundle"
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(UsageError, match=words):
        Bundle.load(tmp_path / "bad")


def test_size_is_bounded_before_anything_is_read(bundle: Bundle, tmp_path: Path) -> None:
    size = len(bundle.to_bytes())
    assert Bundle.from_bytes(bundle.to_bytes(), bytes_max=size).hash == bundle.hash
    with pytest.raises(PeerError, match=f"more than the {size - 1} bytes"):
        Bundle.from_bytes(bundle.to_bytes(), bytes_max=size - 1)
    bundle.unpack(tmp_path)
    with pytest.raises(UsageError, match="more than the 10 bytes"):
        Bundle.load(tmp_path, bytes_max=10)


@given(place=st.integers(0, 10**6), value=st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_any_changed_byte_is_noticed(bundle: Bundle, place: int, value: int) -> None:
    data = bytearray(bundle.to_bytes())
    data[place % len(data)] ^= value
    with pytest.raises(PeerError):
        Bundle.from_bytes(bytes(data))


def test_weights_must_be_finite(bundle: Bundle) -> None:
    weights = bundle.weights.copy()
    weights[3] = np.nan
    with pytest.raises(UsageError, match="NaN or infinity"):
        bundle.with_weights(weights, "2")


def test_a_missing_path_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the bundle"):
        Bundle.load(tmp_path / "none")


def test_a_device_imports_neither_torch_nor_onnx() -> None:
    code = (
        "import sys, hedgerow.model.bundle, hedgerow.model.predictor, hedgerow.model.learner;"
        "print(sorted({'torch', 'onnx', 'onnxscript'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
