"""The coordinator's shell of a rollout: signs releases, keeps how far they are, tells devices.

A bundle to be released is laid into `<state>/releases`, and what comes of it stands in
`status.json` there; `hedgerow release` does both. Nothing else can release a model: whoever may
write that directory may also read the key.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from hedgerow.core.errors import HedgerowError, PeerError, UsageError
from hedgerow.io import clock
from hedgerow.io.coordinator_store import CoordinatorStore
from hedgerow.io.keys import Identity, verify
from hedgerow.io.release_store import ReleaseRow, ReleaseStore, TrialRow
from hedgerow.model.bundle import Bundle
from hedgerow.protocol import rollout as machine
from hedgerow.protocol import rollout_state as do
from hedgerow.protocol.rollout_state import Rollout, RolloutRules, RolloutState
from hedgerow.serve.effects import Tasks
from hedgerow.serve.inbox import RELEASES, SUFFIX, private
from hedgerow.wire import releases
from hedgerow.wire.messages import FromCoordinator, Release, Trial
from hedgerow.wire.releases import Signed, Statement

log = logging.getLogger(__name__)

STATUS: Final = "status.json"
RECALL: Final = "recall"
SIGNED_SUFFIX: Final = ".signed"
POLL_SECONDS: Final = 1.0
STATUS_SECONDS: Final = 1.0

Send = Callable[[str, FromCoordinator], Awaitable[None]]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How far a release is, for people and for `hedgerow release status --json`."""

    number: int = 0
    name: str = ""
    version: str = ""
    bundle: str = ""
    course: str = "none"
    stage: str = ""
    why: str = ""
    devices: int = 0
    """Members of the fleet."""
    phases: dict[str, int] = {}
    """Devices it was given to, by how far their trial is."""
    failures: dict[str, str] = {}
    """Why, by device; at most a hundred."""
    refused: str = ""
    """Why the last bundle that was laid down was not released."""


