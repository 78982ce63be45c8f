"""A codec: stages in a declared order, from a vector to bytes and back.

Any number of stages that shorten the vector (`topk`, `random_k`, `low_rank`), then at most one that
quantises what is left (`float16`, `eden`, `ternary`, `quantise`), then `entropy` if wanted. STC is
`topk`, `ternary` with feedback. With feedback the sender keeps what a message lost and adds it to
the next one (Error feedback fixes SignSGD, Karimireddy et al., 2019).

Bytes: what each shortening stage has to say, in order; the quantiser's head; its symbols. Sizes
that both ends can work out do not travel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, NamedTuple, TypeAlias

import msgspec
import numpy as np

from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Vector
from hedgerow.seal.bits import pack, packed_bytes, unpack
from hedgerow.seal.eden import Eden
from hedgerow.seal.entropy import Entropy
from hedgerow.seal.float16 import Float16
from hedgerow.seal.low_rank import LowRank
from hedgerow.seal.quantise import Quantise
from hedgerow.seal.random_k import RandomK
from hedgerow.seal.stage import Plain, Quantiser, Reader, Setting, Shapes, Shrinker, Symbols, bad
from hedgerow.seal.ternary import Ternary
from hedgerow.seal.topk import TopK

AnyStage: TypeAlias = TopK | RandomK | LowRank | Float16 | Eden | Ternary | Quantise | Entropy
STAGES_MAX = 4
_PLAIN = Plain()
ORDER = "stages that shorten (topk, random_k, low_rank), then at most one that quantises (float16, \
eden, ternary, quantise), then entropy"


class Codec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a vector becomes bytes. No stages: float32.

    `feedback`: the part `carry` of what a message lost is added to the next one. All of it is right
    for gradients and patches; where a message holds the whole way to a device's own optimum, what
    waited for several rounds would overshoot it, and half does better.
    """

    stages: Annotated[tuple[AnyStage, ...], msgspec.Meta(max_length=STAGES_MAX)] = ()
    feedback: bool = False
    carry: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0

    def __post_init__(self) -> None:
        _check_order(self.stages)

    @property
    def shrinkers(self) -> tuple[Shrinker, ...]:
        """The stages that shorten, in order."""
        return tuple([stage for stage in self.stages if isinstance(stage, Shrinker)])

    @property
    def quantiser(self) -> Quantiser:
        """The stage that quantises, or the plain one."""
        for stage in self.stages:
            if isinstance(stage, Quantiser):
                return stage
        return _PLAIN

    @property
    def entropy(self) -> Entropy | None:
        """The entropy stage, where there is one."""
        last = self.stages[-1] if self.stages else None
        return last if isinstance(last, Entropy) else None


class _Ways(NamedTuple):
    """A codec taken apart: once for all its vectors."""

    shrinkers: tuple[Shrinker, ...]
    quantiser: Quantiser
    bits: int
    entropy: Entropy | None


@functools.lru_cache(maxsize=256)
def _ways(codec: Codec) -> _Ways:
    quantiser = codec.quantiser
    return _Ways(codec.shrinkers, quantiser, quantiser.symbol_bits, codec.entropy)


def encode(codec: Codec, vector: Vector, seed: int, shapes: Shapes = ()) -> bytes:
    """A vector `[n]` as bytes. `seed` and `shapes` must be the other end's too.

    Raises:
        UsageError: the vector is empty or holds NaN or infinity, or `low_rank` got no shapes.
    """
    return _encode(codec, vector, seed, shapes)[0]


def round_trip(
    codec: Codec, vector: Vector, seed: int, shapes: Shapes = ()
) -> tuple[bytes, Vector]:
    """A vector as bytes, and what `decode` makes of them, without reading them again.

    Raises:
        UsageError: as `encode` does.
        PeerError: what comes out holds NaN or infinity (`bad_payload`).
    """
    data, short = _encode(codec, vector, seed, shapes)
    return data, _restored(short)


class _Short(NamedTuple):
    """A vector between its bytes and itself: quantised, and the ways back of what shortened it."""

    quantiser: Quantiser
    head: memoryview
    symbols: Symbols
    size: int
    setting: Setting
    restores: list[Callable[[Vector], Vector]]


def _encode(codec: Codec, vector: Vector, seed: int, shapes: Shapes) -> tuple[bytes, _Short]:
    if vector.ndim != 1 or not len(vector) or not _finite(vector):
        raise UsageError(
            f"a vector of shape {vector.shape} was to be encoded; wanted one dimension, at least "
            "one element, all finite"
        )
    shrinkers, quantiser, bits, entropy = _ways(codec)
    setting = Setting(seed, shapes, codec.feedback)
    vector = np.ascontiguousarray(vector, np.float32)
    parts, restores = [], []
    with np.errstate(all="ignore"):
        for stage in shrinkers:
            shrunk = stage.shrink(vector, setting)
            vector = shrunk.short
            parts.append(shrunk.side)
            restores.append(shrunk.restore)
        head, symbols = quantiser.quantise(vector, setting)
    body = entropy.encode(symbols, bits) if entropy else pack(symbols, bits)
    short = _Short(quantiser, memoryview(head), symbols, len(vector), setting, restores)
    return b"".join([*parts, head, body]), short


