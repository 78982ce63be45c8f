"""The data sets of `hedgerow data` as federated data: arrays from the cache, dealt to clients.

    settings = DataSettings(source="fashion", partition=Dirichlet(alpha=0.1), clients=100)
    data = federated(settings, bundle.manifest.input, seed=0)

No client's data is scaled by what another client has: pictures are by two customary constants,
windows by the model's own schema.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.schema import InputSchema
from hedgerow.core.streams import stream
from hedgerow.io import data as store
from hedgerow.io.data.bearings import BEARING_LABELS
from hedgerow.io.data.buildings import BUILDING_CHANNELS
from hedgerow.io.data.images import Images
from hedgerow.model.samples import Samples
from hedgerow.sense.features import features
from hedgerow.serve.windows import WindowSet, windows_of
from hedgerow.sim.data import ArrayData, FederatedData, joined, rows_of
from hedgerow.sim.data_settings import DataSettings
from hedgerow.sim.folder import FolderSettings, read_folder
from hedgerow.sim.partition import (
    AnyPartition,
    Dirichlet,
    Natural,
    Partition,
    Shards,
    alike,
    cut,
    natural,
)
from hedgerow.sim.skew import Drifting, FeatureSkew

GREY_MEAN = {"fashion": 0.286, "digits": 0.131}
GREY_SCALE = {"fashion": 0.353, "digits": 0.308}
"""The customary ones; a grey value v from 0 to 1 becomes (v − mean) / scale."""
DIGITS_TEST_SHARE = 0.2
BEARING_RATE_HZ = 48_828.0
GLUCOSE_SECONDS = 300
PEDESTRIAN_CHANNELS = ("people", "hour sine", "hour cosine", "weekend")
Groups: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """All of a data set before it is dealt.

    `test` is nobody's in particular. Where there is a natural split, `groups [n]` says which of
    `names` each row of `train` is of, and `own` with `own_groups` is what each of them is measured
    on. `classes` 0: `y` is a value.
    """

    train: Samples
    test: Samples
    classes: int
    groups: Groups | None = None
    own: Samples | None = None
    own_groups: Groups | None = None
    names: tuple[str, ...] = ()


def federated(settings: DataSettings, schema: InputSchema, seed: int) -> FederatedData:
    """The data set of `settings` with its clients, for a model that takes `schema`.

    `samples(k)` are inputs as the model takes them. `held_out(k)`: with the natural split, the
    client's own later data. With any other, rows of the test set in the client's own mix of labels
    (at most `held_out_rows`), so that a device is measured on what it meets; several devices may be
    measured on the same row, and none is trained on any.

    Raises:
        UsageError: no such data set, or it is not in the cache; the settings do not fit it.
    """
    return dealt(pool(settings, schema, seed), settings, seed)


def pool(settings: DataSettings, schema: InputSchema, seed: int = 0) -> Pool:
    """All of a data set, split into what is learned from and what is tested on."""
    maker = POOLS.get(settings.source)
    if maker is not None:
        whole = maker(schema, seed)
    elif Path(settings.source).is_dir():
        whole = _folder(Path(settings.source), settings.folder or FolderSettings(), schema)
    else:
        raise UsageError(
            f"no data set and no folder {settings.source!r}; wanted a folder with a file for each "
            f"device, or one of: {', '.join(sorted(POOLS))}"
        )
    return without(whole, settings.leave_out) if settings.leave_out else whole


def without(whole: Pool, names: tuple[str, ...]) -> Pool:
    """Leave natural clients out of training: all they have, early and late, becomes the test."""
    unknown = [name for name in names if name not in whole.names]
    if unknown or whole.groups is None or whole.own is None or whole.own_groups is None:
        there = ", ".join(whole.names) or "nobody: this data has no natural split"
        raise UsageError(f"no client {(unknown or names)[0]!r} to leave out; there is {there}")
    if set(names) == set(whole.names):
        raise UsageError("every client is left out; wanted at least one to learn from")
    strangers = [whole.names.index(name) for name in names]
    away, away_later = np.isin(whole.groups, strangers), np.isin(whole.own_groups, strangers)
    return replace(
        whole,
        train=rows_of(whole.train, ~away),
        groups=whole.groups[~away],
        own=rows_of(whole.own, ~away_later),
        own_groups=whole.own_groups[~away_later],
        test=joined([rows_of(whole.train, away), rows_of(whole.own, away_later)]),
    )


def dealt(whole: Pool, settings: DataSettings, seed: int) -> FederatedData:
    """The rows of a pool to clients, skewed and drifting by the settings."""
    rng = stream(seed, "partition", settings.source)
    rule = settings.partition
    if rule is None:
        rule = Natural() if whole.groups is not None else Dirichlet()
    data: FederatedData
    data = _natural(whole) if isinstance(rule, Natural) else _split(whole, rule, settings, rng)
    if settings.skew is not None:
        data = FeatureSkew(data, settings.skew, seed)
    return data if settings.drift is None else Drifting(data, settings.drift, seed)


def _natural(whole: Pool) -> ArrayData:
    """Each client with its own rows to learn from and its own to be measured on."""
    if whole.groups is None or whole.own is None or whole.own_groups is None:
        raise UsageError("this data has no natural split; wanted another partition")
    there = np.unique(whole.groups).tolist()
    held = [np.flatnonzero(whole.own_groups == group) for group in there]
    return ArrayData(
        whole.train.x,
        whole.train.y,
        natural(whole.groups),
        test=whole.test,
        held_out=(whole.own, Partition.of(held)),
        names=[whole.names[group] for group in there],
        classes=whole.classes,
    )


def _split(
    whole: Pool, rule: AnyPartition, settings: DataSettings, rng: np.random.Generator
) -> ArrayData:
    """Rows by a rule, and test rows alike."""
    if whole.classes == 0 and isinstance(rule, Dirichlet | Shards):
        raise UsageError(
            f"{settings.source!r} has values and no labels to deal by; wanted the partition "
            '"natural", "iid" or "quantity"'
        )
    labels, test_labels = (_labels(part, whole.classes) for part in (whole.train, whole.test))
    partition = rule.deal(labels, whole.groups, settings.clients, rng)
    held = alike(partition, labels, test_labels, settings.held_out_rows, rng)
    return ArrayData(
        whole.train.x,
        whole.train.y,
        partition,
        test=whole.test,
        held_out=(whole.test, held),
        classes=whole.classes,
    )


def _labels(samples: Samples, classes: int) -> NDArray[np.int64]:
    """The labels, or one for all where there are none."""
    if classes == 0 or samples.y is None:
        return np.zeros(len(samples.x), np.int64)
    return samples.y.astype(np.int64)


# One function a data set --------------------------------------------------------------------------


def _watch(schema: InputSchema, seed: int) -> Pool:
    """Windows as an agent makes them; of each recording the first part is learned from."""
    early: list[WindowSet] = []
    late: list[WindowSet] = []
    for wearer in store.WATCH_WEARERS:
        first, rest = store.split_in_time(store.load_wearer(wearer), store.TRAIN_SHARE)
        early.append(windows_of(first, schema))
        late.append(windows_of(rest, schema))
    (train, groups), (own, own_groups) = (
        (
            joined([Samples(features(part.x, schema), part.y) for part in parts]),
            np.repeat(np.arange(len(parts)), [len(part.y) for part in parts]),
        )
        for parts in (early, late)
    )
    names = tuple(str(wearer) for wearer in store.WATCH_WEARERS)
    return Pool(train, own, len(store.WATCH_LABELS), groups, own, own_groups, names)


def _fashion(schema: InputSchema, seed: int) -> Pool:
    """The official split."""
    train, test = store.load_fashion()
    return Pool(_grey(train, "fashion", schema), _grey(test, "fashion", schema), 10)


def _digits(schema: InputSchema, seed: int) -> Pool:
    """A fifth of each digit is tested on: the same fifth whatever the seed."""
    images = store.load_digits()
    learn, test = cut(natural(images.y), 1 - DIGITS_TEST_SHARE, stream(0, "digits", "test"))
    whole = _grey(images, "digits", schema)
    return Pool(rows_of(whole, learn.order), rows_of(whole, test.order), 10)


def _grey(images: Images, source: str, schema: InputSchema) -> Samples:
    """Grey values f32 `[n, *schema.shape]`, standardised."""
    if math.prod(schema.shape) != images.x[0].size:
        raise UsageError(
            f"{source!r} has pictures of 28×28, and the model takes {schema.shape}; wanted a model "
            "of 784 numbers, such as (1, 28, 28)"
        )
    factor = np.float32(1 / (255 * GREY_SCALE[source]))
    x = images.x.reshape(-1, *schema.shape) * factor
    x -= np.float32(GREY_MEAN[source] / GREY_SCALE[source])
    return Samples(x, images.y)


def _bearings(schema: InputSchema, seed: int) -> Pool:
    """Windows of vibration at one rate; a client is a load, and learns from what comes first."""
    parts = []
    for recording in store.load_bearings():
        fold = round(recording.rate_hz / BEARING_RATE_HZ)
        samples = recording.samples
        if fold > 1:  # the mean of neighbours, where two rates were recorded
            samples = samples[: len(samples) // fold * fold].reshape(-1, fold).mean(axis=1)
        parts.append(_Part(str(recording.load), samples[:, None], recording.label))
    names = tuple(dict.fromkeys(part.name for part in sorted(parts, key=lambda p: int(p.name))))
    return _windows(parts, names, schema, len(BEARING_LABELS))


def _buildings(schema: InputSchema, seed: int) -> Pool:
    """The next hour's load; the model's channels choose among `BUILDING_CHANNELS`."""
    series = {one.name: one.hours for one in store.load_buildings()}
    return _forecasts(series, BUILDING_CHANNELS, schema, ahead=1)


def _pedestrians(schema: InputSchema, seed: int) -> Pool:
    """People in the next hour."""
    hours, streets = store.load_pedestrians()
    clock = 2 * math.pi * (hours % 24) / 24
    weekend = (hours // 24 + 3) % 7 >= 5  # day 0, in 1970, was a Thursday
    at = hours - hours[0]  # an hour that is not there is one without a count
    series = {}
    for street in streets:
        values = np.full((int(at[-1]) + 1, 4), np.nan, np.float32)
        values[at] = np.stack([street.counts, np.sin(clock), np.cos(clock), weekend], 1)
        series[street.name] = values
    return _forecasts(series, PEDESTRIAN_CHANNELS, schema, ahead=1)


def _glucose(schema: InputSchema, seed: int) -> Pool:
    """The level half an hour on, from readings put on a grid of five minutes."""
    series = {}
    for person in store.load_glucose():
        at = (person.seconds - person.seconds[0]) // GLUCOSE_SECONDS
        values = np.full((int(at[-1]) + 1, 1), np.nan, np.float32)
        values[at, 0] = person.level
        series[person.name] = values
    return _forecasts(series, ("glucose",), schema, ahead=6)


def _folder(path: Path, given: FolderSettings, schema: InputSchema) -> Pool:
    """The user's own files, as the model's schema wants them."""
    settings = msgspec.structs.replace(
        given,
        columns=given.columns or schema.channels,
        window=given.window or schema.window,
        hop=given.hop or schema.hop,
    )
    read = read_folder(path, settings)
    train, own = (replace(part, x=features(part.x, schema)) for part in (read.train, read.own))
    return Pool(train, own, read.classes, read.groups, own, read.own_groups, read.names)


class _Part(NamedTuple):
    """`samples [n, C]` of client `name`, all of them with `label`."""

    name: str
    samples: NDArray[np.float32]
    label: int


def _windows(
    parts: Sequence[_Part], names: tuple[str, ...], schema: InputSchema, classes: int
) -> Pool:
    """Labelled windows; of each part what comes first is learned from."""
    sets: list[tuple[Samples, Groups]] = []
    for late in (False, True):
        x, y, groups = [], [], []
        for part in parts:
            cut_at = int(store.TRAIN_SHARE * len(part.samples))
            samples = part.samples[cut_at:] if late else part.samples[:cut_at]
            windows = _every_window(samples, schema)
            x.append(features(windows, schema))
            y.append(np.full(len(windows), part.label))
            groups.append(np.full(len(windows), names.index(part.name)))
        sets.append((Samples(np.concatenate(x), np.concatenate(y)), np.concatenate(groups)))
    (train, of_train), (own, of_own) = sets
    return Pool(train, own, classes, of_train, own, of_own, names)


def _forecasts(
    series: Mapping[str, NDArray[np.float32]],
    channels: Sequence[str],
    schema: InputSchema,
    *,
    ahead: int,
) -> Pool:
    """Windows of each client's series `[n, C]`, and as `y [N, 1]` the first of the model's channels
    `ahead` samples after the window, standardised as the input is. Windows with a gap are left out.
    """
    unknown = [name for name in schema.channels if name not in channels]
    if unknown:
        raise UsageError(f"no channel {unknown[0]!r}; wanted some of: {', '.join(channels)}")
    chosen = [list(channels).index(name) for name in schema.channels]
    mean = schema.mean[0] if schema.mean else 0.0
    scale = schema.scale[0] if schema.scale else 1.0
    sets: list[tuple[Samples, Groups]] = []
    for late in (False, True):
        x, y, groups = [], [], []
        for group, values in enumerate(series.values()):
            cut_at = int(store.TRAIN_SHARE * len(values))
            part = (values[cut_at:] if late else values[:cut_at])[:, chosen]
            windows = _every_window(part[: len(part) - ahead], schema)
            answers = part[schema.window - 1 + ahead :: schema.hop, :1][: len(windows)]
            whole = np.isfinite(windows).all(axis=(1, 2)) & np.isfinite(answers[:, 0])
            x.append(features(windows[whole], schema))
            y.append(((answers[whole] - mean) / scale).astype(np.float32))
            groups.append(np.full(int(whole.sum()), group))
        sets.append((Samples(np.concatenate(x), np.concatenate(y)), np.concatenate(groups)))
    (train, of_train), (own, of_own) = sets
    return Pool(train, own, 0, of_train, own, of_own, tuple(series))


def _every_window(samples: NDArray[np.float32], schema: InputSchema) -> NDArray[np.float32]:
    """Windows `[N, C, window]` of `samples [n, C]`, one every `hop`; none where there are few."""
    if samples.shape[1] != len(schema.channels):
        raise UsageError(
            f"samples have {samples.shape[1]} channels, and the model takes "
            f"{', '.join(schema.channels)}"
        )
    if len(samples) < schema.window:
        return np.empty((0, len(schema.channels), schema.window), np.float32)
    return np.lib.stride_tricks.sliding_window_view(samples, schema.window, axis=0)[:: schema.hop]


POOLS: Mapping[str, Callable[[InputSchema, int], Pool]] = {
    "bearings": _bearings,
    "buildings": _buildings,
    "digits": _digits,
    "fashion": _fashion,
    "glucose": _glucose,
    "pedestrians": _pedestrians,
    "watch": _watch,
}
"""How each data set of `hedgerow data` becomes samples."""
