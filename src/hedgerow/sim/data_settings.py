"""The `[data]` table of an experiment: which data, and how it lies with the clients."""

from __future__ import annotations

from typing import Annotated

import msgspec

from hedgerow.sim.folder import FolderSettings
from hedgerow.sim.partition import AnyPartition
from hedgerow.sim.skew import Drift, Skew


class DataSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One data set over its clients.

    `source`: a data set of `hedgerow data list`, or a folder with one file a device. `clients` and
    `partition`: how its rows are dealt (None: as the data came, where it has a natural split, by
    Dirichlet 0.1 where not); a natural split has as many clients as it has. `skew`, `drift`: what
    else makes them differ. `leave_out`: names of natural clients that do not take part, and whose
    data becomes the test data. `held_out_rows`: rows a client is measured on at most, where its
    own are drawn from the test set. `folder`: how to read the files, where `source` is a folder;
    the model's own channels, window and hop stand for those that are not given.
    """

    source: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)] = "watch"
    clients: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 100
    partition: AnyPartition | None = None
    skew: Skew | None = None
    drift: Drift | None = None
    leave_out: tuple[str, ...] = ()
    folder: FolderSettings | None = None
    held_out_rows: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 200