def _restored(short: _Short) -> Vector:
    with np.errstate(all="ignore"):  # hostile scales overflow; that is refused below
        vector = short.quantiser.restore(short.head, short.symbols, short.size, short.setting)
        for restore in reversed(short.restores):
            vector = restore(vector)
    if not _finite(vector):
        raise bad("the vector holds NaN or infinity")
    return vector


def decode(codec: Codec, data: bytes, size: int, seed: int, shapes: Shapes = ()) -> Vector:
    """The vector `[size]` that `data` stands for: the same bits on every machine.

    Memory is bounded by `size`, whatever `data` says.

    Raises:
        PeerError: `data` is not what `encode` makes of such a vector (`bad_payload`).
    """
    shrinkers, quantiser, bits, entropy = _ways(codec)
    setting = Setting(seed, shapes, codec.feedback)
    reader = Reader(data)
    opened = []
    left = size
    for stage in shrinkers:
        opened.append(stage.open(reader, left, setting))
        left = opened[-1].size
    head = reader.take(quantiser.head_bytes)
    count = quantiser.symbols(left)
    if entropy:
        symbols = entropy.decode(reader, count, bits)
    else:
        symbols = unpack(reader.take(packed_bytes(count, bits)), count, bits)
    if len(reader):
        raise bad(f"{len(reader)} bytes stand behind the end")
    restores = [stage_opened.restore for stage_opened in opened]
    return _restored(_Short(quantiser, head, symbols, left, setting, restores))


def encode_with_residual(
    codec: Codec, vector: Vector, residual: Vector, seed: int, shapes: Shapes = ()
) -> tuple[bytes, Vector]:
    """`vector + residual` as bytes, and what they lost: the next residual.

    A codec without feedback loses for good: the residual is neither added nor anything but zeros.
    """
    if not codec.feedback:
        return encode(codec, vector, seed, shapes), np.zeros_like(vector)
    wanted = vector + residual
    data, seen = round_trip(codec, wanted, seed, shapes)
    lost = wanted - seen
    return data, lost * np.float32(codec.carry)


def estimate(codec: Codec, size: int, shapes: Shapes = ()) -> float:
    """Bytes of a vector of `size` elements as theory has them; with entropy an upper bound."""
    total = 0.0
    for stage in codec.shrinkers:
        size, side = stage.estimate(size, shapes)
        total += side
    quantiser = codec.quantiser
    bits = quantiser.entropy_bits if codec.entropy else quantiser.symbol_bits
    return total + quantiser.head_bytes + quantiser.symbols(size) * bits / 8


def summary(codec: Codec) -> str:
    """A codec in one line: `topk share=0.02, ternary, feedback`; `float32` for one of no stages."""
    words = []
    for stage in codec.stages:
        values = [f" {name}={value}" for name, value in msgspec.structs.asdict(stage).items()]
        words.append(str(stage.__struct_config__.tag) + "".join(values))
    if codec.feedback:
        words.append("feedback" if codec.carry == 1.0 else f"feedback carry={codec.carry}")
    return ", ".join(words) or "float32"


def _finite(vector: Vector) -> bool:
    return bool(np.logical_and.reduce(np.isfinite(vector)))


@functools.lru_cache(maxsize=256)
def _check_order(stages: tuple[AnyStage, ...]) -> None:
    """Every offer holds codecs, and most hold the same ones: those are looked at once."""
    ranks = [_rank(stage) for stage in stages]
    names = [str(stage.__struct_config__.tag) for stage in stages]
    if ranks != sorted(ranks) or ranks.count(1) > 1 or ranks.count(2) > 1:
        raise UsageError(f"a codec has the stages {names}; wanted {ORDER}")
    if 2 in ranks and 1 not in ranks:
        raise UsageError(
            f"a codec has the stages {names}; entropy wants one before it that quantises"
        )
    shorten = [stage for stage in stages if isinstance(stage, Shrinker)]
    if any(isinstance(stage, LowRank) for stage in shorten[1:]):
        raise UsageError(
            f"a codec has the stages {names}; low_rank needs whole tensors, so put it first"
        )


def _rank(stage: AnyStage) -> int:
    if isinstance(stage, Shrinker):
        return 0
    return 1 if isinstance(stage, Quantiser) else 2