class Releases:
    """One fleet's releases. `start`, then `run` in a task; use it from one event loop."""

    def __init__(
        self,
        rules: RolloutRules,
        directory: Path,
        bundle: Bundle,
        identity: Identity,
        store: CoordinatorStore,
        send: Send,
        put_blob: Callable[[bytes], Awaitable[None]],
        tasks: Tasks,
    ) -> None:
        """`bundle` is the fleet's: a release must have its schema. `directory` is the inbox."""
        self._directory, self._identity = directory, identity
        self._schema = releases.schema_of(bundle.manifest)
        self._store, self._releases = store, ReleaseStore(store)
        self._send, self._put_blob, self._tasks = send, put_blob, tasks
        self._refused = ""
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._statement: Statement | None = None
        self.state = RolloutState(rules)
        self._restore()

    def _restore(self) -> None:
        row = self._releases.last()
        if row is None:
            return
        rollout = msgspec.msgpack.decode(row.rollout, type=Rollout)
        phases = {one.device: _trial(one) for one in self._releases.trials(row.number)}
        machine.restore(self.state, rollout, phases, clock.monotonic())
        self.state.release = Release(statement=row.statement, signature=row.signature)
        self._statement = msgspec.msgpack.decode(row.statement, type=Statement)

    async def start(self, devices: tuple[str, ...]) -> None:
        """Devices can fetch the release; go on with it."""
        row = self._releases.last()
        bundle = None if row is None else self._releases.bundle(row.number)
        if bundle is not None:
            await self._put_blob(bundle)
        self.handle(do.Started(devices))
        self._tasks.spawn(self._watch())
        self._tasks.spawn(self._tell_status())

    def close(self) -> None:
        """Set no more timers."""
        if self._timer is not None:
            self._timer.cancel()

    # Events ---------------------------------------------------------------------------------------

    async def publish(self, bundle: Bundle, signed: Signed | None = None) -> int:
        """Release this bundle to the fleet, canaries first; the number of the release.

        `signed` is a statement that was made elsewhere with the same key.

        Raises:
            UsageError: the bundle does not fit the fleet, or the statement does not fit either.
        """
        last = self._releases.last()
        number = 1 if last is None else last.number + 1
        if releases.schema_of(bundle.manifest) != self._schema:
            raise UsageError(
                f"{bundle.manifest.name} {bundle.manifest.version} takes, answers or holds "
                "something else than the fleet's bundle; a new application needs a new fleet"
            )
        if signed is None:
            digest = (
                ""
                if last is None
                else Signed(statement=last.statement, signature=last.signature).digest
            )
            now = clock.now()
            statement = releases.statement_of(bundle, number, previous=digest, created_seconds=now)
            signed = releases.sign(statement, self._identity.public, self._identity.sign)
        else:
            statement = self._opened(signed, bundle)
            if statement.number < number:
                raise UsageError(
                    f"the statement has number {statement.number}, and {number} is the next"
                )
        archive = bundle.to_bytes()
        await self._put_blob(archive)
        self._begin(statement, signed, archive)
        return statement.number

    def _opened(self, signed: Signed, bundle: Bundle) -> Statement:
        try:
            statement = releases.opened(signed, self._identity.public, verify)
            releases.check(statement, bundle)
        except PeerError as error:
            raise UsageError(
                f"the signed statement is of no use: {error.detail}; sign this bundle with this "
                "fleet's key (hedgerow release sign)"
            ) from error
        return statement

    def _begin(self, statement: Statement, signed: Signed, archive: bytes) -> None:
        with self._store.transaction():
            self._releases.add(
                ReleaseRow(
                    number=statement.number,
                    statement=signed.statement,
                    signature=signed.signature,
                    rollout=msgspec.msgpack.encode(Rollout(number=statement.number)),
                    created_at=clock.now(),
                ),
                archive,
            )
            self._statement = statement
            message = Release(statement=signed.statement, signature=signed.signature)
            self.handle(do.Begun(statement.number, message))

    def seen(self, device: str) -> None:
        """A member of the fleet checked in."""
        self.handle(do.Seen(device))

    def heard(self, device: str, trial: Trial) -> None:
        """A member told of its trial."""
        self.handle(do.Heard(device, trial))

    def recall(self, why: str) -> None:
        """Take the release back, wherever it is."""
        self.handle(do.Stopped(why))

    def handle(self, event: do.Event) -> None:
        """One event through the machine, and its effects: first what is kept, in one step."""
        with self._tasks.guarding():
            self.state, effects = machine.step(self.state, event, clock.monotonic())
            self._keep(effects)
            for effect in effects:
                self._act(effect)
            if any(not isinstance(effect, do.Send) for effect in effects):
                self._changed.set()

    def _keep(self, effects: list[do.Effect]) -> None:
        rollouts = [effect.rollout for effect in effects if isinstance(effect, do.SaveRollout)]
        trials = [effect for effect in effects if isinstance(effect, do.SaveTrial)]
        if not rollouts and not trials:
            return
        with self._store.transaction():
            for rollout in rollouts:
                self._releases.set_rollout(rollout.number, msgspec.msgpack.encode(rollout))
            rows = {one.device: _row(one.device, one.trial) for one in trials}
            self._releases.put_trials(list(rows.values()))

    def _act(self, effect: do.Effect) -> None:
        match effect:
            case do.Send(device, message):
                self._tasks.spawn(self._sent(device, message))
            case do.Wake(at_seconds):
                self.close()
                if at_seconds is not None:
                    delay = max(0.0, at_seconds - clock.monotonic())
                    loop = asyncio.get_running_loop()
                    self._timer = loop.call_later(delay, self.handle, do.Soaked())
            case do.Tell(what, number, why):
                log.warning("release %d: %s %s", number, what, why)

    async def _sent(self, device: str, message: FromCoordinator) -> None:
        await self._send(device, message)

    # The operator ---------------------------------------------------------------------------------

    def status(self) -> Status:
        """How far it is."""
        rollout, statement = self.state.current, self._statement
        if rollout is None or statement is None:
            return Status(devices=len(self.state.members), refused=self._refused)
        phases = {phase: count for phase, count in sorted(self.state.counts.items()) if count}
        failures = {
            device: f"{trial.reason}: {trial.why}"
            for device, trial in sorted(self.state.phases.items())
            if trial.phase in machine.FAILED
        }
        return Status(
            number=rollout.number,
            name=statement.name,
            version=statement.version,
            bundle=statement.bundle,
            course=rollout.course,
            stage=rollout.stage,
            why=rollout.why,
            devices=len(self.state.members),
            phases=phases,
            failures=dict(list(failures.items())[:100]),
            refused=self._refused,
        )

    async def _tell_status(self) -> None:
        """Write `status.json` when something changed, at most once a second."""
        while True:
            data = msgspec.json.format(msgspec.json.encode(self.status()), indent=1)
            draft = self._directory / f".{STATUS}"
            draft.write_bytes(data + b"\n")
            draft.replace(self._directory / STATUS)
            await asyncio.sleep(STATUS_SECONDS)
            await self._changed.wait()
            self._changed.clear()

    async def _watch(self) -> None:
        """Look into the inbox again and again."""
        while True:
            for path in sorted(self._directory.glob(f"*{SUFFIX}"))[:1]:
                await self._take(path)
            note = self._directory / RECALL
            if note.exists():
                text = note.read_text(errors="replace")[:200].strip()
                self.recall(text or "the operator took it back")
                note.unlink()  # only now is it kept: a loss of power must not lose a recall
            await asyncio.sleep(POLL_SECONDS)

    async def _take(self, path: Path) -> None:
        """A bundle that was laid down, with its statement beside it if there is one."""
        beside = path.with_suffix(SIGNED_SUFFIX)
        try:
            bundle = await asyncio.to_thread(Bundle.load, path)
            signed = load_signed(beside) if beside.exists() else None
            await self.publish(bundle, signed)
            self._refused = ""
        except HedgerowError as error:
            self._refused = str(error)
            log.error("%s is not released: %s", path.name, error)
        self._changed.set()
        for one in (path, beside):
            with contextlib.suppress(FileNotFoundError):
                one.unlink()


def inbox(state: Path) -> Path:
    """Where releases of the coordinator with that state directory are laid down; made private.

    Raises:
        UsageError: others may write it.
    """
    return private(state / RELEASES)


def load_signed(path: Path) -> Signed:
    """A statement with its signature, from a file. Raises UsageError when it is none."""
    try:
        return msgspec.json.decode(path.read_bytes()[:65_536], type=Signed)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no signed statement: {error}") from error


def _row(device: str, trial: Trial) -> TrialRow:
    return TrialRow(
        number=trial.release,
        device=device,
        phase=trial.phase,
        reason=trial.reason,
        why=trial.why,
        windows=trial.windows,
        worse=trial.worse,
        changed=trial.changed,
    )


def _trial(row: TrialRow) -> Trial:
    return Trial(
        release=row.number,
        phase=row.phase,
        reason=row.reason,
        why=row.why,
        windows=row.windows,
        worse=row.worse,
        changed=row.changed,
    )
