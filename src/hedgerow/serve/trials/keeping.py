"""What outlives the process: the standing, and the blobs of every model that it names."""

from __future__ import annotations

import logging
from collections import deque
from typing import Literal

import msgspec

from hedgerow.core.errors import HedgerowError
from hedgerow.io import clock
from hedgerow.io.device_store import FACT_BUNDLE, DeviceStore
from hedgerow.protocol import owner
from hedgerow.protocol.trial_state import Ended, Standing, Version
from hedgerow.serve.device import FACT_MODEL, decode_model
from hedgerow.serve.trials.checking import Unsound
from hedgerow.serve.trials.models import Serving, blobs_of, loaded
from hedgerow.wire.releases import schema_of

log = logging.getLogger(__name__)

FACT_STANDING = "trial"
EXPECTED_MAX = 4
ROOM = 0.8
"""Share of the store's blobs that models on trial and before may take; the rest is for rounds."""

_STAGES: dict[str, Literal["refused", "shadow", "active", "replaced", "rolled_back"]] = {
    "checking": "shadow",
    "shadow": "shadow",
    "watched": "active",
    "kept": "active",
    "refused": "refused",
    "rolled_back": "rolled_back",
    "replaced": "replaced",
}


class Keeping:
    """The standing in a device's store."""

    def __init__(self, store: DeviceStore, begin: Serving) -> None:
        """`begin` is the model that decides where none is kept, or none of its kind."""
        self._store, self._begin = store, begin
        self.standing: Standing | None = None
        """As last written."""
        self._models: dict[str, Serving] = {}
        self._expected: deque[str] = deque(maxlen=EXPECTED_MAX)
        """Keys of the last models that a standing may name soon."""
        self._there: set[str] = set()

    def restored(self) -> tuple[Serving, Standing]:
        """The model that decides and the standing, as they were kept or as a device begins.

        The active model is read back first; if its bytes are damaged, the one before decides.
        """
        kept = self._store.fact(FACT_STANDING)
        if kept is not None:
            standing = self._sound(msgspec.msgpack.decode(kept, type=Standing))
            if standing is not None:
                self.standing = standing
                return self._models[standing.active.key], standing
        return self.begin_anew(self._begin)

    def begin_anew(self, serving: Serving) -> tuple[Serving, Standing]:
        """Nothing was tried yet, and this model decides."""
        version = self.named(
            serving,
            Version(
                bundle="",
                name=serving.name,
                source=serving.source,
                why=serving.why,
                release=serving.release,
                since_seconds=clock.now(),
            ),
        )
        self._models = {version.key: serving}
        return serving, Standing(active=version)

    def _sound(self, standing: Standing) -> Standing | None:
        """The standing with every model that can be read; None when it is of no use any more."""
        for version in (standing.active, standing.previous):
            if version is None:
                continue
            try:
                serving = self._loaded(version)
            except HedgerowError as error:
                log.error("%s cannot be used: %s", version.name, error)
                continue
            if schema_of(serving.bundle.manifest) != schema_of(self._begin.bundle.manifest):
                return None  # another application is configured now
            if version is not standing.active:
                standing = msgspec.structs.replace(
                    standing, active=version, previous=None, attempt=None
                )
            return self._trimmed(standing)
        return None

    def _trimmed(self, standing: Standing) -> Standing:
        """Without models whose bytes are gone: a trial that lost one of its two is over."""
        attempt = standing.attempt
        for name, version in (
            ("previous", standing.previous),
            ("waiting", standing.waiting),
            ("attempt", None if attempt is None else attempt.candidate),
        ):
            if version is None:
                continue
            try:
                self._loaded(version)
            except HedgerowError as error:
                log.error("%s cannot be used: %s", version.name, error)
                standing = msgspec.structs.replace(standing, **{name: None})
        return standing

    def _loaded(self, version: Version) -> Serving:
        if version.key not in self._models:
            known = {one.partition("/")[0]: kept.bundle for one, kept in self._models.items()}
            self._models[version.key] = loaded(self._store, version, known)
            self._there |= {version.bundle, version.weights} - {""}
        return self._models[version.key]

    def loaded(self, version: Version) -> Serving:
        """A version that the standing names. Raises HedgerowError when its bytes are gone."""
        model = self._loaded(version)
        return Serving(
            model.bundle, model.weights, version.name, version.source, version.why, version.release
        )

    def named(self, model: Serving, version: Version) -> Version:
        """The version with the hashes of what it is made of."""
        bundle, weights, _ = blobs_of(model.bundle, model.weights)
        return msgspec.structs.replace(version, bundle=bundle, weights=weights)

    def expect(self, model: Serving, version: Version) -> Version:
        """As `named`; the model is written with the first standing that names it.

        Raises:
            Unsound: `no_room` for it beside the models there are.
        """
        bundle, weights, blobs = blobs_of(model.bundle, model.weights)
        version = msgspec.structs.replace(version, bundle=bundle, weights=weights)
        kept: dict[str, int] = {}
        named = set() if self.standing is None else _keys(self.standing)
        for one in (self._models[key] for key in named & self._models.keys()):
            kept |= {name: len(data) for name, data in blobs_of(one.bundle, one.weights)[2].items()}
        kept |= {name: len(data) for name, data in blobs.items()}
        cap = int(ROOM * self._store.limits.blobs_bytes_max)
        if sum(kept.values()) > cap:
            raise Unsound(
                "no_room",
                f"with it models take {sum(kept.values())} bytes, and they may take {cap}; raise "
                "store.blobs_bytes_max",
            )
        self._models[version.key] = model
        self._expected.append(version.key)
        return version

    def keep(self, standing: Standing) -> None:
        """Write the standing and the blobs that it names, all or nothing. Raises StoreFull."""
        wanted = standing.blobs
        lacking = wanted - self._there
        old = frozenset[str]() if self.standing is None else self.standing.blobs
        with self._store.transaction():
            if lacking:
                # The active model last: what was put last is the last to make room for another.
                for key in sorted(self._models, key=lambda key: key == standing.active.key):
                    model = self._models[key]
                    for digest, data in blobs_of(model.bundle, model.weights)[2].items():
                        if digest in lacking or (digest in wanted and standing.attempt):
                            self._store.put_blob(data)
            for digest in old - wanted - self._others():
                self._store.forget_blob(digest)
            self._store.set_fact(FACT_STANDING, msgspec.msgpack.encode(standing))
        self.standing, self._there = standing, set(wanted)
        used = _keys(standing) | {*self._expected}
        self._models = {key: model for key, model in self._models.items() if key in used}

    def _others(self) -> set[str]:
        """Blobs that somebody else put there."""
        bundle, model = self._store.fact(FACT_BUNDLE), self._store.fact(FACT_MODEL)
        found = set() if bundle is None else {bundle.decode()}
        return found if model is None else found | {decode_model(model).hash}


