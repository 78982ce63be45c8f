"""The way down: a new model as a patch to the one a device holds.

The server keeps two vectors: the model it has, and the model devices hold. A patch is their
difference, encoded; what the codec lost stays in the difference and travels with a later patch
(DoubleSqueeze, Tang et al., 2019). Use a codec with `feedback`: it aims at the least error, which
is what a loss that is carried on wants. Applying is addition, so all devices hold the same bits as
the server's copy.
"""

from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Vector
from hedgerow.seal.codec import Codec, decode, round_trip
from hedgerow.seal.stage import Shapes


def make_patch(
    codec: Codec, held: Vector, wanted: Vector, seed: int, shapes: Shapes = ()
) -> tuple[bytes, Vector]:
    """The patch, and what whoever holds `held` will hold after it.

    Raises:
        UsageError: the vectors differ in shape or hold NaN or infinity.
    """
    if held.shape != wanted.shape:
        raise UsageError(f"a patch from shape {held.shape} to {wanted.shape} was asked for")
    data, step = round_trip(codec, wanted - held, seed, shapes)
    return data, held + step


def apply_patch(codec: Codec, held: Vector, data: bytes, seed: int, shapes: Shapes = ()) -> Vector:
    """What is held after the patch, bit for bit what `make_patch` said.

    Raises:
        PeerError: `data` is no such patch (`bad_payload`).
    """
    patched: Vector = held + decode(codec, data, len(held), seed, shapes)
    return patched
