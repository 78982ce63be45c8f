"""What makes clients differ beyond their labels: other sensors, and data that moves with time.

Each wraps a `FederatedData` and is one itself. Nothing is kept: a client's samples are made when
they are asked for, from draws that depend on the seed and the client alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.streams import stream
from hedgerow.model.samples import Samples
from hedgerow.sim.data import FederatedData

Size: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=100)]
Gain: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=10)]
"""An exponent: float32 ends at e to the power of 88."""


class Skew(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much clients' sensors differ. Channels are the first axis of a sample.

    `quarter_turns`: pictures of client k are turned by `k mod quarter_turns` quarters (1: none, 2:
    upright or on its side, 4: every way; after Ghosh and others, arXiv:2006.04088). `noise`:
    deviation of Gaussian noise, growing evenly from 0 at the first client to this at the last (Li
    and others, arXiv:2102.02079). `gain` and `offset`: each channel times e to the power of a
    normal draw of this deviation, plus another draw.
    """

    quarter_turns: Annotated[int, msgspec.Meta(ge=1, le=4)] = 1
    noise: Size = 0.0
    gain: Gain = 0.0
    offset: Size = 0.0


class Drift(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much a client's data moves with the round; after `period_rounds` it is back.

    `labels`: how strictly a client's rows come in the order of their labels (each client's own
    order): 0 mixed, 1 one label after the other. In a round it sees the share `visible` of its
    rows, from `round / period_rounds` of the way on. `gain` and `offset` swing each channel of
    every client by so much, each client at a phase of its own.
    """

    period_rounds: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 100
    labels: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    visible: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    gain: Gain = 0.0
    offset: Size = 0.0


class _Wrapped:
    """Whatever a wrapper does not change."""

    def __init__(self, data: FederatedData) -> None:
        self._data = data

    @property
    def counts(self) -> NDArray[np.int64]:
        """As of the wrapped data."""
        return self._data.counts

    @property
    def test(self) -> Samples | None:
        """As of the wrapped data."""
        return self._data.test

    @property
    def names(self) -> Sequence[str] | None:
        """As of the wrapped data."""
        return self._data.names

    @property
    def classes(self) -> int:
        """As of the wrapped data."""
        return self._data.classes

    def __len__(self) -> int:
        return len(self._data)


class FeatureSkew(_Wrapped):
    """Every client's sensor differs: `Skew`. Its held-out data differs likewise, `test` does not.

    Raises:
        UsageError: pictures that are not square cannot be turned by one quarter.
    """

    def __init__(self, data: FederatedData, skew: Skew, seed: int) -> None:
        super().__init__(data)
        self._skew, self._seed = skew, seed
        shape = data.samples(0).x.shape[1:] if len(data) else ()
        if skew.quarter_turns > 1 and (len(shape) < 2 or shape[-1] != shape[-2]):
            raise UsageError(
                f"samples of shape {shape} cannot be turned; wanted square pictures, or "
                "quarter_turns = 1"
            )

    def samples(self, client: int, round: int = 0) -> Samples:
        """As this client's sensor gives them; the same in every round."""
        return self._seen(self._data.samples(client, round), client, "train")

    def held_out(self, client: int) -> Samples | None:
        """As this client's sensor gives them."""
        held = self._data.held_out(client)
        return None if held is None else self._seen(held, client, "held out")

    def _seen(self, samples: Samples, client: int, part: str) -> Samples:
        skew, x = self._skew, samples.x
        if skew.quarter_turns > 1:
            x = np.ascontiguousarray(np.rot90(x, client % skew.quarter_turns, (-2, -1)))
        if skew.gain > 0 or skew.offset > 0:
            own = stream(self._seed, "skew", client).standard_normal((2, *_channels(x)))
            x = x * np.exp(skew.gain * own[0], dtype=np.float32) + np.float32(skew.offset) * own[
                1
            ].astype(np.float32)
        if skew.noise > 0 and len(self) > 1:
            noise = stream(self._seed, "noise", part, client).standard_normal(x.shape, np.float32)
            x = x + np.float32(skew.noise * client / (len(self) - 1)) * noise
        return replace(samples, x=x)


class Drifting(_Wrapped):
    """What a client learns from moves with the round: `Drift`.

    Held-out and test data stay as they are, so that accuracy is measured on one thing throughout.
    """

    def __init__(self, data: FederatedData, drift: Drift, seed: int) -> None:
        super().__init__(data)
        if drift.labels > 0 and not data.classes:
            raise UsageError("labels cannot drift where there are none; wanted drift.labels = 0")
        self._drift, self._seed = drift, seed
        seen = np.rint(drift.visible * data.counts).astype(np.int64)
        self._counts: NDArray[np.int64] = np.maximum(seen, np.minimum(data.counts, 1))

    @property
    def counts(self) -> NDArray[np.int64]:
        """What each client sees in a round."""
        return self._counts

    def samples(self, client: int, round: int = 0) -> Samples:
        """What is visible in `round`, as the sensor gives it then."""
        drift, whole = self._drift, self._data.samples(client, round)
        if drift.labels > 0 or drift.visible < 1:
            whole = self._visible(whole, client, round)
        if drift.gain > 0 or drift.offset > 0:
            whole = replace(whole, x=self._swung(whole.x, client, round))
        return whole

    def held_out(self, client: int) -> Samples | None:
        """As of the wrapped data."""
        return self._data.held_out(client)

    def _visible(self, whole: Samples, client: int, round: int) -> Samples:
        drift, rows = self._drift, len(whole.x)
        rng = stream(self._seed, "drift", client)
        when = rng.random(rows)
        if drift.labels > 0 and whole.y is not None:
            place = rng.permutation(self.classes)[whole.y.astype(np.int64)]
            when = (1 - drift.labels) * when + drift.labels * (place + when) / self.classes
        start = round % drift.period_rounds * rows // drift.period_rounds
        seen = np.arange(start, start + int(self._counts[client])) % max(rows, 1)
        chosen = np.argsort(when, kind="stable")[seen]
        return Samples(
            whole.x[chosen],
            None if whole.y is None else whole.y[chosen],
            None if whole.weight is None else whole.weight[chosen],
        )

    def _swung(self, x: NDArray[np.float32], client: int, round: int) -> NDArray[np.float32]:
        drift = self._drift
        phases = stream(self._seed, "swing", client).random((2, *_channels(x)))
        turn = np.sin(2 * math.pi * (round / drift.period_rounds + phases))
        swung: NDArray[np.float32] = x * np.exp(drift.gain * turn[0], dtype=np.float32)
        swung += (drift.offset * turn[1]).astype(np.float32)
        return swung


def _channels(x: NDArray[np.float32]) -> tuple[int, ...]:
    """The shape of one number a channel, against samples `[n, channels, …]`."""
    return (x.shape[1], *(1 for _ in x.shape[2:])) if x.ndim > 1 else ()
