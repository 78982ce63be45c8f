"""Labelled windows: what a device learns from, and what it is measured on."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.schema import InputSchema, OutputSchema
from hedgerow.io.data import Recording
from hedgerow.sense.windows import Windower
from hedgerow.wire.messages import LABELS_MAX


class WindowSet(msgspec.Struct, frozen=True, eq=False):
    """Windows `x [N, C, T]` as they were sensed, and their labels `y [N]`."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]


def label_counts(windows: WindowSet, output: OutputSchema) -> tuple[int, ...] | None:
    """How many windows are of each class, `[C]`; None where they have none, or too many to tell."""
    if output.task != "classification" or output.size > LABELS_MAX:
        return None
    counts = np.bincount(windows.y, minlength=output.size)
    return tuple(counts[: output.size].tolist())


def windows_of(recordings: list[Recording], schema: InputSchema) -> WindowSet:
    """All whole windows whose sensor can be believed, none across two recordings.

    Returns x `[N, C, T]` and y `[N]`.
    """
    x: list[NDArray[np.float32]] = []
    y: list[int] = []
    for recording in recordings:
        windows = [w for w in Windower(schema).push(recording.samples, 0.0) if w.quality.usable]
        x += [window.samples for window in windows]
        y += [recording.label] * len(windows)
    shape = (len(x), len(schema.channels), schema.window)
    stacked = np.stack(x) if x else np.empty(shape, np.float32)
    return WindowSet(stacked, np.array(y, np.int64))
