"""The way down as patches: from the model devices hold to the next one, vector by vector.

A patch is a MessagePack array with one encoded difference for each vector of the model (the
weights, then what the algorithm brings); an empty one says that the vector stays as it is. Both
ends compute the same bits, and the hash of the model has the last word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from hedgerow.core.errors import PeerError
from hedgerow.core.layout import Layout, Vector
from hedgerow.protocol.learning import seed_of
from hedgerow.seal import patch as seal
from hedgerow.seal.codec import Codec

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Annotated[list[bytes], msgspec.Meta(max_length=1024)])


def make_patch(
    codec: Codec, seed: int, version: int, held: Vector, wanted: Vector, layout: Layout
) -> tuple[bytes, Vector]:
    """The patch that leads to `version`, and what devices hold with it, `[R · S]` as `held`."""
    size, parts = layout.shared_size, []
    rows, shapes = held.reshape(-1, size).copy(), _shapes(layout)
    for index, row in enumerate(wanted.reshape(-1, size)):
        if (row == rows[index]).all():
            parts.append(b"")
            continue
        data, rows[index] = seal.make_patch(
            codec, rows[index], row, seed_of(seed, "down", version, index), shapes
        )
        parts.append(data)
    return _encode(parts), rows.reshape(-1)


def apply_patches(
    codec: Codec, seed: int, since: int, held: Vector, patches: Sequence[bytes], layout: Layout
) -> Vector:
    """The model after patches that lead from version `since` on, one version each.

    Raises:
        PeerError: one is no such patch (`bad_payload`).
    """
    size, shapes = layout.shared_size, _shapes(layout)
    rows = held.reshape(-1, size).copy()
    for version, data in enumerate(patches, start=since + 1):
        try:
            parts = _decoder.decode(data)
        except msgspec.DecodeError as error:
            raise PeerError("bad_payload", f"not a patch: {error}") from error
        if len(parts) != len(rows):
            raise PeerError("bad_payload", f"a patch of {len(parts)} vectors for {len(rows)}")
        for index, part in enumerate(parts):
            if part:
                own = seed_of(seed, "down", version, index)
                rows[index] = seal.apply_patch(codec, rows[index], part, own, shapes)
    return rows.reshape(-1)


def _shapes(layout: Layout) -> list[tuple[int, ...]]:
    return [tensor.shape for tensor in layout.tensors if tensor.shared]