def view(standing: Standing) -> list[owner.Trial]:
    """Every trial that is known, newest first."""
    shown = [_shown(ended) for ended in reversed(standing.past)]
    attempt = standing.attempt
    if attempt is None:
        return shown
    version, seen = attempt.candidate, attempt.evidence
    now = owner.Trial(
        model=version.name,
        source=version.source,
        stage=_STAGES[attempt.phase],
        time_seconds=version.since_seconds,
        why=version.why,
        windows=seen.windows,
        measures=_measures(seen.judged, seen.loss, seen.changed),
    )
    return [now, *shown]


def _shown(ended: Ended) -> owner.Trial:
    return owner.Trial(
        model=ended.version.name,
        source=ended.version.source,
        stage=_STAGES[ended.stage],
        time_seconds=ended.version.since_seconds,
        why=ended.why,
        windows=ended.windows,
        measures=_measures(ended.judged, ended.loss, ended.changed),
    )


def _measures(judged: int, loss: float, changed: float) -> dict[str, float]:
    measures = {"changed": changed}
    return measures | {"labelled": float(judged), "worse": loss} if judged else measures


def _keys(standing: Standing) -> set[str]:
    attempt = standing.attempt
    versions = (
        standing.active,
        standing.previous,
        standing.waiting,
        None if attempt is None else attempt.candidate,
    )
    return {one.key for one in versions if one is not None}
