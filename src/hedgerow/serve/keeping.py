"""What a coordinator keeps, and how the sums of a round become a model: its machine's memory.

The database holds who is enrolled, which round is open since which place in the update stream, the
models as devices hold them, and the server's own state: the model before anything was lost on its
way down, and whatever the algorithm keeps.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

from hedgerow.algorithms.base import Server
from hedgerow.algorithms.selection import Memory, Uniform
from hedgerow.algorithms.terms import pack_model
from hedgerow.core.errors import HedgerowError, UsageError
from hedgerow.core.layout import Vector
from hedgerow.io import clock
from hedgerow.io.coordinator_store import (
    ROUNDS_KEPT,
    CoordinatorStore,
    DeviceRow,
    ModelRow,
    RoundRow,
)
from hedgerow.model.bundle import Bundle
from hedgerow.protocol import coordinator as machine
from hedgerow.protocol import effects as do
from hedgerow.protocol import fleet
from hedgerow.protocol.learning import Sums, fitted, named, next_server, seed_of
from hedgerow.protocol.patching import make_patch
from hedgerow.seal.codec import Codec
from hedgerow.serve.settings import CoordinatorSettings
from hedgerow.wire.messages import BlobRef, ModelRef, base_of
from hedgerow.wire.vectors import pack, unpack
from hedgerow.wire.weights import from_bytes, model_ref, to_bytes

FACT_BUNDLE = "bundle"
FACT_OPEN_ROUND = "open_round"
FACT_SERVER = "server"
FACT_TERMS = "terms"
FACT_MEMORY = "selection"
FACT_WAY = "patches"
FACT_ROUNDS_DONE = "rounds_done"
DURABLE = (do.Admit, do.SaveRound, do.AbandonRound, do.Aggregate)


class SavedRound(msgspec.Struct, frozen=True):
    """The open round as it is kept, and where in the update stream it began."""

    round: do.SaveRound
    first_sequence: int


class Terms(msgspec.Struct, frozen=True):
    """What updates must agree on, and the first round that asked for it."""

    digest: str
    algorithm: str
    since_round: int


class SavedWay(msgspec.Struct, frozen=True):
    """The patches that lead to a model."""

    codec: Codec
    seed: int
    model: str
    blobs: tuple[BlobRef, ...]


@dataclass(frozen=True)
class Made:
    """A model that came of a round: its reference and blob, and the patch that leads to it."""

    round: int
    model: ModelRef
    blob: bytes
    patch: bytes | None
    patch_ref: BlobRef | None
    out_of_use: tuple[str, ...]
    """Blobs that nobody is sent to any more."""


class Keeper:
    """One fleet's database, sums and server state."""

    def __init__(
        self, settings: CoordinatorSettings, bundle: Bundle, store: CoordinatorStore
    ) -> None:
        self.settings, self.store = settings, store
        self.sums = Sums()
        self.first_sequence: int | None = None
        """Where the journal of the open round begins, if one was open."""
        self._layout = bundle.manifest.layout
        self._seed = seed_of(settings.rounds.seed, "patches")
        self._check_bundle(bundle)
        self.state = self._restored(bundle)

    @property
    def blob(self) -> bytes:
        """The current model as devices fetch it."""
        return to_bytes(self._held)

    # Begin ----------------------------------------------------------------------------------------

    def _check_bundle(self, bundle: Bundle) -> None:
        kept = self.store.fact(FACT_BUNDLE)
        if kept is None:
            self.store.set_fact(FACT_BUNDLE, bundle.hash.encode())
        elif kept != bundle.hash.encode():
            raise UsageError(
                "this fleet runs another bundle; give it that one, or a new state directory"
            )

    def _restored(self, bundle: Bundle) -> fleet.CoordinatorState:
        """The machine's state as it was kept, or as a new fleet begins."""
        store, settings, manifest = self.store, self.settings, bundle.manifest
        size = self._layout.shared_size
        last = store.last_model()
        held = None if last is None else from_bytes(store.model_weights(last.version) or b"")
        if held is not None and (len(held) % size or not len(held)):
            raise HedgerowError(
                f"the fleet's model has {len(held)} numbers, which the bundle's {size} parameters "
                "do not divide; give a new model a new fleet, or another state directory"
            )
        weights = bundle.weights[:size].copy() if held is None else held[:size]
        row = store.last_round()
        settled = store.settled()
        last_round = 0 if row is None else row.number
        terms = self._terms(last_round)
        old = unpack(store.fact(FACT_SERVER) or b"", terms.algorithm)
        self._server: Server = fitted(settings.algorithm, old.get("model/weights", weights), old)
        model = self._current(last, held, known=bool(old))
        memory = store.fact(FACT_MEMORY)
        state = fleet.CoordinatorState(
            rules=settings.rounds,
            algorithm=settings.algorithm,
            plan=settings.plan if settings.plan is not None else manifest.plan,
            layout=self._layout,
            model=model,
            members={
                device.id: fleet.Member(device.name, settled=settled.get(device.id, 0))
                for device in store.devices()
                if not device.revoked
            },
            codecs=settings.codec.up,
            policy=settings.selection,
            memory=Memory() if memory is None else msgspec.msgpack.decode(memory, type=Memory),
            way=self._way_to(model),
            last_round=last_round,
            since_round=terms.since_round,
            parts=bundle.parts[1:],
            rounds_done=int(store.fact(FACT_ROUNDS_DONE) or b"0"),
        )
        for kept in reversed(store.models(state.versions_kept)):
            base = base_of(ModelRef(version=kept.version, hash=kept.sha256, bytes=0))
            state.recent.pop(base, None)
            state.recent[base] = kept.version
        self._reopen(state, terms)
        return state

    def _terms(self, last_round: int) -> Terms:
        """What updates must agree on; new ones begin with the next round."""
        settings = self.settings
        text = msgspec.json.encode((settings.algorithm, settings.codec.up, settings.rounds.seed))
        digest = hashlib.sha256(text).hexdigest()
        kept = self.store.fact(FACT_TERMS)
        if kept is not None:
            terms = msgspec.msgpack.decode(kept, type=Terms)
            if terms.digest == digest:
                return terms
        tag = str(settings.algorithm.__struct_config__.tag)
        terms = Terms(digest, tag, last_round + 1)
        self.store.set_fact(FACT_TERMS, msgspec.msgpack.encode(terms))
        return terms

    def _current(self, last: ModelRow | None, held: Vector | None, *, known: bool) -> ModelRef:
        """The last model; a new version where the algorithm has another idea of what it holds.

        `known`: the server's state is of this algorithm. Another one's vectors may be as many.
        """
        wanted = pack_model(self._server)
        known = known or not self.settings.algorithm.brings
        if (
            last is not None
            and held is not None
            and held.shape == wanted.shape
            and (known or np.array_equal(held, wanted))
        ):
            self._held = held
            return ModelRef(version=last.version, hash=last.sha256, bytes=4 * len(held))
        self._held = wanted
        model = model_ref(0 if last is None else last.version + 1, wanted)
        row = ModelRow(model.version, model.hash, 0 if last is None else last.round, clock.now())
        self.store.add_model(row, to_bytes(wanted))
        return model

    def _way_to(self, model: ModelRef) -> fleet.Way | None:
        """The patches that were kept, if they are of this codec and lead to this model."""
        down, kept = self.settings.codec.down, self.store.fact(FACT_WAY)
        if down is None:
            return None
        way = fleet.Way(down, self._seed, kept=self.settings.codec.patches_kept)
        if kept is not None:
            saved = msgspec.msgpack.decode(kept, type=SavedWay)
            if (saved.codec, saved.seed, saved.model) == (down, self._seed, model.hash):
                return replace(way, blobs=saved.blobs)
        return way

    def _reopen(self, state: fleet.CoordinatorState, terms: Terms) -> None:
        kept = self.store.fact(FACT_OPEN_ROUND)
        if kept is None:
            return
        saved = msgspec.msgpack.decode(kept, type=SavedRound)
        if saved.round.number < terms.since_round:  # it asked for something else
            with self.store.transaction():
                self.keep(state, do.AbandonRound(saved.round.number, "other settings"), 0)
            return
        self.first_sequence = saved.first_sequence
        machine.restore_round(state, saved.round, clock.monotonic())

    # Effects --------------------------------------------------------------------------------------

    def carry_out(
        self, state: fleet.CoordinatorState, effects: list[do.Effect], consumed: int
    ) -> list[Made]:
        """The durable half of effects in their order, in one transaction; the models they made.

        `consumed` is the place in the update stream that the machine has read up to.
        """
        if not any(isinstance(effect, DURABLE) for effect in effects):
            for effect in effects:
                self._count(effect)
            return []
        made = []
        before = self._server, self._held, self.sums
        try:
            with self.store.transaction():
                for effect in effects:
                    self._count(effect)
                    if isinstance(effect, do.Aggregate):
                        made.append(self._aggregate(state, effect))
                    elif isinstance(effect, DURABLE):
                        self.keep(state, effect, consumed)
        except BaseException:
            self._server, self._held, self.sums = before
            raise
        return made

    def _count(self, effect: do.Effect) -> None:
        match effect:
            case do.CountIn(term=term, weight=weight, group=group):
                self.sums.add(term, weight, group)

    def keep(self, state: fleet.CoordinatorState, effect: do.Effect, consumed: int) -> None:
        """One durable effect, bar `Aggregate`."""
        match effect:
            case do.Admit(device, name):
                self.store.add_device(DeviceRow(device, name, clock.now(), False))
            case do.SaveRound(number, _, cohort):
                first, digest = consumed + 1, hashlib.sha256(self.blob).hexdigest()
                saved = msgspec.msgpack.encode(SavedRound(effect, first))
                self.store.set_fact(FACT_OPEN_ROUND, saved)
                self.store.put_round(RoundRow(number, "open", cohort, digest, first, clock.now()))
                self.sums = Sums()
            case do.AbandonRound(number, reason):
                self.store.set_fact(FACT_OPEN_ROUND, None)
                self._close_row(number, "abandoned", reason, {})
                self.store.forget_rounds(number + 1 - ROUNDS_KEPT)
                self._remember(state)
                self.sums = Sums()

    def _aggregate(self, state: fleet.CoordinatorState, effect: do.Aggregate) -> Made:
        """Mean, server half and model, kept in the transaction that is open."""
        number, sums = effect.round, self.sums
        last = self.store.last_model()
        assert last is not None
        version = last.version + 1
        self._server = next_server(state.shape, self._server, sums, len(state.members))
        wanted, patch, down = pack_model(self._server), None, self.settings.codec.down
        if down is None:
            self._held = wanted
        else:
            patch, self._held = make_patch(
                down, self._seed, version, self._held, wanted, self._layout
            )
        model = model_ref(version, self._held)
        self.store.add_model(ModelRow(version, model.hash, number, clock.now()), self.blob)
        self.store.forget_weights(version - 1)
        self.store.forget_rounds(number + 1 - ROUNDS_KEPT)
        tag = str(self.settings.algorithm.__struct_config__.tag)
        self.store.set_fact(FACT_SERVER, pack(named(self._server), tag))
        self.store.set_fact(FACT_ROUNDS_DONE, str(state.rounds_done + 1).encode())
        self.store.set_fact(FACT_OPEN_ROUND, None)
        self.store.set_settled(dict(effect.settled))
        self._remember(state)
        self._close_row(number, "closed", sums.digest(), {"terms": float(sums.terms)})
        patch_ref, out_of_use = self._keep_way(state, model, patch)
        return Made(number, model, self.blob, patch, patch_ref, out_of_use)

    def _keep_way(
        self, state: fleet.CoordinatorState, model: ModelRef, patch: bytes | None
    ) -> tuple[BlobRef | None, tuple[str, ...]]:
        """Keep the patches that lead to this model; the last one, and those that fell out."""
        if patch is None or state.way is None:
            return None, ()
        ref = BlobRef(sha256=hashlib.sha256(patch).digest(), bytes=len(patch))
        way = state.way.after(ref)
        saved = SavedWay(way.codec, way.seeds, model.hash, way.blobs)
        self.store.set_fact(FACT_WAY, msgspec.msgpack.encode(saved))
        used = {blob.hash for blob in way.blobs}
        gone = {blob.hash for blob in state.way.blobs} - used
        return ref, tuple(sorted(gone))

    def _remember(self, state: fleet.CoordinatorState) -> None:
        if state.policy != Uniform():
            self.store.set_fact(FACT_MEMORY, msgspec.msgpack.encode(state.memory))

    def _close_row(self, number: int, state: str, outcome: str, metrics: dict[str, float]) -> None:
        row = self.store.round(number)
        if row is not None:
            changes: dict[str, Any] = {"state": state, "closed_at": clock.now()}
            self.store.put_round(replace(row, **changes, outcome=outcome, metrics=metrics))

    def journal_needed_from(self, consumed: int) -> int:
        """The first place in the update stream that may have to be read again."""
        saved = self.store.fact(FACT_OPEN_ROUND)
        if saved is None:
            return consumed + 1
        return min(consumed + 1, msgspec.msgpack.decode(saved, type=SavedRound).first_sequence)
