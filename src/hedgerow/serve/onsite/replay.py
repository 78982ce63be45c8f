"""The replay buffer: a fair sample of what many streams did, in bounded bytes.

Each stream gets about the same room. Within it every window had the same chance to be kept
(reservoir sampling, Vitter's Algorithm R, ACM TOMS 11, 1985), until `memory_windows` have passed:
from then on older ones fade (Aggarwal, VLDB 2006). Windows with a label are kept before those
without.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.model.normal import Rows, grown

Array = NDArray[np.float32]
_Number = TypeVar("_Number", bound=np.generic)

UNLABELLED: Final = -1
NORMAL: Final = -2
"""The label of a window that somebody called normal, where a model has no labels of its own."""
_ROW_BYTES: Final = 32
_LABELLED_SHARE: Final = 0.5
_BLOCK_SECONDS: Final = 30.0
"""Windows of one stream this close together are learned from, or measured on, together."""
_HELD_OUT: Final = 5


class Kept(NamedTuple):
    """Windows of the buffer: `x [n, *shape]`, and for each its row, start, score and label."""

    x: Array
    rows: Rows
    seconds: NDArray[np.float64]
    scores: Array
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def chosen(self, places: NDArray[np.generic]) -> Kept:
        """Some of them."""
        return Kept(*(part[places] for part in self))

    def held_out(self) -> NDArray[np.bool_]:
        """About a fifth, to measure on, `[n]`: by stretches of 30 s, so that neighbours that are
        alike do not end up on both sides.
        """
        block = np.floor(self.seconds / _BLOCK_SECONDS).astype(np.int64)
        mixed = (block * 2_654_435_761 + self.rows * 40_503) & 0xFFFFFFFF
        out: NDArray[np.bool_] = (mixed >> 16) % _HELD_OUT == 0
        return out


class Replay:
    """The buffer. Draws come from `rng`, so that what is kept can be replayed."""

    def __init__(
        self,
        shape: tuple[int, ...],
        bytes_max: int,
        rng: np.random.Generator,
        *,
        memory_windows: int = 500_000,
    ) -> None:
        """Raises UsageError where `bytes_max` has no room for 16 windows."""
        each = 4 * math.prod(shape) + _ROW_BYTES
        self.most = bytes_max // each
        if self.most < 16:
            raise UsageError(
                f"the replay buffer may take {bytes_max} bytes, and a window takes {each}; set "
                f"learning.buffer_bytes_max to {64 * each} or more"
            )
        self._shape, self._each = shape, each
        self._rng, self._memory = rng, memory_windows
        self._x = np.empty((0, *shape), np.float32)
        self._rows = np.empty(0, np.int64)
        self._seconds = np.empty(0, np.float64)
        self._scores = np.empty(0, np.float32)
        self._labels = np.empty(0, np.int64)
        self._slots: dict[int, list[int]] = {}  # unlabelled windows of each stream
        self._labelled: list[int] = []
        self._held = np.zeros(0, np.int64)
        self._seen = np.zeros(0, np.int64)
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._rows) - len(self._free)

    @property
    def nbytes(self) -> int:
        """Bytes of the windows kept."""
        return len(self) * self._each

    @property
    def streams(self) -> int:
        """Streams that have windows here."""
        return len({*self._slots, *self._rows[self._labelled].tolist()})

    @property
    def labelled(self) -> int:
        """Windows with a label."""
        return len(self._labelled)

    def add(
        self, rows: Rows, x: Array, seconds: NDArray[np.float64], scores: Array | None = None
    ) -> int:
        """Offer windows f32 `[B, *shape]` that began at `seconds [B]`; how many were kept."""
        if not len(rows):
            return 0
        top = int(rows.max()) + 1
        self._held, self._seen = grown(self._held, top), grown(self._seen, top)
        room = self.most - len(self)
        wanted = np.arange(len(rows))
        if room < len(rows):
            fair = max(1, (self.most - len(self._labelled)) // max(1, len(self._slots)))
            np.add.at(self._seen, rows, 1)
            seen = np.minimum(self._seen[rows], self._memory)
            held = self._held[rows]
            chance = np.where(held < fair, 1.0, held / np.maximum(seen, 1))
            wanted = np.flatnonzero(self._rng.random(len(rows)) < chance)
        else:
            np.add.at(self._seen, rows, 1)
        kept = 0
        for place in wanted.tolist():
            row = int(rows[place])
            slot = self._room_for(row)
            if slot is None:
                continue
            score = math.nan if scores is None else float(scores[place])
            self._put(slot, row, x[place], float(seconds[place]), score, UNLABELLED)
            self._slots.setdefault(row, []).append(slot)
            self._held[row] += 1
            kept += 1
        return kept

    def add_labelled(
        self, rows: Rows, x: Array, seconds: NDArray[np.float64], labels: NDArray[np.int64]
    ) -> None:
        """Keep windows with a label; of more than fill half of the buffer the oldest go."""
        for place in range(len(rows)):
            if len(self._labelled) >= max(1, int(self.most * _LABELLED_SHARE)):
                self._free.append(self._labelled.pop(0))
            slot = self._room_for(-1)
            if slot is None:
                slot = self._labelled.pop(0)
            row = int(rows[place])
            moment, label = float(seconds[place]), int(labels[place])
            self._put(slot, row, x[place], moment, math.nan, label)
            self._labelled.append(slot)

    def label(self, row: int, start: float, end: float, label: int) -> int:
        """Label what is kept of a stream from `start` up to `end`; how many windows that are."""
        here = self._within(start, end, row)
        for slot in here.tolist():
            if self._labels[slot] == UNLABELLED:
                self._slots[row].remove(slot)
                if not self._slots[row]:
                    del self._slots[row]
                self._held[row] -= 1
                self._labelled.append(slot)
            self._labels[slot] = label
        return len(here)

    def forget(self, start: float, end: float, row: int | None = None) -> int:
        """Overwrite what is kept of a period; how many windows that were."""
        here = self._within(start, end, row)
        gone = set(here.tolist())
        self._x[here] = 0
        self._seconds[here] = np.nan
        self._labelled = [slot for slot in self._labelled if slot not in gone]
        for stream, slots in list(self._slots.items()):
            left = [slot for slot in slots if slot not in gone]
            self._held[stream] = len(left)
            self._slots[stream] = left
            if not left:
                del self._slots[stream]
        self._free += sorted(gone)
        return len(gone)

    def hurry(self, rows: Sequence[int]) -> None:
        """What these streams do from now on counts more: they have drifted."""
        known = [row for row in rows if row < len(self._seen)]
        self._seen[known] = self._held[known]

    def all(self) -> Kept:
        """Copies of all windows kept, by stream and time."""
        used = np.ones(len(self._rows), np.bool_)
        used[self._free] = False
        places = np.flatnonzero(used)
        places = places[np.lexsort((self._seconds[places], self._rows[places]))]
        whole = Kept(self._x, self._rows, self._seconds, self._scores, self._labels)
        return whole.chosen(places)

    def _within(self, start: float, end: float, row: int | None) -> NDArray[np.int64]:
        hit = (self._seconds >= start) & (self._seconds < end)
        if row is not None:
            hit &= self._rows == row
        hit[self._free] = False
        return np.flatnonzero(hit)

    def _room_for(self, row: int) -> int | None:
        """A slot to write to: a free one, one of this stream's, or one of whoever has the most."""
        if self._free:
            return self._free.pop()
        if len(self._rows) < self.most:
            self._enlarge()
            return self._free.pop()
        if not self._slots:
            return None  # all that is kept has a label
        own = int(self._held[row]) if row >= 0 else 0
        most = int(np.argmax(self._held))
        loser = row if own >= self._held[most] else most
        slots = self._slots[loser]
        place = int(self._rng.integers(len(slots)))
        slots[place], slots[-1] = slots[-1], slots[place]
        self._held[loser] -= 1
        slot = slots.pop()
        if not slots:
            del self._slots[loser]
        return slot

    def _enlarge(self) -> None:
        old = len(self._rows)
        new = min(self.most, max(64, old * 2))
        self._x = _longer(self._x, new)
        self._rows, self._labels = _longer(self._rows, new), _longer(self._labels, new)
        self._seconds, self._scores = _longer(self._seconds, new), _longer(self._scores, new)
        self._seconds[old:] = np.nan
        self._free += range(new - 1, old - 1, -1)

    def _put(self, slot: int, row: int, x: Array, seconds: float, score: float, label: int) -> None:
        self._x[slot] = x
        self._rows[slot], self._seconds[slot] = row, seconds
        self._scores[slot], self._labels[slot] = score, label


def _longer(array: NDArray[_Number], size: int) -> NDArray[_Number]:
    out = np.zeros((size, *array.shape[1:]), array.dtype)
    out[: len(array)] = array
    return out
